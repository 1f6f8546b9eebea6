"""Nodes, networks and fleets: their types, and ``Systems``, the registry of those that exist."""

from mlsysim.systems import types
from mlsysim.systems.fleet_text import fleet_called, machine_called, machines_listed
from mlsysim.systems.fleets import usual_fleet, usual_node, whole_nodes
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, NetworkFabric, Node

__all__ = [
    "Fleet",
    "NetworkFabric",
    "Node",
    "Systems",
    "fleet_called",
    "machine_called",
    "machines_listed",
    "types",
    "usual_fleet",
    "usual_node",
    "whole_nodes",
]
