"""Fitted matrix-product kernels by device and number format, as ``gemm.toml`` has them.

Example:
    >>> 0 < gemm_kernel("h100_sxm", "fp8").efficiency < gemm_kernel("h100_sxm").efficiency < 1
    True
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

from mlsysim.calibration import siblings as stated
from mlsysim.calibration.shared_kernels import shared_gemm, shared_names
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.physics.kernels.gemm import GemmKernel


@dataclass(frozen=True, slots=True)
class GemmFormat:
    """Bytes of an element of activations, weights and outputs, and the precision whose peak the product runs at."""

    input_B: float
    weight_B: float
    output_B: float
    precision: str


# As the measurements name them. All write 16-bit outputs. fp8: one scale a tensor; fp8_block: one a block of 128; nvfp4: an
# 8-bit scale for 16 elements; sq (SmoothQuant): 8-bit integers.
FORMATS = {
    "bfloat16": GemmFormat(2.0, 2.0, 2.0, "bf16"),
    "fp8": GemmFormat(1.0, 1.0, 2.0, "fp8"),
    "fp8_block": GemmFormat(1.0, 1.0, 2.0, "fp8"),
    "nvfp4": GemmFormat(0.5625, 0.5625, 2.0, "fp4"),
    "sq": GemmFormat(1.0, 1.0, 2.0, "int8"),
}


# What all formats have from the device's 16-bit kernels.
SHARED = ("cache_ratio", "memory_efficiency", "split_s")


@functools.cache
def gemm_kernel(device: str, dtype: str = "bfloat16") -> GemmKernel:
    """Coefficients of a device's kernels at one of ``FORMATS``.

    Raises:
        UnknownNameError: the device was not measured, or not at this format.
    """
    entry = _entry(device, dtype)
    own = {field.name: entry[field.name] for field in fields(GemmKernel) if field.name in entry}
    return GemmKernel(**own, shared=shared_gemm())


def measured_devices() -> tuple[str, ...]:
    """The devices whose kernels were fitted, as the measurements name them."""
    return tuple(_tables())


def measured_formats(device: str) -> tuple[str, ...]:
    """The formats that a device was fitted at, or the sibling whose kernels stand for its own.

    Example:
        >>> measured_formats("mi300x") == measured_formats("h100_sxm")
        True
    """
    return tuple(_tables()[_behind(device)])


def fitted_names(device: str, dtype: str = "bfloat16") -> tuple[str, ...]:
    """Names of the coefficients behind a product of this format: its own, and those of the 16-bit kernels that it shares.

    Example:
        >>> fitted_names("h100_sxm", "fp8")[-2:]
        ('gemm.h100_sxm.bfloat16.memory_efficiency', 'gemm.h100_sxm.bfloat16.split_s')
    """
    entry, entry16 = _entry(device, dtype), _entry(device, "bfloat16")
    own = [f"gemm.{entry.get('of', f'{device}.{dtype}')}.{name}" for name in entry["fitted"]]
    shared = [name for name in entry16["fitted"] if name in SHARED and dtype != "bfloat16"]
    own += [f"gemm.{entry16.get('of', f'{device}.bfloat16')}.{name}" for name in shared]
    return (*shared_names("gemm"), *own, *entry.get("peak", ()))


def residuals(device: str, dtype: str, role: str) -> dict[str, float]:
    """The error statistics that the fit has written for the rows of ``role``, in percent."""
    found: dict[str, float] = _entry(device, dtype)[role]
    return found


def _entry(device: str, dtype: str) -> dict[str, Any]:
    known = _tables()
    if device not in known and stated.is_stated(device):
        return _stated_entry(device, dtype)
    if device not in known:
        raise UnknownNameError.among("fitted GEMM kernel", device, known)
    if dtype not in known[device]:
        raise UnknownNameError.among(f"number format of {device} GEMM", dtype, known[device])
    return known[device][dtype]


def _stated_entry(device: str, dtype: str) -> dict[str, Any]:
    """A sibling's kernels with what is stated and what published peak rates say of this device.

    Where the peak was measured at 16 bits alone, another format reaches its sibling's share in the same proportion.
    """
    sibling, measured = stated.sibling(device, "gemm"), _behind(device)
    base = _entry(sibling, stated.stated_format(dtype, _tables()[measured]))
    peak, peak16 = stated.fitted_peak(device, dtype), stated.fitted_peak(device, "bfloat16")
    found = {**base, **stated.own(device, "gemm"), **peak}
    if not peak and peak16:
        found["efficiency"] = base["efficiency"] * peak16["efficiency"] / _entry(sibling, "bfloat16")["efficiency"]
    # Not its own: what the sibling was fitted with, less what is stated here.
    own_peak, own_format = (peak, dtype) if peak else (peak16, "bfloat16")
    replaced = (*stated.own(device, "gemm"), *own_peak.get("fitted", ()))
    found["fitted"] = [name for name in base["fitted"] if name not in replaced]
    found["of"] = base.get("of", f"{measured}.{stated.stated_format(dtype, _tables()[measured])}")
    found["peak"] = [*base.get("peak", ()), *(f"peaks.{device}.{own_format}.{name}" for name in own_peak.get("fitted", ()))]
    return found


def _behind(device: str) -> str:
    """The device whose measured kernels are behind those of ``device``."""
    while device not in _tables():
        device = stated.sibling(device, "gemm")
    return device


@functools.cache
def _tables() -> dict[str, dict[str, dict[str, Any]]]:
    """Entries by device and format; narrow formats have what the device's 16-bit kernels have of ``SHARED``."""
    tables: dict[str, dict[str, dict[str, Any]]] = packaged_toml("calibration", "gemm.toml")
    tables.pop("defaults")
    for formats in tables.values():
        for entry in formats.values():
            entry |= {name: formats["bfloat16"][name] for name in SHARED}
    return tables
