"""What the original tool accepted in silence or answered with a raw internal error: each line of its list of bad inputs.

A wrong input raises an error of ours that names the argument, its value and what is accepted; a legitimate one gives the
rightly flagged result. Nothing returns nan, a negative time, or a number for another question.
"""

from __future__ import annotations

import math
import re
import tempfile
import tomllib
from pathlib import Path

import bad_calls
import pytest
from bad_calls import (
    H100,
    INTERNALS,
    LLAMA,
    assert_refused,
    assert_sound,
    fails,
    fleet,
    gpt4,
    queue,
    saves,
    scale,
    search,
    serve,
    serve_arrivals,
    train,
)
from repository import TESTS

import mlsysim
from mlsysim import (
    BatchingOptimizer,
    ContinuousBatchingModel,
    Hardware,
    InfeasibleError,
    InputError,
    Models,
    OrchestrationModel,
    PlacementOptimizer,
    SensitivitySolver,
    Systems,
    TopologyModel,
    WeightStreamingModel,
)
from mlsysim.core.constants import Q_
from mlsysim.models import types

LINES = 121  # of the list
# line: the argument that the error names, how its message begins (a pattern), and the call.
REFUSED = tomllib.loads((TESTS / "bad_inputs.toml").read_text("utf-8"))
NAMES = {name: getattr(mlsysim, name) for name in mlsysim.__all__} | vars(types) | {"Q_": Q_} | vars(bad_calls)
LEGITIMATE = {}


def legitimate(line):
    """Registers the check of a line whose input is nothing wrong."""

    def keep(check):
        LEGITIMATE[line] = check
        return check

    return keep


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


@pytest.mark.parametrize(("argument", "message", "call"), REFUSED.values(), ids=map(short, REFUSED))
def test_refused(argument, message, call):
    assert_refused(lambda: eval(call, NAMES), argument, message)


@pytest.mark.parametrize("check", LEGITIMATE.values(), ids=map(short, LEGITIMATE))
def test_legitimate(check):
    check()


def test_every_line_is_a_case():
    lines = [*REFUSED, *LEGITIMATE]
    assert len(lines) == len(set(lines)) == LINES
    assert len({short(line) for line in lines}) == LINES
