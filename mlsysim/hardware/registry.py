"""``Hardware``: accelerators by where they are used.

Example:
    >>> Hardware.Cloud.H100.memory.capacity.m_as("GiB")
    80
    >>> Hardware["a100_sxm_80gb"] is Hardware.Cloud.A100
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.registry import Registry
from mlsysim.hardware.slices import Slicing, slicing
from mlsysim.hardware.types import HardwareNode

# Names round a device's memory, count it in powers of two or leave a reserve out.
_ROUNDING = 0.15
# Spellings that are known to agree with the device's memory: a table of any length may have another one in each row.
_MOST_CHECKED = 2**14
# What a variant of a device does not share with it: fields that its own entry states, or that nobody knows.
_OWN = dict.fromkeys(("tdp", "idle_power", "price", "interconnect_bw"))


class HardwareRegistry(Registry[HardwareNode]):
    """Accelerators: ``Cloud``, ``Workstation``, ``Edge``, ``Mobile``, ``Tiny`` and ``CPU``."""

    def __init__(self) -> None:
        super().__init__("hardware")
        self._checked: set[str] = set()
        self._slices: dict[tuple[str, Slicing], HardwareNode] = {}
        self.Cloud = self.group("Cloud", self._built)
        self.Workstation = self.group("Workstation", self._built)
        self.Edge = self.group("Edge", self._built)
        self.Mobile = self.group("Mobile", self._built)
        self.Tiny = self.group("Tiny", self._built)
        self.CPU = self.group("CPU", self._built)

    def get(self, name: str) -> HardwareNode:
        """The accelerator of this name, as people and tables spell it; of a name with slices (MIG), one slice.

        Raises:
            UnknownNameError: there is none, or the name does not say which.

        Example:
            >>> Hardware.get("NVIDIA H200-SXM-141GB") is Hardware.Cloud.H200
            True
            >>> Hardware.get("A100-SXM-80GB (7x1g.10gb MIG)").compute.multiprocessors
            14
        """
        whole, cut = slicing(name)
        if cut is None:
            return self._of_its_memory(name, super().get(name))
        key = self.id_of(whole), cut
        if key not in self._slices:
            self._slices.setdefault(key, cut.of(key[0], super().get(whole)))
        return self._slices[key]

    __getitem__ = get

    def _of_its_memory(self, name: str, device: HardwareNode) -> HardwareNode:
        """The device, if it can have the memory that ``name`` says; of a chip with memory of any size, that is less."""
        if name not in self._checked:
            told = self._store.names().qualifier(name, "memory")
            share = 1.0 if told is None else float(told) * 1e9 / device.memory_capacity_B
            least = 0.0 if device.form_factor == "SoC" else 1 - _ROUNDING
            if not least <= share <= 1 + _ROUNDING:
                capacity = f"{device.memory_capacity_B / 1e9:.0f} GB"
                raise UnknownNameError("accelerator", name, f"one of that memory: {device.name} has {capacity}")
            if len(self._checked) >= _MOST_CHECKED:
                self._checked.clear()
            self._checked.add(name)
        return device

    def _built(self, like: str = "", multiprocessors: int | None = None, peak_flops: str = "", **fields: Any) -> HardwareNode:
        """A device from its entry; of a variant (``like``) from that of the other device and what differs."""
        if not like:
            device = HardwareNode(**fields)
            if device.release_year is None:
                raise InputError("release_year", None, "the year in which it came out: entries have it")
            return device
        base = self.get(like)
        memory: Mapping[str, Any] = fields.pop("memory", {})
        return base.model_copy(
            update={
                **_OWN,
                **fields,
                "compute": base.compute.scaled(multiprocessors, peak_flops),
                "memory": base.memory.model_copy(update=memory),
            }
        )


Hardware = HardwareRegistry()
