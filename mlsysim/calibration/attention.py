"""Fitted attention kernels by device, as ``attention.toml`` has them.

Example:
    >>> 0 < prefill_kernel("h100_sxm", "fp8").matmul_efficiency < prefill_kernel("h100_sxm", "bfloat16").matmul_efficiency
    True
    >>> 0 < decode_kernel("h100_sxm").bandwidth_efficiency < 1
    True
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from mlsysim.calibration import gemm
from mlsysim.calibration import siblings as stated
from mlsysim.calibration.shared_kernels import shared_attention, shared_names
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.physics.kernels.attention import DecodeKernel, PrefillKernel

# As the TOML names them.
_NAMES = {
    "prefill": (
        *("floor_s", "efficiency_bfloat16", "efficiency_fp8"),
        *("exponentials_per_s", "tile_keys", "window_tile_keys"),
    ),
    "decode": tuple(field.name for field in fields(DecodeKernel) if field.name != "shared"),
}


@functools.cache
def prefill_kernel(device: str, kv_dtype: str = "bfloat16") -> PrefillKernel:
    """Coefficients of prefill; ``kv_dtype`` ("bfloat16" or "fp8") is the number format of the cache.

    Raises:
        UnknownNameError: the device was not measured, or not at this number format.
    """
    entry = _entry("prefill", device)
    formats = {name: entry[f"efficiency_{name}"] for name in ("bfloat16", "fp8") if entry[f"efficiency_{name}"] > 0}
    if kv_dtype not in formats:
        raise UnknownNameError.among(f"number format of {device} attention", kv_dtype, formats)
    return PrefillKernel(
        floor_s=entry["floor_s"],
        matmul_efficiency=formats[kv_dtype],
        exponentials_per_s=entry["exponentials_per_s"],
        tile_keys=entry["tile_keys"],
        window_tile_keys=entry["window_tile_keys"],
        shared=shared_attention(),
    )


@functools.cache
def decode_kernel(device: str) -> DecodeKernel:
    """Coefficients of decode, for all number formats of the cache.

    Raises:
        UnknownNameError: the device was not measured.
    """
    entry = _entry("decode", device)
    return DecodeKernel(**{name: entry[name] for name in _NAMES["decode"]}, shared=shared_attention())


def measured_devices() -> tuple[str, ...]:
    """The devices whose attention kernels were fitted, as the measurements name them."""
    return tuple(_tables()["prefill"])


def fitted_values(phase: str, device: str) -> dict[str, float]:
    """The coefficients of "prefill" or "decode" as the TOML names them, held ones included."""
    entry = _entry(phase, device)
    return {name: entry[name] for name in _NAMES[phase]}


def fitted_names(phase: str, device: str, kv_dtypes: Iterable[str] = ("bfloat16", "fp8")) -> tuple[str, ...]:
    """Names of the coefficients that were fitted, not held, and serve these number formats of the cache.

    Example:
        >>> [name for name in fitted_names("prefill", "a100_sxm") if "efficiency" in name]
        ['attention.prefill.a100_sxm.efficiency_bfloat16']
    """
    without = {text.split(":")[0] for text in _entry(phase, device)["held"]}
    without |= {f"efficiency_{name}" for name in ("bfloat16", "fp8") if name not in kv_dtypes}
    behind = measured_attention(phase, device)
    own = (f"attention.{phase}.{behind}.{name}" for name in _NAMES[phase] if name not in without)
    return (*shared_names(f"attention.{phase}"), *own)


def residuals(phase: str, device: str, role: str) -> dict[str, float]:
    """The error statistics that the fit has written for the rows of ``role``, in percent."""
    found: dict[str, float] = _entry(phase, device)[role]
    return found


def _entry(phase: str, device: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = _tables()[phase]
    if device not in known and stated.is_stated(device):
        return _stated_entry(phase, device)
    if device not in known:
        raise UnknownNameError.among("fitted attention kernel", device, known)
    return known[device]


def _stated_entry(phase: str, device: str) -> dict[str, Any]:
    """A sibling's kernel at this device's rates.

    Attention reaches the share of its sibling as matrix products do, and the exponentials of the whole device go with its
    peak, unless they are stated.
    """
    sibling = stated.sibling(device, "attention")
    found = {**_entry(phase, sibling), "of": measured_attention(phase, device)}
    if phase == "prefill":
        share = gemm.gemm_kernel(device).efficiency / gemm.gemm_kernel(sibling).efficiency
        for name in ("efficiency_bfloat16", "efficiency_fp8"):
            found[name] = min(1.0, found[name] * share)
        found["exponentials_per_s"] *= stated.peak_over_units(device) / stated.peak_over_units(sibling)
        found |= stated.own(device, "attention")
        found["held"] = [*found["held"], *(f"{name}: stated" for name in stated.own(device, "attention"))]
    return found


def measured_attention(phase: str, device: str) -> str:
    """The device whose measured attention kernels are behind those of ``device``.

    Example:
        >>> measured_attention("prefill", "l40s")
        'a100_sxm'
    """
    while device not in _tables()[phase]:
        device = stated.sibling(device, "attention")
    return device


@functools.cache
def _tables() -> dict[str, Any]:
    return packaged_toml("calibration", "attention.toml")
