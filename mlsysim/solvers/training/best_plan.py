"""What a search says of its best plan: the arguments that make it, what the whole training takes, and what would be faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsysim.core.checks import by_either_name, positive_quantity
from mlsysim.core.units import Quantity, with_unit
from mlsysim.solvers.training.distributed import DistributedResult
from mlsysim.solvers.training.objective import Objective, token_count

# Fields of the best plan's result that the search's result has, too.
_OF_THE_BEST = (
    *("binding", "breakdown", "coefficients", "facts", "step_latency_total"),
    *("tokens_per_second", "mfu", "memory_per_accelerator", "memory_free"),
)
# What a plan calls as ``DistributedModel.solve`` does.
_SPLIT = (
    *("tp", "pp", "cp", "ep", "virtual_stages", "micro_batches"),
    *("schedule", "sequence_parallel", "recompute", "zero_stage"),
)
# Parts of a step that are arithmetic: nothing can hide them.
_ARITHMETIC = ("compute", "recompute")
# Parts that take less of the step than this are not worth a word, and as many of the others are told of.
_WORTH_A_WORD, _MOST_PARTS = 0.005, 3


def whole_training(
    tokens: object, train_tokens: object, price: object, accelerator_price: object
) -> tuple[float | None, float | None]:
    """Tokens of the whole training and USD an hour of one accelerator, each by either of its names; None where not given.

    Raises:
        InputError: one is no such quantity, or its names have different values.
    """
    hourly = by_either_name(_usd_per_hour, accelerator_price=accelerator_price, price=price)
    return by_either_name(token_count, train_tokens=train_tokens, tokens=tokens), hourly


def _usd_per_hour(name: str, value: object) -> float:
    return positive_quantity(name, value, "USD/hour")


def best_figures(
    best: DistributedResult, accelerators: int, goal: Objective, tokens: float | None, usd_per_hour: float | None
) -> dict[str, Any]:
    """Fields of a search's result about its best plan."""
    told: dict[str, Any] = best.taken(*_OF_THE_BEST) | {"faster": what_would_be_faster(best)}
    if tokens is None:
        return told
    step_s = float(best.step_latency_total.m_as("second"))
    seconds = goal.training.duration_s(step_s, goal.step_tokens, accelerators) if goal.training else None
    duration: Quantity = with_unit(step_s * tokens / goal.step_tokens if seconds is None else float(seconds), "second")
    told["duration"] = duration
    if usd_per_hour is not None:
        told["cost"] = with_unit(float(duration.m_as("hour")) * accelerators * usd_per_hour, "USD")
    return told


def what_would_be_faster(best: DistributedResult) -> str:
    """The largest parts of a step beside its arithmetic, and how short it would be without them."""
    seconds: Mapping[str, float] = {name: float(part.m_as("second")) for name, part in best.breakdown.items()}
    whole_s = sum(seconds.values())
    beside = {name: part for name, part in seconds.items() if name not in _ARITHMETIC and part > _WORTH_A_WORD * whole_s}
    largest = sorted(beside, key=lambda name: -beside[name])[:_MOST_PARTS]
    repeated = seconds.get("recompute", 0.0) / whole_s
    told = []
    if largest:
        gained = sum(beside[name] for name in largest) / whole_s
        listed = ", ".join(f"{name.replace('_', ' ')} {100 * beside[name] / whole_s:.1f} %" for name in largest)
        told.append(f"by {100 * gained:.1f} % at most without {listed}")
    if repeated > _WORTH_A_WORD:
        told.append(f"by {100 * repeated:.1f} % if nothing were recomputed")
    arithmetic_s = sum(seconds.get(name, 0.0) for name in _ARITHMETIC)
    told.append(f"what computes reaches {100 * best.mfu * whole_s / arithmetic_s:.0f} % of the peak")
    return "; ".join(told)


def solve_arguments(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``DistributedModel.solve`` that make a plan."""
    shared = {"expert_tp_size": plan["expert_tp"] or None, "shard_size": plan["dp"] // plan["shard_copies"]}
    return {name: plan[name] for name in _SPLIT} | shared


def best_config(best: DistributedResult, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The best plan in the field's terms, and what else ``DistributedModel.solve`` needs to make it.

    Args:
        best: the plan's own result.
        plan: as a search ranks it.
    """
    apart = {"expert_tp_size": plan["expert_tp"]} if plan["expert_tp"] else {}
    shards = {"shard_size": plan["dp"] // plan["shard_copies"]} if plan["shard_copies"] > 1 else {}
    return {**best.plan, **apart, **shards}
