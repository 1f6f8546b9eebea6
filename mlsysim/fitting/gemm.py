"""Fits matrix-product coefficients from the calibration rows of ``anchors/kernels/gemm_*.csv``.

``python -m mlsysim.fitting.kernels`` runs it and writes ``gemm.toml`` beside this file. Narrow formats share with the device's
16-bit kernels what is the device's (cache, memory, price of a split); the rest is their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlsysim.calibration.gemm import SHARED
from mlsysim.calibration.shared_kernels import shared_gemm
from mlsysim.core.toml import toml_file
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.toml_text import toml_value
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.physics.kernels.gemm import GemmKernel
from mlsysim.validation.kernels.errors import ErrorStatistics, Times
from mlsysim.validation.kernels.predictions import gemm_times
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable

TRAINING = 1024  # tokens from which on a product is a training or prefill one

# Shares cannot pass 1. A clock above the datasheet's (H100: 1.98 over 1.83 GHz) can lift the peak by a tenth.
COEFFICIENTS = {
    "efficiency": Coefficient(0.75, 0.1, 1.1),
    "prologue_k": Coefficient(120.0, 0.0, 2000.0),
    "cache_ratio": Coefficient(3.0, 1.0, 12.0, log=True),
    "memory_efficiency": Coefficient(0.85, 0.3, 1.0),
    "launch_s": Coefficient(4e-6, 5e-7, 3e-5, log=True),
    "split_s": Coefficient(2.5e-6, 2e-7, 2e-5, log=True),
    "quantise_sweeps": Coefficient(6.0, 0.0, 20.0),
    "step_s": Coefficient(1e-9, 1e-11, 1e-8, log=True),
}
_OWN = ("efficiency", "prologue_k", "launch_s")
_FITTED = {
    "bfloat16": (*_OWN, "cache_ratio", "memory_efficiency", "split_s"),
    "fp8": (*_OWN, "quantise_sweeps"),
    "sq": (*_OWN, "quantise_sweeps"),
    "fp8_block": (*_OWN, "quantise_sweeps", "step_s"),
    "nvfp4": (*_OWN, "quantise_sweeps", "step_s"),
}
_UNSPLIT = ("fp8_block", "nvfp4")  # kernels that do not divide k
# Hopper's and the large Blackwells' kernels are persistent: a multiprocessor takes the next tile when it is done.
_WHOLE_WAVES = ("a100_sxm", "l40s", "rtx_pro_6000_server")
# Without small products (they are warm in the cache) nothing shows a launch or a single tile's pace: 16-bit launches are held
# as the other devices have them.
_NO_SMALL = {"launch_s": 2.5e-6, "split_s": 2.5e-6, "step_s": 0.0}
_HELD = dict.fromkeys(("l40s", "rtx_pro_6000_server"), _NO_SMALL)


def fit_gemm(directory: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Coefficients and residuals by device and format, from the CSVs and their head in ``directory``.

    Rows of the validation role only enter the ``validation`` statistics, after the fit.
    """
    head = toml_file(directory / "gemm.toml")
    return {name: _fit_device(directory / f"gemm_{name}.csv", name, entry) for name, entry in head["device"].items()}


def _fit_device(path: Path, name: str, head: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tables = {role: KernelTable.read(path, role) for role in (CALIBRATION, VALIDATION)}
    shared = dict(_HELD.get(name, {}))
    fitted: dict[str, dict[str, Any]] = {}
    for dtype in head["dtypes"]:
        rows = {role: table.where(dtype=dtype) for role, table in tables.items()}
        entry = _fit_format(rows, Hardware[head["hardware"]], dtype, shared, name in _WHOLE_WAVES)
        if dtype == "bfloat16":
            shared |= {key: entry[key] for key in SHARED}
        fitted[dtype] = {"hardware": head["hardware"]} | entry
    return fitted


def _fit_format(
    rows: Mapping[str, KernelTable], node: HardwareNode, dtype: str, shared: Mapping[str, float], whole_waves: bool
) -> dict[str, Any]:
    free = [key for key in _FITTED[dtype] if key not in shared]
    held = {"quantise_sweeps": 0.0, "step_s": 0.0, **shared}

    def predict(values: Mapping[str, float], table: KernelTable) -> Times:
        kernel = GemmKernel(
            **{**held, **values},
            shared=shared_gemm(),
            most_splits=1.0 if dtype in _UNSPLIT else 32.0,
            whole_waves=whole_waves,
        )
        return gemm_times(table, kernel, node, dtype)

    chosen = rows[CALIBRATION]
    # The best tile changes with the coefficients, so that a fit can end in a dip: two starts.
    starts = (replace(COEFFICIENTS["efficiency"], start=start) for start in (0.75, 0.4))
    fits = [
        fit(
            lambda values: predict(values, chosen),
            chosen.numbers("measured_s"),
            {key: COEFFICIENTS[key] for key in free} | {"efficiency": start},
        )
        for start in starts
    ]
    found = min(fits, key=lambda one: one.statistics.mean)
    values = {key: COEFFICIENTS[key].written(value) for key, value in found.values.items()}
    entry: dict[str, Any] = {key: (held | values)[key] for key in COEFFICIENTS}
    entry |= {"most_splits": 1.0 if dtype in _UNSPLIT else 32.0, "whole_waves": whole_waves}
    entry |= {"points": len(chosen), "fitted": free, "at_bound": list(found.at_bound)}
    for role, table in rows.items():
        entry[role] = _residuals(predict(values, table), table)
        large = KernelTable([row for row in table.rows if int(row["m"]) >= TRAINING])
        entry[f"{role}_training"] = _residuals(predict(values, large), large)
    return entry


def _residuals(predicted: Times, table: KernelTable) -> dict[str, Any]:
    return asdict(ErrorStatistics.of(predicted, table.numbers("measured_s")))


def as_toml(fitted: Mapping[str, Mapping[str, Mapping[str, Any]]], directory: Path) -> str:
    """The text of ``gemm.toml``: one table a device and format; the source is that of the head in ``directory``."""
    citation = toml_file(directory / "gemm.toml")["source"]["citation"]
    lines = ["# Matrix products: coefficients of physics/gemm.py. Written by `python -m mlsysim.fitting.kernels`; do not edit."]
    lines.append(f"# Residuals are percent of the measured time; *_training: m >= {TRAINING}.")
    lines += ["[defaults]", f'source = "{citation}; anchors/kernels/gemm.toml"']
    for name, formats in fitted.items():
        for dtype, entry in formats.items():
            lines += ["", f"[{name}.{dtype}]", *(f"{key} = {toml_value(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"
