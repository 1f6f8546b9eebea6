"""Bytes that the fused element-wise passes of a layer move, per 16-bit element of the tensor that they run over.

They follow from what a kernel reads and writes (r, w; m is a dropout mask of one byte), and are no coefficients. Training,
encoders and engines go by them; what a framework or an engine moves beyond, where it runs each operation by itself, stands
where it is used.

Sources: NVIDIA Apex, Megatron-LM and FasterTransformer (which passes are fused).
"""

from __future__ import annotations

from mlsysim.physics.layer.shape import LayerShape
from mlsysim.physics.numeric import Num, where

# Pairs are forward and backward. Residual stream, twice: norm (r2 w2), bias + dropout + residual (r2 r2 w2 m1); backward,
# twice: norm (r2 r2 w2, and r2 r2 for the gradients of its weights), dropout (r2 m1 w2), sum of the branch and the residual
# (r2 r2 w2).
RESIDUAL_B = (2 * (4.0 + 7.0), 2 * (10.0 + 5.0 + 6.0))
# An engine has no dropout, and adds and norms in one kernel, twice: r2 r2 w2 w2.
SERVED_RESIDUAL_B = 2 * 8.0
# Activation function of one, or of two (gated) tensors: r2 [r2] w2; backward r2 r2 w2 and r2 for the bias, or r2 r2 r2 w2 w2.
_PLAIN_BLOCK_B, _GATED_BLOCK_B = (4.0, 8.0), (6.0, 10.0)
# Queries, keys and values are cut apart, turned and laid out for the attention kernel, or put in the cache: r2 w2 and a quarter
# more for the rotation's own passes; twice that backward.
QKV_B = (5.0, 10.0)


def block_B(shape: LayerShape, *, backward: bool = False) -> Num:
    """Bytes of the activation function per element of a feed-forward block's or an expert's width.

    Example:
        >>> gated = LayerShape(32.0, 4096.0, 32.0, 8.0, 128.0, 14336.0, 3.0, 128256.0)
        >>> block_B(gated), block_B(gated, backward=True)
        (6.0, 10.0)
    """
    return where(shape.ffn_matrices > 2, _GATED_BLOCK_B[backward], _PLAIN_BLOCK_B[backward])
