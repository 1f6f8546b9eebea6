"""Results of solvers as documents: one with its parts, several side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mlsysim.cli.exits import HOLDS, INFEASIBLE
from mlsysim.cli.output import Code, Document, Facts, Notes, Table, at_work, tell, with_output
from mlsysim.core.errors import InconsistentError

if TYPE_CHECKING:
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.solvers.result import Result
    from mlsysim.solvers.serving.capacity import CapacityResult

BAR = 24
# Parts below this share of the whole are rounding.
LEAST = 1e-6
# What a search says beside its best plan.
OTHER_CHOICES = "What other choices would cost"
_UNITS = {"count/s": "", " count": ""}
# The fields that a command shows, by what it calls them; a field that a result does not have, or that is None, is left out.
Shown = Mapping[str, str]

# Answers that --plot draws as the parts of their time, and those that it draws as what can be had for what.
WATERFALL, PARETO = ("train", "serve", "why"), ("capacity",)
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Draw the answer to a file, .png, .svg or .pdf.", rich_help_panel="Output")
]


def draw(command: str, results: Sequence[Result], path: Path) -> None:
    """Draw the answers of a command to a file.

    Raises:
        MLSysError: matplotlib is missing, the file cannot be, or the answers are none that can be drawn.
    """
    from mlsysim import plots
    from mlsysim.plots.figure import picture_path

    picture_path(path)
    if command in WATERFALL:
        figure = plots.waterfall(*results)
    else:
        if not results[0].feasible:
            raise InconsistentError("--plot", str(path), "a load that some deployment serves within its limits")
        figure = plots.pareto(cast("CapacityResult", results[0]))
    plots.save(figure, path)


@dataclass(frozen=True)
class Answer:
    """A solver's answer about one machine.

    Attributes:
        on: the machine, as it was typed.
        result: the answer.
        notes: what was chosen or assumed for it.
        figures: further figures by their names, as they are told.
        blocks: what else is told of it, where it is the only one.
        data: what else a program is told.
        without: fields that say nothing here.
        exported: what a framework or an engine reads, to be told alone.
    """

    on: str
    result: Result
    notes: tuple[str, ...] = ()
    figures: Mapping[str, str] = field(default_factory=dict)
    blocks: Sequence[Facts | Table | Notes | Code] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    without: Collection[str] = ()
    exported: str = ""


def answering(command: str, ask: Callable[..., list[Answer]], shown: Shown) -> Callable[..., int]:
    """Make a command of a function that answers: it tells the fields ``shown``, and returns whether an answer can run.

    Its signature is the function's, with the options of the output.
    """

    def answered(*, as_json: bool, as_markdown: bool, plot: Path | None = None, **arguments: Any) -> int:
        with at_work("solving"):
            answers = ask(**arguments)
            if plot is not None:
                draw(command, [answer.result for answer in answers], plot)
        document = document_of(command, answers, shown)
        exported = "\n\n".join(answer.exported for answer in answers if answer.exported)
        if exported:
            data = {**document.data, "exported": exported}
            document = Document("", [Code(f"{exported}\n", "")], data)
        tell(document, as_json=as_json, as_markdown=as_markdown)
        return code_of(answers)

    return with_output(answered, ask, **({"plot": Plot} if command in (*WATERFALL, *PARETO) else {}))


def code_of(answers: Sequence[Answer]) -> int:
    """The exit code of answers: whether one of them at least can run."""
    return HOLDS if any(answer.result.feasible for answer in answers) else INFEASIBLE


def document_of(command: str, answers: Sequence[Answer], shown: Shown) -> Document:
    """Answers as a document: one with its parts and what it rests on, several as columns of a table."""
    data = {"command": command, "answers": [_plain(answer) for answer in answers]}
    if len(answers) == 1:
        (answer,) = answers
        parts = [parts_of(answer)] if _of_time(answer.result) else []
        blocks = [Facts(list(_facts(answer, shown))), *parts, *answer.blocks, *noted(_notes(answer))]
        return Document(answer.result.subject, blocks, data)
    rows = [dict(_compared(answer, shown)) for answer in answers]
    names = list(dict.fromkeys(name for row in rows for name in row))
    header = ("", *(answer.on for answer in answers))
    table = Table(header, [(name, *(row.get(name, "-") for row in rows)) for name in names])
    notes = [f"{answer.on}: {note}" for answer in answers for note in _notes(answer)]
    subject = answers[0].result.subject.split(" on ")[0]
    return Document(subject, [table, *noted(notes)], data)


def _of_time(result: Result) -> bool:
    """Whether the parts of a result are times; of an answer without any there is nothing to show."""
    return bool(result.breakdown) and all(part.check("[time]") for part in result.breakdown.values())


def noted(lines: Sequence[str], title: str = "Notes") -> list[Notes]:
    """The lines as a block; none where there are no lines."""
    return [Notes(lines, title)] if lines else []


def _plain(answer: Answer) -> dict[str, Any]:
    return {"on": answer.on, **answer.result.to_dict(), **answer.data, "notes": list(answer.notes)}


def _facts(answer: Answer, shown: Shown) -> Iterator[tuple[str, str]]:
    """The lines of one answer: those that stand beside others', and what its intervals rest on."""
    yield from _compared(answer, shown)
    if answer.result.interval is not None:
        yield "interval", _rests_on(answer.result)


def _compared(answer: Answer, shown: Shown) -> Iterator[tuple[str, str]]:
    """The rows of one answer among several."""
    result = answer.result
    yield "runs", "it fits" if result.feasible else f"INFEASIBLE: {result.reason}"
    yield from _figures(answer, shown)
    yield "binds", result.binding
    yield "basis", _basis(result)


def _figures(answer: Answer, shown: Shown) -> Iterator[tuple[str, str]]:
    for name, called in shown.items():
        value = getattr(answer.result, name, None)
        nothing = value is None or (isinstance(value, Mapping) and not value)
        if not nothing and name not in answer.without:
            yield called, told(answer.result, name, value)
    yield from answer.figures.items()


def told(result: Result, name: str, value: Any) -> str:
    """A figure as people write it, with its interval where it has one."""
    interval = result.interval_of(name)
    if isinstance(value, float) and name.endswith("mfu"):
        return f"{value:.1%}" + (f" ({100 * interval.low:.3g}-{100 * interval.high:.3g} %)" if interval is not None else "")
    return value_of(value) + (f" ({interval.range})" if interval is not None else "")


def value_of(value: Any) -> str:
    """A value as people write it: counts and their rates, whose names say what is counted, without a unit."""
    from mlsysim.solvers.shown import shown

    if isinstance(value, Mapping):
        return plan_in_words(value)
    text = shown(value)
    for unit, plain in _UNITS.items():
        text = text.replace(unit, plain)
    return text.strip()


def memory_of(result: Any, accelerator: HardwareNode) -> dict[str, str]:
    """What a plan or a deployment needs of an accelerator's memory, as a figure."""
    needed, capacity = result.memory_per_accelerator, accelerator.memory.capacity.to("GB")
    free = getattr(result, "memory_free", None)
    spare = f", {value_of(free)} free" if free is not None and free.magnitude else ""
    return {"memory each": f"{value_of(needed)} of {value_of(capacity)}{spare}"}


def plan_in_words(plan: Mapping[str, Any]) -> str:
    """A parallel plan in the field's words; dimensions that it does not split are left out.

    Example:
        >>> plan_in_words({"tp": 8, "pp": 4, "dp": 16, "cp": 1, "micro_batches": 64, "zero_stage": 1, "recompute": "none"})
        'TP 8 x PP 4 x DP 16; 64 micro-batches; ZeRO 1; recompute none'
    """
    split = [f"{name.upper()} {plan[name]}" for name in ("tp", "pp", "cp", "ep", "dp") if plan.get(name, 1) > 1]
    parts = [" x ".join(split) or "one accelerator"]
    if "micro_batches" in plan:
        tokens = f" of {plan['micro_batch_tokens']:,} tokens" if "micro_batch_tokens" in plan else ""
        parts.append(f"{plan['micro_batches']} micro-batches{tokens}")
    if plan.get("virtual_stages", 1) > 1:
        parts.append(f"{plan['virtual_stages']} chunks a stage")
    parts += [f"{plan['schedule']}"] if plan.get("pp", 1) > 1 and "schedule" in plan else []
    parts += [f"ZeRO {plan['zero_stage']}"] if "zero_stage" in plan else []
    parts += ["sequence parallel"] if plan.get("sequence_parallel") else []
    parts += [f"recompute {plan['recompute']}"] if "recompute" in plan else []
    return "; ".join(parts)


def _basis(result: Result) -> str:
    stack = "" if result.facts is None else result.facts.stack
    if result.basis == "bound":
        return "bound: physics and datasheets alone; real runs are slower"
    return f"{result.basis}: {stack}" if stack else result.basis


def _rests_on(result: Result) -> str:
    interval = result.interval
    if interval is None:
        return ""
    scope = f"{interval.runs:,} runs of {interval.scope}"
    if interval.scope.startswith("no "):
        scope = f"{interval.scope}, {interval.runs:,} runs"
    half, most = (f"{100 * share:.1f} %" for share in (interval.median, interval.p90))
    elsewhere = f"; of somebody who has published nothing: {interval.elsewhere}" if interval.elsewhere else ""
    return f"{scope}: half within {half}, nine in ten within {most}{elsewhere}"


def parts_of(answer: Answer) -> Table:
    """What the main figure is made of, with bars."""
    parts = {name: float(part.magnitude) for name, part in answer.result.breakdown.items()}
    total = sum(parts.values())
    body = [
        (
            name.replace("_", " "),
            value_of(answer.result.breakdown[name]),
            f"{part / total:.1%}",
            "#" * round(BAR * part / total),
        )
        for name, part in parts.items()
        if part > LEAST * total
    ]
    return Table(("part", "time", "share", ""), body, "Where it goes", ("time", "share"))


def _notes(answer: Answer) -> list[str]:
    """What to know of an answer; an argument of a solver that a note names is an option here."""
    notes = [note.replace('basis="bound" is', "--bound asks for") for note in (*answer.notes, *answer.result.diagnostics)]
    return notes if answer.result.feasible else ["the figures are what would hold if it could run", *notes]
