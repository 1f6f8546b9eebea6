"""Compute-optimal training: how to split a compute budget between parameters and tokens.

Source: Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, sqrt


def compute_optimal_parameters(
    budget_flops: Num, tokens_per_parameter: Num = 20.0, flops_per_parameter_token: Num = 6.0
) -> Num:
    """The number of parameters N* = sqrt(C / (6 r)), from C = 6 N D and D = r N; the rule of thumb is r = 20.

    Example:
        >>> round(float(compute_optimal_parameters(5.76e23)) / 1e9, 1)
        69.3
    """
    return sqrt(budget_flops / (flops_per_parameter_token * tokens_per_parameter))
