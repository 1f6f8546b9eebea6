"""Comparison of a fit with what is written: which values differ, and the files with the new ones in them.

A file is changed line by line: comments, order and all that is stated stay as a person wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.fitting.bounded import Coefficient
from mlsysim.fitting.calibration import CALIBRATION, Calibration, Key, Runs, Tables
from mlsysim.fitting.search import entries_of, fitted
from mlsysim.fitting.toml_text import DATA, amended
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

# Values that differ by less than this share are the same: three digits.
_SAME = 1e-3
# Beside a range whose logarithm is not fitted, what differs by less than this share of it is the same, too.
_NEAR = 1e-4
# Where the logarithm is fitted, what is above the low end by less than this share is at the end.
_AT_END = 1e-2
# What to write: parts of entries, by file and by the names of the tables down to the entry.
Changes = dict[str, dict[tuple[str, ...], dict[str, Any]]]


@dataclass(frozen=True)
class Refit:
    """The outcome of a fit of one family.

    Attributes:
        name: the family.
        values: each fitted coefficient, as it is written (None: it is not yet) and as it was found.
        moved: those of ``values`` that differ.
        changes: what to write: the values, and the errors that they leave.
    """

    name: str
    values: Mapping[Key, tuple[float | None, float]]
    moved: Sequence[Key]
    changes: Changes

    def write(self, folder: Path = DATA) -> list[str]:
        """Writes the files in ``folder``, by default beside the code that reads them.

        Returns:
            The names of those that changed.
        """
        changed = []
        for file, entries in self.changes.items():
            before = (folder / file).read_text("utf-8")
            after = amended(before, entries)
            if after != before:
                (folder / file).write_text(after, encoding="utf-8")
                changed.append(file)
        return changed


def refit(calibration: Calibration, root: Path) -> Refit:
    """Fits a family to its calibration rows under ``root``.

    A value that a fit finds again to three digits keeps all of those that are written, so that a second fit changes nothing.
    """
    before, tables = calibration.tables(), calibration.tables()
    runs = calibration.gathered(root, CALIBRATION)
    at_bound = fitted(calibration, runs, tables)
    values: dict[Key, tuple[float | None, float]] = {}
    for key in calibration.fitted_keys(before):
        kind, name, part = key
        old = before[kind][name].get(part)
        values[key] = (old, float(tables[kind][name][part]))
        if old is not None and same(old, values[key][1], calibration.range_of(key, before[kind][name])):
            tables[kind][name][part] = old
    moved = [key for key, (old, _) in values.items() if tables[key.kind][key.entry][key.part] != old]
    by_role = {role: runs if role == CALIBRATION else calibration.gathered(root, role) for role in calibration.written_roles}
    return Refit(calibration.name, values, moved, _changes(calibration, tables, at_bound, by_role))


def same(old: float, new: float, known: Coefficient) -> bool:
    """Whether two values agree to three digits, or lie as near as a ten-thousandth of their range, or both at its low end.

    Example:
        >>> clock, host = Coefficient(0.85, 0.6, 1.05), Coefficient(1e-5, 0.0, 1e-4)
        >>> same(0.8127, 0.8130, clock), same(0.8127, 0.814, clock), same(7.7e-10, 2e-12, host)
        (True, False, True)
    """
    if known.log:
        return abs(new - old) <= _SAME * abs(old) or max(old, new) <= (1 + _AT_END) * known.low
    return abs(new - old) <= max(_SAME * abs(old), _NEAR * (known.high - known.low))


def _changes(
    calibration: Calibration, tables: Tables, at_bound: Mapping[Key, bool], by_role: Mapping[str, Sequence[Runs]]
) -> Changes:
    errors = {
        role: [(run, run.predict(entries_of(run, tables)) / run.measured) for run in runs] for role, runs in by_role.items()
    }
    changes: Changes = {}
    for kind, place in calibration.files.items():
        for name, entry in tables[kind].items():
            parts = {part: entry[part] for part in calibration.fits(kind, entry)}
            if "at_bound" in entry:
                parts["at_bound"] = sorted(key.part for key, hit in at_bound.items() if hit and key[:2] == (kind, name))
            for role, judged in errors.items():
                parts |= _statistics(
                    role, [(run, ratio) for run, ratio in judged if run.on.get(kind) == name and kind in (run.judges or run.on)]
                )
            changes.setdefault(place.file_of(name), {})[place.path(name)] = parts
    return changes


def _statistics(role: str, judged: Sequence[tuple[Runs, Times]]) -> dict[str, Any]:
    """The errors of runs as they are written beside an entry: of all rows, and of the parts that are named."""
    if not judged:
        return {}
    endings = dict.fromkeys(["", *(ending for run, _ in judged for ending in run.parts)])
    statistics = {}
    for ending in endings:
        ratio = np.concatenate([ratio[run.parts[ending]] if ending else ratio for run, ratio in judged])
        if len(ratio):
            statistics[f"{role}{ending}"] = asdict(ErrorStatistics.of(ratio, np.ones(len(ratio))))
    return statistics
