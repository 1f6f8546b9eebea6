"""Feasibility of a plan: the reason in bytes why it does not fit."""

from __future__ import annotations

from collections.abc import Mapping

from mlsysim.calibration.memory import usable_memory_B
from mlsysim.core.units import in_gib
from mlsysim.hardware.types import HardwareNode


def over_budget(
    needed_B: float,
    hardware: HardwareNode,
    what: str,
    parts_B: Mapping[str, float] | None = None,
    usable_B: float | None = None,
) -> str:
    """Why ``needed_B`` does not fit ``hardware``, or an empty string where it does.

    ``what`` begins the sentence, and ``parts_B`` are told in it; ``usable_B`` is by default all that the runtime leaves.
    """
    usable = usable_memory_B(hardware.memory_capacity_B) if usable_B is None else usable_B
    if needed_B <= usable:
        return ""
    largest = ""
    if parts_B:
        ordered = sorted(parts_B.items(), key=lambda part: -part[1])
        largest = " (" + ", ".join(f"{name} {in_gib(size)}" for name, size in ordered if size > 0) + ")"
    capacity = hardware.memory_capacity_B
    return (
        f"{what} {hardware.name} needs {in_gib(needed_B)}{largest}; it has {in_gib(capacity)}, "
        f"of which {in_gib(max(usable, 0.0))} are usable"
    )
