"""Networks by their shape: what crosses the middle, what an all-to-all is bounded by, and how many links a path has.

Bandwidths are in one direction; endpoints are accelerators; a path counts every link, those to the first switch included.
``bisection`` is the rate at which the smaller half can send to the other, and no more than it can inject.

Sources: Dally and Towles, "Principles and Practices of Interconnection Networks", 2004, chapters 3 to 5 (torus); Al-Fares et
al., "A Scalable, Commodity Data Center Network Architecture", SIGCOMM 2008 (fat tree); Kim et al., "Technology-Driven,
Highly-Scalable Dragonfly Topology", ISCA 2008; Wang et al., "Rail-only", 2023 (rails).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A network in units of its link rate.

    Attributes:
        endpoints: accelerators.
        injection: links that an endpoint can send on at once.
        bisection: links from the smaller half to the other, at most the half's injection.
        half: endpoints of the smaller half.
        diameter: links of the longest of the shortest paths.
        mean_links: links of the mean path between two endpoints.
        sending_links: links of all endpoints and switches, each direction once, that paths may use.
    """

    endpoints: int
    injection: float
    bisection: float
    half: int
    diameter: int
    mean_links: float
    sending_links: float

    @property
    def bisection_share(self) -> float:
        """The part of a half's injection that crosses the middle; 1 where the network never thins traffic."""
        return self.bisection / (self.half * self.injection)

    def all_to_all_links(self) -> tuple[float, str]:
        """The longest of three bounds on an all-to-all, in messages of a pair per link, and its name.

        What an endpoint sends, what crosses the middle, and the links that all paths take over those there are.
        """
        others = self.endpoints - 1
        bounds = {
            "injection": others / self.injection,
            "bisection": self.half * (self.endpoints - self.half) / self.bisection,
            "links": self.endpoints * others * self.mean_links / self.sending_links,
        }
        name = max(bounds, key=lambda bound: bounds[bound])
        return bounds[name], name


def torus(sizes: Sequence[int]) -> Shape:
    """A torus: two links a dimension, one where it is two long; cut across its longest dimension.

    Example:
        >>> torus((16, 16, 16)).bisection, torus((4, 4, 4)).diameter
        (512.0, 6)
    """
    endpoints, longest = math.prod(sizes), max(sizes)
    degrees = [min(size - 1, 2) for size in sizes]
    half = longest // 2 * (endpoints // longest)
    crossing = min(2.0, longest - 1.0) * endpoints / longest
    # Of a ring of k, the mean distance to another or to itself is floor(k^2 / 4) / k.
    mean = sum(size**2 // 4 / size for size in sizes) * endpoints / (endpoints - 1)
    return Shape(
        endpoints=endpoints,
        injection=float(sum(degrees)),
        bisection=min(crossing, half * float(sum(degrees))),
        half=half,
        diameter=sum(size // 2 for size in sizes),
        mean_links=mean,
        sending_links=float(endpoints * sum(degrees)),
    )


def fat_tree(endpoints: int, radix: int, oversubscription: float = 1.0) -> Shape:
    """A folded Clos of switches with ``radix`` ports: r/2 endpoints a leaf, r/2 leaves a pod, and so on.

    Example:
        >>> fat_tree(27648, 48).diameter, fat_tree(64, 64).diameter  # a single switch
        (6, 2)
    """
    return _tree(endpoints, max(1, radix // 2), radix, oversubscription)


def _tree(endpoints: int, below: int, radix: int, oversubscription: float) -> Shape:
    levels, reach, reached = 1, radix, []
    while reach < endpoints:
        reached.append(below**levels)
        levels += 1
        reach = 2 * below**levels
    reached.append(endpoints)
    # Endpoints within a subtree of each level, itself left out: paths to them turn there.
    within = [min(size, endpoints) - 1 for size in reached]
    pairs = [size - before for size, before in zip(within, [0, *within[:-1]], strict=True)]
    mean = sum(2 * (level + 1) * count for level, count in enumerate(pairs)) / (endpoints - 1)
    half = endpoints // 2
    thinned = oversubscription if levels > 1 else 1.0
    upper = sum(endpoints / (thinned if level else 1.0) for level in range(levels))
    return Shape(endpoints, 1.0, half / thinned, half, 2 * levels, mean, 2 * upper)


def dragonfly(per_router: int, routers: int, global_links: int, groups: int) -> Shape:
    """Groups of ``routers``, all linked to each other, with ``global_links`` each to other groups, evenly (minimal paths).

    Example:
        >>> dragonfly(2, 4, 2, 9).endpoints, dragonfly(2, 4, 2, 9).diameter
        (72, 5)
    """
    group = per_router * routers
    endpoints = group * groups
    others = groups - 1
    half = groups // 2 * group if groups > 1 else group // 2
    if groups > 1:
        between = routers * global_links / others  # links from one group to another
        crossing = groups // 2 * (groups - groups // 2) * between
    else:
        crossing = float(routers // 2 * (routers - routers // 2))
    local = (per_router - 1) * 2 + (group - per_router) * 3
    # To another group: both endpoints' links, the global one, and a local one at each end where another router has it.
    far = others * group * (3 + 2 * (1 - 1 / routers))
    return Shape(
        endpoints=endpoints,
        injection=1.0,
        bisection=min(crossing, float(half)),
        half=half,
        diameter=(5 if others else 3) if routers > 1 else (3 if others else 2),
        mean_links=(local + far) / (endpoints - 1),
        sending_links=float(endpoints * 2 + groups * routers * (routers - 1 + (global_links if others else 0))),
    )


def rails(nodes: int, per_node: int, radix: int, oversubscription: float = 1.0) -> Shape:
    """Rails: the i-th accelerators of all nodes share a tree of their own; between rails traffic first crosses its node.

    The links within a node are taken to be no limit, and count as one of a path.

    Example:
        >>> rails(64, 8, 64).mean_links < fat_tree(512, 64).mean_links, rails(64, 8, 64).diameter
        (True, 3)
    """
    rail = _tree(nodes, max(1, radix // 2), radix, oversubscription)
    others = nodes * per_node - 1
    mean = ((nodes - 1) * per_node * rail.mean_links + (per_node - 1) * nodes) / others
    half = rail.half * per_node
    return Shape(
        endpoints=nodes * per_node,
        injection=1.0,
        bisection=rail.bisection * per_node,
        half=half,
        diameter=rail.diameter + (1 if per_node > 1 else 0),
        mean_links=mean,
        sending_links=math.inf if per_node > 1 else rail.sending_links,
    )
