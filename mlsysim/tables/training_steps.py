"""Memory and steps of the training runs that rows of a table ask for, computed together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlsysim.physics.records import floats, unstacked
from mlsysim.physics.training.memory import MemoryUse
from mlsysim.solvers.training.distributed import with_recompute
from mlsysim.solvers.training.together import CheckedRun, checked_run, compute_together
from mlsysim.tables.training import TrainingQuestion, question


@dataclass(frozen=True, slots=True)
class LoweredRun(CheckedRun):
    """A checked run, and the question that a row asks of it."""

    asked: TrainingQuestion


@dataclass(frozen=True, slots=True)
class RunStep:
    """The outcome of a run: seconds of a step, its recompute mode (an index of ``RECOMPUTE_MODES``), and its memory."""

    seconds: float
    recompute: int
    memory: MemoryUse


def lowered(asked: TrainingQuestion) -> LoweredRun:
    """``asked``, ready to be computed; a recompute mode that it leaves open still is.

    Raises:
        InputError: as ``DistributedModel.solve``.
    """
    run = checked_run(asked.workload, asked.fleet, asked.arguments)
    return LoweredRun(run.setting, run.work, run.plan, run.shape, asked)


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


def run_steps(runs: Sequence[LoweredRun]) -> list[RunStep]:
    """The outcome of each of ``runs``."""
    steps: dict[int, RunStep] = {}
    for group in compute_together(runs):
        count = len(group.places)
        columns = (floats(group.step.total_s, count), floats(group.plan.recompute, count), unstacked(group.memory, count))
        for place, seconds, recompute, memory in zip(group.places, *columns, strict=True):
            steps[place] = RunStep(seconds, int(recompute), memory)
    return [steps[place] for place in range(len(runs))]
