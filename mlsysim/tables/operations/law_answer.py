"""What a law or arithmetic, and no measured run, says of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class LawAnswer(NamedTuple):
    """What follows for a row.

    Attributes:
        value: in the row's own unit.
        ends: where nine in ten measurements are expected; None where nothing tells.
        scope: the runs, or fleets, that this rests on.
        law: which law it is; "" of a product of the row's own figures.
        basis: what the numbers rest on, as of results.
        assumed: cells that the row leaves out though they matter, and what stands for each.
    """

    value: float
    ends: tuple[float, float] | None
    scope: str
    law: str
    basis: str
    assumed: Mapping[str, str]
