"""Requests that come and go, in the steady state: ``ContinuousBatchingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlsysim.core.checks import real_number, strict_keywords, whole_number
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.prefix_cache import prefixed
from mlsysim.lowering.serving_kernels import coefficients_used
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.serving.schedule import continuous_batch
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.replica import ServingReplica
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class ContinuousBatchingResult(Result):
    """The steady state of one copy of the model.

    ``concurrency``: requests in flight, of which ``batch`` decode together and the others wait for a place; ``max_batch``: how
    many could. ``ttft``: from arrival to the first token, the wait included. ``itl``: one decode step. ``tpot``: mean time per
    output token after the first, prefills of others included. ``kv_use``: share of the cache's room that is filled;
    ``kv_unused``: share of what is filled that holds no token, since blocks of ``page_size`` tokens are given out whole.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ("batch", "ttft", "tpot", "tokens_per_second", "kv_use", "max_batch")

    ttft: Quantity
    itl: Quantity
    tpot: Quantity
    request_latency: Quantity
    tokens_per_second: Quantity
    requests_per_second: Quantity
    concurrency: int
    batch: int
    max_batch: int
    kv_cache: Quantity
    kv_use: float
    kv_unused: float
    weights: Quantity
    memory_per_accelerator: Quantity


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
        seq_len: int,
        output_len: int = 256,
        concurrency: int | None = None,
        page_size: int = 16,
        prefix_hit: float = 0.0,
        precision: str = "fp16",
        weight_precision: str | None = None,
        kv_precision: str | None = None,
        efficiency: float | None = None,
        stack: str | None = None,
        tp_size: int = 1,
        pp_size: int = 1,
        attention_dp: bool = False,
    ) -> ContinuousBatchingResult:
        """What users of a server see at a number of requests in flight.

        Args:
            workload: a decoder.
            hardware: one accelerator, a node or a fleet, as of ``ServingModel``.
            seq_len: tokens of a prompt.
            output_len: tokens that a request generates.
            concurrency: requests in flight; by default as many as the KV cache holds.
            page_size: tokens of a block of the KV cache.
            prefix_hit: share of a prompt's tokens that the prefix cache has, so that no prefill computes them (their room is
                counted for each request, as if it were not shared).
            precision: of the arithmetic, and of weights and KV cache unless said.
            weight_precision: number format of the weights in memory.
            kv_precision: number format of the KV cache.
            efficiency: share of peak arithmetic that the caller owns.
            stack: a calibrated engine such as ``"vllm-2025"``.
            tp_size: accelerators that share each layer.
            pp_size: stages that share the layers.
            attention_dp: each of the ``tp_size`` ranks attends for sequences of its own.

        Raises:
            InputError: an argument out of range.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> from mlsysim.models.registry import Models
            >>> asked = dict(seq_len=1024, output_len=256, stack="vllm-2025")
            >>> run = ContinuousBatchingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, concurrency=32, **asked)
            >>> run.batch, run.max_batch > 200, run.kv_use < 0.2
            (32, True, True)
        """
        page = whole_number("page_size", page_size)
        hit = real_number("prefix_hit", prefix_hit, 0.0, 1.0)
        asked = None if concurrency is None else whole_number("concurrency", concurrency)
        replica = ServingReplica.of(
            workload,
            hardware,
            page,
            seq_len=seq_len,
            output_len=whole_number("output_len", output_len),
            precision=precision,
            weight_precision=weight_precision,
            kv_precision=kv_precision,
            efficiency=efficiency,
            stack=stack,
            tp_size=tp_size,
            pp_size=pp_size,
            attention_dp=attention_dp,
        )
        setting, held = replica.setting, replica.held
        reason = replica.lacking()
        most = max(1, replica.most)
        flying = most if asked is None else asked
        passes = prefixed(replica.passes, setting, hit)
        served = continuous_batch(passes, float(flying), float(most), setting.prompt, setting.output)
        batch = min(flying, most)
        parts, binding = served.step.parts()
        step_s, tpot_s, tokens_per_s = float(served.step.total_s), float(served.tpot_s), float(served.tokens_per_s)
        breakdown = {name: with_unit(float(part), "second") for name, part in parts.items()}
        breakdown["prefills of others"] = with_unit(tpot_s - step_s, "second")
        if tpot_s - step_s > max(parts.values()):
            binding = "prefills of others"
        kv_B, room_B = batch * replica.each_kv_B, max(held.free_B, 0.0) * held.shards
        return ContinuousBatchingResult(
            solver="ContinuousBatchingModel",
            subject=f"{setting.workload.name}, {flying} requests of {seq_len} + {output_len} tokens in {setting.arithmetic} "
            f"on {held.accelerators} x {setting.accelerator.name}",
            basis=setting.basis,
            feasible=not reason,
            reason=reason,
            binding="memory capacity" if reason or flying > most else binding,
            breakdown=breakdown,
            coefficients=coefficients_used(setting),
            ttft=with_unit(float(served.ttft_s), "second"),
            itl=with_unit(step_s, "second"),
            tpot=with_unit(tpot_s, "second"),
            request_latency=with_unit(float(served.request_s), "second"),
            tokens_per_second=with_unit(tokens_per_s, "count/second"),
            requests_per_second=with_unit(tokens_per_s / setting.output, "count/second"),
            concurrency=flying,
            batch=batch,
            max_batch=replica.most,
            kv_cache=with_unit(kv_B, "byte"),
            kv_use=0.0 if reason else kv_B / room_B,
            kv_unused=1 - setting.occupied / (replica.each_kv_B / replica.work.kv_B),
            weights=with_unit(replica.work.resident_B, "byte"),
            memory_per_accelerator=with_unit(held.weights_B + kv_B / held.shards, "byte"),
        )
