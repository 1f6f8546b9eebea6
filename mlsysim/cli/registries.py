"""The command ``mlsysim list``: what can be named, with what is known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from mlsysim.cli.output import AsJson, AsMarkdown, Document, Table, tell
from mlsysim.core.checks import looked_up
from mlsysim.core.errors import UnknownNameError, or_nearest
from mlsysim.core.names import folded


class Listed(NamedTuple):
    """One entry: its columns by their names, and other names by which a word finds it."""

    columns: dict[str, Any]
    also: Sequence[str] = ()

    def names(self) -> list[str]:
        """The texts by which a word finds it."""
        return [*(value for value in self.columns.values() if isinstance(value, str)), *self.also]


def entries(
    what: Annotated[
        str, typer.Argument(help="One of hardware, models, systems, stacks and engines.", autocompletion=lambda: list(KINDS))
    ],
    word: Annotated[str, typer.Argument(help="Only those that have it in a name.")] = "",
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """List the accelerators, models, systems, training stacks or serving engines that can be named.

    Any published spelling of a name does. Figures are how many published measurements predictions are compared with.
    """
    listed = list(looked_up("what", what, KINDS)())
    wanted = folded(word)
    rows = [one.columns for one in listed if any(wanted in folded(name) for name in one.names())]
    if not rows:
        names = [str(one.columns["name"]) for one in listed]
        error = UnknownNameError("word", word, f"a part of a name of {what}")
        error.args = (f"none of {what} has {word!r} in its name{or_nearest(word, names)}",)
        raise error
    numbers = [name for name in rows[0] if not any(isinstance(row[name], str) for row in rows)]
    table = Table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows], numbers=numbers)
    title = f"{len(rows)} of {len(listed)} {what}" if word else f"{len(listed)} {what}"
    tell(
        Document(title, [table], {"command": "list", "what": what, "word": word, "entries": rows}),
        as_json=as_json,
        as_markdown=as_markdown,
    )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _hardware() -> Iterator[Listed]:
    from mlsysim.calibration.evidence import measured_runs
    from mlsysim.hardware.registry import Hardware

    figures = Counter(run.facts.accelerator for run in measured_runs())
    names = Hardware.spellings()
    for symbol, each, spelt in zip(Hardware.names(), Hardware, names.values(), strict=True):
        yield Listed(
            {
                "name": symbol,
                "full name": each.name,
                "year": "" if each.release_year is None else str(each.release_year),
                "memory GiB": each.memory_capacity_B / 2**30,
                "memory TB/s": each.memory_bandwidth_Bps / 1e12,
                "peak TFLOP/s": each.compute.peak_flops.m_as("TFLOP/s"),
                "figures": figures[each.name],
            },
            spelt,
        )


def _models() -> Iterator[Listed]:
    from mlsysim.models.registry import Models
    from mlsysim.models.types import TransformerWorkload

    for symbol, each, spelt in zip(Models.names(), Models, Models.spellings().values(), strict=True):
        active = each.active_parameters if isinstance(each, TransformerWorkload) else each.parameter_count
        yield Listed(
            {
                "name": symbol,
                "full name": each.name,
                "kind": each.kind,
                "parameters": _count(each.parameter_count),
                "active": _count(active),
                "layers": getattr(each, "layers", None),
                "context": getattr(each, "max_seq_len", None),
            },
            spelt,
        )


def _count(number: float) -> str:
    """A number of parameters as people write it.

    Example:
        >>> _count(70.6e9), _count(1.03e12), _count(22e6)
        ('70.6 B', '1.03 T', '22 M')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def _systems() -> Iterator[Listed]:
    from mlsysim.core.units import in_unit
    from mlsysim.systems.registry import Systems

    nodes = Systems.Nodes
    for symbol, each, spelt in zip(nodes.names(), nodes, nodes.spellings().values(), strict=True):
        network_GBps = None if each.network_bw is None else in_unit(each.network_bw, "GB/s")
        yield Listed(
            {
                "name": symbol,
                "full name": each.name,
                "accelerator": each.accelerator.name,
                "count": each.accelerators_per_node,
                "links GB/s": each.intra_bandwidth_Bps / 1e9,
                "network GB/s": network_GBps,
            },
            spelt,
        )


def _stacks() -> Iterator[Listed]:
    from mlsysim.calibration.stacks import stack_names

    return _measured(stack_names(), "DistributedModel")


def _engines() -> Iterator[Listed]:
    from mlsysim.calibration.engines import engine_names

    return _measured(engine_names(), "ServingModel")


def _measured(names: Sequence[str], solver: str) -> Iterator[Listed]:
    """Stacks or engines, with how far off published runs of each are."""
    from mlsysim.calibration.evidence import WHOLE, MeasuredRun, measured_runs
    from mlsysim.calibration.intervals import spread_of

    runs: dict[str, list[MeasuredRun]] = {name: [] for name in names}
    for run in measured_runs():
        if (run.solver, run.quantity) == (solver, WHOLE) and run.facts.stack in runs:
            runs[run.facts.stack].append(run)
    for name, measured in runs.items():
        errors = spread_of(measured) if measured else None
        yield Listed(
            {
                "name": name,
                "figures": len(measured),
                "median error %": None if errors is None else round(100 * errors.median, 1),
                "90 % within %": None if errors is None else round(100 * errors.p90, 1),
                "on": ", ".join(sorted({run.facts.accelerator for run in measured})),
            }
        )


KINDS: dict[str, Callable[[], Iterator[Listed]]] = {
    "hardware": _hardware,
    "models": _models,
    "systems": _systems,
    "stacks": _stacks,
    "engines": _engines,
}
