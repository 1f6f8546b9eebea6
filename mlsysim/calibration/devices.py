"""Devices whose kernels stand for an accelerator, and the clock that hours of training sustain on it (``devices/``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsysim.calibration import siblings
from mlsysim.calibration.device_entries import DEVICES, device_entries
from mlsysim.calibration.shared import shared_values
from mlsysim.calibration.store import Entries, resolved
from mlsysim.core.checks import looked_up
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import reads
from mlsysim.physics.machine import slowest_of
from mlsysim.physics.operations.power import limited_clock


@reads("calibration", DEVICES)
def measured_device(hardware_name: str) -> str:
    """The entry of this accelerator, which its measured kernels are named after unless the entry says otherwise.

    Raises:
        UnknownNameError: it has none.

    Example:
        >>> measured_device("A100 SXM4 40GB")
        'a100_sxm_40gb'
    """
    return looked_up("accelerator with calibrated kernels", hardware_name, _devices())


def measured_hardware() -> tuple[str, ...]:
    """The registry names of all accelerators with calibrated kernels, measured or stated."""
    return tuple(_devices())


@reads("calibration", DEVICES)
def _devices() -> dict[str, str]:
    """The device of each accelerator: that of its entry, or, without one, that of its stated kernels."""
    stated = {chip.name: device for device in siblings.stated_devices() for chip in siblings.all_hardware(device)}
    return stated | {name: device for device, entry in device_entries("training").items() for name in entry["hardware"]}


def kernels_of(device: str) -> str:
    """The device whose measured kernels stand for ``device``: itself, unless its entry says another.

    Example:
        >>> kernels_of("h100_sxm"), kernels_of("a100_sxm_40gb")
        ('h100_sxm', 'a100_sxm')
    """
    return str(device_entries("training").get(device, {}).get("kernels", device))


def sustained_clock(device: str) -> float:
    """Share of the benchmark's clock that training sustains; a device without an entry has its sibling's, at its own power."""
    return float(_clock_entry(device)[1]["clock"]) * clock_share(device)


def slowest_clock(hardware_name: str, count: int) -> float:
    """Clock of the slowest of some accelerators of a kind over that of one in the middle.

    Example:
        >>> slowest_clock("H100 SXM5 80GB", 1), slowest_clock("TPU v5p", 8192)
        (1.0, 1.0)
        >>> 0.9 < slowest_clock("H100 SXM5 80GB", 8192) < slowest_clock("H100 SXM5 80GB", 8) < 1
        True
    """
    device, usual = _devices().get(hardware_name), shared_values()["clock_spread"]
    return slowest_of(count, usual if device is None else siblings.fact(device, "clock_spread", usual))


def queried_clock(hardware_name: str) -> float:
    """Share of its clock that an accelerator sustains as it answers queries, where that was fitted; else 1.

    Example:
        >>> queried_clock("L4") < 0.7, queried_clock("H100 SXM5 80GB")
        (True, 1.0)
    """
    entries = device_entries("inference").values()
    return min(next((float(one["clock"]) for one in entries if "clock" in one and hardware_name in one["hardware"]), 1.0), 1.0)


def clock_device(device: str) -> str:
    """The device whose clock a device sustains, but for ``clock_share``: itself, or the nearest sibling that has one.

    Example:
        >>> clock_device("h100_sxm"), clock_device("a800_sxm")
        ('h100_sxm', 'a100_sxm')
    """
    return _clock_entry(device)[0]


def clock_share(device: str) -> float:
    """Clock of a device over that of the sibling whose clock it has: the cube root of their power limits.

    The limit is stated as ``power_share``; the law is that of a limit which a caller sets.

    Example:
        >>> clock_share("h100_sxm"), round(clock_share("h100_sxm_96gb"), 3)
        (1.0, 0.894)
    """
    share = 1.0
    while device not in device_entries("training"):
        share *= float(limited_clock(1.0, float(siblings.own_fact(device, "power_share", 1.0) or 1.0), 0.0))
        device = siblings.sibling(device, "gemm")
    return share


def clock_names(device: str) -> tuple[str, ...]:
    """The names of the fitted coefficient behind ``sustained_clock``: one or none."""
    name, entry = _clock_entry(device)
    return (f"clock.{name}",) if entry["fitted"] else ()


def _clock_entry(device: str) -> tuple[str, dict[str, Any]]:
    known = device_entries("training")
    name = siblings.nearest(device, "gemm", known)
    while "clock" not in known[name]:
        name = known[name]["like"]
    return name, known[name]


def entry_of(devices: Entries, hardware_name: str) -> tuple[str, dict[str, Any]]:
    """The name of an accelerator's entry in a family's table of devices, and that entry.

    Without one of its own an accelerator takes that of the nearest sibling that has one, on its own kernels.

    Raises:
        UnknownNameError: neither it nor a sibling has one.
    """
    known = {listed: name for name, entry in devices.items() for listed in entry["hardware"]}
    if hardware_name in known:
        return known[hardware_name], resolved(devices, known[hardware_name])
    device = _devices().get(hardware_name)
    for relative in siblings.line_of(kernels_of(device)) if device else ():
        if relative in devices:
            return relative, {**resolved(devices, relative), "kernels": device}
    raise UnknownNameError.among("accelerator with calibrated kernels", hardware_name, known)


def format_shares(entry: Mapping[str, Any]) -> dict[str, float]:
    """Rates of products at other number formats over that of 16 bits, as shares of their peaks, that an entry has.

    Example:
        >>> format_shares({"clock": 0.9, "int8_share": 1.1})
        {'int8': 1.1}
    """
    return {fmt: float(entry[f"{fmt}_share"]) for fmt in ("int8", "fp8", "tf32", "fp32") if f"{fmt}_share" in entry}


def clock_of(entry: Mapping[str, Any]) -> float:
    """The clock that an entry of a family of devices has of its own, else the one that its kernels' device trains at."""
    return float(entry["clock"]) if "clock" in entry else sustained_clock(entry["kernels"])
