"""The command ``mlsysim plan``: the best way to split a training step over a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from mlsysim.cli.options import taking
from mlsysim.cli.output import Notes, Table, exporting
from mlsysim.cli.question import batch_of, fleet_or_chip, launched, length_assumed, model_named, name_of
from mlsysim.cli.results import OTHER_CHOICES, Answer, answering, memory_of, noted, plan_in_words, told, value_of
from mlsysim.cli.serve import Bound, Model, On
from mlsysim.cli.train import Batch, From
from mlsysim.cli.values import count, hourly, whole_numbers
from mlsysim.lowering.options import TrainingOptions

if TYPE_CHECKING:
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.launch.training_run import TrainingLaunch
    from mlsysim.solvers.training.distributed import DistributedResult
    from mlsysim.solvers.training.parallelism import ParallelismResult
    from mlsysim.systems.types import Fleet, Node

SHOWN = {"step_latency_total": "step", "best_config": "best plan"}
# What a search calls the dimensions that a line may fix, where it is not the option's name.
_DIMENSIONS = {"vpp": "virtual_stages", "micro-batch": "micro_batch", "zero": "zero_stage"}
# The options that most lines have.
FIRST = ("seq_len", "stack", "precision", "recompute")


def _sizes(name: str) -> Any:
    return typer.Option(f"--{name}", help="Try these alone, such as 4,8.", rich_help_panel="Fixed dimensions")


@taking(TrainingOptions, first=FIRST)
def planned(
    model: Model = None,
    *,
    on: On,
    batch: Batch = None,
    source: From = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help='Of the whole training, such as "15T": the days it takes.')
    ] = None,
    price: Annotated[str | None, typer.Option("--price", help="Of one accelerator an hour, in USD: what it costs.")] = None,
    top: Annotated[int, typer.Option("--top", help="Plans to show.")] = 5,
    margin: Annotated[
        float | None,
        typer.Option("--margin", help="Share of the memory that a plan leaves free; by default what is known to fit."),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help='Most memory of an accelerator, such as "60GB".')
    ] = None,
    bound: Bound = False,
    export: Annotated[str | None, exporting("plan alone, for megatron, slurm, torchtitan or deepspeed")] = None,
    tp: Annotated[str | None, _sizes("tp")] = None,
    pp: Annotated[str | None, _sizes("pp")] = None,
    dp: Annotated[str | None, _sizes("dp")] = None,
    cp: Annotated[str | None, _sizes("cp")] = None,
    ep: Annotated[str | None, _sizes("ep")] = None,
    vpp: Annotated[str | None, _sizes("vpp")] = None,
    micro_batch: Annotated[str | None, _sizes("micro-batch")] = None,
    zero: Annotated[str | None, _sizes("zero")] = None,
    **options: Any,
) -> list[Answer]:
    """Search the best plan of a training step: TP x PP x DP x CP x EP x micro-batch x recompute x ZeRO x schedule.

    Says what each other choice would cost. With --from a launch file is the question, and its own plan stands beside the best.
    """
    from mlsysim.core.checks import positive_quantity
    from mlsysim.solvers.recommended import recommended_stack
    from mlsysim.solvers.training.parallelism import ParallelismOptimizer
    from mlsysim.systems.fleet_text import machine_called, machines_listed

    # Before a search, which may take minutes.
    trained = None if tokens is None else count(tokens)
    each_per_hour = None if price is None else positive_quantity("--price", hourly(price), "USD/hour")
    if options.get("stack") is not None:
        options["stack"] = name_of("--stack", options["stack"])
    typed = {"tp": tp, "pp": pp, "dp": dp, "cp": cp, "ep": ep, "vpp": vpp, "micro-batch": micro_batch, "zero": zero}
    fixed = {_DIMENSIONS.get(name, name): whole_numbers(f"--{name}", text) for name, text in typed.items() if text is not None}
    searched: dict[str, Any] = {
        "space": "full",
        "top_k": top,
        "fixed": fixed or None,
        "margin": margin,
        "max_memory": max_memory,
    }
    answers = []
    for name in machines_listed(on, "--on"):
        machine = machine_called(name, "--on")
        if source is None:
            asked = _of_options(model, machine, batch, options)
        else:
            asked = _of_file(launched(source, model, machine, batch, bound, options), machine, options)
        chosen = recommended_stack(asked.workload, asked.fleet, asked.options, "bound" if bound else None)
        stated = chosen.added_to(asked.options)
        result = ParallelismOptimizer().solve(
            asked.workload, asked.fleet, batch_size=asked.batch, progress=False, basis=_basis(stated), **searched, **stated
        )
        figures, data = _figures(result, asked.fleet, tokens, trained, each_per_hour)
        if asked.written is not None and result.best is not None:
            more = float((asked.written.step_latency_total / result.best.step_latency_total).m_as("")) - 1
            fits = "" if asked.written.feasible else ", and does not fit"
            figures["as written"] = f"{value_of(asked.written.step_latency_total)} a step, {more:+.1%}{fits}"
            data["as_written"] = asked.written.to_dict()
        blocks = tuple(_beside(result))
        text = "" if export is None else _exported(export, asked, result, stated)
        answers.append(Answer(name, result, (*chosen.notes, *asked.assumed), figures, blocks, data, exported=text))
    return answers


class _Asked(NamedTuple):
    """What a search is asked: of a line's own options, or of a launch file, whose plan is ``written``."""

    workload: Any
    fleet: Fleet
    batch: int
    options: dict[str, Any]
    assumed: tuple[str, ...]
    written: DistributedResult | None


def _of_options(model: str | None, machine: HardwareNode | Node | Fleet, batch: int | None, options: dict[str, Any]) -> _Asked:
    from mlsysim.systems.fleets import as_fleet

    workload, assumed = model_named(model)
    assumed = (*assumed, *length_assumed(workload, options))
    return _Asked(workload, as_fleet(machine), batch_of(batch), options, assumed, None)


def _of_file(launch: TrainingLaunch, machine: HardwareNode | Node | Fleet, options: dict[str, Any]) -> _Asked:
    from mlsysim.core.options import options as documented
    from mlsysim.launch import answer_training
    from mlsysim.systems.fleets import usual_fleet
    from mlsysim.systems.types import Fleet

    known = fleet_or_chip(machine)
    fleet = known if isinstance(known, Fleet) else usual_fleet(known, launch.accelerators, launch.per_node)
    # What the file leaves open is free; its plan and what it recomputes are what is searched.
    shared = {name: value for name, value in launch.arguments.items() if name in documented(TrainingOptions)}
    for name in ("recompute", "shard_size", "expert_tp_size"):
        if name not in options:
            shared.pop(name, None)
    return _Asked(
        launch.workload, fleet, launch.arguments["batch_size"], shared, launch.assumed, answer_training(launch, fleet)
    )


def _basis(stated: dict[str, Any]) -> str | None:
    """The search takes what was chosen here, so that its notes are said once."""
    return None if stated.get("stack") or stated.get("efficiency") else "bound"


def _exported(target: str, asked: _Asked, result: ParallelismResult, stated: dict[str, Any]) -> str:
    """The best plan as a framework reads it."""
    from mlsysim.launch import export_training, planned_training

    plan = result.require_best().plan
    launch = planned_training(
        asked.workload, asked.fleet.accelerators, plan, batch_size=asked.batch, **{**stated, "recompute": plan["recompute"]}
    )
    return export_training(launch, target)


def _figures(
    result: ParallelismResult, fleet: Fleet, tokens: str | None, trained: float | None, each_per_hour: float | None
) -> tuple[dict[str, str], dict[str, Any]]:
    """What the best plan comes to, for a person and for a program; ``trained`` is the number that ``tokens`` says."""
    best = result.best
    if best is None:
        return {}, {}
    figures = {
        "tokens/s": told(best, "tokens_per_second", best.tokens_per_second),
        "MFU": told(best, "mfu", best.mfu),
        **memory_of(best, fleet.node.accelerator),
        "plans": f"{result.total_legal:,} legal, {result.total_feasible:,} fit",
    }
    data: dict[str, Any] = {}
    rate = None if each_per_hour is None else each_per_hour * fleet.accelerators
    if rate is not None:
        data["usd_per_hour"] = rate
        figures["price"] = f"{rate:,.4g} $/h"
    if trained is not None:
        hours = trained / float(best.tokens_per_second.m_as("count/hour"))
        data["days"] = hours / 24
        figures[f"for {tokens} tokens"] = f"{hours / 24:,.3g} days"
        if rate is not None:
            data["usd"] = rate * hours
            figures[f"for {tokens} tokens"] += (
                f", {data['usd'] / 1e6:,.3g} million $" if data["usd"] > 1e6 else f", {data['usd']:,.0f} $"
            )
    return figures, data


def _beside(result: ParallelismResult) -> Iterator[Table | Notes]:
    """The ranking, and what other choices would cost."""
    if len(result.ranking) > 1:
        rows = [(value_of(row["step_latency"]), value_of(row["memory"]), plan_in_words(row)) for row in result.ranking]
        yield Table(("step", "memory each", "plan"), rows, "The best plans", ("step", "memory each"))
    yield from noted(result.why, OTHER_CHOICES)


plan = answering("plan", planned, SHOWN)
