"""``Hardware``: accelerators by where they are used.

Example:
    >>> Hardware.Cloud.H100.memory.capacity.m_as("GiB")
    80
    >>> Hardware["a100_sxm_80gb"] is Hardware.Cloud.A100
    True
"""

from __future__ import annotations

from mlsysim.core.registry import Registry
from mlsysim.hardware.types import HardwareNode


class HardwareRegistry(Registry[HardwareNode]):
    """Accelerators: ``Cloud``, ``Workstation``, ``Edge``, ``Mobile``, ``Tiny`` and ``CPU``."""

    def __init__(self) -> None:
        super().__init__("hardware")
        self.Cloud = self.group("Cloud", HardwareNode)
        self.Workstation = self.group("Workstation", HardwareNode)
        self.Edge = self.group("Edge", HardwareNode)
        self.Mobile = self.group("Mobile", HardwareNode)
        self.Tiny = self.group("Tiny", HardwareNode)
        self.CPU = self.group("CPU", HardwareNode)


Hardware = HardwareRegistry()
