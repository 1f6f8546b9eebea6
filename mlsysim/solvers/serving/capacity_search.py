"""Exhausting the ways to serve a load: counts, the cheapest, and the front of cost against inter-token latency."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from mlsysim.physics.numeric import Floats
from mlsysim.solvers.serving.capacity_space import COLUMNS, PLACE, Load

# What the winner is compared along.
AXES = ("offer", "precision", "tp", "pp", "disaggregated")


def _none() -> Floats:
    return np.empty((len(COLUMNS), 0))


@dataclass(slots=True)
class Found:
    """The state of a search: the configurations that it has seen so far.

    Attributes:
        kept: configurations to rank.
        searched, feasible: configurations evaluated, and those within the limits.
        best: columns of the cheapest, cheapest first; of one cost, those with the least latency.
        front: those that no other beats in both cost and inter-token latency.
        by_value: of each axis and value, the cheapest column.
        without: of each limit, the least cost if it were lifted and the others kept.
        nearest: where none is within the limits, the one that comes closest, and how far over it is.
    """

    kept: int
    searched: int = 0
    feasible: int = 0
    best: Floats = field(default_factory=_none)
    front: Floats = field(default_factory=_none)
    by_value: dict[tuple[str, float], Floats] = field(default_factory=dict)
    without: dict[str, float] = field(default_factory=dict)
    nearest: Floats = field(default_factory=_none)
    over: float = float("inf")

    def add(self, columns: Floats, load: Load, available: float) -> None:
        """A block of configurations of one offer."""
        self.searched += columns.shape[1]
        shares = {
            "ITL limit": columns[PLACE["itl_s"]] / load.max_itl_s,
            "TTFT limit": columns[PLACE["ttft_s"]] / load.max_ttft_s,
            "fleet size": columns[PLACE["accelerators"]] / available,
        }
        for name in shares:
            others = np.max([share for other, share in shares.items() if other != name], axis=0) <= 1
            least_cost = float(np.min(columns[PLACE["cost"]], where=others, initial=np.inf))
            self.without[name] = min(self.without.get(name, np.inf), least_cost)
        over = np.max(list(shares.values()), axis=0)
        within = columns[:, over <= 1]
        if not within.shape[1]:
            least = int(over.argmin())
            if not self.feasible and over[least] < self.over:
                self.over, self.nearest = float(over[least]), columns[:, least : least + 1]
            return
        self.feasible += within.shape[1]
        ordered = _ordered(within)
        self.best = _ordered(np.concatenate([self.best, ordered[:, : self.kept]], axis=1))[:, : self.kept]
        self.front = _front(_ordered(np.concatenate([self.front, _front(ordered)], axis=1)))
        for axis in AXES:
            self._cheapest_by(axis, ordered)

    def _cheapest_by(self, axis: str, ordered: Floats) -> None:
        values, first = np.unique(ordered[PLACE[axis]], return_index=True)
        for value, index in zip(values, first, strict=True):
            known = self.by_value.get((axis, float(value)), _none())
            both = np.concatenate([known, ordered[:, index : index + 1]], axis=1)
            self.by_value[axis, float(value)] = _ordered(both)[:, :1]


def _ordered(columns: Floats) -> Floats:
    """Cheapest first; of one cost, those with the least latency between tokens, then before the first."""
    ordered: Floats = columns[:, np.lexsort(tuple(columns[PLACE[name]] for name in ("ttft_s", "itl_s", "cost")))]
    return ordered


def _front(ordered: Floats) -> Floats:
    """The configurations with less latency than every cheaper one."""
    itl_s = ordered[PLACE["itl_s"]]
    ahead = np.append(True, itl_s[1:] < np.minimum.accumulate(itl_s)[:-1])[: itl_s.size]
    front: Floats = ordered[:, ahead]
    return front


def search(blocks: Iterable[tuple[Floats, float]], load: Load, kept: int) -> Found:
    """All blocks of configurations, each with the accelerators that its offer has."""
    found = Found(kept)
    for columns, available in blocks:
        found.add(columns, load, available)
    return found
