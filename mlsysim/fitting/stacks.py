"""Fits stacks, sustained clocks and what they share to training runs: ``python -m mlsysim.fitting.stacks anchors``.

Reads the calibration cases of ``anchors/training`` and no others; writes ``stacks.toml``, ``devices.toml`` and
``shared.toml``. What is fitted of a stack is named in its entry (``fit``); everything else there is stated and stays.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.stacks import measured_device, resolved, stack
from mlsysim.core.toml import packaged_toml
from mlsysim.fitting.bounded import Coefficient, fit
from mlsysim.fitting.toml_text import write_tables
from mlsysim.lowering.training_kernels import kernel_device, stack_step
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import Plan
from mlsysim.physics.records import stacked
from mlsysim.physics.training.step_inputs import KernelDevice, LayerShape, SharedCoefficients, StackCoefficients
from mlsysim.tables.training import TrainingQuestion
from mlsysim.tables.training_steps import prepared_row
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

# The entries of a file of the calibration; and of all that are fitted here, by the file's stem.
Tables = dict[str, dict[str, Any]]
Calibration = dict[str, Tables]

# Physically meaningful ranges; a coefficient that ends at one is reported.
RANGES = {
    "host_layer_s": Coefficient(1e-3, 0.0, 3e-3),
    "tp_hidden_forward": Coefficient(0.3, 0.0, 0.95),
    "tp_hidden_backward": Coefficient(0.5, 0.0, 0.95),
    "accumulated_B": Coefficient(6.0, 0.0, 20.0),
    "norm_B": Coefficient(60.0, 0.0, 250.0),
    "dp_hidden": Coefficient(0.5, 0.0, 1.0),
    "pp_hidden": Coefficient(0.3, 0.0, 1.0),
    "network_share": Coefficient(0.7, 0.02, 1.0),
    "host_step_s": Coefficient(0.02, 0.0, 0.5),
    "routed_B": Coefficient(20.0, 0.0, 200.0),
    "host_expert_s": Coefficient(2e-3, 0.0, 1e-2),
    "ep_hidden": Coefficient(0.3, 0.0, 0.95),
    "attention_rate": Coefficient(0.7, 0.2, 1.2),
    "tp_wait_s": Coefficient(1e-4, 0.0, 3e-3),
    "network_step_s": Coefficient(1e-4, 0.0, 2e-3),
}
# Those that only runs with experts have: fitted to these runs alone, after all else is fitted to the runs without.
EXPERT_PARTS = ("host_expert_s", "ep_hidden", "routed_B")
CLOCK = Coefficient(0.85, 0.6, 1.05)
# A source counts as at most this many rows: a sweep of hundreds would else set every shared clock alone.
_FULL_WEIGHT_ROWS = 10.0
# What a coefficient costs a whole range away from its start, as an error of one row: one that no row identifies stays there.
_PULL = 0.03
STACKS = "stacks.toml"
FILES = (STACKS, "devices.toml", "shared.toml")
# A device without calibration rows keeps its prior clock. One is enough: clocks differ by more than rows of one device do.
_LEAST_CLOCK_ROWS = 1


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of one stack on one accelerator at one precision, all with experts or all without, as arrays.

    Compared by identity, so that steps are kept by it.
    """

    stack: str
    routed: bool
    device: str
    work: LayeredWork
    shape: LayerShape
    plan: Plan
    machine: Machine
    kernels: KernelDevice
    measured_s: Times
    sources: tuple[str, ...]

    # A fit changes one coefficient at a time, and most of them move the steps of few stacks: the others' are looked up.
    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def step_s(self, coefficients: StackCoefficients, clock: float, shared: SharedCoefficients) -> Times:
        """Predicted steps."""
        kernels = replace(self.kernels, clock=clock, shared=shared)
        found = replace(stack(self.stack), coefficients=coefficients)
        step = stack_step(self.work, self.shape, self.plan, self.machine, kernels, found)
        return np.asarray(step.total_s, dtype=float)


def measured_step_s(anchor: Anchor, asked: TrainingQuestion) -> float:
    """What the case measured, as the time of one step."""
    value = float(anchor.case.value or 0.0)
    if anchor.case.metric == "step_latency_total":
        return value
    tokens = asked.arguments["batch_size"] * asked.arguments["seq_len"]
    return float(tokens / value / asked.fleet.accelerators)


def gathered(anchors: Iterable[Anchor]) -> list[Runs]:
    """The runs of ``anchors``, grouped so that each group shares its kernels."""
    groups: dict[tuple[str, str, str, bool], list[tuple[Any, ...]]] = {}
    for anchor in anchors:
        run = prepared_row(tuple(anchor.case.run.items()))
        asked = run.asked
        row = (run.work, run.shape, run.plan, run.setting.machine(), measured_step_s(anchor, asked), anchor.source.key, asked)
        routed = asked.workload.moe is not None
        kind = (asked.arguments["stack"], asked.fleet.node.accelerator.name, run.setting.precision, routed)
        groups.setdefault(kind, []).append(row)
    found = []
    for (name, accelerator_name, precision, routed), rows in groups.items():
        works, shapes, plans, machines, measured, sources, asked_all = zip(*rows, strict=True)
        found.append(
            Runs(
                stack=name,
                routed=routed,
                device=measured_device(accelerator_name),
                work=stacked(works),
                shape=stacked(shapes),
                plan=stacked(plans),
                machine=stacked(machines),
                kernels=kernel_device(asked_all[0].fleet.node.accelerator, precision, stack(name).fused_quantisation),
                measured_s=np.array(measured),
                sources=sources,
            )
        )
    return found


def training_anchors(root: Path, role: str) -> list[Anchor]:
    """The training cases of ``role`` that come from tables of runs."""
    files = [path for path in anchor_files(root) if path.parent.name == "training"]
    return [anchor for path in files for anchor in load(path) if anchor.case.run and anchor.case.role == role]


def fit_all(root: Path) -> Calibration:
    """The calibration's entries, fitted to the calibration cases under ``root``."""
    tables = all_stated()
    found = fitted(gathered(training_anchors(root, "calibration")), tables)
    _note(tables, found, root)
    return tables


def stated(file: str) -> Tables:
    """A file of coefficients as it is."""
    return packaged_toml("calibration", file)


def all_stated() -> Calibration:
    """All files as they are."""
    return {Path(file).stem: stated(file) for file in FILES}


def fitted(runs: Sequence[Runs], tables: Calibration) -> tuple[str, ...]:
    """Fits what ``runs`` identify, and writes it into ``tables``; what they do not stays as it is stated there.

    Runs without experts set the clocks and what all runs have; what only experts have is fitted to the others after that.
    Returns the keys of ``free`` that ended at their bound.
    """
    at_bound: list[str] = []
    for routed in (False, True):
        chosen = [run for run in runs if run.routed == routed]
        coefficients = free(runs, tables, routed)
        if not coefficients:
            continue
        found = fit(_steps(chosen, tables), measured(chosen), coefficients, _weights(chosen), pull=_PULL)
        at_bound += found.at_bound
        for key, value in found.values.items():
            name, part = key.split(" ")
            entry = tables["shared"][part] if name == "shared" else tables["devices" if part == "clock" else "stacks"][name]
            entry["value" if name == "shared" else part] = float(f"{value:.4g}")
    return tuple(at_bound)


def _steps(runs: Sequence[Runs], tables: Calibration) -> Callable[[Mapping[str, float]], Times]:
    return lambda values: predicted(runs, tables, values)


def free(runs: Sequence[Runs], tables: Calibration, routed: bool) -> dict[str, Coefficient]:
    """What is fitted to those of ``runs`` with experts (``routed``) or to those without, with its range.

    Keys are "device clock", "stack coefficient" and "shared coefficient".
    """
    stacks, devices = tables["stacks"], tables["devices"]
    used = {name for run in runs if run.routed == routed for name in lineage(stacks, run.stack)}
    own = {
        f"{name} {part}": RANGES[part]
        for name in stacks
        if name in used
        for part in stacks[name].get("fit", [])
        if (part in EXPERT_PARTS) == routed
    }
    if routed:
        return own
    clocks = {f"{name} clock": CLOCK for name in devices if clock_rows(runs, name) >= _LEAST_CLOCK_ROWS}
    common = {
        f"shared {name}": Coefficient(entry["value"], entry["low"], entry["high"])
        for name, entry in tables["shared"].items()
        if entry["basis"] == "fitted"
    }
    return clocks | own | common


def identified(runs: Sequence[Runs], tables: Calibration) -> frozenset[str]:
    """Keys of all that is fitted to ``runs``."""
    return frozenset(free(runs, tables, routed=False)) | frozenset(free(runs, tables, routed=True))


def clock_rows(runs: Iterable[Runs], device: str) -> int:
    """Runs that set the clock of ``device``."""
    return sum(len(run.measured_s) for run in runs if run.device == device and not run.routed)


def lineage(stacks: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """A stack and those that it takes coefficients from."""
    parent = stacks[name].get("like")
    return [name, *lineage(stacks, parent)] if parent else [name]


def predicted(runs: Iterable[Runs], tables: Calibration, values: Mapping[str, float]) -> Times:
    """Steps of all ``runs``; ``values`` (keys as of ``free``) stand before those of ``tables``."""
    shared = SharedCoefficients(
        **{part.name: values.get(f"shared {part.name}", tables["shared"][part.name]["value"]) for part in _SHARED}
    )
    steps = []
    for run in runs:
        clock = values.get(f"{run.device} clock", tables["devices"][run.device]["clock"])
        steps.append(run.step_s(_coefficients(tables["stacks"], run.stack, values), clock, shared))
    return np.concatenate(steps)


_SHARED = fields(SharedCoefficients)


def _coefficients(stacks: Mapping[str, Mapping[str, Any]], name: str, values: Mapping[str, float]) -> StackCoefficients:
    trial = {stack_name: dict(entry) for stack_name, entry in stacks.items()}
    for key, value in values.items():
        stack_name, part = key.split(" ")
        if stack_name in trial:
            trial[stack_name][part] = value
    entry = resolved(trial, name)
    return StackCoefficients(**{part.name: entry[part.name] for part in fields(StackCoefficients) if part.name in entry})


def measured(runs: Iterable[Runs]) -> Times:
    """Measured steps of all ``runs``."""
    return np.concatenate([run.measured_s for run in runs])


def _weights(runs: Iterable[Runs]) -> Times:
    sources = [source for run in runs for source in run.sources]
    return np.array([min(1.0, (_FULL_WEIGHT_ROWS / sources.count(source)) ** 0.5) for source in sources])


def _note(tables: Calibration, at_bound: Sequence[str], root: Path) -> None:
    """Writes beside each stack and clock what it was fitted to, how well, and what ended at its bound."""
    by_role = {role: gathered(training_anchors(root, role)) for role in ("calibration", "validation")}
    for name, entry in tables["shared"].items():
        entry.pop("at_bound", None)
        if f"shared {name}" in at_bound:
            entry["at_bound"] = True
    for file, attribute in (("stacks", "stack"), ("devices", "device")):
        for name, entry in tables[file].items():
            for stale in ("points", "calibration", "validation", "at_bound"):
                entry.pop(stale, None)
            entry["at_bound"] = [key.split(" ")[1] for key in at_bound if key.split(" ")[0] == name]
            for role, runs in by_role.items():
                chosen = [run for run in runs if getattr(run, attribute) == name]
                if chosen:
                    errors = ErrorStatistics.of(predicted(chosen, tables, {}), measured(chosen))
                    entry[role] = {part.name: getattr(errors, part.name) for part in fields(errors)}
    for name, entry in tables["devices"].items():
        entry["fitted"] = clock_rows(by_role["calibration"], name) >= _LEAST_CLOCK_ROWS
        if entry["fitted"]:
            entry["source"] = "fitted to the calibration rows of anchors/training that ran on it"


def main(root: Path) -> None:
    """Fits, and writes the files."""
    for name, tables in fit_all(root).items():
        write_tables(f"{name}.toml", tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
