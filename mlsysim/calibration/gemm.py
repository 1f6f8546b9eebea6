"""Fitted matrix-product kernels by device and number format, read from ``gemm.toml``.

Example:
    >>> 0 < gemm_kernel("h100_sxm", "fp8").efficiency < gemm_kernel("h100_sxm").efficiency < 1
    True
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from mlsysim.calibration import siblings
from mlsysim.calibration.shared_kernels import shared_constants, shared_names
from mlsysim.core.checks import looked_up
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm


@dataclass(frozen=True, slots=True)
class GemmFormat:
    """Bytes of an element of activations, weights and outputs, and the precision whose peak the product runs at."""

    input_B: float
    weight_B: float
    output_B: float
    precision: str


# Named as measurements do. All write 16-bit outputs. fp8: one scale a tensor; fp8_block: one a block of 128; nvfp4: an
# 8-bit scale for 16 elements; sq (SmoothQuant): 8-bit integers; int4_wo, int8_wo: weights alone, unpacked to 16-bit products.
FORMATS = {
    "bfloat16": GemmFormat(2.0, 2.0, 2.0, "bf16"),
    "fp8": GemmFormat(1.0, 1.0, 2.0, "fp8"),
    "fp8_block": GemmFormat(1.0, 1.0, 2.0, "fp8"),
    "nvfp4": GemmFormat(0.5625, 0.5625, 2.0, "fp4"),
    "sq": GemmFormat(1.0, 1.0, 2.0, "int8"),
    "int4_wo": GemmFormat(2.0, 0.515625, 2.0, "bf16"),
    "int8_wo": GemmFormat(2.0, 1.0, 2.0, "bf16"),
}
WEIGHT_ONLY = ("int4_wo", "int8_wo")


# Coefficients that all formats have from the device's 16-bit kernels.
SHARED = ("cache_ratio", "memory_efficiency", "split_s")


def shared_parts(dtype: str) -> tuple[str, ...]:
    """Coefficients that products of a format have from the device's 16-bit ones; weight-only ones are such with other reads.

    Example:
        >>> shared_parts("bfloat16"), shared_parts("int4_wo")[-1]
        ((), 'prologue_k')
    """
    if dtype == "bfloat16":
        return ()
    return (*SHARED, "prologue_k") if dtype in WEIGHT_ONLY else SHARED


@reads("calibration", "gemm.toml")
def gemm_kernel(device: str, dtype: str = "bfloat16") -> GemmKernel:
    """Coefficients of a device's kernels at one of ``FORMATS``.

    Raises:
        UnknownNameError: the device was not measured, or not at this format.
    """
    entry = _entry(device, dtype)
    coefficients = {field.name: entry[field.name] for field in fields(GemmKernel) if field.name in entry}
    return GemmKernel(**coefficients, shared=shared_constants(SharedGemm))


def measured_devices() -> tuple[str, ...]:
    """The devices whose kernels were fitted, as the measurements name them."""
    return tuple(_tables())


def measured_formats(device: str) -> tuple[str, ...]:
    """The formats that a device multiplies in and was fitted at, or the sibling whose kernels stand for its own.

    Example:
        >>> measured_formats("mi300x") == measured_formats("h100_sxm")
        True
    """
    return tuple(dtype for dtype in _tables()[_behind(device)] if dtype not in WEIGHT_ONLY)


def weight_only_kind(weight_B: float) -> str:
    """The measured weight-only kernels that weights of this width are nearer to.

    Example:
        >>> weight_only_kind(0.53), weight_only_kind(1.06)
        ('int4_wo', 'int8_wo')
    """
    return min(WEIGHT_ONLY, key=lambda dtype: abs(FORMATS[dtype].weight_B - weight_B))


def as_engines_unpack(product: GemmKernel, wide: GemmKernel, memory_share: float, core_flops_per_s: float) -> GemmKernel:
    """The benchmark's weight-only kernel as engines have it: it splits k (Marlin, arXiv:2408.11743), a few rows take the cores.

    It has the most splits of the 16-bit kernel ``wide``, and at least ``memory_share`` of the memory's rate, which an engine's
    own kernels reach; ``core_flops_per_s`` is the rate of the cores beside the matrix units.
    """
    share = max(product.memory_efficiency, memory_share)
    return replace(product, most_splits=wide.most_splits, memory_efficiency=share, core_flops_per_s=core_flops_per_s)


def has_format(device: str, dtype: str) -> bool:
    """True if ``gemm_kernel`` has kernels of ``device`` at one of ``FORMATS``.

    Example:
        >>> has_format("h100_sxm", "fp8"), has_format("h100_sxm", "sq")
        (True, False)
    """
    known = measured_formats(device)
    return (dtype if device in _tables() else siblings.stated_format(dtype, dict.fromkeys(known))) in known


def fitted_names(device: str, dtype: str = "bfloat16") -> tuple[str, ...]:
    """Names of the coefficients of a product at this format: its own, and those of 16-bit kernels that it shares.

    Example:
        >>> fitted_names("h100_sxm", "fp8")[-2:]
        ('gemm.h100_sxm.bfloat16.memory_efficiency', 'gemm.h100_sxm.bfloat16.split_s')
    """
    entry, entry16 = _entry(device, dtype), _entry(device, "bfloat16")
    fitted = [f"gemm.{entry.get('of', f'{device}.{dtype}')}.{name}" for name in entry["fitted"]]
    shared = [name for name in entry16["fitted"] if name in entry.get("shares", shared_parts(dtype))]
    fitted += [f"gemm.{entry16.get('of', f'{device}.bfloat16')}.{name}" for name in shared]
    return tuple(dict.fromkeys((*shared_names("gemm"), *fitted, *entry.get("behind", ()), *entry.get("peak", ()))))


def residuals(device: str, dtype: str, role: str) -> dict[str, float]:
    """The error statistics that the fit has written for the rows of ``role``, in percent."""
    percents: dict[str, float] = _entry(device, dtype)[role]
    return percents


def _entry(device: str, dtype: str) -> dict[str, Any]:
    known = _tables()
    if dtype in WEIGHT_ONLY and dtype not in known.get(device, {}):
        return _unpacking_entry(device, dtype)
    if device not in known and siblings.is_stated(device):
        return _stated_entry(device, dtype)
    return looked_up(f"number format of {device} GEMM", dtype, looked_up("fitted GEMM kernel", device, known))


def _unpacking_entry(device: str, dtype: str) -> dict[str, Any]:
    """Derive weight-only kernels of a device: its 16-bit ones, less the share that unpacking costs where it was measured."""
    unpacking, measured = next((name, formats) for name, formats in _tables().items() if dtype in formats)
    base = _entry(device, "bfloat16")
    held = {name: measured[dtype][name] for name in ("most_splits", "shallow_tiles")}
    behind = [f"gemm.{unpacking}.{kind}.efficiency" for kind in (dtype, "bfloat16")]
    efficiency = base["efficiency"] * measured[dtype]["efficiency"] / measured["bfloat16"]["efficiency"]
    return {**base, **held, "efficiency": efficiency, "fitted": [], "shares": base["fitted"], "behind": behind}


def _stated_entry(device: str, dtype: str) -> dict[str, Any]:
    """Derive the entry of a device without measurements from its sibling's, its stated facts and its published peaks.

    Where the peak was measured at 16 bits alone, another format reaches its sibling's share in the same proportion.
    """
    sibling, measured = siblings.sibling(device, "gemm"), _behind(device)
    base = _entry(sibling, siblings.stated_format(dtype, _tables()[measured]))
    peak, peak16 = siblings.fitted_peak(device, dtype), siblings.fitted_peak(device, "bfloat16")
    entry = {**base, **siblings.stated_facts(device, "gemm"), **peak}
    if not peak and peak16:
        entry["efficiency"] = base["efficiency"] * peak16["efficiency"] / _entry(sibling, "bfloat16")["efficiency"]
    # The sibling's fitted coefficients are counted, less those that are stated here.
    known_peak, at = (peak, dtype) if peak else (peak16, "bfloat16")
    replaced = (*siblings.stated_facts(device, "gemm"), *known_peak.get("fitted", ()))
    entry["fitted"] = [name for name in base["fitted"] if name not in replaced]
    entry["of"] = base.get("of", f"{measured}.{siblings.stated_format(dtype, _tables()[measured])}")
    entry["peak"] = [*base.get("peak", ()), *(f"peaks.{device}.{at}.{name}" for name in known_peak.get("fitted", ()))]
    return entry


def _behind(device: str) -> str:
    """The device whose measured kernels stand behind those of ``device``."""
    return siblings.nearest(device, "gemm", _tables())


@reads("calibration", "gemm.toml")
def _tables() -> dict[str, dict[str, dict[str, Any]]]:
    """Entries by device and format; narrow formats have what the device's 16-bit kernels have of ``SHARED``."""
    tables: dict[str, dict[str, dict[str, Any]]] = packaged_toml("calibration", "gemm.toml")
    tables.pop("defaults")
    for formats in tables.values():
        for dtype, entry in formats.items():
            entry |= {name: formats["bfloat16"][name] for name in shared_parts(dtype)}
    return tables
