"""Computation that is done once for what many rows of an array have in common.

A search asks for the kernels of thousands of plans, of which few differ in what a kernel sees: the rows that differ are found,
computed, and their results given to every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlsysim.physics.numeric import Num


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """Rows that differ from each other, and which of them stands for each row.

    Attributes:
        first: index of one row of each kind.
        kind: for every row, its place in ``first``; of the shape of the columns.
    """

    first: npt.NDArray[np.intp]
    kind: npt.NDArray[np.intp]

    def reduced(self, column: Num) -> Num:
        """Pick one value of each kind; a number that all rows share stays a number."""
        if not isinstance(column, np.ndarray):
            return column
        return np.broadcast_to(column, self.kind.shape).ravel()[self.first]

    def spread(self, values: Num) -> Num:
        """Give every row the value of its kind; a number that all kinds share stays a number."""
        return values[self.kind] if isinstance(values, np.ndarray) else values


def distinct_rows(*columns: Num) -> DistinctRows:
    """Find the rows of ``columns`` that differ in any of them.

    Args:
        columns: one value a row, of any shapes that broadcast together.

    Example:
        >>> tp, tokens = np.array([1.0, 2.0, 1.0, 2.0]), np.array([512.0, 512.0, 512.0, 256.0])
        >>> rows = distinct_rows(tp, tokens)
        >>> seconds = rows.reduced(tokens) / rows.reduced(tp)
        >>> seconds.size, rows.spread(seconds)
        (3, array([512., 256., 512., 128.]))
    """
    shape = np.broadcast_shapes(*(np.shape(column) for column in columns))
    flat = [np.broadcast_to(column, shape).ravel() for column in columns]
    order = np.lexsort(flat)
    differs = np.zeros(order.size, dtype=bool)
    differs[:1] = True
    for column in flat:
        ordered = column[order]
        differs[1:] |= ordered[1:] != ordered[:-1]
    kind = np.empty(order.size, dtype=np.intp)
    kind[order] = np.cumsum(differs) - 1
    return DistinctRows(order[differs], kind.reshape(shape))
