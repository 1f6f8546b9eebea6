"""A server that takes whatever arrived while it worked as its next batch: the highest load within a limit on latency.

At a steady load the batch is b = load x s(b), with s(b) the time of a batch. A request arrives anywhere within the batch under
way, waits for the rest of it, and then for its own: latency = (1 + U) s, U uniform on 0..1. Batches vary, because arrivals are
random and because what follows a long batch is long: b' ~ Poisson(load x s(b)) is a chain with correlation
r = b s'(b) / s(b) and variance b (1 + v^2) / (1 - r^2), where v is the spread of the requests' own sizes.

Valid where the server is hardly ever idle, which a load near its highest is. Source: Bailey, "On queueing processes with bulk
service", 1954 (the chain of batches); the normal approximation of its spread is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlsysim.physics.numeric import Floats
from mlsysim.physics.queues.constant_service import ConstantService

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_SHARES = _WEIGHTS / _WEIGHTS.sum()
_LOAD_HALVINGS = 14
_FULL = 0.999  # so near to all of its time a server's queue is as good as endless


class BatchLoad(NamedTuple):
    """Requests a second, the mean batch, its time, and the latency that the asked share of requests does not exceed."""

    load_per_s: float
    batch: float
    batch_s: float
    latency_s: float


def batch_spread(batch: Floats, batch_s: Floats, size_spread: float) -> Floats:
    """Standard deviation over mean of the time of a batch, for mean batches ``batch`` that take ``batch_s``.

    Example:
        >>> sizes = np.array([4.0, 16.0, 64.0])
        >>> batch_spread(sizes, 10 + sizes, 0.0).round(3).tolist()  # what takes long whatever its size varies little
        [0.149, 0.195, 0.215]
    """
    follows = np.clip(batch * np.gradient(batch_s, batch) / batch_s, 0.0, 0.999)
    return np.asarray(follows * np.sqrt((1 + size_spread**2) / (batch * (1 - follows**2))))


def latency_in_batches(spread: Floats, share: float) -> Floats:
    """(1 + U) (1 + ``spread`` Z) that ``share`` of the requests do not exceed, Z normal: 1 + ``share`` without spread.

    Example:
        >>> latency_in_batches(np.array([0.0, 0.1, 0.3]), 0.99).round(2).tolist()
        [1.99, 2.2, 2.97]
    """
    times = np.maximum(1 + np.multiply.outer(spread, _NODES), 1e-3)
    # The share beyond t falls in straight lines between the times and their doubles.
    bends = np.sort(np.concatenate((times, 2 * times), axis=-1), axis=-1)
    beyond = (np.clip(2 - bends[..., None] / times[..., None, :], 0.0, 1.0) * _SHARES).sum(axis=-1)
    after = (beyond > 1 - share).sum(axis=-1, keepdims=True)
    start, above = (np.take_along_axis(part, after - 1, axis=-1)[..., 0] for part in (bends, beyond))
    end, below = (np.take_along_axis(part, after, axis=-1)[..., 0] for part in (bends, beyond))
    return np.asarray(np.maximum(1.0, start + (above - (1 - share)) / (above - below) * (end - start)))


def highest_load(batch: Floats, batch_s: Floats, limit_s: float, *, share: float, size_spread: float = 0.0) -> BatchLoad | None:
    """The largest load of which ``share`` of the requests take at most ``limit_s``; None where not even the least batch does.

    Args:
        batch: mean batches to look at, rising.
        batch_s: the time of each.
        limit_s: limit on latency.
        share: of the requests that keep it.
        size_spread: standard deviation over mean of the requests' own sizes.

    Example:
        >>> sizes = np.arange(1.0, 2000.0)
        >>> found = highest_load(sizes, 1e-3 + 1e-4 * sizes, 15e-3, share=0.99)
        >>> round(found.load_per_s), round(found.batch), round(1e3 * found.latency_s, 3)
        (8247, 47, 15.0)
    """
    latency_s = np.maximum.accumulate(latency_in_batches(batch_spread(batch, batch_s, size_spread), share) * batch_s)
    over = int(np.searchsorted(latency_s, limit_s, side="right"))
    filled = None
    if over > 0:
        last = over == len(batch)
        reached_s = float(latency_s[-1]) if last else limit_s
        size = (
            float(batch[-1]) if last else float(np.interp(limit_s, latency_s[over - 1 : over + 1], batch[over - 1 : over + 1]))
        )
        time_s = float(np.interp(size, batch, batch_s))
        filled = BatchLoad(size / time_s, size, time_s, reached_s)
        # Tiles and waves make some smaller batches the faster ones.
        best = int(np.argmax(batch[:over] / batch_s[:over]))
        if batch[best] / batch_s[best] > filled.load_per_s:
            filled = BatchLoad(
                float(batch[best] / batch_s[best]), float(batch[best]), float(batch_s[best]), float(latency_s[best])
            )
    one_s = float(batch_s[0])
    if filled is not None and filled.load_per_s * one_s >= 1:
        return filled
    alone = one_by_one(one_s, limit_s, share)
    return max((load for load in (filled, alone) if load is not None), key=lambda load: load.load_per_s, default=None)


def one_by_one(one_s: float, limit_s: float, share: float) -> BatchLoad | None:
    """The load of a server that takes requests singly, which is better where batches save nothing: M/D/1 within the limit.

    Example:
        >>> found = one_by_one(0.1, 0.25, share=0.9)  # who waits longer than 1.5 services is one of ten
        >>> round(found.load_per_s, 1)
        5.0
    """
    if one_s >= limit_s:
        return None
    low, high, longest = 0.0, _FULL, limit_s / one_s - 1
    for _ in range(_LOAD_HALVINGS):
        middle = (low + high) / 2
        kept = ConstantService.of(middle, longest).wait_tail(longest) <= 1 - share
        low, high = (middle, high) if kept else (low, middle)
    return BatchLoad(low / one_s, 1.0, one_s, limit_s)
