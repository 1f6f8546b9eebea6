"""The parts of a transformer's training step from measured kernels.

Matrix products by shape, attention, element-wise passes, collectives, and the host that launches them.

Sources: Narayanan et al. 2021, Korthikanti et al. 2022 (what a layer computes and sends); Dao 2023, arXiv:2307.08691
(attention); NVIDIA Apex and Megatron-LM (which element-wise passes are fused).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.attention_kernels import AttentionDevice, PrefillKernel, training_attention_s
from mlsysim.physics.collective_kernels import CollectiveCoefficients, collective_s
from mlsysim.physics.gemm import GemmKernel, gemm_s
from mlsysim.physics.numeric import Num, Truth, maximum, minimum, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.sharding import largest_rank, rank_parameters
from mlsysim.physics.step import StepParts
from mlsysim.physics.training import (
    Machine,
    data_parallel_s,
    expert_parallel_s,
    pipeline_send_s,
    tensor_all_reduce_s,
)
from mlsysim.physics.work import FULL, SELECTIVE, LayeredWork

# Bytes that element-wise passes move per element of the tensor they run over, 16-bit values, fused as in Megatron-LM. They
# follow from what a kernel reads and writes (r, w; m is a dropout mask of one byte), and are no coefficients:
# residual stream forward, twice: norm (r2 w2), bias + dropout + residual (r2 r2 w2 m1); backward, twice: norm (r2 r2 w2, and
# r2 r2 for the gradients of its weights), dropout (r2 m1 w2), sum of the branch and the residual (r2 r2 w2).
_FORWARD_RESIDUAL_B, _BACKWARD_RESIDUAL_B = 2 * (4.0 + 7.0), 2 * (10.0 + 5.0 + 6.0)
# Activation function of one, or of two (gated) tensors: r2 [r2] w2; backward r2 r2 w2 and r2 for the bias, or r2 r2 r2 w2 w2.
_FORWARD_FFN_B, _BACKWARD_FFN_B = (4.0, 6.0), (8.0, 10.0)
# Queries, keys and values are cut apart, turned and laid out for the attention kernel: r2 w2 and a quarter more for the
# rotation's own passes; twice that backward.
_FORWARD_QKV_B, _BACKWARD_QKV_B = 5.0, 10.0
# Adam reads and writes two moments and the master weight (24), reads the 32-bit gradient and writes the 16-bit weight (6);
# before it the gradients are cast (r2 w4), unscaled (r4 w4) and their norm is taken (r4).
_OPTIMIZER_B = 24.0 + 6.0 + 6.0 + 8.0 + 4.0
# 16-bit elements that a tensor core loads at once: cuBLAS has no fast kernel for other widths of a batched product.
_ALIGNED_HEAD = 8.0
# Score matrices (a sequence's of a head) that a block of Megatron-LM's fused softmax takes; no other multiple has a kernel
# (FusedScaleMaskSoftmax.is_kernel_available).
_FUSED_MATRICES = 4.0


@dataclass(frozen=True, slots=True)
class SharedCoefficients:
    """What all devices and stacks share: how far kernels other than matrix products are from their datasheet.

    Attributes:
        streaming: share of the memory bandwidth that element-wise passes reach.
        loss_B: bytes a logit that the loss moves, forward and backward: it reads and writes logits several times, in fp32.
        unfused_share: share of the peak of the batched products of attention that stores its scores.
        unaligned_share: the same where a head is no multiple of 16 bytes wide, which tensor cores load at once.
        unfused_forward_B, unfused_backward_B: bytes a score that softmax, mask and dropout move.
        attention_backward: rate of the fused kernel's backward pass over that of its forward pass.
        flash_1: speed of FlashAttention-1 over FlashAttention-2.
        flash_2_on_hopper: speed of FlashAttention-2 over the vendor's own kernel, on Hopper (1 on Ampere).
        launch_norm: the host runs ahead of the device until it cannot: the norm of the two times, between a sum (1) and a
            maximum (infinity).
        launch_fallback: host time of a layer's pass, in those of a usual one, where attention that stores its scores falls back
            to separate kernels: the fused softmax takes score matrices by fours.
        launch_head: host time of the embedding, the output head and the loss of a micro-batch, in those of a layer's pass.
    """

    streaming: Num
    loss_B: Num
    unfused_share: Num
    unaligned_share: Num
    unfused_forward_B: Num
    unfused_backward_B: Num
    attention_backward: Num
    flash_1: Num
    flash_2_on_hopper: Num
    launch_norm: Num
    launch_head: Num
    launch_fallback: Num


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
        older_on_hopper: 1.0 where a Hopper device runs FlashAttention-2 or older, not the vendor's own kernel.
        flash_1: 1.0 for FlashAttention-1.
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
    older_on_hopper: Num = 0.0
    flash_1: Num = 0.0


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
        shared: what it has in common with all others.
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
    shared: SharedCoefficients

    @property
    def streaming_Bps(self) -> Num:
        """Rate of element-wise passes."""
        return self.shared.streaming * self.memory_Bps


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
        host_step_s: time of the host once a step, when nothing else runs: gradient clipping and its checks, the optimizer's
            many small kernels, the next batch, logging.
        cast_B: stated, not fitted: bytes a gathered parameter that converting it moves through memory.
        scattered: stated: 1.0 where the ranks of a TP group each send their part of an activation to the next stage.
    """

    host_layer_s: Num = 0.0
    tp_hidden_forward: Num = 0.0
    tp_hidden_backward: Num = 0.0
    accumulated_B: Num = 10.0
    norm_B: Num = 0.0
    dp_hidden: Num = 0.0
    pp_hidden: Num = 0.0
    network_share: Num = 0.85
    host_step_s: Num = 0.0
    cast_B: Num = 0.0
    scattered: Num = 0.0


def kernel_parts(
    work: LayeredWork, shape: LayerShape, plan: Plan, machine: Machine, device: KernelDevice, stack: StackCoefficients
) -> StepParts:
    """The parts of a step; tensor-parallel collectives come with what the stack hides already taken off."""
    forward_device, attention_forward = _forward_s(shape, plan, device, stack)
    backward_device = _backward_s(work, shape, plan, device, stack)
    shared = device.shared
    matrices = plan.micro_batch_tokens / shape.seq_len * shape.heads / plan.tp
    falls_back = (shape.flash == 0) & (matrices % _FUSED_MATRICES > 0)
    host, norm = stack.host_layer_s * where(falls_back, shared.launch_fallback, 1.0), shared.launch_norm
    reduction = _reduction_s(work, plan, machine, device)
    forward, backward = _launched_s(forward_device, host, norm), _launched_s(backward_device, host, norm)
    repeats = where(plan.recompute == FULL, 2.0, 1.0)
    exposed = work.reductions * (repeats * (1 - stack.tp_hidden_forward) + (1 - stack.tp_hidden_backward))
    return StepParts(
        layer_s=forward + backward,
        recompute_s=where(plan.recompute == FULL, forward, where(plan.recompute == SELECTIVE, attention_forward, 0.0)),
        head_s=_launched_s(_head_s(shape, plan, device), shared.launch_head * stack.host_layer_s, norm) + reduction,
        tp_s=reduction * exposed,
        ep_s=expert_parallel_s(work, plan, machine),
        send_s=pipeline_send_s(work, plan, machine) / where(_whole_sends(plan, stack), 1.0, plan.tp),
        dp_s=data_parallel_s(work, plan, machine) + _cast_B(work, plan, stack) / device.streaming_Bps,
        optimizer_s=_OPTIMIZER_B * _updated(work, plan) / device.streaming_Bps + stack.host_step_s,
    )


def _whole_sends(plan: Plan, stack: StackCoefficients) -> Truth:
    """Whether every rank sends the whole activation; with sequence parallelism it has only its part."""
    return (plan.sequence_parallel > 0) | (stack.scattered == 0)


def _launched_s(device_s: Num, host_s: Num, norm: Num) -> Num:
    """(device^p + host^p)^(1/p): the slower of the two sets the pace."""
    return (device_s**norm + host_s**norm) ** (1 / norm)


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
    clock, chip, shared = device.clock, device.attention_device, device.shared
    clocked = AttentionDevice(chip.peak_flops_per_s * clock, chip.bandwidth_Bps, chip.multiprocessors, chip.l2_B)
    generation = where(shape.older_on_hopper, shared.flash_2_on_hopper, 1.0) * where(shape.flash_1, shared.flash_1, 1.0)
    fused = training_attention_s(
        device.attention, clocked, batch, shape.seq_len, heads, shape.head_dim, shared.attention_backward, generation=generation
    )
    scores = batch * heads * shape.seq_len * shape.seq_len
    share = where(shape.head_dim % _ALIGNED_HEAD > 0, shared.unaligned_share, shared.unfused_share)
    products_s = 4 * scores * shape.head_dim / (share * device.head_peak_flops_per_s * clock)
    moved_s = scores / device.streaming_Bps
    stored_forward = products_s + shared.unfused_forward_B * moved_s
    stored_backward = 2 * products_s + shared.unfused_backward_B * moved_s
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
    return products + attention + moved_B / device.streaming_Bps, attention


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
    return products + attention + moved_B / device.streaming_Bps


def _head_s(shape: LayerShape, plan: Plan, device: KernelDevice) -> Num:
    """The output head of one micro-batch: three products and the loss."""
    tokens, vocab, hidden = plan.micro_batch_tokens, shape.vocab / plan.tp, shape.hidden
    some = maximum(vocab, 1.0)
    products = _head_product_s(tokens, some, hidden, device) + _head_product_s(tokens, hidden, some, device)
    products = products + _head_product_s(some, hidden, tokens, device)
    loss = device.shared.loss_B * tokens * vocab / device.streaming_Bps
    return where(vocab > 0, products + loss, 0.0)


def _reduction_s(work: LayeredWork, plan: Plan, machine: Machine, device: KernelDevice) -> Num:
    """One tensor-parallel all-reduce: measured within a node, a ring over the network's cards beyond it."""
    local = collective_s("all_reduce", work.boundary_B * plan.micro_batch_tokens, plan.tp, device.collectives)
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
