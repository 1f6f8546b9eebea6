"""Answers about what people paste: whether it fits, how fast it is and what was assumed, as the solvers' own results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mlsysim.calibration.engines import engine
from mlsysim.core.checks import whole_number
from mlsysim.core.errors import InconsistentError, MissingArgumentError
from mlsysim.core.toml import packaged_toml
from mlsysim.core.units import Quantity
from mlsysim.hardware.types import HardwareNode
from mlsysim.launch.serve import ServingLaunch
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.serving import ServingModel, ServingResult
from mlsysim.solvers.serving.tail_latency import TailLatencyModel, TailLatencyResult
from mlsysim.systems.types import Fleet, Node, accelerator_of

R = TypeVar("R", bound=Result)
# What a bound, which knows no engine's limit, is asked for where as many as fit are.
_MOST_AT_THE_BOUND = 1024
# Arguments of a deployment that a queue of requests at random does not have.
_OF_A_SCHEDULE = ("page_size", "stream_interval", "batch_wait_iters", "recv_interval", "offload")


def answer_serving(
    launch: ServingLaunch,
    hardware: HardwareNode | Node | Fleet,
    *,
    input_len: int,
    output_len: int,
    batch_size: int | None = None,
    request_rate: Quantity | str | None = None,
    acceptance: float | None = None,
    **arguments: Any,
) -> ServingResult | TailLatencyResult:
    """What a deployment that a command line starts comes to: whether it fits, and how fast it is with its interval.

    Args:
        launch: from ``serving_launch``.
        hardware: one accelerator of those that it runs on, a node, or a fleet.
        input_len: tokens of a prompt.
        output_len: tokens that a request generates.
        batch_size: requests in flight of one copy of the model; by default as many as the line lets in, or as fit.
        request_rate: requests a time of all copies, which come at random: latencies are then those of a queue.
        acceptance: chance that a drafted token is accepted, where the line drafts some.
        **arguments: further keywords of ``ServingModel.solve``, or of ``TailLatencyModel.solve`` with a rate; they win.

    Raises:
        InputError: a prompt and its answer are longer than the line lets in, or drafts without a known acceptance.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> from mlsysim.launch.serve import serving_launch
        >>> launch = serving_launch("vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2 --max-num-seqs 64")
        >>> run = answer_serving(launch, Hardware.Cloud.H200, input_len=1000, output_len=300)
        >>> run.feasible, run.batch, 10 < run.token_gap.m_as("ms") < 60
        (True, 64, True)
    """
    prompt, output = whole_number("input_len", input_len), whole_number("output_len", output_len)
    assumed = list(launch.assumed)
    if launch.role == "prefill":
        output = 1
        assumed.append("prefill role: a request is its prompt and one token")
    if launch.max_model_len is not None and prompt + output > launch.max_model_len:
        expected = f"prompt and answer of at most the {launch.max_model_len} tokens that the line lets in"
        raise InconsistentError("input_len", f"{prompt} + {output}", expected)
    asked = {**launch.arguments, **_accepted(launch, acceptance, assumed)}
    if launch.role == "decode":
        asked["prefix_hit"] = 1.0
        assumed.append("decode role: prompts are computed elsewhere, and their caches take no time to arrive")
    asked |= {"input_len": prompt, "output_len": output}
    if request_rate is not None:
        asked = {name: value for name, value in asked.items() if name not in _OF_A_SCHEDULE}
        asked |= {"request_rate": request_rate, "batch_size": batch_size} | arguments
        tail = TailLatencyModel().solve(launch.workload, hardware, **asked)
        return with_assumed(tail, assumed, launch.unknown)
    asked |= {"schedule": "continuous", "batch_size": 1} | arguments
    if batch_size is None:
        fit = ServingModel().solve(launch.workload, hardware, **asked)
        batch_size = max(1, min(fit.max_batch, _let_in(asked, hardware, launch.sequences)))
        assumed.append(f"{batch_size} requests in flight, as many as the line lets in or as fit")
    run = ServingModel().solve(launch.workload, hardware, **(asked | {"batch_size": batch_size}))
    return with_assumed(run, assumed, launch.unknown)


def with_assumed(result: R, assumed: Iterable[str], unknown: Iterable[str]) -> R:
    """The result, whose diagnostics say what was assumed of a launch and which options were not understood.

    Example:
        >>> from mlsysim import Hardware, Models
        >>> run = ServingModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, input_len=128)
        >>> with_assumed(run, ["fp8 cache"], ["--new"]).diagnostics
        ('assumed: fp8 cache', 'not understood, and left out: --new')
    """
    notes = tuple(f"assumed: {one}" for one in assumed)
    strange = tuple(f"not understood, and left out: {one}" for one in unknown)
    return replace(result, diagnostics=(*result.diagnostics, *notes, *strange))


def _accepted(launch: ServingLaunch, acceptance: float | None, assumed: list[str]) -> dict[str, float]:
    """The chance that a draft is accepted: the caller's, else that of the kind of drafts where one is published."""
    if not launch.arguments.get("draft_len"):
        if acceptance is not None:
            raise InconsistentError("acceptance", acceptance, "nothing: the line drafts no tokens")
        return {}
    if acceptance is not None:
        return {"acceptance": acceptance}
    known = packaged_toml("launch", "serve_options.toml")["acceptance"]
    if launch.drafts_by not in known or launch.drafts_by == "source":
        raise MissingArgumentError("acceptance", None, f"a chance, 0 to 1: the line drafts tokens by {launch.drafts_by}")
    assumed.append(f"acceptance {known[launch.drafts_by]} of drafted tokens: {known['source']}")
    return {"acceptance": float(known[launch.drafts_by])}


def _let_in(asked: Mapping[str, Any], hardware: HardwareNode | Node | Fleet, default: int | None) -> int:
    """Requests that the engine decodes together, all groups of ranks with sequences of their own together."""
    if asked.get("stack") is None:
        return _MOST_AT_THE_BOUND
    device = accelerator_of(hardware)
    most_let_in = engine(asked["stack"]).on(device.name, device.memory_capacity_B / 2**30).most_sequences
    groups = asked.get("attention_dp", 1)
    groups = asked["tp_size"] if groups is True else groups
    return int((asked.get("max_num_seqs") or min(most_let_in, default or most_let_in)) * groups)
