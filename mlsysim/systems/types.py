"""Types of systems: nodes of accelerators, the network between them, and fleets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pydantic import Field, StrictInt, model_validator

from mlsysim.core.errors import InconsistentError
from mlsysim.core.provenance import Provenance
from mlsysim.core.quantities import ByteRate, Bytes, Latency, Money, Power
from mlsysim.core.spec import Spec
from mlsysim.core.units import in_unit
from mlsysim.hardware.types import HardwareNode

# Ten times what anybody has built.
MOST_PER_NODE, MOST_NODES = 100_000, 10_000_000
# What builds a fleet from what its accelerators usually have: ``systems.fleets`` puts it here, which knows nodes and builds on
# these types. The package imports both.
_built_as_usual: dict[str, Callable[[HardwareNode | str, int, int | None], Fleet]] = {}


def build_as_usual(build: Callable[[HardwareNode | str, int, int | None], Fleet]) -> None:
    """Have ``Fleet.of`` build fleets by a function of the accelerator, their number and the number in a node."""
    _built_as_usual["fleet"] = build


def _with_name(fields: Any, number: str, part: str) -> Any:
    """The fields of a record; without a name it is called by how many of what it has, such as "8 x H100 SXM5 80GB"."""
    if not isinstance(fields, Mapping) or "name" in fields:
        return fields
    inner = fields.get(part)
    called = inner.get("name", part) if isinstance(inner, Mapping) else getattr(inner, "name", part)
    return {**fields, "name": f"{fields.get(number)} x {called}"}


class NetworkFabric(Spec):
    """The network between nodes. ``bandwidth`` is per accelerator, one direction.

    ``oversubscription_ratio`` thins traffic that crosses the upper tier all at once (all-to-all); a ring laid along the
    topology crosses each boundary once and keeps its rate.

    Example:
        >>> NetworkFabric(name="IB NDR", bandwidth="400 Gbit/s").bandwidth_Bps
        50000000000.0
    """

    name: str = Field(default="network", min_length=1)
    bandwidth: ByteRate
    oversubscription_ratio: float = Field(default=1.0, ge=1.0, allow_inf_nan=False)
    latency: Latency | None = None
    topology: str = ""
    provenance: Provenance | None = None

    @cached_property
    def bandwidth_Bps(self) -> float:
        """Per accelerator, one direction, in bytes per second."""
        return in_unit(self.bandwidth, "byte/second")


class Node(Spec):
    """Accelerators that share a scale-up network (an HGX board, a TPU host, an NVL72 rack).

    ``intra_node_bw`` is per accelerator, both directions summed, as datasheets print it (NVLink 4: 900 GB/s).
    ``network_bw`` is what its network cards give each accelerator, one direction. ``host_memory`` is of the whole node.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> Node(accelerator=Hardware.Cloud.H100, accelerators_per_node=4, intra_node_bw="900 GB/s").name
        '4 x H100 SXM5 80GB'
    """

    name: str = Field(default="", min_length=1)
    accelerator: HardwareNode
    accelerators_per_node: StrictInt = Field(ge=1, le=MOST_PER_NODE)
    intra_node_bw: ByteRate
    network_bw: ByteRate | None = None
    host_memory: Bytes | None = None
    max_power: Power | None = None
    price: Money | None = None
    provenance: Provenance | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, fields: Any) -> Any:
        return _with_name(fields, "accelerators_per_node", "accelerator")

    @cached_property
    def intra_bandwidth_Bps(self) -> float:
        """Per accelerator, one direction, in bytes per second."""
        return in_unit(self.intra_node_bw, "byte/second") / 2


class Fleet(Spec):
    """``count`` nodes on one fabric. ``fabric`` may be left out for a single node, or where the node knows its network.

    ``Fleet.of("H100", 512)`` is so many accelerators in the nodes and on the network that they usually have.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> node = Node(name="HGX", accelerator=Hardware.Cloud.H100, accelerators_per_node=8, intra_node_bw="900 GB/s")
        >>> Fleet(name="one", node=node, count=1).accelerators
        8
    """

    name: str = Field(default="", min_length=1)
    node: Node
    count: StrictInt = Field(ge=1, le=MOST_NODES)
    fabric: NetworkFabric | None = None
    provenance: Provenance | None = None

    @classmethod
    def of(cls, accelerator: HardwareNode | str, count: int, per_node: int | None = None) -> Fleet:
        """So many accelerators with the node, links and network that they usually have (``systems/data/fleets.toml``).

        Args:
            accelerator: its name, as people spell it, or one of your own: where others of its socket sit, else a common node.
            count: accelerators in all.
            per_node: accelerators of a node; by default as many as usual, or the most that divide ``count``.

        Raises:
            InputError: no accelerator is called so, or a number is no whole number of at least 1.

        Example:
            >>> fleet = Fleet.of("H100", 512)
            >>> fleet.count, fleet.node.name, f"{fleet.inter_bandwidth_Bps / 1e9:g} GB/s"
            (64, 'DGX H100', '50 GB/s')
        """
        return _built_as_usual["fleet"](accelerator, count, per_node)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, fields: Any) -> Any:
        return _with_name(fields, "count", "node")

    @model_validator(mode="after")
    def _network_is_known(self) -> Fleet:
        if self.count > 1 and self.fabric is None and self.node.network_bw is None:
            raise InconsistentError("fabric", None, f"a NetworkFabric: {self.count} nodes need a network between them")
        return self

    @cached_property
    def accelerators(self) -> int:
        """Accelerators in all."""
        return self.count * self.node.accelerators_per_node

    @cached_property
    def inter_bandwidth_Bps(self) -> float:
        """Between nodes, per accelerator, one direction, in bytes per second (of a lone node: its own network, or inf)."""
        if self.fabric is not None:
            return self.fabric.bandwidth_Bps
        return in_unit(self.node.network_bw, "byte/second") if self.node.network_bw is not None else float("inf")

    @property
    def oversubscription_ratio(self) -> float:
        """Oversubscription of the fabric; 1 where there is none."""
        return 1.0 if self.fabric is None else self.fabric.oversubscription_ratio


def accelerator_of(machine: HardwareNode | Node | Fleet) -> HardwareNode:
    """Return the accelerator of a machine: itself, or the one that its nodes have.

    Example:
        >>> accelerator_of(Fleet.of("H100", 512)).name
        'H100 SXM5 80GB'
    """
    node = machine.node if isinstance(machine, Fleet) else machine
    return node.accelerator if isinstance(node, Node) else node
