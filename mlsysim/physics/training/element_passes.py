"""Bytes that the element-wise passes of a layer move through memory: norms, residuals, rotation, activation functions.

Source: PyTorch's operations, where each runs by itself; fused ones: ``physics.layer.element_bytes``.
"""

from __future__ import annotations

from mlsysim.physics.layer.attention import qkv_elements
from mlsysim.physics.layer.element_bytes import QKV_B, RESIDUAL_B, block_B
from mlsysim.physics.numeric import Num, somewhere, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.step_inputs import TrainedShape

# What PyTorch moves beyond fused passes where it runs each operation of a gated layer by itself. Each of two RMSNorms forward:
# to fp32 r2 w4, square r4 w4, mean r4, product r4 w4, to 16 bits r4 w2, weight r2 w2 (32 for 4); backward: weight r2 r2 w2,
# r2 r2 w2, to fp32 r2 w4, product r4 w4 and r4 r4 w4, square r4 w4, sum r4 r4 w4, to 16 bits r4 w2 (62 for 10). The gate: silu
# r2 w2 and product r2 r2 w2 for r2 r2 w2; backward 12 and 6 for 10. The rotation of queries and keys: to fp32 r2 w4, product
# r4 w4, to 16 bits r4 w2, and as much backward (LayerNorm and GELU are one kernel each).
_EAGER_RESIDUAL_B, _EAGER_FFN_B, _EAGER_QKV_B = (2 * 28.0, 2 * 52.0), (4.0, 8.0), 20.0


def passes_B(shape: TrainedShape, plan: Plan, norm_B: Num, *, backward: bool) -> Num:
    """Bytes of one layer's forward or backward pass of one micro-batch on one rank, its experts' left out.

    Args:
        shape: the layer.
        plan: how it is split.
        norm_B: what unfused norms move beyond the fused ones, an element of the residual stream.
        backward: which of the two passes.
    """
    residual, ffn, qkv = _elements(shape, plan)
    fused_B = (RESIDUAL_B[backward] + norm_B) * residual + block_B(shape, backward=backward) * ffn + QKV_B[backward] * qkv
    return fused_B + _eager_B(shape, plan, backward)


def _elements(shape: TrainedShape, plan: Plan) -> tuple[Num, Num, Num]:
    """Elements of a rank's residual stream, feed-forward block and queries, keys and values."""
    tokens = plan.micro_batch_tokens
    shared = where(plan.sequence_parallel > 0, plan.tp, 1.0)
    qkv = tokens * qkv_elements(shape, plan.tp)
    return tokens * shape.hidden / shared, tokens * shape.ffn * shape.dense / plan.tp, qkv


def _eager_B(shape: TrainedShape, plan: Plan, backward: bool) -> Num:
    """Bytes that the passes of a gated layer move beyond fused ones, one way, where each operation runs by itself."""
    if not somewhere(shape.eager):
        return 0.0
    residual, ffn, _ = _elements(shape, plan)
    turned = plan.micro_batch_tokens * (shape.query_width + shape.key_width) / plan.tp
    moved_B = _EAGER_RESIDUAL_B[backward] * residual + _EAGER_FFN_B[backward] * ffn + _EAGER_QKV_B * turned
    return shape.eager * where(shape.ffn_matrices > 2, moved_B, 0.0)
