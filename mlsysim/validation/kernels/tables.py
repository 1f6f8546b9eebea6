"""The kernel measurements that the repository carries: a CSV a device and family under ``anchors/kernels/``.

Each row has a role: ``calibration`` rows may be fitted, ``validation`` rows never are. The role follows from a hash of the
row's inputs, so that it neither depends on the value nor on the order of the file.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlsysim.core.errors import DataError

CALIBRATION, VALIDATION = "calibration", "validation"


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

    def __init__(self, rows: Sequence[dict[str, str]]) -> None:
        self.rows = list(rows)

    @classmethod
    def read(cls, path: Path, role: str | None = None) -> KernelTable:
        """The rows of ``path`` with ``role`` (all of them without one).

        Raises:
            DataError: a row has another role, or no positive time.
        """
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for number, row in enumerate(rows, start=2):
            if row.get("role") not in (CALIBRATION, VALIDATION):
                raise DataError(f"{path.name} line {number}: role = {row.get('role')!r}: expected calibration or validation")
            if not float(row["measured_s"]) > 0:
                raise DataError(f"{path.name} line {number}: measured_s = {row['measured_s']!r}: expected a time > 0")
        return cls([row for row in rows if role in (None, row["role"])])

    def __len__(self) -> int:
        return len(self.rows)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A column of the table as floats."""
        return np.array([float(row[column]) for row in self.rows])

    def where(self, **values: str) -> KernelTable:
        """The rows that have these values."""
        return KernelTable([row for row in self.rows if all(row[column] == value for column, value in values.items())])
