"""Kernels of accelerators that no kernel table covers: a measured sibling's, with what is known of the device itself.

The section ``kernels`` of an entry names the sibling (``like``) and states what differs; ``peaks.toml`` has what was fitted
to published peak rates of matrix products. A share of a datasheet rate (efficiency, bandwidth) goes with the sibling, the
rate itself is the device's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlsysim.calibration.device_entries import device_entries
from mlsysim.calibration.store import tables
from mlsysim.core.checks import looked_up
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import reads
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode

# 8-bit kernels with one scale a tensor stand in for each other where only one was measured.
_SAME_WIDTH = {"sq": "fp8", "fp8": "sq"}


def stated_devices() -> tuple[str, ...]:
    """The names of all accelerators with stated kernels."""
    return tuple(_entries())


def is_stated(device: str) -> bool:
    """True if facts about ``device`` are stated here; its own kernel tables, where it has some, come first."""
    return device in _entries()


def sibling(device: str, family: str) -> str:
    """The device whose kernels of ``family`` (gemm, attention, collectives) stand for those of ``device``.

    Raises:
        UnknownNameError: no facts about ``device`` are stated.

    Example:
        >>> sibling("tpu_v5p", "gemm"), sibling("l40", "collectives")
        ('tpu_v6e', 'l40s')
    """
    entry = _entry(device)
    return str(entry.get(f"{family}_like", entry["like"]))


def nearest(device: str, family: str, known: Collection[str]) -> str:
    """``device`` where it is among ``known``, else the first sibling behind its kernels of ``family`` that is.

    Raises:
        UnknownNameError: none is.

    Example:
        >>> nearest("l40", "gemm", ("a100_sxm", "h100_sxm")), nearest("h100_sxm", "gemm", ("a100_sxm", "h100_sxm"))
        ('a100_sxm', 'h100_sxm')
    """
    while device not in known:
        device = sibling(device, family)
    return device


def line_of(device: str) -> Iterator[str]:
    """Yield ``device`` and, one after the other, the siblings behind it as long as they are of its vendor.

    What software was tuned to (a clock under load, the share of a kernel of its own) is passed on within a vendor; kernels,
    which are shares of a datasheet, come from whatever ``sibling`` names.

    Example:
        >>> list(line_of("l40")), list(line_of("mi300x"))
        (['l40', 'l40s', 'a100_sxm'], ['mi300x'])
    """
    vendor = hardware(device).vendor
    while hardware(device).vendor == vendor:
        yield device
        if not is_stated(device):
            return
        device = str(_entry(device)["like"])


def stated_facts(device: str, family: str) -> Mapping[str, Any]:
    """Facts of ``family`` that are stated for ``device`` itself, not for its siblings."""
    facts: Mapping[str, Any] = _entry(device).get(family, {})
    return facts


def fact(device: str, name: str, default: float) -> float:
    """A fact of the architecture that a sibling passes on, such as ``torus_axes``; ``default`` where nobody states it.

    Example:
        >>> fact("tpu_v6e", "array", 1.0), fact("tpu_v4", "array", 1.0), fact("h100_sxm", "array", 1.0)
        (256.0, 128.0, 1.0)
    """
    while is_stated(device):
        entry = _entry(device)
        if name in entry:
            return float(entry[name])
        device = entry["like"]
    return default


def fitted_peak(device: str, dtype: str) -> Mapping[str, Any]:
    """The numbers fitted to published peak rates of ``device`` at this number format (``peaks.toml``); often none."""
    peak: Mapping[str, Any] = _peaks().get(device, {}).get(dtype, {})
    return peak


def written_residuals(role: str) -> Mapping[str, float]:
    """The error statistics of all published peak rates of ``role``, in percent."""
    percents: Mapping[str, float] = tables("peaks.toml")["all"]["formats"][role]
    return percents


def stated_format(dtype: str, known: Mapping[str, Any]) -> str:
    """Give ``dtype``, or where a sibling has none of it the other 8-bit format that it has.

    Example:
        >>> stated_format("sq", {"bfloat16": 1, "fp8": 1}), stated_format("nvfp4", {"bfloat16": 1})
        ('fp8', 'nvfp4')
    """
    return _SAME_WIDTH[dtype] if dtype not in known and _SAME_WIDTH.get(dtype) in known else dtype


def link_Bps(device: str, to: str = "peers") -> float:
    """Bandwidth of an accelerator's link to its peers (or to the "host", which stands in where it has none), one direction.

    Example:
        >>> link_Bps("v100_sxm") / 1e9, link_Bps("a100_pcie", "host") / 1e9
        (150.0, 31.5)
    """
    node = hardware(device)
    link = node.interconnect_bw if to == "peers" and node.interconnect_bw is not None else node.host_link_bw
    if link is None:
        raise UnknownNameError("accelerator", node.name, "one whose registry entry has interconnect_bw or host_link_bw")
    return float(link.m_as("byte/second"))


def matrix_units(device: str) -> float:
    """The number of units that work on tiles of a matrix product: the registry's multiprocessors, unless others are stated.

    Raises:
        UnknownNameError: neither number is known.

    Example:
        >>> matrix_units("h100_sxm"), matrix_units("gaudi3")
        (132.0, 8.0)
    """
    node = hardware(device)
    units = own_fact(device, "matrix_units", node.compute.multiprocessors)
    if units is None:
        raise UnknownNameError("accelerator", node.name, "one whose registry entry has multiprocessors: kernels need them")
    return float(units)


def own_fact(device: str, name: str, default: float | None) -> float | None:
    """A fact that holds for ``device`` alone, not for its siblings."""
    value: float | None = _entry(device).get(name, default) if is_stated(device) else default
    return value


def peak_over_units(device: str) -> float:
    """The 16-bit peak of one of the device's ``matrix_units``, in FLOP/s."""
    return hardware(device).rate_flops_per_s("bf16") / matrix_units(device)


def hardware(device: str) -> HardwareNode:
    """The registry entry of a device, measured or stated; the first of several that share their kernels."""
    if is_stated(device):
        return all_hardware(device)[0]
    return Hardware[tables("gemm.toml")[device]["bfloat16"]["hardware"]]


def all_hardware(device: str) -> list[HardwareNode]:
    """The registry entries that a stated device stands for.

    Example:
        >>> [chip.name for chip in all_hardware("a100_pcie")]
        ['A100 PCIe 80GB', 'A100 PCIe 40GB', 'A800 PCIe 80GB']
    """
    names = _entry(device)["hardware"]
    return [Hardware[name] for name in ([names] if isinstance(names, str) else names)]


def _entry(device: str) -> Mapping[str, Any]:
    return looked_up("accelerator with measured or stated kernels", device, _entries())


def _entries() -> Mapping[str, Mapping[str, Any]]:
    return device_entries("kernels")


@reads("calibration", "peaks.toml")
def _peaks() -> Mapping[str, Mapping[str, Any]]:
    return {name: entry for name, entry in tables("peaks.toml").items() if name not in ("defaults", "all")}
