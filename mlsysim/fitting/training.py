"""Software stacks, sustained clocks and what they share, fitted to training runs of language models (``anchors/training``)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlsysim.calibration.device_entries import DEVICES
from mlsysim.calibration.devices import clock_device, clock_share, measured_device
from mlsysim.calibration.names import unknown
from mlsysim.calibration.shared import with_usual
from mlsysim.calibration.stacks import COEFFICIENTS, stack
from mlsysim.calibration.store import coefficients
from mlsysim.fitting.bounded import Coefficient
from mlsysim.fitting.calibration import CALIBRATION, EVERY, Calibration, Entry, Key, Place, Runs, cases, ranges
from mlsysim.lowering.training_kernels import kernel_device, stack_step
from mlsysim.physics.records import stacked
from mlsysim.physics.training.step_inputs import KernelDevice, SharedCoefficients, StackCoefficients
from mlsysim.tables.training import TrainingQuestion
from mlsysim.tables.training_steps import LoweredRun, prepared_row
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.kernels.errors import Times

# Those that only runs with experts have: fitted to these runs alone, after all else is fitted to the runs without.
EXPERT_PARTS = ("host_expert_s", "ep_hidden", "routed_B")
# The stack of a framework that no name fits.
UNKNOWN = str(unknown()["stack"])


def _range_of(key: Key, entry: Entry) -> Coefficient:
    """The range of a coefficient; one that all share states its own, and lies in the middle of it where no row decides."""
    if key.kind == "shared":
        return Coefficient((entry["low"] + entry["high"]) / 2, entry["low"], entry["high"])
    return ranges("training")[key.part]


def _fits(kind: str, entry: Entry) -> list[str]:
    if kind == "shared":
        return ["value"] if entry["basis"] == "fitted" else []
    return list(entry.get("fit", ())) if kind == "stack" else ["clock"] if entry.get("fitted") else []


def _steps(prepared: tuple[Any, ...], kernels: KernelDevice, entries: Mapping[str, Entry]) -> Times:
    name, work, shape, plan, machine, clock_share = prepared
    shared = entries["shared"]
    device = replace(kernels, clock=entries["device"]["clock"] * clock_share, shared=coefficients(SharedCoefficients, shared))
    entry = with_usual(entries["stack"], shared)
    # Not read as floats: a fit varies some of them together, as columns.
    fitted = StackCoefficients(**{part: entry[part] for part in COEFFICIENTS if part in entry})
    known = replace(stack(name), coefficients=fitted)
    return np.asarray(stack_step(work, shape, plan, machine, device, known).total_s, dtype=float)


def measured_step_s(anchor: Anchor, question: TrainingQuestion) -> float:
    """Seconds of a step that the case measured."""
    value = float(anchor.case.value or 0.0)
    if anchor.case.metric == "step_latency_total":
        return value
    tokens = question.arguments["batch_size"] * question.arguments["seq_len"]
    return float(tokens / value / question.fleet.accelerators)


class MeasuredStep(NamedTuple):
    """A training run, the seconds that its step took, and the source that says so."""

    run: LoweredRun
    seconds: float
    source: str


def runs_of(anchors: Iterable[Anchor]) -> list[Runs]:
    """Training cases as runs of one stack on one accelerator at one precision, all with experts or all without."""
    rows = ((anchor, prepared_row(tuple(anchor.case.run.items()))) for anchor in anchors)
    return grouped(MeasuredStep(run, measured_step_s(anchor, run.asked), anchor.source.key) for anchor, run in rows)


def grouped(steps: Iterable[MeasuredStep]) -> list[Runs]:
    """Measured steps as runs of one stack on one accelerator at one precision, all with experts or all without."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for run, seconds, source in steps:
        question = run.asked
        routed = question.workload.moe is not None
        accelerator = question.fleet.node.accelerator
        row = (run.work, run.shape, run.plan, run.setting.machine(), seconds, source)
        group = (question.arguments["stack"], accelerator.name, run.setting.precision, routed)
        groups.setdefault(group, []).append((accelerator, *row))
    runs = []
    for (name, accelerator_name, precision, routed), rows in groups.items():
        accelerators, works, shapes, plans, machines, measured, sources = zip(*rows, strict=True)
        share = clock_share(measured_device(accelerator_name))
        prepared = (name, *(stacked(part) for part in (works, shapes, plans, machines)), share)
        kernels = kernel_device(accelerators[0], precision, stack(name))
        runs.append(
            Runs(
                on={"stack": name, "device": clock_device(measured_device(accelerator_name)), "shared": EVERY},
                measured=np.array(measured),
                sources=sources,
                predict=functools.partial(_steps, prepared, kernels),
                together="stack",
                stage=int(routed),
                decides=(lambda key: key.part in EXPERT_PARTS) if routed else (lambda key: key.part not in EXPERT_PARTS),
            )
        )
    return runs


def gathered(root: Path, role: str) -> list[Runs]:
    """The training runs of ``role`` under ``root``; those that are fitted also as runs of a framework that nobody knows."""
    runs = runs_of(cases(root, ("training",), role))
    return [*runs, *map(_of_any_stack, runs)] if role == CALIBRATION else runs


def _of_any_stack(run: Runs) -> Runs:
    """``run`` as if its stack were unknown: decides, after all else, what the stack of unknown frameworks has."""
    prepared, kernels = run.predict.args  # type: ignore[attr-defined]
    return replace(
        run,
        on={**run.on, "stack": UNKNOWN},
        predict=functools.partial(_steps, (UNKNOWN, *prepared[1:]), kernels),
        stage=2,
        decides=lambda key: key.entry == UNKNOWN and key.part not in EXPERT_PARTS and not run.stage,
        judges=("stack",),
    )


TRAINING = Calibration(
    name="training",
    files={"stack": Place("stacks.toml"), "device": Place(DEVICES, within=("training",)), "shared": Place("shared.toml")},
    ranged=_range_of,
    gathered=gathered,
    fits=_fits,
    pull=0.03,
    rows_at_full_weight=10.0,
)
