"""Every way to serve a load on one kind of hardware in one number format, as arrays: plans, batches, one pool or two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.prefix_cache import prefixed
from mlsysim.lowering.serving_bound import BoundPasses
from mlsysim.lowering.work import cached_tokens
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.numeric import Floats, minimum
from mlsysim.physics.serving.deployment import Shards
from mlsysim.physics.serving.disaggregation import decode_pool, kv_transfer_s, prefill_pool
from mlsysim.physics.serving.inference import ServingMachine
from mlsysim.physics.serving.schedule import EnginePasses, Passes, continuous_batch
from mlsysim.physics.serving.torus import TorusDeployment
from mlsysim.solvers.serving.replica import ServingReplica, whole_batches
from mlsysim.systems.types import Fleet, Node

# What is kept of a configuration: where it stands (offer, precision: places in the lists asked), the plan, and its figures.
# ``cost`` is of all accelerators, an hour; ``requests_per_s``: that one replica can take; ``prefill_*``: of a pool of its own.
COLUMNS = (
    *("offer", "precision", "tp", "pp", "batch", "disaggregated", "replicas", "prefill_replicas", "prefill_tp", "prefill_pp"),
    *("requests_per_s", "accelerators", "ttft_s", "itl_s", "cost"),
)
PLACE = {name: index for index, name in enumerate(COLUMNS)}
# Layers of the fullest stage over the mean, at most: passes are timed as if stages were alike.
_UNEVEN = 1.05
# Configurations evaluated at once: memory stays bounded, and arrays stay in the cache.
_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class Offer:
    """Hardware that a load may be served on.

    Attributes:
        hardware: as asked.
        price: of one accelerator, an hour (1 where nobody says: then the cost counts accelerators).
        node: accelerators that a replica may lie on by default.
        available: accelerators in all.
        network_Bps: of one accelerator, from a prefill pool to a decode pool; 0: they have none.
    """

    hardware: HardwareNode | Node | Fleet
    price: float
    node: int
    available: float
    network_Bps: float

    @classmethod
    def of(cls, hardware: HardwareNode | Node | Fleet, price: float) -> Offer:
        """A fleet has an end; nodes and accelerators are bought as needed."""
        if isinstance(hardware, Fleet):
            node = hardware.node
            network_Bps = hardware.inter_bandwidth_Bps if hardware.count > 1 else node.intra_bandwidth_Bps
            return cls(hardware, price, node.accelerators_per_node, float(hardware.accelerators), network_Bps)
        if isinstance(hardware, Node):
            card = hardware.network_bw
            network_Bps = hardware.intra_bandwidth_Bps if card is None else float(card.m_as("byte/second"))
            return cls(hardware, price, hardware.accelerators_per_node, float("inf"), network_Bps)
        return cls(hardware, price, 1, float("inf"), hardware.interconnect_bandwidth_Bps or 0.0)

    @property
    def most_ranks(self) -> float:
        """Accelerators that one replica may have."""
        if isinstance(self.hardware, Fleet):
            return self.available
        return float(self.node) if isinstance(self.hardware, Node) else 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """The load that is to be served, and its latency limits: infinite where there is no limit."""

    request_rate: float
    max_ttft_s: float
    max_itl_s: float
    max_batch: int
    disaggregated: tuple[bool, ...]


def plans(
    model: TransformerWorkload, offer: Offer, tp_sizes: Sequence[int] | None, pp_sizes: Sequence[int] | None
) -> list[tuple[int, int]]:
    """TP x PP of a replica: TP divides the heads and, unless asked, stays in a node; PP, unless asked, is even."""
    tensor = [tp for tp in range(1, offer.node + 1) if offer.node % tp == 0] if tp_sizes is None else tp_sizes
    even = [pp for pp in range(1, model.layers + 1) if -(-model.layers // pp) * pp <= _UNEVEN * model.layers]
    stages = even if pp_sizes is None else pp_sizes
    return [
        (tp, pp)
        for tp in tensor
        for pp in stages
        if model.heads % tp == 0 and pp <= model.layers and tp * pp <= offer.most_ranks
    ]


def configurations(replicas: Sequence[ServingReplica], load: Load, offer: Offer, place: tuple[int, int]) -> Iterator[Floats]:
    """Columns of ``COLUMNS`` in blocks: each replica's batches up to its room, decoding beside prefills or after them.

    ``place``: of the offer and the precision in what was asked.
    """
    fitting = [replica for replica in replicas if replica.most >= 1]
    apart = True in load.disaggregated and offer.network_Bps > 0
    pools = _prefill_pools(fitting, load, offer) if apart else []
    for part in _parts(fitting, load.max_batch):
        counts = [len(batches) for _, batches in part]
        passes = _stacked([replica for replica, _ in part], counts)
        batch = np.concatenate([batches for _, batches in part])
        tp, pp = (np.repeat([float(getattr(r.deployment, name)) for r, _ in part], counts) for name in ("tp", "pp"))
        setting = part[0][0].deployment
        served = continuous_batch(prefixed(passes, setting), batch, batch, setting.prompt, setting.output)
        given = {"offer": place[0], "precision": place[1], "tp": tp, "pp": pp, "batch": batch}
        if False in load.disaggregated:
            per_s = served.tokens_per_s / setting.output
            yield _columns(load, offer, given, per_s, served.ttft_s, served.tpot_s)
        for pool in pools:
            transfer_s = kv_transfer_s(
                _prompt_kv_B(part[0][0]), pool["prefill_tp"] * pool["prefill_pp"], tp * pp, offer.network_Bps
            )
            per_s, tpot_s = decode_pool(batch, setting.output, served.step.total_s, transfer_s)
            yield _columns(load, offer, {**given, **pool, "disaggregated": 1.0}, per_s, pool["ttft_s"], tpot_s)


def _columns(load: Load, offer: Offer, given: dict[str, Any], per_s: Any, ttft_s: Any, itl_s: Any) -> Floats:
    found = {"disaggregated": 0.0, "prefill_replicas": 0.0, "prefill_tp": 0.0, "prefill_pp": 0.0, **given}
    replicas = np.ceil(load.request_rate / per_s)
    prefill = found["prefill_replicas"] * found["prefill_tp"] * found["prefill_pp"]
    accelerators = replicas * found["tp"] * found["pp"] + prefill
    found |= {"replicas": replicas, "requests_per_s": per_s, "accelerators": accelerators}
    found |= {"ttft_s": ttft_s, "itl_s": itl_s, "cost": accelerators * offer.price}
    size = len(replicas)
    columns: Floats = np.stack([np.broadcast_to(np.asarray(found[name], dtype=float), size) for name in COLUMNS])
    return columns


def _prefill_pools(replicas: Sequence[ServingReplica], load: Load, offer: Offer) -> list[dict[str, float]]:
    """The prefill pools worth trying beside every decode plan; where none keeps the limit, the fastest.

    A decode plan sees of a pool only how many accelerators send it a cache at once: of pools with as many senders, or more, the
    one with the fewest accelerators is the best for all.
    """
    found = []
    for replica in replicas:
        setting, ranks = replica.deployment, float(replica.accelerators)
        transfer_s = float(kv_transfer_s(_prompt_kv_B(replica), ranks, ranks, offer.network_Bps))
        prefill_s = float(replica.passes.prefill_s(1.0, setting.prompt))
        count, ttft_s = prefill_pool(load.request_rate, prefill_s, transfer_s, load.max_ttft_s)
        late_s = float(ttft_s) - load.max_ttft_s
        if late_s <= _ROUNDING * load.max_ttft_s:
            late_s, ttft_s = 0.0, minimum(ttft_s, load.max_ttft_s)
        pool = {"prefill_replicas": float(count), "prefill_tp": float(setting.tp), "prefill_pp": float(setting.pp)}
        found.append((late_s, float(count) * ranks, -ranks, {**pool, "ttft_s": float(ttft_s)}))
    if not found:
        return []
    if min(late_s for late_s, *_ in found) > 0:
        return [min(found, key=lambda row: row[0])[-1]]
    chosen: list[tuple[float, dict[str, float]]] = []
    for late_s, _, senders, pool in sorted(found, key=lambda row: (*row[:3], row[3]["ttft_s"])):
        if late_s == 0 and all(senders < other for other, _ in chosen):
            chosen.append((senders, pool))
    return [pool for _, pool in chosen]


# A pool's queue is made to last just as long as the limit allows: the last bits of a division are no breach of it.
_ROUNDING = 1e-9


def _prompt_kv_B(replica: ServingReplica) -> float:
    setting = replica.deployment
    return replica.work.kv_B * cached_tokens(setting.workload, setting.prompt)


def _parts(
    replicas: Sequence[ServingReplica], max_batch: int
) -> Iterator[list[tuple[ServingReplica, npt.NDArray[np.float64]]]]:
    """Replicas with all their batches, about ``_BLOCK`` at a time; those of one part share their kernels."""
    waiting: list[tuple[ServingReplica, npt.NDArray[np.float64]]] = []
    size = 0
    for replica in replicas:
        most = min(replica.most, max_batch)
        for first in range(1, most + 1, _BLOCK):
            if waiting and (size >= _BLOCK or not _alike(waiting[0][0].whole_passes, replica.whole_passes)):
                yield waiting
                waiting, size = [], 0
            batches = whole_batches(first, min(most, first + _BLOCK - 1))
            waiting.append((replica, batches))
            size += batches.size
    if waiting:
        yield waiting


def _alike(first: Passes, second: Passes) -> bool:
    if isinstance(first, EnginePasses) and isinstance(second, EnginePasses):
        return first.kernels is second.kernels
    return isinstance(first, BoundPasses) and isinstance(second, BoundPasses)


def _stacked(replicas: Sequence[ServingReplica], counts: Sequence[int]) -> Passes:
    """Passes of several plans of one model on one accelerator, each as often as it has batches."""
    first = replicas[0].whole_passes

    def spread(values: Sequence[Any]) -> Floats:
        repeated: Floats = np.repeat(np.array(values, dtype=float), counts)
        return repeated

    if isinstance(first, EnginePasses):
        shards = [replica.whole_passes.shards for replica in replicas if isinstance(replica.whole_passes, EnginePasses)]
        names = ("tp", "pp", "node", "attention")
        return replace(first, shards=Shards(*(spread([getattr(each, name) for each in shards]) for name in names)))
    if isinstance(first, BoundPasses):
        machines = [replica.whole_passes.machine for replica in replicas if isinstance(replica.whole_passes, BoundPasses)]
        fields = ("tp", "kv_shards", "rate_flops_per_s", "memory_Bps", "link_Bps")
        return replace(first, machine=ServingMachine(*(spread([getattr(each, name) for each in machines]) for name in fields)))
    if isinstance(first, TorusDeployment):
        return first  # no two tori are alike
    raise TypeError(type(first).__name__)
