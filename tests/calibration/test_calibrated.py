"""The calibrated basis: stacks on measured kernels, and the fit that makes them."""

import shutil

import pytest
from repository import ANCHOR_TREE

from mlsysim import (
    DistributedModel,
    Fleet,
    Hardware,
    Models,
    NetworkFabric,
    Node,
    ParallelismOptimizer,
    Systems,
)
from mlsysim.calibration.evidence import FITTED_BASES
from mlsysim.calibration.stacks import stack, stack_names
from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.fitting.calibration import cases, ranges
from mlsysim.fitting.training import TRAINING
from mlsysim.fitting.written import refit
from mlsysim.systems.fleets import usual_fleet

LLAMA = Models.Language.Llama3_70B
ASKED = {"batch_size": 256, "seq_len": 4096, "tp_size": 8, "pp_size": 2, "recompute": "full", "stack": "megatron-core"}


def fleet(node=Systems.Nodes.DGX_H100, count=32):
    return Fleet(name="fleet", node=node, count=count)


def scaled(peak=1.0, memory=1.0, network=1.0):
    gpu = Hardware.Cloud.H100
    core = gpu.compute
    rates = {name: rate * peak for name, rate in core.precision_flops.items()}
    faster = gpu.model_copy(
        update={
            "compute": core.model_copy(update={"peak_flops": core.peak_flops * peak, "precision_flops": rates}),
            "memory": gpu.memory.model_copy(update={"bandwidth": gpu.memory.bandwidth * memory}),
        }
    )
    node = Node(name="node", accelerator=faster, accelerators_per_node=8, intra_node_bw="900 GB/s")
    return Fleet(name="fleet", node=node, count=32, fabric=NetworkFabric(name="IB", bandwidth=f"{50 * network} GB/s"))


def seconds(result):
    return result.step_latency_total.m_as("second")


@pytest.mark.parametrize("name", stack_names())
def test_every_stack_predicts_a_step_between_the_bound_and_a_tenth_of_it(name):
    asked = {**ASKED, "stack": name}
    step = DistributedModel().solve(LLAMA, fleet(), **asked)
    bound = DistributedModel().solve(LLAMA, fleet(), **{key: value for key, value in asked.items() if key != "stack"})
    assert step.basis in FITTED_BASES
    assert seconds(bound) < seconds(step) < 10 * seconds(bound)
    assert sum(part.m for part in step.breakdown.values()) == pytest.approx(seconds(step))
    assert len(step.coefficients) == len(set(step.coefficients)) > 10


@pytest.mark.parametrize("part", ["peak", "memory", "network"])
def test_faster_hardware_never_slows_a_calibrated_step(part):
    steps = [seconds(DistributedModel().solve(LLAMA, scaled(**{part: factor}), **ASKED)) for factor in (1.0, 1.1, 2.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[-1]


def test_a_slower_attention_kernel_costs_time():
    steps = [
        seconds(DistributedModel().solve(LLAMA, fleet(), **ASKED, attention=kernel))
        for kernel in ("flash", "flash-1", "unfused")
    ]
    assert steps == sorted(steps)


def test_the_search_ranks_by_the_steps_of_single_solves():
    found = ParallelismOptimizer().solve(LLAMA, fleet(), batch_size=256, stack="megatron-core", top_k=20)
    assert found.basis == "calibrated"
    for row in found.ranking:
        alone = DistributedModel().solve(
            LLAMA, fleet(), batch_size=256, stack="megatron-core", tp_size=row["tp"], pp_size=row["pp"]
        )
        assert seconds(alone) == pytest.approx(row["step_latency"].m_as("second"), rel=1e-9)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"efficiency": 0.4}, InconsistentError, "efficiency"),
        ({"overlap_efficiency": 0.5}, InconsistentError, "overlap_efficiency"),
        ({"overlap_comm": False}, InconsistentError, "overlap_efficiency"),
        ({"stack": "megatron-croe"}, UnknownNameError, "did you mean 'megatron-core'"),
        ({"attention": "flesh"}, UnknownNameError, "did you mean 'flash'"),
        ({"precision": "int8"}, InputError, "precision = 'int8': expected one of bf16, fp16, fp8: "),
    ],
)
def test_what_contradicts_a_stack_is_refused(asked, error, says):
    with pytest.raises(error, match=says):
        DistributedModel().solve(LLAMA, fleet(), **{**ASKED, **asked})


def test_what_has_no_measured_kernels_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="Groq LPU"):
        DistributedModel().solve(LLAMA, usual_fleet(Hardware.Cloud.Groq_LPU, 256), **ASKED)


def test_no_stack_is_fitted_with_more_than_six_coefficients_or_beyond_its_ranges():
    from mlsysim.calibration.store import tables

    known = ranges("training")
    for name, entry in tables("stacks.toml").items():
        assert len(entry.get("fit", [])) <= 6
        for part in entry.get("fit", []):
            assert known[part].low <= getattr(stack(name).coefficients, part) <= known[part].high


@pytest.fixture
def some_runs(tmp_path, change_rows):
    """A tree with three small sources, and a way to multiply the measured values of one role."""
    pytest.importorskip("scipy")
    folder = tmp_path / "anchors" / "training"
    folder.mkdir(parents=True)
    for source in ("korthikanti2022", "internevo", "nemotron4"):
        for ending in ("toml", "csv"):
            shutil.copy(ANCHOR_TREE / "training" / f"{source}.{ending}", folder)

    def multiply(role, factor):
        for path in folder.glob("*.csv"):
            change_rows(path, role, lambda row: row | {"value": repr(float(row["value"]) * factor)})

    return tmp_path / "anchors", multiply


def fitted(root):
    """The fitted numbers, without the residuals that are written beside them."""
    return refit(TRAINING, root).values


@pytest.mark.usefixtures("quick_fit")
def test_the_fit_reads_no_validation_row(some_runs):
    root, multiply = some_runs
    before = fitted(root)
    multiply("validation", 3.0)
    assert fitted(root) == before
    multiply("calibration", 1.3)
    assert fitted(root) != before


def test_half_or_more_of_every_role_split_is_validation():
    roles = {role: len(cases(ANCHOR_TREE, ("training",), role)) for role in ("calibration", "validation")}
    assert roles["validation"] >= roles["calibration"]
