"""The cheapest ways to serve a load: each with the fewest replicas that keep the limits, and no more of them than matters."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from mlsysim.solvers.serving.capacity_space import Held, Promise, Way
from mlsysim.solvers.serving.fewest_replicas import fewest


@dataclass(frozen=True)
class Deployed:
    """A way to serve with the fewest replicas that keep the limits, and what its requests see; None: that of a lone request."""

    way: Way
    replicas: int
    held: Held | None

    @functools.cached_property
    def promise(self) -> Promise:
        """What the asked share of requests does not exceed."""
        return self.way.lone if self.held is None else self.way.promise(self.held)

    @property
    def accelerators(self) -> int:
        """All accelerators."""
        return self.way.accelerators(self.replicas)

    @property
    def cost(self) -> float:
        """Price of all accelerators, an hour."""
        return self.way.cost(self.replicas)

    @property
    def order(self) -> tuple[float, float, float]:
        """Cheapest first; of one cost, those with the least latency between tokens, then before the first."""
        return self.cost, self.promise.itl_s, self.promise.ttft_s


@dataclass(slots=True)
class Search:
    """The state of a search: what it has found so far.

    Attributes:
        kept: ways to rank.
        below: the most that one may cost.
        known: the cheapest deployment of each way, by its values on the axes.
        searched: numbers of replicas of a way that were asked whether they keep the limits.
        late: ways of which not even a lone request keeps the limits.
        short: ways that the hardware has no room for, were the limits to be kept.
    """

    kept: int
    below: float = inf
    known: dict[tuple[int, ...], Deployed] = field(default_factory=dict)
    searched: int = 0
    late: list[Way] = field(default_factory=list)
    short: list[Way] = field(default_factory=list)

    @property
    def ranking(self) -> list[Deployed]:
        """The cheapest deployments, cheapest first."""
        return sorted(self.known.values(), key=lambda each: each.order)[: self.kept]

    @property
    def front(self) -> list[Deployed]:
        """The deployments with less latency between tokens than every cheaper one."""
        front: list[Deployed] = []
        for each in sorted(self.known.values(), key=lambda each: each.order):
            if not front or each.promise.itl_s < front[-1].promise.itl_s:
                front.append(each)
        return front

    def cheapest(self, axis: int, value: int) -> Deployed | None:
        """The cheapest deployment with a value on an axis."""
        having = (each for values, each in self.known.items() if values[axis] == value)
        return min(having, key=lambda each: each.order, default=None)

    def fewest(self, way: Way, most: float) -> Deployed | None:
        """The way with the fewest replicas that keep the limits, no more than ``most``."""

        def holds(replicas: int) -> Held | None:
            self.searched += 1
            return way.held(replicas)

        found = fewest(holds, way.least_replicas, most)
        return None if found is None else Deployed(way, *found)

    def look(self, way: Way) -> None:
        """Add a way, if its deployment can be among the cheapest at all, or with one of its values."""
        worth = self._worth(way)
        if way.cost(way.least_replicas) > worth:
            return
        found = self.fewest(way, way.most_replicas(worth))
        if found is not None:
            known = self.known.get(way.values)
            if known is None or found.order < known.order:
                self.known[way.values] = found
        elif way.most_replicas(inf) < inf:
            self.short.append(way)

    def _worth(self, way: Way) -> float:
        """The most that a deployment may cost to be told of."""
        ranking = self.ranking
        costs = [ranking[-1].cost if len(ranking) == self.kept else inf]
        for axis, value in enumerate(way.values):
            cheapest = self.cheapest(axis, value)
            costs.append(inf if cheapest is None else cheapest.cost)
        return min(max(costs), self.below)


def search(ways: Iterable[Way], kept: int, below: float = inf) -> Search:
    """Searches the ways from the one that might be cheapest on.

    Args:
        ways: what to try.
        kept: deployments to rank.
        below: the most that one may cost.
    """
    found, able = Search(kept, below), []
    for way in ways:
        if way.least_replicas:
            able.append(way)
        else:
            found.late.append(way)
    for way in sorted(able, key=lambda way: (way.cost(way.least_replicas), way.lone.itl_s)):
        found.look(way)
    return found
