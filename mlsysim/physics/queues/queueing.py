"""Queues with random arrivals (Poisson, rate lambda) before k equal servers, first come first served, without a limit.

Times in seconds, rates per second; the load rho = lambda E[S] / k must be below 1, which callers check: at 1 or more the
queue grows without end and has no waiting time.

Sources: Erlang 1917; Kleinrock, "Queueing Systems" I, 1975 (M/M/k); Allen, "Probability, Statistics and Queueing Theory", 1990
(Allen-Cunneen); Kingman 1961; Tijms, "A First Course in Stochastic Models", 2003, sections 5.1, 9.2 and appendix B; Whitt,
"Approximating a point process by a renewal process", 1982 (two exponentials with balanced means).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mlsysim.physics.numeric import Num, exp, expm1, maximum, minimum

_ROUNDING = 1e-12  # of a sum of probabilities
_MOST_STEPS = 200
_CLOSE = 1e-13


def erlang_b(offered: Num, servers: int) -> Num:
    """Share of arrivals that find all ``servers`` busy where none may wait (M/G/k/k), at ``offered`` = lambda E[S].

    B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)): only positive terms, so that no k is too large.

    Example:
        >>> erlang_b(1.0, 2)
        0.2
    """
    blocked: Num = 1.0
    for server in range(1, servers + 1):
        blocked = offered * blocked / (server + offered * blocked)
    return blocked


def erlang_c(offered: Num, servers: int) -> Num:
    """Probability that an arrival has to wait in M/M/k: C = B / (1 - rho (1 - B)), for rho = offered / servers < 1.

    Example:
        >>> round(erlang_c(10.0, 14), 10)
        0.1741319336
    """
    blocked = erlang_b(offered, servers)
    return blocked / (1 - offered / servers * (1 - blocked))


def delay_scale_s(service_s: Num, servers: int, load: Num, service_cv2: Num = 1.0) -> Num:
    """Mean wait of those who wait: E[S] / (k (1 - rho)) x (1 + c^2) / 2, c^2 the squared coefficient of variation of S.

    Exact for M/M/k (c^2 = 1) and M/G/1 (Pollaczek-Khinchine); for other M/G/k it is Allen and Cunneen's approximation
    (Kingman's heavy-traffic scaling): a few per cent from rho = 0.7 up, and c^2 to about 2.

    Example:
        >>> delay_scale_s(1.0, 1, 0.5, 0.0)
        1.0
    """
    return service_s / (servers * (1 - load)) * (1 + service_cv2) / 2


def wait_tail(time_s: Num, probability: Num, scale_s: Num) -> Num:
    """P(W > t) = C exp(-t / scale): exact in M/M/k; in M/G/k the exponential tail (Tijms), best at high load.

    Example:
        >>> wait_tail(0.0, 0.7, 2.0)
        0.7
    """
    return probability * exp(-time_s / scale_s)


def wait_percentile_s(share: float, probability: float, scale_s: float) -> float:
    """Wait that ``share`` of all arrivals do not exceed: scale ln(C / (1 - share)), or 0 where so many do not wait.

    Example:
        >>> round(wait_percentile_s(0.9, 0.5, 2.0), 6)
        3.218876
    """
    return max(0.0, scale_s * math.log(probability / (1 - share))) if probability > 0 else 0.0


def sum_tail(time_s: Num, first_s: Num, second_s: Num) -> Num:
    """P(X + Y > t) of two independent exponential times with these means, equal ones included; t >= 0.

    Example:
        >>> round(sum_tail(1.0, 1.0, 1.0), 6)  # 2 / e
        0.735759
    """
    first, second = 1 / first_s, 1 / second_s
    slower: Num = minimum(first, second)
    apart: Num = maximum((maximum(first, second) - slower) * time_s, 1e-300)
    share: Num = -expm1(-apart) / apart  # (1 - exp(-x)) / x, which is 1 at x = 0
    return exp(-first * time_s) + first * time_s * exp(-slower * time_s) * share


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """A constant ``shift_s``, and after it an exponential time of mean ``means_s[i]`` with probability ``shares[i]``.

    Two moments fix it: a constant for c^2 = 0, an exponential time after a constant up to c^2 = 1, beyond it two exponentials
    with balanced means (Whitt 1982; Tijms, appendix B).
    """

    shift_s: float
    shares: tuple[float, ...]
    means_s: tuple[float, ...]

    @classmethod
    def of(cls, mean_s: float, cv2: float) -> ServiceTime:
        """The service time with this mean and squared coefficient of variation.

        Example:
            >>> ServiceTime.of(2.0, 0.25)
            ServiceTime(shift_s=1.0, shares=(1.0,), means_s=(1.0,))
        """
        if cv2 == 0:
            return cls(mean_s, (), ())
        if cv2 <= 1:
            spread_s = math.sqrt(cv2) * mean_s
            return cls(mean_s - spread_s, (1.0,), (spread_s,))
        excess = math.sqrt((cv2 - 1) / (cv2 + 1))
        short = (1 + excess) / 2
        long = 1 / (cv2 + 1) / (1 + excess)  # (1 - excess) / 2 without its loss of digits
        return cls(0.0, (short, long), (mean_s / (2 * short), mean_s / (2 * long)))


def sojourn_tail(time_s: float, service: ServiceTime, probability: float, scale_s: float) -> float:
    """P(W + S > t) past the constant part of S, for W with an exponential tail and independent of S: exact for M/M/k.

    Example:
        >>> round(sojourn_tail(2.0, ServiceTime.of(1.0, 1.0), 0.5, 2.0), 6)  # M/M/1: exp(-t (mu - lambda))
        0.367879
    """
    return float(
        sum(
            share * ((1 - probability) * math.exp(-time_s / mean_s) + probability * sum_tail(time_s, mean_s, scale_s))
            for share, mean_s in zip(service.shares, service.means_s, strict=True)
        )
    )


def sojourn_percentile_s(share: float, service: ServiceTime, probability: float, scale_s: float) -> float:
    """Wait and service together that ``share`` of all arrivals do not exceed.

    Example:
        >>> round(sojourn_percentile_s(0.99, ServiceTime.of(1.0, 1.0), 0.5, 2.0), 6)
        9.21034
    """
    if not service.means_s:
        return service.shift_s + wait_percentile_s(share, probability, scale_s)
    return service.shift_s + percentile_s(
        share, lambda time_s: sojourn_tail(time_s, service, probability, scale_s), scale_s + service.means_s[0]
    )


def percentile_s(share: float, tail: Callable[[float], float], scale_s: float) -> float:
    """Least time whose ``tail``, P(T > t), is at most 1 - ``share``, but for rounding; jumps are allowed.

    False position on the logarithm of the tail, which is nearly straight (Illinois rule), halving where that stalls.

    Example:
        >>> round(percentile_s(0.5, lambda t: math.exp(-t), 1.0), 9)
        0.693147181
    """
    # A jump may end at the share itself: the digits of its sum must not choose the side.
    rest = (1 - share) * (1 + _ROUNDING)

    def excess(time_s: float) -> float:
        return math.log(max(tail(time_s), 1e-300) / rest)

    low, low_excess = 0.0, excess(0.0)
    if low_excess <= 0:
        return 0.0
    high = scale_s
    high_excess = excess(high)
    while high_excess > 0:
        low, low_excess, high = high, high_excess, 2 * high
        high_excess = excess(high)
    kept = 0  # the end that the last step left where it was
    for step in range(_MOST_STEPS):
        if high - low <= _CLOSE * high:
            break
        crossing = low + (high - low) * low_excess / (low_excess - high_excess)
        middle = crossing if step % 4 < 3 and low < crossing < high else (low + high) / 2
        middle_excess = excess(middle)
        if middle_excess > 0:
            low, low_excess = middle, middle_excess
            high_excess, kept = (high_excess / 2 if kept == 1 else high_excess), 1
        else:
            high, high_excess = middle, middle_excess
            low_excess, kept = (low_excess / 2 if kept == -1 else low_excess), -1
            if middle_excess == 0:
                break
    return high
