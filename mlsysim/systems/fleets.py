"""The fleet that accelerators usually run in: the node, its links and its network, wherever nobody says."""

from __future__ import annotations

import functools
import math
from typing import Any

from mlsysim.core.checks import instance, whole_number
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.toml import packaged_toml
from mlsysim.core.units import Q_, in_unit
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import MOST_NODES, MOST_PER_NODE, Fleet, NetworkFabric, Node, build_as_usual

# How a node is cooled: fans take power, too.
COOLING = ("air", "immersion")


def host_share(cooling: str) -> float:
    """Returns the power of a node beside its accelerators under load, over their TDP.

    Example:
        >>> host_share("immersion") < host_share("air")
        True
    """
    return float(_facts()["host"][cooling]["share"])


def usual_node(accelerator: HardwareNode) -> Node:
    """Returns the node that an accelerator usually sits in, with the network of its cards.

    A slice or a variant of an accelerator, and one of a caller's own, sits on its own links where others of its socket do (of
    one vendor and form factor, with links as fast), those most like it; one of no known socket in a node of the common size.

    Example:
        >>> usual_node(Hardware.Cloud.H100).name, usual_node(Hardware.Cloud.GB200).accelerators_per_node
        ('DGX H100', 72)
        >>> node = usual_node(Hardware.Cloud.L40S)
        >>> node.accelerators_per_node, f"{node.intra_bandwidth_Bps / 1e9:g}"
        (8, '31.5')
    """
    known = _seated(accelerator)
    if not known:
        return _common_node(accelerator)
    node = Systems.Nodes.get(_facts()["node"][known])
    if node.accelerator is accelerator:
        return node
    return node.model_copy(update={"name": f"{node.name} with {accelerator.name}", **_links(accelerator)})


def usual_fleet(
    accelerator: HardwareNode,
    count: int,
    per_node: int | None = None,
    link_Bps: float | None = None,
    network_Bps: float | None = None,
) -> Fleet:
    """Returns a fleet of exactly ``count`` accelerators; what is left out is that of the node that they usually sit in.

    Args:
        accelerator: of the registry, or a caller's own.
        count: accelerators of the fleet.
        per_node: accelerators that share a node. Of those in one NVLink domain or torus, a number no larger than the tray's or
            the host's means that tray or host, and the domain is the node; a larger one is a part of the domain. Where it does
            not divide ``count``, the node is the largest that does.
        link_Bps: bytes per second of an accelerator within the node, one direction.
        network_Bps: bytes per second of an accelerator between nodes, one direction.

    Raises:
        InputError: ``count`` is no whole number of at least 1.

    Example:
        >>> fleet = usual_fleet(Hardware.Cloud.GB200, 144, per_node=4)
        >>> fleet.count, fleet.node.accelerators_per_node, f"{fleet.inter_bandwidth_Bps / 1e9:g} GB/s"
        (2, 72, '50 GB/s')
        >>> usual_fleet(Hardware.Cloud.H100, 16).count
        2
    """
    whole_number("count", count, maximum=MOST_NODES)
    if per_node is not None:
        whole_number("per_node", per_node, maximum=MOST_PER_NODE)
    node, shared = usual_node(accelerator), sharing(accelerator, count, per_node)
    if network_Bps is None:
        network_Bps = _network_Bps(node, shared)
    return _fleet(accelerator, count, shared, link_Bps or node.intra_bandwidth_Bps, network_Bps)


def _of(accelerator: HardwareNode | str, count: int, per_node: int | None) -> Fleet:
    named = Hardware.get(accelerator) if isinstance(accelerator, str) else accelerator
    device = instance("accelerator", named, HardwareNode, "the name of an accelerator such as H100, or an accelerator")
    return usual_fleet(device, count, per_node)


build_as_usual(_of)


@identity_cache(1024)
def usual_nodes(accelerator: HardwareNode, ranks: int) -> Fleet:
    """Returns whole nodes, as many as ``ranks`` accelerators need: the fleet of a deployment of which only its size is known.

    Example:
        >>> fleet = usual_nodes(Hardware.Cloud.H100, 12)
        >>> fleet.count, fleet.node is Systems.Nodes.DGX_H100
        (2, True)
    """
    node = usual_node(accelerator)
    size = _facts()["domain"].get(_seated(accelerator), node.accelerators_per_node)
    if size != node.accelerators_per_node:
        node = node.model_copy(update={"accelerators_per_node": size})
    return whole_nodes(node, -(-ranks // size))


def whole_nodes(node: Node, count: int) -> Fleet:
    """Returns so many of a node, on the network of their cards: the node's own, or the common one.

    Raises:
        InputError: ``count`` is no whole number of at least 1.

    Example:
        >>> fleet = whole_nodes(Systems.Nodes.DGX_H100, 64)
        >>> fleet.accelerators, f"{fleet.inter_bandwidth_Bps / 1e9:g} GB/s"
        (512, '50 GB/s')
    """
    whole_number("count", count, maximum=MOST_NODES)
    fabric = NetworkFabric(name="network", bandwidth=Q_(_network_Bps(node, node.accelerators_per_node), "byte/second"))
    return Fleet(name=f"{count} x {node.name}", node=node, count=count, fabric=fabric)


def as_fleet(machine: HardwareNode | Node | Fleet) -> Fleet:
    """Returns the machine as a fleet: a lone accelerator or node is a fleet of one.

    Example:
        >>> as_fleet(Systems.Nodes.DGX_H100).accelerators, as_fleet(Hardware.Cloud.H100).accelerators
        (8, 1)
    """
    if isinstance(machine, Fleet):
        return machine
    return whole_nodes(machine, 1) if isinstance(machine, Node) else usual_fleet(machine, 1)


def sharing(accelerator: HardwareNode, count: int, per_node: int | None = None) -> int:
    """Returns how many of ``count`` accelerators share a node; arguments as those of ``usual_fleet``.

    Example:
        >>> sharing(Hardware.Cloud.H100, 64), sharing(Hardware.Cloud.H100, 12), sharing(Hardware.Cloud.GB200, 36, 4)
        (8, 6, 36)
    """
    usual = usual_node(accelerator).accelerators_per_node
    domain: int | None = _facts()["domain"].get(_seated(accelerator))
    told = per_node or domain or usual
    shared = min(count, told if domain is None or told > usual else domain)
    while count % shared:
        shared -= 1
    return shared


@functools.cache
def _facts() -> dict[str, dict[str, Any]]:
    return packaged_toml("systems", "fleets.toml")


@identity_cache()
def _fleet(accelerator: HardwareNode, count: int, per_node: int, link_Bps: float, network_Bps: float) -> Fleet:
    """Build a fleet, cached: building checked types takes longer than solving a question about them."""
    node = Node(
        name=usual_node(accelerator).name,
        accelerator=accelerator,
        accelerators_per_node=per_node,
        intra_node_bw=Q_(2 * link_Bps, "byte/second"),
    )
    fabric = NetworkFabric(name="network", bandwidth=Q_(network_Bps, "byte/second"))
    return Fleet(name=f"{count} x {accelerator.name}", node=node, count=count // per_node, fabric=fabric)


def _id(accelerator: HardwareNode) -> str:
    """The registry's id of an accelerator; empty for a slice, a variant of a caller's or one that it does not have."""
    try:
        entry = Hardware.id_of(accelerator.name)
    except UnknownNameError:
        return ""
    return entry if Hardware.get(entry) is accelerator else ""


@identity_cache(1024)
def _seated(accelerator: HardwareNode) -> str:
    """The id of the accelerator whose node is known and in whose place this one sits, itself or another; empty for none."""
    seats, own = _seats(), _id(accelerator)
    if own in seats:
        return own
    socket = _socket(accelerator)
    same = [name for name, other in seats.items() if socket is not None and _socket(other) == socket]
    return min(same, key=lambda name: _unlike(seats[name], accelerator), default="")


@functools.cache
def _seats() -> dict[str, HardwareNode]:
    return {name: Hardware[name] for name in _facts()["node"] if name != "source"}


def _socket(accelerator: HardwareNode) -> tuple[Any, ...] | None:
    """What boards are made for: whose accelerators of which form, on which links; none where one of these is not said."""
    said = accelerator.vendor, accelerator.form_factor, accelerator.interconnect_bandwidth_Bps
    return said if all(said) else None


def _unlike(one: HardwareNode, other: HardwareNode) -> float:
    """How far two accelerators are apart in rate, bandwidth and memory."""
    sizes = (
        (each.compute.peak_flops.m_as("flop/second"), each.memory_bandwidth_Bps, each.memory_capacity_B)
        for each in (one, other)
    )
    return sum(abs(math.log(mine / others)) for mine, others in zip(*sizes, strict=True))


def _common_node(accelerator: HardwareNode) -> Node:
    """A node of the common size; a card's links are the host's bus."""
    size = _facts()["other"]["accelerators_per_node"]
    return Node(name=f"{size} x {accelerator.name}", accelerators_per_node=size, **_links(accelerator))


def _links(accelerator: HardwareNode) -> dict[str, Any]:
    """Fields of a node of these accelerators on their own links."""
    other: dict[str, Any] = _facts()["other"]
    link = accelerator.interconnect_bw
    if link is None or accelerator.form_factor.startswith(other["card_form"]):
        link = accelerator.host_link_bw if accelerator.host_link_bw is not None else Q_(other["bus_GBps"], "GB/s")
    return {"accelerator": accelerator, "intra_node_bw": 2 * link}


def _network_Bps(node: Node, sharing: int) -> float:
    """Bytes per second of each accelerator between nodes: the node's own network, or the common one."""
    if node.network_bw is not None:
        return in_unit(node.network_bw, "byte/second")
    other: dict[str, Any] = _facts()["other"]
    is_card = node.accelerator.form_factor.startswith(other["card_form"])
    return 1e9 * float(other["node_network_GBps"] / sharing if is_card else other["network_GBps"])
