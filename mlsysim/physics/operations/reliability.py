"""The cost of failures: checkpoints, lost work and restarts; and how many failures to expect.

Sources: Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006 (failures arrive at random
at a constant rate; a failure loses what was done since the last checkpoint); Young, "A first order approximation to the
optimum checkpoint interval", 1974; Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research
Clusters", 2025.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mlsysim.physics.numeric import Num, exp, maximum, minimum, sqrt, where

# Standard deviations of a normal distribution about its middle that hold nine in ten, and the share beyond each of them.
NORMAL_90 = 1.6448536269514722
_TAIL = 0.05
# Above this mean a count is as good as continuous.
_MOST_COUNTED = 200.0


def young_interval_s(checkpoint_s: Num, mtbf_s: Num) -> Num:
    """Seconds from one checkpoint to the next that lose least to first order: sqrt(2 d M) (Young 1974).

    Example:
        >>> round(young_interval_s(60.0, 3.0931 * 3600), 1)
        1155.9
    """
    return sqrt(2 * checkpoint_s * mtbf_s)


def daly_interval_s(checkpoint_s: Num, mtbf_s: Num) -> Num:
    """Seconds of work between two checkpoints that lose least (Daly 2006, equation 37); M where a checkpoint takes 2 M or more.

    Example:
        >>> round(daly_interval_s(60.0, 3.0931 * 3600), 1)
        1116.3
    """
    share = checkpoint_s / (2 * mtbf_s)
    longer = young_interval_s(checkpoint_s, mtbf_s) * (1 + sqrt(share) / 3 + share / 9) - checkpoint_s
    return where(checkpoint_s < 2 * mtbf_s, longer, mtbf_s)


def checkpoint_interval_s(checkpoint_s: Num, mtbf_s: Num) -> Num:
    """Seconds of work between two checkpoints that lose least: sqrt(2 d M) - d, at most M (Young 1974, Daly 2006).

    Example:
        >>> round(checkpoint_interval_s(60.0, 3 * 3600.0))
        1078
    """
    return maximum(minimum(young_interval_s(checkpoint_s, mtbf_s) - checkpoint_s, mtbf_s), checkpoint_s)


def goodput(checkpoint_s: Num, restart_s: Num, mtbf_s: Num) -> Num:
    """Share of the time that is work kept, at the best interval of first order.

    With d the time of a checkpoint, R that of a restart, M the mean time between failures of the whole job.

    Example:
        >>> round(goodput(60.0, 600.0, 3 * 3600.0), 3)
        0.85
    """
    return renewal_goodput(checkpoint_interval_s(checkpoint_s, mtbf_s), checkpoint_s, restart_s, mtbf_s)


def renewal_goodput(interval_s: Num, checkpoint_s: Num, restart_s: Num, mtbf_s: Num) -> Num:
    """Share of the time that is work kept: t / (M exp(R/M) (exp((t + d)/M) - 1)), exact (Daly 2006, equation 20).

    With t the work between two checkpoints, d the time that one stops the job, R that of a restart, M the mean time between
    failures of the whole job, which may also fall into checkpoints and restarts.

    Example:
        >>> round(renewal_goodput(3600.0, 60.0, 600.0, 3 * 3600.0), 3)
        0.782
    """
    wall_s = mtbf_s * exp(restart_s / mtbf_s) * (exp((interval_s + checkpoint_s) / mtbf_s) - 1)
    return interval_s / wall_s


class TimeShares(NamedTuple):
    """Shares of a job's time; they sum to one.

    Attributes:
        kept: work that counts.
        checkpoints: stops that write them.
        lost: work, and checkpoints, that failures undid.
        restarts: what follows a failure, before work goes on.
    """

    kept: float
    checkpoints: float
    lost: float
    restarts: float


def time_shares(interval_s: float, checkpoint_s: float, restart_s: float, mtbf_s: float) -> TimeShares:
    """Where a job's time goes, exactly: a restart, which may fail itself, takes M (1 - exp(-R/M)) of each M on average.

    Example:
        >>> shares = time_shares(3600.0, 60.0, 600.0, 3 * 3600.0)
        >>> [round(share, 3) for share in shares], round(sum(shares), 12)
        ([0.782, 0.013, 0.151, 0.054], 1.0)
    """
    kept = float(renewal_goodput(interval_s, checkpoint_s, restart_s, mtbf_s))
    checkpoints = kept * checkpoint_s / interval_s
    restarts = -math.expm1(-restart_s / mtbf_s)
    return TimeShares(kept, checkpoints, max(0.0, 1 - kept - checkpoints - restarts), restarts)


def kokolis_ettr(interval_s: Num, checkpoint_s: Num, restart_s: Num, mtbf_s: Num) -> Num:
    """Effective training time ratio (1 - (R + t/2) / M) / (1 + d/t) of Kokolis et al. 2025: half an interval is lost a failure.

    It is within 0.3 points of the exact one while t is below 0.15 M, and negative where failures come faster than it holds.

    Example:
        >>> round(kokolis_ettr(3600.0, 60.0, 600.0, 3 * 3600.0), 3)
        0.765
    """
    return (1 - (restart_s + interval_s / 2) / mtbf_s) / (1 + checkpoint_s / interval_s)


def first_order_ettr(checkpoint_s: Num, restart_s: Num, mtbf_s: Num) -> Num:
    """Effective training time ratio 1 / (1 + sqrt(2 d / M) + R / M), at the interval of Young.

    Example:
        >>> round(first_order_ettr(36.0, 1080.0, 7.9 * 3600), 3)
        0.919
    """
    return 1 / (1 + sqrt(2 * checkpoint_s / mtbf_s) + restart_s / mtbf_s)


def gamma_shape(log_spread: float) -> float:
    """The shape k of a gamma distribution whose variance over its mean squared is that of a log-normal one: 1 / (exp(s^2) - 1).

    Example:
        >>> round(gamma_shape(0.56), 2)
        2.71
    """
    return 1 / math.expm1(log_spread**2)


def count_interval(mean: float, shape: float) -> tuple[float, float]:
    """Nine in ten negative binomial counts lie from the first to the second; of Poisson counts where ``shape`` is infinite.

    The rate of a Poisson process whose own rate is gamma distributed with this shape gives such counts: their variance is
    mean + mean^2 / shape. Above a mean of 200 they are taken as gamma distributed themselves.

    Example:
        >>> count_interval(10.0, 3.0), count_interval(10.0, math.inf), [round(end) for end in count_interval(1000.0, 3.0)]
        ((2, 23), (5, 15), [269, 2097])
    """
    if mean > _MOST_COUNTED:
        return gamma_interval(mean, mean / (1 + mean / shape))
    odds = mean / (shape + mean) if math.isfinite(shape) else 0.0
    chance = math.exp(-shape * math.log1p(mean / shape)) if odds else math.exp(-mean)
    ends, count, below = [], 0, chance
    for share in (_TAIL, 1 - _TAIL):
        while below < share and chance > 0:
            chance *= ((shape + count) * odds if odds else mean) / (count + 1)
            count += 1
            below += chance
        ends.append(count)
    return ends[0], ends[1]


def gamma_interval(mean: float, shape: float) -> tuple[float, float]:
    """Nine in ten gamma distributed values lie from the first to the second, to about 1 % for shapes above 1.

    Source: Wilson and Hilferty 1931: the cube root of such a value is all but normal.

    Example:
        >>> [round(end, 3) for end in gamma_interval(1.0, 10.0)]
        [0.542, 1.57]
    """
    middle, width = 1 - 1 / (9 * shape), NORMAL_90 * math.sqrt(1 / (9 * shape))
    return mean * max(0.0, middle - width) ** 3, mean * (middle + width) ** 3
