"""Constants of kernels that all devices share, read from ``shared_kernels.toml``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.kernels.attention import SharedAttention
from mlsysim.physics.kernels.collectives import SharedCollectives
from mlsysim.physics.kernels.gemm import SharedGemm
from mlsysim.physics.kernels.passes import SharedDataParallel
from mlsysim.physics.serving.deployment import SharedServing


@reads("calibration", "shared_kernels.toml")
def shared_gemm() -> SharedGemm:
    """Constants that the matrix products of all devices share.

    Example:
        >>> shared_gemm().overlap > 1
        True
    """
    return SharedGemm(**_values("gemm", SharedGemm))


@reads("calibration", "shared_kernels.toml")
def shared_attention() -> SharedAttention:
    """Constants that the attention kernels of all devices share."""
    return SharedAttention(**_values("attention", SharedAttention))


@reads("calibration", "shared_kernels.toml")
def shared_collectives() -> SharedCollectives:
    """Constants that the collectives of all devices share."""
    return SharedCollectives(**_values("collectives", SharedCollectives))


@reads("calibration", "shared_kernels.toml")
def shared_serving() -> SharedServing:
    """Constants that all serving engines share."""
    return SharedServing(**_values("serving", SharedServing))


@reads("calibration", "shared_kernels.toml")
def shared_data_parallel() -> SharedDataParallel:
    """Constants that all stacks of models that one accelerator holds whole share."""
    return SharedDataParallel(**_values("data_parallel", SharedDataParallel))


def shared_names(kind: str) -> tuple[str, ...]:
    """Names of the constants of a section ("gemm") or of its phase ("attention.decode") that measured times decided.

    Example:
        >>> shared_names("attention.prefill")
        ('attention.shared.streaming',)
    """
    family, _, phase = kind.partition(".")
    entries = _table()[family]
    return tuple(
        f"{family}.shared.{name}"
        for name, entry in entries.items()
        if entry["basis"] == "chosen" and entry.get("phase", phase) == phase
    )


def _values(kind: str, shared: Any) -> dict[str, float]:
    return {field.name: float(_table()[kind][field.name]["value"]) for field in fields(shared)}


@reads("calibration", "shared_kernels.toml")
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    return packaged_toml("calibration", "shared_kernels.toml")
