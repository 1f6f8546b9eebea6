"""Memory that the runtime takes of a device, and the rate at which the device is filled from the host."""

from __future__ import annotations

from typing import Any

from mlsysim.core.toml import packaged_toml, reads
from mlsysim.core.units import magnitude

# A phone or a microcontroller runs no CUDA context: the reserve is at most this part of the capacity.
_LARGEST_SHARE = 0.05


@reads("calibration", "memory.toml")
def runtime_reserve_B() -> float:
    """Bytes that context, driver and communication buffers take of a data-centre accelerator."""
    return magnitude("runtime_reserve", _entries()["runtime_reserve"]["value"], "byte")


@reads("calibration", "memory.toml")
def plan_margin() -> float:
    """Share of the usable memory that a search of plans leaves free: predictions are that much too small, rarely more.

    Example:
        >>> 0 < plan_margin() < 0.1
        True
    """
    return float(_entries()["plan_margin"]["share"])


@reads("calibration", "memory.toml")
def host_link_share() -> float:
    """Share of the link to the host that large transfers reach.

    Example:
        >>> host_link_share()
        0.76
    """
    return float(_entries()["host_link"]["share"])


@reads("calibration", "memory.toml")
def _entries() -> dict[str, Any]:
    return packaged_toml("calibration", "memory.toml")


def usable_memory_B(capacity_B: float) -> float:
    """Bytes that a process can use of a device's ``capacity_B``.

    Example:
        >>> round(usable_memory_B(80 * 2**30) / 2**30, 2)
        78.55
    """
    return capacity_B - min(runtime_reserve_B(), _LARGEST_SHARE * capacity_B)
