"""``Systems``: nodes and networks that can be bought or rented.

Example:
    >>> Systems.Nodes.DGX_H100.intra_node_bw.m_as("GB/s")
    900.0
    >>> Systems.Fabrics.InfiniBand_NDR.bandwidth.m_as("Gbit/s")
    400.0
"""

from __future__ import annotations

from typing import Any

from mlsysim.core.errors import InputError
from mlsysim.core.registry import Registry
from mlsysim.core.units import Q_, magnitude
from mlsysim.hardware.registry import Hardware
from mlsysim.systems.types import NetworkFabric, Node


def _node(accelerator: str, intra_bw_one_direction: str, **fields: Any) -> Node:
    """A node from its entry: the accelerator by name, the bandwidth doubled.

    Measurements and collectives count one direction, so the files do too; ``Node`` follows datasheets and sums both.
    """
    if "intra_node_bw" in fields:
        raise InputError("intra_node_bw", fields["intra_node_bw"], "intra_bw_one_direction, the rate of one direction")
    one_direction = magnitude("intra_bw_one_direction", intra_bw_one_direction, "GB/s")
    return Node(accelerator=Hardware.get(accelerator), intra_node_bw=Q_(2 * one_direction, "GB/s"), **fields)


class SystemRegistry(Registry[Node | NetworkFabric]):
    """Systems: ``Nodes`` and ``Fabrics``."""

    def __init__(self) -> None:
        super().__init__("systems")
        self.Nodes = self.group("Nodes", _node)
        self.Fabrics = self.group("Fabrics", NetworkFabric)


Systems = SystemRegistry()
