"""Prefill and decode on accelerators of their own, under requests that arrive at random.

A prefill replica, or each of its groups of ranks that attend for sequences of their own, takes one prompt after another, M/D/1.
A cache then goes to a decode replica, where it takes a place in the batch while it arrives; with n of them in flight a step has
no prompts, so that the replica is a birth-death chain.

Sources: Patel et al., "Splitwise", ISCA 2024; Zhong et al., "DistServe", OSDI 2024 (first tokens wait as in M/D/1).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from mlsysim.lowering.arrivals import Paces
from mlsysim.physics.numeric import Floats
from mlsysim.physics.queues.batch_queue import one_by_one
from mlsysim.physics.queues.constant_service import ConstantService
from mlsysim.physics.queues.open_loop import Spread, in_flight
from mlsysim.physics.queues.queueing import delay_scale_s
from mlsysim.physics.serving.disaggregation import decode_pool

# The highest busy share planned for where no limit says less: beyond it a queue grows faster than any mean says.
MOST_BUSY = 0.95
# So that a load that a number of replicas meets exactly is not given one more by the last bit of a division.
_ROUNDING = 1e-9
_LEAST_BUSY = 1e-5
_NO_QUEUE = 1e-12  # below this busy share hardly one arrival in 1e12 waits


@dataclass(frozen=True, slots=True)
class PrefillPool:
    """Replicas of a model that compute prompts alone, and the time to first token that the asked share does not exceed.

    ``groups`` of the ranks of a replica compute prompts of their own; ``senders``: accelerators that hold the cache of one.
    """

    replicas: int
    ranks: int
    tp: int
    pp: int
    ep: int
    groups: int
    senders: int
    ttft_s: float

    @property
    def accelerators(self) -> int:
        """The accelerators of the pool."""
        return self.replicas * self.ranks


def prefill_pool(pace: Paces, rate_per_s: float, transfer_s: float, share: float, limit_s: float = inf) -> PrefillPool:
    """Returns the smallest pool on which ``share`` of the requests have their first token in time.

    Where not even a lone request has, it is as small as without a limit, and its time says so. Each group of ranks sends one
    cache after another.
    """
    setting = pace.setting
    groups = setting.attention_dp
    prefill_s = pace.alone_s if groups == 1 else float(pace.passes.prefill_s(float(groups), setting.prompt))
    allowed = one_by_one(prefill_s, limit_s, share) if limit_s < inf else None
    most_busy = MOST_BUSY if allowed is None else min(MOST_BUSY, max(_LEAST_BUSY, allowed.load_per_s * prefill_s))
    busy_groups = max(rate_per_s * prefill_s / most_busy * (1 - _ROUNDING), rate_per_s * transfer_s)
    replicas = max(1, ceil(busy_groups / groups))
    busy_share = rate_per_s * prefill_s / (replicas * groups)
    waiting = ConstantService.of(busy_share).wait_percentile(share) if busy_share > _NO_QUEUE else 0.0
    ttft_s = prefill_s * (1 + waiting)
    if limit_s < ttft_s <= limit_s * (1 + _ROUNDING):
        ttft_s = limit_s  # the last bits of a division are no breach of it
    ranks = setting.ranks
    return PrefillPool(replicas, ranks, setting.tp, setting.pp, setting.expert_plan.ep, groups, ranks // groups, ttft_s)


@dataclass(frozen=True)
class DecodePaces:
    """A replica that only decodes: ``pace`` without its prompts, each of whose caches takes ``transfer_s`` to arrive."""

    pace: Paces
    transfer_s: float

    @functools.cached_property
    def _pool(self) -> tuple[Floats, Floats]:
        batch = np.arange(1.0, self.pace.places + 1.0)
        setting = self.pace.setting
        per_s, token_s = decode_pool(batch, setting.output, self.pace.step_s, self.transfer_s, float(setting.attention_dp))
        return np.asarray(per_s), np.asarray(token_s)

    @property
    def completions_per_s(self) -> Floats:
        """Requests that the replica completes with 1, 2, ... in flight."""
        return self._pool[0]

    @property
    def token_s(self) -> Floats:
        """Time per output token with 1, 2, ... in flight, the transfer included."""
        return self._pool[1]

    def under(self, arrival_per_s: float, places: int) -> Spread:
        """Returns the time per output token of requests that arrive at this rate and find at most so many ``places``.

        Who finds none waits for it between its first token and the second.
        """
        completions_per_s, token_s = self.completions_per_s[:places], self.token_s[:places]
        free, taken = in_flight(arrival_per_s, completions_per_s)
        capacity_per_s = float(completions_per_s[-1])
        place_s = float(delay_scale_s(1 / capacity_per_s, 1, arrival_per_s / capacity_per_s, 0.0))
        return Spread.of(token_s, free, taken, float(token_s[-1]), place_s / max(self.pace.setting.output - 1, 1.0))
