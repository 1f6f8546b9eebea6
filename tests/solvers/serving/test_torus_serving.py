"""Layers divided over a torus of chips: which layout, what it sends, and what a server of them does."""

from __future__ import annotations

import pytest

from mlsysim.core.errors import InconsistentError
from mlsysim.lowering.serving_kernels import calibrated_passes
from mlsysim.models.registry import Models
from mlsysim.physics.serving.torus_partition import Torus, divided, exchange_s, layouts, volume_B
from mlsysim.solvers.serving.serving import ServingModel, checked_question
from mlsysim.tables.predict import predict_table
from mlsysim.tables.serving import serving_question

CUBE = Torus((4, 4, 4), 270e9, 1e-6, 1e-6)
E, F = 18432.0, 73728.0
PALM = {"into": 160256.0, "out": 86016.0, "blocks": 1.0, "weight_B": 2.0}
ROW = {
    "model": "PaLM-540B",
    "accelerator": "TPU v4",
    "n_accel": "64",
    "weight_precision": "int8",
    "kv_precision": "bf16",
    "input_len": "1984",
    "output_len": "64",
    "batch_or_concurrency": "64",
    "engine": "JAX/Pathways custom",
    "year": "2022",
    "mode": "static",
}


def layout(name, split=()):
    return next(found for found in layouts(3) if found.name == name and found.split == split)


def served(**cells):
    asked = serving_question({**ROW, "metric": "itl_ms", **cells})
    return ServingModel().solve(asked.workload, asked.hardware, **asked.arguments)


def test_two_dimensions_send_as_the_paper_counts():
    """2 T (E / X + F X / n) elements, which X = sqrt(n E / F) = 4 makes 8 T E / sqrt(n) for F = 4 E (section 3.2.2)."""
    sent = volume_B(layout("2D weight-stationary", (0,)), CUBE, 1.0, E, F, 2.0)
    assert sent == pytest.approx(2 * 8 * E / 64**0.5)


@pytest.mark.parametrize(("count", "among"), [(1, 4), (2, 16)])
def test_gathered_weights_cost_the_same_for_any_tokens(count, among):
    gathered = layouts(3)[-4 + count]
    none, some = (volume_B(gathered, CUBE, tokens, E, F, 1.0) for tokens in (0.0, 64.0))
    assert none == pytest.approx(2 * E * F * among / 64)
    assert some - none == pytest.approx(2 * 2 * 64 * E / among)


def test_more_tokens_gather_weights_over_more_chips():
    among = [divided(CUBE, 10.0**power, E, F, **PALM).among for power in range(1, 8)]
    assert among == sorted(among)
    assert (among[0], among[-1]) == (1.0, 64.0)


def test_one_chip_sends_nothing():
    alone = Torus((1, 1, 1), 270e9, 1e-6, 1e-6)
    found = divided(alone, 64.0, E, F, **PALM)
    assert (found.covered_s, found.bare_s, found.waits_s, exchange_s(alone, 64.0, E)) == (0.0, 0.0, 0.0, 0.0)


def test_open_rings_are_slower():
    cut = Torus((4, 4, 4), 270e9, 1e-6, 1e-6, closed=False)
    for tokens in (64.0, 1e6):
        whole, part = (divided(torus, tokens, E, F, **PALM) for torus in (CUBE, cut))
        assert part.covered_s + part.bare_s > whole.covered_s + whole.bare_s
    assert exchange_s(cut, 1e6, E) > exchange_s(CUBE, 1e6, E)


def test_one_key_head_is_read_by_sequence():
    """Multi-query attention divided by heads leaves every chip the whole cache to read (section 3.3)."""
    asked = serving_question({**ROW, "metric": "itl_ms"})
    heads = ServingModel().solve(asked.workload, asked.hardware, **{**asked.arguments, "attention_dp": False})
    own = served()
    assert heads.breakdown["attention"].m > 20 * own.breakdown["attention"].m
    assert heads.max_batch * 60 < own.max_batch


def test_heads_are_padded_to_divide():
    """48 heads on 64 chips weigh as 64: 18e9 parameters more (section 4)."""
    own, model = served(batch_or_concurrency="1", output_len="", input_len="1"), Models.get("palm_540b")
    empty_B = own.memory_per_accelerator.m_as("byte") * 64 - own.weights.m_as("byte") - own.kv_cache.m_as("byte")
    tables_B = model.vocab_size * model.hidden_dim
    assert empty_B - tables_B == pytest.approx(17.8e9, rel=0.01)


def test_transfers_are_cut_where_that_pays():
    """A layer takes no longer than its products and, one after the other, all of its transfers, and no less than either."""
    asked = serving_question({**ROW, "metric": "itl_ms"})
    passes = calibrated_passes(checked_question((asked.workload, asked.hardware), asked.arguments)[0].deployment)
    for tokens in (64.0, 2048.0, 1e5, 1e6):
        found = passes.layout(tokens)
        products_s, exposed_s = passes._covered(tokens, found)
        whole_s = passes._products_s(tokens, found, 1.0)
        assert whole_s * (1 - 1e-9) <= products_s + exposed_s <= whole_s + found.bare_s + found.covered_s
        assert products_s + exposed_s >= found.bare_s + found.covered_s


def test_larger_batches_reach_more_of_the_peak():
    shares = [served(batch_or_concurrency=str(batch), output_len="", input_len="2048").prefill_mfu for batch in (1, 8, 64, 512)]
    assert shares == sorted(shares)
    assert shares[-1] < 1


def test_more_chips_are_faster_but_less_than_in_proportion():
    times = [served(n_accel=str(chips), input_len="512").itl.m_as("ms") for chips in (32, 64, 128)]
    assert times[0] > times[1] > times[2] > times[1] / 2


def test_a_published_row_is_predicted_by_its_engine():
    (row,) = predict_table([{**ROW, "metric": "itl_ms"}])
    assert (row["stack_used"], row["feasible"], row["basis"]) == ("pope2022", True, "transferred"), "no figure of it is fitted"
    assert row["predicted"] > 0


def test_experts_have_no_such_layout():
    with pytest.raises(InconsistentError, match=r"pope2022.*mixtures of experts"):
        served(model="Mixtral-8x7B", n_accel="8")
