"""Device time of the passes of a bidirectional transformer encoder (BERT): every token attends to all of its sequence.

A layer: four matrix products forward, two gradients of each backward; attention, fused or storing its scores; and the
element-wise passes between (bias, dropout, residual, normalisation, activation). Only masked tokens reach the output head.

Sources: Devlin et al. 2019, arXiv:1810.04805 (the layer, masked tokens); Ivanov et al. 2021, arXiv:2007.00072 (what the
element-wise passes of BERT move).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.kernels.attention import AttentionDevice, PrefillKernel, training_attention_s
from mlsysim.physics.kernels.gemm import gemm_s
from mlsysim.physics.kernels.passes import Passes, ReplicaDevice
from mlsysim.physics.layer.attention import attention_heads, qkv_elements
from mlsysim.physics.layer.element_bytes import QKV_B, RESIDUAL_B, block_B
from mlsysim.physics.layer.products import layer_products
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.numeric import Num, maximum, where

# Stored scores: values per score that the products write and read, and that scale, mask, softmax and dropout move.
_SCORE_FORWARD, _SCORE_BACKWARD = 6.5, 9.5
_HEAD_VALUES = 20.0  # values a logit that the loss moves
_FORWARD_KERNELS, _BACKWARD_KERNELS = 16.0, 30.0  # a layer's


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape(LayerShape):
    """The encoder and its samples; numbers or arrays.

    Attributes:
        seq_len: tokens that a token's attention sees.
        head_share: share of the tokens that reach the output head.
        fused: 1.0 where attention stores no scores.
    """

    seq_len: Num
    head_share: Num
    fused: Num


def encoder_passes(
    shape: EncoderShape,
    tokens: Num,
    device: ReplicaDevice,
    attention: PrefillKernel,
    chip: AttentionDevice,
    backward_rate: Num,
    moved: Num = 1.0,
) -> Passes:
    """Seconds of the forward and backward pass of ``tokens`` tokens, and the kernels of both together.

    Args:
        shape: the model and its samples.
        tokens: tokens of a micro-batch on one accelerator, padding included where it is computed.
        device: fitted matrix products.
        attention: fitted fused attention.
        chip: the device's figures that attention runs on.
        backward_rate: rate of fused attention's backward pass over that of its forward pass.
        moved: bytes that element-wise passes move over those of the fused kernels above.

    Example:
        >>> from mlsysim.physics.kernels.attention import SharedAttention
        >>> from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
        >>> from mlsysim.physics.kernels.passes import SharedDataParallel
        >>> kernel = GemmKernel(0.9, 180.0, 2.6, 0.8, 3e-6, SharedGemm(2.5, 2.5e-7, 12.0, 256.0))
        >>> shared = SharedDataParallel(5.0, 20e-6, 0.6)
        >>> a100 = ReplicaDevice(kernel, 290e12, 2.0, 2.0, 2.0, 1.9e12, 108.0, 40 * 2.0**20, 0.8, shared)
        >>> chip = AttentionDevice(290e12, 1.9e12, 108.0, 40 * 2.0**20, 1.0)
        >>> sizes = (24.0, 1024.0, 16.0, 16.0, 64.0, 4096.0, 2.0, 30522.0)
        >>> bert = EncoderShape(*sizes, seq_len=128.0, head_share=0.15, fused=0.0)
        >>> attention = PrefillKernel(11e-6, 0.5, 2.2e10, 180.0, 0.0, SharedAttention(0.8, 32.0, 2.0**24, 16.0, 0.6))
        >>> passes = encoder_passes(bert, 32768.0, a100, attention, chip, 0.62)
        >>> 0.3 < (passes.forward_s + passes.backward_s) < 0.5
        True
    """
    forward: Num = 0.0
    backward: Num = 0.0
    for one in layer_products(shape):
        forward = forward + one.share * _product_s(tokens, one.n, one.k, device)
        gradients = _product_s(tokens, one.k, one.n, device) + _product_s(one.n, one.k, tokens, device)
        backward = backward + one.share * gradients
    core = _attention_s(shape, tokens, device, attention, chip, backward_rate, moved)
    value_s = moved * device.element_B * tokens / device.streaming_Bps
    between, between_back = (_moved_values(shape, back) * value_s for back in (False, True))
    head, head_back = _head_s(shape, tokens, device)
    return Passes(
        shape.layers * (forward + core[0] + between) + head,
        shape.layers * (backward + core[1] + between_back) + head_back,
        shape.layers * (_FORWARD_KERNELS + _BACKWARD_KERNELS),
    )


def _moved_values(shape: EncoderShape, backward: bool) -> Num:
    """Values that a layer's element-wise passes move for a token: half the bytes of 16-bit ones."""
    block = block_B(shape, backward=backward) * shape.ffn
    return (RESIDUAL_B[backward] * shape.hidden + block + QKV_B[backward] * qkv_elements(shape, 1.0)) / 2


def _product_s(m: Num, n: Num, k: Num, device: ReplicaDevice) -> Num:
    widths_B = device.operand_B, device.operand_B, device.value_B
    chip = device.peak_flops_per_s, device.memory_Bps, device.multiprocessors, device.cache_B
    return gemm_s(m, n, k, *widths_B, device.gemm, *chip)


def _attention_s(
    shape: EncoderShape,
    tokens: Num,
    device: ReplicaDevice,
    kernel: PrefillKernel,
    chip: AttentionDevice,
    backward_rate: Num,
    moved: Num,
) -> tuple[Num, Num]:
    """Forward and backward seconds of attention to all s tokens: the causal half of 2 s, with half as many sequences."""
    sequences, heads = tokens / shape.seq_len, attention_heads(shape, 1.0)
    fused = training_attention_s(kernel, chip, sequences / 2, 2 * shape.seq_len, heads, backward_rate)
    scores = sequences * heads.heads * shape.seq_len**2
    products_s = 4 * scores * heads.head_dim / (device.shared.batched_share * device.peak_flops_per_s)
    score_s = moved * device.element_B * scores / device.streaming_Bps
    stored = products_s + _SCORE_FORWARD * score_s, 2 * products_s + _SCORE_BACKWARD * score_s
    return where(shape.fused > 0, fused[0], stored[0]), where(shape.fused > 0, fused[1], stored[1])


def _head_s(shape: EncoderShape, tokens: Num, device: ReplicaDevice) -> tuple[Num, Num]:
    """Forward and backward seconds of the output head on the masked tokens: products and the loss."""
    masked, vocab = maximum(1.0, tokens * shape.head_share), maximum(1.0, shape.vocab)
    loss_s = _HEAD_VALUES * device.value_B * masked * vocab / device.streaming_Bps
    forward = _product_s(masked, vocab, shape.hidden, device) + loss_s
    backward = _product_s(masked, shape.hidden, vocab, device) + _product_s(vocab, shape.hidden, masked, device)
    return where(shape.vocab > 0, forward, 0.0), where(shape.vocab > 0, backward, 0.0)
