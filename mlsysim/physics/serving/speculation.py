"""Speculative decoding: a draft model proposes tokens, one pass of the target checks them all.

Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", ICML 2023, equation 1 and theorem 3.8.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, where


def expected_tokens(draft_len: Num, acceptance: Num) -> Num:
    """Tokens that one round yields: (1 - a^(k+1)) / (1 - a), which is k + 1 where every draft is accepted.

    ``acceptance`` (0 <= a <= 1) is the chance that a drafted token is accepted, each for itself; the pass adds one of its own.

    Example:
        >>> expected_tokens(4.0, 0.5), expected_tokens(4.0, 1.0)
        (1.9375, 5.0)
    """
    certain = acceptance >= 1
    chance = where(certain, 0.0, acceptance)
    return where(certain, draft_len + 1.0, (1 - chance ** (draft_len + 1)) / (1 - chance))


def rounds_of(output: Num, tokens: Num) -> Num:
    """Passes that ``output`` tokens take, of which rounds of drafts yield ``tokens`` each; the prompt's yields one.

    Example:
        >>> rounds_of(101.0, 2.5), rounds_of(101.0, 1.0)
        (41.0, 101.0)
    """
    return 1 + (output - 1) / tokens
