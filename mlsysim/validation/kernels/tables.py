"""The kernel measurements that the repository carries: a CSV a device and family under ``anchors/kernels/``.

Each row has a role: ``calibration`` rows may be fitted, ``validation`` rows never are. The role follows from a hash of the
row's inputs, so that it neither depends on the value nor on the order of the file.
"""

from __future__ import annotations

import functools
import math
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlsysim.core.csv_file import FileState, opened_table, state_of, table_lines
from mlsysim.core.errors import DataError

CALIBRATION, VALIDATION = "calibration", "validation"
# The columns whose cells are text; those of all others are numbers.
_TEXT = {
    *("id", "role", "dtype", "attn_dtype", "kv_cache_dtype", "kind", "device", "fabric", "system", "time_from"),
    *("source", "locator", "note"),
}
_MAY_BE_0 = ("window_size",)  # none


def role_of(inputs: Iterable[object]) -> str:
    """The role that a row's inputs hash to: half of all rows each.

    Example:
        >>> role_of(["h100_sxm", "bf16", 4096, 4096, 4096]) in (CALIBRATION, VALIDATION)
        True
    """
    key = "|".join(str(value) for value in inputs).encode()
    return CALIBRATION if zlib.crc32(key) % 2 == 0 else VALIDATION


class KernelTable:
    """Rows of one CSV as columns; ``role`` and ``measured_s`` are always there."""

    def __init__(self, rows: Sequence[dict[str, str]], path: Path | None = None) -> None:
        self.rows = list(rows)
        self.path = path

    @classmethod
    def read(cls, path: Path, role: str | None = None) -> KernelTable:
        """The rows of ``path`` with ``role`` (all of them without one).

        Raises:
            DataError: the file cannot be read, or a row has another role, no positive time or a cell that is no number.
        """
        rows = _rows(path, state_of(path))
        return cls([row for row in rows if role in (None, row["role"])], path)

    def require(self, *columns: str) -> KernelTable:
        """The table, which has these columns.

        Raises:
            DataError: one is missing.
        """
        for column in columns:
            if self.rows and column not in self.rows[0]:
                raise DataError(f"{self.path}: no column {column!r}")
        return self

    def refuse_others(self, column: str, known: Iterable[str]) -> None:
        """Refuses rows that no reader of the table would take.

        Raises:
            DataError: the ``column`` has something that is not ``known``.
        """
        listed = tuple(known)
        for row in self.rows:
            if row.get(column) not in listed:
                raise DataError(f"{self.path}: {column} = {row.get(column)!r}: expected one of {', '.join(listed)}")

    def __len__(self) -> int:
        return len(self.rows)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A column of the table as floats."""
        return np.array([float(row[column]) for row in self.rows])

    def where(self, **values: str) -> KernelTable:
        """The rows that have these values."""
        return KernelTable([row for row in self.rows if all(row[column] == value for column, value in values.items())])


@functools.lru_cache(maxsize=64)
def _rows(path: Path, state: FileState) -> tuple[dict[str, str], ...]:
    """The checked rows of a file, read once a process unless it changes. Not to be changed."""
    with opened_table(path, str(path)) as file:
        lines = table_lines(file, str(path))
        _, columns = next(lines)
        if missing := [column for column in ("role", "measured_s") if column not in columns]:
            raise DataError(f"{path}: no column {missing[0]!r}")
        numbers = [column for column in columns if column not in _TEXT]
        rows = []
        for line, cells in lines:
            row = dict(zip(columns, cells, strict=True))
            if row["role"] not in (CALIBRATION, VALIDATION):
                raise DataError(f"{path}: line {line}: role = {row['role']!r}: expected calibration or validation")
            for column in numbers:
                if not _is_number(row[column], least=0 if column in _MAY_BE_0 else sys.float_info.min):
                    expected = f"a number {'>=' if column in _MAY_BE_0 else '>'} 0"
                    raise DataError(f"{path}: line {line}: {column} = {row[column]!r}: expected {expected}")
            rows.append(row)
    return tuple(rows)


def _is_number(cell: str, least: float) -> bool:
    try:
        return least <= float(cell) < math.inf
    except ValueError:
        return False
