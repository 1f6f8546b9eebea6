"""Fits engines and clocks under the highest load: ``python -m mlsysim.fitting.loaded anchors``.

Reads the calibration cases of ``anchors/token_load`` and no others; writes ``loaded.toml``. Engines and kernels are
those of ``engines.toml`` and ``engine_devices.toml``, fitted before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.loaded import FILE, Tables, device_of, harness, harness_of, loaded_engine, loaded_tables
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.toml_text import write_tables
from mlsysim.lowering.token_load import LoadQuestion, best_plan, load_question
from mlsysim.physics.serving.deployment import EngineCoefficients
from mlsysim.tables.token import token_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

FAMILY = "token_load"
RANGES = {
    "compute_share": Coefficient(1.0, 0.4, 1.6),
    "sequence_s": Coefficient(5e-6, 0.0, 1e-4),
    "clock": Coefficient(0.85, 0.3, 1.1),
}


@dataclass(frozen=True)
class LoadedRun:
    """A case, checked, and the requests a second that it measured."""

    question: LoadQuestion
    measured_per_s: float
    solved: dict[EngineCoefficients, float] = field(default_factory=dict)

    def predicted_per_s(self, tables: Tables) -> float:
        """With the coefficients of ``tables``; a fit changes few at a time, so that most answers are known."""
        setting, front = self.question.settings[0], self.question.front
        assert setting.stack is not None
        assert front is not None
        key = loaded_engine(setting.stack, self.hardware, harness_of(tables, front.name), tables).coefficients
        if key not in self.solved:
            self.solved[key] = best_plan(self.question, tables).rate_per_s
        return self.solved[key]

    @property
    def harness(self) -> str:
        """The harness's name."""
        return self.question.front.name if self.question.front else ""

    @property
    def hardware(self) -> str:
        """The accelerator's name."""
        return self.question.settings[0].accelerator.name


def loaded_anchors(root: Path, role: str) -> list[Anchor]:
    """The cases of ``role``."""
    files = [path for path in anchor_files(root) if path.parent.name == FAMILY]
    return [anchor for path in files for anchor in load(path) if anchor.case.run and anchor.case.role == role]


def gathered(anchor: Anchor) -> LoadedRun:
    """A case as the solver sees it."""
    asked = token_question(anchor.case.run)
    question = load_question(asked.workload, asked.hardware, **asked.arguments)
    tokens = 1 if anchor.source.metric == "requests_per_second" else asked.arguments["output_len"]
    return LoadedRun(question, (anchor.case.value or 0.0) / tokens)


def fit_all(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The entries of ``loaded.toml``, fitted to the calibration cases under ``root``."""
    tables = {kind: {name: dict(entry) for name, entry in entries.items()} for kind, entries in loaded_tables().items()}
    # Layouts are those that were best before.
    runs = [gathered(anchor) for anchor in loaded_anchors(root, "calibration")]
    runs = [replace(run, question=replace(run.question, settings=(best_plan(run.question).setting,))) for run in runs]
    free = {
        f"{kind} {name} {part}": RANGES[part]
        for kind, entries in tables.items()
        for name, entry in entries.items()
        for part in entry.get("fit", ())
    }
    found = fit(lambda values: _predicted(runs, _trial(tables, values)), _measured(runs), free, pull=0.03)
    tables = _trial(tables, {key: free[key].written(value) for key, value in found.values.items()})
    for kind, entries in tables.items():
        for name, entry in entries.items():
            entry["at_bound"] = [key.split(" ")[2] for key in found.at_bound if key.split(" ")[:2] == [kind, name]]
    for role in ("calibration", "validation"):
        cases = [gathered(anchor) for anchor in loaded_anchors(root, role)]
        for kind, entries in tables.items():
            for name, entry in entries.items():
                own = [run for run in cases if name == (run.harness if kind == "harness" else device_of(tables, run.hardware))]
                entry.pop(role, None)
                if own:
                    errors = ErrorStatistics.of(_predicted(own, tables), _measured(own))
                    entry[role] = {part.name: getattr(errors, part.name) for part in fields(errors)}
    return tables


def _trial(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], values: Mapping[str, float]) -> dict[str, Any]:
    """The tables with ``values`` in place of what they state."""
    trial = {kind: {name: dict(entry) for name, entry in entries.items()} for kind, entries in tables.items()}
    for key, value in values.items():
        kind, name, part = key.split(" ")
        trial[kind][name][part] = value
    return trial


def _measured(runs: list[LoadedRun]) -> Times:
    return np.array([run.measured_per_s for run in runs])


def _predicted(runs: list[LoadedRun], tables: dict[str, Any]) -> Times:
    return np.array([run.predicted_per_s(tables) for run in runs])


def main(root: Path) -> None:
    """Fits, and writes the file beside the code that reads it."""
    tables = fit_all(root)
    flat = {f"{kind}.{name}": entry for kind, entries in tables.items() for name, entry in entries.items()}
    write_tables(FILE, flat)
    for cached in (loaded_tables, harness):
        cached.cache_clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
