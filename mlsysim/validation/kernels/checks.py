"""Kernel measurements as anchors: tables of rows, each judged as a whole by the gates in ``kernels/gates.toml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from mlsysim.core.errors import DataError, InputError, UnknownNameError
from mlsysim.core.spec import Spec, spec_of
from mlsysim.core.toml import tables_of, toml_file
from mlsysim.validation.anchors.anchor import Gap
from mlsysim.validation.anchors.schema import Key, Text
from mlsysim.validation.kernels.errors import ErrorStatistics, Times
from mlsysim.validation.kernels.measured import MeasuredTable, measured_tables
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable
from mlsysim.validation.report.statistics import quantile

GATES_FILE = "gates.toml"
STATISTICS = {"median": 0.5, "p90": 0.9}
# Errors travel rounded to a hundredth of a per cent: many rows in a short text.
_DIGITS = 4

Limit = Annotated[float | None, Field(gt=0, lt=1)]


class KernelGate(Spec):
    """Limits, as fractions, on the |error| of chosen validation rows of each table; ``known_gaps`` say who misses, and why."""

    id: Key
    family: Text
    tables: Text = "*"
    at_least: dict[str, float] = Field(default_factory=dict)
    below: dict[str, float] = Field(default_factory=dict)
    median: Limit = None
    p90: Limit = None
    reason: Text
    known_gaps: dict[str, dict[str, Text]] = Field(default_factory=dict)

    @property
    def limits(self) -> dict[str, float]:
        """The statistics that have a limit."""
        limits = {"median": self.median, "p90": self.p90}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def chooses(self, rows: KernelTable) -> Any:
        """Which rows it is for, as an array of truths."""
        chosen = np.ones(len(rows), dtype=bool)
        for column, limit in self.at_least.items():
            chosen &= rows.numbers(column) >= limit
        for column, limit in self.below.items():
            chosen &= rows.numbers(column) < limit
        return chosen

    @model_validator(mode="after")
    def _has_limits(self) -> Self:
        if not self.limits:
            raise InputError("median", None, "a limit on median, p90 or both")
        for statistic in self.known_gaps:
            if statistic not in self.limits:
                raise UnknownNameError.among("known_gaps", statistic, self.limits)
        return self


@dataclass(frozen=True, eq=False)
class KernelPart:
    """The rows of a table in one role."""

    table: MeasuredTable
    role: str
    checks: tuple[KernelCheck, ...] = ()

    @property
    def id(self) -> str:
        """The part's name, such as ``gemm-h100_sxm-bfloat16-validation``."""
        return f"{self.table.id}-{self.role}"

    @functools.cached_property
    def rows(self) -> KernelTable:
        """The rows."""
        return self.table.rows(self.role)

    @functools.cached_property
    def errors(self) -> Times:
        """The signed error of each row: predicted / measured - 1."""
        return self.table.predict(self.rows) / self.rows.numbers("measured_s") - 1

    def as_row(self) -> dict[str, Any]:
        """What a report needs, short enough to travel with a test."""
        return {
            "file": self.table.path.name,
            "id": self.id,
            "family": self.table.family,
            "role": self.role,
            "coefficients": list(self.table.coefficients),
            "errors": [round(float(error), _DIGITS) for error in self.errors],
            "gates": [check.as_row(self) for check in self.checks],
        }

    def stale_residuals(self) -> str:
        """How the rows differ from what the fit has written beside its coefficients; "" if they do not."""
        written = self.table.residuals(self.role)
        today = ErrorStatistics.of(1 + self.errors, np.ones(len(self.rows)))
        if today.points == written["points"] and abs(today.median - written["median"]) < 0.011:
            return ""
        return f"{today.points} rows, {today.median} % median; written: {written['points']}, {written['median']} %"


@dataclass(frozen=True, eq=False)
class KernelCheck:
    """One statistic of one table against one gate."""

    table: str
    gate: KernelGate
    statistic: str

    @property
    def id(self) -> str:
        """The check's name, such as ``gemm-h100_sxm-bfloat16-from-1024-tokens-median``."""
        return f"{self.table}-{self.gate.id}-{self.statistic}"

    @property
    def limit(self) -> float:
        """The largest accepted error."""
        return self.gate.limits[self.statistic]

    @property
    def gap(self) -> Gap:
        """Why it is missed."""
        place = f"known_gaps.{self.statistic}.{self.table!r} of gate {self.gate.id!r} in {GATES_FILE}"
        return Gap(self.gate.known_gaps.get(self.statistic, {}).get(self.table, ""), place)

    def found(self, part: KernelPart) -> float:
        """The error of the rows that the gate is for.

        Raises:
            DataError: there are none.
        """
        errors = np.abs(part.errors[self.gate.chooses(part.rows)]).tolist()
        error = quantile(errors, STATISTICS[self.statistic])
        if error is None:
            raise DataError(f"{GATES_FILE}: gate {self.gate.id!r} chooses no validation row of {self.table}")
        return error

    def as_row(self, part: KernelPart) -> dict[str, Any]:
        """The check as a dictionary of plain values."""
        error = self.found(part)
        told = {"id": self.id, "found": round(error, _DIGITS), "limit": self.limit, "held": error <= self.limit}
        return told | {"known_gap": self.gap.reason}


class Kernels(NamedTuple):
    """Both roles of every table of a folder that is sound, and what is wrong with the files of others."""

    parts: tuple[KernelPart, ...]
    malformed: list[DataError]


def sound(directory: Path) -> Kernels:
    """Both roles of every sound table in ``directory``, judged by its gates; read once a process."""
    return _read(directory.resolve()) if (directory / GATES_FILE).exists() else Kernels((), [])


@functools.cache
def _read(directory: Path) -> Kernels:
    tables, malformed = measured_tables(directory)
    judged: dict[str, list[KernelCheck]] = {}
    try:
        judged = _checks(directory / GATES_FILE, {table.id: table for table in tables}, whole=not malformed)
    except DataError as error:
        malformed = [*malformed, error]
    both_roles = [
        KernelPart(table, role, tuple(judged.get(table.id, ())) if role == VALIDATION else ())
        for table in tables
        for role in (CALIBRATION, VALIDATION)
    ]
    return Kernels(tuple(both_roles), malformed)


def _checks(path: Path, tables: Mapping[str, MeasuredTable], whole: bool) -> dict[str, list[KernelCheck]]:
    """The checks of each table; a gate may name what is not there only where not the ``whole`` folder could be read."""
    checks: dict[str, list[KernelCheck]] = {name: [] for name in tables}
    for gate in load_gates(path):
        named = [name for name, table in tables.items() if table.family == gate.family and fnmatchcase(name, gate.tables)]
        if whole and not named:
            raise DataError(f"{path}: gate {gate.id!r}: no table of {gate.family!r} is called {gate.tables!r}")
        for gaps in gate.known_gaps.values() if whole else ():
            for name in gaps:
                if name not in named:
                    raise DataError(f"{path}: gate {gate.id!r}: {UnknownNameError.among('known_gaps', name, named)}")
        for name in named:
            checks[name] += [KernelCheck(name, gate, statistic) for statistic in gate.limits]
    ungated = [name for name, judged in checks.items() if not judged]
    if ungated:
        raise DataError(f"{path}: no gate for {', '.join(ungated)}")
    return checks


def load_gates(path: Path) -> list[KernelGate]:
    """The gates of a file.

    Raises:
        DataError: it is malformed.
    """
    document = toml_file(path)
    if set(document) != {"gate"}:
        raise DataError(f"{path}: expected [[gate]] tables and nothing else, not {', '.join(document) or 'an empty file'}")
    tables = tables_of(document, "gate", str(path))
    return [spec_of(KernelGate, table, f"{path}: gate {table.get('id', number)!r}") for number, table in enumerate(tables, 1)]
