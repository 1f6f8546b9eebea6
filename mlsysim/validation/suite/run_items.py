"""One test a row of a user's table of runs: what was measured lies in the prediction's 90 % interval."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mlsysim.core.errors import DataError
from mlsysim.validation.anchors.comparison import relative
from mlsysim.validation.anchors.record_keys import RUN
from mlsysim.validation.anchors.runs import predicted_runs
from mlsysim.validation.report.report import percent, shown
from mlsysim.validation.suite.case_items import BareItem


class RunsFile(pytest.File):
    """A table of runs."""

    def collect(self) -> Iterator[RunItem]:
        """The rows; a table that cannot be read is one line."""
        try:
            rows = predicted_runs(self.path)
        except DataError as error:
            raise self.CollectError(str(error)) from None
        for row in rows:
            yield RunItem.from_parent(self, name=str(row["id"]), row=row)


class RunItem(BareItem):
    """A run, and what is predicted of it."""

    def __init__(self, *, row: dict[str, Any], **rest: Any) -> None:
        super().__init__(**rest)
        self.row = row

    def runtest(self) -> None:
        """Compares the measurement with the interval, or with a layout's outcome."""
        row = self.row
        if row["predicted"] == "":
            pytest.fail(f"{self.name}: {row['reason']}", pytrace=False)
        measured = _number(str(row["value"]))
        if measured is None:
            pytest.skip("nothing was measured: value is no number")
        if row["low"] == "":
            pytest.skip(f"no interval: nothing like it was measured ({row['basis']})")
        held = row["low"] <= measured <= row["high"]
        error = row["predicted"] / measured - 1
        ends = f"{shown(row['low'])} to {shown(row['high'])}"
        figures = f"measured {shown(measured)}, predicted {shown(row['predicted'])} ({ends}), {percent(error, signed=True)}"
        told = f"{self.name}: {figures}{'' if held else ', OUTSIDE'}{'' if row['feasible'] else ', infeasible'}"
        record = {"file": relative(self.path), "id": self.name, "told": told, "error": error}
        record |= {"scope": row["scope"], "held": held}
        self.user_properties.append((RUN, json.dumps(record)))
        if not held:
            pytest.fail(f"{told}; {row['scope']}", pytrace=False)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number > 0 else None
