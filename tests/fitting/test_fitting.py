"""The fits: which rows they are given, what of them each coefficient moves, where they begin and end, and what is written."""

from __future__ import annotations

import csv
import tomllib
import zlib
from dataclasses import replace

import numpy as np
import pytest
from repository import ANCHOR_TREE

from mlsysim.fitting import __main__ as command
from mlsysim.fitting import calibration as framework
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.calibration import EVERY, Calibration, Key, Runs
from mlsysim.fitting.engines import ENGINES
from mlsysim.fitting.families import CALIBRATIONS
from mlsysim.fitting.search import components, entries_of, fitted, identified, predicted
from mlsysim.fitting.toml_text import DATA, amended
from mlsysim.fitting.training import EXPERT_PARTS, TRAINING, UNKNOWN
from mlsysim.fitting.written import same

pytest.importorskip("scipy", reason="fits need scipy: pip install mlsysim-anchors[fit]")

# Columns that say no part of the plan, or that tables got after roles were drawn.
LATER = ("metric", "year", "release", "zero_group", "head_dim")
TABLES = sorted((ANCHOR_TREE / "training").glob("*.csv"))
FOLDERS = {
    "training": ("training",),
    "data-parallel": ("cnn", "bert"),
    "inference": ("inference", "inference_frameworks", "retinanet"),
    "served": ("inference_load",),
    "engines": ("serving",),
}
X = np.array([1.0, 2.0, 4.0, 8.0])


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_the_role_of_a_run_is_the_hash_of_its_cells(table):
    given = tomllib.loads(table.with_suffix(".toml").read_text("utf-8"))["defaults"]
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if "role" not in row:  # a whole source in one role
            assert given["role"] == "validation"
            continue
        own = {name.removeprefix("run."): cell for name, cell in row.items() if name.startswith("run.") and cell}
        cells = given["run"] | own
        key = "|".join(cells[name] for name in sorted(cells) if name not in LATER)
        assert row["role"] == ("validation" if zlib.crc32(key.encode()) % 2 else "calibration"), row["id"]


def without_validation_figures(path):
    """The cases of a file; a figure of validation stands out from all others."""
    return tuple(
        replace(anchor, case=anchor.case.model_copy(update={"value": ODD})) if anchor.case.role == "validation" else anchor
        for anchor in load(path)
    )


load, ODD = framework.load, 1e99


@pytest.mark.parametrize("calibration", [one for one in CALIBRATIONS if one.name in FOLDERS], ids=lambda one: one.name)
def test_a_fit_is_given_all_calibration_rows_and_no_other(calibration, monkeypatch):
    monkeypatch.setattr(framework, "load", without_validation_figures)
    runs = calibration.gathered(ANCHOR_TREE, "calibration")
    measured = np.concatenate([run.measured for run in runs if run.on.get("stack") != UNKNOWN])
    gathered = framework.cases(ANCHOR_TREE, FOLDERS[calibration.name], "calibration")
    served = [one for one in gathered if one.family == "retinanet" and one.source.solver != "SingleNodeModel"]
    assert len(measured) == len(gathered) - len(served)
    assert ((measured > 1e-60) & (measured < 1e60)).all()
    assert calibration.written_roles == ("calibration",)


def test_experts_are_fitted_to_runs_with_experts_after_all_else():
    runs, tables = TRAINING.gathered(ANCHOR_TREE, "calibration"), TRAINING.tables()
    for run in runs:
        decided = identified(TRAINING, [run], tables)
        if run.on["stack"] == UNKNOWN:
            assert {key.entry for key in decided} <= {UNKNOWN}, "no run of a known framework is moved by one that nobody knows"
            assert run.stage == 2
            continue
        parts = {key.part for key in decided}
        assert parts <= set(EXPERT_PARTS) if run.stage else not parts & set(EXPERT_PARTS)
    clocks = {key.entry for key in identified(TRAINING, runs, tables) if key.kind == "device"}
    assert clocks == {name for name, entry in tables["device"].items() if entry.get("fitted")}


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=lambda one: one.name)
def test_what_is_fitted_has_a_range_and_lies_in_it(calibration):
    tables = calibration.tables()
    keys = calibration.fitted_keys(tables)
    assert keys
    assert len(set(keys)) == len(keys)
    for key in keys:
        entry = tables[key.kind][key.entry]
        known = calibration.range_of(key, entry)
        assert known.low <= known.start <= known.high, key
        assert known.low <= entry[key.part] <= known.high, key


def family(**changed):
    """Two lines through zero: one's slope is that of the other, unless it states its own; both are lifted alike."""
    ranges = {"slope": Coefficient(1.0, 0.1, 10.0), "value": Coefficient(0.5, 0.0, 5.0)}
    return Calibration("lines", {}, lambda root, role: [], ranged=lambda key, _: ranges[key.part], **changed)


def entries():
    return {
        "line": {"a": {"fit": ["slope"], "slope": 2.0}, "b": {"like": "a"}, "c": {"fit": ["slope"], "slope": 1.0, "like": "a"}},
        "lift": {"all": {"fit": ["value"], "value": 1.0}},
    }


def runs(name, slope, lift=1.0, **changed):
    def predict(found):
        return found["line"]["slope"] * X + found["lift"]["all"]

    return Runs({"line": name, "lift": EVERY}, slope * X + lift, ["s"] * len(X), predict, **changed)


def test_an_entry_has_the_coefficient_of_the_one_that_it_is_like():
    tables = entries()
    found = fitted(family(), [runs("b", 3.0)], tables)
    assert found == {Key("line", "a", "slope"): False, Key("lift", "all", "value"): False}
    assert tables["line"]["a"]["slope"] == pytest.approx(3.0, rel=1e-3)
    assert tables["line"]["c"]["slope"] == 1.0


def test_runs_that_share_no_coefficient_are_fitted_apart():
    tables, calibration = entries(), family()
    both = [runs("a", 3.0), runs("c", 5.0)]
    assert len(components(calibration, both, tables)) == 1
    apart = [runs("a", 3.0), runs("c", 5.0, decides=lambda key: key.kind == "line")]
    assert [len(keys) for _, keys in components(calibration, apart, tables)] == [2, 1]


def test_a_later_stage_leaves_what_an_earlier_one_found():
    tables = entries()
    fitted(family(), [runs("a", 3.0), runs("c", 5.0, lift=2.0, stage=1)], tables)
    assert tables["lift"]["all"]["value"] == pytest.approx(1.0, abs=1e-3)
    assert tables["line"]["c"]["slope"] > 5.0


def test_a_source_counts_as_so_many_rows():
    many = runs("a", 3.0)
    (weights,) = family(rows_at_full_weight=1.0).weights([many])
    assert weights == pytest.approx(0.5)


def test_choices_as_columns_are_what_each_gives_alone():
    tables = ENGINES.tables()
    kinds = {
        run.predict.__self__.deployment.schedule: run
        for run in ENGINES.gathered(ANCHOR_TREE, "calibration")
        if len(run.measured) > 2
    }
    assert set(kinds) == {"static", "continuous", "offline"}
    for run in kinds.values():
        name = run.on["engine"]
        own = entries_of(run, tables)["engine"]
        choices = [own, own | {"layer_s": 1.5e-4}, own | {"compute_share": 0.7, "sequence_s": 3e-5}]
        columns = {part: np.array([[one[part]] for one in choices]) for part in ("layer_s", "compute_share", "sequence_s")}

        def figures(entry, run=run, name=name):
            return predicted([run], tables | {"engine": tables["engine"] | {name: entry}})

        assert figures(own | columns) == pytest.approx(np.array([figures(one) for one in choices]), rel=1e-12)


def test_choices_of_a_stack_as_columns_are_what_each_gives_alone():
    tables = TRAINING.tables()
    stacks = {run.on["stack"]: run for run in TRAINING.gathered(ANCHOR_TREE, "calibration") if run.stage < 2}
    assert len(stacks) > 5
    for run in stacks.values():
        own = entries_of(run, tables)["stack"]
        fitted_parts = [key.part for key in TRAINING.fitted_keys(tables) if key.kind == "stack" and key.part in own]
        values = {part: own[part] for part in dict.fromkeys(fitted_parts)}
        choices = [values, *(values | {part: 1.1 * value + 1e-6} for part, value in values.items())]
        columns = {part: np.array([[one[part]] for one in choices]) for part in values}

        def figures(changed, run=run, own=own):
            return run.predict(entries_of(run, tables) | {"stack": own | changed})

        each = np.array([figures(one) for one in choices])
        assert np.broadcast_to(figures(columns), each.shape) == pytest.approx(each, rel=1e-12), run.on


def test_slopes_of_all_coefficients_at_once_end_where_those_of_each_do():
    ranges = {"a": Coefficient(2.0, 0.1, 10.0), "b": Coefficient(1e-2, 1e-4, 1.0, log=True)}

    def predict(values):
        return values["a"] * X + values["b"] * X**2

    def varied(values, changed):
        return np.stack([predict({**values, name: changed[name]}) for name in changed], axis=-1)

    measured = 3 * X + 0.2 * X**2
    one, other = fit(predict, measured, ranges, pull=0.01), fit(predict, measured, ranges, pull=0.01, varied=varied)
    assert one.values == pytest.approx(other.values, rel=1e-3)


def test_a_search_ends_where_it_always_did():
    """One bad row in four does not pull, a bound is told, and the digits are those that were written down."""
    ranges = {"a": Coefficient(1.0, 0.1, 10.0), "b": Coefficient(0.5, 0.0, 0.8)}
    found = fit(lambda c: c["a"] * X ** c["b"], 3 * X**0.7 * np.array([1.0, 1.0, 1.5, 1.0]), ranges, 1.0, 0.03)
    assert [found.values[name] for name in "ab"] == pytest.approx([3.0202, 0.7130], abs=2e-4)
    assert not found.at_bound
    assert fit(lambda c: c["a"] * X ** c["b"], 3 * X, ranges).at_bound == ("b",)


def test_what_no_row_identifies_goes_to_its_prior_not_to_its_start():
    free = {"a": Coefficient(4.0, 0.1, 10.0, prior=2.0)}
    assert fit(lambda c: 3 * X + 0 * c["a"], 2 * X, free, pull=0.03).values["a"] == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize(("value", "written"), [(1.9e-13, 0.0), (1.23456, 1.235), (0.0, 0.0)])
def test_what_changes_with_the_version_of_scipy_is_not_written(value, written):
    assert Coefficient(120.0, 0.0, 2000.0).written(value) == written


def test_a_small_number_whose_bound_is_not_zero_stays():
    assert Coefficient(1e-6, 1e-9, 1.0, log=True).written(2.00004e-9) == 2e-9


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=lambda one: one.name)
def test_a_file_with_the_values_that_it_has_is_the_same_text(calibration):
    tables = calibration.tables()
    for kind, place in calibration.files.items():
        for name, entry in tables[kind].items():
            text = (DATA / place.file_of(name)).read_text("utf-8")
            assert amended(text, {place.path(name): {part: entry[part] for part in calibration.fits(kind, entry)}}) == text


def test_three_digits_are_the_same_value():
    assert same(0.8127, 0.8130, Coefficient(0.85, 0.6, 1.05))
    assert not same(0.8127, 0.814, Coefficient(0.85, 0.6, 1.05))
    assert not same(1.4e-5, 1.5e-5, Coefficient(1e-5, 1e-7, 2e-2, log=True))


def test_the_command_finds_what_is_written(capsys):
    assert command.main(["--anchors", str(ANCHOR_TREE), "--check", "peaks", "served", "memory"]) == 0
    assert capsys.readouterr().out.endswith("\n0 of 24 values differ\n")


def test_a_family_that_is_not_there_is_named(capsys):
    assert command.main(["--check", "trainings"]) == 1
    assert "training" in capsys.readouterr().err


def test_a_folder_without_tables_is_named(tmp_path, capsys):
    assert command.main(["--anchors", str(tmp_path), "--check", "gemm"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
