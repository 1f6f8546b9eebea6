"""Fitted attention kernels by device, read from ``attention.toml``.

Example:
    >>> 0 < prefill_kernel("h100_sxm", "fp8").matmul_efficiency < prefill_kernel("h100_sxm", "bfloat16").matmul_efficiency
    True
    >>> 0 < decode_kernel("h100_sxm").bandwidth_efficiency < 1
    True
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from mlsysim.calibration import gemm, siblings
from mlsysim.calibration.shared_kernels import shared_constants, shared_names
from mlsysim.core.checks import looked_up
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.kernels.attention import DecodeKernel, PrefillKernel, SharedAttention

# Names of the coefficients in the TOML.
_NAMES = {
    "prefill": (
        *("floor_s", "efficiency_bfloat16", "efficiency_fp8"),
        *("exponentials_per_s", "tile_keys", "window_tile_keys"),
    ),
    "decode": tuple(field.name for field in fields(DecodeKernel) if field.name != "shared"),
}


@reads("calibration", "attention.toml")
def prefill_kernel(device: str, kv_dtype: str = "bfloat16") -> PrefillKernel:
    """Coefficients of prefill on ``device`` with a cache in the number format ``kv_dtype`` ("bfloat16" or "fp8").

    Raises:
        UnknownNameError: the device was not measured, or not at this number format.
    """
    entry = _entry("prefill", device)
    formats = {name: entry[f"efficiency_{name}"] for name in ("bfloat16", "fp8") if entry[f"efficiency_{name}"] > 0}
    return PrefillKernel(
        floor_s=entry["floor_s"],
        matmul_efficiency=looked_up(f"number format of {device} attention", kv_dtype, formats),
        exponentials_per_s=entry["exponentials_per_s"],
        tile_keys=entry["tile_keys"],
        window_tile_keys=entry["window_tile_keys"],
        shared=shared_constants(SharedAttention),
    )


@reads("calibration", "attention.toml")
def decode_kernel(device: str) -> DecodeKernel:
    """Coefficients of decode on ``device``, for all number formats of the cache.

    Raises:
        UnknownNameError: the device was not measured.
    """
    entry = _entry("decode", device)
    return DecodeKernel(**{name: entry[name] for name in _NAMES["decode"]}, shared=shared_constants(SharedAttention))


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
    excluded = _held(phase, device) | {f"efficiency_{name}" for name in ("bfloat16", "fp8") if name not in kv_dtypes}
    source = measured_attention(phase, device)
    fitted = (f"attention.{phase}.{source}.{name}" for name in _NAMES[phase] if name not in excluded)
    return (*shared_names(f"attention.{phase}"), *fitted)


@reads("calibration", "attention.toml")
def _held(phase: str, device: str) -> frozenset[str]:
    """The coefficients of an entry that were not fitted: its remarks begin with their names."""
    return frozenset(text.split(":")[0] for text in _entry(phase, device)["held"])


def residuals(phase: str, device: str, role: str) -> dict[str, float]:
    """The error statistics that the fit has written for the rows of ``role``, in percent."""
    percents: dict[str, float] = _entry(phase, device)[role]
    return percents


def _entry(phase: str, device: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = _tables()[phase]
    if device not in known and siblings.is_stated(device):
        return _stated_entry(phase, device)
    return looked_up("fitted attention kernel", device, known)


def _stated_entry(phase: str, device: str) -> dict[str, Any]:
    """Derive the entry of a device without measurements from its sibling's, at this device's rates.

    Attention reaches the share of its sibling as matrix products do, and the exponentials of the whole device go with its
    peak, unless they are stated.
    """
    sibling = siblings.sibling(device, "attention")
    entry = {**_entry(phase, sibling), "of": measured_attention(phase, device)}
    if phase == "prefill":
        share = gemm.gemm_kernel(device).efficiency / gemm.gemm_kernel(sibling).efficiency
        for name in ("efficiency_bfloat16", "efficiency_fp8"):
            entry[name] = min(1.0, entry[name] * share)
        entry["exponentials_per_s"] *= siblings.peak_over_units(device) / siblings.peak_over_units(sibling)
        entry |= siblings.stated_facts(device, "attention")
        entry["held"] = [*entry["held"], *(f"{name}: stated" for name in siblings.stated_facts(device, "attention"))]
    return entry


def measured_attention(phase: str, device: str) -> str:
    """The device whose measured attention kernels are behind those of ``device``.

    Example:
        >>> measured_attention("prefill", "l40s")
        'a100_sxm'
    """
    return siblings.nearest(device, "attention", _tables()[phase])


@reads("calibration", "attention.toml")
def _tables() -> dict[str, Any]:
    return packaged_toml("calibration", "attention.toml")
