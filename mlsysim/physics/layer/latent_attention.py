"""Matrix products of multi-head latent attention: keys and values from one compressed vector a token.

Source: DeepSeek-AI 2024, "DeepSeek-V2", arXiv:2405.04434, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.numeric import Num, maximum, somewhere, where


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


def latent_products(shape: LatentShape, hidden: Num, heads: Num, tp: Num) -> tuple[tuple[Num, Num, Num], ...]:
    """(share, n, k) of a rank's products: compress and expand queries, compress and expand keys and values, output.

    What compresses is not split over TP: every rank repeats it.

    Example:
        >>> deepseek = LatentShape(1536.0, 512.0, 128.0, 64.0, 128.0)
        >>> sum(share * n * k for share, n, k in latent_products(deepseek, 7168.0, 128.0, 1.0))
        187105280.0
    """
    query = heads * (shape.plain_dim + shape.rotary_dim) / tp
    compressed = where(shape.query_rank > 0, 1.0, 0.0)
    return (
        (compressed, maximum(shape.query_rank, 1.0), hidden),
        (1.0, maximum(query, 1.0), where(shape.query_rank > 0, shape.query_rank, hidden)),
        (1.0, maximum(shape.key_rank + shape.rotary_dim, 1.0), hidden),
        (1.0, maximum(heads * (shape.plain_dim + shape.value_dim) / tp, 1.0), maximum(shape.key_rank, 1.0)),
        (1.0, hidden, maximum(heads * shape.value_dim / tp, 1.0)),
    )


def absorbed_products(shape: LatentShape, heads: Num, tp: Num) -> tuple[tuple[Num, Num, Num], ...]:
    """(groups, n, k) of a rank's products that a decode step has where a prefill expands keys and values.

    Each head's queries take on its keys' expansion, and its output that of its values, so that the compressed vectors are
    attended to as they are cached: the same weights and arithmetic, one small product a head.

    Example:
        >>> deepseek = LatentShape(1536.0, 512.0, 128.0, 64.0, 128.0)
        >>> sum(groups * n * k for groups, n, k in absorbed_products(deepseek, 128.0, 8.0)), 16 * 256 * 512
        (2097152.0, 2097152)
    """
    groups, rank = maximum(heads / tp, 1.0), maximum(shape.key_rank, 1.0)
    return (groups, rank, maximum(shape.plain_dim, 1.0)), (groups, maximum(shape.value_dim, 1.0), rank)


def latent_elements(shape: LatentShape, heads: Num, tp: Num) -> Num:
    """Elements a token of queries, keys and values on one rank, compressed ones included.

    Example:
        >>> latent_elements(LatentShape(1536.0, 512.0, 128.0, 64.0, 128.0), 128.0, 1.0)
        67648.0
    """
    head = 2 * (shape.plain_dim + shape.rotary_dim) + shape.value_dim
    return heads * head / tp + shape.query_rank + shape.key_rank + shape.rotary_dim


def latent_head_dim(shape: LatentShape) -> Num:
    """The head width of an ordinary attention kernel with as much arithmetic: the mean of keys and values.

    Example:
        >>> latent_head_dim(LatentShape(1536.0, 512.0, 128.0, 64.0, 128.0))
        160.0
    """
    return (shape.plain_dim + shape.rotary_dim + shape.value_dim) / 2


def absorbed_dim(shape: LatentShape) -> Num:
    """The head width of an ordinary kernel with as much arithmetic as attention to the vectors as they are cached.

    Example:
        >>> absorbed_dim(LatentShape(1536.0, 512.0, 128.0, 64.0, 128.0))
        544.0
    """
    return shape.key_rank + shape.rotary_dim / 2
