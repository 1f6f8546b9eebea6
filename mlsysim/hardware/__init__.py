"""Accelerators: their types, and ``Hardware``, the registry of those that exist."""

from mlsysim.hardware import types
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import ComputeCore, HardwareNode, MemoryHierarchy

__all__ = ["ComputeCore", "Hardware", "HardwareNode", "MemoryHierarchy", "types"]
