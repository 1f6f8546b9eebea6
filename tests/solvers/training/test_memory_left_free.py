"""Memory that a plan leaves free, what a search leaves for what predictions miss, and gradients as a stack accumulates them."""

from __future__ import annotations

import numpy as np
import pytest
from repository import ROOT

from mlsysim import DistributedModel, Fleet, InputError, Models, ParallelismOptimizer, Systems
from mlsysim.calibration.memory import plan_margin, usable_memory_B
from mlsysim.fitting.memory import MARGINS, MOST_LOST, layouts, memory_anchors
from mlsysim.lowering.training_setting import training_formats
from mlsysim.tables.training import question

LLAMA, FLEET = Models.Language.Llama3_8B, Fleet(name="16 H100", node=Systems.Nodes.DGX_H100, count=2)
ASKED = {"batch_size": 32, "seq_len": 4096}


def gradients_B(**given):
    """Bytes of gradients that each of 16 ranks keeps a parameter, without tensor or pipeline parallelism."""
    step = DistributedModel().solve(LLAMA, FLEET, **ASKED, **given)
    return step.memory["gradients"].m_as("byte") / LLAMA.parameter_count


@pytest.mark.parametrize(
    ("given", "each_B"),
    [
        ({}, 2),
        ({"efficiency": 0.4}, 2),
        ({"stack": "megatron-core"}, 4),
        ({"stack": "megatron-core", "precision": "fp8"}, 4),
        ({"stack": "megatron-core", "precision": "fp16"}, 2),
        ({"stack": "megatron-core", "gradient_precision": "bf16"}, 2),
        ({"stack": "megatron-2022"}, 4),
        ({"stack": "megatron-2021"}, 2),
        ({"stack": "deepspeed-zero3"}, 2),
        ({"efficiency": 0.4, "gradient_precision": "fp32"}, 4),
    ],
)
def test_gradients_are_as_the_stack_accumulates_them(given, each_B):
    assert gradients_B(**given) == pytest.approx(each_B, rel=1e-3)


def test_gradients_of_full_precision_are_its_own():
    assert training_formats("fp32", None, accumulated="fp32").gradient_B == 4
    assert training_formats("fp64", None, accumulated="fp32").gradient_B == 8


def test_published_runs_reduce_in_16_bits_as_their_recipes_say():
    row = {
        "framework": "Megatron-Bridge",
        "model": "Llama3 8B",
        "accelerator": "H100-SXM-80GB",
        "n_accel": "8",
        "seq_len": "8192",
    }
    row |= {"global_batch_seqs": "128", "metric": "tokens_per_s_per_accel", "precision": "bf16"}
    assert question(row).arguments["gradient_precision"] == "bf16"
    assert "gradient_precision" not in question(row | {"framework": "torchtitan"}).arguments


def test_what_is_free_and_what_is_used_are_what_is_usable():
    usable_B = usable_memory_B(FLEET.node.accelerator.memory_capacity_B)
    fits = DistributedModel().solve(LLAMA, FLEET, **ASKED, tp_size=2, stack="megatron-core", recompute="full")
    assert fits.memory_free.m_as("byte") == pytest.approx(usable_B - fits.memory_per_accelerator.m_as("byte"))
    over = DistributedModel().solve(LLAMA, FLEET, batch_size=16, seq_len=65536, recompute="none", stack="megatron-core")
    assert not over.feasible
    assert over.memory_free.m_as("byte") == 0


def plan(**given):
    return ParallelismOptimizer().solve(LLAMA, FLEET, **ASKED, **{"stack": "megatron-core", **given})


def test_a_search_leaves_the_margin_free():
    usable_B = usable_memory_B(FLEET.node.accelerator.memory_capacity_B)
    whole, usual, half = plan(margin=0), plan(), plan(margin=0.5)
    assert whole.total_feasible >= usual.total_feasible > half.total_feasible > 0
    for found, share in ((usual, plan_margin()), (half, 0.5)):
        assert all(row["memory"].m_as("byte") <= (1 - share) * usable_B for row in found.ranking)
        assert found.best.memory_free.m_as("byte") >= share * usable_B
        assert f"every plan leaves {100 * share:g} % of the usable memory free (margin)" in found.diagnostics
    assert not any("margin" in note for note in whole.diagnostics)
    assert plan(stack=None, efficiency=0.4).to_dict() == plan(stack=None, efficiency=0.4, margin=0).to_dict()


@pytest.mark.parametrize("margin", [-0.1, 1.0, "much", float("nan")])
def test_a_margin_that_is_no_share_is_refused(margin):
    with pytest.raises(InputError, match="margin"):
        plan(margin=margin)


def test_the_margin_is_the_least_that_calibration_layouts_justify():
    """The rule by another route: each layout's memory over what is usable, one by one."""
    used, ran = [], []
    for group in layouts(memory_anchors(ROOT / "anchors", "calibration")):
        shares = [share for share in MARGINS if share < 1]
        fits = np.array([np.atleast_1d(group.fits({}, share)) for share in shares])
        used.extend(fits.T)
        ran.extend(np.atleast_1d(group.ran))
    lost = [sum(fits[place] and not ok for fits, ok in zip(used, ran, strict=True)) for place in range(len(MARGINS))]
    called = [sum(fits[place] for fits in used) for place in range(len(MARGINS))]
    justified = [margin for margin, bad, all_of in zip(MARGINS, lost, called, strict=True) if bad <= MOST_LOST * all_of]
    assert plan_margin() == pytest.approx(justified[0])
    assert 0 < plan_margin() < 0.1
