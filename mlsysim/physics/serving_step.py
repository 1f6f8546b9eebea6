"""Prefill and decode passes of a transformer from measured kernels: matrix products by shape, attention, all-reduces, host.

A pass computes some tokens of some sequences through all layers: in a prefill all tokens of the prompts, in a decode step one
token a sequence. Its layers cost their kernels, and on top a constant that belongs to the engine: decode overhead is additive
per layer, not a factor.

Sources: Pope et al., "Efficiently Scaling Transformer Inference", 2022 (what a pass reads and sends); Shoeybi et al. 2019
(two all-reduces a layer); Kwon et al., "PagedAttention", 2023 (continuous batching).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mlsysim.physics.attention_kernels import decode_attention_s, prefill_attention_s
from mlsysim.physics.collective_kernels import collective_s
from mlsysim.physics.numeric import Num, everywhere, maximum, minimum, somewhere, where
from mlsysim.physics.serving_deployment import EngineCoefficients, EngineKernels, ServingKernels, ServingShape, Shards
from mlsysim.physics.serving_products import Product, layer_products_s, product_s, scaled

# Bytes that norms, residuals, activation functions, rotary embedding and the cache update move per 16-bit element of the
# residual stream, of the feed-forward block (plain, gated) and of queries, keys and values.
_RESIDUAL_B, _FFN_B, _QKV_B = 16.0, (4.0, 6.0), 5.0
# Of each copy of a token that an expert takes and gives back: gathered, scattered and summed.
_ROUTED_B = 10.0
# Attention of engines that store the scores (FasterTransformer's unfused path): as in training, bytes at 16 bits.
_UNFUSED_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class PassTime:
    """Parts of a pass through all layers, in seconds; they add (``hops_s`` is a part of ``reductions_s``)."""

    weights_s: Num
    attention_s: Num
    elementwise_s: Num
    reductions_s: Num
    head_s: Num
    host_s: Num
    hops_s: Num

    @property
    def layer_reductions_s(self) -> Num:
        """All-reduces without the hand-overs between stages."""
        return self.reductions_s - self.hops_s

    @property
    def total_s(self) -> Num:
        """The whole pass."""
        return self.weights_s + self.attention_s + self.elementwise_s + self.reductions_s + self.head_s + self.host_s

    def parts(self) -> tuple[dict[str, float], str]:
        """Seconds by name, and the longest."""
        named = {
            "matrix products": float(self.weights_s),
            "attention": float(self.attention_s),
            "element-wise passes": float(self.elementwise_s),
            "communication": float(self.reductions_s),
            "logits": float(self.head_s),
            "engine overhead": float(self.host_s),
        }
        return named, max(named, key=lambda part: named[part])


def decode_pass(
    shape: ServingShape,
    batch: Num,
    context: Num,
    shards: Shards,
    kernels: ServingKernels,
    engine: EngineCoefficients,
    has: EngineKernels,
) -> PassTime:
    """One token of each of ``batch`` sequences that hold ``context`` tokens.

    Pipeline stages work on a ``pp``-th of the batch each, at the same time: a token still passes all layers.
    """
    share = maximum(batch / shards.pp, minimum(batch, 1.0))
    attention_s = decode_layer_attention_s(shape, share, context, shards, kernels, has) / engine.attention_share
    return _pass(shape, share, share, attention_s, shards, kernels, engine, has, batch)


def decode_layer_attention_s(
    shape: ServingShape, batch: Num, context: Num, shards: Shards, kernels: ServingKernels, has: EngineKernels
) -> Num:
    """Attention of one layer in a decode step, mean over windowed and other layers.

    Without a grouped kernel each query head reads its keys for itself, from the last-level cache once the group's first has
    fetched them: max(bytes / memory, group bytes / cache bandwidth).
    """
    batch = batch / shards.own
    heads = maximum(shape.heads / shards.attention, 1.0)
    kv_heads = maximum(shape.cached_heads / shards.attention, 1.0)
    args = (kernels.decode, kernels.attention, batch, context, heads, kv_heads, shape.cached_dim, kernels.kv_B)
    attention_s = decode_attention_s(*args)
    if somewhere(shape.windowed > 0):
        attention_s = (1 - shape.windowed) * attention_s + shape.windowed * decode_attention_s(*args, shape.window)
    if has.grouped_decode and not has.only_group:
        return attention_s
    repeated_B = 2 * batch * heads * context * shape.cached_dim * kernels.kv_B
    again_Bps = kernels.memory_Bps if has.repeats_memory else kernels.multiprocessors * _CACHE_READ_Bps
    repeated_s = kernels.decode.floor_s + repeated_B / again_Bps
    covered = has.grouped_decode & (heads == has.only_group * kv_heads) & (shape.cached_dim == has.only_head_dim)
    return where(covered, attention_s, maximum(attention_s, repeated_s))


# Rate at which one multiprocessor reads from the last-level cache: keys and values again, what the kernel before has written.
_CACHE_READ_Bps = 33e9


def prefill_pass(
    shape: ServingShape,
    batch: Num,
    prompt: Num,
    shards: Shards,
    kernels: ServingKernels,
    engine: EngineCoefficients,
    has: EngineKernels,
    padding: Num = 1.0,
) -> PassTime:
    """The prompts of ``batch`` sequences, to their first token; pipeline stages fill with parts of the batch.

    ``padding`` is the longest prompt over the mean ``prompt``.
    """
    parts = minimum(shards.pp, maximum(batch, 1.0))
    if has.stage_tokens:
        halvings = np.ceil(np.log2(maximum(batch / parts * prompt * padding / has.stage_tokens, 1.0)))
        parts = where(shards.pp > 1, minimum(parts * 2.0**halvings, maximum(batch, 1.0)), parts)
    share = batch / parts
    attention_s = prefill_layer_attention_s(shape, share, prompt, shards, kernels, engine, has, padding)
    filled = (parts + shards.pp - 1) / shards.pp
    if has.chunk:
        tokens = minimum(share * prompt, has.chunk)
        chunks = share * prompt / tokens
        each = _pass(shape, tokens, share, attention_s / chunks, shards, kernels, engine, has, batch)
        filled = filled * (chunks + shards.pp - 1) / shards.pp
        whole = replace(each, host_s=each.host_s * chunks)
    else:
        whole = _pass(shape, share * prompt, share, attention_s, shards, kernels, engine, has, batch)
    return replace(
        whole,
        weights_s=whole.weights_s * filled,
        attention_s=whole.attention_s * filled,
        elementwise_s=whole.elementwise_s * filled,
        reductions_s=whole.reductions_s * filled,
        host_s=whole.host_s + engine.request_s,
    )


def prefill_layer_attention_s(
    shape: ServingShape,
    batch: Num,
    prompt: Num,
    shards: Shards,
    kernels: ServingKernels,
    engine: EngineCoefficients,
    has: EngineKernels,
    padding: Num = 1.0,
) -> Num:
    """Attention of one layer over whole prompts; stored scores are those of the longest prompt for all of them."""
    batch = batch / shards.own
    heads = maximum(shape.heads / shards.attention, 1.0)
    longest = prompt * padding
    covered = has.flash_prefill & ((has.flash_head_dim == 0) | (shape.head_dim == has.flash_head_dim))
    covered = covered & ((has.flash_longest == 0) | (longest <= has.flash_longest))
    flash_s = stored_s = 0.0 * longest
    if somewhere(covered):
        kv_heads = maximum(shape.kv_heads / shards.attention, 1.0)
        flash_s = _flash_s(shape, batch, prompt, heads, kv_heads, kernels, has)
    if not everywhere(covered):
        stored_s = _stored_scores_s(batch * heads * longest**2, shape, kernels, engine, has)
    return where(covered, flash_s, stored_s)


def _flash_s(
    shape: ServingShape, batch: Num, prompt: Num, heads: Num, kv_heads: Num, kernels: ServingKernels, has: EngineKernels
) -> Num:
    """The fused kernel. Attention to all of s tokens is the causal half of 2 s, with half as many sequences."""
    if not has.causal:
        batch, prompt = batch / 2, 2 * prompt
    args = (kernels.prefill, kernels.attention, batch, prompt, heads, kv_heads, shape.head_dim, kernels.kv_B)
    attention_s = prefill_attention_s(*args)
    if somewhere(shape.windowed > 0):
        attention_s = (1 - shape.windowed) * attention_s + shape.windowed * prefill_attention_s(*args, shape.window)
    return attention_s


def _stored_scores_s(
    scores: Num, shape: ServingShape, kernels: ServingKernels, engine: EngineCoefficients, has: EngineKernels
) -> Num:
    """Two batched products with the softmax between them, through memory."""
    peak = kernels.attention.peak_flops_per_s * _UNFUSED_SHARE
    moved_s = has.score_B * kernels.element_B / 2 * engine.passes / kernels.streaming_Bps
    return scores * (4 * shape.head_dim / peak + moved_s) + 2 * kernels.gemm.launch_s


def mixed_prefill_s(
    shape: ServingShape,
    step: PassTime,
    batch: Num,
    prompt: Num,
    tokens: Num,
    shards: Shards,
    kernels: ServingKernels,
    engine: EngineCoefficients,
    has: EngineKernels,
) -> Num:
    """What ``tokens`` tokens of prompts of ``prompt`` tokens add to a decode ``step`` of ``batch`` sequences that they join.

    The step reads its weights and pays its overheads anyhow: only what the longer products, their all-reduces and their own
    attention take beyond it is added.
    """
    share, added = batch / shards.pp, tokens / shards.pp
    attention_s = prefill_layer_attention_s(shape, added / prompt, prompt, shards, kernels, engine, has)
    joined_s = _layer_s(shape, share + added, shards, kernels, engine, has)
    return shape.layers * (joined_s + attention_s) - (step.weights_s + step.elementwise_s + step.layer_reductions_s)


def _layer_s(
    shape: ServingShape, tokens: Num, shards: Shards, kernels: ServingKernels, engine: EngineCoefficients, has: EngineKernels
) -> Num:
    """One layer without attention and host."""
    products_s = layer_products_s(shape, tokens, shards, kernels, engine, has)
    reduce_s = _all_reduce_s(tokens * shape.hidden * 2.0, shards, kernels, engine, has)
    return products_s + elementwise_layer_s(shape, tokens, shards, kernels, engine) + _reductions(shape, shards) * reduce_s


def _reductions(shape: ServingShape, shards: Shards) -> Num:
    """All-reduces of a layer; ranks that attend for themselves gather and scatter tokens once for its experts."""
    return where(shards.own > 1, 1.0 - shape.dense, shape.reductions)


def elementwise_layer_s(
    shape: ServingShape, tokens: Num, shards: Shards, kernels: ServingKernels, engine: EngineCoefficients
) -> Num:
    """Passes between the products: what one reads and writes moves at the last-level cache's rate, as far as it fits there."""
    gated = where(shape.ffn_matrices > 2, _FFN_B[1], _FFN_B[0])
    width = shape.dense * shape.ffn + (1 - shape.dense) * (shape.experts_per_token * shape.expert_ffn + shape.shared_ffn)
    routed_B = _ROUTED_B * shape.hidden * (1 - shape.dense) * shape.experts_per_token
    residual_B = _RESIDUAL_B * shape.hidden / shards.own
    moved_B = tokens * (residual_B + routed_B + (gated * width + _QKV_B * shape.qkv_width) / shards.tp)
    # The longest lists: the residual stream twice read and once written, or the widest block read and written.
    wide = maximum(3 * shape.hidden / shards.own, 2 * maximum(width, shape.qkv_width) / shards.tp)
    cached = minimum(1.0, kernels.cache_B / maximum(tokens * kernels.element_B * wide, 1.0))
    cached_Bps = max(kernels.multiprocessors * _CACHE_READ_Bps, kernels.streaming_Bps)
    moved_B = engine.passes * moved_B * kernels.element_B / 2
    return moved_B * ((1 - cached) / kernels.streaming_Bps + cached / cached_Bps)


def _pass(
    shape: ServingShape,
    tokens: Num,
    sequences: Num,
    attention_s: Num,
    shards: Shards,
    kernels: ServingKernels,
    engine: EngineCoefficients,
    has: EngineKernels,
    batch: Num,
) -> PassTime:
    layer_s = layer_products_s(shape, tokens, shards, kernels, engine, has)
    head_s: Num = 0.0 * tokens
    if somewhere(shape.vocab > 0):
        head = scaled(Product(kernels.head_gemm, 2.0, kernels.head_weight_B, kernels.head_peak_flops_per_s), engine)
        width = maximum(shape.vocab, 1.0) / shards.attention
        head_s = product_s(sequences / shards.own, width, shape.hidden, head, kernels, engine, has)
    reduce_s = _all_reduce_s(tokens * shape.hidden * 2.0, shards, kernels, engine, has)
    hops_s = (shards.pp - 1) * (engine.hop_s + tokens * shape.hidden * 2.0 / kernels.nic_Bps)
    scaled_s = engine.scaling_s if kernels.scales else 0.0
    layer_host_s = engine.layer_s + engine.layer_sequence_s * batch + scaled_s - where(shards.tp > 1, engine.fused_s, 0.0)
    return PassTime(
        weights_s=shape.layers * layer_s,
        attention_s=shape.layers * attention_s,
        elementwise_s=shape.layers * elementwise_layer_s(shape, tokens, shards, kernels, engine),
        reductions_s=shape.layers * _reductions(shape, shards) * reduce_s + hops_s,
        head_s=head_s,
        host_s=shape.layers * layer_host_s + engine.step_s + engine.sequence_s * batch / shards.own,
        hops_s=hops_s,
    )


def _all_reduce_s(size_B: Num, shards: Shards, kernels: ServingKernels, engine: EngineCoefficients, has: EngineKernels) -> Num:
    """Within a node as measured; among nodes a tree on top, over all cards of a node. Messages pass both in pieces, at once."""
    links, share, ranks = kernels.collectives, engine.latency_share, minimum(shards.tp, shards.node)
    links = replace(
        links,
        bandwidth_Bps=links.bandwidth_Bps * where(2 * ranks > shards.node, kernels.crossing_share, 1.0),  # type: ignore[arg-type]
        launch_s=links.launch_s * share,  # type: ignore[arg-type]
        ll_step_s=links.ll_step_s * share,  # type: ignore[arg-type]
        simple_step_s=links.simple_step_s * share,  # type: ignore[arg-type]
    )
    inside_s = collective_s("all_reduce", size_B, ranks, links, has.switch_reduces)
    nodes = shards.tp / shards.node
    if not somewhere(nodes > 1):
        return inside_s
    depth = np.ceil(np.log2(maximum(nodes, 1.0)))
    wire_s = 2 * size_B / (shards.node * kernels.nic_Bps)
    return where(nodes > 1, 2 * depth * kernels.fabric.level_s + maximum(inside_s, wire_s), inside_s)
