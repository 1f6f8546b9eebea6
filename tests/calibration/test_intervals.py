"""Intervals of predictions: quantiles by hand, scopes that widen, what is said of what was never measured."""

from __future__ import annotations

import math
import re

import pytest

from mlsysim.calibration import evidence
from mlsysim.calibration.evidence import FIRST_TOKEN, WHOLE, MeasuredRun, RunFacts, assumed_facts, unfitted
from mlsysim.calibration.intervals import Pool, conformal_quantile, grouped_quantile, spread
from mlsysim.core.errors import UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.solvers.operations.scaling import ScalingModel
from mlsysim.solvers.serving.capacity import CapacityPlanner
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.serving.tail_latency import TailLatencyModel
from mlsysim.solvers.training.parallelism import ParallelismOptimizer
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet
from mlsysim.tables.predict import predict_table

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
FLEET = Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)

ASKED = {"input_len": 1024, "output_len": 256, "batch_size": 16, "schedule": "continuous"}
ROW = {
    "source": "NVIDIA TensorRT-LLM performance doc",
    "model": "Llama-3.1-8B",
    "accelerator": "H100-SXM-80GB",
    "n_accel": "1",
    "engine": "vLLM 0.15",
    "weight_precision": "fp16",
    "mode": "closed-loop",
    "input_len": "1024",
    "output_len": "256",
    "batch_or_concurrency": "16",
    "metric": "itl_ms",
}
KNOWN = RunFacts("Llama-3.1-70B", "dense", "H100 SXM5 80GB", "vllm-2025", 8)


def serve(**asked):
    return ServingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, **{**ASKED, **asked})


def run_of(error, *, stack="s", accelerator="a", model="m"):
    return MeasuredRun("i", "0", "source", "S", WHOLE, RunFacts(model, "dense", accelerator, stack, 8), error)


def test_a_conformal_quantile_by_hand():
    # ceil(10 x 0.9) = 9 of 9; ceil(11 x 0.9) = 10 of 10; ceil(21 x 0.9) = 19 of 20; one error has none larger than itself.
    assert conformal_quantile([float(step) for step in range(9)]) == 8
    assert conformal_quantile([float(step) for step in range(10)]) == 9
    assert conformal_quantile([float(step) for step in range(20)]) == 18
    assert conformal_quantile([0.3]) == 0.3


def test_a_sweep_is_one_group():
    # 4 groups of weight 40 each: 0.9 x 160 = 144 of the weight lies below the fourth's middle rows.
    groups = [[0.1] * 400, [0.2] * 40, [0.3] * 4000, [0.4] * 40]
    assert grouped_quantile(groups, 0.25) == 0.1
    assert grouped_quantile(groups, 0.5) == 0.2
    assert grouped_quantile(groups) == 0.4
    # Groups smaller than 40 weigh as their rows: 10 of 50 are above 0.1.
    assert grouped_quantile([[0.1] * 40, [0.9] * 10], 0.79) == 0.1
    assert grouped_quantile([[0.1] * 40, [0.9] * 10], 0.81) == 0.9


def test_a_scope_widens_until_it_has_enough_runs():
    of_b = [run_of(-0.5, accelerator="b") for _ in range(19)]
    pool = Pool("S", WHOLE, [*(run_of(0.1) for _ in range(20)), *of_b, run_of(0.5, stack="t")])
    narrow = pool.closest(RunFacts("m", "dense", "a", "s", 8))
    assert (narrow.log_width, narrow.runs, narrow.scope) == (0.1, 20, "s, a, dense")
    wider = pool.closest(RunFacts("m", "dense", "b", "s", 8))
    assert (wider.log_width, wider.runs, wider.scope) == (0.5, 39, "s, m")
    assert wider.median == pytest.approx(math.expm1(0.1))
    assert pool.closest(RunFacts("x", "moe", "x", "x", 8)).scope == "S"
    assert Pool("S", WHOLE, []).closest(KNOWN) is None


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, ()),
        ({"stack": "mine"}, ("stack",)),
        ({"accelerator": "Mine"}, ("device",)),
        ({"model": "Mine"}, ("model",)),
        ({"stack": "mine", "accelerator": "Mine"}, ("stack", "device")),
    ],
)
def test_what_was_never_measured_is_wider_and_says_so(change, missing):
    facts = KNOWN._replace(**change)
    assert unfitted("ServingModel", WHOLE, facts) == missing
    known, found = spread("ServingModel", WHOLE, KNOWN), spread("ServingModel", WHOLE, facts)
    assert (found.log_width > known.log_width) == bool(missing)
    assert found.scope.startswith("no fit to this") == bool(missing)


def test_widths_of_what_is_missing_add_as_independent_errors():
    both = spread("ServingModel", WHOLE, KNOWN._replace(stack="mine", accelerator="Mine")).log_width
    each = [
        spread("ServingModel", WHOLE, KNOWN._replace(**change)).log_width
        for change in ({"stack": "mine"}, {"accelerator": "Mine"})
    ]
    assert both == pytest.approx(math.hypot(*each))


def test_a_stack_that_is_not_known_stands_for_its_source():
    assert unfitted("ServingModel", WHOLE, KNOWN, known_source=False) == ("source",)
    assert unfitted("ServingModel", WHOLE, KNOWN._replace(stack="mine"), known_source=False) == ("stack",)


def test_prompts_have_an_interval_of_their_own():
    assert spread("ServingModel", FIRST_TOKEN, KNOWN).log_width > spread("ServingModel", WHOLE, KNOWN).log_width
    assert spread("NoSuchModel", WHOLE, KNOWN) is None


def test_a_result_has_an_interval_about_its_value():
    run = serve(stack="vllm-2025")
    assert run.interval.low < run.itl < run.interval.high
    assert (run.interval.low * run.interval.high).m_as("s**2") == pytest.approx(run.itl.m_as("s") ** 2)
    assert run.interval == run.interval_of("itl")
    ttft = run.interval_of("ttft")
    assert ttft.high / ttft.low > run.interval.high / run.interval.low
    assert run.interval_of("weights") is None
    assert run.interval_of("max_batch") is None
    with pytest.raises(UnknownNameError, match="itl"):
        run.interval_of("itll")


def test_a_card_says_how_sure_it_is():
    lines = str(serve(stack="vllm-2025")).splitlines()
    told = next(line for line in lines if line.strip().startswith("itl"))
    assert "runs like this: half within" in told
    assert any(line.startswith("  elsewhere itl of a run that nobody has published") for line in lines)


def test_a_bound_says_that_it_is_one():
    run = serve()
    assert run.interval is None
    assert run.scope == "none: bound"
    assert run.nearest == ()
    told = str(run)
    assert re.search("itl +at least 5[.]2", told)
    assert "no real run is this fast" in told
    assert re.search("tokens per second +at most", told)


def test_an_identity_and_a_law_have_no_interval():
    assert ScalingModel().solve(compute_budget="1e23 flop").interval is None


def test_the_nearest_runs_are_cited():
    nearest = serve(stack="vllm-2025").nearest
    assert len(nearest) == 3
    assert all(run.facts.stack == "vllm-2025" and run.citation and run.url.startswith("https://") for run in nearest)


def test_an_export_has_the_interval():
    told = serve(stack="vllm-2025").to_dict()
    assert told["interval"]["low"] < told["itl"]["value"] < told["interval"]["high"]
    assert "facts" not in told


def test_rows_of_other_sources_are_less_sure():
    known, other, none = predict_table([ROW, ROW | {"source": "somebody's cluster"}, ROW | {"source": ""}])
    for row in (known, other, none):
        assert row["low"] < row["predicted"] < row["high"]
    assert known["predicted"] == other["predicted"]
    assert other["high"] > known["high"]
    assert (none["low"], none["high"]) == (other["low"], other["high"])
    assert "this source" in other["scope"]


def test_an_engine_on_an_accelerator_that_only_others_were_measured_on_is_less_sure():
    facts = RunFacts("Llama-3.1-70B", "dense", "H200 SXM 141GB", "vllm-2025", 8)
    elsewhere = facts._replace(accelerator="Tesla T4")
    assert unfitted("ServingModel", WHOLE, facts) == ()
    assert unfitted("ServingModel", WHOLE, elsewhere) == ("pair",)
    known, new = spread("ServingModel", "whole", facts), spread("ServingModel", "whole", elsewhere)
    assert new.log_width > known.log_width
    assert "this engine on this accelerator" in new.scope


def test_a_row_in_another_unit_has_its_interval_there():
    run = ROW | {"metric": "ttft_ms"}
    (row,) = predict_table([run])
    itl = predict_table([ROW])[0]
    assert row["high"] / row["low"] > itl["high"] / itl["low"]


def test_every_name_of_a_source_is_of_one_that_is_there():
    words = evidence.packaged_toml("calibration", evidence.NAMES_FILE)["words"]
    words.pop("source")
    power = {"mlenergy"}  # has no figure of time
    assert {key for keys in words.values() for key in keys} - power <= set(evidence.publications())


def test_every_run_has_a_publication_and_every_study_more_than_one_thing():
    assert {run.source for run in evidence.measured_runs()} == set(evidence.publications())
    for study in evidence.STUDIES:
        assert len([one for one in evidence.left_out() if one.study == study]) > 5


def test_what_a_row_leaves_out_is_listed_and_makes_it_wider():
    run = {"model": "Llama-3.1-8B", "accelerator": "H100", "n_accel": 16, "seq_len": 8192, "global_batch_seqs": 64, "tp": 2}
    run |= {"framework": "Megatron-LM", "precision": "bf16", "metric": "step_time_s", "micro_batch": 1}
    run |= {"recompute": "none", "flash_attention": "yes", "sharding": "zero1", "sequence_parallel": "yes"}
    run |= {"gradient_precision": "bf16", "inter_bw_GBps_per_accel": 50, "source": "mosaicml/llm-foundry"}
    left = (
        {},
        {"recompute": ""},
        {"recompute": "", "micro_batch": ""},
        {"sharding": ""},
        {"n_accel": 8, "inter_bw_GBps_per_accel": ""},
    )
    whole, one, two, free, alone = predict_table([run | change for change in left])
    assert (whole["assumed"], one["assumed"], two["assumed"]) == ("", "recompute=none", "recompute=none, micro_batch=1")
    assert (free["assumed"], alone["assumed"]) == ("sharding=zero1", ""), "a lone node has no network"
    widths = [math.log(row["high"] / row["low"]) for row in (whole, one, two, free)]
    assert 2 * widths[0] < widths[1] < widths[2]
    costs = {fact.fact: fact.missing / fact.stated for fact in assumed_facts() if fact.solver == "DistributedModel"}
    assert widths[3] / widths[0] == pytest.approx(max(1.0, costs["sharding"])), "narrower it never is"
    assert widths[1] / widths[0] == pytest.approx(costs["recompute"])
    both = math.sqrt(costs["recompute"] ** 2 + costs["micro_batch"] ** 2 - 1)
    assert widths[2] / widths[0] == pytest.approx(both)


def test_a_split_or_ranks_of_experts_that_are_left_out_make_it_wider_and_a_format_that_costs_nothing_does_not():
    """Without TP, PP and CP runs that do not gather all weights are five times as far off, without EP more than twice."""
    run = {"model": "Mixtral-8x7B", "accelerator": "H100", "n_accel": 64, "seq_len": 4096, "global_batch_seqs": 256}
    run |= {"framework": "Megatron-LM", "precision": "bf16", "metric": "step_time_s", "micro_batch": 1, "ep": 8, "tp": 1}
    run |= {"recompute": "none", "flash_attention": "yes", "sharding": "zero1", "sequence_parallel": "yes"}
    run |= {"gradient_precision": "bf16", "inter_bw_GBps_per_accel": 50, "source": "mosaicml/llm-foundry"}
    left = ({}, {"ep": ""}, {"tp": ""}, {"tp": "", "pp": 1}, {"tp": "", "sharding": "zero3"}, {"gradient_precision": ""})
    whole, ranks, split, stated, gathered, gradients = predict_table([run | change for change in left])
    assert [row["assumed"] for row in (whole, ranks, split, stated)] == ["", "ep=1", "tp=1", ""]
    assert (gathered["assumed"], gradients["assumed"]) == ("", "gradient_precision=bf16")
    costs = {fact.fact: fact.missing / fact.stated for fact in assumed_facts() if fact.solver == "DistributedModel"}
    widths = [math.log(row["high"] / row["low"]) for row in (whole, ranks, split, gradients)]
    assert [width / widths[0] for width in widths] == pytest.approx([1.0, costs["ep"], costs["tp"], 1.0])
    assert min(costs["ep"], costs["tp"]) > 2
    published = [run.assumed for run in evidence.measured_runs() if run.facts.stack == "megatron-core"]
    assert published
    assert all("gradient_precision" in assumed for assumed in published), "their errors are those of what stands for it"


def test_what_a_serving_row_leaves_out():
    run = {"model": "Llama-3.1-8B", "accelerator": "H100", "engine": "vLLM", "weight_precision": "fp16", "metric": "itl_ms"}
    run |= {
        "mode": "static",
        "input_len": 1024,
        "output_len": 128,
        "batch_or_concurrency": 8,
        "kv_precision": "fp16",
        "n_accel": 4,
    }
    left = ({"tp": 4}, {}, {"tp": 4, "batch_or_concurrency": ""}, {"tp": 4, "batch_or_concurrency": "", "mode": "offline"})
    whole, split, lone, offline = predict_table([run | change for change in left])
    assert [row["assumed"] for row in (whole, split, lone, offline)] == ["", "tp=1", "batch_or_concurrency=1", ""]
    assert lone["high"] / lone["low"] > 2 * whole["high"] / whole["low"]
    torus = run | {
        "accelerator": "TPU v5e",
        "engine": "JetStream",
        "n_accel": 8,
        "weight_precision": "bf16",
        "kv_precision": "bf16",
    }
    assert predict_table([torus])[0]["assumed"] in ("", "tp=1"), "a slice shares every layer"


def test_searches_and_tails_have_the_interval_of_what_they_stand_on():
    best = ParallelismOptimizer().solve(LLAMA, FLEET, batch_size=64, seq_len=4096, stack="megatron-core")
    assert best.interval == best.best.interval
    assert best.scope == best.best.scope
    assert "step latency total" in str(best)
    bound = ParallelismOptimizer().solve(LLAMA, FLEET, batch_size=64, seq_len=4096)
    assert bound.interval is None
    load = {"input_len": 1000, "output_len": 100, "stack": "vllm-2025"}
    planned = CapacityPlanner().solve(LLAMA, [H100], request_rate="5 count/s", max_ttft="2 s", **load)
    tail = TailLatencyModel().solve(LLAMA, H100, arrival_rate="1 count/s", **load)
    for result in (planned, tail):
        low, high = result.interval.low, result.interval.high
        assert low < result.capacity < high
        assert result.interval.scope.startswith("vllm-2025")
        assert result.nearest[0].solver == "ServingModel"
        assert result.to_dict()["interval"]["low"] == pytest.approx(low.m_as("count/second"))
    assert tail.interval_of("ttft_p99") is None, "a queue multiplies an error"
    assert planned.interval_of("ttft") is None
