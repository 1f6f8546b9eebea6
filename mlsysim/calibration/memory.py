"""What the runtime takes of a device's memory."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources

from mlsysim.core.units import magnitude

# A phone or a microcontroller runs no CUDA context: the reserve is at most this part of the capacity.
_LARGEST_SHARE = 0.05


@functools.cache
def runtime_reserve_B() -> float:
    """Bytes that context, driver and communication buffers take of a data-centre accelerator."""
    entry = tomllib.loads((resources.files("mlsysim.calibration") / "memory.toml").read_text("utf-8"))["runtime_reserve"]
    return magnitude("runtime_reserve", entry["value"], "byte")


def usable_memory_B(capacity_B: float) -> float:
    """What a process can use of ``capacity_B``.

    Example:
        >>> round(usable_memory_B(80 * 2**30) / 2**30, 2)
        78.55
    """
    return capacity_B - min(runtime_reserve_B(), _LARGEST_SHARE * capacity_B)
