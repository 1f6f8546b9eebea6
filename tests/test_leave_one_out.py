"""Sources predicted without themselves: nothing that a source measured may reach the fit that predicts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlsysim.core.errors import DataError
from mlsysim.fitting import leave_one_out
from mlsysim.fitting import stacks as fit_stacks
from mlsysim.fitting.leave_one_out import HeldOut

pytestmark = pytest.mark.usefixtures("quick_fit")

ROOT = Path(__file__).parents[1] / "anchors"
SOURCES = ("bigscience", "internevo", "korthikanti2022", "llm-foundry", "megatron-bridge", "narayanan2021")


@pytest.fixture(scope="module")
def anchors():
    return [anchor for anchor in leave_one_out.runs_of(ROOT) if anchor.source.key in SOURCES]


def poisoned(anchors, source):
    """The same anchors, the figures of one source three times as large."""
    return [
        replace(anchor, case=anchor.case.model_copy(update={"value": 3 * anchor.case.value}))
        if anchor.source.key == source
        else anchor
        for anchor in anchors
    ]


def fitted_parts(entry):
    return {name: entry[name] for name in ("clocks", "shared", "stacks")}


@pytest.mark.parametrize("source", SOURCES)
def test_figures_of_the_source_change_nothing_of_its_fit(anchors, source):
    held = HeldOut(source, (source,), (f"{source}/*",))
    clean, dirty = leave_one_out.left_out(held, anchors), leave_one_out.left_out(held, poisoned(anchors, source))
    assert fitted_parts(clean) == fitted_parts(dirty)
    assert clean["errors"]["points"] == dirty["errors"]["points"]
    assert clean["errors"]["bias"] != dirty["errors"]["bias"]


def test_figures_of_other_sources_do(anchors):
    held = HeldOut("narayanan2021", ("narayanan2021",), ("narayanan2021/*",))
    clean, dirty = leave_one_out.left_out(held, anchors), leave_one_out.left_out(held, poisoned(anchors, "bigscience"))
    assert fitted_parts(clean) != fitted_parts(dirty)


def test_validation_figures_change_nothing_of_any_fit(anchors):
    held = HeldOut("internevo", ("internevo",), ("internevo/*",))
    dirty = [
        replace(anchor, case=anchor.case.model_copy(update={"value": 3 * anchor.case.value}))
        if anchor.case.role == "validation"
        else anchor
        for anchor in anchors
    ]
    assert fitted_parts(leave_one_out.left_out(held, anchors)) == fitted_parts(leave_one_out.left_out(held, dirty))


def test_what_nobody_else_identifies_stands_at_the_median_of_the_others():
    tables = fit_stacks.all_stated()
    tables["stacks"] = {
        "a": {"fit": ["norm_B"], "norm_B": 100.0},
        "b": {"fit": ["norm_B"], "norm_B": 60.0},
        "c": {"fit": ["norm_B", "pp_hidden"], "norm_B": 1.0, "pp_hidden": 0.7},
        "d": {},
    }
    runs = [run for run in fit_stacks.gathered(leave_one_out.runs_of(ROOT)) if run.device == "a100_sxm"][:3]
    leave_one_out.to_prior([replace(run, stack=name) for run, name in zip(runs, "abd", strict=True)], tables)
    assert tables["stacks"]["a"]["norm_B"] == 100.0
    assert tables["stacks"]["c"] == {"fit": ["norm_B", "pp_hidden"], "norm_B": 80.0, "pp_hidden": 0.0}
    assert tables["devices"]["h100_sxm"]["clock"] == tables["devices"]["a100_sxm"]["clock"]
    assert tables["devices"]["b300_sxm"]["clock"] == fit_stacks.all_stated()["devices"]["b300_sxm"]["clock"]


def test_cases_that_are_not_there_are_named(anchors):
    with pytest.raises(DataError, match=r"left_out\.toml: 'x': no training case is called nothing/\*"):
        leave_one_out.left_out(HeldOut("x", ("internevo",), ("nothing/*",)), anchors)


def test_an_entry_that_physics_has_left_behind_is_told(anchors):
    entry = leave_one_out.left_out(HeldOut("internevo", ("internevo",), ("internevo/*",)), anchors)
    assert leave_one_out.stale("internevo", entry, anchors) == ""
    moved = entry | {"errors": entry["errors"] | {"median": 0.5}}
    assert leave_one_out.stale("internevo", moved, anchors).startswith("median 0.5 -> ")
