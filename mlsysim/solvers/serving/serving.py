"""Latency, throughput and capacity of serving a transformer: ``ServingModel``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from mlsysim.calibration.operations.power import AcceleratorLoad
from mlsysim.core.checks import boolean, strict_keywords
from mlsysim.core.errors import InconsistentError, UnsoundError
from mlsysim.core.units import Quantity, in_gib, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.operations.power import serving_activity
from mlsysim.lowering.options import ServingOptions
from mlsysim.lowering.prefix_cache import computed
from mlsysim.lowering.serving_kernels import coefficients_used, exchanged_B, peak_flops_per_s
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.numeric import floor
from mlsysim.physics.serving.inference import weights_read_B
from mlsysim.physics.serving.pass_kernels import decode_kernels, prefill_kernels
from mlsysim.physics.serving.passes import PassTime
from mlsysim.physics.serving.schedule import EnginePasses, Served
from mlsysim.solvers.result import DrawnResult, beyond_context, drawn, run_facts
from mlsysim.solvers.serving.replica import ServingReplica, scheduled
from mlsysim.solvers.step_kernels import StepKernels, told
from mlsysim.systems.types import Fleet, Node

_ROUNDING = 1 - 1e-9


@dataclass(frozen=True, kw_only=True)
class ServingResult(DrawnResult):
    """Latencies and rates of a schedule on one deployment, or on ``replicas`` of them.

    ``ttft``: time to first token. Of a fixed batch (``schedule="static"``) it is the prefill of the whole batch, for which all
    requests wait; of a server with requests in flight ("continuous") it counts from a request's arrival, the prompts before it
    and the wait for a place included; "offline", where all requests wait from the start, it is the prefill of one prompt.
    ``itl``: inter-token latency, one decode step: at the context ``input_len``, or, given ``output_len``, at the mean context;
    with drafts, a round over the tokens that it yields.
    ``token_gap``: mean time between two tokens of a request, prefills of others in between included. ``tpot``: time per output
    token; ``tpot_excludes_first_token``: whether it is that of the tokens after the first, ``token_gap``, or of all of them,
    ``request_latency`` / output_len. ``request_latency``: a whole request, ttft + (output_len - 1) token_gap.
    ``tokens_per_second``: output tokens of all replicas: with ``output_len`` over whole requests, without it of the decode
    steps alone. ``requests_per_second``: of all replicas. ``prompt_tokens_per_second``: prompt tokens over the time to first
    token, cached ones included. ``prefill_mfu``: share of the peak that the prompts' arithmetic reaches. ``max_batch``:
    sequences whose KV cache fits. ``batch``: sequences decoded together.
    ``weights`` and ``kv_cache`` are of the whole model; ``memory_per_accelerator`` is what each holds, and
    ``host_memory_per_accelerator`` what lies in the host's memory for each. ``experts_per_rank``: routed experts of a layer
    that a rank holds, whole or its part of the width of each, second copies included. ``dispatch_per_token`` and
    ``combine_per_token``: bytes of all copies of one token that a decode step sends to the experts of one layer, and back.
    ``energy`` is that of an output token, or of a sequence of a model that generates nothing.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = (
        *("itl", "ttft", "tokens_per_second", "memory_per_accelerator", "max_batch", "power", "energy"),
    )
    INTERVAL_OF = "itl"

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
    experts_per_rank: float
    dispatch_per_token: Quantity
    combine_per_token: Quantity


class ServingModel:
    """Prefill and decode under a scheduler: at the speed of light, at a stated efficiency, or of a calibrated engine.

    An engine's attention that stores its scores computes the padding of a batch. Equal requests of an offline run start and
    end together, so that the last leave places empty. With ``offload`` a pass takes the longer of its computation and its
    transfers.
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        tpot_excludes_first_token: bool = True,
        **options: Unpack[ServingOptions],
    ) -> ServingResult:
        """Latency and throughput of ``batch_size`` sequences of ``input_len`` tokens.

        Args:
            workload: a decoder, or an encoder (one pass: all times are its own).
            hardware: one accelerator, a node whose links carry tensor parallelism, or a fleet of nodes.
            **options: see ``ServingOptions``.
            tpot_excludes_first_token: what ``tpot`` means: the mean time between tokens (True; the first is the time to first
                token's), or the whole request over its output tokens (False).

        Raises:
            InputError: an argument out of range, a workload that is no transformer, a precision without a rate.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> run = ServingModel().solve(Models.Language.Llama2_70B, Hardware.Cloud.H100, input_len=1024)
            >>> run.feasible, f"{run.itl.to('ms').magnitude:.0f} ms"
            (False, '41 ms')
            >>> load = dict(input_len=1024, output_len=256, batch_size=16)
            >>> run = ServingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, stack="vllm-2025", **load)
            >>> run.basis, 5 < run.tpot.to("ms").magnitude < 12
            ('calibrated', True)
            >>> run = ServingModel().solve(Models.Language.Llama2_70B, Hardware.Cloud.H100, offload="weights", **load)
            >>> run.feasible, run.binding, f"{run.itl.to('s').magnitude:.1f} s"
            (True, 'host transfers', '2.2 s')
        """
        asked: dict[str, Any] = {"tpot_excludes_first_token": tpot_excludes_first_token, **options}
        replica, after_first = checked_question((workload, hardware), asked)
        return serving_result(replica, after_first=after_first)

    @strict_keywords
    def kernels(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        prefill: bool = False,
        **options: Unpack[ServingOptions],
    ) -> StepKernels:
        """The kernels of one decode step of ``batch_size`` sequences on an engine (``stack``), or of their prompts.

        Args:
            workload: a decoder, or an encoder (``prefill=True``: its one pass).
            hardware: one accelerator, a node whose links carry tensor parallelism, or a fleet of nodes.
            prefill: the prompts, computed together, instead of a decode step.
            **options: see ``ServingOptions``.

        Raises:
            InputError: as ``solve``; there is no engine, or it lays a layer out over a torus.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> load = dict(input_len=1024, batch_size=16, stack="vllm-2025")
            >>> step = ServingModel().kernels(Models.Language.Llama3_8B, Hardware.Cloud.H100, **load)
            >>> step.kernels[0].name, step.kernels[0].intensity < 17, step.busy < step.step
            ('feed-forward up', True, True)
        """
        replica, _ = checked_question((workload, hardware), dict(options))
        deployment, passes = replica.deployment, replica.whole_passes
        if not isinstance(passes, EnginePasses):
            raise InconsistentError("stack", options.get("stack"), "an engine whose kernels are told apart, such as vllm-2025")
        batch = float(floor(scheduled(deployment, replica.passes, replica.load).batch))
        one_pass: PassTime
        if boolean("prefill", prefill):
            listed, one_pass = prefill_kernels(passes, batch, deployment.prompt), passes.prefill(batch, deployment.prompt)
        else:
            listed, one_pass = decode_kernels(passes, batch, deployment.context), passes.decode(batch, deployment.context)
        what = "prompts" if prefill else "a decode step"
        subject = f"{what} of {_subject(replica, batch)}"
        bandwidth_Bps = deployment.accelerator.memory_bandwidth_Bps
        return told(subject, listed, float(one_pass.total_s), peak_flops_per_s(deployment), bandwidth_Bps)


def checked_question(inputs: Sequence[object], arguments: Mapping[str, Any]) -> tuple[ServingReplica, bool]:
    """The replica that a question to ``ServingModel`` is about, and whether its ``tpot`` excludes the first token.

    Raises:
        InputError: as ``ServingModel.solve``.
    """
    options = dict(arguments)
    after_first = boolean("tpot_excludes_first_token", options.pop("tpot_excludes_first_token", True))
    deployment = Deployment.of(*inputs, **options)
    if not (after_first or deployment.output):
        expected = "output_len too: a request's time is that of its tokens"
        raise InconsistentError("tpot_excludes_first_token", False, expected)
    return ServingReplica.of(deployment), after_first


def serving_result(replica: ServingReplica, served: Served | None = None, *, after_first: bool = True) -> ServingResult:
    """The answer of ``ServingModel`` about a replica, as of ``serving_fields``."""
    return ServingResult(**serving_fields(replica, served, after_first=after_first))


def serving_fields(replica: ServingReplica, served: Served | None = None, *, after_first: bool = True) -> dict[str, Any]:
    """The fields of an answer of ``ServingModel``; ``after_first`` leaves the first token out of ``tpot``."""
    deployment, work, held = replica.deployment, replica.work, replica.held
    workload, device = deployment.workload, deployment.accelerator
    if served is None:
        served = scheduled(deployment, replica.passes, replica.load)
    batch = float(floor(served.batch))
    reason = held.reason(deployment, batch)
    step_s = float(served.step.total_s) if workload.causal else float(served.ttft_s)
    _check_reads(replica, batch, step_s)
    # A round of drafts yields several tokens of each sequence.
    step_s /= deployment.round_tokens
    tokens_per_s = float(served.tokens_per_s) if deployment.output else batch / step_s
    request_s, ttft_s = float(served.request_s), float(served.ttft_s)
    gap_s = float(served.tpot_s) if workload.causal else step_s
    new, keys = computed(deployment)
    prompt_flops = new * (work.matmul_flops + work.attention_flops_per_key * keys)
    rate = peak_flops_per_s(deployment)
    dispatched_B, combined_B = exchanged_B(deployment)
    parts, binding = served.step.parts() if workload.causal else ({"the pass": step_s}, "the pass")
    parts = {name: part_s / deployment.round_tokens for name, part_s in parts.items()}
    prompts_per_s = deployment.replicas * deployment.prompts / ttft_s
    activity = None
    if deployment.basis != "bound":
        activity = serving_activity(deployment, work, served, held.accelerators, tokens_per_s)
    accelerators = float(deployment.replicas * held.accelerators)
    return dict(
        solver="ServingModel",
        subject=_subject(replica, batch),
        basis=deployment.basis,
        reason=reason,
        binding="memory capacity" if reason else binding,
        breakdown=with_units(parts, "second"),
        diagnostics=_diagnostics(deployment, batch),
        coefficients=coefficients_used(deployment),
        facts=run_facts(workload, device, deployment.stack, accelerators),
        itl=with_unit(step_s, "second"),
        ttft=with_unit(ttft_s, "second"),
        token_gap=with_unit(gap_s, "second"),
        tpot=with_unit(gap_s if after_first else request_s / deployment.output, "second"),
        tpot_excludes_first_token=after_first,
        request_latency=with_unit(request_s, "second"),
        tokens_per_second=with_unit(deployment.replicas * tokens_per_s, "count/second"),
        requests_per_second=with_unit(deployment.replicas * tokens_per_s / max(deployment.output, 1.0), "count/second"),
        prompt_tokens_per_second=with_unit(prompts_per_s * deployment.prompt, "count/second"),
        prefill_mfu=deployment.prompts * prompt_flops / ttft_s / held.accelerators / rate,
        weights=with_unit(work.resident_B, "byte"),
        kv_cache=with_unit(held.kv_B(batch), "byte"),
        memory_per_accelerator=with_unit(held.needed_B(batch), "byte"),
        host_memory_per_accelerator=with_unit(held.host_B(batch), "byte"),
        max_batch=replica.most,
        batch=int(batch),
        experts_per_rank=deployment.expert_plan.of_a_rank(workload),
        dispatch_per_token=with_unit(dispatched_B, "byte"),
        combine_per_token=with_unit(combined_B, "byte"),
        **drawn(AcceleratorLoad.of(device, activity, accelerators, held.accelerators / tokens_per_s, "joule/count")),
    )


def _subject(replica: ServingReplica, batch: float) -> str:
    deployment = replica.deployment
    machine = f"{replica.accelerators} x {deployment.accelerator.name}"
    if deployment.replicas > 1:
        machine = f"{deployment.replicas} x ({machine})"
    load = f"batch {batch:.0f} x {deployment.prompt:.0f} tokens in {deployment.formats}"
    return f"{deployment.workload.name}, {load} on {machine}"


def _check_reads(replica: ServingReplica, batch: float, step_s: float) -> None:
    """Refuse a step that is shorter than one read of the weights that it needs, but for what the last-level cache holds."""
    device = replica.deployment.accelerator
    read_B = weights_read_B(replica.work, batch) / replica.accelerators - device.cache_B
    if step_s < _ROUNDING * read_B / device.memory_bandwidth_Bps:
        raise UnsoundError(f"itl would be {1e3 * step_s:.4g} ms, less than one read of {in_gib(float(read_B))} of weights")


def with_prefills_of_others(run: Mapping[str, Any]) -> tuple[dict[str, Quantity], str]:
    """The parts of the time between two tokens of a request, prompts that join its steps included, and the largest."""
    others_s = float(run["token_gap"].magnitude - run["itl"].magnitude)
    largest = others_s > max(part.magnitude for part in run["breakdown"].values())
    breakdown = {**run["breakdown"], "prefills of others": with_unit(others_s, "second")}
    return breakdown, "prefills of others" if largest else run["binding"]


def _diagnostics(deployment: Deployment, batch: float) -> tuple[str, ...]:
    notes = []
    if deployment.schedule == "continuous" and batch < deployment.batch:
        notes.append(f"{batch:.0f} of {deployment.batch:.0f} requests in flight have room: the others wait for a place")
    notes += beyond_context(deployment.workload, deployment.prompt + deployment.output)
    if deployment.offload and math.isinf(deployment.offload.host_B):
        notes.append("how much host memory there is is not stated: as much as is needed")
    return tuple(notes)
