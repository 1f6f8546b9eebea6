"""The matrix products of a transformer's layer: the one list that training, serving, encoders and counts of parameters go by.

Each product multiplies rows of k input features by a matrix of n output features; how many rows is for the caller to say. A new
kind of attention or of feed-forward block is added here, and all of them have it.

Sources: Shoeybi et al. 2019, arXiv:1909.08053, section 3 (which products tensor parallelism cuts by their outputs, and which by
their inputs); Shazeer 2020, arXiv:2002.05202 (gated blocks: two matrices before the activation function); DeepSeek-AI 2024,
arXiv:2405.04434, section 2.1 (latent attention, and what a decode step absorbs) and 2.2 (routed and shared experts).
"""

from __future__ import annotations

from typing import NamedTuple

from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.numeric import Num, everywhere, maximum, somewhere, where

QKV, OUTPUT = "query, key and value", "attention output"
COMPRESSION, EXPANSION = "latent compression", "latent expansion"
UP, DOWN = "feed-forward up", "feed-forward down"
EXPERTS_UP, EXPERTS_DOWN = "experts up", "experts down"
SHARED_UP, SHARED_DOWN, ROUTING = "shared expert up", "shared expert down", "routing"
# Tokens put in order by expert, and back, by products with a mask of places.
ORDERED = "order by expert"
OF_EXPERTS = (EXPERTS_UP, EXPERTS_DOWN, SHARED_UP, SHARED_DOWN, ROUTING, ORDERED)

# Parts of a layer: products around attention; of a dense block, of shared experts, of routed ones, and the router's scores.
AROUND, DENSE, SHARED, ROUTED, ROUTER = "around attention", "dense block", "shared experts", "routed experts", "router"


class LayerProduct(NamedTuple):
    """One matrix product of a layer, on one rank.

    Attributes:
        name: what it computes.
        part: the part of the layer that it belongs to, which says what its rows are and which weights it reads.
        share: share of the model's layers that have it.
        n, k: its output and input features.
        groups: products of this shape in one kernel: of routed experts all there are, of which a rank may hold a part.
    """

    name: str
    part: str
    share: Num
    n: Num
    k: Num
    groups: Num = 1.0


def layer_products(
    shape: LayerShape, ranks: Num = 1.0, expert_ranks: Num = 1.0, *, fused: bool = False, absorbed: bool = False
) -> tuple[LayerProduct, ...]:
    """All products of a layer on one rank, in their order; a product that no layer has is left out.

    Args:
        shape: the layer.
        ranks: ranks that share the products of attention, of dense blocks and of shared experts.
        expert_ranks: ranks that share the matrices of one routed expert.
        fused: whether what compresses queries, and keys and values, is one product.
        absorbed: whether latent attention works on the vectors as they are cached (a decode step).

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> [(one.name, one.n, one.k) for one in layer_products(llama, ranks=2.0)][:2]
        [('query, key and value', 3072.0, 4096.0), ('attention output', 4096.0, 2048.0)]
        >>> sum(one.n * one.k for one in layer_products(llama))
        218103808.0
    """
    around = attention_products(shape, ranks, fused=fused, absorbed=absorbed)
    return (*around, *_dense_products(shape, ranks), *_expert_products(shape, ranks, expert_ranks))


def attention_products(
    shape: LayerShape, ranks: Num = 1.0, *, fused: bool = False, absorbed: bool = False
) -> tuple[LayerProduct, ...]:
    """The products around attention.

    Args:
        shape: the layer.
        ranks: ranks that share the heads.
        fused: whether what compresses queries, and keys and values, is one product.
        absorbed: whether latent attention works on the vectors as they are cached (a decode step).
    """
    latent = shape.latent
    if not latent.used:
        return _plain_products(shape, ranks, 1.0)
    if everywhere(latent.key_rank > 0):
        return _latent_products(shape, ranks, 1.0, fused, absorbed)
    share = where(latent.key_rank > 0, 1.0, 0.0)
    return (*_plain_products(shape, ranks, 1.0 - share), *_latent_products(shape, ranks, share, fused, absorbed))


def _plain_products(shape: LayerShape, ranks: Num, share: Num) -> tuple[LayerProduct, ...]:
    return (
        LayerProduct(QKV, AROUND, share, shape.qkv_width(ranks), shape.hidden),
        LayerProduct(OUTPUT, AROUND, share, shape.hidden, shape.query_width / ranks),
    )


def _latent_products(shape: LayerShape, ranks: Num, share: Num, fused: bool, absorbed: bool) -> tuple[LayerProduct, ...]:
    """Compress and expand queries, compress and expand keys and values, output; what compresses is repeated by every rank.

    Absorbed, each head's queries take on its keys' expansion, and its output that of its values, so that the compressed vectors
    are attended to as they are cached: the same weights and arithmetic, one small product a head.
    """
    latent, hidden, heads = shape.latent, shape.hidden, shape.heads / ranks
    compresses = where(latent.query_rank > 0, 1.0, 0.0)
    cached = maximum(latent.key_rank + latent.rotary_dim, 1.0)
    queries = maximum(heads * (latent.plain_dim + latent.rotary_dim), 1.0)
    key_rank, values = maximum(latent.key_rank, 1.0), maximum(latent.value_dim, 1.0)
    products = []
    if fused:
        products.append(LayerProduct(COMPRESSION, AROUND, share, compresses * latent.query_rank + cached, hidden))
    else:
        products.append(LayerProduct(COMPRESSION, AROUND, share * compresses, maximum(latent.query_rank, 1.0), hidden))
        products.append(LayerProduct(COMPRESSION, AROUND, share, cached, hidden))
    products.append(LayerProduct(EXPANSION, AROUND, share, queries, where(latent.query_rank > 0, latent.query_rank, hidden)))
    if absorbed:
        groups = maximum(heads, 1.0)
        products.append(LayerProduct(EXPANSION, AROUND, share, key_rank, maximum(latent.plain_dim, 1.0), groups))
        products.append(LayerProduct(EXPANSION, AROUND, share, values, key_rank, groups))
    else:
        expanded = maximum(heads * (latent.plain_dim + latent.value_dim), 1.0)
        products.append(LayerProduct(EXPANSION, AROUND, share, expanded, key_rank))
    products.append(LayerProduct(OUTPUT, AROUND, share, hidden, maximum(heads * latent.value_dim, 1.0)))
    return tuple(products)


def _dense_products(shape: LayerShape, ranks: Num) -> tuple[LayerProduct, ...]:
    """Up (and gate) and down of a dense feed-forward block."""
    share = shape.dense
    if not somewhere(share > 0):
        return ()
    return _block(UP, DOWN, DENSE, share, shape, shape.ffn / ranks)


def _expert_products(shape: LayerShape, ranks: Num, expert_ranks: Num) -> tuple[LayerProduct, ...]:
    """The products of routed experts, of shared ones, which see every token, and the router's scores, which no rank divides."""
    routed = shape.routed
    if not somewhere(routed.layers):
        return ()
    experts = maximum(routed.experts, 1.0)
    width = maximum(routed.ffn / expert_ranks, 1.0)
    products = _block(EXPERTS_UP, EXPERTS_DOWN, ROUTED, routed.layers, shape, width, experts)
    if somewhere(routed.shared_ffn):
        share, width = where(routed.shared_ffn > 0, routed.layers, 0.0), maximum(routed.shared_ffn / ranks, 1.0)
        products += _block(SHARED_UP, SHARED_DOWN, SHARED, share, shape, width)
    return (*products, LayerProduct(ROUTING, ROUTER, routed.layers, experts, shape.hidden))


def _block(
    up: str, down: str, part: str, share: Num, shape: LayerShape, width: Num, groups: Num = 1.0
) -> tuple[LayerProduct, ...]:
    return (
        LayerProduct(up, part, share, (shape.ffn_matrices - 1) * width, shape.hidden, groups),
        LayerProduct(down, part, share, shape.hidden, width, groups),
    )
