"""Sums of hourly figures (prices, carbon) over a job, for every hour that it could start in."""

from __future__ import annotations

import numpy as np

from mlsysim.physics.numeric import Floats


def sums_over_run(hourly: Floats, duration_h: float) -> Floats:
    """Sum ``hourly`` over a run of ``duration_h`` hours from each hour in which it can start; the last hour counts in part.

    Example:
        >>> sums_over_run(np.array([4.0, 2.0, 1.0, 3.0]), 1.5).tolist()
        [5.0, 2.5, 2.5]
    """
    cumulative = np.concatenate([[0.0], np.cumsum(hourly)])
    starts = np.arange(len(hourly) - int(np.ceil(duration_h)) + 1)
    ends: Floats = np.interp(starts + duration_h, np.arange(len(cumulative)), cumulative)
    sums: Floats = ends - cumulative[starts]
    return sums
