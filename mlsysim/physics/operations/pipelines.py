"""Data on its way to accelerators: bytes that they ask for, the slowest stage, and what waits for it.

Stages work beside each other (readers fetch ahead), so that a step takes as long as its slowest stage.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, maximum


def required_Bps(accelerators: Num, samples_per_s: Num, record_B: Num) -> Num:
    """Bytes a second that ``accelerators`` read which each take ``samples_per_s`` records of ``record_B``: n r s.

    Example:
        >>> required_Bps(8.0, 100.0, 1e6)
        800000000.0
    """
    return accelerators * samples_per_s * record_B


def stalled_share(demand: Num, supply: Num) -> Num:
    """The share of the time that a consumer waits for a supply below its demand: 1 - supply / demand, else 0.

    Example:
        >>> stalled_share(10.0, 4.0), stalled_share(10.0, 40.0)
        (0.6, 0.0)
    """
    return maximum(1 - supply / demand, demand * 0.0)


def preparation_s(samples: Num, samples_per_s: Num, workers: Num) -> Num:
    """Seconds in which ``workers`` prepare a batch, each at ``samples_per_s``: T = B / (n R).

    Example:
        >>> preparation_s(256.0, 64.0, 2.0)
        2.0
    """
    return samples / (samples_per_s * workers)


def balanced_tokens(element_B: Num, stream_Bps: Num, rate_flops_per_s: Num) -> Num:
    """Tokens at which arithmetic takes as long as the stream: 2 P B / R = P b / BW, so B* = b R / (2 BW).

    Example:
        >>> balanced_tokens(2.0, 10.0, 100.0)
        10.0
    """
    return element_B * rate_flops_per_s / (2 * stream_Bps)
