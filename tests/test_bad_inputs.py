"""What the original tool accepted in silence or answered with a raw internal error: each line of its list of bad inputs.

A wrong input raises an error of ours that names the argument, its value and what is accepted; a legitimate one gives the
rightly flagged result. Nothing returns nan, a negative time, or a number for another question.
"""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

import pint
import pytest

import mlsysim
from mlsysim.core.constants import Q_
from mlsysim.core.errors import (
    InconsistentError,
    InfeasibleError,
    InputError,
    UnitError,
    UnknownArgumentError,
    UnknownNameError,
)
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import ComputeCore, HardwareNode, MemoryHierarchy
from mlsysim.models.registry import Models
from mlsysim.models.types import CNNWorkload, RecommendationWorkload, TransformerWorkload
from mlsysim.solvers.analysis.efficiency import EfficiencyModel
from mlsysim.solvers.analysis.sensitivity import SensitivitySolver
from mlsysim.solvers.analysis.synthesis import SynthesisSolver
from mlsysim.solvers.operations.checkpoint import CheckpointModel
from mlsysim.solvers.operations.data import DataModel, TransformationModel
from mlsysim.solvers.operations.economics import EconomicsModel
from mlsysim.solvers.operations.orchestration import OrchestrationModel
from mlsysim.solvers.operations.placement import PlacementOptimizer
from mlsysim.solvers.operations.privacy import ResponsibleEngineeringModel
from mlsysim.solvers.operations.reliability import ReliabilityModel
from mlsysim.solvers.operations.scaling import ScalingModel
from mlsysim.solvers.operations.sustainability import SustainabilityModel
from mlsysim.solvers.operations.topology import TopologyModel
from mlsysim.solvers.serving.batching import BatchingOptimizer
from mlsysim.solvers.serving.compression import CompressionModel
from mlsysim.solvers.serving.continuous_batching import ContinuousBatchingModel
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.serving.tail_latency import TailLatencyModel
from mlsysim.solvers.serving.weight_streaming import WeightStreamingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import ParallelismOptimizer
from mlsysim.solvers.training.single_node import SingleNodeModel
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, NetworkFabric, Node

# The list has this many lines: those below, under the solver that they wait for, and the cases of this module.
LINES = 121
LATER: dict[str, tuple[str, ...]] = {}

H100, RESNET, LLAMA = Hardware.Cloud.H100, Models.Vision.ResNet50, Models.Language.Llama2_70B
NAN, INF = float("nan"), float("inf")


def single(**given):
    return SingleNodeModel().solve(RESNET, H100, **{"batch_size": 1, **given})


def serve(workload=LLAMA, hardware=H100, **given):
    return ServingModel().solve(workload, hardware, **{"seq_len": 2048, **given})


def fleet(count=32, intra="900 GB/s", inter="50 GB/s", per_node=8, **fabric):
    node = Node(name="HGX", accelerator=H100, accelerators_per_node=per_node, intra_node_bw=intra)
    return Fleet(name="fleet", node=node, count=count, fabric=NetworkFabric(name="IB", bandwidth=inter, **fabric))


def fails(on=None, **given):
    return ReliabilityModel().solve(on or fleet(), **{"duration": "30 day", "checkpoint_time": "60 s", **given})


def saves(**given):
    return CheckpointModel().solve(LLAMA, fleet(), **{"storage_bandwidth": "10 GB/s", **given})


def train(workload=LLAMA, on=None, **given):
    return DistributedModel().solve(workload, on or fleet(), **{"batch_size": 1024, "seq_len": 2048, **given})


def search(workload=LLAMA, on=None, **given):
    return ParallelismOptimizer().solve(workload, on or fleet(), **{"batch_size": 1024, "seq_len": 2048, **given})


def queue(**given):
    return TailLatencyModel().solve(**{"arrival_rate": "10 request/s", "service_time": "50 ms", **given})


def serve_arrivals(**given):
    asked = {"arrival_rate": "1 request/s", "seq_len": 2048, "output_len": 128, **given}
    return TailLatencyModel().solve(Models.Language.Llama3_8B, H100, **asked)


def scale(budget):
    return ScalingModel().solve(compute_budget=budget)


def compress(**given):
    asked = {"input_len": 512, "weight_precision": "int4", **given}
    return CompressionModel().solve(Models.Language.Llama3_8B, H100, **asked)


def synthesise(**given):
    asked = {"lever": "memory bandwidth", "input_len": 512, **given}
    return SynthesisSolver().solve("ServingModel", Models.Language.Llama3_8B, H100, **asked)


def core(peak):
    return ComputeCore(peak_flops=peak)


def memory(**given):
    return MemoryHierarchy(**{"capacity": "80 GB", "bandwidth": "3 TB/s", **given})


def device(**given):
    return HardwareNode(name="chip", release_year=2024, compute=core("1 PFLOP/s"), memory=memory(), **given)


def transformer(**given):
    usual = {"name": "Llama", "parameters": "70e9 count", "layers": 80, "hidden_dim": 8192, "heads": 64}
    return TransformerWorkload(**{**usual, **given})


def gpt4():
    return transformer(name="GPT-4", parameters="1.76e12 count", layers=120, hidden_dim=12288, heads=96)


# line: the argument that the error names, how its message begins (a pattern), the call.
REFUSED = {
    "Reliability job 0 h": ("duration", "duration = '0 hour': .*> 0", lambda: fails(duration="0 hour")),
    "Reliability checkpoint_time=-60": (
        "checkpoint_time",
        "checkpoint_time = '-60 s': .*> 0",
        lambda: fails(checkpoint_time="-60 s"),
    ),
    "Checkpoint H100 has no 'fast' storage; A100 none": (
        "storage_bandwidth",
        "storage_bandwidth = None: .*H100.* does not say it",
        lambda: saves(storage_bandwidth=None),
    ),
    "Checkpoint interval=0": (
        "checkpoint_interval",
        "checkpoint_interval = '0 s': .*> 0",
        lambda: saves(checkpoint_interval="0 s"),
    ),
    "Placement regions=['Mars']": (
        "Grids",
        "Infra.Grids.* 'Mars'",
        lambda: PlacementOptimizer().solve(fleet(), duration_hours=24, sites=["Mars"]),
    ),
    "TailLatency service 0ms": (
        "service_time",
        "service_time = '0 ms': .*> 0 second",
        lambda: queue(service_time="0 ms"),
    ),
    "TailLatency arrival -5": (
        "arrival_rate",
        "arrival_rate = '-5 request/s': .*> 0 count/second",
        lambda: queue(arrival_rate="-5 request/s"),
    ),
    "TailLatency arrival 0": (
        "arrival_rate",
        "arrival_rate = '0 request/s': .*> 0 count/second",
        lambda: queue(arrival_rate="0 request/s"),
    ),
    "TailLatency replicas=0": ("replicas", "replicas = 0: .*>= 1", lambda: serve_arrivals(replicas=0)),
    "batch_size=0 (SingleNode)": ("batch_size", "batch_size = 0: .* >= 1", lambda: single(batch_size=0)),
    "batch_size=-1": ("batch_size", "batch_size = -1: .* >= 1", lambda: single(batch_size=-1)),
    "batch_size=2.5 (non-integer)": ("batch_size", "batch_size = 2.5: .*whole number", lambda: single(batch_size=2.5)),
    "batch_size=NaN": ("batch_size", "batch_size = nan: .*whole number", lambda: single(batch_size=NAN)),
    "batch_size='32' (str)": ("batch_size", "batch_size = '32': .*whole number", lambda: single(batch_size="32")),
    "efficiency=0": ("efficiency", "efficiency = 0: .*> 0 and <= 1", lambda: single(efficiency=0)),
    "efficiency=1.5": ("efficiency", "efficiency = 1.5: .*> 0 and <= 1", lambda: single(efficiency=1.5)),
    "efficiency=NaN (SingleNode)": ("efficiency", "efficiency = nan: .*> 0 and <= 1", lambda: single(efficiency=NAN)),
    "efficiency=45 (percent meant)": ("efficiency", "efficiency = 45: .*0.45 if 45 %", lambda: single(efficiency=45)),
    "precision='fp61' typo (ResNet,H100)": (
        "precision",
        "precision = 'fp61': .*bf16.*did you mean 'fp1?6'",
        lambda: single(precision="fp61"),
    ),
    "precision=None": ("precision", "precision = None: .*one of .*bf16", lambda: single(precision=None)),
    "Serving seq_len=0": ("seq_len", "seq_len = 0: .*>= 1", lambda: serve(seq_len=0)),
    "Serving seq_len=-100": ("seq_len", "seq_len = -100: .*>= 1", lambda: serve(seq_len=-100)),
    "Serving batch_size=-4": ("batch_size", "batch_size = -4: .*>= 1", lambda: serve(batch_size=-4)),
    "Serving batch_size=0": ("batch_size", "batch_size = 0: .*>= 1", lambda: serve(batch_size=0)),
    "Serving efficiency=-0.5": ("efficiency", "efficiency = -0.5: .*> 0", lambda: serve(efficiency=-0.5)),
    "Serving efficiency=0": ("efficiency", "efficiency = 0: .*> 0", lambda: serve(efficiency=0)),
    "Serving efficiency=5 (ITL unchanged?)": ("efficiency", "efficiency = 5: .*0.05 if 5 %", lambda: serve(efficiency=5)),
    "Serving draft_acceptance_rate=3": (
        "draft_acceptance_rate",
        "ServingModel.solve.* no argument 'draft_acceptance_rate'",
        lambda: serve(draft_acceptance_rate=3),
    ),
    "Serving draft_acceptance_rate=-1": (
        "draft_acceptance_rate",
        "ServingModel.solve.* no argument 'draft_acceptance_rate'",
        lambda: serve(draft_acceptance_rate=-1),
    ),
    "Serving a CNN (ResNet)": ("workload", "workload = 'CNNWorkload': .*a transformer", lambda: serve(RESNET)),
    "Serving network_bandwidth in TFLOP/s": (
        "network_bandwidth",
        "ServingModel.solve.* no argument 'network_bandwidth'",
        lambda: serve(network_bandwidth=Q_("1 TFLOP/s")),
    ),
    "ContinuousBatching page_size=0": (
        "page_size",
        "page_size = 0: .*>= 1",
        lambda: ContinuousBatchingModel().solve(LLAMA, H100, seq_len=2048, page_size=0),
    ),
    "BatchingOptimizer qps=0": (
        "request_rate",
        "request_rate = '0 count/s': .*> 0",
        lambda: BatchingOptimizer().solve(Models.Language.Llama3_8B, H100, seq_len=2048, request_rate="0 count/s"),
    ),
    "HW peak_flops in bytes/s": (
        "peak_flops",
        r".*peak_flops = 1\S* petabyte / second: .*flop/second",
        lambda: core(Q_("1 PB/s")),
    ),
    "HW peak_flops in plain watts": ("peak_flops", r".*peak_flops = 700\S* watt: .*flop/second", lambda: core(Q_("700 W"))),
    "HW capacity '80 Gb' (gigabit)": ("capacity", ".*capacity = '80 Gb': .*'GB' for bytes", lambda: memory(capacity="80 Gb")),
    "HW bandwidth negative": ("bandwidth", ".*bandwidth = '-3 TB/s': .*> 0 byte/second", lambda: memory(bandwidth="-3 TB/s")),
    "HW bandwidth zero": ("bandwidth", ".*bandwidth = '0 TB/s': .*> 0 byte/second", lambda: memory(bandwidth="0 TB/s")),
    "HW tdp negative (energy<0?)": ("tdp", ".*tdp = '-700 W': .*> 0 watt", lambda: device(tdp="-700 W")),
    "HW dimensionless peak 1e15": ("peak_flops", ".*peak_flops = 1000000000000000.0: .*flop/second", lambda: core(1e15)),
    "model params in GB": ("parameters", ".*parameters = '140 GB': .*count", lambda: transformer(parameters="140 GB")),
    "model params bare 70 (meant 70B)": ("parameters", ".*parameters = 70: .*count", lambda: transformer(parameters=70)),
    "model params as dollars": (
        "parameters",
        ".*parameters = 70.* USD: .*count",
        lambda: transformer(parameters=Q_("70e9 USD")),
    ),
    "compute budget in dollars": ("compute_budget", "compute_budget = '1e6 USD': .*flop", lambda: scale("1e6 USD")),
    "compute budget negative": ("compute_budget", "compute_budget = '-1e23 flop': .*> 0", lambda: scale("-1e23 flop")),
    "compute budget in seconds (treated as GPU-days)": (
        "compute_budget",
        "compute_budget = '1e6 second': .*flop",
        lambda: scale("1e6 second"),
    ),
    "compute budget plain float": ("compute_budget", r"compute_budget = 5e\+23: .*flop", lambda: scale(5e23)),
    "layers=0": ("layers", ".*layers = 0: .*equal to 1", lambda: transformer(layers=0)),
    "layers=-5": ("layers", ".*layers = -5: .*equal to 1", lambda: transformer(layers=-5)),
    "heads does not divide hidden (100 heads,4096)": (
        "heads",
        "heads = 100: .*divisor of hidden_dim 4096",
        lambda: transformer(parameters="7e9 count", layers=32, hidden_dim=4096, heads=100),
    ),
    "kv_heads > heads": ("kv_heads", "kv_heads = 128: .*the 64 heads", lambda: transformer(kv_heads=128)),
    "typo field kvheads=8 (ignored?)": (
        "kvheads",
        "TransformerWorkload.* no argument 'kvheads'.*did you mean 'kv_heads'",
        lambda: transformer(kvheads=8),
    ),
    "Distributed tp=3 on 256 GPUs (not divisible)": ("tp_size", "tp_size = 3: .*the 64 heads", lambda: train(tp_size=3)),
    "Distributed tp=5,pp=7 on 256": ("tp_size", "tp_size = 5: .*the 64 heads", lambda: train(tp_size=5, pp_size=7)),
    "Distributed tp=512 > 256": ("tp_size", "tp_size = 512: ", lambda: train(gpt4_with_512_heads(), tp_size=512)),
    "Distributed pp=100 > 80 layers (pp=128 of 256)": (
        "pp_size",
        "pp_size = 128: .*the 80 layers",
        lambda: train(pp_size=128),
    ),
    "Distributed tp=128 > 64 heads": ("tp_size", "tp_size = 128: .*the 64 heads", lambda: train(tp_size=128)),
    "Distributed batch 1000 not divisible by dp 256": (
        "batch_size",
        "batch_size = 1000: .*multiple of the 256",
        lambda: train(batch_size=1000),
    ),
    "Distributed batch 1 < dp 256": ("batch_size", "batch_size = 1: .*multiple of the 256", lambda: train(batch_size=1)),
    "Distributed microbatch_count=0": (
        "microbatch_count",
        "microbatch_count = 0: .*>= 1",
        lambda: train(microbatch_count=0),
    ),
    "Distributed microbatch_count=-2": (
        "microbatch_count",
        "microbatch_count = -2: .*>= 1",
        lambda: train(microbatch_count=-2),
    ),
    "Distributed microbatch 1000 > local batch": (
        "microbatch_count",
        "microbatch_count = 1000: .*whole number of tokens",
        lambda: train(microbatch_count=1000),
    ),
    "Distributed congestion_factor=-5": (
        "congestion_factor",
        "congestion_factor = -5: .*>= 1",
        lambda: train(congestion_factor=-5),
    ),
    "Distributed straggler_factor=0.1": (
        "straggler_factor",
        "straggler_factor = 0.1: .*>= 1",
        lambda: train(straggler_factor=0.1),
    ),
    "Distributed zero_stage=99": ("zero_stage", "zero_stage = 99: .*0, 1, 2 or 3", lambda: train(zero_stage=99)),
    "Distributed seq_len=-2048": ("seq_len", "seq_len = -2048: .*>= 1", lambda: train(seq_len=-2048)),
    "Distributed topology_override='banana'": (
        "topology_override",
        "DistributedModel.solve.* no argument 'topology_override'",
        lambda: train(topology_override="banana"),
    ),
    "Distributed ep_size=8 on dense model": ("ep_size", "ep_size = 8: .*has no experts", lambda: train(ep_size=8)),
    "Distributed fabric bandwidth in TFLOP/s": (
        "bandwidth",
        "NetworkFabric.bandwidth = '1 TFLOP/s': .*byte/second",
        lambda: fleet(inter="1 TFLOP/s"),
    ),
    "Distributed oversubscription=0": (
        "oversubscription_ratio",
        ".*oversubscription_ratio = 0: .*equal to 1",
        lambda: fleet(oversubscription_ratio=0),
    ),
    "Fleet count=0": ("count", "Fleet.count = 0: .*equal to 1", lambda: fleet(count=0)),
    "Fleet count=-4": ("count", "Fleet.count = -4: .*equal to 1", lambda: fleet(count=-4)),
    "Fleet count='many'": ("count", "Fleet.count = 'many': .*integer", lambda: fleet(count="many")),
    "Sustainability mfu=42 (percent)": (
        "mfu",
        "SustainabilityModel.solve.* no argument 'mfu'",
        lambda: SustainabilityModel().solve(fleet(), duration_days=1, grid="429 gCO2e/kWh", mfu=42),
    ),
    "Economics duration -30 days": (
        "duration_days",
        "duration_days = -30: .*> 0",
        lambda: EconomicsModel().solve(H100, duration_days=-30, price="2 USD/hour"),
    ),
    "Economics unit_cost missing (TPUv5p -> H100 price)": (
        "capex",
        "capex = None: .*no price of TPU v5p is known, and others' are not taken",
        lambda: EconomicsModel().solve(Hardware.get("tpu_v5p"), duration_days=30, amortization_years=4),
    ),
    "Economics amortization_years=0": (
        "amortization_years",
        "amortization_years = 0: .*> 0",
        lambda: EconomicsModel().solve(H100, duration_days=30, amortization_years=0),
    ),
    "ParallelismOptimizer bad efficiency=2 (swallowed)": (
        "efficiency",
        "efficiency = 2: .*> 0 and <= 1",
        lambda: search(efficiency=2),
    ),
    "Engine kwarg typo 'batchsize'": (
        "batchsize",
        "SingleNodeModel.solve.* no argument 'batchsize'.*did you mean 'batch_size'",
        lambda: SingleNodeModel().solve(RESNET, H100, batchsize=32),
    ),
    "Compression method='quantisation' typo": (
        "method",
        "method = 'quantisation': .*quantization.*did you mean 'quantization'",
        lambda: compress(method="quantisation"),
    ),
    "Compression target_bitwidth=64": (
        "weight_precision",
        "weight_precision = 'fp64': .*narrower than the fp16",
        lambda: compress(weight_precision="fp64"),
    ),
    "Compression sparsity=1.0": (
        "sparsity",
        "sparsity = 1.0: .*below 1",
        lambda: compress(method="pruning", weight_precision=None, sparsity=1.0),
    ),
    "Compression n_m sparsity=0.9": (
        "sparsity",
        "sparsity = 0.9: .*0.5, which pattern 2:4 is",
        lambda: compress(method="n_m", weight_precision=None, pattern="2:4", sparsity=0.9),
    ),
    "Orchestration duration=0": (
        "job_duration",
        "job_duration = '0 hour': .*> 0 second",
        lambda: OrchestrationModel().solve(arrival_rate="1 count/hour", job_duration="0 hour"),
    ),
    "Topology 'hypercube' unknown": (
        "topology",
        "topology = 'hypercube': .*one of torus, ",
        lambda: TopologyModel().solve("hypercube", accelerators=64, link_bandwidth="50 GB/s"),
    ),
    "Topology num_nodes=-8 torus": (
        "accelerators",
        "accelerators = -8: .*>= 2",
        lambda: TopologyModel().solve("torus_3d", accelerators=-8, link_bandwidth="50 GB/s"),
    ),
    "Transformation batch=-10": (
        "batch_size",
        "batch_size = -10: .*>= 1",
        lambda: TransformationModel().solve(batch_size=-10, worker_rate="300 count/s"),
    ),
    "Transformation cpu 0": (
        "worker_rate",
        "worker_rate = '0 count/s': .*> 0",
        lambda: TransformationModel().solve(batch_size=10, worker_rate="0 count/s"),
    ),
    "Data: hardware without storage (A100)": (
        "storage_bandwidth",
        "storage_bandwidth = None: .*no storage of its own",
        lambda: DataModel().solve(sample_rate="900 count/s", record_size="100 kB"),
    ),
    "RespEng epsilon=-3": (
        "epsilon",
        "epsilon = -3: .*> 0",
        lambda: ResponsibleEngineeringModel().solve(examples=60000, batch_size=256, epochs=1, epsilon=-3),
    ),
    "WeightStreaming phase='decodee'": (
        "phase",
        "phase = 'decodee': .*did you mean 'decode'",
        lambda: WeightStreamingModel().solve(LLAMA, H100, phase="decodee", input_len=128),
    ),
    "Efficiency workload_type typo": (
        "work",
        "work = 'trainning': .*did you mean 'training'",
        lambda: EfficiencyModel().solve(Models.Language.Llama3_8B, H100, work="trainning"),
    ),
    "Efficiency efficiency=-1": (
        "efficiency",
        "efficiency = -1: .*what is asked for",
        lambda: EfficiencyModel().solve(Models.Language.Llama3_8B, H100, efficiency=-1),
    ),
    "Synthesis target_latency=0": (
        "limit",
        "limit = '0 ms': .*> 0 second",
        lambda: synthesise(limit="0 ms"),
    ),
    "Synthesis target negative": (
        "limit",
        "limit = '-5 ms': .*> 0 second",
        lambda: synthesise(limit="-5 ms"),
    ),
    "DLRM single node (no parameters)": (
        "parameters",
        "RecommendationWorkload.parameters = None: .*required",
        lambda: RecommendationWorkload(name="DLRM", inference_flops="1 MFLOP"),
    ),
    "Hardware.Cloud.h100 attribute typo": (
        "Cloud",
        r"Hardware\.Cloud has no 'h100'; did you mean 'H100'",
        lambda: Hardware.Cloud.h100,
    ),
}

LEGITIMATE = {}


def legitimate(line):
    """Registers the check of a line whose input is nothing wrong."""

    def keep(check):
        LEGITIMATE[line] = check
        return check

    return keep


def gpt4_with_512_heads():
    return transformer(name="GPT-4", parameters="1.76e12 count", layers=120, hidden_dim=12288, heads=512, head_dim=24)


def numbers(value, path=""):
    """Every number of a result's export with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{path}[{i}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def assert_sound(result):
    """Finite, nothing negative, and the main quantities positive."""
    for path, number in numbers(result.to_dict()):
        assert math.isfinite(number), path
        assert number >= 0, path
    for name in ("itl", "ttft", "latency", "step_latency_total", "throughput", "tokens_per_second", "mfu"):
        if hasattr(result, name):
            assert float(getattr(getattr(result, name), "magnitude", getattr(result, name))) > 0, name
    return result


def assert_infeasible_is_said_first(result, gibibytes):
    """``gibibytes``: how its need is printed, in the reason and in the card before anything else but the title."""
    assert not result.feasible
    assert re.search(rf"\b{gibibytes}\S* GiB\b", result.reason), result.reason
    title, state, *_ = str(result).splitlines()
    assert result.solver in title
    assert state == f"  INFEASIBLE: {result.reason}"
    assert result.binding == "memory capacity"
    with pytest.raises(InfeasibleError, match="GiB"):
        result.require_feasible()


@legitimate("Reliability on 100K GPUs recovery 1e6 s")
def a_job_that_fails_faster_than_it_restarts_is_told_so():
    run = fails(on=fleet(count=12500), restart_time="1e6 s")
    assert not run.feasible
    assert "work that is kept" in run.reason
    assert run.goodput == 0


@legitimate("Checkpoint interval 0.01h -> penalty>1")
def checkpoints_that_overtake_each_other_are_told_so():
    saved = saves(storage_bandwidth="1 GB/s", checkpoint_interval="0.01 hour")
    assert not saved.feasible
    assert "to write" in saved.reason
    assert saved.stall_share < 1


@legitimate("precision='FP8' upper case (Serving)")
def upper_case():
    small = Models.Language.Llama3_8B
    shouted, said = serve(small, precision="FP8"), serve(small, precision="fp8")
    assert_sound(shouted)
    assert shouted == said
    assert shouted.weights.m_as("GB") == pytest.approx(small.parameter_count / 1e9)


@legitimate("precision='fp4' on NVL72 (has fp4 peak)")
def fp4_where_it_is_listed():
    rack = Systems.Nodes.GB200_NVL72
    four, sixteen = (assert_sound(serve(hardware=rack, tp_size=8, precision=name)) for name in ("fp4", "fp16"))
    assert four.feasible
    assert four.weights.m_as("GB") == pytest.approx(LLAMA.parameter_count / 2e9)
    assert four.ttft < sixteen.ttft


@legitimate("precision='int4' on H100 serving (no int4 peak)")
def int4_weights_are_unpacked():
    four, sixteen = (assert_sound(serve(precision=name)) for name in ("int4", "fp16"))
    assert four.weights.m_as("GB") == pytest.approx(LLAMA.parameter_count * 4.125 / 8e9)
    assert four.tpot < 0.5 * sixteen.tpot
    assert four.prefill_mfu == pytest.approx(sixteen.prefill_mfu)


@legitimate("Serving: Llama2-70B fp16 on one 80GB GPU")
def llama_on_one_gpu():
    result = assert_sound(serve())
    assert_infeasible_is_said_first(result, 129)
    assert result.max_batch == 0


@legitimate("Serving: GPT-4 1.76T on one iPhone")
def gpt4_on_a_phone():
    result = assert_sound(serve(gpt4(), Hardware.Mobile.A17_Pro, precision="int8", weight_precision="fp16"))
    assert_infeasible_is_said_first(result, 3283)
    assert result.weights.m_as("TB") == pytest.approx(3.52)


@legitimate("Serving batch 4096 x 8k (decode compute-bound?)")
def large_batch():
    result = assert_sound(serve(batch_size=4096, seq_len=8192))
    # Llama-2 70B keeps 2 x 80 layers x 8 heads x 128 x 2 B = 327,680 B a token: 4096 x 8192 of them are 11.0 TB.
    assert result.kv_cache.m_as("TB") == pytest.approx(4096 * 8192 * 327680 / 1e12)
    assert_infeasible_is_said_first(result, 1)
    assert result.itl.m_as("s") >= 11e12 / H100.memory_bandwidth_Bps
    assert max(result.breakdown, key=result.breakdown.get) == "KV reads"


@legitimate("ContinuousBatching 70B on H100 (itl sentinel)")
def continuous_llama_on_one_gpu():
    result = assert_sound(ContinuousBatchingModel().solve(LLAMA, H100, seq_len=2048))
    assert_infeasible_is_said_first(result, 129)
    assert result.max_batch == 0
    assert result.itl.m_as("s") == pytest.approx(138e9 / H100.memory_bandwidth_Bps, rel=0.02)


@legitimate("BatchingOptimizer impossible SLA")
def no_batch_keeps_the_limit():
    result = assert_sound(BatchingOptimizer().solve(Models.Language.Llama3_8B, H100, seq_len=2048, max_itl="1 us"))
    assert not result.feasible
    assert result.batch == result.replicas == 0 < result.max_batch == result.total_searched
    assert re.search(r"ITL .* ms for a limit of 0\.001 ms", result.reason)
    assert result.binding == "ITL limit"


@legitimate("Placement default regions (Iowa absent)")
def default_regions():
    found = PlacementOptimizer().solve(fleet(), duration_hours=24)
    assert any("Iowa" in row["site"] for row in found.ranking)
    assert found.best_site == min(found.ranking, key=lambda row: row["carbon"])["site"]


@legitimate("TailLatency unstable")
def overloaded_queue():
    for result in (queue(arrival_rate="24 request/s"), serve_arrivals(arrival_rate="1e6 request/s")):
        assert_sound(result)
        assert not result.feasible
        assert re.match(r"unstable: load \S+ of capacity", result.reason)
        assert result.latency_p99 is None
        with pytest.raises(InfeasibleError, match="unstable"):
            result.require_feasible()


@legitimate("Orchestration rho>1")
def more_jobs_than_a_cluster_does():
    result = OrchestrationModel().solve(arrival_rate="3 count/hour", job_duration="1 hour", accelerators=2)
    assert not result.feasible
    assert re.match(r"saturated: 1\.5 times the work", result.reason)
    assert (result.wait_mean, result.wait_percentile, result.turnaround, result.jobs_waiting) == (None, None, None, None)
    assert result.utilization == 1
    with pytest.raises(InfeasibleError, match="saturated"):
        result.require_feasible()


@legitimate("Topology typo 'fat-tree' (registry spelling!)")
def the_registry_spells_it_with_a_dash():
    said = [
        TopologyModel().solve(name, accelerators=64, link_bandwidth="50 GB/s") for name in ("fat-tree", "fat_tree", "Fat Tree")
    ]
    assert said[0] == said[1] == said[2]
    assert said[0].bisection_bandwidth.m_as("GB/s") == pytest.approx(32 * 50)


@legitimate("Topology torus_3d 8 nodes beta")
def no_more_crosses_the_middle_than_a_half_sends():
    for sizes in ([2, 2, 2], [2], [3], [3, 3, 3], [2, 3, 5], [16, 16, 16]):
        result = assert_sound(TopologyModel().solve("torus", sizes=sizes, link_bandwidth="50 GB/s"))
        assert 0 < result.bisection_share <= 1
    assert TopologyModel().solve("torus_3d", accelerators=8, link_bandwidth="50 GB/s").bisection_share == pytest.approx(1 / 3)


@legitimate("WeightStreaming on H100 (interconnect=PCIe)")
def weights_stream_over_the_host_link():
    result = assert_sound(WeightStreamingModel().solve(Models.Language.Llama3_8B, H100, input_len=128))
    assert result.stream_bandwidth.m_as("GB/s") == pytest.approx(H100.host_link_bw.m_as("GB/s"))
    assert result.binding == "stream"
    assert any("host link of H100" in note for note in result.diagnostics)


@legitimate("Sensitivity Llama2-70B on A100 (infeasible)")
def what_cannot_run_has_no_elasticities():
    with pytest.raises(InfeasibleError, match=r"one A100 SXM4 80GB needs 128\.\d GiB"):
        SensitivitySolver().solve("ServingModel", LLAMA, Hardware.Cloud.A100, input_len=512)


@legitimate("load_config model name typo")
def a_misspelt_model_is_named_with_file_and_line():
    error = refused_config('model = "Llama-3-7B"', "")
    assert re.match(r".*scenario\.toml:1: model = 'Llama-3-7B': .*did you mean 'Llama3_70B'", str(error))


@legitimate("load_config precision typo & negative batch")
def a_misspelt_precision_and_a_negative_batch_too():
    for line, told in (
        ('precision = "fp61"', "precision = 'fp61': .*did you mean 'fp1?6'"),
        ("batch_size = -4", "batch_size = -4: .*>= 1"),
        ('precison = "fp8"', "serve = 'precison': .*did you mean 'precision'"),
    ):
        assert re.match(rf".*scenario\.toml:5: {told}", str(refused_config(serve=line)))


def refused_config(model='model = "Llama-3-8B"', serve=""):
    """The error of a scenario's file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scenario.toml")
        file.write_text(f'{model}\non = "H100"\n[serve]\ninput_len = 512\n{serve}\n', encoding="utf-8")
        with pytest.raises(InputError) as caught:
            mlsysim.load_config(file)
    assert not INTERNALS.search(str(caught.value))
    return caught.value


@legitimate("compute budget 5e5 EFLOP (unit with prefix)")
def prefixed_budget():
    assert scale("5e5 EFLOP").optimal_parameters.m_as("Gcount") == pytest.approx(math.sqrt(5e23 / 120) / 1e9)
    assert scale("5e5 EFLOP").optimal_tokens == scale(Q_("5e23 flop")).optimal_tokens


@legitimate("Distributed nvlink bw in Gbit vs GB (900 Gbit/s)")
def gigabits_are_an_eighth():
    bits, eighth, whole = (fleet(intra=bandwidth) for bandwidth in ("900 Gbit/s", "112.5 GB/s", "900 GB/s"))
    assert bits.node.intra_bandwidth_Bps == pytest.approx(900e9 / 8 / 2)
    slow, same, fast = (assert_sound(train(on=on, tp_size=8, pp_size=4, overlap_comm=False)) for on in (bits, eighth, whole))
    assert slow.step_latency_total.m_as("s") == pytest.approx(same.step_latency_total.m_as("s"))
    assert slow.breakdown["tp_exposed"].m_as("s") == pytest.approx(8 * fast.breakdown["tp_exposed"].m_as("s"))


@legitimate("ParallelismOptimizer model too big (GPT4 on 8 GPUs)")
def too_big_for_eight():
    result = search(gpt4(), fleet(count=1), batch_size=8)
    assert_infeasible_is_said_first(result, r"\d{4}")
    assert result.best is None
    assert result.best_config == {}
    assert result.ranking == ()
    assert result.total_feasible == 0 < result.total_searched
    with pytest.raises(InfeasibleError, match="GiB"):
        result.require_best()


@legitimate("ParallelismOptimizer precision='fp8' memory uses fp16?")
def fp8_search():
    """fp8 training keeps 16-bit weights and gradients, and says so; it only multiplies faster."""
    eight, sixteen = (search(precision=name, batch_size=256) for name in ("fp8", "bf16"))
    best = eight.require_best()
    plan = {name: eight.best_config[key] for name, key in (("tp_size", "tp"), ("pp_size", "pp"))}
    again = train(precision="fp8", batch_size=256, overlap_efficiency=0.85, **plan)
    assert again.memory_per_accelerator == best.memory_per_accelerator == eight.ranking[0]["memory"]
    assert best.step_latency_total < sixteen.require_best().step_latency_total
    per_rank = LLAMA.parameter_count / (best.plan["tp"] * best.plan["pp"])
    assert best.memory["weights"].m_as("byte") == pytest.approx(2 * per_rank, rel=0.1)


@legitimate("ParallelismOptimizer 24 GPUs (non power of two)")
def twenty_four():
    small = Models.Language.Llama3_8B
    result = search(small, fleet(count=3), batch_size=48)
    assert_sound(result.require_best())
    best = result.best_config
    assert best["tp"] * best["pp"] * best["dp"] == 24
    ranked = search(small, fleet(count=3), batch_size=48, top_k=1000).ranking
    assert {row["pp"] for row in ranked} >= {1, 2, 3, 4, 6}
    assert all(row["tp"] * row["pp"] * row["dp"] == 24 and 48 % row["dp"] == 0 for row in ranked)


def short(line):
    return line if len(line) <= 60 else line[:57] + "..."


INTERNALS = re.compile(
    r"pint|pydantic|dimensionality|cannot convert|traceback|\bat 0x|undefinedunit|<quantity|<unit|validation error|type=", re.I
)


def assert_refused(call, argument, message):
    """The typed error of ``call``."""
    with pytest.raises(InputError) as caught:
        call()
    error = caught.value
    assert error.argument.rpartition(".")[2] == argument
    assert re.match(message, str(error), re.S), str(error)
    assert not INTERNALS.search(str(error)), str(error)
    assert error.__cause__ is None, "nothing of the inside is shown"
    return error


@pytest.mark.parametrize(("argument", "message", "call"), REFUSED.values(), ids=map(short, REFUSED))
def test_refused(argument, message, call):
    assert_refused(call, argument, message)


@pytest.mark.parametrize("check", LEGITIMATE.values(), ids=map(short, LEGITIMATE))
def test_legitimate(check):
    check()


def test_every_line_is_a_case_or_waits_for_its_solver():
    waiting = [line for lines in LATER.values() for line in lines]
    lines = [*REFUSED, *LEGITIMATE, *waiting]
    assert len(lines) == len(set(lines)) == LINES
    assert len({short(line) for line in lines}) == LINES


@pytest.mark.parametrize("solver", LATER)
def test_a_solver_that_exists_has_its_lines_tested(solver):
    assert not hasattr(mlsysim, solver), f"move the lines of {solver} from LATER to the cases"


# Beyond the list.

SOLVES = {
    "SingleNodeModel": single,
    "ServingModel": serve,
    "DistributedModel": train,
    "ParallelismOptimizer": search,
}


@pytest.mark.parametrize("solver", SOLVES)
@pytest.mark.parametrize(("typo", "meant"), [("batchsize", "batch_size"), ("precison", "precision"), ("seqlen", "seq_len")])
def test_a_misspelt_keyword_is_named_with_the_nearest(solver, typo, meant):
    error = assert_refused(lambda: SOLVES[solver](**{typo: 1}), typo, rf"{solver}\.solve\(\) takes no argument '{typo}'")
    assert isinstance(error, UnknownArgumentError)
    assert isinstance(error, TypeError)
    assert error.suggestion == meant


@pytest.mark.parametrize("solver", SOLVES)
@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": True},
        {"batch_size": None},
        {"batch_size": 0},
        {"batch_size": 10**400},
        {"batch_size": INF},
        {"efficiency": "0.5"},
        {"efficiency": True},
        {"efficiency": INF},
        {"efficiency": -1e-9},
        {"efficiency": Q_("1 GB")},
        {"precision": 16},
        {"precision": "float61"},
        {"precision": ["fp16"]},
        {"seq_len": 0.5},
    ],
    ids=lambda given: next(f"{name}={str(value)[:12]}" for name, value in given.items()),
)
def test_every_solver_refuses(solver, given):
    (argument,) = given
    assert_refused(lambda: SOLVES[solver](**given), argument, f"{argument} = ")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dp_size", 100),
        ("virtual_stages", 0),
        ("virtual_stages", 2),
        ("schedule", "zero-bubble"),
        ("zero_stage", -1),
        ("zero_stage", True),
        ("recompute", "some"),
        ("recompute", True),
        ("gradient_precision", "fp8"),
        ("sequence_parallel", 1),
        ("overlap_comm", "yes"),
        ("overlap_efficiency", 1.01),
        ("overlap_efficiency", -0.1),
        ("overlap_efficiency", NAN),
        ("straggler_factor", NAN),
        ("straggler_factor", INF),
        ("congestion_factor", 0.99),
        ("tp_size", 0),
        ("tp_size", 8.0),
        ("pp_size", "4"),
        ("ep_size", 0),
    ],
)
def test_training_refuses(argument, value):
    assert_refused(lambda: train(**{argument: value}), argument, f"{argument} = ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overlap_comm": False, "overlap_efficiency": 0.5}, "overlap_efficiency = 0.5: .*overlap_comm=False"),
        ({"tp_size": 4, "dp_size": 8}, "dp_size = 8: expected 64: 256 accelerators"),
        ({"pp_size": 4, "schedule": "interleaved"}, "virtual_stages = 1: .*more than 1 with schedule='interleaved'"),
        ({"pp_size": 4, "schedule": "gpipe", "virtual_stages": 4}, "virtual_stages = 4: .*1 with the others"),
        ({"pp_size": 4, "virtual_stages": 21}, "virtual_stages = 21: .*1 to 20 for 80 layers on 4 stages"),
        ({"pp_size": 4, "virtual_stages": 2, "microbatch_count": 2}, "microbatch_count = 2: .*multiple of pp_size 4"),
        ({"microbatch_count": 3}, "microbatch_count = 3: .*divisor or a multiple of the 4 sequences"),
        ({"workload": transformer(hidden_dim=6144, heads=48), "tp_size": 3}, "tp_size = 3: .*3 x 1 divides the 256"),
        ({"workload": Models.Language.Mixtral_8x7B, "ep_size": 3}, "ep_size = 3: .*the 8 experts and of dp 256"),
        ({"workload": RESNET, "seq_len": None, "tp_size": 2}, "tp_size = 2: .*no layers to split"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions_name_both_numbers(given, message):
    with pytest.raises(InconsistentError, match=message):
        train(**given)


def test_images_have_no_sequence():
    assert_refused(lambda: train(RESNET), "seq_len", "seq_len = 2048: .*has no sequence")


def test_a_micro_batch_holds_a_token_of_each_sequence_part():
    small, one = Models.Language.Llama3_8B, fleet(count=1)
    with pytest.raises(InconsistentError, match=r"microbatch_count = 1: .*at least 8 .*not 4"):
        train(small, one, batch_size=1, seq_len=4, tp_size=8)
    assert_sound(train(small, one, batch_size=1, seq_len=8, tp_size=8))
    assert_sound(train(small, one, batch_size=1, seq_len=4, tp_size=8, sequence_parallel=False))


def test_the_search_is_of_legal_plans_only():
    """With 4 tokens no plan may split a sequence over 8 ranks: the search neither counts that plan nor trips over it."""
    small, one = Models.Language.Llama3_8B, fleet(count=1)
    found = search(small, one, batch_size=1, seq_len=4)
    legal = 0
    for tp in (1, 2, 4, 8):
        for pp in (1, 2, 4, 8):
            try:
                train(small, one, batch_size=1, seq_len=4, tp_size=tp, pp_size=pp)
            except InputError:
                continue
            legal += 1
    assert found.total_searched == legal


def test_serving_refuses():
    assert_refused(lambda: serve(tp_size=0), "tp_size", "tp_size = 0: ")
    assert_refused(lambda: serve(hardware=Systems.Nodes.DGX_H100, tp_size=16), "tp_size", "tp_size = 16: .*the 8 accelerators")
    assert_refused(lambda: serve(hardware="H100"), "hardware", "hardware = 'str': .*Hardware.Cloud.H100")
    assert_refused(lambda: serve(Models.Language.BERT_Large, output_len=8), "workload", "workload = 'BERT.*: .*a decoder")
    assert_refused(lambda: serve(kv_precision="int3"), "kv_precision", "kv_precision = 'int3': .*did you mean 'int")
    assert_refused(lambda: serve("Llama2_70B"), "workload", "workload = 'str': .*transformer")


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"duration_days": 0}, "duration_days"),
        ({"duration_days": -30}, "duration_days"),
        ({"duration_days": NAN}, "duration_days"),
        ({"duration_days": "30"}, "duration_days"),
        ({"pue": 0.9}, "pue"),
        ({"pue": 110}, "pue"),
        ({"grid": "429 g"}, "grid"),
        ({"grid": 429}, "grid"),
        ({"grid": "-1 gCO2e/kWh"}, "grid"),
        ({"energy": "-5 MWh"}, "energy"),
        ({"energy": "5 MW"}, "energy"),
        ({"energy": "5 MWh", "pue": 1.1}, "energy"),
        ({"accelerator_power": "330 J"}, "accelerator_power"),
        ({"accelerator_power": "0 W"}, "accelerator_power"),
    ],
    ids=str,
)
def test_sustainability_refuses(given, argument):
    usual = {"duration_days": 1, "grid": "429 gCO2e/kWh"}
    assert_refused(lambda: SustainabilityModel().solve(fleet(), **{**usual, **given}), argument, f"{argument} = ")


@pytest.mark.parametrize("value", [Q_(NAN, "TB/s"), Q_(INF, "TB/s"), Q_([1.0, 2.0], "TB/s"), "", "fast", [], b"3 TB/s", None])
def test_a_bandwidth_is_one_finite_quantity(value):
    assert_refused(lambda: memory(bandwidth=value), "bandwidth", "MemoryHierarchy.bandwidth = ")


@pytest.mark.parametrize(
    ("call", "argument", "message"),
    [
        (lambda: memory(capacity="80 Gbit"), "capacity", ".*'80 Gbit': .*not bits .*10 GB"),
        (lambda: memory(capacity="80 gibibytes of HBM"), "capacity", ".*'80 gibibytes of HBM'"),
        (lambda: core("989e12 flops"), "peak_flops", ".*'989e12 flops': .*flop/second"),
        (lambda: scale("5e23"), "compute_budget", ".*'5e23'"),
        (lambda: Q_("80 GiBi"), "quantity", ".*'80 GiBi'.*'GiBi' is not one.*did you mean 'GiB'"),
        (lambda: fleet(intra="900 Gb/s"), "intra_node_bw", ".*'GB' for bytes or 'Gbit' for bits"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_units_are_explained(call, argument, message):
    assert isinstance(assert_refused(call, argument, message), UnitError)


def test_wrong_dimensions_do_not_add():
    with pytest.raises(pint.DimensionalityError):
        Q_("1 TFLOP/s") + Q_("1 TB/s")
    with pytest.raises(pint.DimensionalityError):
        Q_("1 Gcount") + Q_("1 GB")
    with pytest.raises(pint.DimensionalityError):
        Q_("1 USD") + Q_("1 gCO2e")
    with pytest.raises(pint.DimensionalityError):
        Q_("1 flop").to("count")


def test_two_nodes_need_a_network():
    node = Node(name="HGX", accelerator=H100, accelerators_per_node=8, intra_node_bw="900 GB/s")
    assert_refused(lambda: Fleet(name="two", node=node, count=2), "fabric", "fabric = None: .*2 nodes need a network")
    assert Fleet(name="one", node=node, count=1).inter_bandwidth_Bps == INF


def test_workloads_that_a_solver_does_not_take():
    mamba = Models.StateSpace.Mamba_2_8B
    for call in (lambda: single_of(mamba), lambda: train(mamba, seq_len=None), lambda: serve(mamba)):
        assert_refused(call, "workload", "workload = ")


def single_of(workload):
    return SingleNodeModel().solve(workload, H100, batch_size=1)


def test_nominal_parameters_are_not_contradicted_in_silence():
    with pytest.raises(InconsistentError, match=r"parameters = 7\S* count: expected within 10% of the 5.* count of its layers"):
        transformer(parameters="7e9 count", ffn_hidden=28672)
    with pytest.raises(InconsistentError, match=r"parameters = 70\S* count: expected more than"):
        transformer(parameters="70 count")
    with pytest.raises(InputError, match="name"):
        CNNWorkload(name="", parameters="1e6 count", inference_flops="1 GFLOP")


def test_errors_of_ours_are_what_python_expects():
    assert issubclass(InputError, ValueError)
    assert issubclass(UnknownArgumentError, TypeError)
    assert issubclass(UnknownNameError, AttributeError)
    with pytest.raises(AttributeError):
        _ = Hardware.Cloud.h100
