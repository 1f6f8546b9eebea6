"""Devices, engines and models predicted without themselves: nothing that was measured of them may reach the fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting import engine_tables, leave_out_serving
from mlsysim.fitting import engines as fit_engines
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.leave_out_serving import entry_id, left_out
from mlsysim.validation.report import accuracy

pytest.importorskip("scipy", reason="fits need SciPy: pip install 'mlsysim-anchors[fit]'")

ROOT = Path(__file__).parents[1] / "anchors"
# Their fits take a second; they share no coefficient with other engines.
ENGINES = ("fastertransformer", "fastertransformer-bert", "tensorrt-llm-0.5")
PARTS = [("device", "t4"), ("model", "BERT-6B"), ("engine", "fastertransformer-bert")]


@pytest.fixture(scope="module")
def cases():
    return [case for case in leave_out_serving.cases_of(ROOT) if case.engine in ENGINES]


def poisoned(cases, which):
    """The same cases, the figures of some three times as large."""
    return [
        replace(
            case, anchor=replace(case.anchor, case=case.anchor.case.model_copy(update={"value": 3 * case.anchor.case.value}))
        )
        if which(case)
        else case
        for case in cases
    ]


def coefficients(entry):
    return entry["engines"], entry["devices"]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_what_is_left_out_changes_nothing_of_its_fit(cases, kind, name):
    clean = left_out(kind, name, cases)
    dirty = left_out(kind, name, poisoned(cases, lambda case: getattr(case, kind) == name))
    assert coefficients(clean) == coefficients(dirty)
    assert clean["errors"]["points"] == dirty["errors"]["points"] > 0
    assert clean["errors"]["bias"] != dirty["errors"]["bias"]


def test_figures_of_peers_change_the_engine_that_has_none(cases):
    clean = left_out("engine", "fastertransformer-bert", cases)
    dirty = left_out("engine", "fastertransformer-bert", poisoned(cases, lambda case: case.engine == "tensorrt-llm-0.5"))
    assert clean["engines"] != dirty["engines"]


def test_validation_figures_change_nothing_of_any_fit(cases):
    dirty = poisoned(cases, lambda case: case.anchor.case.role == "validation")
    assert coefficients(left_out("device", "t4", cases)) == coefficients(left_out("device", "t4", dirty))


def test_a_device_without_figures_forgets_what_was_fitted_to_them(cases):
    found, stated = left_out("device", "t4", cases)["devices"]["t4"], fit_engines.stated()["device"]
    assert all(found[part] != stated["t4"][part] for part in stated["t4"]["fit"])
    # Its one peer states no power limit.
    assert found["sustained_share"] == fit_engines.DEVICE_RANGES["sustained_share"].start
    assert found["fp32_share"] == pytest.approx(stated["a100_sxm"]["fp32_share"], rel=0.05)


def test_shares_that_no_figure_places_are_the_median_of_the_peers():
    devices = {
        "a": {"fit": ["own_memory_share", "compute_share"], "peers": ["b", "c", "d"]},
        "b": {"own_memory_share": 0.5, "compute_share": 0.7},
        "c": {"own_memory_share": 0.7},
        "d": {"own_memory_share": 0.1, "compute_share": 0.8},
    }
    unknown = {"device a own_memory_share", "device a compute_share", "device d own_memory_share"}

    def share(part):
        return leave_out_serving._share_of_peers(devices, "a", part, unknown)

    assert share("own_memory_share") == pytest.approx(0.6)
    assert share("compute_share") == pytest.approx(0.8)
    assert share("link_share") == 1.0
    devices["a"]["peers"] = ["d"]
    assert share("own_memory_share") == fit_engines.DEVICE_RANGES["own_memory_share"].start


def test_an_entry_that_physics_has_left_behind_is_told(cases):
    entry = left_out("device", "t4", cases)
    entries = {entry_id("device", "t4"): entry}
    entries |= leave_out_serving.pooled(leave_out_serving.errors([entry], cases))
    assert leave_out_serving.stale(entries, cases) == ""
    moved = entries | {"device t4": entry | {"errors": entry["errors"] | {"median": 0.5}}}
    assert leave_out_serving.stale(moved, cases).startswith("device t4: errors median 0.5 -> ")


def test_what_no_case_has_is_named(cases):
    with pytest.raises(UnknownNameError, match="t5"):
        left_out("device", "t5", cases)


@pytest.mark.parametrize("kind", ["engine", "device"])
def test_what_is_fitted_has_peers(kind):
    known = fit_engines.stated()[kind]
    for name, entry in known.items():
        assert entry.get("peers") or not entry.get("fit"), name
        assert name not in entry.get("peers", ())
        assert set(entry.get("peers", ())) <= set(known)


def test_choices_together_are_what_each_gives_alone():
    anchors = fit_engines.serving_anchors(ROOT, "calibration")
    kinds = {run.schedule: run for run in fit_engines.gathered(anchors) if len(run.measured) > 2}
    assert set(kinds) == {"static", "continuous", "offline"}
    tables = fit_engines.stated()
    for run in kinds.values():
        engine, device = (
            engine_tables.coefficients_of(tables["engine"], run.stack),
            engine_tables.device_of(run, tables["device"]),
        )
        engines = [engine, replace(engine, layer_s=1.5e-4), replace(engine, compute_share=0.7, sequence_s=3e-5)]
        alone = [run.predicted(one, device) for one in engines]
        assert run.together(engines, device) == pytest.approx(np.array(alone), rel=1e-12)


@pytest.mark.parametrize("stack", ["llama.cpp-2025", "tensorrt-llm-1.2"])
def test_a_column_for_each_coefficient_also_of_the_engine_that_it_is_like(stack):
    anchors = fit_engines.serving_anchors(ROOT, "calibration")
    runs = [run for run in fit_engines.gathered(anchors) if run.stack == stack]
    tables = fit_engines.stated()
    keys = [*sorted(fit_engines.keys_of(runs, tables)), "engine llama.cpp-2024 passes", "engine vllm-2025 layer_s"]
    places = [key.split(" ") for key in keys]
    values = {key: tables[kind][name][part] for key, (kind, name, part) in zip(keys, places, strict=True)}
    changed = {key: 1.1 * value for key, value in values.items()}
    columns = engine_tables.varied(runs, tables, values, changed)
    for column, (key, (kind, name, part)) in zip(columns.T, zip(keys, places, strict=True), strict=True):
        trial = fit_engines.stated()
        trial[kind][name][part] = changed[key]
        assert column == pytest.approx(fit_engines.predicted(runs, trial), rel=1e-12)


def test_slopes_of_all_coefficients_at_once_end_where_those_of_each_do():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    ranges = {"a": Coefficient(2.0, 0.1, 10.0), "b": Coefficient(1e-2, 1e-4, 1.0, log=True)}

    def predict(values):
        return values["a"] * x + values["b"] * x**2

    def varied(values, changed):
        return np.stack([predict({**values, name: changed[name]}) for name in changed], axis=-1)

    measured = 3 * x + 0.2 * x**2
    one, other = fit(predict, measured, ranges, pull=0.01), fit(predict, measured, ranges, pull=0.01, varied=varied)
    assert one.values == pytest.approx(other.values, rel=1e-3)


def test_what_no_row_identifies_goes_to_its_prior_not_to_its_start():
    x = np.array([1.0, 2.0])
    free = {"a": Coefficient(4.0, 0.1, 10.0, prior=2.0)}
    assert fit(lambda c: 3 * x + 0 * c["a"], 2 * x, free, pull=0.03).values["a"] == pytest.approx(2.0, abs=1e-3)


def test_the_page_shows_each_beside_all_of_its_kind():
    errors = {"points": 4, "median": 0.05, "mean": 0.06, "p90": 0.1, "bias": -0.01}
    entries = [
        {"id": "devices", "kind": "device", "errors": errors, "first_token": {"points": 0}},
        {"id": "device t4", "kind": "device", "without": "t4", "errors": errors, "first_token": errors},
    ]
    text = accuracy.as_markdown([], [], [], [], entries)
    assert "| device | **each device** | 4 | 5.0 % | 6.0 % | 10.0 % | -1.0 % | 0 | - |" in text
    assert "| device | t4 | 4 | 5.0 % | 6.0 % | 10.0 % | -1.0 % | 4 | 5.0 % |" in text
