"""Coefficients of collectives, of a device and of a network."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import fields
from importlib import resources
from typing import Any

from mlsysim.calibration.shared_kernels import shared_collectives, shared_names
from mlsysim.core.errors import DataError
from mlsysim.physics.collective_kernels import CollectiveCoefficients, FabricCoefficients, Tuner

# A device's own coefficients.
DEVICE_NAMES = tuple(field.name for field in fields(CollectiveCoefficients) if field.name not in ("tuner", "shared"))


@functools.cache
def entries() -> dict[str, Any]:
    """The TOML as it stands: ``interconnect``, ``device`` and ``fabric`` tables."""
    return tomllib.loads((resources.files("mlsysim.calibration") / "collectives.toml").read_text("utf-8"))


def _entry(table: str, name: str) -> dict[str, Any]:
    known = {key: value for key, value in entries().get(table, {}).items() if isinstance(value, dict)}
    if name not in known:
        raise DataError(f"{table} = {name!r}: collectives are calibrated for {', '.join(sorted(known))}")
    found: dict[str, Any] = known[name]
    return found


@functools.cache
def tuner(interconnect: str) -> Tuner:
    """What NCCL's tuner believes of ``interconnect``."""
    entry = _entry("interconnect", interconnect)
    return Tuner(**{field.name: float(entry[field.name]) for field in fields(Tuner)})


@functools.cache
def collective_coefficients(device: str) -> CollectiveCoefficients:
    """Coefficients of ``device`` (``h100_sxm``, ``gb200``, ...).

    Raises:
        DataError: its collectives were not measured.
    """
    entry = _entry("device", device)
    own = {name: float(entry[name]) for name in DEVICE_NAMES}
    return CollectiveCoefficients(**own, tuner=tuner(entry["interconnect"]), shared=shared_collectives())


@functools.cache
def fabric_coefficients(fabric: str) -> FabricCoefficients:
    """Coefficients of a network between domains (``ib_ndr``, ``efa_v2``, ...).

    Raises:
        DataError: no all-reduce across it was measured.
    """
    entry = _entry("fabric", fabric)
    return FabricCoefficients(**{field.name: float(entry[field.name]) for field in fields(FabricCoefficients)})


def fitted_names(table: str, name: str) -> tuple[str, ...]:
    """Names of the fitted coefficients of a ``device`` or a ``fabric``; held ones are none.

    Example:
        >>> fitted_names("fabric", "ib_ndr")
        ('collectives.fabric.ib_ndr.efficiency', 'collectives.fabric.ib_ndr.fill_s')
    """
    own = (f"collectives.{table}.{name}.{part}" for part in _entry(table, name)["fitted"])
    return (*shared_names("collectives"), *own) if table == "device" else tuple(own)


def residuals(table: str, name: str, role: str) -> dict[str, float]:
    """The error statistics that the fit has written for all rows of ``role``, in percent."""
    found: dict[str, float] = _entry(table, name)[role]["all"]
    return found
