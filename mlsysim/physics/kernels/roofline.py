"""The roofline: work takes as long as its arithmetic or its memory traffic, whichever is longer.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, maximum


def roofline_s(flops: Num, moved_B: Num, rate_flops_per_s: Num, bandwidth_Bps: Num) -> Num:
    """Time = max(FLOP / rate, bytes / bandwidth), in seconds; arguments broadcast.

    Valid for work whose arithmetic and traffic overlap perfectly: a lower bound for a sequence of kernels.

    Example:
        >>> float(roofline_s(2e12, 1e9, 1e15, 2e12))
        0.002
    """
    return maximum(flops / rate_flops_per_s, moved_B / bandwidth_Bps)
