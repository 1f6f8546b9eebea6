"""The cheapest ways to serve a load: each with the fewest replicas that keep the limits, and no more of them than matters."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf

from mlsysim.solvers.serving.capacity_space import Held, Promise, Way
from mlsysim.solvers.serving.fewest_replicas import fewest

# A deployment that costs more than so many times the cheapest is not told of.
TOLD = 10.0
# Times what the load fills. Limits that take more are kept by requests that meet no others, and nobody would buy that.
REACH = (1, 2, 4, 16, 64, 256, 1024)


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

    @functools.cached_property
    def cost(self) -> float:
        """Price of all accelerators, an hour."""
        return self.way.cost(self.replicas)

    @functools.cached_property
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
        able: ways of which a lone request keeps the limits, the one that might be cheapest first.
        late: ways of which not even a lone request keeps the limits.
        short: the cheapest deployment that keeps the limits, were there more of the hardware, where none does as it is.
    """

    kept: int
    below: float = inf
    known: dict[tuple[int, ...], Deployed] = field(default_factory=dict)
    able: list[Way] = field(default_factory=list)
    late: list[Way] = field(default_factory=list)
    short: Deployed | None = None
    _failed: dict[int, float] = field(default_factory=dict)
    _asked: dict[tuple[int, int], Held | None] = field(default_factory=dict)

    @property
    def searched(self) -> int:
        """The number of replicas of a way that were asked whether they keep the limits."""
        return len(self._asked)

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

    def look(self, way: Way, ceiling: float) -> None:
        """Add a way, if it can be among those to tell of with no more than this cost."""
        most = way.most_replicas(min(ceiling, self._worth(way)))
        least = self._failed.get(id(way), way.least_replicas - 1) + 1
        if least > most:
            return
        held = functools.partial(self._held, way)
        too_few = not self.known and held(int(most)) is None
        needed = None if too_few else fewest(held, int(least), most)
        if needed is None:
            self._failed[id(way)] = most
            return
        deployed, known = Deployed(way, *needed), self.known.get(way.values)
        if known is None or deployed.order < known.order:
            self.known[way.values] = deployed

    def _held(self, way: Way, replicas: int) -> Held | None:
        asked = id(way), replicas
        if asked not in self._asked:
            self._asked[asked] = way.held(replicas)
        return self._asked[asked]

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

    Nobody knows beforehand how many replicas the limits take: all ways are given ever more, until one keeps them.

    Args:
        ways: what to try.
        kept: deployments to rank.
        below: the most that one may cost.
    """
    all_ways = list(ways)
    able = [way for way in all_ways if way.least_replicas]
    able.sort(key=lambda way: (way.cost(way.least_replicas), way.lone.itl_s))
    result = Search(kept, below, able=able, late=[way for way in all_ways if not way.least_replicas])
    for times in REACH:
        for way in able:
            result.look(way, times * able[0].cost(able[0].least_replicas))
        if result.known:
            break
    if result.known:
        for way in able:
            result.look(way, TOLD * result.ranking[0].cost)
    elif below == inf and any(way.offer.available < inf for way in able):
        more = (replace(way, offer=replace(way.offer, available=inf)) for way in able)
        result.short = next(iter(search(more, 1).ranking), None)
    return result
