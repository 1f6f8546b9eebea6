"""Memory and steps of many training questions at once: those on one stack, accelerator and precision share their kernels."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from mlsysim.calibration.stacks import stack
from mlsysim.lowering.training_kernels import kernel_device, setting_shape, stack_step
from mlsysim.lowering.training_plan import training_step
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.lowering.work import training_work
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.numeric import Num
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.memory import MEMORY_PARTS, MemoryUse
from mlsysim.physics.training.step_inputs import LayerShape
from mlsysim.solvers.training.distributed import with_recompute
from mlsysim.tables.training import TrainingQuestion, question

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoweredRun:
    """A question checked and lowered, as ``DistributedModel.solve`` does, its memory and step still to be computed."""

    asked: TrainingQuestion
    setting: TrainingSetting
    work: LayeredWork
    plan: Plan
    shape: LayerShape


@dataclass(frozen=True, slots=True)
class RunStep:
    """What a run comes to: seconds of a step, its recompute mode (an index of ``RECOMPUTE_MODES``), and what it holds."""

    seconds: float
    recompute: int
    memory: MemoryUse


def lowered(asked: TrainingQuestion) -> LoweredRun:
    """``asked``, ready to be computed; a recompute mode that it leaves open still is.

    Raises:
        InputError: as ``DistributedModel.solve``.
    """
    setting, plan = training_step(asked.workload, asked.fleet, **asked.arguments)
    work = training_work(setting.workload, setting.seq_len, setting.lora_rank)
    found = stack(asked.arguments["stack"])
    kernel_device(asked.fleet.node.accelerator, setting.precision, found.fused_quantisation)
    return LoweredRun(asked, setting, work, plan, setting_shape(setting, found))


def prepared(asked: TrainingQuestion) -> LoweredRun:
    """``asked``, its recompute mode chosen.

    Raises:
        InputError: as ``DistributedModel.solve``.
    """
    run = lowered(asked)
    return replace(run, plan=with_recompute(run.work, run.plan, run.setting)[0])


@functools.lru_cache(maxsize=8192)
def prepared_row(cells: tuple[tuple[str, str], ...]) -> LoweredRun:
    """The run that a row of a table asks for, by its cells: fits and their tests read the same rows many times over.

    Raises:
        InputError: as ``question`` and ``DistributedModel.solve``.
    """
    return prepared(question(dict(cells)))


def stacked(items: Iterable[T]) -> T:
    """Records of floats as one record of arrays."""
    rows = list(items)
    kind: Any = type(rows[0])
    columns: dict[str, Any] = {}
    for part in fields(kind):
        values = [getattr(row, part.name) for row in rows]
        columns[part.name] = stacked(values) if is_dataclass(values[0]) else np.array(values, dtype=float)
    return kind(**columns)  # type: ignore[no-any-return]


def run_steps(runs: Sequence[LoweredRun]) -> list[RunStep]:
    """What each of ``runs`` comes to."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, run in enumerate(runs):
        asked = run.setting
        key = (asked.stack, id(asked.fleet.node.accelerator), asked.precision, asked.attention, asked.recompute is None)
        groups.setdefault(key, []).append(place)
    found: dict[int, RunStep] = {}
    for places in groups.values():
        found.update(zip(places, _steps_alike([runs[place] for place in places]), strict=True))
    return [found[place] for place in range(len(runs))]


def _steps_alike(runs: Sequence[LoweredRun]) -> Iterator[RunStep]:
    """Steps of runs on one stack, accelerator, precision and attention kernel; all recompute modes are given, or none."""
    setting, found = runs[0].setting, stack(runs[0].asked.arguments["stack"])
    work = stacked(run.work for run in runs)
    plan, memory = with_recompute(work, stacked(run.plan for run in runs), setting)
    step = stack_step(
        work,
        stacked(run.shape for run in runs),
        plan,
        stacked(run.setting.machine() for run in runs),
        kernel_device(setting.fleet.node.accelerator, setting.precision, found.fused_quantisation),
        found,
    )
    columns = (step.total_s, plan.recompute, *(getattr(memory, part) for part in MEMORY_PARTS))
    for seconds, recompute, *sizes in zip(*(_floats(column, len(runs)) for column in columns), strict=True):
        yield RunStep(seconds, int(recompute), MemoryUse(*sizes))


def _floats(column: Num, count: int) -> list[float]:
    return np.broadcast_to(np.asarray(column, dtype=float), count).tolist()  # type: ignore[no-any-return]
