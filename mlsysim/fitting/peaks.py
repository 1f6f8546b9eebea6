"""Fits ``efficiency`` of stated devices to published peak rates: rows of ``anchors/kernels/matmul_peak.csv``.

One shape a device and format says no more than a share of the peak; a device with a table of sizes also shows its launch and
what a tile costs beside its main loop. ``python -m mlsysim.fitting.kernels`` runs it and writes ``peaks.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.siblings import is_stated
from mlsysim.core.toml import toml_file
from mlsysim.fitting.bounded import fit
from mlsysim.fitting.gemm import COEFFICIENTS
from mlsysim.fitting.toml_text import toml_value
from mlsysim.validation.kernels.errors import ErrorStatistics
from mlsysim.validation.kernels.predictions import peak_times
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable

# So many sizes show the launch and the prologue; fewer only the share of the peak.
_SIZES = 3


def fit_peaks(directory: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Coefficients and residuals by stated device and format; validation rows enter the statistics only."""
    tables = {role: KernelTable.read(directory / "matmul_peak.csv", role) for role in (CALIBRATION, VALIDATION)}
    kinds = dict.fromkeys((row["device"], row["dtype"]) for row in tables[CALIBRATION].rows)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for device, dtype in kinds:
        if is_stated(device):
            rows = {role: table.where(device=device, dtype=dtype) for role, table in tables.items()}
            found.setdefault(device, {})[dtype] = _fit(rows, device, dtype)
    found["all"] = {"formats": _whole_table(tables, found)}
    return found


def _whole_table(tables: Mapping[str, KernelTable], found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Residuals of all rows with what was found, those of accelerators with kernel tables of their own too."""
    entry: dict[str, Any] = {"fitted": [], "at_bound": []}
    for role, table in tables.items():
        parts = []
        for device, dtype in dict.fromkeys((row["device"], row["dtype"]) for row in table.rows):
            fitted = found.get(device, {}).get(dtype, {})
            rows, values = table.where(device=device, dtype=dtype), {name: fitted[name] for name in fitted.get("fitted", ())}
            parts.append(peak_times(rows, device, dtype, values) / rows.numbers("measured_s"))
        ratio = np.concatenate(parts)
        entry[role] = asdict(ErrorStatistics.of(ratio, np.ones(len(ratio))))
    return entry


def _fit(rows: Mapping[str, KernelTable], device: str, dtype: str) -> dict[str, Any]:
    chosen = rows[CALIBRATION]
    free = ["efficiency", "prologue_k", "launch_s"] if len(chosen) >= _SIZES else ["efficiency"]
    result = fit(
        lambda values: peak_times(chosen, device, dtype, values),
        chosen.numbers("measured_s"),
        {name: COEFFICIENTS[name] for name in free},
    )
    values = {name: COEFFICIENTS[name].written(value) for name, value in result.values.items()}
    entry: dict[str, Any] = values | {"fitted": free, "at_bound": list(result.at_bound)}
    for role, table in rows.items():
        if len(table):
            predicted = np.asarray(peak_times(table, device, dtype, values))
            entry[role] = asdict(ErrorStatistics.of(predicted, table.numbers("measured_s")))
    return entry


def as_toml(fitted: Mapping[str, Mapping[str, Mapping[str, Any]]], directory: Path) -> str:
    """The text of ``peaks.toml``."""
    citation = toml_file(directory / "matmul_peak.toml")["source"]["citation"]
    lines = ["# What published peak rates of matrix products say of accelerators without kernel tables: coefficients of"]
    lines += ["# physics/gemm.py that siblings.toml takes from no sibling. Written by `python -m mlsysim.fitting.kernels`."]
    lines += ["[defaults]", f'source = "{citation}; anchors/kernels/matmul_peak.csv"']
    for device, formats in fitted.items():
        for dtype, entry in formats.items():
            lines += ["", f"[{device}.{dtype}]", *(f"{key} = {toml_value(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"
