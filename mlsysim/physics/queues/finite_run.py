"""A run that ends: the last and longest answers decode in a batch that empties, whether requests all wait or arrive at a rate.

Places that become free are taken while any request waits; then the rest drains: the run lasts as long as its longest answer.
Lengths of answers follow a Weibull distribution of the given mean and spread.

Source: Justus et al., "Methods for Estimating Wind Speed Frequency Distributions", 1978 (shape = spread^-1.086).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlsysim.physics.numeric import Floats

_POINTS = 200  # of the longest answer at which the batch is looked at
_LEAST_SPREAD = 0.05
_ROUNDS = 40  # of halving the number of requests


@dataclass(frozen=True, slots=True)
class Answers:
    """Lengths of answers: their mean in tokens, and their standard deviation over it."""

    mean: float
    spread: float

    @property
    def _shape(self) -> float:
        return float(max(self.spread, _LEAST_SPREAD) ** -1.086)

    @property
    def _scale(self) -> float:
        return self.mean / math.gamma(1 + 1 / self._shape)

    def longest(self, requests: float) -> float:
        """Tokens that one of twice as many answers is longer than.

        Example:
            >>> round(Answers(100.0, 1.0).longest(1000.0)), round(Answers(100.0, 0.0).longest(1000.0))
            (760, 110)
        """
        return float(self._scale * math.log(2 * max(requests, 1.0)) ** (1 / self._shape))

    def longer(self, tokens: Floats) -> Floats:
        """Shares of the answers that are longer than so many ``tokens``."""
        return np.exp(-((tokens / self._scale) ** self._shape))

    def left(self, tokens: Floats) -> Floats:
        """Shares of the answers under way, at any time of a long run, that have more than so many ``tokens`` to go."""
        longer = self.longer(tokens)
        passed = np.concatenate([[0.0], np.cumsum((longer[1:] + longer[:-1]) / 2 * np.diff(tokens))])
        return np.asarray(np.clip(1 - passed / self.mean, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Batch:
    """A replica's batch with 1, 2, ... requests in flight, in seconds.

    Attributes:
        step_s: a decode step, its sequences halfway through their answers.
        aged_s: what each token that its sequences hold beyond that adds to it.
        joined_s: what a prompt adds to it.
    """

    step_s: Floats
    aged_s: Floats
    joined_s: Floats

    @property
    def places(self) -> float:
        """Requests that are decoded together at most."""
        return float(self.step_s.size)

    def drained_s(self, requests: float, remaining: Floats, tokens: Floats, beyond: float) -> float:
        """Seconds until the last of ``requests`` ends, of which shares ``remaining`` have more than ``tokens`` to go.

        ``beyond``: tokens that they hold at first beyond the half of an answer.
        """
        decoding, numbers = np.maximum(requests * remaining, 1.0), np.arange(1.0, self.places + 1)
        aged_s = np.interp(decoding, numbers, self.aged_s) * (beyond + tokens)
        steps_s = np.interp(decoding, numbers, self.step_s) + aged_s
        return float(((steps_s[1:] + steps_s[:-1]) / 2 * np.diff(tokens)).sum())


def run_per_s(batch: Batch, answers: Answers, least_s: float, least_requests: float = 1.0) -> float:
    """Requests a second of a run with the fewest requests that last ``least_s``, no fewer than ``least_requests``.

    While more wait than there are places, a request takes its share of all steps, and its prompt. Of those under way when none
    waits any more (1 + spread^2)/2 are left, which take the time of the longest. Fewer start all at once, and the batch empties
    from then on.

    Args:
        batch: one replica.
        answers: lengths of the answers.
        least_s: least time of the run.
        least_requests: least number of its requests.

    Example:
        >>> level = Batch(np.full(100, 0.01), np.zeros(100), np.zeros(100))
        >>> equal = Answers(100.0, 0.0)
        >>> round(run_per_s(level, equal, 1e6)), 80 < run_per_s(level, Answers(100.0, 1.0), 100.0) < 97
        (100, True)
    """
    places, mean = batch.places, answers.mean
    tokens = np.linspace(0.0, answers.longest(places), _POINTS)
    steps_s, prompt_s = mean * float(batch.step_s[-1]) / places, float(batch.joined_s[-1])
    left = places * (1 + answers.spread**2) / 2
    ends_s = batch.drained_s(places, answers.left(tokens), tokens, 0.0) - left * steps_s
    requests = max((least_s - ends_s) / (steps_s + prompt_s), least_requests)
    if requests >= places:
        return requests / (requests * (steps_s + prompt_s) + ends_s)
    longer = answers.longer(tokens)

    def lasts_s(requests: float) -> float:
        joined_s = np.interp(requests, np.arange(1.0, places + 1), batch.joined_s)
        return batch.drained_s(requests, longer, tokens, -mean / 2) + requests * float(joined_s)

    few, many = 0.0, places
    for _ in range(_ROUNDS):
        middle = (few + many) / 2
        few, many = (middle, many) if lasts_s(middle) < least_s else (few, middle)
    requests = max(few, least_requests)
    return requests / max(lasts_s(requests), least_s)


def completed_per_s(
    batch: Batch, answers: Answers, arrival_per_s: float, in_flight: float, least_s: float, least_requests: float = 1.0
) -> float:
    """Requests a second that a run completes whose requests arrive at a rate until it has lasted long enough.

    It goes on until the last request that is under way by then has its answer: lambda T / (T + the time to drain).

    Args:
        batch: one replica.
        answers: lengths of the answers.
        arrival_per_s: requests a second that arrive at it.
        in_flight: requests under way at a time.
        least_s: least time in which requests arrive.
        least_requests: least number of them.

    Example:
        >>> level = Batch(np.full(100, 0.01), np.zeros(100), np.zeros(100))
        >>> round(completed_per_s(level, Answers(100.0, 0.0), 10.0, 10.0, 1e6), 3)
        10.0
        >>> 8 < completed_per_s(level, Answers(100.0, 1.0), 10.0, 10.0, 30.0) < 9.5
        True
    """
    arriving_s = max(least_s, least_requests / arrival_per_s)
    tokens = np.linspace(0.0, answers.longest(in_flight), _POINTS)
    return arrival_per_s * arriving_s / (arriving_s + batch.drained_s(in_flight, answers.left(tokens), tokens, 0.0))
