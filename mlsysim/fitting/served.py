"""Fits the harnesses before an engine: ``python -m mlsysim.fitting.served anchors``.

Reads the calibration cases of ``anchors/inference_load`` and no others; writes ``served.toml``. Engines and clocks
are those of ``inference.toml``, fitted before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.served import FILE, harness, harness_of, served_tables
from mlsysim.core.units import Q_
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.toml_text import write_tables
from mlsysim.lowering.batches import BATCHES, Batches, engine_batches, loaded, lone_s
from mlsysim.systems.types import Fleet
from mlsysim.tables.served import served_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

FAMILY = "inference_load"
RANGES = {
    "copied_share": Coefficient(0.7, 0.0, 2.0),
    "integer_share": Coefficient(0.9, 0.5, 1.2),
    "float_share": Coefficient(0.9, 0.5, 1.2),
    "query_s": Coefficient(2e-4, 0.0, 2e-3),
    "request_s": Coefficient(5e-6, 0.0, 1e-4),
}


@dataclass(frozen=True)
class ServedRun:
    """A case, lowered: one accelerator's batches, and its seconds a sample (a load) or a query (a stream)."""

    harness: str
    batches: Batches
    limit_s: float | None
    share: float
    size_spread: float
    measured_s: float

    def seconds(self, tables: dict[str, dict[str, Any]]) -> float:
        """Predicted, with the coefficients of ``tables``."""
        front = harness_of(tables, self.harness)
        if self.limit_s is None:
            return float(lone_s(self.batches, front)[0])
        found = loaded(self.batches, front, self.limit_s, self.share, self.size_spread)
        return float(lone_s(self.batches, front)[0]) if found is None else 1 / found.load_per_s


def served_anchors(root: Path, role: str) -> list[Anchor]:
    """The cases of ``role``."""
    files = [path for path in anchor_files(root) if path.parent.name == FAMILY]
    return [anchor for path in files for anchor in load(path) if anchor.case.run and anchor.case.role == role]


def gathered(anchor: Anchor) -> ServedRun:
    """A case without its harness."""
    asked = served_question(anchor.case.run)
    given = asked.arguments
    hardware = asked.hardware
    accelerator, count = (hardware.node.accelerator, hardware.accelerators) if isinstance(hardware, Fleet) else (hardware, 1)
    limit = given.get("latency_limit")
    seq_len = given.get("seq_len", 1)
    batches = engine_batches(
        asked.workload,
        accelerator,
        given["stack"],
        BATCHES if limit else np.array([float(given.get("query_size", 1))]),
        precision=given["precision"],
        seq_len=seq_len,
        mean_tokens=given.get("mean_tokens", seq_len),
        lone_clock=None if limit else harness(given["harness_name"]).lone_clock,
    )
    value = anchor.case.value or 0.0
    return ServedRun(
        harness=given["harness_name"],
        batches=batches,
        limit_s=float(Q_(limit).m_as("second")) if limit else None,
        share=given.get("percentile", 0.99),
        size_spread=given.get("token_spread", 0.0),
        measured_s=count / value if limit else value / 1e3,
    )


def fit_all(root: Path) -> dict[str, dict[str, Any]]:
    """The entries of ``served.toml``, fitted to the calibration cases under ``root``."""
    tables = {name: dict(entry) for name, entry in served_tables().items()}
    runs = [gathered(anchor) for anchor in served_anchors(root, "calibration")]
    free = {f"{name} {part}": RANGES[part] for name, entry in tables.items() for part in entry.get("fit", ())}
    measured_s = np.array([run.measured_s for run in runs])
    found = fit(lambda values: _predicted(runs, _trial(tables, values)), measured_s, free)
    tables = _trial(tables, {key: free[key].written(value) for key, value in found.values.items()})
    for name, entry in tables.items():
        entry["at_bound"] = [key.split(" ")[1] for key in found.at_bound if key.split(" ")[0] == name]
    for role in ("calibration", "validation"):
        cases = [gathered(anchor) for anchor in served_anchors(root, role)]
        for name, entry in tables.items():
            own = [run for run in cases if run.harness == name]
            errors = ErrorStatistics.of(_predicted(own, tables), np.array([run.measured_s for run in own]))
            entry[role] = {part.name: getattr(errors, part.name) for part in fields(errors)}
    return tables


def _trial(tables: Mapping[str, Mapping[str, Any]], values: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The tables with ``values`` in place of what they state."""
    trial = {name: dict(entry) for name, entry in tables.items()}
    for key, value in values.items():
        name, part = key.split(" ")
        trial[name][part] = value
    return trial


def _predicted(runs: list[ServedRun], tables: dict[str, dict[str, Any]]) -> Times:
    return np.array([run.seconds(tables) for run in runs])


def main(root: Path) -> None:
    """Fits, and writes the file beside the code that reads it."""
    tables = fit_all(root)
    write_tables(FILE, tables)
    for cached in (served_tables, harness):
        cached.cache_clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
