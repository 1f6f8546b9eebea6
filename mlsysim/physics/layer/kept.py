"""What a layer keeps of a token for its backward pass, in 16-bit elements.

Source: Korthikanti et al. 2022, arXiv:2205.05198, section 4 (here without dropout, and with attention that stores no scores).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.layer.attention import attention_heads
from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.numeric import Num, where


@dataclass(frozen=True, slots=True)
class KeptElements:
    """Elements that one token leaves in one layer, mean over its kinds of layers.

    Attributes:
        split, residual: what tensor parallelism divides, and what only sequence parallelism divides.
        selective_split, selective_residual: both where selective recomputation repeats the rest.
    """

    split: Num
    residual: Num
    selective_split: Num
    selective_residual: Num


def ffn_elements(shape: LayerShape) -> Num:
    """Width of the feed-forward block that a token passes, its experts' together (mean over layers).

    Example:
        >>> from mlsysim.physics.layer.shape import ExpertShape
        >>> experts = ExpertShape(8.0, 2.0, 14336.0, 0.0, 1.0)
        >>> ffn_elements(LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 1.0, 3.0, 32000.0, routed=experts))
        28672.0
    """
    routed = shape.routed
    return shape.dense * shape.ffn + routed.layers * (routed.per_token * routed.ffn + routed.shared_ffn)


def routed_copies(shape: LayerShape) -> Num:
    """Copies of a token that experts take, mean over layers."""
    return shape.routed.layers * shape.routed.per_token


def kept_elements(shape: LayerShape) -> KeptElements:
    """Count queries, keys, values and attention's output; the block's width before and after its activation function; norms.

    Each of the two norms keeps its input and its output, and a token's experts each a copy as they take it and as they give it
    back. Selective recomputation repeats norms and activation functions, and expands compressed queries, keys and values again:
    it keeps the compressed ones and attention's output.

    Example:
        >>> llama = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> kept_elements(llama)
        KeptElements(split=53248.0, residual=16384.0, selective_split=38912.0, selective_residual=8192.0)
    """
    seen, latent, width = attention_heads(shape, 1.0), shape.latent, ffn_elements(shape)
    attention = selective = 2 * (seen.heads + seen.kv_heads) * seen.head_dim
    compressed: Num = 0.0
    if latent.used:
        selective = where(latent.key_rank > 0, shape.heads * latent.value_dim, attention)
        compressed = latent.query_rank + latent.key_rank + latent.rotary_dim
    before, dispatched = (shape.ffn_matrices - 1) * width, 2 * routed_copies(shape) * shape.hidden
    return KeptElements(
        split=attention + before + width,
        residual=4 * shape.hidden + dispatched,
        selective_split=selective + before,
        selective_residual=2 * shape.hidden + compressed + dispatched,
    )
