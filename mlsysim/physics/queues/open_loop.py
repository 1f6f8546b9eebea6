"""A serving engine under requests that arrive at random, whatever it is doing: how many are in flight, and what each sees.

The engine shares its speed among the requests in flight, up to a most; others wait for a place. With completion rates f(n) that
depend on the number in flight this is a birth-death chain, p(n+1) = p(n) lambda / f(n+1); below the most it holds for any
distribution of the requests' lengths (Cohen, "The multiple phase service network with generalized processor sharing", 1979).
The wait for a place has an exponential tail (``queueing.wait_tail``); prompts join the steps of those in flight
(``prompt_queue``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from mlsysim.physics.numeric import Floats, Whole
from mlsysim.physics.queues.queueing import percentile_s

_FIRST_LOOK = 24  # of a range: limits are reached near its upper end
_PATIENCE = 4  # looks in a row that each may leave more than half
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


def by_places(arrival_per_s: float, completions_per_s: Floats, slow: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Probabilities that all places are taken, and that a request is ``slow``, for each number of places 1 .. B at once.

    It is what ``in_flight`` gives for each, with f(n) as they are; where arrivals are beyond f(B), all are taken.

    Args:
        arrival_per_s: at random.
        completions_per_s: f(1) .. f(B).
        slow: whether requests are slow with 1 .. B in flight.

    Example:
        >>> taken, slow = by_places(1.0, np.array([2.0, 2.0]), np.array([False, True]))
        >>> taken.round(6).tolist(), slow.round(6).tolist()  # M/M/1 at load 0.5: half find it idle
        ([0.5, 0.25], [0.0, 0.5])
    """
    steps = np.concatenate(([0.0], np.cumsum(np.log(arrival_per_s) - np.log(completions_per_s))))
    # Sums of logarithms: what one number of places makes certain is beyond a float at another.
    full = steps[1:] - np.log(np.maximum(1 - arrival_per_s / completions_per_s, _NEVER))
    total = np.logaddexp(np.logaddexp.accumulate(steps[:-1]), full)
    slow_free = np.logaddexp.accumulate(np.where(slow, steps[:-1], -inf))
    taken = np.exp(full - total)
    return taken, np.exp(slow_free - total) + taken * slow


def not_rare(free: Floats) -> Whole:
    """Find the numbers in flight that, with these probabilities, change a percentile.

    Example:
        >>> not_rare(np.array([1e-15, 0.1, 0.8, 0.1])).tolist()
        [1, 2, 3]
    """
    return np.flatnonzero(free > _NEVER)


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
            >>> late.mean_s, late.tail(1.0), late.tail(2.5), round(late.percentile_s(0.5), 9)
            (2.0, 0.5, 0.25, 1.0)
        """
        order = np.argsort(points_s, kind="stable")
        above = np.concatenate((np.cumsum(weights[order][::-1])[::-1], [0.0]))
        mean_s = float((points_s * weights).sum()) + taken * (shift_s + place_s)
        return cls(points_s[order], above, mean_s, taken, shift_s, place_s)

    def tail(self, time_s: float) -> float:
        """P(T > t)."""
        placed = float(self.above[np.searchsorted(self.points_s, time_s, side="right")])
        late_s = time_s - self.shift_s
        return placed + self.taken * (1.0 if late_s < 0 else math.exp(-late_s / self.place_s))

    def percentile_s(self, share: float) -> float:
        """Time that ``share`` do not exceed."""
        return percentile_s(share, self.tail, max(float(self.points_s[-1]), self.place_s))


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Latencies of an arriving request, in seconds.

    Attributes:
        free: probabilities of 0 .. B-1 requests in flight; ``taken``: that it waits for a place.
        place_s: mean wait for a place of those who wait.
        cells: of probability, which add to 1.
        likely: the numbers in flight that are not too rare to count (``not_rare``).
        wait_s: for the prompt's turn, by the number in flight (rows, of ``likely``) and cell of probability (columns).
        first_s: from then to the first token, likewise.
        last_s: to the first token of who has waited for a place.
        token_s: time per output token, by the number in flight with it, 1 .. B.
    """

    free: Floats
    taken: float
    place_s: float
    cells: Floats
    likely: Whole
    wait_s: Floats
    first_s: Floats
    last_s: float
    token_s: Floats

    def wait(self) -> Spread:
        """For a place and for the prompt's turn."""
        return self._spread(self.wait_s, 0.0)

    def wait_mean_s(self) -> float:
        """The mean of ``wait``, without the sorting that a percentile needs."""
        return self._mean_s(self.wait_s, 0.0)

    def after_wait(self, tokens: float) -> Spread:
        """Wait, first token and ``tokens`` more, as if the number in flight stayed what it finds."""
        return self._spread(self._after_wait_s(tokens), self._last_s(tokens))

    def after_wait_mean_s(self, tokens: float) -> float:
        """The mean of ``after_wait``, without the sorting that a percentile needs."""
        return self._mean_s(self._after_wait_s(tokens), self._last_s(tokens))

    def late(self, tokens: float, limit_s: float) -> float:
        """Share of the requests that take longer than ``limit_s`` to ``tokens`` tokens after the first.

        It is ``after_wait(tokens).tail(limit_s)``, without the sorting that a percentile needs.
        """
        over = self._after_wait_s(tokens) > limit_s
        late_s = limit_s - self._last_s(tokens)
        in_time = math.exp(-late_s / self.place_s) if late_s >= 0 else 1.0
        return float((self._weights() * over).sum()) + self.taken * in_time

    def slow(self, token_s: float) -> float:
        """Share of the requests whose output tokens take longer than ``token_s`` each."""
        return float(self._in_flight()[self.token_s > token_s].sum())

    def token_mean_s(self) -> float:
        """Time per output token, mean."""
        return float((self._in_flight() * self.token_s).sum())

    def token_percentile_s(self, share: float) -> float:
        """Time per output token that ``share`` of the requests do not exceed."""
        order = np.argsort(self.token_s, kind="stable")
        reached = np.searchsorted(np.cumsum(self._in_flight()[order]), share)
        return float(self.token_s[order][min(int(reached), order.size - 1)])

    def _in_flight(self) -> Floats:
        """Probabilities of 1 .. B requests in flight, with the one that has come."""
        return np.append(self.free[:-1], self.free[-1] + self.taken)

    def _after_wait_s(self, tokens: float) -> Floats:
        return self.wait_s + self.first_s + tokens * self.token_s[self.likely, None]

    def _last_s(self, tokens: float) -> float:
        return self.last_s + tokens * float(self.token_s[-1])

    def _weights(self) -> Floats:
        weights: Floats = self.free[self.likely, None] * self.cells
        return weights * ((1 - self.taken) / weights.sum())

    def _mean_s(self, times_s: Floats, shift_s: float) -> float:
        return float((times_s * self._weights()).sum()) + self.taken * (shift_s + self.place_s)

    def _spread(self, times_s: Floats, shift_s: float) -> Spread:
        return Spread.of(times_s.ravel(), self._weights().ravel(), self.taken, shift_s, self.place_s)


def last_kept(
    missed: Callable[[int], float], high: int, at_high: float, low: int = 0, guess: int | None = None
) -> tuple[int, float]:
    """The last whole number between two at which a limit is kept, and where between it and the next the limit is reached.

    It takes few looks: the next is where a line through the two that missed least, either way, crosses 0; or the middle, where
    that gains little.

    Args:
        missed: rises through 0.
        high: is not kept.
        at_high: ``missed`` there, above 0.
        low: is kept; neither end is looked at.
        guess: is looked at first, and then the number next to it.

    Example:
        >>> last_kept(lambda part: part - 100.5, high=4096, at_high=3995.5)
        (100, 100.5)
    """
    known = [(high, at_high)]
    at_low, beside, idle = -inf, guess is not None, 0
    part = high - max(1, (high - low) // _FIRST_LOOK) if guess is None else min(max(guess, low + 1), high - 1)
    while high - low > 1:
        value, width = missed(part), high - low
        if value <= 0:
            low, at_low = part, value
        else:
            high, at_high = part, value
        known = sorted([*known, (part, value)], key=lambda look: abs(look[1]))[:2]
        idle = idle + 1 if 2 * (high - low) > width else 0
        (near, at_near), (far, at_far) = known
        crossing = near - at_near * (far - near) / (at_far - at_near) if at_far != at_near else inf
        if beside:
            crossing, beside = part + 1 if value <= 0 else part - 1, False
        elif idle >= _PATIENCE or not low <= crossing <= high:
            crossing, idle = (low + high) / 2, 0
        part = min(max(math.floor(crossing), low + 1), high - 1)
    return low, low + (at_low / (at_low - at_high) if at_low > -inf else 0.0)
