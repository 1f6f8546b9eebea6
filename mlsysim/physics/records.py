"""Records of numbers, one after another or as one record of arrays: the same physics takes either."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from mlsysim.physics.numeric import Truth, where

T = TypeVar("T")


def stacked(records: Iterable[T]) -> T:
    """Records of floats (one or more, of one dataclass) as one record of arrays; records within them are stacked too.

    Example:
        >>> from mlsysim.physics.machine import Machine
        >>> stacked([Machine(1.0, 2.0, 3.0, 4.0, 8.0), Machine(5.0, 2.0, 3.0, 4.0, 8.0)]).rate_flops_per_s
        array([1., 5.])
    """
    rows = list(records)
    kind: Any = type(rows[0])
    columns: dict[str, Any] = {}
    for part in fields(kind):
        values = [getattr(row, part.name) for row in rows]
        columns[part.name] = stacked(values) if is_dataclass(values[0]) else np.array(values, dtype=float)
    return kind(**columns)  # type: ignore[no-any-return]


def unstacked(record: T, count: int) -> list[T]:
    """A record of arrays (or of numbers that hold for all) as ``count`` records of floats; the inverse of ``stacked``.

    Example:
        >>> from mlsysim.physics.machine import Machine
        >>> first, last = unstacked(Machine(np.array([1.0, 5.0]), 2.0, 3.0, 4.0, 8.0), 2)
        >>> last.rate_flops_per_s, last.memory_Bps
        (5.0, 2.0)
    """
    kind: Any = type(record)
    columns = []
    for part in fields(kind):
        value = getattr(record, part.name)
        columns.append(unstacked(value, count) if is_dataclass(value) else floats(value, count))
    return [kind(*row) for row in zip(*columns, strict=True)]


def chosen(condition: Truth, yes: T, no: T) -> T:
    """A record of what ``yes`` has where ``condition`` holds, and else of what ``no`` has, place by place.

    Example:
        >>> from mlsysim.physics.machine import Machine
        >>> chosen(np.array([True, False]), Machine(1.0, 2.0, 3.0, 4.0, 8.0), Machine(5.0, 2.0, 3.0, 4.0, 8.0)).rate_flops_per_s
        array([1., 5.])
    """
    kind: Any = type(yes)
    return kind(*(where(condition, getattr(yes, part.name), getattr(no, part.name)) for part in fields(kind)))  # type: ignore[no-any-return]


def floats(column: Any, count: int) -> list[float]:
    """An array, or a number that holds for all, as ``count`` floats.

    Example:
        >>> floats(np.array([1.0, 2.0]), 2), floats(3, 2)
        ([1.0, 2.0], [3.0, 3.0])
    """
    return np.broadcast_to(np.asarray(column, dtype=float), count).tolist()  # type: ignore[no-any-return]
