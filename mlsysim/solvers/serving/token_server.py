"""Requests to a language model as they arrive, or all at once, on all accelerators of a system: ``TokenServerModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

from mlsysim.calibration.harnesses import loaded_fitted_names
from mlsysim.core.checks import strict_keywords
from mlsysim.core.choices import Basis
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.arrivals import ALMOST
from mlsysim.lowering.deployment import requests_per_s
from mlsysim.lowering.options import LoadOptions
from mlsysim.lowering.serving_kernels import coefficients_used
from mlsysim.lowering.token_load import (
    LoadPlan,
    LoadQuestion,
    best_plan,
    completed_share,
    load_question,
    plan_at,
    unlimited_per_s,
)
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.recommended import recommended_engine
from mlsysim.solvers.result import Result, run_facts
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class TokenServerResult(Result):
    """The highest load within limits, or without any the rate of a queue that never empties.

    ``requests_per_second`` and ``tokens_per_second`` (output tokens) are of all accelerators. ``ttft`` and ``tpot``: what the
    asked share of requests does not exceed at that load; without limits, the mean of those in flight. ``ttft`` is that of a
    server with requests in flight, waiting included.
    ``tp_size``: accelerators that share one of ``replicas`` copies of the model. ``places``: requests of a copy at once.
    """

    HEADLINE = ("tokens_per_second", "requests_per_second", "ttft", "tpot", "tp_size", "replicas")
    INTERVAL_OF = "tokens_per_second"
    JUDGED = ("requests_per_second", "tokens_per_second")

    requests_per_second: Quantity
    tokens_per_second: Quantity
    ttft: Quantity
    tpot: Quantity
    tp_size: int
    replicas: int
    places: int


class TokenServerModel:
    """How many requests a second all accelerators take, with the tensor parallelism that takes most.

    With limits, requests arrive at random (Poisson) and ``percentile`` of them keep each: the open-loop model of
    ``TailLatencyModel``, turned around. Without limits all requests wait from the start, and the batch is the best one. Of a
    run that ends (``run_time``, ``requests``) the answer is what it completes in a second: the last and longest answers, which
    decode in a batch that empties, take their part of its time.
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        accelerators: int,
        output_len: int,
        request_rate: Quantity | str | None = None,
        arrival_rate: Quantity | str | None = None,
        basis: Basis | str | None = None,
        **options: Unpack[LoadOptions],
    ) -> TokenServerResult:
        """The highest load of ``accelerators``.

        Args:
            workload: a decoder.
            hardware: an accelerator, or a node or fleet whose links tensor parallelism uses.
            accelerators: in all: as many copies of the model as they hold.
            output_len: tokens that a request generates, mean.
            request_rate: requests a time that arrive and are judged, all accelerators together; a run that ends completes
                fewer. Without it the highest load is searched.
            arrival_rate: another name of ``request_rate``.
            basis: "bound" for the speed of light; by default, without ``stack`` or ``efficiency``, the engine that is best
                supported on the accelerator is taken, and named.
            **options: see ``LoadOptions``.

        Raises:
            InputError: an argument out of range, or no tensor parallelism is possible.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> asked = dict(accelerators=8, input_len=512, output_len=256, precision="fp8", stack="tensorrt-llm-1.0")
            >>> model, card = Models.Language.Llama3_8B, Hardware.Cloud.H100
            >>> all_at_once = TokenServerModel().solve(model, card, **asked)
            >>> quick = TokenServerModel().solve(model, card, max_ttft="500 ms", max_tpot="15 ms", **asked)
            >>> quick.tokens_per_second < all_at_once.tokens_per_second, quick.tpot.m_as("ms") <= 15, quick.replicas
            (True, True, 8)
            >>> twice = TokenServerModel().solve(
            ...     model, card, max_ttft="500 ms", max_tpot="15 ms", request_rate=2 * quick.requests_per_second, **asked
            ... )
            >>> twice.feasible
            False
        """
        engine = recommended_engine(workload, hardware, options, basis)
        asked = {**engine.added_to(options), "accelerators": accelerators, "output_len": output_len}
        question = load_question(workload, hardware, **asked)
        rate_per_s = requests_per_s(request_rate, arrival_rate)
        return _told(best_plan(question) if rate_per_s is None else plan_at(question, rate_per_s), question, engine.notes)


def _told(plan: LoadPlan, question: LoadQuestion, notes: tuple[str, ...]) -> TokenServerResult:
    """The plan's answer; where nothing keeps the limits, that of lone requests one after another."""
    setting, pace, limits = plan.setting, plan.pace, question.limits
    reason, rate_per_s = pace.reason, plan.rate_per_s
    first_s, token_s = pace.alone_s, float(pace.token_s[0])
    if rate_per_s == 0:
        rate_per_s = setting.replicas / (first_s + (setting.output - 1) * token_s)
        alone = f"a lone request takes {1e3 * first_s:.3g} ms to its first token and {1e3 * token_s:.3g} ms for each after it"
        reason = reason or f"{alone}: no load keeps the limits"
    elif not plan.held:
        each_per_s = unlimited_per_s(setting, pace, question) if limits is None else pace.capacity_per_s
        most_per_s = setting.replicas * each_per_s
        asked = f"{rate_per_s:.4g} requests a second"
        over = (
            f"{asked}: {most_per_s:.4g} can be served"
            if rate_per_s > most_per_s * ALMOST
            else f"{asked} do not keep the limits"
        )
        reason = reason or over
    if limits is None:
        best = int(pace.completions_per_s.argmax())
        # A step is under way when a place is free, and half of it is left.
        ttft_s, tpot_s = first_s + float(pace.step_s[best]) / 2, float(pace.token_s[best])
        parts_s = (0.0, ttft_s, (setting.output - 1) * tpot_s)
    else:
        arrival_per_s = min(rate_per_s / setting.replicas, ALMOST * pace.capacity_per_s)
        seen = plan.seen or pace.under(arrival_per_s, question.spread**2)
        first, wait_s, whole_s = seen.after_wait(0.0), seen.wait_mean_s(), seen.after_wait_mean_s(setting.output - 1)
        ttft_s, tpot_s = first.percentile_s(limits.share), seen.token_percentile_s(limits.share)
        parts_s = (wait_s, first.mean_s - wait_s, whole_s - first.mean_s)
    share = 1.0 if reason else completed_share(pace, setting, question, rate_per_s / setting.replicas, plan.seen)
    completed_per_s = rate_per_s * share
    load = "all at once" if limits is None else f"{limits.share:.0%} within limits"
    where = f"{question.accelerators} x {setting.accelerator.name}"
    fitted = () if setting.stack is None else loaded_fitted_names(setting.accelerator.name, question.front)
    return TokenServerResult(
        solver="TokenServerModel",
        subject=f"{setting.workload.name}, {setting.prompt:.0f} + {setting.output:.0f} tokens, {load}, "
        f"in {setting.formats} on {where}",
        reason=reason,
        basis=setting.basis,
        diagnostics=notes,
        coefficients=(*coefficients_used(setting), *fitted),
        facts=run_facts(setting.workload, setting.accelerator, setting.stack, question.accelerators),
        binding="memory capacity" if pace.reason else "throughput" if limits is None else "latency limits",
        breakdown=with_units(dict(zip(("waiting", "first token", "further tokens"), parts_s, strict=True)), "second"),
        requests_per_second=with_unit(completed_per_s, "count/second"),
        tokens_per_second=with_unit(completed_per_s * setting.output, "count/second"),
        ttft=with_unit(ttft_s, "second"),
        tpot=with_unit(tpot_s, "second"),
        tp_size=setting.tp,
        replicas=setting.replicas,
        places=pace.places,
    )
