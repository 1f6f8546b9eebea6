"""The command ``mlsysim capacity``: the accelerators that a load within its limits takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsysim.cli.options import taking
from mlsysim.cli.output import Notes, Table
from mlsysim.cli.question import name_of, transformer_named
from mlsysim.cli.results import OTHER_CHOICES, Answer, answering, noted, value_of
from mlsysim.cli.serve import Bound, Model, On
from mlsysim.cli.values import hourly, rate, whole_numbers
from mlsysim.core.errors import InputError, either
from mlsysim.lowering.options import EngineOptions, Formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlsysim.solvers.serving.capacity import CapacityResult

SHOWN = {
    "accelerators": "accelerators",
    "cost_per_hour": "cost",
    "cost_per_million_tokens": "cost per 1M output tokens",
    "capacity": "can serve requests/s",
    "ttft": "first token",
    "itl": "between tokens",
    "request_latency": "whole request",
}


@taking(EngineOptions, called={"stack": "--engine"}, without=("seq_len", "input_len"))
def planned(
    model: Model = None,
    *,
    on: On,
    requests: Annotated[str, typer.Option("--rate", help="Requests that arrive at random: 20 (a second), 1200/min.")],
    prompt: Annotated[int, typer.Option("--prompt", help="Tokens of a prompt.")],
    output: Annotated[int, typer.Option("--output", help="Tokens of an answer.")],
    ttft: Annotated[str | None, typer.Option("--ttft", help='Most time to the first token, such as "2s".')] = None,
    itl: Annotated[str | None, typer.Option("--itl", help='Most time between two tokens, such as "40ms".')] = None,
    latency: Annotated[str | None, typer.Option("--latency", help="Most time of a whole request.")] = None,
    percentile: Annotated[float, typer.Option("--percentile", help="Share of the requests that keep the limits.")] = 0.99,
    price: Annotated[
        list[str] | None, typer.Option("--price", help="Of an accelerator an hour, in USD: H200=2.5; may be repeated.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Number formats to try, such as fp16,fp8.")] = None,
    tp: Annotated[str | None, typer.Option("--tp", help="Try these alone, such as 1,2.")] = None,
    pp: Annotated[str | None, typer.Option("--pp", help="Try these alone.")] = None,
    disaggregated: Annotated[
        bool | None,
        typer.Option("--disaggregated/--together", help="Prefill and decode apart, or together; by default the better."),
    ] = None,
    prefix_hit: Annotated[float, typer.Option("--prefix-hit", help="Share of a prompt that the prefix cache has.")] = 0.0,
    top: Annotated[int, typer.Option("--top", help="Plans to show.")] = 5,
    bound: Bound = False,
    export: Annotated[
        str | None,
        typer.Option(
            "--export", help="Print the best alone, for vllm, sglang, trtllm or kubernetes.", rich_help_panel="Output"
        ),
    ] = None,
    **options: Any,
) -> list[Answer]:
    """Find the cheapest deployment that serves requests at a rate within limits, and how many replicas it takes.

    Without prices it is the one with the fewest accelerators. Without --engine it is the engine that measurements support best.
    """
    from mlsysim.solvers.serving.capacity import CapacityPlanner
    from mlsysim.systems.fleet_text import machine_called, machines_listed

    workload, assumed = transformer_named(model)
    if options.get("stack") is not None:
        options["stack"] = name_of("--engine", options["stack"])
    machines = {name: machine_called(name, "--on") for name in machines_listed(on, "--on")}
    prices = _prices(price or (), {name: machine.name for name, machine in machines.items()})
    asked = {
        "request_rate": rate(requests),
        "input_len": prompt,
        "output_len": output,
        "prefix_hit": prefix_hit,
        "max_ttft": ttft,
        "max_itl": itl,
        "max_latency": latency,
        "percentile": percentile,
        "precisions": None if precision is None else precision.split(","),
        "tp_sizes": None if tp is None else whole_numbers("--tp", tp),
        "pp_sizes": None if pp is None else whole_numbers("--pp", pp),
        "disaggregated": disaggregated,
        "top_k": top,
        "basis": "bound" if bound else None,
        **options,
    }
    answers: list[Answer] = []
    for names, priced in _comparable(machines, prices):
        result = CapacityPlanner().solve(workload, [machines[name] for name in names], prices=priced, **asked)
        figures = {"best": _in_words(result.best_config)} if result.best_config else {}
        blocks = tuple(_beside(result))
        lacking = (f"no price of {names[0]} is given: the fewest accelerators",) if prices and priced is None else ()
        # What won is that of the machines whose prices compare.
        text = "" if export is None or answers else _exported(workload, result, export, model, options)
        answers.append(Answer(",".join(names), result, (*assumed, *lacking), figures, blocks, exported=text))
    return answers


def _exported(workload: Any, result: CapacityResult, target: Any, model: Any, options: Mapping[str, Any]) -> str:
    """What won, as an engine reads it."""
    from mlsysim.launch import export_serving, planned_serving

    result.require_feasible()
    formats = Formats.of(options).arguments("cache")
    return export_serving(planned_serving(workload, result.best_config, model=model, **formats), target)


def _comparable(
    machines: Mapping[str, Any], prices: Mapping[str, str] | None
) -> list[tuple[list[str], Mapping[str, str] | None]]:
    """The machines that one answer can compare, with their prices: all with one together, and each without one apart."""
    if prices is None:
        return [(list(machines), None)]
    priced = [name for name, machine in machines.items() if machine.name in prices]
    return [(priced, prices), *(([name], None) for name in machines if name not in priced)]


def _prices(typed: Sequence[str], names: Mapping[str, str]) -> dict[str, str] | None:
    """Prices, typed as "H200=2.5", by the full names of machines (of ``names``); one without a name is of the only one."""
    from mlsysim.systems.fleet_text import machine_called

    prices = {}
    for text in typed:
        name, equals, money = text.rpartition("=")
        if not equals and len(names) > 1:
            raise InputError("--price", text, f"a price of {either(names)}, such as {next(iter(names))}={text}")
        full = next(iter(names.values())) if not equals else names.get(name.strip()) or machine_called(name, "--price").name
        if full not in names.values():
            raise InputError("--price", text, f"a price of {either(names)}, which --on names")
        if full in prices:
            raise InputError("--price", text, f"one price of {full}: another was stated before it")
        prices[full] = hourly(money)
    return prices or None


def _in_words(plan: Mapping[str, Any]) -> str:
    """A deployment in the field's words."""
    told = f"{plan['replicas']} x ({_divided(plan)}) {plan['hardware']}, {plan['precision']}, batch {plan['batch']}"
    if plan["disaggregated"]:
        told += f"; prefill on {plan['prefill_replicas']} x ({_divided(plan, 'prefill_')})"
    return told


def _divided(plan: Mapping[str, Any], pool: str = "") -> str:
    """How a replica is divided; of the pool of prompts with its ``pool`` before each name."""
    parts = {name: plan[f"{pool}{name}"] for name in ("tp", "pp", "ep")}
    return " x ".join(f"{name.upper()} {size}" for name, size in parts.items() if size > 1 or name == "tp")


def _beside(result: CapacityResult) -> Iterator[Table | Notes]:
    """The ranking, and what other choices would cost."""
    priced = result.cost_per_hour is not None
    rows = [
        (
            str(row["accelerators"]),
            *([value_of(row["cost_per_hour"]), value_of(row["cost_per_million_tokens"])] if priced else ()),
            f"{row['utilization']:.0%}",
            value_of(row["ttft"]),
            value_of(row["itl"]),
            _in_words(row),
        )
        for row in result.ranking
    ]
    numbers = ("count", *(("cost", "per 1M tokens") if priced else ()), "load", "first token", "between")
    if len(rows) > 1:
        yield Table((*numbers, "deployment"), rows, "The best deployments", numbers)
    yield from noted(result.why, OTHER_CHOICES)


capacity = answering("capacity", planned, SHOWN)
