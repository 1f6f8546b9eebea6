"""Slices of an accelerator (NVIDIA's MIG): a part of its multiprocessors, its memory and its cache, as a device of its own."""

from __future__ import annotations

import re
from typing import NamedTuple

from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InputError
from mlsysim.core.toml import packaged_toml
from mlsysim.hardware.types import HardwareNode

_PROFILE = re.compile(r"\(?\b(\d+)x(\d+)g\.(\d+)gb mig\)?", re.IGNORECASE)
_MENTION = re.compile(r"\bmig\b", re.IGNORECASE)
_GIB = 2**30


class Slicing(NamedTuple):
    """The cut of an accelerator: slices in use, compute slices of each, and gigabytes of each."""

    slices: int
    compute: int
    memory_GB: int

    def of(self, entry: str, whole: HardwareNode) -> HardwareNode:
        """Returns one slice; memory, its bandwidth and the last-level cache go with the gigabytes.

        Args:
            entry: the registry id of the accelerator, which says how many multiprocessors a compute slice has.
            whole: the accelerator.

        Raises:
            UnknownNameError: the accelerator is none that is cut in slices.
            InputError: it has no such part.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> part = Slicing(7, 1, 10).of("a100_sxm_80gb", Hardware.Cloud.A100)
            >>> part.compute.multiprocessors, f"{part.memory_bandwidth_Bps / 1e9:.0f}"
            (14, '255')
        """
        chip = entry.partition("_")[0]
        known: dict[str, int] = packaged_toml("hardware", "names.toml")["slice_multiprocessors"]
        listed, part_units = whole.compute.multiprocessors, looked_up("accelerator that is cut in slices", chip, known)
        units, memory_share = self.compute * part_units, self.memory_GB * _GIB / whole.memory_capacity_B
        if listed is None or units > listed or memory_share > 1:
            part = f"one that {units} multiprocessors and {self.memory_GB} GB are a part of"
            raise InputError("accelerator", whole.name, part)
        cache = whole.memory.l2_capacity
        memory = whole.memory.model_copy(
            update={
                "bandwidth": whole.memory.bandwidth * memory_share,
                "capacity": whole.memory.capacity * memory_share,
                "l2_capacity": None if cache is None else cache * memory_share,
            }
        )
        return whole.model_copy(update={"compute": whole.compute.scaled(units), "memory": memory})


def slicing(text: str) -> tuple[str, Slicing | None]:
    """Returns the accelerator's name without its slices, and these; None for a whole one.

    Raises:
        InputError: slices of another form.

    Example:
        >>> slicing("NVIDIA A100-SXM-80GB (7x1g.10gb MIG)")
        ('NVIDIA A100-SXM-80GB', Slicing(slices=7, compute=1, memory_GB=10))
    """
    if not isinstance(text, str) or not _MENTION.search(text):
        return text, None
    profile = _PROFILE.search(text)
    if profile is None:
        raise InputError("accelerator", text, 'slices such as "(7x1g.10gb MIG)", or a whole accelerator')
    return _PROFILE.sub("", text).strip(), Slicing(*(int(number) for number in profile.groups()))
