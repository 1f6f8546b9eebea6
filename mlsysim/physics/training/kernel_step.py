"""The parts of a transformer's training step from measured kernels.

Matrix products by shape, attention, element-wise passes, collectives, and the host that launches them.

Sources: Narayanan et al. 2021, Korthikanti et al. 2022 (what a layer computes and sends); Dao 2023, arXiv:2307.08691
(attention); NVIDIA Apex and Megatron-LM (which element-wise passes are fused).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from mlsysim.physics.distinct import distinct_rows
from mlsysim.physics.kernels.attention import training_attention_s
from mlsysim.physics.kernels.collectives import collective_s
from mlsysim.physics.layer.attention import attention_heads
from mlsysim.physics.layer.context_parallel import ring_passes_memory_B
from mlsysim.physics.layer.experts import exchange_s, expert_passes_B
from mlsysim.physics.layer.products import DOWN, EXPANSION, OF_EXPERTS, UP
from mlsysim.physics.layer.sharding import RankParameters, fullest_stage, trained_parameters
from mlsysim.physics.layer.work import FULL, SELECTIVE, LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num, Truth, in_norm, maximum, minimum, somewhere, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.element_passes import passes_B
from mlsysim.physics.training.layer_products import adapters_s, forward_and_backward_s, head_product_s
from mlsysim.physics.training.roofline_step import (
    pipeline_send_s,
    reductions_of_step,
    replica_reduction_s,
    ring_exchange_s,
    shard_traffic_s,
    tensor_all_reduce_s,
)
from mlsysim.physics.training.step import StepParts
from mlsysim.physics.training.step_inputs import KernelDevice, StackCoefficients, TrainedShape

# Adam reads and writes two moments and the master weight (24), reads the 32-bit gradient and writes the 16-bit weight (6);
# before it the gradients are cast (r2 w4), unscaled (r4 w4) and their norm is taken (r4).
_OPTIMIZER_B = 24.0 + 6.0 + 6.0 + 8.0 + 4.0
# 16-bit elements that a tensor core loads at once: cuBLAS has no fast kernel for other widths of a batched product.
_ALIGNED_HEAD = 8.0
# Score matrices (a sequence's of a head) that a block of Megatron-LM's fused softmax takes; no other multiple has a kernel
# (FusedScaleMaskSoftmax.is_kernel_available).
_FUSED_MATRICES = 4.0


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Seconds of one layer, and of the output head, for one micro-batch on one rank.

    They follow from the layer, the device, the stack and ``LAYER_FIELDS`` of the plan; its other fields say how often they run.

    Attributes:
        forward_s, backward_s: the passes, with the host that launches them.
        ring_window_s: what a ring of context-parallel ranks can hide under: attention, and what the kernels wait for the host.
        selective_s: what selective recomputation repeats.
        unrepeated_s: what full recomputation leaves out of the forward pass.
        sent_forward_s, sent_backward_s: what the exchange of tokens between experts' ranks adds to the passes.
        head_s: the output head and its loss, forward and backward, with the host that launches them.
        reduction_s: one tensor-parallel all-reduce.
    """

    forward_s: Num
    backward_s: Num
    ring_window_s: Num
    selective_s: Num
    unrepeated_s: Num
    sent_forward_s: Num
    sent_backward_s: Num
    head_s: Num
    reduction_s: Num


# Fields of a plan that ``LayerTimes`` depend on.
LAYER_FIELDS = ("tp", "cp", "ep", "expert_tp", "micro_batch_tokens", "sequence_parallel", "virtual_stages")


def once_per_layer(times: Callable[[Plan], LayerTimes], plan: Plan) -> LayerTimes:
    """``times`` of every plan of an array, computed once for all that split a layer in the same way.

    Args:
        times: the layer of one model, machine, device and stack as plans split it.
        plan: many plans.
    """
    # Whether there are several chunks matters to a layer, not how many.
    seen = {name: getattr(plan, name) for name in LAYER_FIELDS} | {"virtual_stages": minimum(plan.virtual_stages, 2.0)}
    rows = distinct_rows(*seen.values())
    # No layer can depend unseen on another field of a plan: here it is no number.
    unseen = dict.fromkeys((field.name for field in fields(Plan)), math.nan)
    layer = times(Plan(**unseen | {name: rows.reduced(value) for name, value in seen.items()}))
    return LayerTimes(*(rows.spread(getattr(layer, field.name)) for field in fields(LayerTimes)))


def layer_times(
    work: LayeredWork, shape: TrainedShape, plan: Plan, machine: Machine, device: KernelDevice, stack: StackCoefficients
) -> LayerTimes:
    """The kernels and collectives of one layer and of the output head, for one micro-batch."""
    device = device.attending(stack)
    attention_forward, attention_backward = attention_s(shape, plan, device, ring_calls(plan, stack))
    products, products_backward = forward_and_backward_s(shape, plan, device, work.frozen)
    adapters_forward, adapters_backward = adapters_s(shape, plan, device)
    passes_forward, passes_backward = _passes_s(work, shape, plan, device, stack)
    forward = sum(products.values(), start=0.0) + adapters_forward + passes_forward + attention_forward
    backward = products_backward + adapters_backward + passes_backward + attention_backward
    shared = device.shared
    norm = shared.launch_norm
    matrices = plan.micro_batch_tokens / shape.seq_len * shape.heads / plan.tp
    falls_back = (shape.flash == 0) & (matrices % _FUSED_MATRICES > 0)
    launched = where(falls_back, shared.launch_fallback, 1.0) + shape.adapters.launched
    host = stack.host_layer_s * launched + shape.routed.layers * stack.host_expert_s
    # Dispatch and combine; the host launches what follows while they run.
    said = (stack.sent_once, stack.ep_hidden, stack.two_batches, stack.exchange_units, stack.experts_in_turn)
    sent = 2 * exchange_s(shape.routed, shape.hidden, plan, machine, device.collectives, *said, split_links=device.axis_links)
    sent_forward: Num = 0.0
    sent_backward: Num = 0.0
    if somewhere(sent):
        sent_forward = in_norm(forward + sent, host, norm) - in_norm(forward, host, norm)
        sent_backward = in_norm(backward + sent, host, norm) - in_norm(backward, host, norm)
    repeated = attention_forward
    if shape.latent.used:
        # Queries, keys and values are expanded anew.
        repeated = where(shape.latent.key_rank > 0, products[EXPANSION], attention_forward)
    dropped_s = stack.dropped_down * products.get(DOWN, 0.0)
    added_s: Num = 0.0
    if somewhere(stack.repeated_ffn):
        added_s = stack.repeated_ffn * _repeated_ffn_s(products, shape, plan, device, stack)
    forward_s, backward_s = in_norm(forward, host, norm), in_norm(backward, host, norm)
    waits_s, fused_s = forward_s - forward + backward_s - backward, attention_forward + attention_backward
    chosen_s = stack.repeated_layers * (forward_s - dropped_s) + stack.repeated_products * (forward_s - attention_forward)
    return LayerTimes(
        forward_s=forward_s,
        backward_s=backward_s,
        ring_window_s=(1 - stack.keys_gathered) * (fused_s + waits_s) if somewhere(plan.cp > 1) else 0.0,
        selective_s=stack.repeated_core * repeated + added_s + chosen_s,
        unrepeated_s=dropped_s,
        sent_forward_s=sent_forward,
        sent_backward_s=sent_backward,
        head_s=in_norm(_head_s(work, shape, plan, device, stack), shared.launch_head * stack.host_layer_s, norm),
        reduction_s=_reduction_s(work, plan, machine, device),
    )


def kernel_parts(
    work: LayeredWork,
    shape: TrainedShape,
    layer: LayerTimes,
    plan: Plan,
    machine: Machine,
    device: KernelDevice,
    stack: StackCoefficients,
) -> StepParts:
    """The parts of a step; tensor-parallel collectives come with what the stack hides already taken off."""
    repeats = where(plan.recompute == FULL, 2.0, 1.0)
    beside = shape.async_tp * device.shared.async_tp_hidden
    forward_shown, backward_shown = 1 - maximum(stack.tp_hidden_forward, beside), 1 - maximum(stack.tp_hidden_backward, beside)
    # A gather is half an all-reduce, and of 8-bit operands half of that.
    forward_shown = forward_shown * (1 - stack.narrow_gathers / 4)
    exposed = _reductions(shape) * (repeats * forward_shown + backward_shown)
    # A feed-forward block that is repeated gathers its tokens again.
    of_ffn = _reductions(shape) - shape.reductions / 2
    exposed = exposed + where(plan.recompute == SELECTIVE, stack.repeated_ffn * forward_shown * of_ffn / 2, 0.0)
    # What adapters gather for themselves stands beside no product; a gather is half an all-reduce.
    exposed = exposed + (repeats + 1.0) * stack.adapter_gathers * shape.adapters.gathers(plan.sequence_parallel) / 2
    elements = plan.micro_batch_tokens * shape.hidden
    copied_s = (1 - shape.async_tp) * stack.tp_copied_B * elements / device.streaming_Bps
    parameters, trained = fullest_stage(work, plan)
    updated = trained.held(plan, 1)
    # Weights are gathered once forward and once backward of each micro-batch.
    reductions = where(stack.reduced_once > 0, 1.0, reductions_of_step(plan))
    converted_B = where(plan.zero_stage >= 3, 2 * plan.micro_batches * stack.gathered_B * parameters.whole, 0.0)
    converted_B = converted_B + where(plan.zero_stage >= 2, reductions * stack.reduced_B * trained.whole, 0.0)
    selective = where(plan.recompute == SELECTIVE, layer.selective_s, 0.0)
    replicas_s = replica_reduction_s(trained, plan, machine) + _replica_steps_s(work, plan, stack)
    alone_s = _weights_alone_s(parameters, trained, plan, machine, stack)
    return StepParts(
        layer_s=layer.forward_s + layer.backward_s,
        recompute_s=where(plan.recompute == FULL, layer.forward_s - layer.unrepeated_s, selective),
        head_s=layer.head_s + layer.reduction_s,
        tp_s=(layer.reduction_s + where(plan.tp > 1, stack.tp_wait_s + copied_s, 0.0)) * exposed,
        ep_s=where(plan.recompute == SELECTIVE, 1.0 + stack.repeated_ffn, repeats) * layer.sent_forward_s
        + layer.sent_backward_s,
        send_s=pipeline_send_s(work, plan, machine) / where(_whole_sends(plan, stack), 1.0, plan.tp),
        dp_s=shard_traffic_s(parameters, trained, plan, machine, reductions)
        - alone_s
        + converted_B / device.streaming_Bps
        + stack.replicas_hidden * replicas_s,
        optimizer_s=_OPTIMIZER_B * updated / device.streaming_Bps + stack.host_step_s,
        replica_s=(1 - stack.replicas_hidden) * replicas_s + alone_s + _chain_s(plan, stack),
        cp_s=ring_exchange_s(work, plan, machine),
        cp_window_s=layer.ring_window_s,
        head_spread=shape.uneven * stack.written_layout,
    )


def _weights_alone_s(
    parameters: RankParameters, trained: RankParameters, plan: Plan, machine: Machine, stack: StackCoefficients
) -> Num:
    """Seconds in which the updated weights travel, where they do so after the step; nought where under it, or sharded."""
    if not somewhere(stack.weights_alone):
        return 0.0
    weights_s = shard_traffic_s(parameters, trained, replace(plan, gradient_B=0.0), machine, 0.0)
    return where((plan.zero_stage >= 1) & (plan.zero_stage <= 2), stack.weights_alone * weights_s, 0.0)


def _chain_s(plan: Plan, stack: StackCoefficients) -> Num:
    """Latency of ranks that send their weights one after the other, each to all others in a chain: r (r - 1) steps."""
    shards = plan.data_ranks / plan.shard_copies
    sharded = (plan.zero_stage >= 1) & (plan.zero_stage <= 2)
    return where(sharded, stack.weights_alone * stack.chain_step_s * shards * (shards - 1), 0.0)


def _replica_steps_s(work: LayeredWork, plan: Plan, stack: StackCoefficients) -> Num:
    """Latency of the all-reduces between replicas: 2 (r-1) steps a layer."""
    return stack.network_step_s * 2 * (plan.shard_copies - 1) * work.layers / plan.pp


def _whole_sends(plan: Plan, stack: StackCoefficients) -> Truth:
    """True if every rank sends the whole activation; with sequence parallelism it has only its part."""
    return (plan.sequence_parallel > 0) | (stack.scattered == 0)


def _reductions(shape: TrainedShape) -> Num:
    """Tensor-parallel all-reduces of a layer's forward pass: routed experts take their tokens where they are."""
    routed_alone = where(shape.routed.shared_ffn > 0, 0.0, shape.routed.layers)
    return shape.reductions - routed_alone


def ring_calls(plan: Plan, stack: StackCoefficients) -> Num:
    """Kernels that a query goes through: one of each rank's keys in a ring, whose last rank has all its queries in each."""
    return where(stack.keys_gathered > 0, 1.0, plan.cp)


def attention_s(shape: TrainedShape, plan: Plan, device: KernelDevice, calls: Num = 1.0) -> tuple[Num, Num]:
    """Forward and backward of one layer's attention on one rank, fused (in ``calls`` kernels a query) or storing its scores."""
    batch, seen = plan.micro_batch_tokens / shape.seq_len, attention_heads(shape, plan.tp)
    clock, chip, shared = device.clock, device.attention_device, device.shared
    clocked = replace(chip, peak_flops_per_s=chip.peak_flops_per_s * clock)
    generation = where(shape.older_on_hopper, shared.flash_2_on_hopper, 1.0) * where(shape.flash_1, shared.flash_1, 1.0)

    def fused_s(window: Num) -> tuple[Num, Num]:
        return training_attention_s(
            *(device.attention, clocked, batch, shape.seq_len),
            replace(seen, window=window, calls=calls),
            *(shared.attention_backward, generation),
        )

    fused = fused_s(0.0)
    if somewhere(shape.windowed):
        near = fused_s(shape.window)
        share = shape.windowed
        fused = (1 - share) * fused[0] + share * near[0], (1 - share) * fused[1] + share * near[1]
    scores = batch * seen.heads * shape.seq_len * shape.seq_len
    share = where(seen.head_dim % _ALIGNED_HEAD > 0, shared.unaligned_share, shared.unfused_share)
    products_s = 4 * scores * seen.head_dim / (share * device.head_peak_flops_per_s * clock)
    moved_s = scores / device.streaming_Bps
    stored_forward = products_s + shared.unfused_forward_B * moved_s
    stored_backward = 2 * products_s + shared.unfused_backward_B * moved_s
    return where(shape.flash > 0, fused[0], stored_forward), where(shape.flash > 0, fused[1], stored_backward)


def _passes_s(
    work: LayeredWork, shape: TrainedShape, plan: Plan, device: KernelDevice, stack: StackCoefficients
) -> tuple[Num, Num]:
    """Seconds of a layer's element-wise passes forward and backward, and there of the accumulation of weight gradients."""
    forward_B = passes_B(shape, plan, stack.norm_B, backward=False)
    backward_B = passes_B(shape, plan, stack.norm_B, backward=True)
    if somewhere(plan.cp > 1):
        tokens = plan.micro_batch_tokens / plan.tp
        ring = (tokens * shape.query_width, tokens * work.key_value_B / 2, ring_calls(plan, stack), stack.merged_B)
        forward_B = forward_B + ring_passes_memory_B(*ring, backward=False)
        backward_B = backward_B + ring_passes_memory_B(*ring, backward=True)
    backward_B = backward_B + stack.accumulated_B * trained_parameters(work, plan, 1.0, 0.0).whole
    if somewhere(shape.routed.layers):
        forward_B = forward_B + _routed_passes_B(shape, plan, device, stack, backward=False)
        backward_B = backward_B + _routed_passes_B(shape, plan, device, stack, backward=True)
    return forward_B / device.streaming_Bps, backward_B / device.streaming_Bps


def _routed_passes_B(shape: TrainedShape, plan: Plan, device: KernelDevice, stack: StackCoefficients, *, backward: bool) -> Num:
    """Bytes of the element-wise passes of experts, a layer of all; what a stack moves beyond fused ones among them."""
    # Ordering moves a row of the residual stream twice, there and back; biases, a row of each product's outputs.
    outputs = (shape.ffn_matrices - 1) * shape.routed.ffn / plan.expert_split + shape.hidden
    gathered_B = stack.biases_gathered * stack.routed_B * outputs / (2 * shape.hidden)
    more_B = stack.routed_B + shape.biased * (stack.biased_B + gathered_B)
    quantised = device.gemm_input_B < 2.0
    return shape.routed.layers * expert_passes_B(shape, plan, backward=backward, quantised=quantised, more_B=more_B)


def _repeated_ffn_s(
    products: Mapping[str, Num], shape: TrainedShape, plan: Plan, device: KernelDevice, stack: StackCoefficients
) -> Num:
    """Seconds of the feed-forward block and of experts that a stack may repeat; the last dense product is not needed again.

    Experts are repeated whole: the gradients of the weights with which they are added need what they gave.
    """
    dense_s = products.get(UP, 0.0)
    if not somewhere(shape.routed.layers):
        return dense_s
    experts_s = sum((products.get(name, 0.0) for name in OF_EXPERTS), start=0.0)
    return dense_s + experts_s + _routed_passes_B(shape, plan, device, stack, backward=False) / device.streaming_Bps


def _head_s(work: LayeredWork, shape: TrainedShape, plan: Plan, device: KernelDevice, stack: StackCoefficients) -> Num:
    """The output head of one micro-batch: three products (two of a frozen one) and the loss."""
    tokens, vocab, hidden = plan.micro_batch_tokens, shape.vocab / plan.tp, shape.hidden
    some = maximum(vocab, 1.0)
    products = head_product_s(tokens, some, hidden, device) + head_product_s(tokens, hidden, some, device)
    products = products + where(work.frozen > 0, 0.0, head_product_s(some, hidden, tokens, device))
    loss_B = where((shape.eager == 0) & (stack.compiled_loss_B > 0), stack.compiled_loss_B, stack.loss_B)
    loss = loss_B * tokens * vocab / device.streaming_Bps
    return where(vocab > 0, shape.head_passes * (products + loss), 0.0)


def _reduction_s(work: LayeredWork, plan: Plan, machine: Machine, device: KernelDevice) -> Num:
    """One tensor-parallel all-reduce: measured within a node, a ring over the network's cards beyond it."""
    if not somewhere(plan.tp > 1):
        return 0.0 * plan.micro_batch_tokens
    local = collective_s("all_reduce", work.boundary_B * plan.micro_batch_tokens, plan.tp, device.axis_links)
    across = tensor_all_reduce_s(work, plan, machine)
    return where(plan.tp > machine.per_node, across, local)
