"""Power of an accelerator from what it does, and what a power limit does to its clock.

P / TDP = softcap(idle + active b + memory w + unpacking n w + cache k + arithmetic sqrt(c b)), with w and k the shares of the
memory's bandwidth that weights and the KV cache take, n 1 where weights are narrower than 16 bits, c the share of the peak
rate, and b the share of time in which kernels run. While busy the products run at c / b of the peak: b sqrt(c / b) = sqrt(c b),
so that exposed communication and waiting for the host lower the power.

Sources: Chung et al., "The ML.ENERGY Benchmark", 2025, arXiv:2505.06371 (what was measured); Patel et al., "Characterizing
Power Management Opportunities for LLMs in the Cloud", ASPLOS 2024 (prompts draw up to the limit, decoding less).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.physics.numeric import Num, maximum, minimum, sqrt

# The sharpness of the cap: at the limit itself the card draws 2^(-1/8) = 92 % of it.
_SHARPNESS = 8.0
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Activity:
    """What an accelerator does, mean over a run.

    Attributes:
        weights: share of the memory's bandwidth that weights take, and in training all that is read and written.
        cache: share of it that keys and values take.
        arithmetic: share of the peak rate of the format.
        busy: share of the time in which kernels run: the rest waits for others or for the host.
        narrow: 1.0 where the weights are narrower than 16 bits, else 0.0.
    """

    weights: Num
    cache: Num
    arithmetic: Num
    busy: Num
    narrow: Num = 0.0


@dataclass(frozen=True, slots=True)
class PowerCoefficients:
    """What each activity draws, as shares of the accelerator's power limit (TDP).

    Attributes:
        idle: what it draws while it waits: clocks up, memory refreshed.
        active: what it draws beyond while a kernel runs, whatever that does: blocks scheduled, caches read, peers polled.
        memory: weights read at the memory's full bandwidth.
        cache: keys and values read at full bandwidth.
        arithmetic: products at the full rate.
        unpacking: what weights narrower than 16 bits draw beyond others at full bandwidth: cores convert them.
    """

    idle: float
    active: float
    memory: float
    cache: float
    arithmetic: float
    unpacking: float = 0.0


def demand_share(activity: Activity, coefficients: PowerCoefficients) -> Num:
    """Power that the activity asks for, over the limit, before the card holds it back.

    Example:
        >>> round(demand_share(Activity(0.5, 0.1, 0.09, 0.81), PowerCoefficients(0.2, 0.1, 0.2, 0.5, 1.0)), 6)
        0.701
    """
    weights = (coefficients.memory + coefficients.unpacking * activity.narrow) * activity.weights
    products = coefficients.arithmetic * sqrt(activity.arithmetic * activity.busy)
    running = coefficients.idle + coefficients.active * activity.busy
    return running + weights + coefficients.cache * activity.cache + products


def capped_share(demand: Num, limit: Num = 1.0) -> Num:
    """Power that is drawn, over TDP, where ``demand`` meets a ``limit``: (demand^-8 + limit^-8)^(-1/8).

    Example:
        >>> round(capped_share(0.5), 3), round(capped_share(1.0), 3), round(capped_share(5.0, 0.7), 3)
        (0.5, 0.917, 0.7)
    """
    asked: Num = maximum(demand, _LEAST) ** -_SHARPNESS + limit**-_SHARPNESS
    return asked ** (-1 / _SHARPNESS)


def limited_clock(drawn: Num, limit: Num, idle: Num) -> Num:
    """Clock under a power limit over the clock without: the cube root of the shares of power beyond ``idle``.

    Dynamic power goes with the clock and the square of a voltage that goes with the clock.

    Args:
        drawn: power without the limit.
        limit: the power limit, above ``idle``.
        idle: power at any clock.

    Example:
        >>> limited_clock(0.5, 0.7, 0.2), round(limited_clock(1.0, 0.6, 0.2), 3)
        (1.0, 0.794)
    """
    return minimum((limit - idle) / maximum(drawn - idle, _LEAST), 1.0) ** (1 / 3)


def slowed_time(activity: Activity, clock: Num) -> Num:
    """Time at a lower clock over that at the full one: kernels slow down but for what waits for memory, which keeps its clock.

    Example:
        >>> slowed_time(Activity(0.3, 0.1, 0.4, 0.9), 0.5), slowed_time(Activity(0.8, 0.1, 0.1, 0.9), 0.5)
        (1.5, 1.0)
    """
    clocked = maximum(activity.busy - activity.weights - activity.cache, 0.0)
    return 1 + clocked * (1 / clock - 1)
