"""Requests that arrive at equal intervals, as load generators send them at a constant rate: no two meet by chance.

With L the time of a request, lambda L are in flight, a number that stays. A prompt comes somewhere in a running step, which is
over after half of itself in the mean, and joins the next one alone, unless prompts come as fast as steps end.

Source: Little, "A Proof for the Queuing Formula L = lambda W", 1961.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlsysim.physics.numeric import Floats


class EvenSteps(NamedTuple):
    """Steps of an engine to which prompts come at equal intervals, in seconds.

    Attributes:
        found_s: the step that an arrival finds.
        own_s: the step that computes its prompt.
    """

    found_s: Floats
    own_s: Floats


def even_steps(arrival_per_s: float, step_s: Floats, prompt_s: Floats) -> EvenSteps:
    """Steps of T = step + k prompts, k = lambda T of them where that is more than one, else one now and then.

    Args:
        arrival_per_s: lambda; lambda prompt < 1.
        step_s: of those who decode.
        prompt_s: that a prompt adds to a step.

    Example:
        >>> rare = even_steps(1.0, np.array([0.02]), np.array([0.03]))
        >>> [part.round(3).tolist() for part in rare]
        [[0.02], [0.05]]
        >>> dense = even_steps(20.0, np.array([0.06]), np.array([0.03]))  # 3 come in a step of 0.06 + 3 x 0.03 s
        >>> [part.round(3).tolist() for part in dense]
        [[0.15], [0.15]]
    """
    cycle_s = step_s / np.maximum(1 - arrival_per_s * prompt_s, 1e-9)
    together = arrival_per_s * cycle_s
    return EvenSteps(np.where(together > 1, cycle_s, step_s), step_s + np.maximum(together, 1.0) * prompt_s)


def even_in_flight(arrival_per_s: float, request_s: Floats) -> float:
    """Number in flight n = lambda L(n), the least where there are several, from the times L(1), L(2), .. of a request.

    Where even the last number is too few for the load, it is that one.

    Example:
        >>> even_in_flight(2.0, np.array([1.0, 1.1, 1.2, 1.3, 1.4])), even_in_flight(0.5, np.array([1.0, 1.1]))
        (2.25, 0.5)
    """
    numbers = np.arange(1.0, request_s.size + 1)
    over = arrival_per_s * request_s - numbers
    kept = np.flatnonzero(over <= 0)
    if not kept.size:
        return float(numbers[-1])
    last = int(kept[0])
    if last == 0:
        return float(arrival_per_s * request_s[0])
    return float(numbers[last - 1] + over[last - 1] / (over[last - 1] - over[last]))
