"""``ScalingModel`` beyond the rule of thumb, its tables, and the intervals of its losses."""

from __future__ import annotations

import csv

import pytest
from repository import ANCHOR_TREE

from mlsysim import predict_table
from mlsysim.calibration.operations.scaling_laws import BEYOND, DATASET, FILE, WITHIN, data_set_law
from mlsysim.core.errors import InconsistentError, InputError, MissingArgumentError, UnitError, UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.solvers.operations.scaling import ScalingModel

RUN = {"parameters": "1e9 count", "tokens": "50e9 count"}


def scale(**asked):
    return ScalingModel().solve(**asked)


@pytest.mark.parametrize(
    ("argument", "message", "asked"),
    [
        ("compute_budget", "FLOP, or a run's", {}),
        ("tokens", "a count beside", {"parameters": "1e9 count"}),
        ("parameters", "a count beside", {"tokens": "1e9 count"}),
        ("parameters", "count", {"parameters": "16 GB", "tokens": "1e9 count"}),
        ("tokens", "at least 1 count", {"parameters": "1e9 count", "tokens": "0.5 count"}),
        ("law", "hoffmann", {"compute_budget": "1e23 flop", "law": "hofman"}),
        ("law", "parametric", {"compute_budget": "1e23 flop", "inference_tokens": "1e12 count"}),
        ("law", "parametric", {"compute_budget": "1e23 flop", "inference_tokens": "1e12 count", "law": "chinchilla-1"}),
        ("dataset", "RedPajama", {**RUN, "dataset": "RedPyjama"}),
        ("measured_on", "C4 validation", {**RUN, "dataset": "C4", "measured_on": "Pile"}),
        ("measured_on", "dataset", {**RUN, "measured_on": "C4 validation"}),
        ("unique_tokens", "parameters and tokens", {"compute_budget": "1e23 flop", "unique_tokens": "1e9 count"}),
        ("unique_tokens", "at least 1", {**RUN, "unique_tokens": "0.1 count"}),
        ("unique_tokens", "compute alone", {**RUN, "unique_tokens": "1e9 count", "dataset": "Pile"}),
        ("compute_budget", "one parameter", {"compute_budget": "1e-3 flop", "law": "besiroglu"}),
    ],
)
def test_what_is_refused_is_named(argument, message, asked):
    with pytest.raises(InputError, match=message) as caught:
        scale(**asked)
    assert caught.value.argument == argument
    assert isinstance(caught.value, (InconsistentError, MissingArgumentError, UnitError, UnknownNameError, InputError))


def test_a_loss_needs_a_named_data_set():
    assert scale(**RUN).loss is None
    assert scale(**RUN).interval is None
    assert 2 < scale(**RUN, dataset="RedPajama").loss < 4


def test_a_loss_has_an_interval_that_widens_beyond_what_was_fitted():
    near = scale(**RUN, dataset="rpj")
    far = scale(parameters="100e9 count", tokens="2e12 count", dataset="rpj")
    further = scale(parameters="10000e9 count", tokens="200e12 count", dataset="rpj")
    widths = [one.interval.high / one.interval.low for one in (near, far, further)]
    assert widths == sorted(set(widths))
    assert near.interval.low < near.loss < near.interval.high
    assert "beyond" in far.interval.scope
    assert "beyond" not in near.interval.scope
    assert near.to_dict()["interval"]["runs"] == near.interval.runs


def test_a_data_set_takes_the_parametric_law_that_is_asked_for():
    """The two laws of the same runs differ by about a hundredth, and both lie far above another data set's."""
    by = {law: scale(**RUN, dataset="MassiveText", law=law).loss for law in ("hoffmann", "besiroglu", "chinchilla-1")}
    assert by["besiroglu"] == by["chinchilla-1"] != by["hoffmann"]
    assert by["hoffmann"] == pytest.approx(by["besiroglu"], rel=0.02)


def test_overtraining_is_told_by_parametric_laws_alone():
    assert scale(**RUN, law="chinchilla-1").overtraining is None
    best = scale(compute_budget="1e22 flop", law="besiroglu")
    same = scale(parameters=best.optimal_parameters, tokens=best.optimal_tokens, law="besiroglu")
    assert same.overtraining == pytest.approx(1, abs=1e-9)
    assert scale(parameters="8e9 count", tokens="15e12 count", law="besiroglu").overtraining > 3


def test_a_model_that_is_to_answer_is_smaller():
    sizes = []
    for answers in ("1e9 count", "1e12 count", "1e13 count"):
        best = scale(compute_budget="1e23 flop", law="besiroglu", inference_tokens=answers)
        sizes.append(best.optimal_parameters.m_as("count"))
        assert 0 <= best.lifetime_saving < 1
    assert sizes == sorted(sizes, reverse=True)
    alone = scale(compute_budget="1e23 flop", law="besiroglu").optimal_parameters
    assert sizes[0] == pytest.approx(alone.m_as("count"), rel=1e-3)


def test_tokens_that_repeat_are_worth_less():
    repeated = scale(**RUN, unique_tokens="5e9 count", dataset="MassiveText", law="besiroglu")
    assert repeated.effective_tokens.m_as("count") < 50e9
    assert repeated.loss > scale(**RUN, dataset="MassiveText", law="besiroglu").loss
    assert "memory" in repeated.diagnostics[0]
    assert scale(**RUN, unique_tokens="60e9 count").effective_tokens.m_as("count") == 50e9


ROW = dict.fromkeys(("kind", "law", "dataset", "params_b", "params_nonembed_b", "tokens_b", "flops", "loss_metric"), "")
LOSS = {"kind": "run", "dataset": "rpj", "params_b": "1.44", "params_nonembed_b": "1.34", "tokens_b": "28.8"}


def predicted(**cells):
    return predict_table([ROW | cells])[0]


def test_a_table_of_losses():
    row = predicted(**LOSS, loss_metric="nats/token on open_lm_val")
    same = scale(parameters="1.34e9 count", tokens="28.8e9 count", dataset="RedPajama", measured_on="OpenLM validation")
    assert row["predicted"] == pytest.approx(same.loss)
    assert row["low"] < row["predicted"] < row["high"]
    assert (row["basis"], row["reason"], row["assumed"]) == ("law", "", "")
    lacking = predicted(**LOSS | {"params_nonembed_b": ""}, loss_metric="nats/token on c4_val")
    assert lacking["assumed"] == "params_nonembed_b=1.44"


def test_a_table_of_optima():
    row = predicted(kind="optimal_allocation", law="approach3", flops="1.62e20", params_b="7", tokens_b="7")
    assert row["predicted"] == pytest.approx(1, rel=0.04)
    assert row["low"] == ""


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"kind": "model"}, "kind = 'model'"),
        ({"kind": "run"}, "dataset = ''"),
        ({"kind": "run", "dataset": "DCLM"}, "dataset = 'DCLM'"),
        ({"kind": "run", "dataset": "MassiveText", "tokens_b": "1"}, "params_b = ''"),
        ({"kind": "optimal_allocation", "law": "Kaplan 2020", "flops": "1e21"}, "law = 'Kaplan 2020'"),
        ({"kind": "optimal_allocation", "law": "approach1"}, "flops = ''"),
    ],
)
def test_a_row_that_no_law_is_for_says_why(cells, reason):
    row = predicted(**cells)
    assert row["predicted"] == ""
    assert row["reason"].startswith(reason)


def calibration_rows(law):
    with (ANCHOR_TREE / "scaling_loss" / "overtraining.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["role"] == "calibration"]
    return [row for row in rows if (row["solve.dataset"], row["solve.measured_on"]) == (law.trained_on, law.measured_on)]


FITTED = [name for name, entry in packaged_toml("calibration", FILE)[DATASET].items() if "fit" in entry]


@pytest.mark.parametrize("name", FITTED)
def test_a_law_knows_what_it_was_fitted_to(name):
    entry = packaged_toml("calibration", FILE)[DATASET][name]
    law = data_set_law(entry["trained_on"], entry["measured_on"])
    rows = calibration_rows(law)
    assert rows
    for part in ("parameters", "tokens"):
        counts = [float(row[f"solve.{part}"].split()[0]) for row in rows]
        assert getattr(law, part) == pytest.approx((min(counts), max(counts)))


def test_the_role_of_a_loss_is_told_by_its_multiplier():
    with (ANCHOR_TREE / "scaling_loss" / "overtraining.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            multiplier = float(row["locator"].removesuffix(".json").rpartition("-")[2])
            fitted = multiplier in (0.25, 1, 4, 16) and "open_lm_7b" not in row["locator"]
            assert row["role"] == ("calibration" if fitted else "validation"), row["id"]


def test_the_widths_of_intervals_are_what_rows_say():
    pytest.importorskip("scipy", reason="fits need scipy: pip install mlsysim-anchors[fit]")
    from mlsysim.fitting.operations.scaling import beyond, within

    stated = packaged_toml("calibration", FILE)
    for study, name in ((within, WITHIN), (beyond, BEYOND)):
        errors = study(ANCHOR_TREE)
        assert errors.points == stated[name]["runs"]
        assert errors.median / 100 == pytest.approx(stated[name]["median"], rel=0.02)
        assert errors.p90 / 100 == pytest.approx(stated[name]["p90"], rel=0.02)
