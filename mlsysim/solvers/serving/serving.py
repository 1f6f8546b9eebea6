"""Latency, throughput and capacity of serving a transformer: ``ServingModel``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mlsysim.core.checks import boolean, real_number, strict_keywords
from mlsysim.core.errors import InconsistentError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.offloaded_passes import OffloadedPasses
from mlsysim.lowering.prefix_cache import computed, prefixed
from mlsysim.lowering.serving_bound import BoundPasses
from mlsysim.lowering.serving_kernels import calibrated_passes, coefficients_used
from mlsysim.lowering.serving_memory import room
from mlsysim.lowering.serving_setting import ServingSetting, check_setting
from mlsysim.lowering.work import inference_work
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.numeric import floor
from mlsysim.physics.serving.inference import InferenceWork
from mlsysim.physics.serving.schedule import Passes, Served, continuous_batch, most_throughput, static_batch, streamed
from mlsysim.solvers.result import Result
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class ServingResult(Result):
    """What a schedule comes to on one deployment, or on ``replicas`` of them.

    ``ttft``: time to first token of a request (of a fixed batch: the prefill of all of it), queueing included. ``itl``:
    inter-token latency, one decode step: at the context ``seq_len``, or, given ``output_len``, at the mean context.
    ``token_gap``: mean time between two tokens of a request, prefills of others in between included. ``tpot``: time per output
    token; ``tpot_excludes_first_token``: whether it is that of the tokens after the first, ``token_gap``, or of all of them,
    ``request_latency`` / output_len. ``request_latency``: a whole request, ttft + (output_len - 1) token_gap.
    ``tokens_per_second``: output tokens of all replicas: with ``output_len`` over whole requests, without it of the decode
    steps alone. ``requests_per_second``: of all replicas. ``prompt_tokens_per_second``: prompt tokens over the time to first
    token, cached ones included. ``prefill_mfu``: share of the peak that the prompts' arithmetic reaches. ``max_batch``:
    sequences whose KV cache fits. ``batch``: sequences decoded together.
    ``weights`` and ``kv_cache`` are of the whole model; ``memory_per_accelerator`` is what each holds, and
    ``host_memory_per_accelerator`` what lies in the host's memory for each.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ("itl", "ttft", "tokens_per_second", "memory_per_accelerator", "max_batch")

    itl: Quantity
    ttft: Quantity
    token_gap: Quantity
    tpot: Quantity
    tpot_excludes_first_token: bool
    request_latency: Quantity
    tokens_per_second: Quantity
    requests_per_second: Quantity
    prompt_tokens_per_second: Quantity
    prefill_mfu: float
    weights: Quantity
    kv_cache: Quantity
    memory_per_accelerator: Quantity
    host_memory_per_accelerator: Quantity
    max_batch: int
    batch: int


class ServingModel:
    """Prefill and decode under a scheduler: at the speed of light, at a stated efficiency, or of a calibrated engine."""

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        seq_len: int,
        batch_size: int = 1,
        output_len: int | None = None,
        precision: str = "fp16",
        weight_precision: str | None = None,
        kv_precision: str | None = None,
        efficiency: float | None = None,
        stack: str | None = None,
        tp_size: int = 1,
        pp_size: int = 1,
        replicas: int = 1,
        schedule: str = "static",
        rounds: int | None = None,
        requests: int | None = None,
        stream_interval: int = 1,
        attention_dp: bool = False,
        padded_len: int | None = None,
        prefix_hit: float = 0.0,
        offload: str | Mapping[str, float] | None = None,
        host_memory: Quantity | str | None = None,
        tpot_excludes_first_token: bool = True,
    ) -> ServingResult:
        """Latency and throughput of ``batch_size`` sequences of ``seq_len`` tokens.

        Args:
            workload: a decoder, or an encoder (one pass: all times are its own).
            hardware: one accelerator, a node whose links carry tensor parallelism, or a fleet of nodes.
            seq_len: tokens of the prompt; without ``output_len`` also the context at which a decode step is timed.
            batch_size: sequences of a fixed batch, or requests in flight (``schedule="continuous"``), of one replica.
            output_len: tokens that a request generates.
            precision: of the arithmetic, and of weights and KV cache unless said.
            weight_precision: number format of the weights in memory.
            kv_precision: number format of the KV cache.
            efficiency: share of peak arithmetic that the caller owns; memory traffic runs at the datasheet's bandwidth.
            stack: a calibrated engine such as ``"vllm-2024"`` (then no ``efficiency``): its kernels and overheads.
            tp_size: accelerators that share each layer.
            pp_size: stages that share the layers.
            replicas: copies of the model, each with its own batch.
            schedule: "static" (a fixed batch), "continuous" (``batch_size`` requests always in flight), or "offline" (as
                many as fit: ``batch_size`` is not read).
            rounds: requests that each place in flight serves in all: the first of all come at once. None: steady state.
            requests: of an offline run in all: equal ones start and end together, so that the last leave places empty. None:
                without end.
            stream_interval: tokens that reach the client at a time: it sees its first token only with the last of so many.
            attention_dp: each of the ``tp_size`` ranks attends for sequences of its own; they share the routed experts.
            padded_len: the longest prompt of a fixed batch, where ``seq_len`` is the mean: attention that stores its scores
                computes the padding. None: all are ``seq_len`` long.
            prefix_hit: share of a prompt's tokens that the prefix cache has, so that no prefill computes them.
            offload: what lies in the host's memory and is streamed in every pass: "weights", "kv", "weights+kv", or shares
                such as ``{"weights": 0.5}``. A pass takes the longer of its computation and its transfers.
            host_memory: of one accelerator; by default its part of the node's. None known: as much as is needed.
            tpot_excludes_first_token: what ``tpot`` means: the mean time between tokens (True; the first is the time to first
                token's), or the whole request over its output tokens (False).

        Raises:
            InputError: an argument out of range, a workload that is no transformer, a precision without a rate.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> from mlsysim.models.registry import Models
            >>> run = ServingModel().solve(Models.Language.Llama2_70B, Hardware.Cloud.H100, seq_len=1024)
            >>> run.feasible, f"{run.itl.to('ms').magnitude:.0f} ms"
            (False, '41 ms')
            >>> asked = dict(seq_len=1024, output_len=256, batch_size=16, stack="vllm-2025")
            >>> run = ServingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, **asked)
            >>> run.basis, 5 < run.tpot.to("ms").magnitude < 12
            ('calibrated', True)
            >>> asked = dict(seq_len=1024, output_len=256, batch_size=16, offload="weights")
            >>> run = ServingModel().solve(Models.Language.Llama2_70B, Hardware.Cloud.H100, **asked)
            >>> run.feasible, run.binding, f"{run.itl.to('s').magnitude:.1f} s"
            (True, 'host transfers', '2.2 s')
        """
        hit = real_number("prefix_hit", prefix_hit, 0.0, 1.0)
        after_first = boolean("tpot_excludes_first_token", tpot_excludes_first_token)
        setting = check_setting(
            workload,
            hardware,
            seq_len=seq_len,
            batch_size=batch_size,
            output_len=output_len,
            precision=precision,
            weight_precision=weight_precision,
            kv_precision=kv_precision,
            efficiency=efficiency,
            stack=stack,
            tp_size=tp_size,
            pp_size=pp_size,
            replicas=replicas,
            schedule=schedule,
            rounds=rounds,
            requests=requests,
            stream_interval=stream_interval,
            attention_dp=attention_dp,
            padded_len=padded_len,
            offload=offload,
            host_memory=host_memory,
        )
        if not (workload.causal or hit == 0):
            raise InconsistentError("prefix_hit", prefix_hit, f"0: {workload.name} reads both ways, so that nothing is reused")
        if not (after_first or setting.output):
            raise InconsistentError(
                "tpot_excludes_first_token", False, "output_len too: a request's time is that of its tokens"
            )
        work = inference_work(workload, setting.weights, setting.cache)
        held = room(setting, work)
        passes = _passes(setting, work, held.all_weights_B, hit)
        batch, served = _served(setting, passes, held.most_sequences)
        served = streamed(served, setting.output, float(setting.stream_interval))
        reason = held.reason(setting, batch)
        step_s = float(served.step.total_s) if workload.causal else float(served.ttft_s)
        tokens_per_s = float(served.tokens_per_s) if setting.output else batch / step_s
        request_s, ttft_s = float(served.request_s), float(served.ttft_s)
        gap_s = float(served.tpot_s) if workload.causal else step_s
        device = setting.accelerator
        new, keys = computed(setting, hit)
        prompt_flops = new * (work.matmul_flops + work.attention_flops_per_key * keys)
        rate = device.rate_flops_per_s(setting.rated)
        parts, binding = served.step.parts() if workload.causal else ({"the pass": step_s}, "the pass")
        machine = f"{held.accelerators} x {device.name}"
        if setting.replicas > 1:
            machine = f"{setting.replicas} x ({machine})"
        return ServingResult(
            solver="ServingModel",
            subject=f"{workload.name}, batch {batch:.0f} x {seq_len} tokens in {setting.arithmetic} on {machine}",
            basis=setting.basis,
            feasible=not reason,
            reason=reason,
            binding="memory capacity" if reason else binding,
            breakdown={name: with_unit(float(part), "second") for name, part in parts.items()},
            diagnostics=_diagnostics(setting),
            coefficients=coefficients_used(setting),
            itl=with_unit(step_s, "second"),
            ttft=with_unit(ttft_s, "second"),
            token_gap=with_unit(gap_s, "second"),
            tpot=with_unit(gap_s if after_first else request_s / setting.output, "second"),
            tpot_excludes_first_token=after_first,
            request_latency=with_unit(request_s, "second"),
            tokens_per_second=with_unit(setting.replicas * tokens_per_s, "count/second"),
            requests_per_second=with_unit(setting.replicas * tokens_per_s / max(setting.output, 1.0), "count/second"),
            prompt_tokens_per_second=with_unit(setting.replicas * setting.prompts * setting.prompt / ttft_s, "count/second"),
            prefill_mfu=setting.prompts * prompt_flops / ttft_s / held.accelerators / rate,
            weights=with_unit(work.resident_B, "byte"),
            kv_cache=with_unit(held.kv_B(batch), "byte"),
            memory_per_accelerator=with_unit(held.needed_B(batch), "byte"),
            host_memory_per_accelerator=with_unit(held.host_B(batch), "byte"),
            max_batch=int(held.most_sequences),
            batch=int(batch),
        )


def _passes(setting: ServingSetting, work: InferenceWork, weights_B: float, hit: float) -> Passes:
    """The passes of new tokens, and the wait for what is offloaded."""
    passes: Passes = BoundPasses.of(setting, work) if setting.stack is None else calibrated_passes(setting)
    if hit:
        passes = prefixed(passes, setting, hit)
    if not setting.offload:
        return passes
    return OffloadedPasses(passes, work, setting, weights_B, 1 - computed(setting, hit)[0] / setting.prompt)


def _served(setting: ServingSetting, passes: Passes, most: float) -> tuple[float, Served]:
    """The schedule's answer, and the batch that it decodes; where nothing fits, of one sequence that would."""
    prompt, output = setting.prompt, setting.output
    if setting.schedule == "offline":
        step_tokens = float("inf") if setting.stack is None else setting.stack.step_tokens
        served = most_throughput(passes, max(1.0, most), prompt, output, float(setting.requests or 0), step_tokens)
        return float(floor(served.batch)), served
    if setting.schedule == "continuous":
        served = continuous_batch(passes, setting.batch, max(1.0, most), prompt, output, float(setting.rounds or 0))
        return float(floor(served.batch)), served
    return setting.batch, static_batch(passes, setting.batch, prompt, output, setting.context)


def _diagnostics(setting: ServingSetting) -> tuple[str, ...]:
    model, context, notes = setting.workload, setting.prompt + setting.output, []
    if model.max_seq_len is not None and context > model.max_seq_len:
        notes.append(f"seq_len {context:.0f} is beyond the {model.max_seq_len} that {model.name} was made for")
    if setting.offload and math.isinf(setting.offload.host_B):
        notes.append("how much host memory there is is not stated: as much as is needed")
    return tuple(notes)
