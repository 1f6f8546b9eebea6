"""Coefficients of collectives, of a device and of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from mlsysim.calibration import siblings
from mlsysim.calibration.shared_kernels import shared_constants, shared_names
from mlsysim.calibration.store import resolved
from mlsysim.core.errors import DataError
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.kernels.collectives import CollectiveCoefficients, FabricCoefficients, SharedCollectives, Tuner

# A device's own coefficients.
DEVICE_NAMES = tuple(field.name for field in fields(CollectiveCoefficients) if field.name not in ("tuner", "shared"))


@reads("calibration", "collectives.toml")
def entries() -> dict[str, Any]:
    """Give the TOML's tables ``interconnect``, ``device`` and ``fabric``."""
    return packaged_toml("calibration", "collectives.toml")


def _entry(table: str, name: str) -> dict[str, Any]:
    known = {key: value for key, value in entries().get(table, {}).items() if isinstance(value, dict)}
    if name not in known:
        raise DataError(f"{table} = {name!r}: collectives are calibrated for {', '.join(sorted(known))}")
    return resolved(known, name)


def measured_devices() -> dict[str, str]:
    """The devices whose collectives were measured, with the interconnect of each.

    Example:
        >>> measured_devices()["h100_sxm"]
        'nvlink4'
    """
    return {name: entry["interconnect"] for name, entry in entries()["device"].items() if isinstance(entry, dict)}


@reads("calibration", "collectives.toml")
def tuner(interconnect: str) -> Tuner:
    """NCCL's own belief about ``interconnect``, by which it chooses a protocol."""
    entry = _entry("interconnect", interconnect)
    return Tuner(**{field.name: float(entry[field.name]) for field in fields(Tuner)})


@reads("calibration", "collectives.toml")
def collective_coefficients(device: str) -> CollectiveCoefficients:
    """Coefficients of ``device`` (``h100_sxm``, ``gb200``, ...).

    Raises:
        DataError: its collectives were not measured.
    """
    if device not in entries()["device"] and siblings.is_stated(device):
        return _stated_coefficients(device)
    return coefficients_of(_entry("device", device))


def coefficients_of(entry: Mapping[str, Any]) -> CollectiveCoefficients:
    """Coefficients as an entry of a device states them; two cards are as fast as more, unless it says otherwise."""
    coefficients = {name: float(entry[name]) for name in DEVICE_NAMES if name in entry}
    return CollectiveCoefficients(
        **{"pair_bandwidth_Bps": coefficients["bandwidth_Bps"], **coefficients},
        tuner=tuner(entry["interconnect"]),
        shared=shared_constants(SharedCollectives),
    )


def _stated_coefficients(device: str) -> CollectiveCoefficients:
    """Give a sibling's steps, and its share of the link, on this device's link; NCCL's belief scales with the link too."""
    sibling, facts = siblings.sibling(device, "collectives"), siblings.stated_facts(device, "collectives")
    base = collective_coefficients(sibling)
    if "interconnect" in facts:
        base = replace(base, tuner=tuner(facts["interconnect"]))
    on_own_link = base.on_link(link_behind_Bps(device) / link_behind_Bps(sibling))
    changed: dict[str, Any] = {name: float(facts[name]) for name in DEVICE_NAMES if name in facts}
    if "bandwidth_share" in facts:
        bandwidth_Bps = facts["bandwidth_share"] * siblings.link_Bps(device, "peers")
        changed = {"bandwidth_Bps": bandwidth_Bps, "pair_bandwidth_Bps": bandwidth_Bps, **changed}
    return replace(on_own_link, **changed)


def link_behind_Bps(device: str) -> float:
    """Bandwidth of the link, one direction, that a device's coefficients stand for, in bytes per second.

    Example:
        >>> link_behind_Bps("h100_sxm") / 1e9
        450.0
    """
    facts = siblings.stated_facts(device, "collectives") if siblings.is_stated(device) else {}
    if facts.get("link") == "none":
        return link_behind_Bps(siblings.sibling(device, "collectives"))
    return siblings.link_Bps(device, facts.get("link", "peers"))


@reads("calibration", "collectives.toml")
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
    asked_table, stated_parts = table, set[str]()
    while table == "device" and name not in entries()["device"] and siblings.is_stated(name):
        facts = siblings.stated_facts(name, "collectives")
        stated_parts |= {*facts, *(("bandwidth_Bps", "pair_bandwidth_Bps") if "bandwidth_share" in facts else ())}
        name = siblings.sibling(name, "collectives")
    parts = (part for part in _entry(table, name)["fitted"] if part not in stated_parts)
    names = tuple(f"collectives.{table}.{name}.{part}" for part in parts)
    return (*shared_names("collectives"), *names) if asked_table == "device" else names


def residuals(table: str, name: str, role: str) -> dict[str, float]:
    """The error statistics that the fit has written for all rows of ``role``, in percent."""
    percents: dict[str, float] = _entry(table, name)[role]
    return percents
