"""Which training runs may be fitted: the stated split, and what the fit of software stacks reads."""

from __future__ import annotations

import csv
import tomllib
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlsysim.fitting import stacks as fit_stacks
from mlsysim.tables.training import question

pytest.importorskip("scipy", reason="fits need scipy: pip install mlsysim-anchors[fit]")

ROOT = Path(__file__).parents[1] / "anchors"
TABLES = sorted((ROOT / "training").glob("*.csv"))


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
        key = "|".join(cells[name] for name in sorted(cells) if name not in ("metric", "year"))
        assert row["role"] == ("validation" if zlib.crc32(key.encode()) % 2 else "calibration"), row["id"]


def test_the_fit_is_given_calibration_runs_only(monkeypatch):
    class StoppedError(Exception):
        """The last fit would begin here."""

    given = []

    def spy(model, measured, coefficients, weights, pull):
        given.append((sorted(measured), set(coefficients)))
        if len(given) == 2:
            raise StoppedError
        return SimpleNamespace(values={}, at_bound=())

    monkeypatch.setattr(fit_stacks, "fit", spy)
    with pytest.raises(StoppedError):
        fit_stacks.fit_all(ROOT)
    (dense, parts), (routed, expert_parts) = given
    assert {key.split(" ")[1] for key in expert_parts} <= set(fit_stacks.EXPERT_PARTS)
    assert not {key.split(" ")[1] for key in parts} & set(fit_stacks.EXPERT_PARTS)
    files = [path for path in fit_stacks.anchor_files(ROOT) if path.parent.name == "training"]
    anchors = [anchor for path in files for anchor in fit_stacks.load(path)]
    allowed = [anchor for anchor in anchors if anchor.case.role == "calibration"]
    expected = [fit_stacks.measured_step_s(anchor, question(anchor.case.run)) for anchor in allowed]
    assert sorted(dense + routed) == pytest.approx(sorted(expected))
    assert len(allowed) < len(anchors)
