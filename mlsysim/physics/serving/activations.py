"""Memory traffic of a serving engine's activations beside its matrix products: element-wise passes and stored scores.

Sources: Shoeybi et al. 2019, Korthikanti et al. 2022 (the tensors of a layer); llama.cpp, ``ggml-cuda``, May 2024 (kernels).
"""

from __future__ import annotations

from mlsysim.physics.layer.attention import attention_heads, qkv_elements
from mlsysim.physics.layer.element_bytes import QKV_B, SERVED_RESIDUAL_B, block_B
from mlsysim.physics.layer.kept import routed_copies
from mlsysim.physics.numeric import Num, maximum, minimum, somewhere, where
from mlsysim.physics.serving.deployment import ServedModel, ServingKernels

# Bytes of each copy of a token that an expert takes and gives back: gathered, scattered and summed.
_ROUTED_B = 10.0
# Bytes in an engine that keeps elements in 32 bits and runs each operation as a kernel (llama.cpp's graph). An element of the
# residual stream: two norms r4 w4 and their weights r4 w4, two additions r8 w4, inputs of the six products r4 w2 each where
# they are of its width, outputs of two r2 w4, merging of heads r4 w4. Of the feed-forward block: input r4 w2, two outputs
# r2 w4, activation r4 w4, product r8 w4. Of queries, keys and values: output r2 w4, rotation or store r4 w4.
_WIDE_RESIDUAL_B, _WIDE_FFN_B, _WIDE_QKV_B = 112.0, (26.0, 38.0), 14.0
# Attention of engines that store the scores in 32 bits, bytes that one moves: product w2 and its conversion r2 w4, softmax
# r4 w4, conversion r4 w2, product r2.
_WIDE_UNFUSED_B = 24.0
WIDE_B = 4.0  # of an element in 32 bits


def elementwise_layer_s(model: ServedModel, tokens: Num, over_mean: Num = 1.0) -> Num:
    """Seconds of a layer's passes between products, and of the small kernels of a layer of experts.

    ``over_mean``: copies of tokens on the busiest rank of experts over those on the mean one.
    """
    moved_s = _moved_s(model, tokens, over_mean)
    if not somewhere(model.shape.routed.layers):
        return moved_s
    byte_s = model.engine.byte_s if model.kernels.byte_experts else 0.0
    return moved_s + model.shape.routed.layers * (model.kernels.shared.routing_s + byte_s)


def _moved_s(model: ServedModel, tokens: Num, over_mean: Num) -> Num:
    """Seconds of the traffic; the cache feeds passes what fits there of what the one before wrote."""
    shape, shards, kernels, engine = model.shape, model.shards, model.kernels, model.engine
    routed = shape.routed
    width = shape.dense * shape.ffn + routed.layers * routed.shared_ffn
    routed_width = routed.layers * routed.per_token * routed.ffn
    routed_B = _ROUTED_B * shape.hidden * routed_copies(shape) * over_mean / shards.ep
    if model.has.wide:
        moved_B = engine.passes * _wide_layer_B(model, tokens, width + routed_width, routed_B)
        return moved_B / (kernels.streaming * kernels.own_Bps(engine))
    ffn_B = block_B(shape)
    qkv_width = qkv_elements(shape, shards.attention)
    padded_B = _padded_B(model, ffn_B)
    residual_B, ranks = SERVED_RESIDUAL_B * shape.hidden / shards.own, shards.own * shards.attention
    routed_B = routed_B + ffn_B * routed_width * over_mean / shards.tp
    moved_B = tokens * (residual_B + routed_B + ffn_B * width / ranks + QKV_B[0] * qkv_width / shards.own)
    # The longest lists: the residual stream twice read and once written, or the widest block read and written.
    list_width = maximum(3 * shape.hidden / shards.own, 2 * maximum((width + routed_width) / ranks, qkv_width / shards.own))
    cached_share = minimum(1.0, kernels.cache_B / maximum(tokens * kernels.element_B * list_width, 1.0))
    cached_Bps = max(kernels.cache_read_Bps, kernels.streaming_Bps)
    moved_B = engine.passes * (moved_B + padded_B) * kernels.element_B / 2
    return moved_B * ((1 - cached_share) / kernels.streaming_Bps + cached_share / cached_Bps)


def _padded_B(model: ServedModel, ffn_B: Num) -> Num:
    """Bytes of rows that hold no token: kernels of block-scaled experts fill up those of each expert that a rank has."""
    routed, shards, rows = model.shape.routed, model.shards, model.has.block_rows
    if not (rows and model.kernels.block_experts):
        return 0.0
    slots = (routed.experts + shards.redundant) / shards.ep
    row_B = _ROUTED_B * model.shape.hidden + ffn_B * routed.ffn * shards.ep / shards.tp
    return routed.layers * slots * rows * row_B


def _wide_layer_B(model: ServedModel, tokens: Num, width: Num, routed_B: Num) -> Num:
    """Bytes of a layer's passes in 32 bits, each operation a kernel of its own, less what the cache holds."""
    shape, shards, kernels = model.shape, model.shards, model.kernels
    missed_share = _missed(tokens * shape.hidden * WIDE_B, kernels)
    ffn_B = where(shape.ffn_matrices > 2, _WIDE_FFN_B[1], _WIDE_FFN_B[0]) * _missed(tokens * width * WIDE_B, kernels)
    stream_B = _WIDE_RESIDUAL_B * missed_share * shape.hidden / shards.own
    return tokens * (
        stream_B + routed_B + ffn_B * width / shards.tp + _WIDE_QKV_B * missed_share * qkv_elements(shape, shards.tp)
    )


def stored_score_s(model: ServedModel, scores: Num) -> Num:
    """Seconds of one score where ``scores`` are stored at a time: two batched products, the softmax between them."""
    kernels, has = model.kernels, model.has
    moved_B: Num = has.score_B * kernels.element_B / 2
    if has.wide:
        moved_B = _WIDE_UNFUSED_B * _missed(scores * WIDE_B, kernels)
    peak_flops_per_s = kernels.attention.peak_flops_per_s * kernels.shared.unfused_share
    return (
        4 * attention_heads(model.shape, 1.0).head_dim / peak_flops_per_s
        + moved_B * model.engine.passes / kernels.streaming_Bps
    )


def _missed(tensor_B: Num, kernels: ServingKernels) -> Num:
    """Share of memory traffic that misses the cache, of kernels that read one tensor of this size and write another.

    They read in the last-level cache what it holds beside the tensor that they write, as ``gemm_s`` does.
    """
    tensor_B = maximum(tensor_B, 1.0)
    cached_B = minimum(tensor_B, maximum(0.0, kernels.cache_B - 2 * tensor_B))
    return 1 - 0.5 * cached_B / tensor_B
