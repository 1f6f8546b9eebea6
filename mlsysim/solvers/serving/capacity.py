"""Accelerators that a load and its latency limits take: ``CapacityPlanner``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from mlsysim.core.checks import (
    boolean,
    instance,
    mapping,
    needed,
    positive_quantity,
    real_number,
    strict_keywords,
    whole_number,
)
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment, prompt_tokens, requests_per_s
from mlsysim.lowering.options import EngineOptions
from mlsysim.lowering.serving_kernels import coefficients_used
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.numeric import Floats
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.capacity_search import AXES, Found, search
from mlsysim.solvers.serving.capacity_space import PLACE, Load, Offer, configurations, plans
from mlsysim.solvers.serving.replica import ServingReplica
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class CapacityResult(Result):
    """The cheapest way to serve the load, or, without prices, the one with the fewest accelerators.

    Attributes:
        accelerators: in all; ``replicas``: that decode (and prefill, unless the pools are apart).
        cost_per_hour: of all accelerators; ``cost_per_million_tokens``: output tokens of the load. None without prices.
        itl: mean time between two tokens of a request; ``ttft``: time to its first, of a server with requests in flight; both
            at a full batch, so at the most that a replica can take. Of an infeasible question, those of the configuration that
            comes closest, if any fits.
        best_config: hardware, precision, TP, PP, batch, whether the pools are apart, and how many of each.
        ranking: the cheapest configurations, cheapest first.
        front: those that no other beats in both cost and ``itl``.
        alternatives: for each value that was open, the cheapest configuration with it, and its cost over the best.
        why: the same in words.
        total_plans: TP x PP x precision x hardware; ``total_fit``: of these, where at least one sequence fits.
        total_searched: configurations evaluated: plans that fit x batches x (together, or beside a prefill pool);
            ``total_feasible``: within the limits.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ("accelerators", "best_config", "cost_per_million_tokens", "itl", "ttft")

    accelerators: int
    replicas: int
    cost_per_hour: Quantity | None
    cost_per_million_tokens: Quantity | None
    itl: Quantity | None
    ttft: Quantity | None
    best_config: Mapping[str, Any]
    ranking: tuple[dict[str, Any], ...]
    front: tuple[dict[str, Any], ...]
    alternatives: tuple[dict[str, Any], ...]
    why: tuple[str, ...]
    total_plans: int
    total_fit: int
    total_searched: int
    total_feasible: int


@dataclass(slots=True)
class _Asked:
    """A question in plain numbers, and the counts of plans that its search makes on the way."""

    model: TransformerWorkload
    offers: list[Offer]
    precisions: list[str]
    tp_sizes: list[int] | None
    pp_sizes: list[int] | None
    load: Load
    input_len: int
    output_len: int
    prefix_hit: float
    options: EngineOptions
    notes: list[str]
    plans: int = 0
    fit: int = 0
    cut: bool = False
    tried: list[ServingReplica] | None = None


class CapacityPlanner:
    """Tries every hardware x TP x PP x precision x batch x (prefill and decode together or apart): exhaustive, so exact."""

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
        prices: Mapping[str, Quantity | str] | None = None,
        precisions: Sequence[str] = ("fp16", "fp8"),
        tp_sizes: Sequence[int] | None = None,
        pp_sizes: Sequence[int] | None = None,
        disaggregated: bool | None = None,
        max_batch: int = 1024,
        top_k: int = 10,
        **options: Unpack[EngineOptions],
    ) -> CapacityResult:
        """The cheapest deployment that serves ``request_rate`` within the limits.

        Args:
            workload: a decoder.
            hardware: what it could run on, each with a name of its own: accelerators, nodes (as many as needed), fleets (no
                more than they have).
            request_rate: requests a second, such as "20 count/s".
            arrival_rate: another name of ``request_rate``.
            output_len: tokens that a request generates.
            prefix_hit: share of a prompt's tokens that the prefix cache has, so that no prefill computes them.
            max_ttft: most time to first token.
            max_itl: most time between two tokens of a request, mean.
            prices: of one accelerator, an hour ("2 USD/hour"), by name of the hardware.
            precisions: number formats to try; one that an accelerator has no rate for is left out there, and said.
            tp_sizes: to try; by default the divisors of the node.
            pp_sizes: to try; by default those that divide the layers, or leave the fullest stage at most 5 % above the mean.
            disaggregated: prefill and decode on accelerators of their own (True), together (False), or the better of both.
            max_batch: largest batch of a replica to try; all smaller ones are.
            top_k: configurations to rank.
            **options: see ``EngineOptions``.

        Raises:
            InputError: an argument out of range; a price that is missing; no plan that is possible at all.

        Example:
            >>> from mlsysim.models.registry import Models
            >>> from mlsysim.systems.registry import Systems
            >>> found = CapacityPlanner().solve(
            ...     Models.Language.Llama2_70B, [Systems.Nodes.DGX_A100_80GB, Systems.Nodes.DGX_H100], stack="vllm-2025",
            ...     request_rate="20 count/s", input_len=1024, output_len=256, max_itl="60 ms", max_ttft="1 s",
            ...     precisions=["fp16"], prices={"DGX A100 640GB": "1.8 USD/hour", "DGX H100": "3 USD/hour"},
            ... )
            >>> found.feasible, found.itl.to("ms").magnitude <= 60, found.total_searched > 1000
            (True, True, True)
        """
        rate = needed("request_rate", requests_per_s(request_rate, arrival_rate), "a rate, such as 20 count/s")
        asked = _Asked(
            model=instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B"),
            offers=_offers(hardware, prices),
            precisions=[
                instance("precisions", name, str, "names of number formats") for name in _listed("precisions", precisions)
            ],
            tp_sizes=_sizes("tp_sizes", tp_sizes),
            pp_sizes=_sizes("pp_sizes", pp_sizes),
            load=Load(
                request_rate=rate,
                max_ttft_s=math.inf if max_ttft is None else positive_quantity("max_ttft", max_ttft, "second"),
                max_itl_s=math.inf if max_itl is None else positive_quantity("max_itl", max_itl, "second"),
                max_batch=whole_number("max_batch", max_batch),
                disaggregated=(False, True) if disaggregated is None else (boolean("disaggregated", disaggregated),),
            ),
            input_len=prompt_tokens(options.get("input_len"), options.get("seq_len")),
            output_len=whole_number("output_len", output_len),
            prefix_hit=real_number("prefix_hit", prefix_hit, 0.0, 1.0),
            options=options,
            notes=[],
        )
        found = search(_blocks(asked), asked.load, whole_number("top_k", top_k))
        if asked.tried is None:
            raise InconsistentError("hardware", [offer.hardware.name for offer in asked.offers], _POSSIBLE)
        return _result(asked, asked.tried, found, priced=prices is not None)


_POSSIBLE = "some plan that is possible: TP that divides the heads, TP x PP within the accelerators, a precision with a rate"


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not given:
        raise InputError(name, given, "a list of at least one")
    return list(given)


def _sizes(name: str, given: Any) -> list[int] | None:
    return None if given is None else sorted({whole_number(name, size) for size in _listed(name, given)})


def _offers(hardware: Any, prices: Mapping[str, Any] | None) -> list[Offer]:
    expected = "accelerators, Nodes or Fleets"
    if isinstance(hardware, (HardwareNode, Node, Fleet)):
        hardware = [hardware]
    if not isinstance(hardware, Sequence):
        raise InputError("hardware", hardware, f"a list of {expected}")
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


def _blocks(asked: _Asked) -> Iterator[tuple[Floats, float]]:
    """All configurations, by hardware and precision; plans and those that fit are counted on the way."""
    for number, offer in enumerate(asked.offers):
        legal = plans(asked.model, offer, asked.tp_sizes, asked.pp_sizes)
        for which, precision in enumerate(asked.precisions):
            try:
                replicas = [
                    ServingReplica.of(
                        Deployment.of(
                            asked.model,
                            offer.hardware,
                            **asked.options,
                            precision=precision,
                            tp_size=tp,
                            pp_size=pp,
                            output_len=asked.output_len,
                            prefix_hit=asked.prefix_hit,
                            schedule="continuous",
                        )
                    )
                    for tp, pp in legal
                ]
            except InputError as error:
                if error.argument != "precision" or len(asked.precisions) == 1:
                    raise
                asked.notes.append(f"{precision} is left out on {offer.hardware.name}: {error}")
                continue
            asked.tried = [*(asked.tried or []), *replicas] if replicas else asked.tried
            asked.plans += len(replicas)
            asked.cut |= any(replica.most > asked.load.max_batch for replica in replicas)
            asked.fit += sum(replica.most >= 1 for replica in replicas)
            for columns in configurations(replicas, asked.load, offer, (number, which)):
                yield columns, offer.available


def _result(asked: _Asked, tried: list[ServingReplica], found: Found, *, priced: bool) -> CapacityResult:
    load, output = asked.load, asked.output_len
    binding, reason = _verdict(asked, tried, found)
    ranking = tuple(_row(asked, column, priced) for column in found.best.T)
    shown = ranking[0] if ranking else _row(asked, found.nearest[:, 0], priced) if found.nearest.size else None
    best = ranking[0] if ranking else {}
    alternatives = tuple(_alternatives(asked, found, priced)) if ranking else ()
    config = {name: value for name, value in best.items() if name not in _FIGURES}
    prefill = float(best["prefill_replicas"] * best["prefill_tp"] * best["prefill_pp"]) if best else 0.0
    decode = float(best["accelerators"]) - prefill if best else 0.0
    notes = [*asked.notes, *([f"batches beyond max_batch = {load.max_batch} fit and were not tried"] if asked.cut else [])]
    used = {name: None for replica in tried for name in coefficients_used(replica.deployment)}
    return CapacityResult(
        solver="CapacityPlanner",
        subject=f"{asked.model.name}, {load.request_rate:g} requests/s of {asked.input_len} + {output} tokens",
        basis=tried[0].deployment.basis,
        reason=reason,
        binding=binding,
        breakdown={name: with_unit(size, "count") for name, size in (("decode", decode), ("prefill", prefill)) if size},
        diagnostics=tuple(notes),
        coefficients=tuple(used),
        accelerators=best["accelerators"] if best else 0,
        replicas=best["replicas"] if best else 0,
        cost_per_hour=best.get("cost_per_hour"),
        cost_per_million_tokens=best.get("cost_per_million_tokens"),
        itl=shown["itl"] if shown else None,
        ttft=shown["ttft"] if shown else None,
        best_config=config,
        ranking=ranking,
        front=tuple(_row(asked, column, priced) for column in found.front.T),
        alternatives=alternatives,
        why=tuple(_in_words(row) for row in alternatives),
        total_plans=asked.plans,
        total_fit=asked.fit,
        total_searched=found.searched,
        total_feasible=found.feasible,
    )


_FIGURES = ("itl", "ttft", "cost_per_hour", "cost_per_million_tokens", "requests_per_second")


def _row(asked: _Asked, column: Floats, priced: bool) -> dict[str, Any]:
    """A configuration in the field's terms."""
    value = {name: float(column[index]) for name, index in PLACE.items()}
    counts = ("tp", "pp", "batch", "replicas", "prefill_replicas", "prefill_tp", "prefill_pp", "accelerators")
    tokens_per_hour = asked.load.request_rate * asked.output_len * 3600
    return {
        "hardware": asked.offers[int(value["offer"])].hardware.name,
        "precision": asked.precisions[int(value["precision"])],
        "disaggregated": bool(value["disaggregated"]),
        **{name: int(value[name]) for name in counts},
        "requests_per_second": with_unit(value["requests_per_s"], "count/second"),
        "itl": with_unit(value["itl_s"], "second"),
        "ttft": with_unit(value["ttft_s"], "second"),
        "cost_per_hour": with_unit(value["cost"], "USD/hour") if priced else None,
        "cost_per_million_tokens": with_unit(value["cost"] / tokens_per_hour * 1e6, "USD") if priced else None,
    }


def _alternatives(asked: _Asked, found: Found, priced: bool) -> Iterator[dict[str, Any]]:
    """The cheapest configuration of every other value of each axis."""
    best, cost = found.best[:, 0], PLACE["cost"]
    own = _row(asked, best, priced)
    for axis in AXES:
        name = "hardware" if axis == "offer" else axis
        for (of, value), column in sorted(found.by_value.items()):
            if of == axis and value != best[PLACE[axis]]:
                row = _row(asked, column[:, 0], priced)
                dearer = float(column[cost, 0] / best[cost]) - 1
                yield {"changed": name, "value": row[name], "instead_of": own[name], "dearer": dearer, **row}


def _in_words(row: Mapping[str, Any]) -> str:
    what = f"{row['changed']} {row['value']} instead of {row['instead_of']}"
    itl_ms = float(row["itl"].m_as("ms"))
    cost = f"{row['dearer']:.1%} dearer" if row["dearer"] > 0 else "costs the same"
    return f"{what}: {cost} at best ({row['accelerators']} accelerators, {itl_ms:.3g} ms between tokens)"


def _verdict(asked: _Asked, tried: list[ServingReplica], found: Found) -> tuple[str, str]:
    """Say what limits the winner, and, where there is none, why."""
    if not found.searched:
        closest = min(tried, key=lambda replica: replica.held.needed_B(1.0) / replica.deployment.accelerator.memory_capacity_B)
        if asked.fit:
            return "network", "no hardware has a network between a prefill and a decode pool"
        plan = f"TP {closest.deployment.tp} x PP {closest.deployment.pp} in {closest.deployment.arithmetic}"
        return "memory capacity", f"the model fits none of {asked.plans} plans; at the nearest, {plan}, {closest.lacking()}"
    if found.feasible:
        least = min(found.without, key=lambda name: found.without[name])
        return (least if found.without[least] < found.best[PLACE["cost"], 0] else "throughput"), ""
    load, column = asked.load, found.nearest[:, 0]
    available = asked.offers[int(column[PLACE["offer"]])].available
    reached = {
        "ITL limit": float(column[PLACE["itl_s"]]) / load.max_itl_s,
        "TTFT limit": float(column[PLACE["ttft_s"]]) / load.max_ttft_s,
        "fleet size": float(column[PLACE["accelerators"]]) / available,
    }
    worst = max(reached, key=lambda name: reached[name])
    values = {
        "ITL limit": f"ITL {column[PLACE['itl_s']] * 1e3:.4g} ms for a limit of {load.max_itl_s * 1e3:.4g} ms",
        "TTFT limit": f"TTFT {column[PLACE['ttft_s']] * 1e3:.4g} ms for a limit of {load.max_ttft_s * 1e3:.4g} ms",
        "fleet size": f"{column[PLACE['accelerators']]:.0f} accelerators of {available:.0f}",
    }
    missed = ", ".join(values[name] for name, share in reached.items() if share > 1)
    return worst, f"none of {found.searched} configurations keeps the limits; at the nearest {missed}"
