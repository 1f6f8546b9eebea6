"""Plans that a search found, for people: their fields by name, and why the best one wins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlsysim.core.units import in_gib, with_unit
from mlsysim.lowering.work import training_work
from mlsysim.physics.layer.work import RECOMPUTE_MODES
from mlsysim.physics.numeric import Floats
from mlsysim.physics.plan import SCHEDULES
from mlsysim.solvers.result import Result
from mlsysim.solvers.training.plan_space import ROWS, Choices, block, rows, splits
from mlsysim.solvers.training.search import COLUMNS, Question, cost_of, memory_of

# A schedule and its chunks change together.
_TOGETHER = {"virtual_stages": ("virtual_stages", "schedule")}
_ROW_DIMENSIONS = ("tp", "pp", "cp", "ep", "virtual_stages", "micro_batch", "sequence_parallel")
_MODE_DIMENSIONS = ("recompute", "zero_stage")


@dataclass(frozen=True, kw_only=True)
class SearchedResult(Result):
    """An answer of a search over plans, with how many there were.

    Attributes:
        total_space: plans before legality: every factorization of the fleet times every other choice.
        total_legal: plans that are possible at all; the memory of each is computed.
        total_evaluated: legal plans whose step time is computed too. The others are left out before: neither they nor any plan
            that differs from them in its recompute mode or ZeRO stage alone fits in memory.
        total_feasible: plans that fit.
        total_searched: ``total_legal``, under its older name.
    """

    total_space: int
    total_legal: int
    total_evaluated: int
    total_feasible: int
    total_searched: int


# How many plans there were, from the whole space to those that fit.
COUNTS = ("total_space", "total_legal", "total_evaluated", "total_feasible", "total_searched")


def plan_of(column: Floats) -> dict[str, Any]:
    """A column of ``COLUMNS`` as a plan in the field's terms."""
    row: dict[str, Any] = {name: int(value) for name, value in zip(COLUMNS[:-3], column, strict=False)}
    row["recompute"] = RECOMPUTE_MODES[row["recompute"]]
    row["schedule"] = SCHEDULES[row["schedule"]]
    row["sequence_parallel"] = bool(row["sequence_parallel"])
    return row


def found_row(column: Floats) -> dict[str, Any]:
    """A column of ``COLUMNS`` as a plan in the field's terms, with its step time and memory."""
    step_s, memory_B = (float(value) for value in column[-2:])
    return {**plan_of(column), "step_latency": with_unit(step_s, "second"), "memory": with_unit(memory_B, "byte")}


def nearest_alternatives(question: Question, best: Floats) -> Iterator[dict[str, Any]]:
    """The next smaller and larger value of each open dimension of the best plan, and what it costs or needs.

    Nothing else changes, but DP and the number of micro-batches, which follow. ``slower`` is the cost over the best plan's,
    less one.
    """
    best_plan = _dimensions_of(question, best)
    values: dict[str, Any] = {name: (value,) for name, value in best_plan.items()}
    pinned = replace(question.choices, **values, dp=None)
    for names in (_ROW_DIMENSIONS, ("recompute",), ("zero_stage",)):
        yield from _one_changed(question, pinned, best_plan, [name for name in names if _is_open(question.choices, name)], best)


def _dimensions_of(question: Question, best: Floats) -> dict[str, Any]:
    """The best plan's value of each dimension."""
    field = dict(zip(COLUMNS, best, strict=True))
    names = (*_ROW_DIMENSIONS, *_MODE_DIMENSIONS, "schedule")
    plan: dict[str, Any] = {name: int(field[name]) for name in names if name in field}
    plan["micro_batch"] = int(field["micro_batch_tokens"] * field["cp"]) // question.setting.seq_len
    plan["sequence_parallel"] = bool(field["sequence_parallel"])
    return plan


def _is_open(choices: Choices, name: str) -> bool:
    fixed = getattr(choices, name)
    if name in ("recompute", "sequence_parallel"):
        return fixed is not None and len(fixed) > 1
    return fixed is None or len(fixed) > 1


def _one_changed(
    question: Question, pinned: Choices, best_plan: Mapping[str, Any], names: list[str], best: Floats
) -> Iterator[dict[str, Any]]:
    """The alternatives of some dimensions, evaluated together."""
    if not names:
        return
    setting, labels, columns = question.setting, [], []
    freed = pinned
    for name in names:
        freed = replace(pinned, **{part: getattr(question.choices, part) for part in _TOGETHER.get(name, (name,))})
        changed = rows(setting, freed, splits(setting, freed))
        columns.append(changed)
        labels += [name] * changed.shape[1]
    # Recompute modes and ZeRO stages are axes of the block, freed one at a time.
    tried = block(setting, freed if names[0] in _MODE_DIMENSIONS else pinned, np.concatenate(columns, axis=1))
    work = training_work(setting.workload, setting.seq_len, setting.adapters)
    plan, memory_B = memory_of(question, work, tried)
    cost, step_s = cost_of(question, work, replace(tried, plan=plan))
    fields = [np.broadcast_to(getattr(plan, name), cost.shape) for name in COLUMNS[:-3]]
    for name in names:
        of_name = tried.legal & np.array([label == name for label in labels])[:, None, None]
        values = dict(zip(ROWS, np.concatenate(columns, axis=1), strict=True)).get(name)
        shown = np.broadcast_to(getattr(plan, name) if values is None else values[:, None, None], cost.shape)
        for value in _neighbours(shown[of_name], float(best_plan[name])):
            where = np.argwhere(of_name & (shown == value))
            fitting = [tuple(at) for at in where if memory_B[tuple(at)] <= question.budget_B]
            at = min(fitting or [tuple(at) for at in where], key=lambda at: cost[at] if fitting else memory_B[at])
            column = np.array([*(field[at] for field in fields), cost[at], step_s[at], memory_B[at]])
            yield {
                "changed": name,
                "value": _shown(name, value),
                "instead_of": _shown(name, best_plan[name]),
                "fits": bool(fitting),
                "slower": float(cost[at] / best[-3] - 1),
                **found_row(column),
            }


def _neighbours(values: Floats, value: float) -> list[float]:
    """The next smaller and the next larger value."""
    smaller, larger = values[values < value], values[values > value]
    return [*(float(part.max()) for part in [smaller] if part.size), *(float(part.min()) for part in [larger] if part.size)]


def _shown(name: str, value: float) -> Any:
    if name == "recompute":
        return RECOMPUTE_MODES[int(value)]
    return bool(value) if name == "sequence_parallel" else int(value)


def in_words(row: Mapping[str, Any], budget_B: float) -> str:
    """An alternative as a sentence."""
    what = f"{row['changed']} {row['value']} instead of {row['instead_of']}"
    if not row["fits"]:
        return f"{what}: does not fit ({in_gib(row['memory'].m_as('byte'))}, {in_gib(budget_B)} usable)"
    return f"{what}: {100 * row['slower']:+.1f} %"
