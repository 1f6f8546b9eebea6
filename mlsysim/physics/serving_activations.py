"""What a serving engine's activations move through memory beside its matrix products: element-wise passes and stored scores.

Sources: Shoeybi et al. 2019, Korthikanti et al. 2022 (the tensors of a layer); llama.cpp, ``ggml-cuda``, May 2024 (kernels).
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, maximum, minimum, where
from mlsysim.physics.serving_deployment import EngineCoefficients, EngineKernels, ServingKernels, ServingShape, Shards

# Bytes that norms, residuals, activation functions, rotary embedding and the cache update move per 16-bit element of the
# residual stream, of the feed-forward block (plain, gated) and of queries, keys and values.
_RESIDUAL_B, _FFN_B, _QKV_B = 16.0, (4.0, 6.0), 5.0
# Of each copy of a token that an expert takes and gives back: gathered, scattered and summed.
_ROUTED_B = 10.0
# The same of an engine that keeps them in 32 bits and runs each operation as a kernel (llama.cpp's graph). An element of the
# residual stream: two norms r4 w4 and their weights r4 w4, two additions r8 w4, inputs of the six products r4 w2 each where
# they are of its width, outputs of two r2 w4, merging of heads r4 w4. Of the feed-forward block: input r4 w2, two outputs
# r2 w4, activation r4 w4, product r8 w4. Of queries, keys and values: output r2 w4, rotation or store r4 w4.
_WIDE_RESIDUAL_B, _WIDE_FFN_B, _WIDE_QKV_B = 112.0, (26.0, 38.0), 14.0
# Attention of engines that store the scores (FasterTransformer's unfused path): as in training. In 32 bits: product w2 and its
# conversion r2 w4, softmax r4 w4, conversion r4 w2, product r2.
_UNFUSED_SHARE, _UNFUSED_B, _WIDE_UNFUSED_B = 0.6, 13.0, 24.0
WIDE_B = 4.0  # of an element in 32 bits


def elementwise_layer_s(
    shape: ServingShape, tokens: Num, shards: Shards, kernels: ServingKernels, engine: EngineCoefficients, has: EngineKernels
) -> Num:
    """Element-wise passes of one layer over ``tokens``."""
    width = shape.dense * shape.ffn + (1 - shape.dense) * (shape.experts_per_token * shape.expert_ffn + shape.shared_ffn)
    residual_B: Num = _RESIDUAL_B
    qkv_B: Num = _QKV_B
    ffn_B = where(shape.ffn_matrices > 2, _FFN_B[1], _FFN_B[0])
    if has.wide:
        missed = _missed(tokens * shape.hidden * WIDE_B, kernels)
        residual_B, qkv_B = _WIDE_RESIDUAL_B * missed, _WIDE_QKV_B * missed
        ffn_B = where(shape.ffn_matrices > 2, _WIDE_FFN_B[1], _WIDE_FFN_B[0]) * _missed(tokens * width * WIDE_B, kernels)
    routed_B = _ROUTED_B * shape.hidden * (1 - shape.dense) * shape.experts_per_token
    stream_B = residual_B * shape.hidden / shards.own
    moved_B = tokens * (stream_B + routed_B + (ffn_B * width + qkv_B * shape.qkv_width) / shards.tp)
    return engine.passes * moved_B / kernels.own_streaming_Bps


def stored_score_s(head_dim: Num, scores: Num, kernels: ServingKernels, engine: EngineCoefficients, has: EngineKernels) -> Num:
    """Seconds of one score where they are stored, so many at a time: its two products, and what it moves."""
    moved_B: Num = _UNFUSED_B
    if has.wide:
        moved_B = _WIDE_UNFUSED_B * _missed(scores * WIDE_B, kernels)
    peak_flops_per_s = kernels.attention.peak_flops_per_s * _UNFUSED_SHARE
    return 4 * head_dim / peak_flops_per_s + moved_B * engine.passes / kernels.streaming_Bps


def _missed(tensor_B: Num, kernels: ServingKernels) -> Num:
    """Share of the memory traffic of kernels that read the tensor of this size that the last one wrote, and write another.

    They read in the last-level cache what it holds beside the tensor that they write: as ``gemm_s``.
    """
    tensor_B = maximum(tensor_B, 1.0)
    held_B = minimum(tensor_B, maximum(0.0, kernels.cache_B - 2 * tensor_B))
    return 1 - 0.5 * held_B / tensor_B
