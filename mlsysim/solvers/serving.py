"""Latency and capacity of serving a transformer: ``ServingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlsysim.calibration.memory import usable_memory_B
from mlsysim.core.checks import fraction, instance, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.precision import precision_name
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.inference import InferenceWork, ServingMachine, decode_step_s, largest_batch, prefill_s, weights_read_B
from mlsysim.solvers.feasibility import over_budget
from mlsysim.solvers.lowering import cached_tokens, inference_work, keys_seen
from mlsysim.solvers.result import Result
from mlsysim.systems.types import Node


@dataclass(frozen=True, kw_only=True)
class ServingResult(Result):
    """One batch at one context length.

    ``ttft``: time to first token, the prefill of the whole batch. ``itl``: inter-token latency, one decode step at a full
    context. ``tokens_per_second``: decoded tokens of the batch. ``max_batch``: sequences whose KV cache fits.
    ``weights`` and ``kv_cache`` are of the whole model; ``memory_per_accelerator`` is what each holds.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ("itl", "ttft", "tokens_per_second", "memory_per_accelerator", "max_batch")

    itl: Quantity
    ttft: Quantity
    tokens_per_second: Quantity
    weights: Quantity
    kv_cache: Quantity
    memory_per_accelerator: Quantity
    max_batch: int


class ServingModel:
    """Prefill and decode of a fixed batch: weights and KV cache read from memory, or the arithmetic, whichever is longer."""

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node,
        *,
        seq_len: int,
        batch_size: int = 1,
        precision: str = "fp16",
        weight_precision: str | None = None,
        kv_precision: str | None = None,
        efficiency: float | None = None,
        tp_size: int = 1,
    ) -> ServingResult:
        """Latency of ``batch_size`` sequences of ``seq_len`` tokens.

        Args:
            workload: a decoder.
            hardware: one accelerator, or a node whose links carry tensor parallelism.
            seq_len: tokens of the prompt, and the context at which a decode step is timed.
            batch_size: sequences decoded together.
            precision: of the arithmetic, and of weights and KV cache unless said.
            weight_precision: number format of the weights in memory.
            kv_precision: number format of the KV cache.
            efficiency: share of peak arithmetic that the caller owns; memory traffic runs at the datasheet's bandwidth.
            tp_size: accelerators that share the model.

        Raises:
            InputError: an argument out of range, a workload that is no transformer, a precision without a rate.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> from mlsysim.models.registry import Models
            >>> run = ServingModel().solve(Models.Language.Llama2_70B, Hardware.Cloud.H100, seq_len=1024)
            >>> run.feasible, f"{run.itl.to('ms').magnitude:.0f} ms"
            (False, '41 ms')
        """
        instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
        if not workload.causal:
            raise InputError("workload", workload.name, "a decoder: an encoder generates no tokens")
        context, batch = whole_number("seq_len", seq_len), whole_number("batch_size", batch_size)
        share = 1.0 if efficiency is None else fraction("efficiency", efficiency)
        tp = whole_number("tp_size", tp_size)
        device, link_Bps = _device(hardware, tp)
        if workload.heads % tp:
            raise InconsistentError("tp_size", tp, f"a divisor of the {workload.heads} heads of {workload.name}")
        fmt = precision_name("precision", precision)
        rate = device.rate_flops_per_s(fmt) * share
        weights_in = fmt if weight_precision is None else precision_name("weight_precision", weight_precision)
        kv_in = fmt if kv_precision is None else precision_name("kv_precision", kv_precision)
        work = inference_work(workload, weights_in, kv_in)
        shards = _kv_shards(workload, tp)
        machine = ServingMachine(tp, shards, rate, device.memory_bandwidth_Bps, link_Bps)
        reach, keys = cached_tokens(workload, context), keys_seen(workload, context, causal=True)
        itl = float(decode_step_s(work, batch, reach, machine))
        ttft = float(prefill_s(work, batch, context, keys, machine))
        kv_B = work.kv_B * batch * reach
        parts_B = {"weights": work.resident_B / tp, "KV cache": kv_B / shards}
        free_B = usable_memory_B(device.memory_capacity_B) - work.resident_B / tp
        reason = over_budget(sum(parts_B.values()), device, f"each of {tp}" if tp > 1 else "one", parts_B)
        parts, binding = _decode_parts(work, batch, reach, machine, itl)
        return ServingResult(
            solver="ServingModel",
            subject=f"{workload.name}, batch {batch} x {context} tokens in {fmt} on {tp} x {device.name}",
            basis="bound" if efficiency is None else "efficiency",
            feasible=not reason,
            reason=reason,
            binding="memory capacity" if reason else binding,
            breakdown={name: with_unit(part, "second") for name, part in parts.items()},
            diagnostics=_diagnostics(workload, context),
            itl=with_unit(itl, "second"),
            ttft=with_unit(ttft, "second"),
            tokens_per_second=with_unit(batch / itl, "count/second"),
            weights=with_unit(work.resident_B, "byte"),
            kv_cache=with_unit(kv_B, "byte"),
            memory_per_accelerator=with_unit(sum(parts_B.values()), "byte"),
            max_batch=int(largest_batch(free_B, work.kv_B / shards, reach)),
        )


def _device(hardware: object, tp: int) -> tuple[HardwareNode, float]:
    """The accelerator, and the link that tensor parallelism uses."""
    if isinstance(hardware, Node):
        most = hardware.accelerators_per_node
        if tp > most:
            raise InconsistentError("tp_size", tp, f"at most the {most} accelerators of {hardware.name}")
        return hardware.accelerator, hardware.intra_bandwidth_Bps
    device = instance("hardware", hardware, HardwareNode, "an accelerator such as Hardware.Cloud.H100, or a Node")
    link = device.interconnect_bandwidth_Bps
    if tp > 1 and link is None:
        raise InconsistentError("tp_size", tp, f"1: {device.name} lists no link to its peers (a Node would)")
    return device, float("inf") if link is None else link


def _kv_shards(workload: TransformerWorkload, tp: int) -> float:
    """Ranks that divide the KV cache: as many as there are key heads; a latent cache is one for all heads."""
    return 1.0 if workload.mla is not None else float(min(tp, workload.kv_head_count))


def _decode_parts(
    work: InferenceWork, batch: int, context: float, machine: ServingMachine, itl: float
) -> tuple[dict[str, float], str]:
    """What one decode step consists of, and what limits it."""
    weights = float(weights_read_B(work, batch) / machine.tp / machine.memory_Bps)
    cache = float(work.kv_B * batch * context / machine.kv_shards / machine.memory_Bps)
    flops = batch * (work.matmul_flops + work.decode_flops_per_key * context + work.head_flops)
    arithmetic = float(flops / machine.tp / machine.rate_flops_per_s)
    reads = weights + cache
    communication = itl - max(reads, arithmetic) if machine.tp > 1 else 0.0
    parts = {
        "weight reads": weights,
        "KV reads": cache,
        "arithmetic beyond them": max(0.0, arithmetic - reads),
        "tensor-parallel communication": communication,
    }
    if communication > max(reads, arithmetic):
        return parts, "tensor-parallel communication"
    if arithmetic > reads:
        return parts, "arithmetic"
    return parts, "weight reads" if weights >= cache else "KV reads"


def _diagnostics(workload: TransformerWorkload, context: int) -> tuple[str, ...]:
    if workload.max_seq_len is None or context <= workload.max_seq_len:
        return ()
    return (f"seq_len {context} is beyond the {workload.max_seq_len} that {workload.name} was made for",)
