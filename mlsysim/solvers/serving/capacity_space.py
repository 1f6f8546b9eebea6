"""Every way to serve a load: hardware, number format, TP x PP, prompts beside decoding or in a pool of their own."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np
import numpy.typing as npt

from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.arrivals import Limits, Paces
from mlsysim.lowering.work import cached_B
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.layer.attention import cached_tokens
from mlsysim.physics.queues.open_loop import OpenLoop, Spread
from mlsysim.physics.serving.disaggregation import kv_transfer_s
from mlsysim.solvers.serving.fewest_replicas import held, hopeful, hopeless, least_copies
from mlsysim.solvers.serving.pools import DecodePaces, PrefillPool, prefill_pool
from mlsysim.systems.fleets import usual_node
from mlsysim.systems.types import Fleet, Node

# Layers of the fullest stage over the mean, at most: passes are timed as if stages were alike.
_UNEVEN = 1.05
# What tells ways from each other, and what the winner is compared along.
AXES = ("hardware", "precision", "tp", "pp", "disaggregated", "ep")
# The last bits of a division are no breach of a limit.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Offer:
    """Hardware that a load may be served on.

    Attributes:
        hardware: as asked.
        price: of one accelerator, an hour (1 where nobody says: then the cost counts accelerators).
        node: accelerators that a replica may lie on by default.
        available: accelerators in all.
        network_Bps: of one accelerator, from a prefill pool to a decode pool.
    """

    hardware: HardwareNode | Node | Fleet
    price: float
    node: int
    available: float
    network_Bps: float

    @classmethod
    def of(cls, hardware: HardwareNode | Node | Fleet, price: float) -> Offer:
        """A fleet has an end; nodes are bought as needed, and an accelerator stands in its usual node."""
        if isinstance(hardware, Fleet):
            node = hardware.node
            network_Bps = hardware.inter_bandwidth_Bps if hardware.count > 1 else node.intra_bandwidth_Bps
            return cls(hardware, price, node.accelerators_per_node, float(hardware.accelerators), network_Bps)
        node = hardware if isinstance(hardware, Node) else usual_node(hardware)
        card = node.network_bw
        network_Bps = node.intra_bandwidth_Bps if card is None else float(card.m_as("byte/second"))
        return cls(hardware, price, node.accelerators_per_node, inf, network_Bps)

    @property
    def most_ranks(self) -> float:
        """Accelerators that one replica may have."""
        if isinstance(self.hardware, HardwareNode) and (self.hardware.interconnect_bw or self.hardware.host_link_bw) is None:
            return 1.0  # nobody says what links it to others
        return self.available if isinstance(self.hardware, Fleet) else float(self.node)


@dataclass(frozen=True, slots=True)
class Demand:
    """The load that is to be served, its limits, and the most sequences that one replica may decode together."""

    rate_per_s: float
    limits: Limits
    max_batch: int


@dataclass(frozen=True, slots=True)
class Promise:
    """What the asked share of requests does not exceed, and what one replica completes with all its places taken."""

    batch: int
    capacity_per_s: float
    ttft_s: float
    itl_s: float
    request_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """A batch with which the limits are kept, and what requests see then: of pools apart, the time per output token."""

    batch: int
    seen: OpenLoop | Spread


@dataclass(frozen=True)
class Way(ABC):
    """A way to serve: a plan on some hardware, whose replicas decode.

    Attributes:
        offer: where it runs.
        place: of the offer and the number format in what was asked.
        pace: of one replica with as many places as it may have.
        demand: what it is to serve.
    """

    offer: Offer
    place: tuple[int, int]
    pace: Paces
    demand: Demand

    @property
    def pool(self) -> PrefillPool | None:
        """Replicas that prefill, where those that decode do not."""
        return None

    @property
    def ranks(self) -> int:
        """Accelerators of one replica."""
        return self.pace.setting.ranks

    @property
    def values(self) -> tuple[int, ...]:
        """Its values on ``AXES``, which tell it from others."""
        setting = self.pace.setting
        return (*self.place, setting.tp, setting.pp, int(self.pool is not None), setting.expert_plan.ep)

    def accelerators(self, replicas: int) -> int:
        """Accelerators of so many replicas, those of the prefill pool included."""
        return replicas * self.ranks + (self.pool.accelerators if self.pool is not None else 0)

    def cost(self, replicas: int) -> float:
        """Price of so many replicas, an hour."""
        return self.accelerators(replicas) * self.offer.price

    def most_replicas(self, cost: float) -> float:
        """Replicas that the hardware has room for and that cost no more than ``cost``."""
        most = min(self.offer.available, (1 + _ROUNDING) * cost / self.offer.price)
        return inf if most == inf else (most - self.accelerators(0)) // self.ranks

    @property
    def further(self) -> float:
        """Tokens of a request after the first."""
        return self.pace.setting.output - 1

    @property
    def decoding(self) -> Paces | DecodePaces:
        """What its replicas reach that decode."""
        return self.pace

    @property
    def first_s(self) -> float:
        """Time to the first token of a request that finds nobody."""
        return self.pace.alone_s

    @functools.cached_property
    def lone(self) -> Promise:
        """What a request that finds nobody sees."""
        token_s, per_s = float(self.decoding.token_s[0]), float(self.decoding.completions_per_s[0])
        return Promise(1, per_s, self.first_s, token_s, self.first_s + self.further * token_s)

    @functools.cached_property
    def batches(self) -> list[int]:
        """Most sequences of a replica to try: first the most of which all keep the limit between tokens, then powers of two.

        Where few requests would meet a fuller replica, or steps grow by leaps, another number may need fewer replicas.
        """
        quick = np.flatnonzero(self.decoding.token_s <= self.demand.limits.token_s)
        if not quick.size:
            return []
        ladder = {2**power for power in range(self.pace.places.bit_length())} | {self.pace.places}
        return list(dict.fromkeys([int(quick[-1]) + 1, *sorted(ladder, reverse=True)]))

    @functools.cached_property
    def least_replicas(self) -> int:
        """Replicas below which the load is beyond what they complete; 0 where not even a lone request keeps the limits."""
        lone, limits = self.lone, self.demand.limits
        late = lone.ttft_s > limits.first_s or lone.request_s > limits.request_s
        if late or not self.batches:
            return 0
        best_per_s = max(float(self.decoding.completions_per_s[batch - 1]) for batch in self.batches)
        return least_copies(self.demand.rate_per_s, best_per_s)

    def held(self, replicas: int) -> Held | None:
        """The first batch with which so many replicas keep the limits, and what their requests see; None where none does."""
        arrival_per_s, limits = self.demand.rate_per_s / replicas, self.demand.limits
        speeds = self.decoding.completions_per_s, self.decoding.token_s
        may = hopeful(*speeds, limits, arrival_per_s, self.in_time, self.most_decoding)
        if may[[batch - 1 for batch in self.batches]].sum() > 1:
            may &= ~self.refused(arrival_per_s)
        looked = ((batch, self.seen(batch, arrival_per_s)) for batch in self.batches if may[batch - 1])
        return next((Held(batch, seen) for batch, seen in looked if seen is not None), None)

    @property
    def in_time(self) -> float:
        """Share of the requests that find others in flight whose first token may be in time, at most."""
        return 1.0

    @property
    def most_decoding(self) -> float:
        """Requests that decode at a time at most, for prompts to have room in their steps."""
        return inf

    def refused(self, arrival_per_s: float) -> npt.NDArray[np.bool_]:
        """With which numbers of places 1, 2, ... the limits are known not to be kept."""
        return np.zeros(self.pace.places, bool)

    @abstractmethod
    def seen(self, batch: int, arrival_per_s: float) -> OpenLoop | Spread | None:
        """What requests see of a replica with so many places, or None where they do not keep the limits."""

    @abstractmethod
    def promise(self, held: Held) -> Promise:
        """What the asked share of requests does not exceed."""


class Together(Way):
    """Replicas compute prompts beside decoding: the open-loop model of ``TailLatencyModel`` says what requests see."""

    @functools.cached_property
    def in_time(self) -> float:
        """Share of the requests that find others in flight whose first token may be in time, at most."""
        return self.pace.in_time(self.demand.limits.first_s)

    @property
    def most_decoding(self) -> float:
        """Requests that decode at a time at most, for prompts to have room in their steps."""
        return self.pace.most_decoding

    def refused(self, arrival_per_s: float) -> npt.NDArray[np.bool_]:
        """With which numbers of places 1, 2, ... the limits are known not to be kept."""
        return hopeless(self.pace, self.demand.limits, arrival_per_s)

    def seen(self, batch: int, arrival_per_s: float) -> OpenLoop | None:
        """What requests see of a replica with so many places, or None where they do not keep the limits."""
        return held(self.pace.with_places(batch), self.demand.limits, arrival_per_s)

    def promise(self, held: Held) -> Promise:
        """What the asked share of requests does not exceed."""
        share, seen = self.demand.limits.share, cast("OpenLoop", held.seen)
        first, whole = seen.after_wait(0.0), seen.after_wait(self.further)
        times_s = first.percentile_s(share), seen.token_percentile_s(share), whole.percentile_s(share)
        return Promise(held.batch, float(self.decoding.completions_per_s[held.batch - 1]), *times_s)


@dataclass(frozen=True)
class Apart(Way):
    """Replicas that only decode, beside a pool that prefills and sends each cache in ``transfer_s``.

    Its requests' times are sums of percentiles, as if who waits longest for the first token met the fullest replica.
    """

    prefill: PrefillPool
    transfer_s: float

    @property
    def pool(self) -> PrefillPool:
        """Replicas that prefill."""
        return self.prefill

    @functools.cached_property
    def decoding(self) -> DecodePaces:
        """What its replicas reach without prompts."""
        return DecodePaces(self.pace, self.transfer_s)

    @property
    def first_s(self) -> float:
        """Time to the first token that the asked share of requests does not exceed."""
        return self.prefill.ttft_s

    def seen(self, batch: int, arrival_per_s: float) -> Spread | None:
        """The time per output token of a replica with so many places, or None where requests do not keep the limits."""
        limits, tokens = self.demand.limits, self.decoding.under(arrival_per_s, batch)
        most_s = min(limits.token_s, (limits.request_s - self.first_s) / max(self.further, 1.0))
        return tokens if tokens.tail(most_s) <= 1 - limits.share else None

    def promise(self, held: Held) -> Promise:
        """What the asked share of requests does not exceed."""
        itl_s = cast("Spread", held.seen).percentile_s(self.demand.limits.share)
        per_s = float(self.decoding.completions_per_s[held.batch - 1])
        return Promise(held.batch, per_s, self.first_s, itl_s, self.first_s + self.further * itl_s)


def plans(
    model: TransformerWorkload, offer: Offer, tp_sizes: Sequence[int] | None, pp_sizes: Sequence[int] | None
) -> list[tuple[int, int, int]]:
    """TP x PP of a replica, and parts that its experts are dealt out to.

    TP divides the heads and, unless asked, stays in a node; PP, unless asked, is even. Experts are cut by width, or dealt out
    to all ranks of a stage, each of which then attends for sequences of its own; in a fleet also over nodes.
    """
    tensor = [tp for tp in range(1, offer.node + 1) if offer.node % tp == 0] if tp_sizes is None else tp_sizes
    even = [pp for pp in range(1, model.layers + 1) if -(-model.layers // pp) * pp <= _UNEVEN * model.layers]
    stages = even if pp_sizes is None else pp_sizes
    stages = [pp for pp in stages if pp <= model.layers]
    shared = [(tp, pp, 1) for tp in tensor for pp in stages if model.heads % tp == 0 and tp * pp <= offer.most_ranks]
    if model.moe is None:
        return shared
    wide = [size for size in tensor if size > 1]
    if tp_sizes is None and isinstance(offer.hardware, Fleet):
        wide += [offer.node * 2**power for power in range(1, 10)]
    most = min(offer.most_ranks, float(model.moe.experts))
    return shared + [(tp, pp, tp) for tp in wide for pp in stages if tp <= most and tp * pp <= offer.most_ranks]


def ways(
    pace_of_plans: Sequence[Paces], offer: Offer, place: tuple[int, int], demand: Demand, disaggregated: Sequence[bool]
) -> Iterator[Way]:
    """Every way to serve on plans that fit: as they are, and beside each prefill pool that is worth trying."""
    together = [Together(offer, place, pace, demand) for pace in pace_of_plans]
    if False in disaggregated:
        yield from together
    if True in disaggregated:
        for pool in _pools(together, offer, demand):
            for each in together:
                sent_s = _transfer_s(each.pace, pool.senders, offer)
                yield Apart(offer, place, each.pace, demand, pool, sent_s)


def _pools(together: Sequence[Way], offer: Offer, demand: Demand) -> list[PrefillPool]:
    """The prefill pools worth trying beside every decode plan; where none keeps the limit, the one that is least late.

    A decode plan sees of a pool only how many accelerators send it a cache at once: of pools with as many senders, or more, the
    one with the fewest accelerators is the best for all. Half of what a limit on the request leaves is for the first token.
    """
    limits, pools = demand.limits, []
    quickest_s = min((each.lone.request_s - each.first_s for each in together), default=0.0)
    for each in together:
        left_s = max(limits.request_s - each.first_s - quickest_s, 0.0)
        limit_s = min(limits.first_s, each.first_s + left_s / 2)
        sent_s = _transfer_s(each.pace, each.ranks // each.pace.setting.attention_dp, offer)
        pool = prefill_pool(each.pace, demand.rate_per_s, sent_s, limits.share, limit_s)
        pools.append((max(0.0, pool.ttft_s - limit_s), pool))
    in_time = [pool for late_s, pool in pools if late_s == 0]
    chosen = [] if in_time else [pool for _, pool in sorted(pools, key=lambda each: each[0])[:1]]
    for pool in sorted(in_time, key=lambda pool: (pool.accelerators, -pool.senders, pool.ttft_s)):
        if all(pool.senders > other.senders for other in chosen):
            chosen.append(pool)
    return chosen


def _transfer_s(pace: Paces, senders: int, offer: Offer) -> float:
    """Seconds to send a prompt's cache to the ranks of one of the plan's groups."""
    setting = pace.setting
    receivers = setting.ranks // setting.attention_dp
    cache_B = cached_B(setting.workload, setting.cache) * cached_tokens(setting.workload.layer_shape, setting.prompt)
    return float(kv_transfer_s(cache_B, float(senders), float(receivers), offer.network_Bps))
