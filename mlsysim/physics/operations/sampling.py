"""Answers drawn several times: the chance that one of them is right.

Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, equation 1.
"""

from __future__ import annotations

import numpy as np


def pass_at_k(drawn: int, correct: int, k: int) -> float:
    """The unbiased estimate 1 - C(n - c, k) / C(n, k) of the chance that one of ``k`` answers is right.

    By the product of 1 - k / i for i from n - c + 1 to n, whose factors neither overflow nor cancel.

    Args:
        drawn: n, answers that were drawn.
        correct: c, of which were right.
        k: answers that a user draws, at most ``drawn``.

    Example:
        >>> round(pass_at_k(5, 2, 2), 12)  # 1 - C(3, 2) / C(5, 2)
        0.7
    """
    if drawn - correct < k:
        return 1.0
    last = np.arange(drawn - correct + 1, drawn + 1, dtype=float)
    return float(-np.expm1(np.log1p(-k / last).sum()))
