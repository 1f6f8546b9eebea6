"""Many training questions answered at once: those on one stack, accelerator and precision share a call of the physics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlsysim.calibration.stacks import stack
from mlsysim.core.errors import MLSysError
from mlsysim.core.spec import Spec
from mlsysim.lowering.training_kernels import kernel_device, setting_shape, stack_step
from mlsysim.lowering.training_plan import training_step
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.lowering.work import training_work
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.plan import Plan
from mlsysim.physics.records import floats, stacked, unstacked
from mlsysim.physics.training import roofline_step
from mlsysim.physics.training.memory import MemoryUse
from mlsysim.physics.training.step import StepTime
from mlsysim.physics.training.step_inputs import TrainedShape
from mlsysim.solvers.training.distributed import DistributedResult, distributed_result, with_recompute


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A question checked and lowered as ``DistributedModel.solve`` does it; its memory and step are still to be computed.

    ``shape`` is None without a stack: only calibrated kernels look at it.
    """

    setting: TrainingSetting
    work: LayeredWork
    plan: Plan
    shape: TrainedShape | None


@dataclass(frozen=True, slots=True)
class ComputedRuns:
    """Memory and steps of some runs as arrays; ``places`` says which runs of the question's they are."""

    places: list[int]
    plan: Plan
    memory: MemoryUse
    step: StepTime


def checked_run(workload: object, fleet: object, arguments: Mapping[str, Any]) -> CheckedRun:
    """The run that ``DistributedModel.solve(workload, fleet, **arguments)`` would compute; an open recompute mode stays open.

    Raises:
        InputError: as ``DistributedModel.solve``.
    """
    setting, plan = training_step(workload, fleet, **arguments)
    work = training_work(setting.workload, setting.seq_len, setting.adapters)
    if setting.stack is None:
        return CheckedRun(setting, work, plan, None)
    known = stack(setting.stack)
    kernel_device(setting.fleet.node.accelerator, setting.precision, known)  # refuses what has none
    return CheckedRun(setting, work, plan, setting_shape(setting, known))


def compute_together(runs: Sequence[CheckedRun]) -> Iterator[ComputedRuns]:
    """Memory and step of each of ``runs``, in groups that share their kernels."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, run in enumerate(runs):
        groups.setdefault(_shared(run.setting), []).append(place)
    for places in groups.values():
        alike = [runs[place] for place in places]
        work = stacked(run.work for run in alike)
        plan, memory = with_recompute(work, stacked(run.plan for run in alike), alike[0].setting)
        yield ComputedRuns(places, plan, memory, _steps(alike, work, plan))


def _shared(setting: TrainingSetting) -> tuple[object, ...]:
    """The values that all runs of one call of the physics share; the rest of a question may differ from row to row."""
    machine = (id(setting.fleet.node.accelerator), setting.straggler_factor)
    return *machine, setting.stack, setting.precision, setting.attention, setting.overlap, setting.recompute is None


def _steps(runs: Sequence[CheckedRun], work: LayeredWork, plan: Plan) -> StepTime:
    setting, machine = runs[0].setting, stacked(run.setting.machine() for run in runs)
    if setting.stack is None:
        return roofline_step.training_step(work, plan, machine, setting.overlap)
    known = stack(setting.stack)
    device = kernel_device(setting.fleet.node.accelerator, setting.precision, known)
    shape = stacked(run.shape for run in runs if run.shape is not None)
    return stack_step(work, shape, plan, machine, device, known, setting.straggler_factor)


def train_together(questions: Sequence[tuple[Sequence[Spec], Mapping[str, Any]]]) -> list[DistributedResult | MLSysError]:
    """What ``DistributedModel.solve`` answers to each question, many times faster than one by one.

    Returns:
        A result for each question, or the error that ``solve`` would raise.

    Example:
        >>> from mlsysim import Fleet, Models, Systems
        >>> inputs = (Models.Language.Llama3_8B, Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8))
        >>> step, error = train_together([(inputs, {"batch_size": 128, "tp_size": tp}) for tp in (2, 3)])
        >>> step.plan["dp"], str(error)
        (32, 'tp_size = 3: expected a divisor of the 32 heads of Llama-3-8B')
    """
    answers: list[Any] = [_checked_or_error(inputs, arguments) for inputs, arguments in questions]
    places = [place for place, run in enumerate(answers) if isinstance(run, CheckedRun)]
    runs: list[CheckedRun] = [answers[place] for place in places]
    for group in compute_together(runs):
        count = len(group.places)
        rows = zip(
            group.places,
            floats(group.plan.recompute, count),
            unstacked(group.memory, count),
            unstacked(group.step, count),
            strict=True,
        )
        for place, recompute, memory, step in rows:
            run = runs[place]
            plan = replace(run.plan, recompute=recompute)
            answers[places[place]] = distributed_result(run.setting, run.work, plan, memory, step)
    return answers


def _checked_or_error(inputs: Sequence[Spec], arguments: Mapping[str, Any]) -> CheckedRun | MLSysError:
    try:
        workload, fleet = inputs
        return checked_run(workload, fleet, arguments)
    except MLSysError as error:
        return error
