"""Sources predicted without themselves: nothing that a source measured may reach the fit that predicts it."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from repository import ANCHOR_TREE

from mlsysim.core.errors import DataError
from mlsysim.fitting import left_out_training
from mlsysim.fitting.training import TRAINING, runs_of
from mlsysim.validation.report.left_out import HeldOut

pytestmark = pytest.mark.usefixtures("quick_fit")

SOURCES = ("bigscience", "internevo", "korthikanti2022", "llm-foundry", "megatron-bridge", "narayanan2021")


@pytest.fixture(scope="module")
def anchors():
    return [anchor for anchor in left_out_training.anchors_of(ANCHOR_TREE) if anchor.source.key in SOURCES]


def poisoned(anchors, source):
    """The same anchors, the figures of one source three times as large."""
    return [
        replace(anchor, case=anchor.case.model_copy(update={"value": 3 * anchor.case.value}))
        if anchor.source.key == source
        else anchor
        for anchor in anchors
    ]


def left_out(held, anchors):
    return left_out_training.left_out(held, left_out_training.fitted_without(held.without, anchors), anchors)


@pytest.fixture(scope="module")
def clean(anchors):
    """What is predicted of a source without it, by the figures as they are."""
    return functools.cache(lambda held: left_out(held, anchors))


def fitted_parts(entry):
    return {name: entry[name] for name in ("clocks", "shared", "stacks")}


@pytest.mark.parametrize("source", SOURCES)
def test_figures_of_the_source_change_nothing_of_its_fit(anchors, clean, source):
    held = HeldOut(source, (source,), (f"{source}/*",))
    found, dirty = clean(held), left_out(held, poisoned(anchors, source))
    assert fitted_parts(found) == fitted_parts(dirty)
    assert found["errors"]["points"] == dirty["errors"]["points"]
    assert found["errors"]["bias"] != dirty["errors"]["bias"]


def test_figures_of_other_sources_do(anchors, clean):
    held = HeldOut("narayanan2021", ("narayanan2021",), ("narayanan2021/*",))
    assert fitted_parts(clean(held)) != fitted_parts(left_out(held, poisoned(anchors, "bigscience")))


def test_validation_figures_change_nothing_of_any_fit(anchors, clean):
    held = HeldOut("internevo", ("internevo",), ("internevo/*",))
    dirty = [
        replace(anchor, case=anchor.case.model_copy(update={"value": 3 * anchor.case.value}))
        if anchor.case.role == "validation"
        else anchor
        for anchor in anchors
    ]
    assert fitted_parts(clean(held)) == fitted_parts(left_out(held, dirty))


def test_what_nobody_else_identifies_stands_at_the_median_of_the_others():
    stated = TRAINING.tables()
    tables = TRAINING.tables() | {
        "stack": {
            "a": {"fit": ["norm_B"], "norm_B": 100.0},
            "b": {"fit": ["norm_B"], "norm_B": 60.0},
            "c": {"fit": ["norm_B", "pp_hidden"], "norm_B": 1.0, "pp_hidden": 0.7},
            "d": {},
        }
    }
    runs = [run for run in runs_of(left_out_training.anchors_of(ANCHOR_TREE)) if run.on["device"] == "a100_sxm"][:3]
    renamed = [replace(run, on={**run.on, "stack": name}) for run, name in zip(runs, "abd", strict=True)]
    left_out_training.to_prior(renamed, tables)
    assert tables["stack"]["a"]["norm_B"] == 100.0
    assert tables["stack"]["c"] == {"fit": ["norm_B", "pp_hidden"], "norm_B": 80.0, "pp_hidden": 0.0}
    assert tables["device"]["h100_sxm"]["clock"] == tables["device"]["a100_sxm"]["clock"]
    assert tables["device"]["tpu_v3"]["clock"] == stated["device"]["tpu_v3"]["clock"]
    assert tables["shared"] == stated["shared"]


def test_leaving_out_a_source_without_calibration_cases_changes_no_fit(anchors):
    fitted_to = left_out_training.calibration_sources(anchors)
    assert "narayanan2021" not in fitted_to
    assert left_out_training.fitted_without(["narayanan2021"], anchors) == left_out_training.fitted_without([], anchors)


def test_cases_that_are_not_there_are_named(anchors):
    with pytest.raises(DataError, match=r"left_out\.toml: 'x': no training case is called nothing/\*"):
        left_out(HeldOut("x", ("internevo",), ("nothing/*",)), anchors)


def test_an_entry_that_physics_has_left_behind_is_told(anchors, clean):
    entry = clean(HeldOut("internevo", ("internevo",), ("internevo/*",)))
    assert left_out_training.stale("internevo", entry, anchors) == ""
    moved = entry | {"errors": entry["errors"] | {"median": 0.5}}
    assert left_out_training.stale("internevo", moved, anchors).startswith("median 0.5 -> ")
