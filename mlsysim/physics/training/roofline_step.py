"""The parts of a training step by roofline: peak rates (or the caller's efficiency of them), bandwidths, rings.

Sources: Narayanan et al. 2021 (TP traffic), Korthikanti et al. 2022 (sequence parallelism), Rajbhandari et al. 2020
(ZeRO traffic), Lepikhin et al. 2021 (expert all-to-all).
"""

from __future__ import annotations

from mlsysim.physics.kernels.alpha_beta import all_reduce_s, all_to_all_s, reduce_scatter_s, ring_bandwidth_Bps
from mlsysim.physics.kernels.roofline import roofline_s
from mlsysim.physics.layer.context_parallel import ring_passes_B
from mlsysim.physics.layer.sharding import RankParameters, fullest_stage, stage_parameters
from mlsysim.physics.layer.work import (
    BACKWARD_OVER_FORWARD,
    FULL,
    NONE,
    LayeredWork,
    kept_activation_B,
    recomputed_flops,
)
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num, somewhere, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.step import Overlap, StepParts, StepTime, assemble_step


def training_step(work: LayeredWork, plan: Plan, machine: Machine, overlap: Overlap) -> StepTime:
    """Time of one optimizer step by roofline; every field of ``plan`` and ``machine`` may be an array."""
    return assemble_step(work.layers, roofline_parts(work, plan, machine), plan, overlap)


def roofline_parts(work: LayeredWork, plan: Plan, machine: Machine) -> StepParts:
    """Seconds of a step's parts, each by roofline, before anything hides."""
    tokens = plan.micro_batch_tokens
    layer_s = _layer_compute_s(work, plan, machine)
    attention_flops = (1 + BACKWARD_OVER_FORWARD) * work.attention_flops
    other_s = (work.trained_layer_flops - attention_flops) * tokens / plan.tp / machine.rate_flops_per_s
    return StepParts(
        layer_s=layer_s,
        recompute_s=_recompute_s(work, plan, machine),
        head_s=_head_compute_s(work, plan, machine),
        tp_s=tensor_parallel_s(work, plan, machine),
        ep_s=expert_parallel_s(work, plan, machine),
        send_s=pipeline_send_s(work, plan, machine),
        dp_s=data_parallel_s(work, plan, machine),
        optimizer_s=_optimizer_s(work, plan, machine),
        cp_s=ring_exchange_s(work, plan, machine),
        cp_window_s=layer_s - other_s,
        head_spread=0.0,
        replica_s=0.0,
    )


def _layer_compute_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """Forward and backward of one layer and micro-batch on one rank."""
    flops = work.trained_layer_flops * plan.micro_batch_tokens / plan.tp
    return roofline_s(flops, layer_traffic_B(work, plan), machine.rate_flops_per_s, machine.memory_Bps)


def layer_traffic_B(work: LayeredWork, plan: Plan) -> Num:
    """Bytes that one layer's forward and backward pass of one micro-batch move through a rank's memory.

    Each pass reads the weights; the forward writes the activations that the backward reads, kept or rebuilt; gradients of what
    is trained are read and written once a micro-batch.
    """
    parameters, trained = stage_parameters(work, plan, 1.0, 0.0)
    kept_B = kept_activation_B(work, NONE, plan.tp, plan.sequence_parallel) * plan.micro_batch_tokens
    return 2 * plan.weight_B * parameters.whole + 2 * plan.gradient_B * trained.whole + 2 * kept_B


def _recompute_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    flops = recomputed_flops(work, plan.recompute) * plan.micro_batch_tokens / plan.tp
    return flops / machine.rate_flops_per_s


def _head_compute_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    tokens = plan.micro_batch_tokens
    flops = (1 + BACKWARD_OVER_FORWARD) * work.head_flops * tokens / plan.tp
    gradient_B = where(work.frozen, 0.0, plan.gradient_B)
    moved_B = ((2 * plan.weight_B + 2 * gradient_B) * work.head_parameters + 2 * work.logits_B * tokens) / plan.tp
    return roofline_s(flops, moved_B, machine.rate_flops_per_s, machine.memory_Bps)


def tensor_parallel_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """All-reduces of one layer and micro-batch: two forward (one in parallel blocks), as many backward and when recomputed.

    With sequence parallelism each is a reduce-scatter and an all-gather: the same bytes.
    """
    passes = where(plan.recompute == FULL, 3.0, 2.0)
    return passes * work.reductions * tensor_all_reduce_s(work, plan, machine)


def tensor_all_reduce_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """One tensor-parallel all-reduce of a micro-batch's residual stream, by ring."""
    in_node = plan.ranks_in_node(plan.tp, 1.0, machine.per_node)
    bandwidth = ring_bandwidth_Bps(plan.tp > machine.per_node, in_node, machine.intra_Bps, machine.inter_Bps)
    return all_reduce_s(work.boundary_B * plan.micro_batch_tokens, plan.tp, bandwidth)


def expert_parallel_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """All-to-alls of one layer and micro-batch: dispatch and combine, forward and backward."""
    if not somewhere(work.routed_copies):
        return 0.0
    in_node = plan.ranks_in_node(plan.ep, plan.expert_split, machine.per_node)
    tokens_B = work.boundary_B * plan.micro_batch_tokens / plan.routed_from
    links = (machine.intra_Bps, machine.inter_Bps, machine.oversubscription)
    sent_s = all_to_all_s(tokens_B, plan.ep, in_node, *links, work.routed_copies)
    return where(plan.recompute == FULL, 6.0, 4.0) * sent_s


def ring_exchange_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """Seconds that one layer's keys, values and their gradients travel around the ring of context-parallel ranks."""
    in_node = plan.ranks_in_node(plan.cp, plan.tp, machine.per_node)
    bandwidth = ring_bandwidth_Bps(plan.cp * plan.tp > machine.per_node, in_node, machine.intra_Bps, machine.inter_Bps)
    chunk_B = work.key_value_B * plan.micro_batch_tokens / plan.tp
    return ring_passes_B(chunk_B, plan.cp, plan.recompute) / bandwidth


def pipeline_send_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """Activations forward and gradients back across one stage boundary, for one micro-batch; every chunk sends its own."""
    shared = where(plan.sequence_parallel, plan.tp, 1.0)
    sent_B = 2 * plan.virtual_stages * work.boundary_B * plan.micro_batch_tokens / shared
    link_Bps = where(plan.ranks > machine.per_node, machine.inter_Bps, machine.intra_Bps)
    return where(plan.pp > 1, sent_B / link_Bps, 0.0)


def data_parallel_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """Gradient and parameter traffic of one step, within the ranks that hold all shards together and between such replicas."""
    parameters, trained = fullest_stage(work, plan)
    reductions = reductions_of_step(plan)
    return shard_traffic_s(parameters, trained, plan, machine, reductions) + replica_reduction_s(trained, plan, machine)


def replica_reduction_s(trained: RankParameters, plan: Plan, machine: Machine) -> Num:
    """Replicas of hybrid sharding all-reduce the gradients of their shards once a step, each rank over its own card."""
    dense_B = plan.gradient_B * plan.shard_copies * trained.dense / plan.data_ranks
    expert_B = plan.gradient_B * plan.expert_shard_copies * trained.expert / plan.expert_copies
    dense_s = all_reduce_s(dense_B, plan.shard_copies, machine.inter_Bps)
    return dense_s + all_reduce_s(expert_B, plan.expert_shard_copies, machine.inter_Bps)


def reductions_of_step(plan: Plan) -> Num:
    """The number of times that a step reduces its gradients: from ZeRO-2 on, no rank keeps whole gradients meanwhile."""
    return where(plan.zero_stage >= 2, plan.micro_batches, 1.0)


def shard_traffic_s(parameters: RankParameters, trained: RankParameters, plan: Plan, machine: Machine, reductions: Num) -> Num:
    """Traffic of the ranks that hold all shards together (without hybrid sharding all data-parallel ranks).

    ZeRO-0 all-reduces gradients; ZeRO-1 reduce-scatters them and gathers the updated weights; ZeRO-2 reduce-scatters in
    every micro-batch, since no rank keeps whole gradients: ``reductions`` is how often gradients are reduced in a step. ZeRO-3
    also gathers the weights twice a micro-batch.
    """
    shards, expert_shards = plan.data_ranks / plan.shard_copies, plan.expert_copies / plan.expert_shard_copies
    dense_Bps = _replica_bandwidth_Bps(plan, machine, shards, plan.tp)
    expert_Bps = _replica_bandwidth_Bps(plan, machine, expert_shards, plan.expert_split * plan.ep)
    dense_B = _replicated_B(parameters.dense, trained.dense, plan, reductions)
    expert_B = _replicated_B(parameters.expert, trained.expert, plan, reductions)
    return reduce_scatter_s(dense_B, shards, dense_Bps) + reduce_scatter_s(expert_B, expert_shards, expert_Bps)


def _replicated_B(parameters: Num, trained: Num, plan: Plan, reductions: Num) -> Num:
    """Bytes that ranks with the same parameters reduce and gather in a step; frozen ones are only gathered (ZeRO-3)."""
    gathers = 2 * plan.micro_batches * plan.weight_B * parameters
    updated_B = where(plan.zero_stage == 0, plan.gradient_B, plan.weight_B) * trained
    return plan.gradient_B * reductions * trained + where(plan.zero_stage >= 3, gathers, updated_B)


def _replica_bandwidth_Bps(plan: Plan, machine: Machine, replicas: Num, stride: Num) -> Num:
    """Bandwidth of a ring through ``replicas`` ranks, ``stride`` apart, that hold the same parameters."""
    in_node = plan.ranks_in_node(replicas, stride, machine.per_node)
    return ring_bandwidth_Bps(replicas * stride > machine.per_node, in_node, machine.intra_Bps, machine.inter_Bps)


def _optimizer_s(work: LayeredWork, plan: Plan, machine: Machine) -> Num:
    """Seconds of Adam's update: states read and written, gradient read, weight written; ZeRO divides it over DP."""
    _, trained = fullest_stage(work, plan)
    updated = trained.held(plan, 1)
    return (2 * plan.optimizer_B + plan.gradient_B + plan.weight_B) * updated / machine.memory_Bps
