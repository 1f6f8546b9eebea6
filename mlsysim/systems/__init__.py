"""Nodes, networks and fleets: their types, and ``Systems``, the registry of those that exist."""

from mlsysim.systems import types
from mlsysim.systems.fleets import usual_fleet, usual_node
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, NetworkFabric, Node

__all__ = ["Fleet", "NetworkFabric", "Node", "Systems", "types", "usual_fleet", "usual_node"]
