"""Exhausting a space of plans in bounded memory: counts, the best, and the front of time against memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysim.core.errors import InputError
from mlsysim.lowering.training_kernels import step_time
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.lowering.work import training_work
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.numeric import Floats
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.memory import fullest_rank_B
from mlsysim.solvers.training.distributed import with_recompute
from mlsysim.solvers.training.objective import Objective
from mlsysim.solvers.training.plan_space import Block, Choices, Split, blocks, tasks

# What is kept of a plan that was evaluated: fields of the plan, and figures.
COLUMNS = (
    *("tp", "pp", "dp", "cp", "ep", "expert_tp", "shard_copies", "virtual_stages", "micro_batches", "micro_batch_tokens"),
    *("schedule", "zero_stage", "sequence_parallel", "recompute", "cost", "step_s", "memory_B"),
)
# Rows of a task: some milliseconds of work, so that workers end together and a processor's cache holds a roofline's arrays.
_TASK_ROWS = 2048
# Rows of a task on a stack in one process, and the most that are computed together: plans share the kernels of their layers,
# more of them in a larger block, until its arrays cost more than that saves.
_STACK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Question:
    """The question of a search, in a form that it hands to other processes.

    Attributes:
        budget_B: most memory of a rank.
        kept: plans to rank.
    """

    setting: TrainingSetting
    choices: Choices
    objective: Objective
    budget_B: float
    kept: int


@dataclass(frozen=True, slots=True)
class Found:
    """The plans found in a part of a space, and their counts.

    Attributes:
        legal: plans that are possible at all.
        evaluated: of these, plans whose memory and step time were computed: a row of plans of which none fits is left out.
        feasible: those that fit.
        best: columns of ``COLUMNS``: the cheapest, cheapest first.
        front: those that no other beats in both cost and memory.
        least_B: least memory of any legal plan.
    """

    legal: int
    evaluated: int
    feasible: int
    best: Floats
    front: Floats
    least_B: float

    def with_(self, other: Found, kept: int) -> Found:
        """Both parts together."""
        return Found(
            self.legal + other.legal,
            self.evaluated + other.evaluated,
            self.feasible + other.feasible,
            _cheapest(np.concatenate([self.best, other.best], axis=1), kept),
            _front(np.concatenate([self.front, other.front], axis=1)),
            min(self.least_B, other.least_B),
        )


NOTHING = Found(0, 0, 0, np.empty((len(COLUMNS), 0)), np.empty((len(COLUMNS), 0)), float("inf"))


def _cheapest(columns: Floats, kept: int) -> Floats:
    cost, memory_B = columns[-3], columns[-1]
    chosen: Floats = columns[:, np.lexsort((memory_B, cost))[:kept]]
    return chosen


def _front(columns: Floats) -> Floats:
    """The plans with less memory than every cheaper one."""
    ordered = columns[:, np.lexsort((columns[-1], columns[-3]))]
    least = np.minimum.accumulate(ordered[-1])
    chosen: Floats = ordered[:, np.append(True, ordered[-1][1:] < least[:-1])[: ordered.shape[1]]]
    return chosen


def searched(question: Question, parts: Sequence[Split]) -> Found:
    """The plans of ``parts``: what one worker does."""
    work = training_work(question.setting.workload, question.setting.seq_len, question.setting.adapters)
    result = NOTHING
    for block in blocks(question.setting, question.choices, parts, _STACK_ROWS):
        result = result.with_(_evaluated(question, work, block), question.kept)
    return result


def _evaluated(question: Question, work: LayeredWork, block: Block) -> Found:
    legal = int(block.legal.sum())
    if not legal:
        return NOTHING
    plan, memory_B = memory_of(question, work, block)
    least_B = float(memory_B[block.legal].min())
    fits = block.legal & (memory_B <= question.budget_B)
    rows: npt.NDArray[np.bool_] = np.asarray(fits.any(axis=(1, 2)))
    if not rows.any():
        return replace(NOTHING, legal=legal, least_B=least_B)
    kept = replace(block, plan=plan).kept(rows)
    plan, fits, memory_B = kept.plan, fits[rows], memory_B[rows]
    cost, step_s = cost_of(question, work, kept)
    which = np.flatnonzero(fits)
    best, front = _worth_keeping(cost.ravel()[which], memory_B.ravel()[which], question.kept)
    columns = (*(np.broadcast_to(getattr(plan, name), fits.shape) for name in COLUMNS[:-3]), cost, step_s, memory_B)

    def taken(chosen: npt.NDArray[np.intp]) -> Floats:
        where = np.unravel_index(which[chosen], fits.shape)
        return np.stack([column[where] for column in columns])

    return Found(legal, int(kept.legal.sum()), which.size, taken(best), taken(front), least_B)


def _worth_keeping(cost: Floats, memory_B: Floats, kept: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Which are the cheapest ``kept``, and which the front of cost and memory."""
    order = np.argsort(cost, kind="stable")
    least = np.minimum.accumulate(memory_B[order])
    ahead = np.append(True, memory_B[order][1:] < least[:-1])
    # Plans of the same cost: the one with the least memory comes first.
    tied = order[: np.searchsorted(cost[order], cost[order][min(kept, order.size) - 1], side="right")]
    return tied[np.lexsort((memory_B[tied], cost[tied]))[:kept]], order[ahead]


def memory_of(question: Question, work: LayeredWork, block: Block) -> tuple[Plan, Floats]:
    """The plans with their recompute mode, where that is to be the cheapest that fits, and bytes of the fullest rank."""
    setting, plan = question.setting, block.plan
    if question.choices.recompute is None:
        plan, memory = with_recompute(work, plan, setting, question.budget_B)
        total_B = memory.total_B
    else:
        total_B = fullest_rank_B(work, plan, setting.memory_terms)
    return plan, np.broadcast_to(np.asarray(total_B, dtype=float), block.legal.shape)


def cost_of(question: Question, work: LayeredWork, block: Block) -> tuple[Floats, Floats]:
    """What the objective makes least, and seconds of a step."""
    step_s = np.asarray(step_time(work, block.plan, question.setting).total_s, dtype=float)
    cost = np.asarray(question.objective.cost(step_s, block.plan.ranks), dtype=float)
    return np.broadcast_to(cost, block.legal.shape), np.broadcast_to(step_s, block.legal.shape)


def exhausted(
    question: Question, parts: Sequence[Split], executor: Executor | None = None, progress: bool | None = None
) -> tuple[Found, bool]:
    """All of ``parts``, and whether the search came to its end: an interrupt (Ctrl-C) returns what was found before it.

    Parts run in this process, or by an ``executor`` of ``concurrent.futures``, as Dask's and Ray's pools are too. A bar shows
    on a terminal after a second, unless ``progress`` says otherwise.
    """
    alone_on_stack = executor is None and question.setting.stack is not None
    lists = tasks(question.setting, question.choices, parts, _STACK_ROWS if alone_on_stack else _TASK_ROWS)
    result = NOTHING
    with _bar(len(lists), progress) as bar:
        try:
            for part in _answers(question, lists, executor):
                result = result.with_(part, question.kept)
                bar.update()
        except KeyboardInterrupt:
            return result, False
    return result, True


def _answers(question: Question, tasks: Sequence[Sequence[Split]], executor: Executor | None) -> Iterator[Found]:
    if executor is None:
        yield from (searched(question, task) for task in tasks)
        return
    try:
        waiting = [executor.submit(searched, question, task) for task in tasks]
    except RuntimeError:
        raise InputError("executor", type(executor).__name__, "one that takes work: this one was shut down") from None
    try:
        for future in waiting:
            yield future.result()
    finally:
        for future in waiting:
            future.cancel()


class _NoBar:
    def update(self) -> None:
        """Nothing to show."""


@contextmanager
def _bar(tasks: int, progress: bool | None) -> Iterator[Any]:
    """A bar of tqdm where that is installed (extra ``cli``): None as its ``disable`` means off where there is no terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield _NoBar()
        return
    with tqdm(total=tasks, unit="part", delay=1.0, disable=None if progress is None else not progress) as bar:
        yield bar
