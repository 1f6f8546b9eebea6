"""Fits the stacks and clocks of data-parallel training: ``python -m mlsysim.fitting.data_parallel anchors``.

Reads the calibration cases of ``anchors/cnn`` and ``anchors/bert`` and no others; writes ``data_parallel.toml``. What is
fitted of a stack or a device is named in its entry (``fit``); everything else there is stated and stays.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.data_parallel import COEFFICIENTS, FILE, replica_hardware, replica_stack, replica_tables
from mlsysim.calibration.stacks import resolved
from mlsysim.fitting.bounded import Coefficient, Fit, fit
from mlsysim.fitting.toml_text import write_tables
from mlsysim.lowering.data_parallel import Kernels, ReplicaWork, replica_kernels, replica_plan, replica_work, stack_step
from mlsysim.physics.layer.encoder import EncoderShape
from mlsysim.physics.records import stacked
from mlsysim.physics.training.data_parallel import ReplicaCoefficients, ReplicaPlan
from mlsysim.systems.types import Fleet
from mlsysim.tables.data_parallel import ReplicaQuestion, replica_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

FAMILIES = ("cnn", "bert")
# Physically meaningful ranges; a coefficient that ends at one is reported.
RANGES = {
    "matmul_share": Coefficient(0.85, 0.3, 1.3),
    "moved": Coefficient(1.0, 0.3, 2.5),
    "host_kernel_s": Coefficient(5e-6, 0.0, 4e-5),
    "dp_hidden": Coefficient(0.6, 0.0, 1.0),
    "network_share": Coefficient(0.6, 0.02, 1.0),
    "step_s": Coefficient(1e-3, 0.0, 6e-3),
    "clock": Coefficient(0.8, 0.3, 1.1),
    "tf32_share": Coefficient(0.8, 0.3, 1.2),
    "fp32_share": Coefficient(1.0, 0.5, 1.6),
    "fp8_share": Coefficient(0.9, 0.5, 1.2),
}
# A source counts as at most this many rows: a long table would else set every shared clock alone.
_FULL_WEIGHT_ROWS = 40.0
_KEPT = 16


@dataclass(frozen=True)
class ReplicaRuns:
    """Runs of one stack on one accelerator at one precision, as arrays."""

    stack: str
    device: str
    format_share: str
    clock: float
    work: ReplicaWork
    plan: ReplicaPlan
    kernels: Kernels
    measured_s: Times
    sources: tuple[str, ...]
    solved: dict[tuple[ReplicaCoefficients, float, float], Times] = field(default_factory=dict)

    def step_s(self, coefficients: ReplicaCoefficients, clock: float, share: float) -> Times:
        """Predicted steps. A fit moves one coefficient at a time: runs that it does not touch are not solved again."""
        key = (coefficients, clock, share)
        if key not in self.solved:
            if len(self.solved) > _KEPT:
                self.solved.clear()
            kernels = replace(self.kernels, format_share=share)
            step = stack_step(self.work, self.plan, kernels, coefficients, clock)
            self.solved[key] = np.asarray(step.total_s, dtype=float)
        return self.solved[key]


def replica_anchors(root: Path, role: str) -> list[Anchor]:
    """The cases of ``role`` that come from tables of ResNet-50 and BERT training."""
    files = [path for path in anchor_files(root) if path.parent.name in FAMILIES]
    return [anchor for path in files for anchor in load(path) if anchor.case.run and anchor.case.role == role]


def measured_step_s(anchor: Anchor, asked: ReplicaQuestion) -> float:
    """What the case measured, as the time of one step."""
    return float(asked.arguments["batch_size"] / (anchor.case.value or 0.0))


def gathered(anchors: Iterable[Anchor]) -> list[ReplicaRuns]:
    """The runs of ``anchors``, grouped so that each group shares its kernels."""
    groups: dict[tuple[str, str, str, str], list[tuple[Any, ...]]] = {}
    for anchor in anchors:
        asked = replica_question(anchor.case.run)
        given = asked.arguments
        accelerator = asked.hardware.node.accelerator if isinstance(asked.hardware, Fleet) else asked.hardware
        found = replica_stack(given["stack"])
        plan = replica_plan(asked.workload, asked.hardware, given["microbatch_count"], found)
        seq_len = given.get("seq_len", 1)
        each = given["batch_size"] / (plan.replicas * plan.micro_batches)
        tokens = given.get("mean_tokens", seq_len)
        masked = given.get("masked_share", 0.0)
        work = replica_work(
            asked.workload, each, given["precision"], found, seq_len=seq_len, mean_tokens=tokens, masked_share=masked
        )
        row = (work, plan, measured_step_s(anchor, asked), anchor.source.key, accelerator)
        groups.setdefault((given["stack"], accelerator.name, given["precision"], asked.workload.name), []).append(row)
    return [_together(key, rows) for key, rows in groups.items()]


def _together(key: tuple[str, str, str, str], rows: list[tuple[Any, ...]]) -> ReplicaRuns:
    stack_name, _, precision, _ = key
    works, plans, measured, sources, accelerators = zip(*rows, strict=True)
    kernels, hardware = replica_kernels(accelerators[0], precision, replica_stack(stack_name))
    shapes = [work.shape for work in works]
    shape: EncoderShape | None = None if shapes[0] is None else stacked(shapes)
    batches = np.array([work.batch for work in works])
    return ReplicaRuns(
        stack=stack_name,
        device=hardware.name,
        format_share=f"{precision}_share",
        clock=hardware.clock,
        work=ReplicaWork(works[0].network, shape, batches, np.array([work.tokens for work in works]), works[0].transposed),
        plan=stacked(plans),
        kernels=kernels,
        measured_s=np.array(measured),
        sources=sources,
    )


def fit_all(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The entries of ``data_parallel.toml``, fitted to the calibration cases under ``root``."""
    tables = {kind: {name: dict(entry) for name, entry in table.items()} for kind, table in replica_tables().items()}
    runs = gathered(replica_anchors(root, "calibration"))
    present = {run.stack for run in runs} | {run.device for run in runs}
    free = {
        f"{kind} {name} {part}": RANGES[part]
        for kind, table in tables.items()
        for name, entry in table.items()
        if name in present
        for part in entry.get("fit", ())
    }
    start = {key: replace(known, start=_begin(tables, key, known)) for key, known in free.items()}
    found = fit(lambda values: _predicted(runs, tables, values), _measured(runs), start, _weights(runs))
    for key, value in found.values.items():
        kind, name, part = key.split(" ")
        tables[kind][name][part] = float(f"{value:.4g}")
    _note(tables, found, root)
    return tables


def _begin(tables: Mapping[str, Any], key: str, known: Coefficient) -> float:
    """A fit begins where the last one ended, unless that is at a bound."""
    kind, name, part = key.split(" ")
    value = float(tables[kind][name].get(part, known.start))
    return value if known.low < value < known.high else known.start


def _trial(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], values: Mapping[str, float]) -> dict[str, Any]:
    """The tables with ``values`` in place of what they state."""
    trial = {kind: {name: dict(entry) for name, entry in table.items()} for kind, table in tables.items()}
    for key, value in values.items():
        kind, name, part = key.split(" ")
        trial[kind][name][part] = value
    return trial


def _predicted(runs: Iterable[ReplicaRuns], tables: Any, values: Mapping[str, float]) -> Times:
    trial = _trial(tables, values)
    steps = []
    for run in runs:
        device, found = resolved(trial["device"], run.device), resolved(trial["stack"], run.stack)
        coefficients = ReplicaCoefficients(**{part: float(found[part]) for part in COEFFICIENTS if part in found})
        steps.append(run.step_s(coefficients, device.get("clock", run.clock), device.get(run.format_share, 1.0)))
    return np.concatenate(steps)


def _measured(runs: Iterable[ReplicaRuns]) -> Times:
    return np.concatenate([run.measured_s for run in runs])


def _weights(runs: Iterable[ReplicaRuns]) -> Times:
    sources = [source for run in runs for source in run.sources]
    return np.array([min(1.0, (_FULL_WEIGHT_ROWS / sources.count(source)) ** 0.5) for source in sources])


def _note(tables: dict[str, dict[str, dict[str, Any]]], found: Fit, root: Path) -> None:
    """Writes beside each stack and device how well it was fitted, and what ended at its bound."""
    by_role = {role: gathered(replica_anchors(root, role)) for role in ("calibration", "validation")}
    for kind, table in tables.items():
        for name, entry in table.items():
            for stale in ("calibration", "validation", "at_bound"):
                entry.pop(stale, None)
            entry["at_bound"] = [key.split(" ")[2] for key in found.at_bound if key.split(" ")[:2] == [kind, name]]
            for role, runs in by_role.items():
                chosen = [run for run in runs if getattr(run, kind) == name]
                if chosen:
                    errors = ErrorStatistics.of(_predicted(chosen, tables, {}), _measured(chosen))
                    entry[role] = {part.name: getattr(errors, part.name) for part in fields(errors)}


def main(root: Path) -> None:
    """Fits, and writes the file beside the code that reads it."""
    tables = fit_all(root)
    flat = {f"{kind}.{name}": entry for kind, table in tables.items() for name, entry in table.items()}
    write_tables(FILE, flat)
    replica_tables.cache_clear()
    for cached in (replica_stack, replica_hardware):
        cached.cache_clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
