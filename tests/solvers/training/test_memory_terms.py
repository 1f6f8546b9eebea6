"""What a stack keeps beyond the textbook: each term by hand, nothing by default, and the published outcomes."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from repository import ROOT

from mlsysim.calibration.stacks import stack, stack_names
from mlsysim.fitting.calibration import cases
from mlsysim.fitting.memory import refit_memory
from mlsysim.lowering.work import training_work
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.layer.work import FULL, NONE, SELECTIVE, kept_activation_B
from mlsysim.physics.plan import GPIPE, ONE_F_ONE_B, Plan
from mlsysim.physics.training.memory import TEXTBOOK, MemoryTerms, training_memory
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet
from mlsysim.tables.predict import predict_table
from mlsysim.validation.anchors.loading import load
from mlsysim.validation.anchors.runner import predict

LAYOUTS = ROOT / "anchors" / "memory" / "hagemann2023_fit.toml"
SEQUENCE, HIDDEN, HEADS, FFN, LAYERS, VOCABULARY = 2048, 4096, 32, 11008, 32, 32000
LLAMA = TransformerWorkload(
    name="Llama", parameters="6.74e9 count", layers=LAYERS, hidden_dim=HIDDEN, heads=HEADS, ffn_hidden=FFN,
    ffn_matrices=3, vocab_size=VOCABULARY,
)  # fmt: skip
WORK = training_work(LLAMA, SEQUENCE)
# The share of runs known to have run that may be called out of memory.
FALSE_OOM = 0.03


def plan(**given):
    usual = dict.fromkeys(("ep", "virtual_stages"), 1.0) | {"tp": 2.0, "pp": 4.0, "dp": 4.0, "micro_batches": 16.0}
    usual |= {"micro_batch_tokens": float(SEQUENCE), "zero_stage": 1.0, "sequence_parallel": 0.0, "recompute": float(NONE)}
    usual |= {"schedule": float(ONE_F_ONE_B), "weight_B": 2.0, "gradient_B": 2.0, "optimizer_B": 12.0}
    usual |= {"cp": 1.0, "expert_tp": 0.0, "shard_copies": 1.0}
    return Plan(**usual | given)


def activations(terms, **given):
    return training_memory(WORK, plan(**given), terms).activations_B


def added(given=None, **terms):
    """Activation bytes that these terms add to the textbook's."""
    return activations(MemoryTerms(**terms), **(given or {})) - activations(TEXTBOOK, **(given or {}))


@pytest.mark.parametrize("recompute", [NONE, SELECTIVE, FULL])
def test_defaults_are_the_textbook(recompute):
    for given in ({}, {"pp": 1.0}, {"schedule": float(GPIPE)}, {"sequence_parallel": 1.0}):
        split = plan(recompute=float(recompute), **given)
        assert training_memory(WORK, split, MemoryTerms()) == training_memory(WORK, split)


def test_selective_recomputation_of_whole_layers():
    """Half of the layers keep all, the other half their input alone."""
    terms, given = MemoryTerms(repeated=0.5), {"pp": 1.0}
    half = (activations(TEXTBOOK, **given) + activations(TEXTBOOK, recompute=float(FULL), **given)) / 2
    assert activations(terms, recompute=float(SELECTIVE), **given) == pytest.approx(half)
    assert activations(terms, **given) == activations(TEXTBOOK, **given)


def test_textbook_by_hand():
    """Weights and gradients 2 n each, optimizer 12 n / dp; p micro-batches of L/p layers; no logits at the first stage."""
    parameters = (LAYERS / 4 * WORK.layer_parameters + WORK.embedding_parameters) / 2
    used = training_memory(WORK, plan())
    assert used.static_B == pytest.approx((2 + 2 + 12 / 4) * parameters)
    assert used.activations_B == pytest.approx(LAYERS * kept_activation_B(WORK, NONE, 2.0, 0.0) * SEQUENCE)


def test_one_more_micro_batch_in_flight():
    layer = kept_activation_B(WORK, NONE, 2.0, 0.0) * SEQUENCE
    assert added(in_flight=1.0) == pytest.approx(LAYERS / 4 * layer)
    assert added({"micro_batches": 4.0}, in_flight=1.0) == 0, "no more than there are"
    assert added({"pp": 1.0}, in_flight=1.0) == 0, "without a pipeline one ends before the next begins"


def test_fragmentation_is_of_what_comes_and_goes():
    fragmented = training_memory(WORK, plan(recompute=float(FULL)), MemoryTerms(fragmentation=1.1))
    whole = training_memory(WORK, plan(recompute=float(FULL)))
    assert fragmented.static_B == whole.static_B
    assert fragmented.activations_B == pytest.approx(1.1 * whole.activations_B)
    assert fragmented.buffers_B == pytest.approx(1.1 * whole.buffers_B)


def test_logits():
    alone = {"pp": 1.0}
    assert added(alone, logit_B=18.0) == pytest.approx(12 * VOCABULARY * SEQUENCE / 2)
    assert added(alone, logits_split=0.0) == pytest.approx(6 * VOCABULARY * SEQUENCE * (1 - 1 / 2))
    assert added(logit_B=18.0) == 0, "the first stage has no head"


def test_norms_and_activation_functions_that_are_not_fused():
    per_micro_batch = LAYERS * SEQUENCE
    assert added(norm_B=12.0) == pytest.approx(12 * HIDDEN * per_micro_batch)
    assert added({"sequence_parallel": 1.0}, norm_B=12.0) == pytest.approx(12 * HIDDEN / 2 * per_micro_batch)
    assert added(ffn_B=2.0) == pytest.approx(2 * FFN / 2 * per_micro_batch)


def test_stored_scores():
    """a s of a token, over TP: 8 a s^2 / t bytes a layer (Korthikanti et al. 2022, section 4.1, counts 5)."""
    assert added(score_B=8.0) == pytest.approx(8 * HEADS * SEQUENCE / 2 * LAYERS * SEQUENCE)


@pytest.mark.parametrize("term", ["norm_B", "ffn_B", "score_B"])
@pytest.mark.parametrize("recompute", [SELECTIVE, FULL])
def test_what_is_recomputed_is_not_kept_but_rebuilt(term, recompute):
    split = plan(recompute=float(recompute))
    more, usual = training_memory(WORK, split, MemoryTerms(**{term: 4.0})), training_memory(WORK, split)
    assert more.activations_B == usual.activations_B
    assert more.buffers_B > usual.buffers_B


# What waits in the host's memory is not on the accelerator: its term takes less, by design.
@pytest.mark.parametrize("term", [part.name for part in fields(MemoryTerms) if part.name != "on_host"])
@pytest.mark.parametrize("pp", [1.0, 4.0])
def test_more_of_a_term_never_takes_less(term, pp):
    before = getattr(TEXTBOOK, term)
    more = replace(TEXTBOOK, **{term: 0.0 if term == "logits_split" else before + 1})
    assert training_memory(WORK, plan(pp=pp), more).total_B >= training_memory(WORK, plan(pp=pp)).total_B


def test_without_a_stack_nothing_is_added(make_fleet):
    given = {"batch_size": 64, "seq_len": SEQUENCE, "tp_size": 2}
    flash, unfused = (
        DistributedModel().solve(LLAMA, make_fleet(count=1), attention=name, **given) for name in ("flash", "unfused")
    )
    assert flash.memory == unfused.memory


@pytest.fixture
def a100s():
    return Fleet(name="8 A100", node=Systems.Nodes.get("dgx_a100_80"), count=1)


def test_a_stack_adds_what_it_keeps(a100s):
    def bytes_of(stack_name, **given):
        given = {"batch_size": 64, "seq_len": SEQUENCE, "pp_size": 4, "recompute": "none"} | given
        return DistributedModel().solve(LLAMA, a100s, stack=stack_name, **given).memory_per_accelerator.m_as("byte")

    textbook, fused, plain = (bytes_of(name) for name in (None, "aleph-alpha-scaling-rms", "aleph-alpha-scaling"))
    assert textbook < fused < plain
    flash, softmax, unfused = (
        bytes_of("aleph-alpha-scaling", attention=name) for name in ("flash", "fused-softmax", "unfused")
    )
    assert flash < softmax < unfused


def test_recomputation_is_chosen_with_the_stacks_memory(a100s):
    """What fits by the textbook and not with what the stack keeps is recomputed."""

    def solve(stack_name):
        given = {"batch_size": 64, "seq_len": SEQUENCE, "microbatch_count": 4, "pp_size": 2}
        return DistributedModel().solve(LLAMA, a100s, stack=stack_name, **given)

    textbook, stacked = solve(None), solve("aleph-alpha-scaling")
    assert (textbook.plan["recompute"], stacked.plan["recompute"]) == ("none", "selective")
    assert textbook.feasible
    assert stacked.feasible


def test_fitting_keeps_what_is_stated_of_memory():
    found = refit_memory(ROOT / "anchors")
    assert not found.moved
    assert found.changes["stacks.toml"][("aleph-alpha-scaling",)]["memory"]["logits_split"] == 0


@pytest.mark.parametrize("name", stack_names())
def test_stacks_store_scores_only_where_the_kernel_does(name):
    assert [stack(name).memory_terms(kernel).score_B for kernel in ("flash", "flash-1")] == [0, 0]
    assert min(stack(name).memory_terms(kernel).score_B for kernel in ("unfused", "fused-softmax")) > 0


def test_runs_that_ran_are_seldom_called_out_of_memory():
    anchors = [anchor for role in ("calibration", "validation") for anchor in cases(ROOT / "anchors", ("training",), role)]
    missed = [anchor.id for anchor in anchors if anchor.case.expect_feasible and not predict(anchor).feasible]
    assert len(missed) <= FALSE_OOM * len(anchors), missed


def test_layouts_that_fit_are_seldom_called_out_of_memory():
    anchors = [anchor for anchor in load(LAYOUTS) if anchor.case.outcome == "fits"]
    missed = [anchor.id for anchor in anchors if not predict(anchor).feasible]
    assert len(missed) <= FALSE_OOM * len(anchors), missed


def test_a_table_of_layouts_gets_the_anchors_predictions():
    """``mlsysim predict`` reads models by size and kernels by name, the anchors their architectures: one memory."""
    recompute = {"none": "disabled", "full": "every_layer"}
    anchors = load(LAYOUTS)[::10]
    rows = []
    for anchor in anchors:
        run = anchor.case.run
        row = {
            name: run[name] for name in ("n_accel", "seq_len", "micro_batch", "tp", "pp", "sequence_parallel", "accelerator")
        }
        row |= {"model": run["model"].split()[1], "kernel": run["variant"]}
        rows.append(row | {"activation_checkpointing": recompute[run["recompute"]]})
    assert [row["predicted"] for row in predict_table(rows)] == [predict(anchor).predicted for anchor in anchors]
