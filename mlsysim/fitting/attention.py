"""Fits attention kernel coefficients from the calibration rows of ``anchors/kernels/attention_*.csv``.

``python -m mlsysim.fitting.kernels`` runs it and writes ``attention.toml`` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlsysim.core.toml import toml_file
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.toml_text import toml_value
from mlsysim.validation.kernels.errors import ErrorStatistics
from mlsysim.validation.kernels.predictions import PREDICTORS, Predict
from mlsysim.validation.kernels.tables import CALIBRATION, VALIDATION, KernelTable

LONG = 512  # tokens from which on the kernel, not its launch, is measured

# Upper ends: a share cannot pass 1; 40 thousand million exponentials a second are 16 a clock at 2.5 GHz, twice that since the
# B300. Lower ends only keep logarithms finite.
PREFILL = {
    "floor_s": Coefficient(15e-6, 1e-6, 5e-5, log=True),
    "efficiency_bfloat16": Coefficient(0.7, 0.1, 1.0),
    "efficiency_fp8": Coefficient(0.6, 0.1, 1.0),
    "exponentials_per_s": Coefficient(2e10, 1e9, 8e10, log=True),
    "tile_keys": Coefficient(500.0, 10.0, 3000.0, log=True),
    "window_tile_keys": Coefficient(1000.0, 10.0, 3000.0, log=True),
}
DECODE = {
    "floor_s": Coefficient(9e-6, 1e-6, 3e-5, log=True),
    "bandwidth_efficiency": Coefficient(0.85, 0.3, 1.0),
    "ramp_s": Coefficient(5e-6, 1e-7, 3e-5, log=True),
    "block_s": Coefficient(1.5e-6, 1e-8, 1e-5, log=True),
    "scalar_elements_per_s": Coefficient(2.4e10, 1e9, 5e11, log=True),
    "window_s": Coefficient(1e-5, 1e-7, 5e-5, log=True),
    "l2_share": Coefficient(0.5, 1e-2, 1.0),
}
_BLACKWELL = ("b200_sxm", "b300_sxm", "gb200", "gb300")


@dataclass(frozen=True)
class _Held:
    value: float
    why: str


_NO_WINDOW = "no windowed rows"
_UNCACHED = "small reads are no faster than large ones: fits at zero"
_NO_GROUP = "no rows with a group above 32; as on the other devices"
_HELD: dict[tuple[str, str], dict[str, _Held]] = {
    # One head size cannot tell matrix products from exponentials: 16 a clock at 1.41 GHz, the unit's rate.
    ("prefill", "a100_sxm"): {
        "exponentials_per_s": _Held(2.256e10, "one head size; the unit's 16 a clock at 1.41 GHz"),
        "efficiency_fp8": _Held(0.0, "no 8-bit matrix rate"),
        "window_tile_keys": _Held(0.0, _NO_WINDOW),
    },
    ("decode", "a100_sxm"): {
        "scalar_elements_per_s": _Held(2.4e10, _NO_GROUP),
        "window_s": _Held(0.0, _NO_WINDOW),
        "l2_share": _Held(0.0, _UNCACHED),
    },
    **{("decode", name): {"l2_share": _Held(0.0, _UNCACHED)} for name in ("h100_sxm", "h200_sxm")},
    **{("decode", name): {"window_s": _Held(0.0, "windows have a kernel of their own")} for name in _BLACKWELL},
}


# A phase: which coefficients, how they predict, and the column that says how long the sequence is.
PHASES = {"prefill": (PREFILL, PREDICTORS["prefill"], "seq_len"), "decode": (DECODE, PREDICTORS["decode"], "context")}


def fit_attention(directory: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Coefficients and residuals by phase and device, from the CSVs and their head in ``directory``.

    Rows of the validation role only enter the ``validation`` statistics, after the fit.
    """
    head = toml_file(directory / "attention.toml")
    source = f"{head['source']['citation']}; anchors/kernels/attention.toml"
    return {
        phase: {name: _fit_device(directory, phase, name, device, source) for name, device in head["device"].items()}
        for phase in PHASES
    }


def _fit_device(directory: Path, phase: str, name: str, device: Mapping[str, Any], source: str) -> dict[str, Any]:
    coefficients, predictor, length = PHASES[phase]
    predict = predictor(device)
    held = _HELD.get((phase, name), {})
    fixed = {key: entry.value for key, entry in held.items()}
    path = directory / f"attention_{phase}_{name}.csv"
    rows = KernelTable.read(path, CALIBRATION)
    found = fit(
        lambda values: predict({**values, **fixed}, rows),
        rows.numbers("measured_s"),
        {key: entry for key, entry in coefficients.items() if key not in held},
    )
    values = {key: entry.written(fixed.get(key, found.values.get(key, 0.0)), 5) for key, entry in coefficients.items()}
    entry: dict[str, Any] = {"source": source, "hardware": device["hardware"], "points": len(rows), **values}
    entry["held"] = [f"{key}: {reason.why}" for key, reason in held.items()]
    entry["at_bound"] = list(found.at_bound)
    for role in (CALIBRATION, VALIDATION):
        entry[role] = _residuals(predict, values, KernelTable.read(path, role), 0, length)
        entry[f"{role}_long"] = _residuals(predict, values, KernelTable.read(path, role), LONG, length)
    return entry


def _residuals(predict: Predict, values: Mapping[str, float], rows: KernelTable, least: int, length: str) -> dict[str, Any]:
    chosen = KernelTable([row for row in rows.rows if int(row[length]) >= least])
    return asdict(ErrorStatistics.of(predict(values, chosen), chosen.numbers("measured_s")))


def as_toml(fitted: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The text of ``attention.toml``: one table a phase and device."""
    lines = [
        "# Attention kernels: coefficients of physics/attention_kernels.py.",
        "# Written by `python -m mlsysim.fitting.kernels`; do not edit.",
        "# Residuals are percent of the measured time; *_long: from 512 tokens on.",
    ]
    lines += ["[defaults]", f'source = "{next(iter(fitted["prefill"].values()))["source"]}"']
    for phase, devices in fitted.items():
        for name, entry in devices.items():
            lines += ["", f"[{phase}.{name}]", *(f"{key} = {toml_value(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"
