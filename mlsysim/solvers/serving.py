"""Latency, throughput and capacity of serving a transformer: ``ServingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlsysim.core.checks import strict_keywords
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.numeric import floor
from mlsysim.physics.serving_schedule import Passes, Served, continuous_batch, most_throughput, static_batch
from mlsysim.solvers.lowering import inference_work
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving_bound import BoundPasses
from mlsysim.solvers.serving_input import ServingSetting, check_setting
from mlsysim.solvers.serving_lowering import calibrated_passes, coefficients_used, room
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class ServingResult(Result):
    """What a schedule comes to on one deployment, or on ``replicas`` of them.

    ``ttft``: time to first token of a request (of a fixed batch: the prefill of all of it), queueing included. ``itl``:
    inter-token latency, one decode step: at the context ``seq_len``, or, given ``output_len``, at the mean context.
    ``tpot``: mean time per output token after the first, prefills of others in between included. ``request_latency``: a
    whole request, ttft + (output_len - 1) tpot. ``tokens_per_second``: output tokens of all replicas: with ``output_len``
    over whole requests, without it of the decode steps alone. ``requests_per_second``: of all replicas.
    ``prompt_tokens_per_second``: prompt tokens over the time to first token. ``prefill_mfu``: share of the peak that the
    prompts' arithmetic reaches. ``max_batch``: sequences whose KV cache fits. ``batch``: sequences decoded together.
    ``weights`` and ``kv_cache`` are of the whole model; ``memory_per_accelerator`` is what each holds.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ("itl", "ttft", "tokens_per_second", "memory_per_accelerator", "max_batch")

    itl: Quantity
    ttft: Quantity
    tpot: Quantity
    request_latency: Quantity
    tokens_per_second: Quantity
    requests_per_second: Quantity
    prompt_tokens_per_second: Quantity
    prefill_mfu: float
    weights: Quantity
    kv_cache: Quantity
    memory_per_accelerator: Quantity
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
        attention_dp: bool = False,
        padded_len: int | None = None,
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
            attention_dp: each of the ``tp_size`` ranks attends for sequences of its own; they share the feed-forward blocks.
            padded_len: the longest prompt of a fixed batch, where ``seq_len`` is the mean: attention that stores its scores
                computes the padding. None: all are ``seq_len`` long.

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
        """
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
            attention_dp=attention_dp,
            padded_len=padded_len,
        )
        work = inference_work(workload, setting.weights, setting.cache)
        held = room(setting, work)
        passes: Passes = BoundPasses.of(setting, work) if setting.stack is None else calibrated_passes(setting)
        batch, served = _served(setting, passes, held.most_sequences)
        reason = held.reason(setting, batch)
        step_s = float(served.step.total_s) if workload.causal else float(served.ttft_s)
        tokens_per_s = float(served.tokens_per_s) if setting.output else batch / step_s
        request_s, ttft_s = float(served.request_s), float(served.ttft_s)
        device = setting.accelerator
        prompt_flops = work.matmul_flops + work.attention_flops_per_key * setting.keys
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
            diagnostics=_diagnostics(workload, setting.prompt + setting.output),
            coefficients=coefficients_used(setting),
            itl=with_unit(step_s, "second"),
            ttft=with_unit(ttft_s, "second"),
            tpot=with_unit(float(served.tpot_s) if workload.causal else step_s, "second"),
            request_latency=with_unit(request_s, "second"),
            tokens_per_second=with_unit(setting.replicas * tokens_per_s, "count/second"),
            requests_per_second=with_unit(setting.replicas * tokens_per_s / max(setting.output, 1.0), "count/second"),
            prompt_tokens_per_second=with_unit(setting.replicas * setting.prompts * setting.prompt / ttft_s, "count/second"),
            prefill_mfu=setting.prompts * setting.prompt * prompt_flops / ttft_s / held.accelerators / rate,
            weights=with_unit(work.resident_B, "byte"),
            kv_cache=with_unit(held.kv_B(batch), "byte"),
            memory_per_accelerator=with_unit(held.needed_B(batch), "byte"),
            max_batch=int(held.most_sequences),
            batch=int(batch),
        )


def _served(setting: ServingSetting, passes: Passes, most: float) -> tuple[float, Served]:
    """The schedule's answer, and the batch that it decodes; where nothing fits, of one sequence that would."""
    prompt, output = setting.prompt, setting.output
    if setting.schedule == "offline":
        most = max(1.0, most)
        return most, most_throughput(passes, most, prompt, output)
    if setting.schedule == "continuous":
        served = continuous_batch(passes, setting.batch, max(1.0, most), prompt, output, float(setting.rounds or 0))
        return float(floor(served.batch)), served
    return setting.batch, static_batch(passes, setting.batch, prompt, output, setting.context)


def _diagnostics(workload: TransformerWorkload, context: float) -> tuple[str, ...]:
    if workload.max_seq_len is None or context <= workload.max_seq_len:
        return ()
    return (f"seq_len {context:.0f} is beyond the {workload.max_seq_len} that {workload.name} was made for",)
