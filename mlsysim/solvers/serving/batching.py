"""The largest batch within a latency limit: ``BatchingOptimizer``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from mlsysim.core.checks import one_of, percentile_share, positive_quantity, strict_keywords
from mlsysim.core.choices import Basis, BatchSchedule
from mlsysim.core.errors import InputError
from mlsysim.core.units import Quantity
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.arrivals import Limits, paces
from mlsysim.lowering.deployment import Deployment, requests_per_s
from mlsysim.lowering.options import DeploymentOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.recommended import recommended_engine
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.fewest_replicas import fewest, held, least_copies
from mlsysim.solvers.serving.replica import ServingReplica, whole_batches
from mlsysim.solvers.serving.serving import ServingResult, serving_result, with_prefills_of_others
from mlsysim.solvers.serving.tail_latency import TailLatencyResult, of_deployment
from mlsysim.systems.types import Fleet, Node

SCHEDULES = ("static", "continuous")
# What a result has of the best batch as ``ServingModel`` answers it.
_AS_SERVED = ("basis", "coefficients", "facts", "ttft", "tokens_per_second", "requests_per_second")
# Batches evaluated at once: memory stays bounded however small the model.
_BLOCK = 8192


@dataclass(frozen=True, kw_only=True)
class BatchingResult(Result):
    """The largest batch that a deployment can serve.

    Attributes:
        batch: sequences decoded together (0 where none meets the limits); ``max_batch``: that fit the memory.
        itl, ttft: at that batch, ``itl`` as ``max_itl`` means it; of an infeasible question, of the batch that comes closest.
            ``ttft`` is that of a server with requests in flight ("continuous") or of a fixed batch ("static").
        tokens_per_second, requests_per_second: of one replica.
        replicas: that the request rate needs at this batch (1 where no rate is given, 0 where infeasible).
        utilization: the request rate over what these replicas complete; ``headroom``: what they complete beyond it, over it.
            None without a rate.
        tail: the answer of ``TailLatencyModel`` about these replicas, of which ``percentile`` of the requests keep the limits;
            None without a rate, of a fixed batch, and where infeasible.
        total_searched: batches evaluated, from the largest that fits down.
        best: the whole answer of ``ServingModel`` at this batch.
    """

    INTERVAL_OF = "itl"
    MEASURED_AS = "ServingModel"
    HEADLINE = ("batch", "itl", "ttft", "tokens_per_second", "replicas", "utilization", "headroom", "max_batch")

    batch: int
    max_batch: int
    itl: Quantity
    ttft: Quantity
    tokens_per_second: Quantity
    requests_per_second: Quantity
    replicas: int
    total_searched: int
    best: ServingResult
    utilization: float | None = None
    headroom: float | None = None
    tail: TailLatencyResult | None = None


class BatchingOptimizer:
    """Tries every batch from the largest that fits down: exact, whatever the shape of the latency over the batch."""

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        max_itl: Quantity | str | None = None,
        max_ttft: Quantity | str | None = None,
        output_len: int = 256,
        request_rate: Quantity | str | None = None,
        arrival_rate: Quantity | str | None = None,
        percentile: float = 0.99,
        schedule: BatchSchedule | str = "continuous",
        basis: Basis | str | None = None,
        **options: Unpack[DeploymentOptions],
    ) -> BatchingResult:
        """The largest batch that fits the memory and keeps the limits.

        Args:
            workload: a decoder.
            hardware: one accelerator, a node or a fleet, as of ``ServingModel``.
            max_itl: most time between two tokens of a request, mean, prefills of others included (``ServingModel``'s ``tpot``).
            max_ttft: most time to first token.
            output_len: tokens that a request generates.
            request_rate: requests a second, such as "20 count/s", that arrive at random: how many replicas it needs.
            arrival_rate: another name of ``request_rate``.
            percentile: share of these requests that keep the limits.
            schedule: "continuous" (requests in flight) or "static" (a fixed batch, whose prompts are computed together).
            basis: "bound" for the speed of light; by default, without ``stack`` or ``efficiency``, the engine that is best
                supported on the accelerator is taken, and named.
            **options: see ``DeploymentOptions``.

        Raises:
            InputError: an argument out of range.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> load = dict(input_len=1024, output_len=256, stack="vllm-2025")
            >>> model, device = Models.Language.Llama3_8B, Hardware.Cloud.H100
            >>> loose, tight = (BatchingOptimizer().solve(model, device, max_itl=t, **load) for t in ("50 ms", "15 ms"))
            >>> 1 < tight.batch < loose.batch, tight.binding
            (True, 'ITL limit')
        """
        limits = {
            "ITL": math.inf if max_itl is None else positive_quantity("max_itl", max_itl, "second"),
            "TTFT": math.inf if max_ttft is None else positive_quantity("max_ttft", max_ttft, "second"),
        }
        rate, share = requests_per_s(request_rate, arrival_rate), percentile_share("percentile", percentile)
        plan = one_of("schedule", schedule, SCHEDULES)
        engine = recommended_engine(workload, hardware, options, basis)
        asked = {**engine.added_to(options), "output_len": output_len, "schedule": plan}
        deployment = Deployment.of(workload, hardware, **asked)
        replica = ServingReplica.of(deployment)
        lacking = replica.lacking()
        batch, searched, nearest = (0, 0, 1) if lacking else _largest(replica, limits)
        binding, reason = _bound_by(replica, batch, nearest, limits)
        best = serving_result(replica.with_batch(batch or nearest))
        per_s = float(best.requests_per_second.m_as("count/second"))
        replicas, tail = 1, None
        if rate is not None:
            replicas = math.ceil(rate / per_s)
            if plan == "continuous" and batch:
                replicas, tail = _replicas(deployment, batch, rate, Limits(share, limits["TTFT"], limits["ITL"], math.inf))
                per_s = float(tail.capacity.m_as("count/second")) / replicas
        breakdown = with_prefills_of_others(vars(best))[0] if best.tpot > best.itl else best.breakdown
        return BatchingResult(
            solver="BatchingOptimizer",
            subject=f"{deployment.workload.name}, {deployment.prompt:.0f} + {output_len} tokens on "
            f"{replica.accelerators} x {deployment.accelerator.name}",
            reason=lacking or reason,
            binding="memory capacity" if lacking else binding,
            diagnostics=(*engine.notes, *best.diagnostics),
            breakdown=breakdown,
            batch=batch,
            max_batch=replica.most,
            itl=best.tpot,
            **best.taken(*_AS_SERVED),
            replicas=replicas if batch else 0,
            total_searched=searched,
            best=best,
            utilization=None if rate is None or not batch else rate / (replicas * per_s),
            headroom=None if rate is None or not batch else replicas * per_s / rate - 1,
            tail=tail,
        )


def _replicas(deployment: Deployment, batch: int, rate_per_s: float, limits: Limits) -> tuple[int, TailLatencyResult]:
    """The fewest replicas with so many places whose requests keep the limits, and what these see."""
    pace = paces(deployment, batch)
    needed = fewest(lambda count: held(pace, limits, rate_per_s / count), least_copies(rate_per_s, pace.capacity_per_s))
    # One request in flight keeps the limits, and so do those of copies without end, which find nobody.
    if needed is None:
        raise InputError("request_rate", f"{rate_per_s:.4g} count/s", "a rate that fewer than 2**50 copies serve")
    replicas, _ = needed
    return replicas, of_deployment(replace(deployment, replicas=replicas), batch, rate_per_s, limits.share)


def _largest(replica: ServingReplica, limits: dict[str, float]) -> tuple[int, int, int]:
    """The largest batch within the limits (0: none), how many were tried, and the one that comes closest to them."""
    searched, nearest, least = 0, 1, math.inf
    for last in range(replica.held.most_tried(replica.deployment), 0, -_BLOCK):
        batches = whole_batches(max(1, last - _BLOCK + 1), last)
        served = replica.served(batches)
        over = np.maximum(served.tpot_s / limits["ITL"], served.ttft_s / limits["TTFT"])
        searched += batches.size
        within = np.flatnonzero(over <= 1)
        if within.size:
            largest = int(batches[within[-1]])
            return largest, searched, largest
        if over.min() < least:
            least, nearest = float(over.min()), int(batches[over.argmin()])
    return 0, searched, nearest


def _bound_by(replica: ServingReplica, batch: int, nearest: int, limits: dict[str, float]) -> tuple[str, str]:
    """Say what keeps the batch from being one larger, and, where there is none, why."""
    if batch == replica.most:
        by_memory = int(replica.held.free_B * replica.held.shards / replica.held.each_kv_B)
        engine = replica.deployment.stack is not None and replica.most < by_memory
        return ("the engine's most sequences" if engine else "memory capacity"), ""
    served = replica.served(float(batch + 1 if batch else nearest))
    reached = {"ITL": float(served.tpot_s), "TTFT": float(served.ttft_s)}
    worst = max(limits, key=lambda name: reached[name] / limits[name])
    if batch:
        return f"{worst} limit", ""
    missed = ", ".join(
        f"{name} {reached[name] * 1e3:.4g} ms for a limit of {limits[name] * 1e3:.4g} ms"
        for name in limits
        if reached[name] > limits[name]
    )
    return f"{worst} limit", f"no batch keeps the limits: at the nearest, {nearest}, {missed}"
