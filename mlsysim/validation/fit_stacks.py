"""Fits stacks, sustained clocks and what they share to training runs: ``python -m mlsysim.validation.fit_stacks anchors``.

Reads the calibration cases of ``anchors/training`` and no others; writes ``calibration/stacks.toml``, ``devices.toml`` and
``shared.toml``. What is fitted of a stack is named in its entry (``fit``); everything else there is stated and stays.
"""

from __future__ import annotations

import functools
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mlsysim.calibration.fitting import Coefficient, ErrorStatistics, Fit, Times, fit
from mlsysim.calibration.stacks import measured_device, resolved, stack
from mlsysim.calibration.toml_text import toml_tables
from mlsysim.physics.kernel_step import KernelDevice, LayerShape, SharedCoefficients, StackCoefficients
from mlsysim.physics.plan import Plan
from mlsysim.physics.training import Machine
from mlsysim.physics.work import LayeredWork
from mlsysim.solvers.distributed import with_recompute
from mlsysim.solvers.distributed_input import TrainingSetting, check_plan, check_setting
from mlsysim.solvers.kernel_lowering import kernel_device, layer_shape, stack_step
from mlsysim.solvers.lowering import training_work
from mlsysim.solvers.training_table import TrainingQuestion, question
from mlsysim.validation.loading import Anchor, anchor_files, load

T = TypeVar("T")
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
}
CLOCK = Coefficient(0.85, 0.6, 1.05)
# A source counts as at most this many rows: a sweep of hundreds would else set every shared clock alone.
_FULL_WEIGHT_ROWS = 10.0
# What a coefficient costs a whole range away from its start, as an error of one row: one that no row identifies stays there.
_PULL = 0.03
STACKS = "stacks.toml"
FILES = (STACKS, "devices.toml", "shared.toml")
# A device with fewer calibration rows keeps its prior clock.
_LEAST_CLOCK_ROWS = 3


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of one stack on one accelerator at one precision, as arrays; compared by identity, so that steps are kept by it."""

    stack: str
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


def stacked(items: Iterable[T]) -> T:
    """Records of floats as one record of arrays."""
    rows = list(items)
    kind: Any = type(rows[0])
    return kind(**{part.name: np.array([float(getattr(row, part.name)) for row in rows]) for part in fields(kind)})  # type: ignore[no-any-return]


def prepared(asked: TrainingQuestion) -> tuple[TrainingSetting, LayeredWork, Plan]:
    """A question checked and lowered, as ``DistributedModel.solve`` does."""
    given = [
        {name: asked.arguments[name] for name in signature(check).parameters if name in asked.arguments} for check in _CHECKS
    ]
    setting = check_setting(asked.workload, asked.fleet, **given[0])
    work = training_work(setting.workload, setting.seq_len)
    return setting, work, with_recompute(work, check_plan(setting, **given[1]), setting)[0]


_CHECKS = (check_setting, check_plan)


def measured_step_s(anchor: Anchor, asked: TrainingQuestion) -> float:
    """What the case measured, as the time of one step."""
    value = float(anchor.case.value or 0.0)
    if anchor.case.metric == "step_latency_total":
        return value
    tokens = asked.arguments["batch_size"] * asked.arguments["seq_len"]
    return float(tokens / value / asked.fleet.accelerators)


def gathered(anchors: Iterable[Anchor]) -> list[Runs]:
    """The runs of ``anchors``, grouped so that each group shares its kernels."""
    groups: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}
    for anchor in anchors:
        asked = question(anchor.case.run)
        setting, work, plan = prepared(asked)
        accelerator = asked.fleet.node.accelerator
        shape = layer_shape(asked.workload, setting.seq_len, setting.attention, accelerator, stack(asked.arguments["stack"]))
        row = (work, shape, plan, setting.machine(), measured_step_s(anchor, asked), anchor.source.key, asked)
        groups.setdefault((asked.arguments["stack"], accelerator.name, setting.precision), []).append(row)
    found = []
    for (name, accelerator_name, precision), rows in groups.items():
        works, shapes, plans, machines, measured, sources, asked_all = zip(*rows, strict=True)
        found.append(
            Runs(
                stack=name,
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
    return tomllib.loads((resources.files("mlsysim.calibration") / file).read_text("utf-8"))


def all_stated() -> Calibration:
    """All files as they are."""
    return {Path(file).stem: stated(file) for file in FILES}


def fitted(runs: Sequence[Runs], tables: Calibration) -> Fit:
    """Fits what ``runs`` identify, and writes it into ``tables``; what they do not stays as it is stated there."""
    coefficients = free(runs, tables)
    found = fit(lambda values: predicted(runs, tables, values), measured(runs), coefficients, _weights(runs), pull=_PULL)
    for key, value in found.values.items():
        name, part = key.split(" ")
        entry = tables["shared"][part] if name == "shared" else tables["devices" if part == "clock" else "stacks"][name]
        entry["value" if name == "shared" else part] = float(f"{value:.4g}")
    return found


def free(runs: Sequence[Runs], tables: Calibration) -> dict[str, Coefficient]:
    """What is fitted to ``runs``: "device clock", "stack coefficient" and "shared coefficient", with their ranges."""
    stacks, devices = tables["stacks"], tables["devices"]
    rows = {name: sum(len(run.measured_s) for run in runs if run.device == name) for name in devices}
    clocks = {f"{name} clock": CLOCK for name in devices if rows[name] >= _LEAST_CLOCK_ROWS}
    used = {name for run in runs for name in lineage(stacks, run.stack)}
    own = {f"{name} {part}": RANGES[part] for name in stacks if name in used for part in stacks[name].get("fit", [])}
    common = {
        f"shared {name}": Coefficient(entry["value"], entry["low"], entry["high"])
        for name, entry in tables["shared"].items()
        if entry["basis"] == "fitted"
    }
    return clocks | own | common


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


def _note(tables: Calibration, found: Fit, root: Path) -> None:
    """Writes beside each stack and clock what it was fitted to, how well, and what ended at its bound."""
    by_role = {role: gathered(training_anchors(root, role)) for role in ("calibration", "validation")}
    for name, entry in tables["shared"].items():
        entry.pop("at_bound", None)
        if f"shared {name}" in found.at_bound:
            entry["at_bound"] = True
    for file, attribute in (("stacks", "stack"), ("devices", "device")):
        for name, entry in tables[file].items():
            for stale in ("points", "calibration", "validation", "at_bound"):
                entry.pop(stale, None)
            entry["at_bound"] = [key.split(" ")[1] for key in found.at_bound if key.split(" ")[0] == name]
            for role, runs in by_role.items():
                chosen = [run for run in runs if getattr(run, attribute) == name]
                if chosen:
                    errors = ErrorStatistics.of(predicted(chosen, tables, {}), measured(chosen))
                    entry[role] = {part.name: getattr(errors, part.name) for part in fields(errors)}
    for entry in tables["devices"].values():
        entry["fitted"] = entry.get("calibration", {}).get("points", 0) >= _LEAST_CLOCK_ROWS
        if entry["fitted"]:
            entry["source"] = "fitted to the calibration rows of anchors/training that ran on it"


def write_tables(name: str, tables: Tables) -> None:
    """Writes a file beside the code that reads it, under the comment that it has."""
    path = Path(__file__).parents[1] / "calibration" / name
    header = "\n".join(line[2:] for line in path.read_text("utf-8").splitlines() if line.startswith("# "))
    path.write_text(toml_tables(tables, header), encoding="utf-8")


def main(root: Path) -> None:
    """Fits, and writes the files."""
    for name, tables in fit_all(root).items():
        write_tables(f"{name}.toml", tables)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
