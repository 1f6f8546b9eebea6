"""What solvers that recommend take where no stack is named: the best-supported one, by evidence, and it is said."""

from __future__ import annotations

from functools import partial

import pytest

from mlsysim import (
    BatchingOptimizer,
    CapacityPlanner,
    Fleet,
    FleetOptimizer,
    Hardware,
    HardwareNode,
    InputError,
    Models,
    ParallelismOptimizer,
    Systems,
    TailLatencyModel,
    TokenServerModel,
)
from mlsysim.calibration import best_supported
from mlsysim.calibration.best_supported import ENGINE, STACK, most_supported
from mlsysim.calibration.engines import engine_names
from mlsysim.calibration.evidence import PublishedRun, published_runs
from mlsysim.calibration.names import follower, todays_engines, todays_stacks
from mlsysim.calibration.stacks import stack_names
from mlsysim.core.toml import packaged_toml

LLAMA, H100, H200 = Models.Language.Llama3_8B, Hardware.Cloud.H100, Hardware.Cloud.H200
best_engine = partial(most_supported, ENGINE)
FLEET = Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)
SHAPE = {"input_len": 512, "output_len": 64}
OWN_CHIP = HardwareNode(
    name="my chip",
    release_year=2026,
    compute={"peak_flops": "900 TFLOP/s", "precision_flops": {"bf16": "900 TFLOP/s"}},
    memory={"capacity": "96 GiB", "bandwidth": "4 TB/s"},
    interconnect_bw="400 GB/s",
)
SERVING = {
    "capacity": lambda on, **more: CapacityPlanner().solve(LLAMA, [on], request_rate="1 count/s", **SHAPE, **more),
    "batch": lambda on, **more: BatchingOptimizer().solve(LLAMA, on, **SHAPE, **more),
    "tail": lambda on, **more: TailLatencyModel().solve(LLAMA, on, request_rate="1 count/s", **SHAPE, **more),
    "load": lambda on, **more: TokenServerModel().solve(LLAMA, on, accelerators=1, **SHAPE, **more),
}
TRAINING = {
    "plan": lambda on, **more: ParallelismOptimizer().solve(LLAMA, on, batch_size=16, space="full", fixed={"pp": 1}, **more),
    "fleet": lambda on, basis=None, **more: FleetOptimizer().solve([LLAMA], [on], batch_size=16, basis=basis, search=more),
}


@pytest.fixture
def measured(monkeypatch):
    """A way to say what was published, and nothing else."""

    def said(*runs):
        published = [
            PublishedRun(source, f"{source}-{number}", "ServingModel", kind, on, stack)
            for source, kind, on, stack, count in runs
            for number in range(count)
        ]
        monkeypatch.setattr(best_supported, "published_runs", lambda: published)
        best_supported._runs.cache_clear()
        best_supported.most_supported.cache_clear()

    yield said
    best_supported._runs.cache_clear()
    best_supported.most_supported.cache_clear()


def test_more_publications_come_before_more_runs(measured):
    measured(("a", "dense", H100.name, "sglang-2025", 50), ("b", "dense", H100.name, "vllm-2025", 1))
    assert best_engine(H100.name).name == "sglang-2025"
    measured(*((key, "dense", H100.name, "vllm-2025", 1) for key in "bc"), ("a", "dense", H100.name, "sglang-2025", 50))
    assert best_engine(H100.name) == ("vllm-2025", H100.name, 2, 2)


def test_models_of_the_same_kind_come_first(measured):
    measured(("a", "dense", H100.name, "vllm-2025", 50), ("b", "moe", H100.name, "sglang-2025", 1))
    assert (best_engine(H100.name, "dense").name, best_engine(H100.name, "moe").name) == ("vllm-2025", "sglang-2025")


def test_an_older_release_counts_for_the_one_that_followed_it(measured):
    measured(("a", "dense", H100.name, "fastertransformer", 50), ("b", "dense", H100.name, "vllm-2024", 1))
    assert best_engine(H100.name).name == "tensorrt-llm-1.0"
    measured(("a", "dense", H100.name, "fastertransformer", 50), ("b", "dense", H100.name, "vllm-2025", 1))
    assert best_engine(H100.name).name == "vllm-2025", "what was measured itself comes first"


def test_siblings_stand_for_what_was_not_measured(measured):
    measured(("a", "dense", H100.name, "sglang-2025", 2), ("b", "dense", Hardware.Cloud.A100.name, "vllm-2025", 90))
    assert best_engine(H200.name) == ("sglang-2025", "accelerators of its generation", 1, 2)
    assert best_engine("Tesla T4").name == "vllm-2025"
    on_two = [("a", "dense", on, "vllm-2025", 1) for on in (H100.name, "Instinct MI300X")]
    measured(*on_two, ("b", "dense", H100.name, "lmdeploy", 9))
    assert best_engine("Gaudi 3").name == "vllm-2025", "far away, what runs on chips of several vendors"


def test_an_engine_that_cannot_run_experts_is_not_taken_for_them():
    assert best_engine("TPU v4").name == "pope2022"
    assert best_engine("TPU v4", "moe").name != "pope2022"


@pytest.mark.parametrize("what", [STACK, ENGINE])
def test_whatever_is_measured_has_an_answer_of_today(what):
    todays = todays_stacks() if what == STACK else todays_engines()
    for name in {run.accelerator for run in published_runs() if (run.solver == "DistributedModel") == (what == STACK)}:
        found = most_supported(what, name)
        assert found is None or (found.name in todays and follower(found.name) == found.name and found.runs > 0), name


def test_what_followed_is_there_and_is_not_followed_itself():
    names = packaged_toml("calibration", "names.toml")
    known = {*stack_names(), *engine_names()}
    assert set(names["followed_by"]) | set(names["followed_by"].values()) <= known
    assert not set(names["followed_by"]) & set(names["followed_by"].values())
    eras = [*(era for entry in names["framework"].values() for era in entry.get("until", ()))]
    assert {era["stack"] for era in eras if "stack" in era} <= set(names["followed_by"])


@pytest.mark.parametrize("ask", SERVING)
def test_an_engine_is_taken_named_and_has_an_interval(ask):
    found, bound = SERVING[ask](H200), SERVING[ask](H200, basis="bound")
    assert (found.basis, bound.basis) == ("calibrated", "bound")
    assert found.facts.stack == best_engine(H200.name).name
    assert found.interval is not None
    assert bound.interval is None
    (note,) = (note for note in found.diagnostics if note.startswith(f"engine {best_engine(H200.name).name}, the best"))
    assert best_engine(H200.name).evidence in note
    named = SERVING[ask](H200, stack=best_engine(H200.name).name)
    assert {**named.to_dict(), "diagnostics": ""} == {**found.to_dict(), "diagnostics": ""}
    assert note not in named.diagnostics


@pytest.mark.parametrize("ask", TRAINING)
def test_a_stack_is_taken_and_named(ask):
    found, bound = TRAINING[ask](FLEET), TRAINING[ask](FLEET, basis="bound")
    assert (found.basis, bound.basis) == ("calibrated", "bound")
    assert any(note.startswith("stack megatron-core, the best supported here") for note in found.diagnostics)
    named = TRAINING[ask](FLEET, stack="megatron-core")
    assert {**named.to_dict(), "diagnostics": "", "results": ""} == {**found.to_dict(), "diagnostics": "", "results": ""}


def test_each_accelerator_has_the_engine_that_is_best_there():
    found = CapacityPlanner().solve(LLAMA, [H100, H200], request_rate="1 count/s", **SHAPE)
    stacks = {row["hardware"]: row["stack"] for row in found.ranking}
    assert stacks == {card.name: best_engine(card.name).name for card in (H100, H200)}


@pytest.mark.parametrize("ask", SERVING)
def test_an_own_chip_has_bounds_and_that_is_said(ask):
    found = SERVING[ask](OWN_CHIP)
    assert found.basis == "bound"
    assert any("nothing like my chip was measured" in note for note in found.diagnostics)


def test_who_owns_an_efficiency_or_an_overlap_keeps_it():
    asked = {"batch_size": 16, "space": "full", "fixed": {"pp": 1}}
    for given, basis in (({"efficiency": 0.4}, "efficiency"), ({"overlap_efficiency": 0.5}, "bound")):
        found = ParallelismOptimizer().solve(LLAMA, FLEET, **asked, **given)
        assert (found.basis, any("best supported" in note for note in found.diagnostics)) == (basis, False)


@pytest.mark.parametrize("ask", SERVING)
@pytest.mark.parametrize(
    "more", [{"basis": "bounds"}, {"basis": "bound", "stack": "vllm-2025"}, {"basis": "bound", "efficiency": 0.4}]
)
def test_a_basis_that_contradicts_is_refused(ask, more):
    with pytest.raises(InputError, match="basis = 'bound"):
        SERVING[ask](H200, **more)
