"""Prompts that join the steps of a running batch: how long one that arrives at random waits for its turn.

An engine that batches by iteration admits nobody while a step runs. Who arrives meanwhile waits for the rest of it; then all
who came are computed together in the next one, at most so many: a queue with gated bulk service whose server never rests, for
steps go on without prompts too. Its length at the starts of steps is a Markov chain: q' = q - k + Poisson(lambda T(k)) for
k = min(q, K). An arrival falls into a long step more often than into a short one.

Several engines are solved at once, and by sums of positive terms of our own: a linear solver of a library starts threads that
take longer to wait for each other than such small systems take to solve.

Sources: Yu et al., "Orca", OSDI 2022 (iteration-level scheduling); Bailey, "On queueing processes with bulk service", 1954;
Takagi, "Queueing Analysis" 1, 1991, section 2 (vacations, gated service); Grassmann, Taksar and Heyman, "Regenerative analysis
and steady state distributions for Markov chains", Operations Research 33, 1985 (elimination without subtractions).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from mlsysim.physics.numeric import Floats, Num, Whole

_NEVER = 1e-6  # of all arrivals: rarer histories are left out
# The spread of an answer, as means over cells of probability that are narrow where percentiles are asked.
_EDGES = np.concatenate((np.linspace(0.0, 0.9, 19), 1 - np.geomspace(0.05, 0.0005, 9), [1.0]))
CELLS = np.diff(_EDGES)
_MOST_PROMPTS, _LINE = 256, 64  # in a step, and kept at most of those who wait beyond it
_BEYOND = 1e-10  # chance of a longer line than is kept
_ABSORBS = 1e-30  # a state that is left more rarely has all of the probability of those below it, to any digit
_RESCALED = 8  # states after which probabilities are scaled back: fewer than overflow in steps of 1 / _ABSORBS


@dataclass(frozen=True, slots=True)
class Turns:
    """Waits of arriving prompts at each engine (rows), in seconds.

    Times are means over cells of probability (columns, ``CELLS``) in the order of wait and first step together.

    Attributes:
        wait_s: until the step begins that computes the prompt.
        first_s: that step, to the first token.
        behind: prompts in line when it has its first token, mean: it is they that delay its next.
        cycle_s: a step with the prompts that join it, or the steps that these take, mean.
        cycle_steps: how many these are, mean.
    """

    wait_s: Floats
    first_s: Floats
    behind: Floats
    cycle_s: Floats
    cycle_steps: Floats


@dataclass(frozen=True, slots=True)
class _Histories:
    """What may have gone before an arrival: others that came in its step, how many of them before it, and what is left of it.

    The share of the step that is left says how many of the others came before. That number is rarely whole: it is rounded up
    or down with the probabilities that keep its mean. Histories are ordered by ``others``.

    Attributes:
        others: that came in the same step.
        rest: which of ``_RESTS`` is left of the step.
        before: how many of the others came before.
        weight: probability among the histories with as many others.
    """

    others: Whole
    rest: Whole
    before: Whole
    weight: Floats

    @classmethod
    def of(cls, most_others: int, roundings: int) -> _Histories:
        """The histories with 0 to ``most_others`` others, each rounded by as many equally likely thresholds."""
        up = (np.arange(roundings) + 0.5) / roundings
        came = np.arange(most_others + 1)
        rounded = np.floor(came[:, None, None] * (1 - _RESTS[:, None]) + up).astype(int)
        higher = (rounded > rounded[..., :1]).mean(axis=-1)
        weight = np.stack((1 - higher, higher), axis=-1) / _RESTS.size
        others, rest, rounded_up = np.nonzero(weight > 0)
        return cls(others, rest, rounded[others, rest, 0] + rounded_up, weight[others, rest, rounded_up])


_RESTS = (np.arange(8) + 0.5) / 8
_HISTORIES = _Histories.of(_MOST_PROMPTS + _LINE, roundings=3)
_LOG_FACTORIALS = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1.0, _MOST_PROMPTS + _LINE + 1)))))


def prompts_a_step(arrival_per_s: float, step_s: Floats, prompt_s: Floats, most: Num) -> Whole:
    """Prompts that may well come in a step of each engine, up to ``most`` of each.

    It is the mean and six deviations of lambda C, where C = step / (1 - lambda prompt) is a step with those that join it.

    Example:
        >>> prompts_a_step(10.0, np.array([0.02]), np.array([0.01]), np.array([8.0])).tolist()
        [8]
    """
    mean = arrival_per_s * step_s / np.maximum(1 - arrival_per_s * prompt_s, 0.05)
    likely = np.maximum(8.0, np.ceil(mean + 6 * np.sqrt(mean)))
    whole: Whole = np.clip(likely, 1.0, np.clip(most, 1.0, _MOST_PROMPTS)).astype(int)
    return whole


def turns(
    arrival_per_s: float,
    most: Whole,
    steps_s: Floats,
    first_s: Floats,
    shared_s: Floats,
    steps: Floats | None = None,
    *,
    ahead: bool = False,
) -> Turns:
    """Waits of a prompt that comes while others decode, at each of several engines.

    With K unlimited and each prompt adding p to a step of s, mean wait + first step = (1 + 2 lambda p) E[C^2] / 2 E[C] + s + p.

    Args:
        arrival_per_s: lambda, at random; lambda T(K) < K, or else the line grows to what is kept of it.
        most: K of each engine: prompts that a step computes at most, up to 256.
        steps_s: how long 0, 1, .. K prompts (columns) keep each engine (rows), with the step that they join.
        first_s: from then to their first token, likewise.
        shared_s: longer if another prompt is behind them by then, of each engine.
        steps: that 0, 1, .. K prompts take (None: one), of each engine.
        ahead: a step is scheduled when the one before begins: who comes while prompts are computed is not in their last step.

    Example:
        >>> steps_s = np.array([[0.02, 0.03]])
        >>> rare = turns(1e-6, np.array([1]), steps_s, steps_s, np.zeros(1))  # half a step, then one with the prompt
        >>> [round(float(seen), 4) for seen in (*(rare.wait_s @ CELLS), *(rare.first_s @ CELLS), *rare.cycle_s)]
        [0.01, 0.03, 0.02]
    """
    taken = np.ones_like(steps_s) if steps is None else steps
    mean = arrival_per_s * steps_s[:, : most.max() + 1]
    line = _line(float((mean[np.arange(most.size), most] / most).max()))
    coming = _poisson(mean, most + line)
    shares = _stationary(coming, most)
    empty = np.zeros((most.size, CELLS.size))
    solved = Turns(empty, empty.copy(), *np.zeros((3, most.size)))
    for k in np.unique(most):
        engines = np.flatnonzero(most == k)
        states, prompts = k + line + 1, k + 1
        seen = _seen(
            arrival_per_s,
            shares[engines, :states],
            coming[engines, :prompts, :states],
            steps_s[engines, :prompts],
            taken[engines, :prompts],
            first_s[engines, :prompts],
            shared_s[engines],
            ahead,
        )
        parts = (solved.wait_s, solved.first_s, solved.behind, solved.cycle_s, solved.cycle_steps)
        for each, part in zip(parts, seen, strict=True):
            each[engines] = part
    return solved


def _seen(
    arrival_per_s: float,
    shares: Floats,
    coming: Floats,
    steps_s: Floats,
    steps: Floats,
    first_s: Floats,
    shared_s: Floats,
    ahead: bool,
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The fields of ``Turns`` for engines (first axis of all) whose steps take equally many prompts at most.

    ``shares`` are those of the states of the chain at the starts of steps; ``coming`` holds, for each number of prompts that a
    step computes (rows), the probabilities of 0, 1, .. arrivals in it.
    """
    most = steps_s.shape[1] - 1
    served = np.minimum(np.arange(shares.shape[1]), most)
    busy_s = shares * steps_s[:, served]
    cycle_s = busy_s.sum(axis=1)
    met = busy_s[..., None] * coming[:, served]
    met[met <= _NEVER * met.max(axis=(1, 2), keepdims=True)] = 0.0
    met /= met.sum(axis=(1, 2), keepdims=True)
    of_states, of_others = met.sum(axis=2), met.sum(axis=1)
    numbers = np.arange(served.size)
    in_line = 1 + (of_states * np.maximum(numbers - most, 0) + of_others * numbers).sum(axis=1)
    # Few pairs of a state and a number of others are met: each has the histories of as many others.
    at, state, others = np.nonzero(met)
    ends = np.searchsorted(_HISTORIES.others, np.arange(served.size + 1))
    each = np.diff(ends)[others]
    history = np.arange(each.sum()) + np.repeat(ends[others] - np.cumsum(each) + each, each)
    chances = np.repeat(met[at, state, others], each) * _HISTORIES.weight[history]
    # Many histories come to the same outcome: times are computed, and sorted, once each.
    outcome_of, shape = _outcomes(most)
    outcome = outcome_of[np.repeat(state, each), history]
    size = int(outcome.max()) + 1
    together_of = np.bincount(np.repeat(at * size, each) + outcome, chances)
    likely = np.flatnonzero(together_of)
    weight, engine = together_of[likely], likely // size
    full, now, rest, together, late = np.unravel_index(likely % size, shape)
    full_s, own_s = full * steps_s[engine, most], first_s[engine, together]
    wait_s = _RESTS[rest] * steps_s[engine, now] + full_s
    # Who comes while the step runs that is scheduled already is with them still.
    soon = -np.expm1(-arrival_per_s * (cycle_s[engine] if ahead else own_s))
    followed = np.where(late > 0, 1.0, soon) * (shared_s > 0)[engine]
    in_line += _sums(engine, weight * (arrival_per_s * (full_s + own_s + followed * shared_s[engine]) - most * full - together))
    split = np.flatnonzero(followed)
    wait_s, first_s = np.append(wait_s, wait_s[split]), np.append(own_s, (own_s + shared_s[engine])[split])
    weight = np.append(weight * (1 - followed), (weight * followed)[split])
    cycle_steps = (shares * steps[:, served]).sum(axis=1)
    return *_cells(np.append(engine, engine[split]), wait_s, first_s, weight), in_line, cycle_s, cycle_steps


@functools.lru_cache(maxsize=16)
def _outcomes(most: int) -> tuple[Whole, tuple[int, ...]]:
    """What each history (columns) comes to in each state of the chain (rows), as an index into an array of the returned shape.

    The array's axes are the full steps that follow the running one, the prompts that this one computes, which rest of it is
    left, the prompts of the step with the new one, and whether others are behind it then.
    """
    state = np.arange(most + _LINE + 1)[:, None]
    histories = int(np.searchsorted(_HISTORIES.others, most + _LINE, side="right"))
    others, before, rest = _HISTORIES.others[:histories], _HISTORIES.before[:histories], _HISTORIES.rest[:histories]
    now = np.minimum(state, most)
    full = (state - now + before) // most
    line = state - now + others + 1 - full * most
    together = np.minimum(line, most)
    shape = (int(full.max()) + 1, most + 1, _RESTS.size, most + 1, 2)
    parts = np.broadcast_arrays(full, now, rest, together, (line > together).astype(int))
    return np.ravel_multi_index(parts, shape), shape


def _line(load: float) -> int:
    """How many of those who wait beyond a step's prompts are kept: more wait with a chance of 1e-10 at most.

    ``load`` is rho = lambda T(K) / K. More than L wait with a chance of exp(-a L) at most for any a > 0 with
    E[exp(a (arrivals - K))] <= 1, which is rho (exp(a) - 1) <= a.

    Source: Kingman, "Inequalities in the theory of queues", Journal of the Royal Statistical Society B 32, 1970.

    Example:
        >>> _line(0.1), _line(0.5), _line(2.0)
        (7, 19, 64)
    """
    return min(int(np.searchsorted(_HIGHEST_LOADS, load)) + 1, _LINE)


_DECAYS = -math.log(_BEYOND) / np.arange(1.0, _LINE + 1)
_HIGHEST_LOADS = _DECAYS / np.expm1(_DECAYS)


def _poisson(mean: Floats, last: Whole) -> Floats:
    """Probabilities of 0, 1, .. arrivals for each mean of each engine; more than its ``last`` count as ``last``."""
    counts = np.arange(last.max() + 1)
    shares: Floats = np.exp(counts * np.log(mean)[..., None] - _LOG_FACTORIALS[: counts.size] - mean[..., None])
    shares *= (counts <= last[:, None])[:, None, :]
    shares[np.arange(last.size), :, last] += np.maximum(0.0, 1 - shares.sum(axis=-1))
    return shares


def _stationary(coming: Floats, most: Whole) -> Floats:
    """Stationary probabilities of the states (columns) of each engine's chain (rows); what goes beyond the last state is there.

    States are eliminated from the last to the first, each of which leads to at most K below it; their probabilities follow
    from the first to the last.
    """
    widest = int(most.max())
    size = coming.shape[2]
    line = size - 1 - widest
    moves = np.zeros((most.size, size, size))  # to each state (rows) from each (columns)
    for chain, arrivals, beyond, k in zip(moves, coming, _one_further(coming, most, line), most, strict=True):
        last = k + line
        chain[:last, :k] = arrivals[:k, :last].T
        chain[:last, k : last + 1] = beyond[:, :last].T
    each = np.arange(most.size)
    moves[each, most + line] = np.maximum(0.0, 1 - moves.sum(axis=1)) * (np.arange(size) <= (most + line)[:, None])
    for state in range(size - 1, 0, -1):
        lowest = max(0, state - widest)
        down, up = moves[:, lowest:state, state], moves[:, state, :state]
        up /= np.maximum(np.add.reduce(down, axis=1), _ABSORBS)[:, None]
        moves[:, lowest:state, :state] += down[:, :, None] * up[:, None, :]
    shares = np.zeros((most.size, size))
    shares[:, 0] = 1.0
    for state in range(1, size):
        np.add.reduce(shares[:, :state] * moves[:, state, :state], axis=1, out=shares[:, state])
        if state % _RESCALED == 0:
            shares /= shares.max(axis=1)[:, None]
    shares /= shares.sum(axis=1)[:, None]
    return shares


def _one_further(coming: Floats, most: Whole, line: int) -> Floats:
    """Where each engine's queue goes with K and 0, 1, .. ``line`` more in line (rows), of whom K leave, but to its last state.

    The probabilities of a row are those of the row before, one state further up. Rows that are longer by one than they are read
    shift so by themselves.
    """
    engines = np.arange(most.size)
    begun = coming[engines, most]
    begun[engines, most + line] = 0.0
    width = begun.shape[1] + line
    rows = np.zeros((most.size, line + 1, width + 1))
    rows[..., : begun.shape[1]] = begun[:, None]
    return rows.reshape(most.size, -1)[:, : (line + 1) * width].reshape(most.size, line + 1, width)


def _cells(engine: Whole, wait_s: Floats, first_s: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Means of both times over cells of probability (columns) for each engine (rows), in the order of their sum."""
    order = np.lexsort((wait_s + first_s, engine.astype(np.int16)))
    ordered = (weight / _sums(engine, weight)[engine])[order]
    # The engines follow each other, each with a probability of 1.
    reached = np.append(0.0, np.cumsum(ordered))
    edges = np.arange(engine.max() + 1)[:, None] + _EDGES

    def means(values: Floats) -> Floats:
        summed = np.append(0.0, np.cumsum(ordered * values[order]))
        cells: Floats = np.maximum(np.diff(np.interp(edges, reached, summed)), 0.0) / CELLS
        return cells

    return means(wait_s), means(first_s)


def _sums(engine: Whole, values: Floats) -> Floats:
    """The sum of the values of each engine."""
    return np.bincount(engine, values)
