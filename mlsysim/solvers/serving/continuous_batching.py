"""Requests that come and go, in the steady state: ``ContinuousBatchingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

from mlsysim.core.checks import strict_keywords, whole_number
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.options import DeploymentOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.serving.replica import ServingReplica
from mlsysim.solvers.serving.serving import ServingResult, serving_fields, with_prefills_of_others
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class ContinuousBatchingResult(ServingResult):
    """The steady state of one copy of the model: the answer of ``ServingModel`` with ``schedule="continuous"``, and its places.

    Attributes:
        ttft: time to first token of a server with requests in flight: from a request's arrival on, the wait included.
        tpot: mean time per output token after the first, prefills of others included.
        concurrency: requests in flight, of which ``batch`` decode together and the others wait for a place.
        max_batch: requests that could decode together.
        kv_use: share of the cache's memory that is filled.
        kv_unused: share of what is filled that holds no token, since blocks of ``page_size`` tokens are given out whole.
    """

    HEADLINE = ("batch", "ttft", "tpot", "tokens_per_second", "kv_use", "max_batch")
    INTERVAL_OF = "tpot"
    MEASURED_AS = "ServingModel"

    concurrency: int
    kv_use: float
    kv_unused: float


class ContinuousBatchingModel:
    """A new request starts whenever one ends (iteration-level scheduling) and the KV cache is given out in blocks.

    Sources: Yu et al., "Orca", OSDI 2022; Kwon et al., "PagedAttention", SOSP 2023.
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        concurrency: int | None = None,
        output_len: int = 256,
        page_size: int = 16,
        prefix_hit: float = 0.0,
        **options: Unpack[DeploymentOptions],
    ) -> ContinuousBatchingResult:
        """What users of a server see at a number of requests in flight.

        Args:
            workload: a decoder.
            hardware: one accelerator, a node or a fleet, as of ``ServingModel``.
            concurrency: requests in flight; by default as many as the KV cache holds.
            output_len: tokens that a request generates.
            page_size: tokens of a block of the KV cache.
            prefix_hit: share of a prompt's tokens that the prefix cache has, so that no prefill computes them (their room is
                counted for each request, as if it were not shared).
            **options: see ``DeploymentOptions``.

        Raises:
            InputError: an argument out of range.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> load = dict(input_len=1024, output_len=256, concurrency=32)
            >>> run = ContinuousBatchingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, stack="vllm-2025", **load)
            >>> run.batch, run.max_batch > 200, run.kv_use < 0.2
            (32, True, True)
        """
        flying = None if concurrency is None else whole_number("concurrency", concurrency)
        deployment = Deployment.of(
            workload,
            hardware,
            **options,
            output_len=output_len,
            schedule="continuous",
            page_size=page_size,
            prefix_hit=prefix_hit,
        )
        replica = ServingReplica.of(deployment)
        most = max(1, replica.most)
        flying = most if flying is None else flying
        reason, held = replica.lacking(), replica.held
        run = serving_fields(replica.with_batch(flying))
        breakdown, binding = with_prefills_of_others(run)
        answer = run | {
            "solver": "ContinuousBatchingModel",
            "subject": f"{workload.name}, {flying} requests of {deployment.prompt:.0f} + {output_len} tokens in "
            f"{deployment.formats} on {held.accelerators} x {deployment.accelerator.name}",
            "reason": reason,
            "binding": "memory capacity" if reason or flying > most else binding,
            "breakdown": breakdown,
        }
        return ContinuousBatchingResult(
            **answer,
            concurrency=flying,
            kv_use=0.0 if reason else held.kv_B(run["batch"]) / (max(held.free_B, 0.0) * held.shards),
            kv_unused=1 - deployment.occupied / deployment.held,
        )
