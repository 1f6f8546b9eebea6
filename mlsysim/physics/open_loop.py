"""A serving engine under requests that arrive at random, whatever it is doing: how many are in flight, and what each sees.

The engine shares its speed among the requests in flight, up to a most; others wait for a place. With completion rates f(n) that
depend on the number in flight this is a birth-death chain, p(n+1) = p(n) lambda / f(n+1); below the most it holds for any
distribution of the requests' lengths (Cohen, "The multiple phase service network with generalized processor sharing", 1979).
The wait for a place has an exponential tail (``queueing.wait_tail``), and prompts queue for the engine as in M/D/1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlsysim.physics.numeric import Num
from mlsysim.physics.queueing import percentile_s, sum_tail

Floats = npt.NDArray[np.float64]
_NEVER = 1e-12  # states that are rarer than this change no percentile


def in_flight(arrival_per_s: float, completions_per_s: Floats) -> tuple[Floats, float]:
    """Probabilities of 0 .. B-1 requests in flight, and that all B places are taken; ``completions_per_s``: f(1) .. f(B).

    Valid for arrival < f(B). Poisson arrivals see the same shares.

    Example:
        >>> free, taken = in_flight(1.0, np.array([1.0, 2.0]))  # M/M/2 at load 0.5: Erlang C is 1/3
        >>> free.round(6).tolist(), round(taken, 6)
        ([0.333333, 0.333333], 0.333333)
    """
    steps = np.log(arrival_per_s) - np.log(completions_per_s)
    weights = np.concatenate(([0.0], np.cumsum(steps)))
    weights = np.exp(weights - weights.max())
    load = arrival_per_s / completions_per_s[-1]
    weights[-1] /= 1 - load
    shares = weights / weights.sum()
    return shares[:-1], float(shares[-1])


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """What an arriving request sees, in seconds.

    Attributes:
        free: probabilities of 0 .. B-1 requests in flight; ``taken``: that it waits for a place.
        place_s: mean wait for a place of those who wait.
        busy: probability that another prompt is before its own; ``prompt_s``: mean wait then.
        first_s: from when it waits no longer to its first token, by the number in flight with it, 1 .. B.
        token_s: time per output token, likewise.
    """

    free: Floats
    taken: float
    place_s: float
    busy: float
    prompt_s: float
    first_s: Floats
    token_s: Floats

    def wait_tail(self, time_s: float) -> float:
        """P(wait for a place and for other prompts > t)."""
        return self._tail(time_s, np.zeros(1), np.array([1 - self.taken]))

    def percentile_s(self, share: float, tail: Callable[[float], float]) -> float:
        """Time of which ``tail`` is 1 - ``share``."""
        return percentile_s(share, tail, float(self.first_s[-1]))

    def after_wait_tail(self, time_s: float, tokens: float) -> float:
        """P(wait and ``tokens`` + 1 tokens > t), as if the number in flight stayed what it finds."""
        return self._tail(time_s, self.first_s + tokens * self.token_s, self.free)

    def mean_s(self, tokens: float) -> tuple[float, float, float]:
        """Mean wait, time from then to the first token, and time of ``tokens`` more."""
        shares = np.append(self.free[:-1], self.free[-1] + self.taken)
        wait_s = self.taken * self.place_s + self.busy * self.prompt_s
        return wait_s, float(shares @ self.first_s), tokens * float(shares @ self.token_s)

    def token_percentile_s(self, share: float) -> float:
        """Time per output token that ``share`` of the requests do not exceed."""
        shares = np.append(self.free[:-1], self.free[-1] + self.taken)
        order = np.argsort(self.token_s, kind="stable")
        reached = np.searchsorted(np.cumsum(shares[order]), share)
        return float(self.token_s[order][min(int(reached), order.size - 1)])

    def _tail(self, time_s: float, shifts_s: Floats, free: Floats) -> float:
        likely = free > _NEVER
        left_s = time_s - shifts_s[likely]
        waiting = self.busy * np.exp(-np.maximum(left_s, 0.0) / self.prompt_s)
        found = float(free[likely] @ np.where(left_s < 0, 1.0, waiting))
        return found + self.taken * float(self._blocked_tail(time_s - float(shifts_s[-1])))

    def _blocked_tail(self, left_s: float) -> Num:
        if left_s < 0:
            return 1.0
        alone = float(np.exp(-left_s / self.place_s))
        return (1 - self.busy) * alone + self.busy * sum_tail(left_s, self.place_s, self.prompt_s)
