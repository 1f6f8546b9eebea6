"""Bytes that the element-wise passes of a layer move through memory: norms, residuals, rotation, activation functions.

Sources: NVIDIA Apex and Megatron-LM (which passes are fused); PyTorch's operations, where each runs by itself.
"""

from __future__ import annotations

from mlsysim.physics.layer.attention import qkv_elements
from mlsysim.physics.numeric import Num, somewhere, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.step_inputs import TrainedShape

# Bytes that element-wise passes move per element of the tensor they run over, 16-bit values, fused as in Megatron-LM. They
# follow from what a kernel reads and writes (r, w; m is a dropout mask of one byte), and are no coefficients:
# residual stream forward, twice: norm (r2 w2), bias + dropout + residual (r2 r2 w2 m1); backward, twice: norm (r2 r2 w2, and
# r2 r2 for the gradients of its weights), dropout (r2 m1 w2), sum of the branch and the residual (r2 r2 w2).
_FORWARD_RESIDUAL_B, _BACKWARD_RESIDUAL_B = 2 * (4.0 + 7.0), 2 * (10.0 + 5.0 + 6.0)
# Activation function of one, or of two (gated) tensors: r2 [r2] w2; backward r2 r2 w2 and r2 for the bias, or r2 r2 r2 w2 w2.
_FORWARD_FFN_B, _BACKWARD_FFN_B = (4.0, 6.0), (8.0, 10.0)
# Queries, keys and values are cut apart, turned and laid out for the attention kernel: r2 w2 and a quarter more for the
# rotation's own passes; twice that backward.
_FORWARD_QKV_B, _BACKWARD_QKV_B = 5.0, 10.0
# What PyTorch moves beyond these where it runs each operation of a gated layer by itself. Each of two RMSNorms forward: to fp32
# r2 w4, square r4 w4, mean r4, product r4 w4, to 16 bits r4 w2, weight r2 w2 (32 for 4); backward: weight r2 r2 w2, r2 r2 w2,
# to fp32 r2 w4, product r4 w4 and r4 r4 w4, square r4 w4, sum r4 r4 w4, to 16 bits r4 w2 (62 for 10). The gate: silu r2 w2 and
# product r2 r2 w2 for r2 r2 w2; backward 12 and 6 for 10. The rotation of queries and keys: to fp32 r2 w4, product r4 w4, to 16
# bits r4 w2, and as much backward (LayerNorm and GELU are one kernel each).
_EAGER_RESIDUAL_B, _EAGER_FFN_B, _EAGER_QKV_B = (2 * 28.0, 2 * 52.0), (4.0, 8.0), 20.0


def forward_passes_B(shape: TrainedShape, plan: Plan, norm_B: Num) -> Num:
    """Bytes of one layer's forward pass of one micro-batch on one rank.

    Args:
        shape: the layer.
        plan: how it is split.
        norm_B: what unfused norms move beyond the fused ones, an element of the residual stream.
    """
    residual, ffn, qkv = _elements(shape, plan)
    per_ffn = where(shape.ffn_matrices > 2, _FORWARD_FFN_B[1], _FORWARD_FFN_B[0])
    fused_B = (_FORWARD_RESIDUAL_B + norm_B) * residual + per_ffn * ffn + _FORWARD_QKV_B * qkv
    return fused_B + _eager_B(shape, plan, 0)


def backward_passes_B(shape: TrainedShape, plan: Plan, norm_B: Num) -> Num:
    """Bytes of one layer's backward pass of one micro-batch on one rank, as ``forward_passes_B``."""
    residual, ffn, qkv = _elements(shape, plan)
    per_ffn = where(shape.ffn_matrices > 2, _BACKWARD_FFN_B[1], _BACKWARD_FFN_B[0])
    fused_B = (_BACKWARD_RESIDUAL_B + norm_B) * residual + per_ffn * ffn + _BACKWARD_QKV_B * qkv
    return fused_B + _eager_B(shape, plan, 1)


def _elements(shape: TrainedShape, plan: Plan) -> tuple[Num, Num, Num]:
    """Elements of a rank's residual stream, feed-forward block and queries, keys and values."""
    tokens = plan.micro_batch_tokens
    shared = where(plan.sequence_parallel > 0, plan.tp, 1.0)
    qkv = tokens * qkv_elements(shape, plan.tp)
    return tokens * shape.hidden / shared, tokens * shape.ffn * shape.dense / plan.tp, qkv


def _eager_B(shape: TrainedShape, plan: Plan, backward: int) -> Num:
    """Bytes that the passes of a gated layer move beyond fused ones, one way, where each operation runs by itself."""
    if not somewhere(shape.eager):
        return 0.0
    residual, ffn, _ = _elements(shape, plan)
    turned = plan.micro_batch_tokens * (shape.query_width + shape.key_width) / plan.tp
    moved_B = _EAGER_RESIDUAL_B[backward] * residual + _EAGER_FFN_B[backward] * ffn + _EAGER_QKV_B * turned
    return shape.eager * where(shape.ffn_matrices > 2, moved_B, 0.0)
