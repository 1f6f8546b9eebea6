"""The arguments that solvers share, of a serving deployment and of a training step: name, type, default and meaning of each.

What a server is started with is checked here, too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self, TypedDict

from mlsysim.calibration.engines import Engine
from mlsysim.calibration.harnesses import reached_through
from mlsysim.core.checks import fraction, instance, needed, real_number, whole_number
from mlsysim.core.choices import AttentionKernel, GradientFormat, PipelineSchedule, Precision, Recomputation, ServingSchedule
from mlsysim.core.errors import InconsistentError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.options import Option
from mlsysim.core.units import Quantity
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.serving.deployment import EngineKernels
from mlsysim.physics.serving.speculation import expected_tokens

# Options of an engine, of which a bound has nothing.
STACK_OPTIONS = ("harness_name", "max_num_batched_tokens", "max_num_seqs", "memory_share")


class PromptOptions(TypedDict, total=False):
    """The length of a prompt, by either of its two names."""

    input_len: Annotated[int | None, Option(None, "tokens of a prompt")]
    seq_len: Annotated[int | None, Option(None, "another name of ``input_len``")]


class EngineOptions(PromptOptions, total=False):
    """A prompt, and what computes it."""

    stack: Annotated[str | None, Option(None, 'a calibrated engine such as "vllm-2025": its kernels and overheads')]
    efficiency: Annotated[float | None, Option(None, "share of peak arithmetic that the caller owns; a stack knows its own")]
    kv_precision: Annotated[
        Precision | str | None, Option(None, "number format of the KV cache; by default that of ``precision``")
    ]


class FormatOptions(EngineOptions, total=False):
    """A prompt, what computes it, and the number formats."""

    precision: Annotated[
        Precision | str | None,
        Option(None, "number format of the arithmetic, and of weights and KV cache unless said; by default the model's own"),
    ]
    weight_precision: Annotated[Precision | str | None, Option(None, "number format of the weights in memory")]


# The arguments by which solvers take each part of ``Formats``.
FORMATS = {"arithmetic": "precision", "weights": "weight_precision", "cache": "kv_precision"}


@dataclass(frozen=True, slots=True)
class Formats:
    """Number formats that a deployment is asked for: of arithmetic, weights and KV cache; None where left open."""

    arithmetic: str | None = None
    weights: str | None = None
    cache: str | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """The formats among a solver's arguments.

        Args:
            arguments: keywords of ``solve``.

        Example:
            >>> Formats.of({"precision": "awq", "tp_size": 2}).arithmetic
            'awq'
        """
        return cls(**{part: arguments.get(argument) for part, argument in FORMATS.items()})

    def arguments(self, *parts: str) -> dict[str, str]:
        """The keywords of ``solve`` that ask for these formats, of those that are not left open.

        Args:
            parts: fields whose keywords are given; by default all.
        """
        stated = {argument: getattr(self, part) for part, argument in FORMATS.items() if part in parts or not parts}
        return {argument: name for argument, name in stated.items() if name is not None}


class LoadOptions(FormatOptions, total=False):
    """A prompt and what computes it, and the limits that requests keep where a system is asked for its highest load."""

    max_ttft: Annotated[Quantity | str | None, Option(None, "limit on the time to the first token")]
    max_tpot: Annotated[Quantity | str | None, Option(None, "limit on the time per token after it")]
    max_latency: Annotated[Quantity | str | None, Option(None, "limit on the whole request")]
    percentile: Annotated[float, Option(0.99, "share of the requests that keep the limits")]
    output_spread: Annotated[float, Option(0.0, "standard deviation of the generated tokens over their mean")]
    run_time: Annotated[
        Quantity | str | None,
        Option(None, "least time in which requests of a run wait or arrive; then its batch empties; by default it has no end"),
    ]
    requests: Annotated[int | None, Option(None, "least requests of such a run, all accelerators together")]
    beams: Annotated[int, Option(1, "sequences that are searched for one request")]
    harness_name: Annotated[
        str | None, Option(None, 'what puts requests before the engine, such as "mlperf-vllm"; by default nothing does')
    ]
    tp_sizes: Annotated[
        Sequence[int] | None,
        Option(None, "values of ``tp_size`` to try; by default powers of two that divide a node and the heads"),
    ]


class DeploymentOptions(FormatOptions, total=False):
    """A prompt, what computes it, and how one copy of the model is divided."""

    tp_size: Annotated[int, Option(1, "accelerators that share each layer")]
    pp_size: Annotated[int, Option(1, "stages that share the layers")]
    attention_dp: Annotated[
        bool | int,
        Option(
            False,
            "groups of the ``tp_size`` ranks that attend for sequences of their own, in steps that all take together (copies"
            " that do not wait for each other are ``replicas``); True: each rank is one",
        ),
    ]
    ep_size: Annotated[
        int, Option(1, "parts of the ``tp_size`` ranks that experts are dealt out to; 1: all share each's width")
    ]
    redundant_experts: Annotated[
        int | None,
        Option(
            None,
            "second copies of experts; by default the fewest with which each part has as many, an eighth over several nodes",
        ),
    ]
    routing_imbalance: Annotated[
        float | None, Option(None, "tokens of the busiest part over the mean (>= 1); by default chance's, of even routing")
    ]
    two_batch_overlap: Annotated[
        bool | None,
        Option(None, "whether half of a batch computes while the other travels to experts; by default over several nodes"),
    ]
    harness_name: Annotated[
        str | None,
        Option(None, 'what users reach the engine through, such as "http" or "in-process"; by default as the stack usually is'),
    ]
    max_num_batched_tokens: Annotated[
        int | None, Option(None, "tokens that a step of the stack computes at most (chunked prefill); by default its own")
    ]
    max_num_seqs: Annotated[int | None, Option(None, "sequences that the stack decodes together at most; by default its own")]
    memory_share: Annotated[
        float | None, Option(None, "share of the memory that the stack fills with weights and cache; by default its own")
    ]
    draft_len: Annotated[int, Option(0, "tokens that are drafted for each sequence and checked in one pass; 0: none are")]
    acceptance: Annotated[float | None, Option(None, "chance that a drafted token is accepted, 0 to 1")]
    output_cv: Annotated[
        float, Option(0.0, "spread of output lengths, standard deviation over mean; 0: all are as long as ``output_len``")
    ]
    draft: Annotated[
        TransformerWorkload | None,
        Option(None, "the model that drafts, on the same ranks in turn; by default a module of the model's own (MTP)"),
    ]


class ServingOptions(DeploymentOptions, total=False):
    """All that can be said of a deployment and its load."""

    batch_size: Annotated[int, Option(1, "sequences of a fixed batch, or requests in flight, of one replica")]
    output_len: Annotated[int | None, Option(None, "tokens that a request generates")]
    replicas: Annotated[int, Option(1, "copies of the model, each with its own batch")]
    schedule: Annotated[
        ServingSchedule | str,
        Option("static", '"static" (a fixed batch), "continuous" (requests always in flight) or "offline" (as many as fit)'),
    ]
    rounds: Annotated[int | None, Option(None, "requests that each place in flight serves; by default the steady state")]
    requests: Annotated[int | None, Option(None, "equal requests of an offline run in all; by default it has no end")]
    stream_interval: Annotated[int, Option(1, "tokens that reach the client at a time after the first: no mean time changes")]
    batch_wait_iters: Annotated[
        int, Option(0, "steps that the scheduler holds prompts back while others decode, so that more join together")
    ]
    recv_interval: Annotated[int, Option(1, "decode steps between the scheduler's looks at the requests that arrived")]
    padded_len: Annotated[
        int | None,
        Option(None, "the longest prompt of a fixed batch, where ``input_len`` is the mean; by default all are as long"),
    ]
    prefix_hit: Annotated[float, Option(0.0, "share of a prompt's tokens that the prefix cache has: no prefill computes them")]
    page_size: Annotated[int, Option(1, "tokens of a block of the KV cache, which is given out whole")]
    offload: Annotated[
        str | Mapping[str, float] | None,
        Option(None, 'what the host keeps and passes stream: "weights", "kv", "weights+kv" or shares such as {"weights": 0.5}'),
    ]
    host_memory: Annotated[
        Quantity | str | None,
        Option(None, "host memory of one accelerator; by default its part of the node's, or what is needed if nobody says"),
    ]


class TrainingOptions(TypedDict, total=False):
    """Arguments that all plans of a training step share."""

    seq_len: Annotated[int | None, Option(None, "tokens of a sequence; by default 4096")]
    precision: Annotated[Precision | str, Option("bf16", "number format of the matrix products")]
    efficiency: Annotated[float | None, Option(None, "share of peak that the caller owns; without it the result is the bound")]
    recompute: Annotated[
        Recomputation | str | None, Option(None, "none, selective or full; by default the cheapest that fits, else none")
    ]
    gradient_precision: Annotated[
        GradientFormat | str | None, Option(None, "bf16, fp16 or fp32; by default as the stack accumulates, else 16 bits")
    ]
    overlap_comm: Annotated[bool, Option(True, "whether collectives may hide under compute")]
    overlap_efficiency: Annotated[
        float | None,
        Option(None, "share of every collective that hides; by default what fits under compute (in a search 0.85)"),
    ]
    straggler_factor: Annotated[float, Option(1.0, "how much slower the slowest rank is (>= 1)")]
    congestion_factor: Annotated[float, Option(1.0, "how much slower the fabric is than its rate (>= 1)")]
    stack: Annotated[str | None, Option(None, 'a calibrated software stack such as "megatron-2021", in place of an efficiency')]
    attention: Annotated[
        AttentionKernel | str, Option("flash", "flash, flash-1, unfused or fused-softmax; calibrated basis only")
    ]
    expert_tp_size: Annotated[int | None, Option(None, "ranks that share one expert's matrices; by default as many as tp_size")]
    shard_size: Annotated[int | None, Option(None, "data-parallel ranks that ZeRO shards over; by default all")]
    lora_rank: Annotated[int | None, Option(None, "rank of adapters beside frozen weights, trained alone")]
    lora_targets: Annotated[
        str | None,
        Option(
            None,
            'projections with adapters: "attention", "all" or names ("q_proj,v_proj"); by default as the stack\'s users do',
        ),
    ]
    compiled: Annotated[
        bool | None, Option(None, "whether torch.compile fuses the passes between products; by default as the stack's users do")
    ]
    async_tp: Annotated[bool, Option(False, "whether tensor-parallel collectives run in parts beside the products")]
    routing_imbalance: Annotated[
        float | None,
        Option(None, "tokens of the busiest expert-parallel rank over the mean (>= 1); calibrated basis only"),
    ]
    capacity_factor: Annotated[
        float | None,
        Option(None, "places of an expert over its mean tokens, where it drops the rest; calibrated basis only"),
    ]


class PlanOptions(TypedDict, total=False):
    """The split of a training step over its accelerators."""

    tp_size: Annotated[int, Option(1, "tensor-parallel ranks")]
    pp_size: Annotated[int, Option(1, "pipeline stages")]
    dp_size: Annotated[int | None, Option(None, "data-parallel ranks: what TP, PP and CP leave; giving it only checks it")]
    ep_size: Annotated[int, Option(1, "expert-parallel ranks, out of the ranks of a stage that the experts' own TP leaves")]
    cp_size: Annotated[int, Option(1, "ranks that share each sequence and pass keys and values around a ring")]
    virtual_stages: Annotated[int, Option(1, "model chunks a stage (interleaved schedule)")]
    microbatch_count: Annotated[int | None, Option(None, "micro-batches a step; by default of one sequence each")]
    micro_batch: Annotated[
        int | None, Option(None, "sequences of a micro-batch, in place of ``microbatch_count``; by default 1")
    ]
    schedule: Annotated[
        PipelineSchedule | str | None, Option(None, "gpipe, 1f1b or interleaved; by default what ``virtual_stages`` needs")
    ]
    zero_stage: Annotated[int, Option(1, "0 to 3")]
    sequence_parallel: Annotated[
        bool | None, Option(None, "whether norms are split over TP; by default if tp_size > 1 and the stack does")
    ]
    tp: Annotated[int | None, Option(None, "another name of ``tp_size``")]
    pp: Annotated[int | None, Option(None, "another name of ``pp_size``")]
    dp: Annotated[int | None, Option(None, "another name of ``dp_size``")]
    cp: Annotated[int | None, Option(None, "another name of ``cp_size``")]
    ep: Annotated[int | None, Option(None, "another name of ``ep_size``")]
    micro_batches: Annotated[int | None, Option(None, "another name of ``microbatch_count``")]
    micro_batch_tokens: Annotated[int | None, Option(None, "tokens of a micro-batch on a rank; giving it only checks it")]


class StepOptions(TrainingOptions, PlanOptions, total=False):
    """All that can be said of one training step."""


def named_engine(stack: object, asked: Mapping[str, Any]) -> Engine | None:
    """The engine of that name behind what its users reach it through."""
    client = asked["harness_name"]
    if stack is None:
        for name in STACK_OPTIONS:
            if asked[name] is not None:
                raise InconsistentError(name, asked[name], "nothing without a stack, whose it is")
        return None
    named = None if client is None else instance("harness_name", client, str, "the name of a client")
    return reached_through(instance("stack", stack, str, "the name of a serving engine"), named)


def limited(served_by: Engine, device: HardwareNode, asked: Mapping[str, Any]) -> Engine:
    """The engine with the limits that it is started with: those of its default on this accelerator, unless stated."""
    limits = (("step_tokens", "max_num_batched_tokens"), ("most_sequences", "max_num_seqs"))
    stated: dict[str, Any] = {part: float(whole_number(name, asked[name])) for part, name in limits if asked[name] is not None}
    if "step_tokens" in stated and served_by.has.chunk:  # who computes prompts by micro-batches is told how long these are
        stated["has"] = _in_chunks(served_by.has, stated["step_tokens"])
    if asked["memory_share"] is not None:
        stated["memory_share"] = fraction("memory_share", asked["memory_share"])
    return _limited(served_by, device.name, device.memory_capacity_B, **stated)


@functools.lru_cache(maxsize=64)
def _in_chunks(has: EngineKernels, tokens: float) -> EngineKernels:
    """An engine with micro-batches of ``tokens``: one object for each number, under which what follows from it is kept."""
    return replace(has, chunk=tokens)


@identity_cache()
def _limited(served_by: Engine, /, device: str, memory_B: float, **stated: Any) -> Engine:
    return replace(served_by.on(device, memory_B / 2**30), **stated)


def drafting(model: TransformerWorkload, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Drafted tokens, what drafts them, and the tokens that a round yields."""
    length = whole_number("draft_len", asked["draft_len"], 0)
    draft = asked["draft"]
    if not length:
        for name in ("acceptance", "draft"):
            if asked[name] is not None:
                raise InconsistentError(name, asked[name], "nothing without draft_len: no token is drafted")
        return {"draft_len": 0, "draft": None, "round_tokens": 1.0}
    if draft is not None:
        instance("draft", draft, TransformerWorkload, "a decoder such as Models.Language.Llama3_8B")
    if not (model.causal and (draft is None or draft.causal)):
        raise InconsistentError("draft_len", length, f"0: {model.name} or what drafts for it generates no tokens")
    accepted = real_number("acceptance", needed("acceptance", asked["acceptance"], "a chance, 0 to 1"), 0.0, 1.0)
    return {"draft_len": length, "draft": draft, "round_tokens": float(expected_tokens(float(length), accepted))}


def held_back(name: str, value: object, schedule: str, none: int) -> int:
    """Steps that prompts are held back, of a schedule in which they come one by one; ``none``: what holds none back."""
    steps = whole_number(name, value, none)
    if steps != none and schedule != "continuous":
        raise InconsistentError(name, steps, f'{none} with schedule = "{schedule}": prompts wait for none to come')
    return steps


def spread(value: object, schedule: str) -> float:
    """Spread of output lengths, of a schedule in which a sequence that ends makes room for another."""
    cv = real_number("output_cv", value, 0.0, _WIDEST)
    if cv and schedule == "static":
        raise InconsistentError("output_cv", cv, '0 with schedule = "static": all sequences of a fixed batch end together')
    return cv


# Lengths of requests of all kinds together are rarely spread by more than twice their mean.
_WIDEST = 10.0
