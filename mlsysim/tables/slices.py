"""Slices of an accelerator (NVIDIA's MIG): a part of its multiprocessors, its memory and its cache, as a device of its own."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from mlsysim.core.errors import InputError
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode

_PROFILE = re.compile(r"\(?\b(\d+)x(\d+)g\.(\d+)gb mig\)?")
_GIB = 2**30


class Slicing(NamedTuple):
    """How an accelerator is cut: slices in use, compute slices of each, and gigabytes of each."""

    slices: int
    compute: int
    memory_GB: int


def slicing(text: str) -> tuple[str, Slicing | None]:
    """The accelerator's name without its slices, and these; None for a whole one.

    Raises:
        InputError: slices of another form.

    Example:
        >>> slicing("nvidia a100-sxm-80gb (7x1g.10gb mig)")
        ('nvidia a100-sxm-80gb', Slicing(slices=7, compute=1, memory_GB=10))
    """
    if "mig" not in text:
        return text, None
    found = _PROFILE.search(text)
    if found is None:
        raise InputError("accelerator", text, 'slices such as "(7x1g.10gb MIG)", or a whole accelerator')
    return _PROFILE.sub("", text).strip(), Slicing(*(int(number) for number in found.groups()))


@functools.lru_cache(maxsize=256)
def sliced(entry: str, cut: Slicing, multiprocessors: int) -> HardwareNode:
    """One slice of the accelerator ``entry``, whose compute slices have so many ``multiprocessors`` each.

    Memory, its bandwidth and the last-level cache go with the gigabytes.

    Example:
        >>> part = sliced("a100_sxm_80gb", Slicing(7, 1, 10), 14)
        >>> part.compute.multiprocessors, f"{part.memory_bandwidth_Bps / 1e9:.0f}"
        (14, '255')
    """
    whole: HardwareNode = Hardware.get(entry)
    listed = whole.compute.multiprocessors
    units, memory_share = cut.compute * multiprocessors, cut.memory_GB * _GIB / whole.memory_capacity_B
    if listed is None or units > listed or memory_share > 1:
        raise InputError("accelerator", whole.name, f"one that {units} multiprocessors and {cut.memory_GB} GB are a part of")
    compute_share = units / listed
    compute = whole.compute.model_copy(
        update={
            "multiprocessors": units,
            "peak_flops": whole.compute.peak_flops * compute_share,
            "precision_flops": {name: rate * compute_share for name, rate in whole.compute.precision_flops.items()},
        }
    )
    cache = whole.memory.l2_capacity
    memory = whole.memory.model_copy(
        update={
            "bandwidth": whole.memory.bandwidth * memory_share,
            "capacity": whole.memory.capacity * memory_share,
            "l2_capacity": None if cache is None else cache * memory_share,
        }
    )
    return whole.model_copy(update={"compute": compute, "memory": memory})
