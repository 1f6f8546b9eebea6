"""Memory of one rank in training: what is resident, and what a step adds.

Sources: Rajbhandari et al., "ZeRO", 2020 (states); Korthikanti et al. 2022 (activations); Narayanan et al. 2021 (schedules).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from mlsysim.physics.numeric import Num, Truth, where
from mlsysim.physics.plan import Plan, held_by_first_stage, held_by_last_stage, stage_layers
from mlsysim.physics.sharding import first_stage_ends, last_stage_ends, rank_parameters
from mlsysim.physics.work import NONE, LayeredWork, kept_activation_B


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes on the fullest rank."""

    weights_B: Num
    gradients_B: Num
    optimizer_B: Num
    activations_B: Num
    buffers_B: Num

    @property
    def total_B(self) -> Num:
        """All of it."""
        return self.weights_B + self.gradients_B + self.optimizer_B + self.activations_B + self.buffers_B

    @property
    def static_B(self) -> Num:
        """What stays between steps: weights, gradients and optimizer states."""
        return self.weights_B + self.gradients_B + self.optimizer_B


MEMORY_PARTS = tuple(part.name for part in fields(MemoryUse))


def training_memory(work: LayeredWork, plan: Plan) -> MemoryUse:
    """Memory of the fullest rank: the first stage (most micro-batches in flight) or the last (output head and logits)."""
    full, least = stage_layers(work.layers, plan.pp)
    alone = where(plan.pp == 1, 1.0, 0.0)
    first = _stage_memory(work, plan, full, first_stage_ends(work, plan), held_by_first_stage(plan), alone)
    last = _stage_memory(work, plan, least, last_stage_ends(work, plan), held_by_last_stage(plan), 1.0)
    return choose(last.total_B > first.total_B, last, first)


def choose(condition: Truth, yes: MemoryUse, no: MemoryUse) -> MemoryUse:
    """``yes`` where ``condition`` holds, else ``no``."""
    return MemoryUse(*(where(condition, getattr(yes, part), getattr(no, part)) for part in MEMORY_PARTS))


def _stage_memory(work: LayeredWork, plan: Plan, layers: Num, ends: Num, in_flight: Num, has_head: Num) -> MemoryUse:
    parameters = rank_parameters(work, plan, layers, ends)
    whole, sharded = parameters.whole, parameters.sharded(plan)
    per_layer = kept_activation_B(work, plan.recompute, plan.tp, plan.sequence_parallel) * plan.micro_batch_tokens
    # Recomputation rebuilds one layer at a time; ZeRO-3 gathers one layer while it computes another.
    rebuilt = kept_activation_B(work, NONE, plan.tp, plan.sequence_parallel) * plan.micro_batch_tokens - per_layer
    gathered = where(plan.zero_stage >= 3, 2 * plan.weight_B * rank_parameters(work, plan, 1.0, 0.0).whole, 0.0)
    logits = has_head * work.logits_B * plan.micro_batch_tokens / plan.tp
    return MemoryUse(
        weights_B=plan.weight_B * where(plan.zero_stage >= 3, sharded, whole),
        gradients_B=plan.gradient_B * where(plan.zero_stage >= 2, sharded, whole),
        optimizer_B=plan.optimizer_B * where(plan.zero_stage >= 1, sharded, whole),
        activations_B=layers * per_layer * in_flight + logits,
        buffers_B=rebuilt + gathered,
    )
