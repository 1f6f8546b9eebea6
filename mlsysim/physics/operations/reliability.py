"""The cost of failures: checkpoints, lost work and restarts.

Source: Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006, equations 20 and 37
(failures arrive at random at a constant rate; a failure loses what was done since the last checkpoint).
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, exp, maximum, minimum, sqrt


def checkpoint_interval_s(checkpoint_s: Num, mtbf_s: Num) -> Num:
    """Seconds of work between two checkpoints that lose least: sqrt(2 d M) - d, at most M (Young 1974, Daly 2006).

    Example:
        >>> round(checkpoint_interval_s(60.0, 3 * 3600.0))
        1078
    """
    return maximum(minimum(sqrt(2 * checkpoint_s * mtbf_s) - checkpoint_s, mtbf_s), checkpoint_s)


def goodput(checkpoint_s: Num, restart_s: Num, mtbf_s: Num) -> Num:
    """Share of the time that is work kept, at the best interval t: t / (M exp(R/M) (exp((t + d)/M) - 1)).

    With d the time of a checkpoint, R that of a restart, M the mean time between failures of the whole job, and t the interval.

    Example:
        >>> round(goodput(60.0, 600.0, 3 * 3600.0), 3)
        0.85
    """
    interval_s = checkpoint_interval_s(checkpoint_s, mtbf_s)
    wall_s = mtbf_s * exp(restart_s / mtbf_s) * (exp((interval_s + checkpoint_s) / mtbf_s) - 1)
    return interval_s / wall_s
