"""A transformer's layers as plain numbers: all that a layer computes, keeps, caches and sends follows from these.

Sources: Vaswani et al. 2017, arXiv:1706.03762 (the layer); Ainslie et al. 2023, arXiv:2305.13245 (groups of query heads);
DeepSeek-AI 2024, "DeepSeek-V2", arXiv:2405.04434, section 2.1 (latent attention) and 2.2 (routed and shared experts).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from mlsysim.physics.numeric import Num, minimum, somewhere


@dataclass(frozen=True, slots=True)
class LatentShape:
    """Ranks and head widths of latent attention; all zero where attention is an ordinary one.

    Attributes:
        query_rank, key_rank: elements of the compressed queries (0: not compressed), and of compressed keys and values.
        plain_dim, rotary_dim, value_dim: elements of a head's keys without and with rotary embedding, and of its values.
    """

    query_rank: Num = 0.0
    key_rank: Num = 0.0
    plain_dim: Num = 0.0
    rotary_dim: Num = 0.0
    value_dim: Num = 0.0

    @property
    def used(self) -> bool:
        """True where any layer has latent attention."""
        return somewhere(self.key_rank)


NO_LATENT = LatentShape()


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """The expert layers of a model; all zero where there are none.

    Attributes:
        experts, per_token: routed experts, and how many of them a token visits.
        ffn, shared_ffn: width of one expert, and of all shared experts together.
        layers: share of the model's layers that have experts.
        imbalance: tokens of the busiest rank over the mean, of a run that knows it; of experts with a fixed capacity, their
            places over the mean.
        masked_tokens: tokens of a sequence that products with a mask of places put in order by expert; 0 where they are copied.
        tile_rows, tile_width: rows, and input and output features, of the tiles in which one kernel computes all experts: two
            experts share no tile, and features fill whole ones; 0: the tiles of any product.
        tile_step_s: seconds that such a kernel takes for a tile beside its arithmetic.
        devices: devices that a framework sees in an accelerator, between which its tokens are divided: each has all experts.
    """

    experts: Num = 0.0
    per_token: Num = 0.0
    ffn: Num = 0.0
    shared_ffn: Num = 0.0
    layers: Num = 0.0
    imbalance: Num = 1.0
    masked_tokens: Num = 0.0
    tile_rows: Num = 0.0
    tile_width: Num = 0.0
    tile_step_s: Num = 0.0
    devices: Num = 1.0


NO_EXPERTS = ExpertShape()


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The layers of one transformer before anything divides them; numbers, or arrays of many transformers.

    Attributes:
        layers: number of blocks.
        hidden: width of the residual stream.
        heads, kv_heads, head_dim: query heads, heads of keys and values, and elements of one, where attention is no latent one.
        ffn, ffn_matrices: width of a dense feed-forward block; matrices of a block or an expert: 3 where it is gated, else 2.
        vocab: entries of the vocabulary; 0 where no output head is computed.
        window, windowed: keys that a query of a sliding-window layer sees (0: all), and the share of such layers.
        reductions: all-reduces of a layer's forward pass under tensor parallelism: after attention and after the feed-forward
            block, or one where these are parallel.
        biased, qkv_biased: 1.0 where all products have biases; where those of queries, keys and values have.
        relative: 1.0 where distances between tokens have a projection of their own (Transformer-XL).
        latent, routed: latent attention and expert layers, where there are any.
    """

    layers: Num
    hidden: Num
    heads: Num
    kv_heads: Num
    head_dim: Num
    ffn: Num
    ffn_matrices: Num
    vocab: Num
    window: Num = 0.0
    windowed: Num = 0.0
    reductions: Num = 2.0
    biased: Num = 0.0
    qkv_biased: Num = 0.0
    relative: Num = 0.0
    latent: LatentShape = NO_LATENT
    routed: ExpertShape = NO_EXPERTS

    @classmethod
    def extending(cls, layers: LayerShape, **further: Any) -> Self:
        """Layers with ``further`` fields, those of a derived shape and those that differ.

        Example:
            >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
            >>> LayerShape.extending(llama, vocab=0.0).vocab
            0.0
        """
        return cls(**{part.name: getattr(layers, part.name) for part in fields(layers)} | further)

    @property
    def query_width(self) -> Num:
        """Elements of all query heads, and of attention's output."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> Num:
        """Elements of all heads of keys; values have as many."""
        return self.kv_heads * self.head_dim

    def qkv_width(self, ranks: Num) -> Num:
        """Elements of queries, keys and values on one of ``ranks`` ranks, where attention is no latent one.

        Beyond one rank a key head, ranks repeat the key heads.

        Example:
            >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
            >>> llama.qkv_width(1.0), llama.qkv_width(16.0)
            (6144.0, 512.0)
        """
        return self.query_width / ranks + 2 * self.key_width / minimum(ranks, self.kv_heads)

    @property
    def dense(self) -> Num:
        """The share of layers whose feed-forward block is a dense one."""
        return 1.0 - self.routed.layers
