"""Engines and accelerators under their highest load, read from ``loaded.toml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlsysim.calibration.engines import Engine
from mlsysim.calibration.stacks import resolved
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml

FILE = "loaded.toml"
Tables = Mapping[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class LoadHarness:
    """The program that puts requests before an engine, and how far its submitters tuned it.

    Attributes:
        name, engine: the harness's name, and that of the engine that it runs.
        compute_share: share of the engine's rate of arithmetic that it reaches.
        sequence_s: time of each sequence of a pass, on top of the engine's.
        reserves: cache is set aside for a sequence's longest length when it starts; else it grows with it.
    """

    name: str
    engine: str
    compute_share: float
    sequence_s: float
    reserves: bool


@functools.cache
def loaded_tables() -> dict[str, dict[str, dict[str, Any]]]:
    """Give the TOML's tables ``harness`` and ``device``."""
    return packaged_toml("calibration", FILE)


@functools.cache
def harness(name: str) -> LoadHarness:
    """The harness called ``name``.

    Raises:
        UnknownNameError: no such harness; the message lists them.

    Example:
        >>> harness("mlperf-vllm").engine
        'vllm-2025'
    """
    known = loaded_tables()["harness"]
    if name not in known:
        raise UnknownNameError.among("harness_name", name, known)
    return harness_of(loaded_tables(), name)


def harness_of(tables: Tables, name: str) -> LoadHarness:
    """The harness called ``name`` in ``tables``."""
    entry = resolved(tables["harness"], name)
    numbers = float(entry["compute_share"]), float(entry["sequence_s"]), bool(entry["reserves"])
    return LoadHarness(name, str(entry["engine"]), *numbers)


def device_of(tables: Tables, hardware_name: str) -> str:
    """The name of this accelerator's entry; empty where its clock holds under any load."""
    return next((name for name, entry in tables["device"].items() if hardware_name in entry["hardware"]), "")


def loaded_engine(engine: Engine, hardware_name: str, front: LoadHarness | None, tables: Tables | None = None) -> Engine:
    """``engine`` at its highest load on this accelerator, behind ``front`` if there is one.

    Example:
        >>> from mlsysim.calibration.engines import engine
        >>> loaded_engine(engine("vllm-2025"), "A100 SXM4 80GB", None) == engine("vllm-2025")
        True
    """
    known = tables or loaded_tables()
    device = device_of(known, hardware_name)
    clock = float(known["device"][device]["clock"]) if device else 1.0
    base = engine.coefficients
    changed = replace(
        base,
        compute_share=base.compute_share * clock * (front.compute_share if front else 1.0),
        sequence_s=base.sequence_s + (front.sequence_s if front else 0.0),
    )
    return replace(engine, coefficients=changed, reserves=front.reserves if front else engine.reserves)


def loaded_fitted_names(hardware_name: str, front: LoadHarness | None) -> tuple[str, ...]:
    """Names of the fitted coefficients behind ``loaded_engine``, besides the engine's.

    Example:
        >>> from mlsysim.calibration.loaded import harness
        >>> loaded_fitted_names("H200 SXM 141GB", harness("mlperf-vllm"))
        ('harness.mlperf-vllm.compute_share', 'harness.mlperf-vllm.sequence_s')
    """
    tables = loaded_tables()
    device = device_of(tables, hardware_name)
    clock = [f"loaded_device.{device}.{part}" for part in tables["device"][device].get("fit", ())] if device else []
    return (*(_harness_names(front.name) if front else ()), *clock)


def _harness_names(name: str) -> list[str]:
    entry = loaded_tables()["harness"][name]
    inherited = [key for key in _harness_names(entry["like"]) if key.rpartition(".")[2] not in entry] if "like" in entry else []
    return [*inherited, *(f"harness.{name}.{part}" for part in entry.get("fit", ()))]
