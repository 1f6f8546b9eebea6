"""Steps of many training questions at once: those on one stack, accelerator and precision share their kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from inspect import signature
from typing import Any, TypeVar

import numpy as np

from mlsysim.calibration.stacks import stack
from mlsysim.physics.memory import MemoryUse
from mlsysim.physics.plan import Plan
from mlsysim.physics.step_inputs import LayerShape
from mlsysim.physics.work import LayeredWork
from mlsysim.solvers.distributed import with_recompute
from mlsysim.solvers.distributed_input import TrainingSetting, check_plan, check_setting
from mlsysim.solvers.kernel_lowering import kernel_device, setting_shape, stack_step
from mlsysim.solvers.lowering import training_work
from mlsysim.solvers.training_table import TrainingQuestion

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A question checked and lowered, as ``DistributedModel.solve`` does, its step still to be computed."""

    asked: TrainingQuestion
    setting: TrainingSetting
    work: LayeredWork
    plan: Plan
    memory: MemoryUse
    shape: LayerShape


def prepared(asked: TrainingQuestion) -> PreparedRun:
    """``asked``, ready for its step.

    Raises:
        InputError: as ``DistributedModel.solve``.
    """
    given = [{name: asked.arguments[name] for name in names if name in asked.arguments} for names in _ARGUMENTS]
    setting = check_setting(asked.workload, asked.fleet, **given[0])
    work = training_work(setting.workload, setting.seq_len, setting.lora_rank)
    plan, memory = with_recompute(work, check_plan(setting, **given[1]), setting)
    found = stack(asked.arguments["stack"])
    kernel_device(asked.fleet.node.accelerator, setting.precision, found.fused_quantisation)
    return PreparedRun(asked, setting, work, plan, memory, setting_shape(setting, found))


_ARGUMENTS = tuple(tuple(signature(check).parameters) for check in (check_setting, check_plan))


def stacked(items: Iterable[T]) -> T:
    """Records of floats as one record of arrays."""
    rows = list(items)
    kind: Any = type(rows[0])
    columns: dict[str, Any] = {}
    for part in fields(kind):
        values = [getattr(row, part.name) for row in rows]
        columns[part.name] = stacked(values) if is_dataclass(values[0]) else np.array(values, dtype=float)
    return kind(**columns)  # type: ignore[no-any-return]


def step_seconds(runs: Sequence[PreparedRun]) -> list[float]:
    """Seconds of a step of each of ``runs``."""
    groups: dict[tuple[str, int, str], list[int]] = {}
    for place, run in enumerate(runs):
        key = (run.asked.arguments["stack"], id(run.asked.fleet.node.accelerator), run.setting.precision)
        groups.setdefault(key, []).append(place)
    seconds = [0.0] * len(runs)
    for (name, _, precision), places in groups.items():
        chosen, found = [runs[place] for place in places], stack(name)
        step = stack_step(
            stacked(run.work for run in chosen),
            stacked(run.shape for run in chosen),
            stacked(run.plan for run in chosen),
            stacked(run.setting.machine() for run in chosen),
            kernel_device(chosen[0].asked.fleet.node.accelerator, precision, found.fused_quantisation),
            found,
        )
        for place, value in zip(places, np.asarray(step.total_s, dtype=float).tolist(), strict=True):
            seconds[place] = value
    return seconds
