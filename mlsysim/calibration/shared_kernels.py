"""Constants of kernels that all devices share, read from ``shared_kernels.toml``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.kernels.attention import SharedAttention
from mlsysim.physics.kernels.collectives import SharedCollectives
from mlsysim.physics.kernels.gemm import SharedGemm
from mlsysim.physics.kernels.passes import SharedDataParallel
from mlsysim.physics.serving.deployment import SharedServing

_SECTIONS: dict[type, str] = {
    SharedGemm: "gemm",
    SharedAttention: "attention",
    SharedCollectives: "collectives",
    SharedServing: "serving",
    SharedDataParallel: "data_parallel",
}
_Shared = TypeVar("_Shared", SharedGemm, SharedAttention, SharedCollectives, SharedServing, SharedDataParallel)


@reads("calibration", "shared_kernels.toml")
def shared_constants(kind: type[_Shared]) -> _Shared:
    """The constants that the kernels of one kind share on all devices: their section of the file as a ``kind``.

    Example:
        >>> shared_constants(SharedGemm).overlap > 1
        True
    """
    section = _table()[_SECTIONS[kind]]
    return kind(**{field.name: float(section[field.name]["value"]) for field in fields(kind)})


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


@reads("calibration", "shared_kernels.toml")
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    return packaged_toml("calibration", "shared_kernels.toml")
