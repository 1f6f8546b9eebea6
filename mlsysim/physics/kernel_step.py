"""The parts of a transformer's training step from measured kernels.

Matrix products by shape, attention, element-wise passes, collectives, and the host that launches them.

Sources: Narayanan et al. 2021, Korthikanti et al. 2022 (what a layer computes and sends); Dao 2023, arXiv:2307.08691
(attention); NVIDIA Apex and Megatron-LM (which element-wise passes are fused).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlsysim.physics.attention_kernels import STREAMING, AttentionDevice, PrefillKernel, training_attention_s
from mlsysim.physics.collective_kernels import CollectiveCoefficients, collective_s
from mlsysim.physics.gemm import GemmKernel, gemm_s
from mlsysim.physics.numeric import Num, Truth, maximum, minimum, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.sharding import largest_rank, rank_parameters
from mlsysim.physics.step import StepParts
from mlsysim.physics.training import (
    Machine,
    expert_parallel_s,
    pipeline_send_s,
    replica_reduction_s,
    shard_traffic_s,
    tensor_all_reduce_s,
)
from mlsysim.physics.work import FULL, SELECTIVE, LayeredWork

# Bytes that element-wise passes (norms, residuals, activation functions, rotary embedding, casts) move per element of the
# tensor they run over, 16-bit values, fused as in Megatron-LM: of the residual stream, of the feed-forward block (plain,
# gated) and of queries, keys and values.
_FORWARD_RESIDUAL_B, _BACKWARD_RESIDUAL_B = 22.0, 42.0
_FORWARD_FFN_B, _BACKWARD_FFN_B = (4.0, 6.0), (8.0, 10.0)
_FORWARD_QKV_B, _BACKWARD_QKV_B = 5.0, 10.0
# The loss reads and writes logits several times, in fp32.
_LOSS_B = 40.0
# Adam, gradient norm, unscaling and the copies between 16 and 32 bits.
_OPTIMIZER_B = 48.0
# Attention that stores its scores: batched matrix products reach this share of the peak, and softmax, mask and dropout move
# these bytes a score.
_UNFUSED_SHARE, _UNFUSED_FORWARD_B, _UNFUSED_BACKWARD_B = 0.6, 13.0, 19.0
# The host runs ahead of the device until it cannot: close to a maximum of the two, not their sum.
_HOST_NORM = 5.0
_HOST_PER_COLLECTIVE = 0.1


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer's kernels look like before it is split.

    Attributes:
        hidden: width of the residual stream.
        query_width, key_width: elements of all query heads; of all key heads (values have as many).
        ffn, ffn_matrices: width of the feed-forward block, and 3 matrices where gated, else 2.
        vocab: of the output head.
        seq_len, heads, head_dim: of attention.
        flash: 1.0 where attention stores no scores.
        attention_generation: speed of the attention kernel over the vendor's own (``attention_kernels``).
    """

    hidden: Num
    query_width: Num
    key_width: Num
    ffn: Num
    ffn_matrices: Num
    vocab: Num
    seq_len: Num
    heads: Num
    head_dim: Num
    flash: Num = 1.0
    attention_generation: Num = 1.0


@dataclass(frozen=True, slots=True)
class KernelDevice:
    """Fitted kernels of one accelerator.

    Attributes:
        gemm, gemm_peak_flops_per_s, gemm_input_B: of the layers' matrix products and their number format.
        head_gemm, head_peak_flops_per_s: of the output head, 16-bit.
        attention, attention_device: 16-bit.
        collectives: within a node or NVLink domain.
        memory_Bps, multiprocessors, cache_B: datasheet.
        clock: share of the clock of a short benchmark that hours of training sustain.
        torus_axes: axes of a torus of links (1: a switch); tensor parallelism has one of them.
    """

    gemm: GemmKernel
    gemm_peak_flops_per_s: float
    gemm_input_B: float
    head_gemm: GemmKernel
    head_peak_flops_per_s: float
    attention: PrefillKernel
    attention_device: AttentionDevice
    collectives: CollectiveCoefficients
    memory_Bps: float
    multiprocessors: float
    cache_B: float
    clock: Num
    torus_axes: float


@dataclass(frozen=True, slots=True)
class StackCoefficients:
    """What a software stack adds, whatever the model, the plan or the device; at most six of these are fitted to one stack.

    Attributes:
        host_layer_s: time of the host to launch one pass of one layer.
        tp_hidden_forward, tp_hidden_backward: share of tensor-parallel collectives under compute.
        accumulated_B: bytes a parameter and micro-batch to accumulate weight gradients.
        norm_B: bytes an element of the residual stream that unfused norms move beyond the fused ones, in each direction.
        dp_hidden: share of data-parallel traffic under the compute that can hide it.
        pp_hidden: share of the sends between stages under compute.
        network_share: share of the network cards' line rate that its traffic between nodes reaches.
        cast_B: stated, not fitted: bytes a gathered parameter that converting it moves through memory.
        scattered: stated: 1.0 where the ranks of a TP group each send their part of an activation to the next stage.
        dropped_down: stated: share of the feed-forward block's last product that full recomputation leaves out: no gradient
            needs its result, and a compiler that sees the whole layer (XLA) drops it.
        attention_rate: speed of its fused attention kernel over the best one that the device's coefficients stand for.
        tp_wait_s: what the ranks of a tensor-parallel collective wait for each other, beside its transfer.
        network_step_s: latency of a step of the ring by which replicas (hybrid sharding) reduce a layer's gradients.
        repeated_ffn: stated: share of the rest of the feed-forward block that selective recomputation repeats beside attention.
    """

    host_layer_s: Num = 0.0
    tp_hidden_forward: Num = 0.0
    tp_hidden_backward: Num = 0.0
    accumulated_B: Num = 10.0
    norm_B: Num = 0.0
    dp_hidden: Num = 0.0
    pp_hidden: Num = 0.0
    network_share: Num = 0.85
    cast_B: Num = 0.0
    scattered: Num = 0.0
    dropped_down: Num = 0.0
    repeated_ffn: Num = 0.0
    network_step_s: Num = 0.0
    tp_wait_s: Num = 0.0
    attention_rate: Num = 1.0


def kernel_parts(
    work: LayeredWork, shape: LayerShape, plan: Plan, machine: Machine, device: KernelDevice, stack: StackCoefficients
) -> StepParts:
    """The parts of a step; tensor-parallel collectives come with what the stack hides already taken off."""
    device = replace(device, attention=device.attention.at_rate(stack.attention_rate))
    forward, attention_forward = _forward_s(shape, plan, device, stack)
    backward = _backward_s(work, shape, plan, device, stack)
    host = stack.host_layer_s * (1 + _HOST_PER_COLLECTIVE * where(plan.tp > 1, 1.0, 0.0))
    forward, backward = _launched_s(forward, host), _launched_s(backward, host)
    reduction = _reduction_s(work, plan, machine, device)
    repeats = where(plan.recompute == FULL, 2.0, 1.0)
    exposed = work.reductions * (repeats * (1 - stack.tp_hidden_forward) + (1 - stack.tp_hidden_backward))
    streaming_Bps = STREAMING * device.memory_Bps
    return StepParts(
        layer_s=forward + backward,
        recompute_s=_recompute_s(shape, plan, device, stack, forward, attention_forward),
        head_s=_head_s(shape, plan, device) + reduction,
        tp_s=(reduction + where(plan.tp > 1, stack.tp_wait_s, 0.0)) * exposed,
        ep_s=expert_parallel_s(work, plan, machine),
        send_s=pipeline_send_s(work, plan, machine) / where(_whole_sends(plan, stack), 1.0, plan.tp),
        dp_s=shard_traffic_s(work, plan, machine) + _cast_B(work, plan, stack) / streaming_Bps,
        optimizer_s=_OPTIMIZER_B * _updated(work, plan) / streaming_Bps,
        replica_s=replica_reduction_s(work, plan, machine) + _replica_steps_s(work, plan, stack),
    )


def _replica_steps_s(work: LayeredWork, plan: Plan, stack: StackCoefficients) -> Num:
    """Latency of the all-reduces between replicas: 2 (r-1) steps a layer."""
    return stack.network_step_s * 2 * (plan.replicas - 1) * work.layers / plan.pp


def _recompute_s(
    shape: LayerShape, plan: Plan, device: KernelDevice, stack: StackCoefficients, forward: Num, attention: Num
) -> Num:
    """What the backward pass repeats of one layer."""
    up, down = _products(shape, plan)[2:]
    up_s, down_s = (_product_s(plan.micro_batch_tokens, n, k, device) for n, k in (up, down))
    full = forward - stack.dropped_down * down_s
    return where(plan.recompute == FULL, full, where(plan.recompute == SELECTIVE, attention + stack.repeated_ffn * up_s, 0.0))


def _whole_sends(plan: Plan, stack: StackCoefficients) -> Truth:
    """Whether every rank sends the whole activation; with sequence parallelism it has only its part."""
    return (plan.sequence_parallel > 0) | (stack.scattered == 0)


def _launched_s(device_s: Num, host_s: Num) -> Num:
    """(device^5 + host^5)^(1/5): the slower of the two sets the pace."""
    return (device_s**_HOST_NORM + host_s**_HOST_NORM) ** (1 / _HOST_NORM)


def _products(shape: LayerShape, plan: Plan) -> tuple[tuple[Num, Num], ...]:
    """Output and input features of a rank's four products: QKV, attention output, up (and gate), down."""
    qkv = _qkv_width(shape, plan)
    up = (shape.ffn_matrices - 1) * shape.ffn / plan.tp
    return (
        (qkv, shape.hidden),
        (shape.hidden, shape.query_width / plan.tp),
        (up, shape.hidden),
        (shape.hidden, shape.ffn / plan.tp),
    )


def _qkv_width(shape: LayerShape, plan: Plan) -> Num:
    """Output features of a rank's query, key and value product; beyond one rank a key head, ranks repeat the key heads."""
    key_heads = shape.key_width / shape.head_dim
    return shape.query_width / plan.tp + 2 * shape.key_width / minimum(plan.tp, key_heads)


def _product_s(m: Num, n: Num, k: Num, device: KernelDevice) -> Num:
    size_B = device.gemm_input_B
    peak = device.gemm_peak_flops_per_s * device.clock
    return gemm_s(m, n, k, size_B, size_B, 2.0, device.gemm, peak, device.memory_Bps, device.multiprocessors, device.cache_B)


def _head_product_s(m: Num, n: Num, k: Num, device: KernelDevice) -> Num:
    peak = device.head_peak_flops_per_s * device.clock
    return gemm_s(m, n, k, 2.0, 2.0, 2.0, device.head_gemm, peak, device.memory_Bps, device.multiprocessors, device.cache_B)


def _attention_s(shape: LayerShape, plan: Plan, device: KernelDevice) -> tuple[Num, Num]:
    """Forward and backward of one layer's attention on one rank, fused or storing its scores."""
    batch, heads = plan.micro_batch_tokens / shape.seq_len, shape.heads / plan.tp
    clock, chip = device.clock, device.attention_device
    clocked = replace(chip, peak_flops_per_s=chip.peak_flops_per_s * clock)
    fused = training_attention_s(
        device.attention, clocked, batch, shape.seq_len, heads, shape.head_dim, 0.0, shape.attention_generation
    )
    scores = batch * heads * shape.seq_len * shape.seq_len
    products_s = 4 * scores * shape.head_dim / (_UNFUSED_SHARE * device.head_peak_flops_per_s * clock)
    moved_s = scores / (STREAMING * device.memory_Bps)
    stored_forward = products_s + _UNFUSED_FORWARD_B * moved_s
    stored_backward = 2 * products_s + _UNFUSED_BACKWARD_B * moved_s
    return where(shape.flash > 0, fused[0], stored_forward), where(shape.flash > 0, fused[1], stored_backward)


def _elements(shape: LayerShape, plan: Plan) -> tuple[Num, Num, Num]:
    """Elements of a rank's residual stream, feed-forward block and queries, keys and values."""
    tokens = plan.micro_batch_tokens
    shared = where(plan.sequence_parallel > 0, plan.tp, 1.0)
    qkv = tokens * _qkv_width(shape, plan)
    return tokens * shape.hidden / shared, tokens * shape.ffn / plan.tp, qkv


def _forward_s(shape: LayerShape, plan: Plan, device: KernelDevice, stack: StackCoefficients) -> tuple[Num, Num]:
    """Device time of one layer's forward pass of one micro-batch, and of its attention."""
    tokens = plan.micro_batch_tokens
    products: Num = sum((_product_s(tokens, n, k, device) for n, k in _products(shape, plan)), start=0.0)
    attention, _ = _attention_s(shape, plan, device)
    residual, ffn, qkv = _elements(shape, plan)
    per_ffn = where(shape.ffn_matrices > 2, _FORWARD_FFN_B[1], _FORWARD_FFN_B[0])
    moved_B = (_FORWARD_RESIDUAL_B + stack.norm_B) * residual + per_ffn * ffn + _FORWARD_QKV_B * qkv
    return products + attention + moved_B / (STREAMING * device.memory_Bps), attention


def _backward_s(work: LayeredWork, shape: LayerShape, plan: Plan, device: KernelDevice, stack: StackCoefficients) -> Num:
    """The same of the backward pass: input and weight gradients, and their accumulation."""
    tokens = plan.micro_batch_tokens
    products: Num = 0.0
    for n, k in _products(shape, plan):
        products = products + _product_s(tokens, k, n, device) + _product_s(n, k, tokens, device)
    _, attention = _attention_s(shape, plan, device)
    residual, ffn, qkv = _elements(shape, plan)
    per_ffn = where(shape.ffn_matrices > 2, _BACKWARD_FFN_B[1], _BACKWARD_FFN_B[0])
    moved_B = (_BACKWARD_RESIDUAL_B + stack.norm_B) * residual + per_ffn * ffn + _BACKWARD_QKV_B * qkv
    moved_B = moved_B + stack.accumulated_B * rank_parameters(work, plan, 1.0, 0.0).whole
    return products + attention + moved_B / (STREAMING * device.memory_Bps)


def _head_s(shape: LayerShape, plan: Plan, device: KernelDevice) -> Num:
    """The output head of one micro-batch: three products and the loss."""
    tokens, vocab, hidden = plan.micro_batch_tokens, shape.vocab / plan.tp, shape.hidden
    some = maximum(vocab, 1.0)
    products = _head_product_s(tokens, some, hidden, device) + _head_product_s(tokens, hidden, some, device)
    products = products + _head_product_s(some, hidden, tokens, device)
    loss = _LOSS_B * tokens * vocab / (STREAMING * device.memory_Bps)
    return where(vocab > 0, products + loss, 0.0)


def _reduction_s(work: LayeredWork, plan: Plan, machine: Machine, device: KernelDevice) -> Num:
    """One tensor-parallel all-reduce: measured within a node, a ring over the network's cards beyond it."""
    axes, links = device.torus_axes, device.collectives
    shared = replace(links, bandwidth_Bps=links.bandwidth_Bps / axes, pair_bandwidth_Bps=links.pair_bandwidth_Bps / axes)
    local = collective_s("all_reduce", work.boundary_B * plan.micro_batch_tokens, plan.tp, shared)
    across = tensor_all_reduce_s(work, plan, machine)
    return where(plan.tp > machine.per_node, across, local)


def _updated(work: LayeredWork, plan: Plan) -> Num:
    """Parameters that a rank updates."""
    parameters = largest_rank(work, plan)
    return where(plan.zero_stage >= 1, parameters.sharded(plan), parameters.whole)


def _cast_B(work: LayeredWork, plan: Plan, stack: StackCoefficients) -> Num:
    """Bytes that converting gathered weights moves in a step."""
    gathered = 2 * plan.micro_batches * largest_rank(work, plan).whole
    return where(plan.zero_stage >= 3, stack.cast_B * gathered, 0.0)
