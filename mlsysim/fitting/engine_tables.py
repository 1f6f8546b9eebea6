"""Coefficients of serving engines and devices as a fit tries them: both calibration files, with some values changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

import numpy as np

from mlsysim.calibration.engines import COEFFICIENTS, EngineDevice, engine_device
from mlsysim.calibration.stacks import resolved
from mlsysim.fitting.stacks import lineage
from mlsysim.hardware.types import HardwareNode
from mlsysim.physics.serving.deployment import EngineCoefficients
from mlsysim.validation.kernels.errors import Times

Tables = dict[str, dict[str, Any]]
# Entries of both files, by kind: "engine" and "device".
Calibration = dict[str, Tables]
SHARES = tuple(part.name for part in fields(EngineDevice) if part.name.endswith("_share"))


class EngineRuns(Protocol):
    """Figures of one engine on one accelerator, and what coefficients predict of them."""

    stack: str
    device: str
    accelerator: HardwareNode

    def together(self, coefficients: Sequence[EngineCoefficients], device: EngineDevice) -> Times:
        """The metric of every row, a line a choice of coefficients."""
        ...


def varied(runs: Iterable[EngineRuns], tables: Calibration, values: Mapping[str, float], changed: Mapping[str, float]) -> Times:
    """Predictions with ``values`` but for one that has ``changed``: a column for each."""
    base = {kind: {name: dict(entry) for name, entry in own.items()} for kind, own in tables.items()}
    for key, value in values.items():
        kind, name, part = key.split(" ")
        base[kind][name][part] = value
    columns = []
    for run in runs:
        own, device = coefficients_of(base["engine"], run.stack), device_of(run, base["device"])
        engines = _within(changed, base, "engine", run.stack)
        choices = [coefficients_of(_with(base["engine"], key, changed[key]), run.stack) for key in engines]
        plain, *lines = run.together([own, *choices], device)
        found = dict(zip(engines, lines, strict=True))
        for key in _within(changed, base, "device", run.device):
            (found[key],) = run.together([own], device_of(run, _with(base["device"], key, changed[key])))
        columns.append(np.stack([found.get(key, plain) for key in changed], axis=-1))
    return np.concatenate(columns)


def _within(keys: Iterable[str], tables: Calibration, kind: str, name: str) -> list[str]:
    """Those of ``keys`` that an entry has, or one that it takes coefficients from."""
    names = lineage(tables[kind], name) if name in tables[kind] else []
    return [key for key in keys if key.split(" ")[0] == kind and key.split(" ")[1] in names]


def _with(entries: Tables, key: str, value: float) -> Tables:
    _, name, part = key.split(" ")
    return {**entries, name: {**entries[name], part: value}}


def coefficients_of(engines: Mapping[str, Mapping[str, Any]], name: str) -> EngineCoefficients:
    """The coefficients of an engine, its own and those that it takes from another."""
    entry = resolved(engines, name)
    return EngineCoefficients(**{part: float(entry[part]) for part in COEFFICIENTS if part in entry})


def device_of(run: EngineRuns, devices: Mapping[str, Mapping[str, Any]]) -> EngineDevice:
    """The kernels that stand for a run's device, with its shares of ``devices``."""
    entry = resolved(devices, run.device)
    given: dict[str, Any] = {part: float(entry[part]) for part in SHARES if part in entry}
    if "compute_share" in given:
        given.setdefault("own_compute_share", given["compute_share"])
    return replace(engine_device(run.accelerator.name), **given)
