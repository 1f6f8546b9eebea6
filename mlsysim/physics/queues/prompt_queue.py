"""Prompts that join the steps of a running batch: how long one that arrives at random waits for its turn.

An engine that batches by iteration admits nobody while a step runs. Who arrives meanwhile waits for the rest of it; then all
who came are computed together in the next one, at most so many: a queue with gated bulk service whose server never rests, for
steps go on without prompts too. Its length at the starts of steps is a Markov chain: q' = q - k + Poisson(lambda T(k)) for
k = min(q, K). An arrival falls into a long step more often than into a short one.

Sources: Yu et al., "Orca", OSDI 2022 (iteration-level scheduling); Bailey, "On queueing processes with bulk service", 1954;
Takagi, "Queueing Analysis" 1, 1991, section 2 (vacations, gated service).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlsysim.physics.numeric import Floats

# Shares of a step that are left when a request comes, each with every rounding of how many came before it.
_REST = np.repeat((np.arange(8) + 0.5) / 8, 3)
_ROUNDING = np.tile((np.arange(3) + 0.5) / 3, 8)
_NEVER = 1e-6  # of all arrivals: rarer histories are left out
# The spread of an answer, as means over cells of probability that are narrow where percentiles are asked.
_EDGES = np.concatenate((np.linspace(0.0, 0.9, 19), 1 - np.geomspace(0.05, 0.0005, 9), [1.0]))
CELLS = np.diff(_EDGES)
_MOST_PROMPTS, _LINE = 256, 64  # in a step, and kept of those who wait beyond it


@dataclass(frozen=True, slots=True)
class Turn:
    """What arrivals see, as means over cells of probability (``CELLS``), ordered by their sum, in seconds.

    Attributes:
        wait_s: until the step begins that computes the prompt.
        first_s: that step, to the first token.
        behind: prompts in line when it has its first token, mean: it is they that delay its next.
        cycle_s: a step with the prompts that join it, mean.
    """

    wait_s: Floats
    first_s: Floats
    behind: float
    cycle_s: float


def prompts_a_step(arrival_per_s: float, step_s: float, prompt_s: float, most: float) -> int:
    """So many may well come in a step, up to ``most``: mean and six deviations of lambda C, C = step / (1 - lambda prompt).

    Example:
        >>> prompts_a_step(10.0, 0.02, 0.01, 8.0)
        8
    """
    mean = arrival_per_s * step_s / max(1 - arrival_per_s * prompt_s, 0.05)
    return int(max(1.0, min(most, max(8.0, np.ceil(mean + 6 * np.sqrt(mean))), _MOST_PROMPTS)))


def turn(arrival_per_s: float, steps_s: Floats, first_s: Floats, shared_s: float = 0.0) -> Turn:
    """What a prompt sees that comes while others decode.

    With K unlimited and each prompt adding p to a step of s, mean wait + first step = (1 + 2 lambda p) E[C^2] / 2 E[C] + s + p.

    Args:
        arrival_per_s: lambda, at random; lambda T(K) < K, or else the line grows to what is kept of it.
        steps_s: how long 0, 1, .. K prompts keep the engine, with the step that they join.
        first_s: from then to their first token, likewise.
        shared_s: longer if another prompt is behind them by then.

    Example:
        >>> rare = turn(1e-6, np.array([0.02, 0.03]), np.array([0.02, 0.03]))  # half a step, then one with the prompt
        >>> round(float(CELLS @ rare.wait_s), 4), round(float(CELLS @ rare.first_s), 4), round(rare.cycle_s, 4)
        (0.01, 0.03, 0.02)
    """
    most = steps_s.size - 1
    states = most + _LINE
    coming = _poisson(arrival_per_s * steps_s, states)
    served = np.minimum(np.arange(states + 1), most)
    shares = _stationary(coming, served)
    found = shares * steps_s[served]
    met = (found / found.sum())[:, None] * coming[served]
    state, others = np.nonzero(met > _NEVER * met.max())
    left = state - served[state]
    # Those who came before it in the running step stand before it in line: a whole number, its mean kept.
    before = left[:, None] + np.floor(others[:, None] * (1 - _REST) + _ROUNDING)
    full = before // most
    line = left[:, None] + others[:, None] + 1 - full * most
    together = np.minimum(line, most).astype(int)
    wait_s = _REST * steps_s[served[state]][:, None] + full * steps_s[most]
    own_s = first_s[together]
    weight = np.broadcast_to(met[state, others][:, None], own_s.shape)
    if shared_s > 0:
        followed = np.where(line > together, 1.0, -np.expm1(-arrival_per_s * own_s))
        weight = np.concatenate((weight * (1 - followed), weight * followed))
        wait_s, line, together, full = (np.concatenate((part, part)) for part in (wait_s, line, together, full))
        own_s = np.concatenate((own_s, own_s + shared_s))
    weight = weight.ravel() / weight.sum()
    behind = line - together + arrival_per_s * (full * steps_s[most] + own_s)
    wait_cells, first_cells = _cells(wait_s.ravel(), own_s.ravel(), weight)
    return Turn(wait_cells, first_cells, float(weight @ behind.ravel()), float(found.sum()))


def _poisson(mean: Floats, most: int) -> Floats:
    """Probabilities of 0 .. ``most`` arrivals for each mean; what is beyond counts as ``most``."""
    counts = np.arange(1.0, most + 1)
    logs = np.cumsum(np.log(mean)[:, None] - np.log(counts), axis=1)
    shares: Floats = np.exp(np.concatenate((np.zeros((mean.size, 1)), logs), axis=1) - mean[:, None])
    shares[:, -1] += np.maximum(0.0, 1 - shares.sum(axis=1))
    return shares


def _stationary(coming: Floats, served: npt.NDArray[np.int_]) -> Floats:
    """Shares of the states of the chain; more than fit stay at the last."""
    size = served.size
    states = np.arange(size)
    came = states - (states - served)[:, None]
    moves = np.where(came >= 0, coming[served[:, None], np.maximum(came, 0)], 0.0)
    moves[:, -1] = 1 - moves[:, :-1].sum(axis=1)
    balance = moves.T - np.eye(size)
    balance[-1] = 1.0
    shares: Floats = np.linalg.solve(balance, np.append(np.zeros(size - 1), 1.0))
    return np.maximum(shares, 0.0)


def _cells(wait_s: Floats, first_s: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Means over cells of probability, in the order of the sum."""
    order = np.argsort(wait_s + first_s, kind="stable")
    reached = np.concatenate(([0.0], np.cumsum(weight[order])))

    def means(values: Floats) -> Floats:
        summed = np.concatenate(([0.0], np.cumsum(weight[order] * values[order])))
        cells: Floats = np.diff(np.interp(_EDGES, reached / reached[-1], summed)) / CELLS
        return cells

    return means(wait_s), means(first_s)
