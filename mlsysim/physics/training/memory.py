"""Memory of one rank in training: what is resident, and what a step adds.

Sources: Rajbhandari et al., "ZeRO", 2020 (states); Korthikanti et al. 2022 (activations); Narayanan et al. 2021 (schedules);
Hagemann et al. 2023, arXiv:2311.05610 (what a stack adds: layouts that fit and that ran out of memory).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from mlsysim.physics.layer.sharding import first_stage_ends, last_stage_ends, rank_parameters, stage_parameters
from mlsysim.physics.layer.work import LOGIT_B, NONE, LayeredWork, kept_activation_B
from mlsysim.physics.numeric import Num, maximum, minimum, somewhere, where
from mlsysim.physics.plan import Plan, held_by_first_stage, held_by_last_stage, stage_layers
from mlsysim.physics.records import chosen


@dataclass(frozen=True, slots=True)
class MemoryTerms:
    """Memory that a software stack keeps beyond the textbook; the defaults are the textbook.

    Attributes:
        in_flight: micro-batches that a pipeline stage holds beyond those of its schedule, up to all there are.
        fragmentation: what the allocator takes for activations and buffers over what they need.
        logit_B: bytes a logit: its 16-bit and fp32 copies, and those of its gradient.
        logits_split: 1.0 where tensor parallelism divides the logits, 0.0 where each rank has them all.
        norm_B: bytes kept per element of the residual stream by norms that are not fused.
        ffn_B: bytes kept per element of the feed-forward block by activation functions that are not fused.
        score_B: bytes kept per attention score (0: the kernel stores none).
        input_B: bytes kept per element of the inputs of matrix products that nothing else keeps (outputs of norms and of the
            activation function): 2, or 1 where 8-bit products keep the operand that they have read.
        extra_optimizer_B: bytes a parameter of optimizer states; -2 where the upper half of an fp32 master weight is the bf16
            weight, and only the lower half is kept beside it.
        routed_kept: share that is kept of routed tokens; the textbook keeps them as experts take them and as they give them
            back.
        repeated: share of a layer that selective recomputation drops but for its input, beside what it always repeats.
        on_host: share of the activations that waits in the host's memory where nothing is recomputed.
        offloaded: share of the activations kept for recomputation that waits in the host's memory, not the accelerator's.
        gathered_layers: layers whose weights ZeRO-3 has gathered at once: the one that it computes and the next, or one alone.
    """

    in_flight: float = 0.0
    fragmentation: float = 1.0
    logit_B: float = LOGIT_B
    logits_split: float = 1.0
    norm_B: float = 0.0
    ffn_B: float = 0.0
    score_B: float = 0.0
    input_B: float = 2.0
    extra_optimizer_B: float = 0.0
    routed_kept: float = 1.0
    repeated: float = 0.0
    on_host: float = 0.0
    offloaded: float = 0.0
    gathered_layers: float = 2.0


TEXTBOOK = MemoryTerms()


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes on the fullest rank of a training step, by use."""

    weights_B: Num
    gradients_B: Num
    optimizer_B: Num
    activations_B: Num
    buffers_B: Num

    @property
    def total_B(self) -> Num:
        """Bytes of all uses together."""
        return self.static_B + self.activations_B + self.buffers_B

    @property
    def static_B(self) -> Num:
        """Bytes that stay between steps: weights, gradients and optimizer states."""
        return self.weights_B + self.gradients_B + self.optimizer_B


MEMORY_PARTS = tuple(part.name for part in fields(MemoryUse))


def training_memory(work: LayeredWork, plan: Plan, terms: MemoryTerms = TEXTBOOK) -> MemoryUse:
    """Memory of the fullest rank: the first stage (most micro-batches in flight) or the last (output head and logits)."""
    first, last = _end_stages(work, plan, terms)
    return chosen(last.total_B > first.total_B, last, first)


def fullest_rank_B(work: LayeredWork, plan: Plan, terms: MemoryTerms = TEXTBOOK) -> Num:
    """Bytes of the fullest rank: the total of ``training_memory``, for a search that does not ask what they are made of."""
    first, last = _end_stages(work, plan, terms)
    return maximum(first.total_B, last.total_B)


def _end_stages(work: LayeredWork, plan: Plan, terms: MemoryTerms) -> tuple[MemoryUse, MemoryUse]:
    """Memory of a rank of the first stage and of the last."""
    full, least = stage_layers(work.layers, plan.pp)
    alone = where(plan.pp == 1, 1.0, 0.0)
    kept = work if terms is TEXTBOOK else _kept_by_stack(work, terms)
    first = _stage_memory(kept, plan, terms, full, first_stage_ends(work, plan), held_by_first_stage(plan), alone)
    last = _stage_memory(kept, plan, terms, least, last_stage_ends(work, plan), held_by_last_stage(plan), 1.0)
    return first, last


def _kept_by_stack(work: LayeredWork, terms: MemoryTerms) -> LayeredWork:
    """Add to ``work`` what the stack keeps of a layer.

    Selective recomputation repeats just these parts and keeps none, or it drops a share of whole layers but for their inputs.
    """
    elements = work.boundary_B / 2  # of a 16-bit residual vector
    input_B = terms.input_B - 2  # beyond the textbook's 16 bits: of two norms' outputs, and of the activation function's
    unkept_B = (1.0 - terms.routed_kept) * 2 * work.routed_copies * work.boundary_B
    kept_split_B = work.kept_split_B + (terms.ffn_B + input_B) * work.ffn_elements + terms.score_B * work.scores
    kept_residual_B = work.kept_residual_B + (terms.norm_B + 2 * input_B) * elements - unkept_B
    selective_split_B, selective_residual_B = work.selective_split_B, work.selective_residual_B - unkept_B
    if terms.repeated:
        selective_split_B = (1 - terms.repeated) * kept_split_B
        selective_residual_B = (1 - terms.repeated) * kept_residual_B + terms.repeated * work.boundary_B
    return replace(
        work,
        kept_split_B=kept_split_B,
        kept_residual_B=kept_residual_B,
        selective_split_B=selective_split_B,
        selective_residual_B=selective_residual_B,
    )


def _stage_memory(
    work: LayeredWork, plan: Plan, terms: MemoryTerms, layers: Num, ends: Num, scheduled: Num, has_head: Num
) -> MemoryUse:
    parameters, trained = stage_parameters(work, plan, layers, ends)
    layer_B = kept_activation_B(work, plan.recompute, plan.tp, plan.sequence_parallel) * plan.micro_batch_tokens
    # Recomputation rebuilds one layer at a time; ZeRO-3 gathers another from other ranks' shards meanwhile.
    rebuilt_B = kept_activation_B(work, NONE, plan.tp, plan.sequence_parallel) * plan.micro_batch_tokens - layer_B
    gathered_B: Num = 0.0
    if somewhere(plan.zero_stage >= 3):
        one_layer = rank_parameters(work, plan, 1.0, 0.0)
        dense = where(plan.data_ranks > plan.shard_copies, one_layer.dense, 0.0)
        expert = where(plan.expert_copies > plan.shard_copies, one_layer.expert, 0.0)
        gathered_B = where(plan.zero_stage >= 3, terms.gathered_layers * plan.weight_B * (dense + expert), 0.0)
    logits_B = has_head * (terms.logit_B * work.logits) * plan.micro_batch_tokens / where(terms.logits_split, plan.tp, 1.0)
    device_share = 1 - where(plan.recompute == NONE, terms.on_host, terms.offloaded)
    in_flight = where(plan.pp == 1, scheduled, minimum(plan.micro_batches, scheduled + terms.in_flight))
    return MemoryUse(
        weights_B=plan.weight_B * parameters.held(plan, 3),
        gradients_B=plan.gradient_B * trained.held(plan, 2),
        optimizer_B=(plan.optimizer_B + terms.extra_optimizer_B) * trained.held(plan, 1),
        activations_B=terms.fragmentation * (layers * layer_B * in_flight * device_share + logits_B),
        buffers_B=terms.fragmentation * (rebuilt_B + gathered_B),
    )
