"""Networks by their shape: ``TopologyModel``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlsysim.core.checks import listed, needed, one_of, positive_quantity, real_number, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.physics.operations.topology import Shape, dragonfly, fat_tree, rails, torus
from mlsysim.solvers.result import Result

# Spellings, and the shape that each means with its dimensions.
_SHAPES = {
    "torus": ("torus", 0),
    "ring": ("torus", 1),
    "torus_2d": ("torus", 2),
    "2d_torus": ("torus", 2),
    "torus_3d": ("torus", 3),
    "3d_torus": ("torus", 3),
    "fat_tree": ("fat tree", 0),
    "clos": ("fat tree", 0),
    "dragonfly": ("dragonfly", 0),
    "rail_optimized": ("rails", 0),
    "rail_optimised": ("rails", 0),
}
_MOST_SIZES = 12


@dataclass(frozen=True, kw_only=True)
class TopologyResult(Result):
    """What a network carries at most.

    Attributes:
        bisection_bandwidth: bytes a second that one half can send to the other, one direction.
        bisection_share: the part of a half's injection that crosses; never above 1.
        all_to_all_rate: bytes a second that each accelerator can send in an all-to-all, at most.
        all_to_all_time: the least time of an all-to-all; None where no ``message_size`` is stated.
        diameter: links of the longest of the shortest paths between two accelerators, those to switches included.
        mean_links: links of the mean path.
        accelerators: accelerators that the network joins.
    """

    HEADLINE = ("bisection_bandwidth", "bisection_share", "all_to_all_rate", "all_to_all_time", "diameter", "mean_links")

    bisection_bandwidth: Quantity
    bisection_share: float
    all_to_all_rate: Quantity
    all_to_all_time: Quantity | None
    diameter: int
    mean_links: float
    accelerators: int


class TopologyModel:
    """Bisection, all-to-all bound and path lengths of a torus, fat tree, dragonfly or rails, by counting links.

    Measured collectives reach a part of these rates: ``DistributedModel`` on a stack has what they reach.
    """

    @strict_keywords
    def solve(
        self,
        topology: str,
        *,
        link_bandwidth: Quantity | str,
        accelerators: int | None = None,
        sizes: Sequence[int] | None = None,
        radix: int = 64,
        oversubscription: float = 1.0,
        per_router: int | None = None,
        routers_per_group: int | None = None,
        global_links: int | None = None,
        per_node: int = 8,
        message_size: Quantity | str | None = None,
    ) -> TopologyResult:
        """Judge a network.

        Args:
            topology: "torus", "torus_2d", "torus_3d", "ring", "fat-tree", "dragonfly" or "rail-optimized".
            link_bandwidth: of one link, one direction.
            accelerators: how many it joins; of a torus, alternatively its ``sizes``.
            sizes: accelerators along each dimension of a torus.
            radix: ports of a switch, of a fat tree and of rails.
            oversubscription: rate into a leaf switch over the rate out of it.
            per_router: accelerators at a router of a dragonfly.
            routers_per_group: routers of a group of a dragonfly.
            global_links: links of a router of a dragonfly to other groups.
            per_node: accelerators of a node, each on a rail of its own.
            message_size: bytes that each accelerator sends to each other in an all-to-all.

        Raises:
            InputError: an unknown topology, a number out of range, or a shape that does not divide.

        Example:
            >>> pod = TopologyModel().solve("torus", sizes=[4, 4, 4], link_bandwidth="45 GB/s")
            >>> f"{pod.bisection_bandwidth.m_as('GB/s'):.0f} GB/s", round(pod.bisection_share, 3), pod.diameter
            ('1440 GB/s', 0.167, 6)
            >>> TopologyModel().solve("hypertorus", link_bandwidth="45 GB/s")
            Traceback (most recent call last):
            mlsysim.core.errors.UnknownNameError: topology = 'hypertorus': expected one of torus, ring, torus_2d, 2d_torus, \
torus_3d, 3d_torus, fat_tree, clos, dragonfly, rail_optimized, rail_optimised; did you mean 'torus'?
        """
        kind, dimensions = _SHAPES[one_of("topology", topology, _SHAPES)]
        link_Bps = positive_quantity("link_bandwidth", link_bandwidth, "byte/second")
        count = None if accelerators is None else whole_number("accelerators", accelerators, minimum=2)
        thinned = real_number("oversubscription", oversubscription, 1.0)
        ports = whole_number("radix", radix, minimum=4)
        if kind == "torus":
            shape = torus(_sizes(count, dimensions, sizes))
        elif kind == "dragonfly":
            shape = _dragonfly(count, per_router, routers_per_group, global_links)
        else:
            joined = needed("accelerators", count, "a whole number >= 2")
            shape = fat_tree(joined, ports, thinned) if kind == "fat tree" else _rails(joined, per_node, ports, thinned)
        messages, binding = shape.all_to_all_links()
        each_B = 1.0 if message_size is None else positive_quantity("message_size", message_size, "byte")
        seconds = messages * each_B / link_Bps
        return TopologyResult(
            solver="TopologyModel",
            subject=f"{kind} of {shape.endpoints} accelerators on links of {link_Bps / 1e9:.4g} GB/s",
            basis="bound",
            binding=binding,
            breakdown={} if message_size is None else with_units({binding: seconds}, "second"),
            bisection_bandwidth=with_unit(shape.bisection * link_Bps, "byte/second"),
            bisection_share=shape.bisection_share,
            all_to_all_rate=with_unit((shape.endpoints - 1) / messages * link_Bps, "byte/second"),
            all_to_all_time=None if message_size is None else with_unit(seconds, "second"),
            diameter=shape.diameter,
            mean_links=shape.mean_links,
            accelerators=shape.endpoints,
        )


def _sizes(count: int | None, dimensions: int, sizes: object) -> list[int]:
    """The sizes of a torus, as stated, else equal ones."""
    if sizes is not None:
        listed_sizes = [whole_number("sizes", size) for size in listed("sizes", sizes, int, "whole numbers")]
        if len(listed_sizes) > _MOST_SIZES or (dimensions and len(listed_sizes) != dimensions) or max(listed_sizes) < 2:
            raise InputError("sizes", listed_sizes, f"{dimensions or f'1 to {_MOST_SIZES}'} whole numbers, one of them >= 2")
        if count is not None and math.prod(listed_sizes) != count:
            raise InconsistentError("accelerators", count, f"{math.prod(listed_sizes)}, the product of sizes {listed_sizes}")
        return listed_sizes
    if not dimensions:
        raise InputError("sizes", None, "accelerators along each dimension, such as [4, 4, 8]")
    joined = needed("accelerators", count, "a whole number >= 2, or sizes")
    side = round(joined ** (1 / dimensions))
    if side**dimensions != joined:
        raise InputError(
            "sizes", None, f"accelerators along each of {dimensions} dimensions: {joined} is no power of one number"
        )
    return [side] * dimensions


def _dragonfly(count: int | None, per_router: object, routers: object, links: object) -> Shape:
    named = {"per_router": per_router, "routers_per_group": routers, "global_links": links}
    p, a, h = (whole_number(name, needed(name, value, "a whole number >= 1")) for name, value in named.items())
    most = a * h + 1
    groups = most if count is None else count // (p * a)
    if count is not None and (groups * p * a != count or not 2 <= groups <= most):
        expected = f"a multiple of the {p * a} of a group, of 2 to {most} groups: so many can {a} x {h} links reach"
        raise InconsistentError("accelerators", count, expected)
    return dragonfly(p, a, h, groups)


def _rails(count: int, per_node: object, radix: int, oversubscription: float) -> Shape:
    each = whole_number("per_node", per_node)
    if count % each or count // each < 2:
        raise InconsistentError("accelerators", count, f"two or more nodes of {each}")
    return rails(count // each, each, radix, oversubscription)
