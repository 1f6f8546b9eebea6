"""Calls of the solvers with usual arguments, of which a test makes some bad; and how a refusal and a sound answer look."""

from __future__ import annotations

import math
import re

import pytest

from mlsysim import (
    CheckpointModel,
    CompressionModel,
    DistributedModel,
    Fleet,
    Hardware,
    HardwareNode,
    InputError,
    Models,
    NetworkFabric,
    Node,
    ParallelismOptimizer,
    ReliabilityModel,
    ScalingModel,
    ServingModel,
    SingleNodeModel,
    SynthesisSolver,
    TailLatencyModel,
    TransformerWorkload,
)
from mlsysim.hardware.types import ComputeCore, MemoryHierarchy

H100, RESNET, LLAMA = Hardware.Cloud.H100, Models.Vision.ResNet50, Models.Language.Llama2_70B
NAN, INF = float("nan"), float("inf")

INTERNALS = re.compile(
    r"pint|pydantic|dimensionality|cannot convert|traceback|\bat 0x|undefinedunit|<quantity|<unit|validation error|type=", re.I
)


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


def gpt4_with_512_heads():
    return transformer(name="GPT-4", parameters="1.76e12 count", layers=120, hidden_dim=12288, heads=512, head_dim=24)


def assert_sound(result):
    """Finite, nothing negative, and the main quantities positive."""
    for path, number in numbers(result.to_dict()):
        assert math.isfinite(number), path
        assert number >= 0, path
    for name in ("itl", "ttft", "latency", "step_latency_total", "throughput", "tokens_per_second", "mfu"):
        if hasattr(result, name):
            assert float(getattr(getattr(result, name), "magnitude", getattr(result, name))) > 0, name
    return result


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
