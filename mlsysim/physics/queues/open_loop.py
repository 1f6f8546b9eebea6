"""A serving engine under requests that arrive at random, whatever it is doing: how many are in flight, and what each sees.

The engine shares its speed among the requests in flight, up to a most; others wait for a place. With completion rates f(n) that
depend on the number in flight this is a birth-death chain, p(n+1) = p(n) lambda / f(n+1); below the most it holds for any
distribution of the requests' lengths (Cohen, "The multiple phase service network with generalized processor sharing", 1979).
The wait for a place has an exponential tail (``queueing.wait_tail``); prompts join the steps of those in flight
(``joining_queue``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlsysim.physics.numeric import Floats
from mlsysim.physics.queues.queueing import percentile_s

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
class Spread:
    """A time that is one of ``points_s``, or, with probability ``taken``, ``shift_s`` and an exponential time of ``place_s``.

    Attributes:
        points_s: in ascending order.
        above: probability of more than each point, the exponential part left out; first: of more than nothing.
    """

    points_s: Floats
    above: Floats
    mean_s: float
    taken: float
    shift_s: float
    place_s: float

    @classmethod
    def of(cls, points_s: Floats, weights: Floats, taken: float, shift_s: float, place_s: float) -> Spread:
        """Make a spread of points in any order, whose weights add to 1 - ``taken``.

        Example:
            >>> late = Spread.of(np.array([2.0, 1.0]), np.array([0.25, 0.5]), 0.25, 3.0, 1.0)
            >>> late.mean_s, late.tail(1.0), late.tail(2.5), late.percentile_s(0.5)
            (2.0, 0.5, 0.25, 1.0)
        """
        order = np.argsort(points_s, kind="stable")
        above = np.concatenate((np.cumsum(weights[order][::-1])[::-1], [0.0]))
        mean_s = float(points_s @ weights) + taken * (shift_s + place_s)
        return cls(points_s[order], above, mean_s, taken, shift_s, place_s)

    def tail(self, time_s: float) -> float:
        """P(T > t)."""
        found = float(self.above[np.searchsorted(self.points_s, time_s, side="right")])
        late_s = time_s - self.shift_s
        return found + self.taken * (1.0 if late_s < 0 else math.exp(-late_s / self.place_s))

    def percentile_s(self, share: float) -> float:
        """Time that ``share`` do not exceed."""
        return percentile_s(share, self.tail, max(float(self.points_s[-1]), self.place_s))


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """What an arriving request sees, in seconds.

    Attributes:
        free: probabilities of 0 .. B-1 requests in flight; ``taken``: that it waits for a place.
        place_s: mean wait for a place of those who wait.
        wait_s: for the prompt's turn, by the number in flight (rows) and cell of probability (columns, ``cells``).
        first_s: from then to the first token, likewise.
        last_s: to the first token of who has waited for a place.
        token_s: time per output token, by the number in flight with it, 1 .. B.
    """

    free: Floats
    taken: float
    place_s: float
    cells: Floats
    wait_s: Floats
    first_s: Floats
    last_s: float
    token_s: Floats

    def wait(self) -> Spread:
        """For a place and for the prompt's turn."""
        return self._spread(self.wait_s, 0.0)

    def after_wait(self, tokens: float) -> Spread:
        """Wait, first token and ``tokens`` more, as if the number in flight stayed what it finds."""
        more_s = tokens * self.token_s
        return self._spread(self.wait_s + self.first_s + more_s[:, None], self.last_s + float(more_s[-1]))

    def token_mean_s(self) -> float:
        """Time per output token, mean."""
        return float(self._found() @ self.token_s)

    def token_percentile_s(self, share: float) -> float:
        """Time per output token that ``share`` of the requests do not exceed."""
        order = np.argsort(self.token_s, kind="stable")
        reached = np.searchsorted(np.cumsum(self._found()[order]), share)
        return float(self.token_s[order][min(int(reached), order.size - 1)])

    def _found(self) -> Floats:
        return np.append(self.free[:-1], self.free[-1] + self.taken)

    def _spread(self, times_s: Floats, shift_s: float) -> Spread:
        likely = self.free > _NEVER
        weights = self.free[likely, None] * self.cells
        weights *= (1 - self.taken) / weights.sum()
        return Spread.of(times_s[likely].ravel(), weights.ravel(), self.taken, shift_s, self.place_s)
