"""The parts of a transformer's training step from measured kernels.

Matrix products by shape, attention, element-wise passes, collectives, and the host that launches them.

Sources: Narayanan et al. 2021, Korthikanti et al. 2022 (what a layer computes and sends); Dao 2023, arXiv:2307.08691
(attention); NVIDIA Apex and Megatron-LM (which element-wise passes are fused).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

from mlsysim.physics.distinct import distinct_rows
from mlsysim.physics.kernels.attention import AttentionHeads, training_attention_s
from mlsysim.physics.kernels.collectives import collective_s
from mlsysim.physics.kernels.gemm import gemm_s
from mlsysim.physics.layer.adapters import ADDED_B, LAUNCHED, adapter_products_s
from mlsysim.physics.layer.context_parallel import merged_output_B
from mlsysim.physics.layer.experts import ExpertPass, exchange_s, expert_backward, expert_forward
from mlsysim.physics.layer.latent_attention import latent_head_dim, latent_products
from mlsysim.physics.layer.sharding import RankParameters, fullest_stage, trained_parameters
from mlsysim.physics.layer.work import FULL, SELECTIVE, LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num, Truth, maximum, minimum, somewhere, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.element_passes import backward_passes_B, forward_passes_B, qkv_width
from mlsysim.physics.training.roofline_step import (
    pipeline_send_s,
    reductions_of_step,
    replica_reduction_s,
    ring_exchange_s,
    shard_traffic_s,
    tensor_all_reduce_s,
)
from mlsysim.physics.training.step import StepParts
from mlsysim.physics.training.step_inputs import KernelDevice, LayerShape, StackCoefficients

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
    work: LayeredWork, shape: LayerShape, plan: Plan, machine: Machine, device: KernelDevice, stack: StackCoefficients
) -> LayerTimes:
    """The kernels and collectives of one layer and of the output head, for one micro-batch."""
    if somewhere(stack.attention_rate != 1.0):
        device = replace(device, attention=device.attention.at_rate(stack.attention_rate))
    attention_forward, attention_backward = attention_s(shape, plan, device, stack.hopper_rate)
    forward = _forward_s(shape, plan, device, stack) + attention_forward
    backward = _backward_s(work, shape, plan, device, stack) + attention_backward
    shared = device.shared
    norm = shared.launch_norm
    matrices = plan.micro_batch_tokens / shape.seq_len * shape.heads / plan.tp
    falls_back = (shape.flash == 0) & (matrices % _FUSED_MATRICES > 0)
    launched = where(falls_back, shared.launch_fallback, 1.0) + where(shape.adapter_rank > 0, LAUNCHED, 0.0)
    host = stack.host_layer_s * launched + shape.routed.layers * stack.host_expert_s
    # Dispatch and combine; the host launches what follows while they run.
    said = (stack.sent_once, stack.ep_hidden, stack.two_batches, stack.exchange_units)
    sent = 2 * exchange_s(shape.routed, shape.hidden, plan, machine, device.collectives, *said)
    sent_forward: Num = 0.0
    sent_backward: Num = 0.0
    if somewhere(sent):
        sent_forward = _launched_s(forward + sent, host, norm) - _launched_s(forward, host, norm)
        sent_backward = _launched_s(backward + sent, host, norm) - _launched_s(backward, host, norm)
    repeated = attention_forward
    if shape.latent.used:
        repeated = where(shape.latent.key_rank > 0, _expanded_s(shape, plan, device), attention_forward)
    dropped_s, added_s = _dropped_and_added_s(shape, plan, device, stack)
    forward_s, backward_s = _launched_s(forward, host, norm), _launched_s(backward, host, norm)
    waits_s = forward_s - forward + backward_s - backward
    chosen_s = stack.repeated_layers * (forward_s - dropped_s) + stack.repeated_products * (forward_s - attention_forward)
    return LayerTimes(
        forward_s=forward_s,
        backward_s=backward_s,
        ring_window_s=attention_forward + attention_backward + waits_s if somewhere(plan.cp > 1) else 0.0,
        selective_s=stack.repeated_core * repeated + added_s + chosen_s,
        unrepeated_s=dropped_s,
        sent_forward_s=sent_forward,
        sent_backward_s=sent_backward,
        head_s=_launched_s(_head_s(work, shape, plan, device), shared.launch_head * stack.host_layer_s, norm),
        reduction_s=_reduction_s(work, plan, machine, device),
    )


def kernel_parts(
    work: LayeredWork,
    shape: LayerShape,
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
    exposed = _reductions(work, shape) * (repeats * forward_shown + backward_shown)
    # The adapters of attention's two products gather for themselves (together as much as one all-reduce), beside no product.
    exposed = exposed + where(shape.adapter_rank > 0, repeats + 1.0, 0.0)
    elements = plan.micro_batch_tokens * shape.hidden
    copied_s = (1 - shape.async_tp) * stack.tp_copied_B * elements / device.streaming_Bps
    parameters, trained = fullest_stage(work, plan)
    updated = where(plan.zero_stage >= 1, trained.sharded(plan), trained.whole)
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
        ep_s=repeats * layer.sent_forward_s + layer.sent_backward_s,
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


def _dropped_and_added_s(shape: LayerShape, plan: Plan, device: KernelDevice, stack: StackCoefficients) -> tuple[Num, Num]:
    """Seconds that full recomputation drops of the forward pass, and that selective recomputation adds to attention."""
    if not somewhere(stack.dropped_down) and not somewhere(stack.repeated_ffn):
        return 0.0, 0.0
    dense = layer_products(shape, plan)[-2:]
    up_s, down_s = (share * product_s(plan.micro_batch_tokens, n, k, device) for share, n, k in dense)
    return stack.dropped_down * down_s, stack.repeated_ffn * up_s


def _whole_sends(plan: Plan, stack: StackCoefficients) -> Truth:
    """True if every rank sends the whole activation; with sequence parallelism it has only its part."""
    return (plan.sequence_parallel > 0) | (stack.scattered == 0)


def _launched_s(device_s: Num, host_s: Num, norm: Num) -> Num:
    """(device^p + host^p)^(1/p): the slower of the two sets the pace."""
    return (device_s**norm + host_s**norm) ** (1 / norm)


def layer_products(shape: LayerShape, plan: Plan) -> tuple[tuple[Num, Num, Num], ...]:
    """(share of the layers, output, input features) of a rank's products: attention's, then up (and gate) and down."""
    up = (shape.ffn_matrices - 1) * shape.ffn / plan.tp
    dense = 1.0 - shape.routed.layers
    return (*_attention_products(shape, plan), (dense, up, shape.hidden), (dense, shape.hidden, shape.ffn / plan.tp))


def _attention_products(shape: LayerShape, plan: Plan) -> tuple[tuple[Num, Num, Num], ...]:
    """Products (share of the layers, output, input features) of a rank's attention alone: QKV and output."""
    plain = ((1.0, qkv_width(shape, plan), shape.hidden), (1.0, shape.hidden, shape.query_width / plan.tp))
    if not shape.latent.used:
        return plain
    latent = where(shape.latent.key_rank > 0, 1.0, 0.0)
    compressed = latent_products(shape.latent, shape.hidden, shape.heads, plan.tp)
    return (*((1.0 - latent, n, k) for _, n, k in plain), *((latent * share, n, k) for share, n, k in compressed))


def _reductions(work: LayeredWork, shape: LayerShape) -> Num:
    """Tensor-parallel all-reduces of a layer's forward pass: routed experts take their tokens where they are."""
    routed_alone = where(shape.routed.shared_ffn > 0, 0.0, shape.routed.layers)
    return work.reductions - routed_alone


def product_s(m: Num, n: Num, k: Num, device: KernelDevice, groups: Num = 1.0) -> Num:
    """Seconds of a layer's matrix product, or of ``groups`` of them in one kernel."""
    size_B = device.gemm_input_B
    peak = device.gemm_peak_flops_per_s * device.clock
    chip = (device.memory_Bps, device.multiprocessors, device.cache_B)
    return gemm_s(m, n, k, size_B, size_B, 2.0, device.gemm, peak, *chip, groups)


def head_product_s(m: Num, n: Num, k: Num, device: KernelDevice, groups: Num = 1.0) -> Num:
    """Seconds of a 16-bit matrix product, as ``product_s``."""
    peak = device.head_peak_flops_per_s * device.clock
    chip = (device.memory_Bps, device.multiprocessors, device.cache_B)
    return gemm_s(m, n, k, 2.0, 2.0, 2.0, device.head_gemm, peak, *chip, groups)


def _expert_s(shape: LayerShape, plan: Plan, device: KernelDevice, one_pass: Callable[..., ExpertPass]) -> Num:
    """Seconds of the feed-forward part of the expert layers, as a share of all layers."""
    if not somewhere(shape.routed.layers):
        return 0.0
    product = partial(_grouped, product_s, device)
    routing = partial(_grouped, head_product_s, device)
    found = one_pass(shape.routed, shape.hidden, plan, product, routing, device.gemm_input_B < 2.0)
    return shape.routed.layers * (found.products_s + found.moved_B / device.streaming_Bps)


def _routed_B(shape: LayerShape, stack: StackCoefficients) -> Num:
    """Bytes an element of routed tokens that a stack moves beyond fused passes, in each direction."""
    return stack.routed_B + shape.routed.biased * stack.biased_B


def _grouped(product: Callable[..., Num], device: KernelDevice, m: Num, n: Num, k: Num, groups: Num) -> Num:
    return product(m, n, k, device, groups)


def _adapters_s(shape: LayerShape, plan: Plan, device: KernelDevice) -> tuple[Num, Num]:
    """Forward and backward seconds of the low-rank adapters of a layer's attention, 16-bit whatever the products use."""
    if not somewhere(shape.adapter_rank):
        return 0.0, 0.0
    tokens = plan.micro_batch_tokens
    forward: Num = 0.0
    backward: Num = 0.0
    for share, n, k in _attention_products(shape, plan):
        one_way, other = adapter_products_s(tokens, n, k, shape.adapter_rank, partial(_grouped, head_product_s, device))
        added = ADDED_B * tokens * n / device.streaming_Bps
        forward, backward = forward + share * (one_way + added), backward + share * (other + added)
    adapted = where(shape.adapter_rank > 0, 1.0, 0.0)
    return adapted * forward, adapted * backward


def attention_s(shape: LayerShape, plan: Plan, device: KernelDevice, hopper_rate: Num) -> tuple[Num, Num]:
    """Forward and backward of one layer's attention on one rank, fused or storing its scores."""
    batch, heads = plan.micro_batch_tokens / shape.seq_len, shape.heads / plan.tp
    clock, chip, shared = device.clock, device.attention_device, device.shared
    clocked = replace(chip, peak_flops_per_s=chip.peak_flops_per_s * clock)
    head_dim = shape.head_dim
    if shape.latent.used:
        head_dim = where(shape.latent.key_rank > 0, latent_head_dim(shape.latent), head_dim)
    generation = where(shape.older_on_hopper, hopper_rate * shared.flash_2_on_hopper, 1.0) * where(
        shape.flash_1, shared.flash_1, 1.0
    )

    def fused_s(window: Num) -> tuple[Num, Num]:
        return training_attention_s(
            *(device.attention, clocked, batch, shape.seq_len),
            AttentionHeads(heads, heads, head_dim, window=window),
            shared.attention_backward,
            generation,
        )

    fused = fused_s(0.0)
    if somewhere(shape.windowed):
        near = fused_s(shape.window)
        share = shape.windowed
        fused = (1 - share) * fused[0] + share * near[0], (1 - share) * fused[1] + share * near[1]
    scores = batch * heads * shape.seq_len * shape.seq_len
    share = where(shape.head_dim % _ALIGNED_HEAD > 0, shared.unaligned_share, shared.unfused_share)
    products_s = 4 * scores * shape.head_dim / (share * device.head_peak_flops_per_s * clock)
    moved_s = scores / device.streaming_Bps
    stored_forward = products_s + shared.unfused_forward_B * moved_s
    stored_backward = 2 * products_s + shared.unfused_backward_B * moved_s
    return where(shape.flash > 0, fused[0], stored_forward), where(shape.flash > 0, fused[1], stored_backward)


def _expanded_s(shape: LayerShape, plan: Plan, device: KernelDevice) -> Num:
    """Seconds in which selective recomputation expands latent attention's queries, keys and values anew."""
    expanding = latent_products(shape.latent, shape.hidden, shape.heads, plan.tp)[1:4:2]
    return sum((product_s(plan.micro_batch_tokens, n, k, device) for _, n, k in expanding), start=0.0)


def _forward_s(shape: LayerShape, plan: Plan, device: KernelDevice, stack: StackCoefficients) -> Num:
    """Device time of one layer's forward pass of one micro-batch, without its attention."""
    tokens = plan.micro_batch_tokens
    products: Num = sum((share * product_s(tokens, n, k, device) for share, n, k in layer_products(shape, plan)), start=0.0)
    products = products + _adapters_s(shape, plan, device)[0]
    moved_B = forward_passes_B(shape, plan, stack.norm_B) + merged_output_B(tokens * shape.query_width / plan.tp, plan.cp)
    products = products + _expert_s(shape, plan, device, partial(expert_forward, routed_B=_routed_B(shape, stack)))
    return products + moved_B / device.streaming_Bps


def _backward_s(work: LayeredWork, shape: LayerShape, plan: Plan, device: KernelDevice, stack: StackCoefficients) -> Num:
    """Device time of one layer's backward pass of one micro-batch: input and weight gradients, and their accumulation."""
    tokens = plan.micro_batch_tokens
    products: Num = 0.0
    trained = where(work.frozen > 0, 0.0, 1.0)
    for share, n, k in layer_products(shape, plan):
        products = products + share * (product_s(tokens, k, n, device) + trained * product_s(n, k, tokens, device))
    products = products + _adapters_s(shape, plan, device)[1]
    moved_B = (
        backward_passes_B(shape, plan, stack.norm_B) + stack.accumulated_B * trained_parameters(work, plan, 1.0, 0.0).whole
    )
    products = products + _expert_s(shape, plan, device, partial(expert_backward, routed_B=_routed_B(shape, stack)))
    return products + moved_B / device.streaming_Bps


def _head_s(work: LayeredWork, shape: LayerShape, plan: Plan, device: KernelDevice) -> Num:
    """The output head of one micro-batch: three products (two of a frozen one) and the loss."""
    tokens, vocab, hidden = plan.micro_batch_tokens, shape.vocab / plan.tp, shape.hidden
    some = maximum(vocab, 1.0)
    products = head_product_s(tokens, some, hidden, device) + head_product_s(tokens, hidden, some, device)
    products = products + where(work.frozen > 0, 0.0, head_product_s(some, hidden, tokens, device))
    loss = device.shared.loss_B * tokens * vocab / device.streaming_Bps
    return where(vocab > 0, shape.head_passes * (products + loss), 0.0)


def _reduction_s(work: LayeredWork, plan: Plan, machine: Machine, device: KernelDevice) -> Num:
    """One tensor-parallel all-reduce: measured within a node, a ring over the network's cards beyond it."""
    if not somewhere(plan.tp > 1):
        return 0.0 * plan.micro_batch_tokens
    axes, links = device.torus_axes, device.collectives
    if axes > 1:
        links = replace(links, bandwidth_Bps=links.bandwidth_Bps / axes, pair_bandwidth_Bps=links.pair_bandwidth_Bps / axes)
    local = collective_s("all_reduce", work.boundary_B * plan.micro_batch_tokens, plan.tp, links)
    across = tensor_all_reduce_s(work, plan, machine)
    return where(plan.tp > machine.per_node, across, local)
