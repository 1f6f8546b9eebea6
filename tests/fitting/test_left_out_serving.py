"""Devices, engines and models predicted without themselves: nothing that was measured of them may reach the fit."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from repository import ANCHOR_TREE

from mlsysim.calibration.devices import queried_clock
from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting import engines, left_out_serving
from mlsysim.fitting.calibration import Key, ranges
from mlsysim.fitting.left_out_serving import entry_id, left_out
from mlsysim.validation.report import accuracy
from mlsysim.validation.report.findings import Findings

pytest.importorskip("scipy", reason="fits need SciPy: pip install 'mlsysim-anchors[fit]'")

# Their fits take a second; they share no coefficient with other engines.
ENGINES = ("fastertransformer", "fastertransformer-bert", "tensorrt-llm-0.5")
PARTS = [("device", "t4"), ("model", "BERT-6B"), ("engine", "fastertransformer-bert")]


@pytest.fixture(scope="module")
def cases():
    return [case for case in left_out_serving.cases_of(ANCHOR_TREE) if case.engine in ENGINES]


@pytest.fixture(scope="module")
def clean(cases):
    """What is left out of fits to the figures as they are."""
    return functools.cache(lambda kind, name: left_out(kind, name, cases))


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
def test_what_is_left_out_changes_nothing_of_its_fit(cases, clean, kind, name):
    found = clean(kind, name)
    dirty = left_out(kind, name, poisoned(cases, lambda case: getattr(case, kind) == name))
    assert coefficients(found) == coefficients(dirty)
    assert found["errors"]["points"] == dirty["errors"]["points"] > 0
    assert found["errors"]["bias"] != dirty["errors"]["bias"]


def test_figures_of_peers_change_the_engine_that_has_none(cases, clean):
    dirty = left_out("engine", "fastertransformer-bert", poisoned(cases, lambda case: case.engine == "tensorrt-llm-0.5"))
    assert clean("engine", "fastertransformer-bert")["engines"] != dirty["engines"]


def test_an_engine_without_figures_keeps_what_it_takes_from_the_one_that_it_is_like(cases):
    tables, name = engines.ENGINES.tables(), "fastertransformer-bert-int8v1"
    tables["engine"][name] |= {"peers": ["fastertransformer-bert"], "scaling_s": 1.0}
    before = dict(tables["engine"][name])
    runs = engines.runs_of(case.anchor for case in cases if case.anchor.case.role == "calibration")
    left_out_serving.to_prior(runs, tables, {Key("engine", name, "scaling_s")})
    changed = {part for part, value in tables["engine"][name].items() if before.get(part) != value}
    assert changed == {"scaling_s"}
    near = tables["engine"]["fastertransformer-bert"]["scaling_s"]
    assert tables["engine"][name]["scaling_s"] == pytest.approx(near, rel=0.3)


def test_of_three_peers_an_engine_without_figures_has_the_median_of_what_they_fit(cases):
    tables, name, values = engines.ENGINES.tables(), "fastertransformer-bert-int8v1", (1e-5, 9e-5, 3e-5)
    known = tables["engine"]
    for peer, layer_s in zip(ENGINES, values, strict=True):
        known[peer] |= {"layer_s": layer_s, "fit": ["layer_s"], "kernel_s": 2e-5}
    known[name] |= {"peers": list(ENGINES), "like": "tensorrt-llm", "fit": ["layer_s"], "passes": 3.0}
    runs = engines.runs_of(case.anchor for case in cases if case.anchor.case.role == "calibration")
    left_out_serving.to_prior(runs, tables, {Key("engine", name, "layer_s")})
    assert known[name]["layer_s"] == 3e-5
    assert known[name]["passes"] == 3.0  # stated
    assert known[name]["kernel_s"] == pytest.approx(2e-5)  # fitted by none


def test_an_engine_without_figures_keeps_what_it_states(cases):
    tables, name = engines.ENGINES.tables(), "fastertransformer-bert-int8v1"
    tables["engine"][name] |= {"peers": ["fastertransformer"], "like": "tensorrt-llm", "memory_share": 0.5}
    runs = engines.runs_of(case.anchor for case in cases if case.anchor.case.role == "calibration")
    left_out_serving.to_prior(runs, tables, {Key("engine", name, "scaling_s")})
    assert tables["engine"][name]["memory_share"] == 0.5
    assert tables["engine"][name]["layer_s"] != tables["engine"]["tensorrt-llm"]["layer_s"]


def test_validation_figures_change_nothing_of_any_fit(cases, clean):
    dirty = poisoned(cases, lambda case: case.anchor.case.role == "validation")
    assert coefficients(clean("device", "t4")) == coefficients(left_out("device", "t4", dirty))


def test_a_device_without_figures_forgets_what_was_fitted_to_them(clean):
    found, stated = clean("device", "t4")["devices"]["t4"], engines.ENGINES.tables()["device"]
    assert all(found[part] != stated["t4"][part] for part in stated["t4"]["fit"])
    # Its one peer states no power limit.
    assert found["sustained_share"] == ranges("engines", "device")["sustained_share"].start
    assert found["fp32_share"] == pytest.approx(stated["a100_sxm"]["fp32_share"], rel=0.05)


def test_shares_that_no_figure_places_are_the_median_of_the_peers():
    devices = {
        "a": {"fit": ["own_memory_share", "compute_share"], "peers": ["b", "c", "d"]},
        "b": {"own_memory_share": 0.5, "compute_share": 0.7},
        "c": {"own_memory_share": 0.7},
        "d": {"own_memory_share": 0.1, "compute_share": 0.8},
    }
    unknown = {
        Key("device", "a", "own_memory_share"),
        Key("device", "a", "compute_share"),
        Key("device", "d", "own_memory_share"),
    }

    def share(part):
        return left_out_serving._share_of_peers(devices, Key("device", "a", part), unknown)

    assert share("own_memory_share") == pytest.approx(0.6)
    assert share("compute_share") == pytest.approx(0.8)
    assert share("link_share") == 1.0
    devices["a"]["peers"] = ["d"]
    assert share("own_memory_share") == ranges("engines", "device")["own_memory_share"].start
    devices["a"]["hardware"] = ["A100 PCIe 80GB"]
    assert share("compute_share") == queried_clock("A100 PCIe 80GB") < 0.9
    assert share("own_memory_share") == ranges("engines", "device")["own_memory_share"].start


def test_an_entry_that_physics_has_left_behind_is_told(cases, clean):
    entry = clean("device", "t4")
    entries = {entry_id("device", "t4"): entry}
    entries |= left_out_serving.pooled(left_out_serving.errors([entry], cases))
    assert left_out_serving.stale(entries, cases) == ""
    moved = entries | {"device t4": entry | {"errors": entry["errors"] | {"median": 0.5}}}
    assert left_out_serving.stale(moved, cases).startswith("device t4: errors median 0.5 -> ")


def test_what_no_case_has_is_named(cases):
    with pytest.raises(UnknownNameError, match="t5"):
        left_out("device", "t5", cases)


@pytest.mark.parametrize("kind", ["engine", "device"])
def test_what_is_fitted_has_peers(kind):
    known = engines.ENGINES.tables()[kind]
    for name, entry in known.items():
        assert entry.get("peers") or not entry.get("fit"), name
        assert name not in entry.get("peers", ())
        assert set(entry.get("peers", ())) <= set(known)


def test_the_page_shows_each_beside_all_of_its_kind():
    errors = {"points": 4, "median": 0.05, "mean": 0.06, "p90": 0.1, "bias": -0.01}
    entries = [
        {"id": "devices", "kind": "device", "errors": errors, "first_token": {"points": 0}},
        {"id": "device t4", "kind": "device", "without": "t4", "errors": errors, "first_token": errors},
    ]
    text = accuracy.as_markdown(Findings(serving_left_out=entries))
    assert "| device | **each device** | 4 | 5.0 % | 6.0 % | 10.0 % | -1.0 % | 0 | - |" in text
    assert "| device | t4 | 4 | 5.0 % | 6.0 % | 10.0 % | -1.0 % | 4 | 5.0 % |" in text
