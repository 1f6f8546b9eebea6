"""Attention of a layer beyond its products: heads that a kernel sees, keys that a query sees, what a token leaves cached.

Latent attention runs on kernels of an ordinary one that has as much arithmetic: over expanded keys and values in a prefill and
in training, over the compressed vectors as they are cached in a decode step.

Sources: DeepSeek-AI 2024, "DeepSeek-V2", arXiv:2405.04434, section 2.1; Beltagy et al. 2020, arXiv:2004.05150 (windows).
"""

from __future__ import annotations

from mlsysim.physics.kernels.attention import AttentionHeads, attended_keys
from mlsysim.physics.layer.shape import LatentShape, LayerShape
from mlsysim.physics.numeric import Num, maximum, minimum, where


def attention_heads(shape: LayerShape, ranks: Num, kv_B: Num = 2.0, *, absorbed: bool = False) -> AttentionHeads:
    """The heads of a rank as its attention kernel sees them.

    Args:
        shape: the layer.
        ranks: ranks that share the heads; each has one at least.
        kv_B: bytes of an element of the cache.
        absorbed: whether latent attention works on the vectors as they are cached (a decode step).

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> attention_heads(llama, 4.0).heads, attention_heads(llama, 16.0).kv_heads
        (8.0, 1.0)
    """
    latent, kv_heads, width = shape.latent, shape.kv_heads, shape.head_dim
    absorbed_dim: Num = 0.0
    if latent.used:
        is_latent = latent.key_rank > 0
        if absorbed:
            # The cache holds one vector a token where attention elsewhere holds a key and a value.
            kv_heads = where(is_latent, 1.0, kv_heads)
            width = where(is_latent, (latent.key_rank + latent.rotary_dim) / 2, width)
            absorbed_dim = latent.key_rank + latent.rotary_dim / 2
        else:
            kv_heads, width = where(is_latent, shape.heads, kv_heads), where(is_latent, expanded_head_dim(latent), width)
    heads = maximum(shape.heads / ranks, 1.0)
    return AttentionHeads(heads, maximum(kv_heads / ranks, 1.0), width, kv_B, 0.0, absorbed_dim, 1.0)


def expanded_head_dim(latent: LatentShape) -> Num:
    """The head width of an ordinary attention kernel with as much arithmetic: the mean of keys and values.

    Example:
        >>> expanded_head_dim(LatentShape(1536.0, 512.0, 128.0, 64.0, 128.0))
        160.0
    """
    return (latent.plain_dim + latent.rotary_dim + latent.value_dim) / 2


def keys_seen(shape: LayerShape, tokens: Num, *, causal: bool) -> Num:
    """Keys that a query of a pass over ``tokens`` tokens sees, mean over its place and over windowed and other layers.

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0, window=1024.0, windowed=0.5)
        >>> keys_seen(llama, 4096.0, causal=True), keys_seen(llama, 4096.0, causal=False)
        (1472.0, 2560.0)
    """
    if not causal:
        return cached_tokens(shape, tokens)
    near = attended_keys(tokens, shape.window)
    return (1 - shape.windowed) * attended_keys(tokens) + shape.windowed * near


def cached_tokens(shape: LayerShape, context: Num) -> Num:
    """Tokens of a ``context`` whose keys and values are kept and read, mean over the layers (windowed ones keep the window).

    Example:
        >>> gemma = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0, window=1024.0, windowed=0.75)
        >>> cached_tokens(gemma, 4096.0), cached_tokens(gemma, 512.0)
        (1792.0, 512.0)
    """
    reach = where(shape.window > 0, minimum(context, shape.window), context)
    return (1 - shape.windowed) * context + shape.windowed * reach


def cached_elements(shape: LayerShape) -> Num:
    """Elements that one token leaves in the cache of one layer: a key and a value a head, or the compressed vector.

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> cached_elements(llama)
        2048.0
    """
    plain, latent = 2 * shape.key_width, shape.latent
    return where(latent.key_rank > 0, latent.key_rank + latent.rotary_dim, plain) if latent.used else plain


def qkv_elements(shape: LayerShape, ranks: Num) -> Num:
    """Elements a token of queries, keys and values on one rank; of latent attention with the compressed ones, which all repeat.

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> qkv_elements(llama, 1.0), qkv_elements(llama, 16.0)
        (6144.0, 512.0)
    """
    plain, latent = shape.qkv_width(ranks), shape.latent
    if not latent.used:
        return plain
    head = 2 * (latent.plain_dim + latent.rotary_dim) + latent.value_dim
    expanded = shape.heads * head / ranks + latent.query_rank + latent.key_rank + latent.rotary_dim
    return where(latent.key_rank > 0, expanded, plain)


def score_flops(shape: LayerShape, *, absorbed: bool = False) -> Num:
    """FLOP of one query token's scores and weighted values, for each key that it sees: 2 heads (width of keys + of values).

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> score_flops(llama)
        16384.0
    """
    seen = attention_heads(shape, 1.0, absorbed=absorbed)
    width = where(seen.absorbed_dim > 0, seen.absorbed_dim, seen.head_dim)
    return 4 * seen.heads * width


def ring_elements(shape: LayerShape) -> Num:
    """Elements of one token's keys and values as attention kernels take them, which context-parallel ranks pass on.

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> ring_elements(llama)
        2048.0
    """
    seen = attention_heads(shape, 1.0)
    return 2 * seen.kv_heads * seen.head_dim
