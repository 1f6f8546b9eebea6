"""Fits the engines and clocks of the forward pass alone: ``python -m mlsysim.fitting.inference anchors``.

Reads the calibration cases of ``anchors/inference`` and ``anchors/inference_frameworks`` and no others; writes
``inference.toml``. What is fitted of a stack or a device is named in its entry (``fit``); everything else there is
stated and stays.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.inference import (
    COEFFICIENTS,
    FILE,
    InferenceCoefficients,
    inference_hardware,
    inference_stack,
    inference_tables,
)
from mlsysim.calibration.stacks import resolved
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.toml_text import write_tables
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.data_parallel import Kernels, ReplicaWork
from mlsysim.lowering.forward import forward_time, inference_kernels, inference_work
from mlsysim.models.types import Workload
from mlsysim.systems.types import Fleet
from mlsysim.tables.inference import inference_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

FAMILIES = ("inference", "inference_frameworks")
# Physically meaningful ranges; a coefficient that ends at one is reported.
RANGES = {
    "convolution_share": Coefficient(0.9, 0.3, 1.3),
    "matmul_share": Coefficient(0.9, 0.3, 1.3),
    "moved": Coefficient(0.5, 0.0, 3.0),
    "traffic": Coefficient(0.8, 0.1, 1.2),
    "clock_share": Coefficient(0.8, 0.4, 1.0),
    "host_kernel_s": Coefficient(5e-6, 0.0, 3e-4),
    "step_s": Coefficient(1e-4, 0.0, 2e-2),
    "clock": Coefficient(0.8, 0.2, 1.2),
    "int8_share": Coefficient(1.0, 0.5, 2.2),
    "fp8_share": Coefficient(1.0, 0.5, 1.6),
    "tf32_share": Coefficient(0.8, 0.3, 1.2),
    # The clock that 16-bit products pull down to 0.78 does not fall, and of ResNet's window products of 3 x 3, Winograd's
    # transform leaves out five in nine.
    "fp32_share": Coefficient(1.0, 0.5, 1.8),
}
# What no row identifies stays where it started.
_PULL = 0.02


@dataclass(frozen=True)
class InferenceRuns:
    """Runs that ask the same of one accelerator: the same engine, batch and precision, measured in several systems."""

    stack: str
    device: str
    precision: str
    work: ReplicaWork
    kernels: Kernels
    clock: float
    measured_s: Times
    solved: dict[tuple[Any, ...], float] = field(default_factory=dict)

    def batch_s(self, tables: Mapping[str, Any]) -> Times:
        """Predicted times of a batch, with the coefficients of ``tables``."""
        device, found = resolved(tables["device"], self.device), resolved(tables["stack"], self.stack)
        coefficients = InferenceCoefficients(**{part: float(found[part]) for part in COEFFICIENTS if part in found})
        share = device.get(f"{self.precision}_share", self.kernels.format_share)
        key = (coefficients, share, device.get("clock", self.clock), device.get("traffic", 1.0))
        # A fit moves one coefficient at a time: runs that it does not touch are not solved again.
        if key not in self.solved:
            kernels = replace(self.kernels, format_share=share)
            self.solved[key] = float(forward_time(self.work, kernels, coefficients, *key[2:]).total_s)
        return np.full(len(self.measured_s), self.solved[key])


def inference_anchors(root: Path, role: str) -> list[Anchor]:
    """The cases of ``role`` that come from tables of MLPerf Inference."""
    files = [path for path in anchor_files(root) if path.parent.name in FAMILIES]
    return [anchor for path in files for anchor in load(path) if anchor.case.run and anchor.case.role == role]


def gathered(anchors: Iterable[Anchor]) -> list[InferenceRuns]:
    """The runs of ``anchors``, grouped so that each group shares its kernels."""
    groups: dict[tuple[Any, ...], tuple[tuple[Workload, HardwareNode], list[float]]] = {}
    for anchor in anchors:
        asked = inference_question(anchor.case.run)
        given = asked.arguments
        accelerator = asked.hardware.node.accelerator if isinstance(asked.hardware, Fleet) else asked.hardware
        each = given["batch_size"] / (asked.hardware.accelerators if isinstance(asked.hardware, Fleet) else 1)
        seq_len = given.get("seq_len", 1)
        tokens = given.get("mean_tokens", seq_len)
        key = (given["stack"], accelerator.name, given["precision"], asked.workload.name, each, seq_len, tokens)
        _, measured_s = groups.setdefault(key, ((asked.workload, accelerator), []))
        measured_s.append(given["batch_size"] / (anchor.case.value or 0.0))
    return [_together(key, *rest) for key, rest in groups.items()]


def _together(key: tuple[Any, ...], asked: tuple[Workload, HardwareNode], measured_s: list[float]) -> InferenceRuns:
    (stack, _, precision, _, each, seq_len, tokens), workload, accelerator = key, *asked
    kernels, found = inference_kernels(accelerator, precision)
    engine = inference_stack(stack)
    work = inference_work(workload, each, precision, engine, seq_len=seq_len, mean_tokens=tokens)
    return InferenceRuns(stack, found.name, precision, work, kernels, found.clock, np.array(measured_s))


def fit_all(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The entries of ``inference.toml``, fitted to the calibration cases under ``root``."""
    tables = {kind: {name: dict(entry) for name, entry in table.items()} for kind, table in inference_tables().items()}
    runs = gathered(inference_anchors(root, "calibration"))
    at_bound: list[str] = []
    for last in (False, True):
        # Stacks that are fitted last say nothing of the devices: their clocks and shares are held.
        names = {name for name, entry in tables["stack"].items() if bool(entry.get("fitted_last")) == last}
        chosen = [run for run in runs if run.stack in names]
        free = {
            f"{kind} {name} {part}": _begin(entry, part)
            for kind, table in tables.items()
            for name, entry in table.items()
            for part in entry.get("fit", ())
            if (name in names if kind == "stack" else not last)
        }
        measured = np.concatenate([run.measured_s for run in chosen])
        found = fit(functools.partial(_tried, chosen, tables), measured, free, pull=_PULL)
        tables = _trial(tables, {key: free[key].written(value) for key, value in found.values.items()})
        at_bound += found.at_bound
    _note(tables, at_bound, root)
    return tables


def _begin(entry: Mapping[str, Any], part: str) -> Coefficient:
    """A fit begins where the last one ended, unless that is at a bound."""
    known = RANGES[part]
    value = float(entry.get(part, known.start))
    return replace(known, start=value) if known.low < value < known.high else known


def _trial(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], values: Mapping[str, float]) -> dict[str, Any]:
    """The tables with ``values`` in place of what they state."""
    trial = {kind: {name: dict(entry) for name, entry in table.items()} for kind, table in tables.items()}
    for key, value in values.items():
        kind, name, part = key.split(" ")
        trial[kind][name][part] = value
    return trial


def _tried(runs: Iterable[InferenceRuns], tables: Mapping[str, Any], values: Mapping[str, float]) -> Times:
    return _predicted(runs, _trial(tables, values))


def _predicted(runs: Iterable[InferenceRuns], tables: Mapping[str, Any]) -> Times:
    return np.concatenate([run.batch_s(tables) for run in runs])


def _note(tables: dict[str, dict[str, dict[str, Any]]], at_bound: Iterable[str], root: Path) -> None:
    """Writes beside each stack and device how well it was fitted, and what ended at its bound."""
    by_role = {role: gathered(inference_anchors(root, role)) for role in ("calibration", "validation")}
    for kind, table in tables.items():
        for name, entry in table.items():
            for stale in ("calibration", "validation", "at_bound"):
                entry.pop(stale, None)
            entry["at_bound"] = [key.split(" ")[2] for key in at_bound if key.split(" ")[:2] == [kind, name]]
            for role, runs in by_role.items():
                chosen = [run for run in runs if getattr(run, kind) == name]
                if chosen:
                    measured = np.concatenate([run.measured_s for run in chosen])
                    errors = ErrorStatistics.of(_predicted(chosen, tables), measured)
                    entry[role] = {part.name: getattr(errors, part.name) for part in fields(errors)}


def main(root: Path) -> None:
    """Fits, and writes the file beside the code that reads it."""
    tables = fit_all(root)
    flat = {f"{kind}.{name}": entry for kind, table in tables.items() for name, entry in table.items()}
    write_tables(FILE, flat)
    for cached in (inference_tables, inference_stack, inference_hardware):
        cached.cache_clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
