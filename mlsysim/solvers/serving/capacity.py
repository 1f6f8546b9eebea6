"""Accelerators that a load and its latency limits take: ``CapacityPlanner``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

from mlsysim.core.checks import (
    boolean,
    instance,
    mapping,
    needed,
    percentile_share,
    positive_quantity,
    real_number,
    strict_keywords,
    whole_number,
)
from mlsysim.core.choices import Basis
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.precision import bytes_per_element
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.arrivals import Limits
from mlsysim.lowering.deployment import prompt_tokens, requests_per_s
from mlsysim.lowering.options import EngineOptions
from mlsysim.lowering.serving_kernels import coefficients_used
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.result import Result, beyond_context
from mlsysim.solvers.serving.capacity_answer import (
    FIGURES,
    ROOM,
    TIMES,
    alternatives,
    bound_by,
    closest,
    in_words,
    lacking,
    row_of,
    unserved,
)
from mlsysim.solvers.serving.capacity_question import Asked, all_ways
from mlsysim.solvers.serving.capacity_search import Search, search
from mlsysim.solvers.serving.capacity_space import Demand, Offer
from mlsysim.solvers.serving.tail_latency import served_facts
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class CapacityResult(Result):
    """The cheapest way to serve the load, or, without prices, the one with the fewest accelerators.

    Every deployment that is told of keeps the limits by the open-loop model of ``TailLatencyModel``, with its replicas and the
    batch as their places.

    Attributes:
        accelerators: in all; ``replicas``: that decode (and prefill, unless the pools are apart).
        cost_per_hour: of all accelerators; ``cost_per_million_tokens``: output tokens of the load. None without prices.
        percentile: share of the requests that do not exceed ``ttft`` (to the first token), ``itl`` (mean time between two
            tokens of a request after it) and ``request_latency``. Of an infeasible question, those of a lone request to the
            deployment that comes closest, if the model fits any.
        capacity: requests a second that all replicas complete with all places taken; ``utilization``: the load over it;
            ``headroom``: what it has beyond the load, over the load.
        best_config: hardware, stack, precision, TP, PP, parts of the experts and groups of ranks with sequences of their own,
            batch, whether the pools are apart, and how many of each.
        ranking: the cheapest plans, each with the fewest replicas that keep the limits, cheapest first.
        front: of the plans that were searched, those that no other beats in both cost and ``itl``.
        alternatives: for each value that was open, the cheapest deployment with it, and its cost over the best.
        why: the same in words.
        total_plans: TP x PP x EP x precision x hardware; ``total_fit``: of these, where at least one sequence fits.
        total_searched: numbers of replicas of a plan whose requests were asked whether they keep the limits; plans that cannot
            be among those told of are not. ``total_feasible``: plans that were found to keep the limits.
    """

    INTERVAL_OF = "capacity"
    MEASURED_AS = "ServingModel"
    INTERVALS_OF_ALL = False
    COUNTED: ClassVar[Mapping[str, str]] = {"capacity": "requests", "breakdown": "accelerators"}
    ROWS_OF = "ranking"
    HEADLINE = (
        *("accelerators", "best_config", "cost_per_hour", "cost_per_million_tokens", "capacity", "utilization", "headroom"),
        *("percentile", "itl", "ttft", "request_latency"),
    )

    accelerators: int
    replicas: int
    cost_per_hour: Quantity | None
    cost_per_million_tokens: Quantity | None
    percentile: float
    itl: Quantity | None
    ttft: Quantity | None
    request_latency: Quantity | None
    capacity: Quantity | None
    utilization: float | None
    headroom: float | None
    best_config: Mapping[str, Any]
    ranking: tuple[dict[str, Any], ...]
    front: tuple[dict[str, Any], ...]
    alternatives: tuple[dict[str, Any], ...]
    why: tuple[str, ...]
    total_plans: int
    total_fit: int
    total_searched: int
    total_feasible: int


class CapacityPlanner:
    """Tries every hardware x TP x PP x precision x (prefill and decode together or apart), each with the replicas it needs.

    Experts are cut by width, or dealt out to ranks with sequences of their own; each pool has a division of its own.

    A replica's batch is the largest at which all requests keep ``max_itl``, or a power of two where that takes fewer replicas.
    Replicas are added until ``percentile`` of the requests keep every limit under random arrivals.
    """

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: Sequence[HardwareNode | Node | Fleet],
        *,
        request_rate: Quantity | str | None = None,
        arrival_rate: Quantity | str | None = None,
        output_len: int,
        prefix_hit: float = 0.0,
        max_ttft: Quantity | str | None = None,
        max_itl: Quantity | str | None = None,
        max_latency: Quantity | str | None = None,
        percentile: float = 0.99,
        prices: Mapping[str, Quantity | str] | None = None,
        precisions: Sequence[str] | None = None,
        tp_sizes: Sequence[int] | None = None,
        pp_sizes: Sequence[int] | None = None,
        disaggregated: bool | None = None,
        max_batch: int = 1024,
        top_k: int = 10,
        basis: Basis | str | None = None,
        **options: Unpack[EngineOptions],
    ) -> CapacityResult:
        """The cheapest deployment that serves ``request_rate`` within the limits.

        Args:
            workload: a decoder.
            hardware: what it could run on, each with a name of its own: accelerators, in the nodes that they usually stand in,
                or nodes (as many of both as needed), or fleets (no more than they have).
            request_rate: requests a second, such as "20 count/s"; they arrive at random.
            arrival_rate: another name of ``request_rate``.
            output_len: tokens that a request generates.
            prefix_hit: share of a prompt's tokens that the prefix cache has, so that no prefill computes them.
            max_ttft: most time to first token.
            max_itl: most time between two tokens of a request, mean over its tokens.
            max_latency: most time of a whole request.
            percentile: share of the requests that keep each limit.
            prices: of one accelerator, an hour ("2 USD/hour"), by name of the hardware.
            precisions: number formats to try, by default the one of the model's published weights; one that an accelerator has
                no rate for is left out there, and said.
            tp_sizes: to try; by default the divisors of the node.
            pp_sizes: to try; by default those that divide the layers, or leave the fullest stage at most 5 % above the mean.
            disaggregated: prefill and decode on accelerators of their own (True), together (False), or the better of both.
            max_batch: most sequences that a replica decodes together.
            top_k: plans to rank.
            basis: "bound" for the speed of light; by default, without ``stack`` or ``efficiency``, each accelerator's
                best-supported engine is taken, and named.
            **options: see ``EngineOptions``.

        Raises:
            InputError: an argument out of range; a price that is missing; no plan that is possible at all.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> from mlsysim.solvers.serving.tail_latency import TailLatencyModel
            >>> load = dict(request_rate="20 count/s", input_len=1024, output_len=256, stack="vllm-2025")
            >>> card, model = Hardware.Cloud.H100, Models.Language.Llama2_70B
            >>> asked = dict(max_itl="60 ms", max_ttft="1 s", prices={card.name: "3 USD/hour"}, disaggregated=False)
            >>> found = CapacityPlanner().solve(model, [card], **asked, **load)
            >>> plan = {"tp_size": "tp", "pp_size": "pp", "batch_size": "batch", "replicas": "replicas"}
            >>> plan = {argument: found.best_config[name] for argument, name in plan.items()}
            >>> served = TailLatencyModel().solve(model, card, **plan, **load)
            >>> found.accelerators <= 16, served.ttft_p99 == found.ttft, served.tpot_p99.m_as("ms") <= 60
            (True, True, True)
        """
        rate = needed("request_rate", requests_per_s(request_rate, arrival_rate), "a rate, such as 20 count/s")
        limits_s = {"max_ttft": max_ttft, "max_itl": max_itl, "max_latency": max_latency}
        model = instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
        formats = [_own_format(model)] if precisions is None else _listed("precisions", precisions)
        asked = Asked(
            model=model,
            offers=_offers(hardware, prices),
            precisions=[instance("precisions", name, str, "names of number formats") for name in formats],
            tp_sizes=_sizes("tp_sizes", tp_sizes),
            pp_sizes=_sizes("pp_sizes", pp_sizes),
            demand=Demand(
                rate_per_s=rate,
                limits=Limits(
                    percentile_share("percentile", percentile),
                    *(math.inf if each is None else positive_quantity(name, each, "second") for name, each in limits_s.items()),
                ),
                max_batch=whole_number("max_batch", max_batch),
            ),
            disaggregated=(False, True) if disaggregated is None else (boolean("disaggregated", disaggregated),),
            input_len=prompt_tokens(options.get("input_len"), options.get("seq_len")),
            output_len=whole_number("output_len", output_len),
            prefix_hit=real_number("prefix_hit", prefix_hit, 0.0, 1.0),
            options=options,
            basis=basis,
            priced=prices is not None,
        )
        result = search(list(all_ways(asked)), whole_number("top_k", top_k))
        if not asked.tried and asked.refused:
            raise asked.refused[-1]
        if not asked.tried:
            raise InconsistentError("hardware", [offer.hardware.name for offer in asked.offers], _POSSIBLE)
        if precisions is None and bytes_per_element(asked.precisions[0]) > 1:
            asked.notes.extend(_if_quantised(asked, result))
        return _result(asked, result)


_POSSIBLE = "some plan that is possible: TP that divides the heads, TP x PP within the accelerators, a precision with a rate"
_QUANTISED = "fp8"


def _own_format(model: TransformerWorkload) -> str:
    return model.expert_format or model.weight_format or "fp16"


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise InputError(name, values, "a list of at least one")
    return list(values)


def _sizes(name: str, sizes: Any) -> list[int] | None:
    return None if sizes is None else sorted({whole_number(name, size) for size in _listed(name, sizes)})


def _offers(hardware: Any, prices: Mapping[str, Any] | None) -> list[Offer]:
    if isinstance(hardware, (HardwareNode, Node, Fleet)):
        hardware = [hardware]
    if not isinstance(hardware, Sequence):
        raise InputError("hardware", hardware, "a list of accelerators, Nodes or Fleets")
    listed = [_machine(item) for item in _listed("hardware", hardware)]
    names = [item.name for item in listed]
    if len(set(names)) < len(names):
        raise InputError("hardware", names, "each with a name of its own")
    priced = f"a price for each of {', '.join(names)}"
    if prices is not None and set(mapping("prices", prices, priced)) != set(names):
        raise InconsistentError("prices", list(prices), priced)
    rates = {name: 1.0 if prices is None else positive_quantity("prices", prices[name], "USD/hour") for name in names}
    return [Offer.of(item, rates[item.name]) for item in listed]


def _machine(item: object) -> HardwareNode | Node | Fleet:
    if isinstance(item, (Node, Fleet)):
        return item
    return instance("hardware", item, HardwareNode, "an accelerator such as Hardware.Cloud.H100, a Node or a Fleet")


def _if_quantised(asked: Asked, result: Search) -> Iterator[str]:
    """What weights and cache of 8 bits would save."""
    quantised = replace(asked, precisions=[_QUANTISED], notes=[], tried_on={}, refused=[])
    try:
        best = search(list(all_ways(quantised)), 1, result.ranking[0].cost if result.ranking else math.inf).ranking
    except InputError:
        return
    if best and (not result.ranking or best[0].cost < result.ranking[0].cost):
        row = row_of(quantised, best[0])
        plan = f"{row['replicas']} x (TP {row['tp']} x PP {row['pp']}) on {row['hardware']}"
        yield f"if quantised to {_QUANTISED}: {row['accelerators']} accelerators, {plan}"


def _result(asked: Asked, result: Search) -> CapacityResult:
    limits, output = asked.demand.limits, asked.output_len
    ranking = [row_of(asked, each) for each in result.ranking]
    nearest = None if ranking else closest(result, asked.demand)
    binding, reason = bound_by(asked, result.ranking[0]) if ranking else lacking(asked, result, nearest)
    best = ranking[0] if ranking else {}
    setting = result.ranking[0].way.pace.setting if ranking else asked.tried[0]
    shown = best or ({} if nearest is None else row_of(asked, nearest))
    others = tuple(alternatives(asked, result)) if ranking else ()
    prefill = best["prefill_replicas"] * best["prefill_tp"] * best["prefill_pp"] if best else 0
    parts = {"decode": best["accelerators"] - prefill, "prefill": prefill} if best else {}
    left_out = unserved(asked, result) if ranking else ()
    notes = [*dict.fromkeys(asked.notes), *left_out, *beyond_context(asked.model, asked.input_len + output)]
    if asked.cut:
        notes.append(f"batches beyond max_batch = {asked.demand.max_batch} fit and were not tried")
    return CapacityResult(
        solver="CapacityPlanner",
        subject=f"{asked.model.name}, {asked.demand.rate_per_s:g} requests/s of {asked.input_len} + {output} tokens",
        basis=setting.basis,
        facts=served_facts(setting),
        reason=reason,
        binding=binding,
        breakdown={name: with_unit(float(size), "count") for name, size in parts.items() if size},
        diagnostics=tuple(notes),
        coefficients=tuple({name: None for setting in asked.tried for name in coefficients_used(setting)}),
        accelerators=best.get("accelerators", 0),
        replicas=best.get("replicas", 0),
        percentile=limits.share,
        **{name: best.get(name) for name in ("cost_per_hour", "cost_per_million_tokens", *ROOM)},
        **{name: shown.get(name) for name in TIMES},
        best_config={name: value for name, value in best.items() if name not in FIGURES},
        ranking=tuple(ranking),
        front=tuple(row_of(asked, each) for each in result.front),
        alternatives=others,
        why=tuple(in_words(row) for row in others),
        total_plans=len(asked.tried),
        total_fit=asked.fit,
        total_searched=result.searched,
        total_feasible=len(result.known),
    )
