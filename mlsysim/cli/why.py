"""The command ``mlsysim why``: where the time of one plan goes, or of two side by side."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from mlsysim.cli.options import flag_of
from mlsysim.cli.output import AsJson, AsMarkdown, Table, at_work, tell
from mlsysim.cli.results import LEAST, Answer, Plot, code_of, document_of, draw, value_of
from mlsysim.cli.serve import SHOWN as SERVED
from mlsysim.cli.serve import served
from mlsysim.cli.train import SHOWN as TRAINED
from mlsysim.cli.train import trained
from mlsysim.core.errors import InputError

BAR = 40


def why(
    context: typer.Context,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Options of another plan, in quotes, in place of the same ones; may be repeated."),
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
    plot: Plot = None,
) -> int:
    """Show where the time of a training step, or of a token that is served, goes: takes the options of train, or of serve.

    With --against, or several machines, the parts stand side by side.
    """
    words, ask, shown = _asked(context.args)
    plans = [("as asked", words), *((options, [*words, *_split(options)]) for options in against or ())]
    answers: list[Answer] = []
    with at_work("solving"):
        for called, line in plans:
            answers += [answer if against is None else replace(answer, on=called) for answer in _parsed(ask, line)]
        if plot is not None:
            draw("why", [answer.result for answer in answers], plot)
    told = document_of("why", answers, shown)
    if len(answers) == 1:
        blocks = [waterfall(answers[0]) if isinstance(block, Table) else block for block in told.blocks]
    else:
        blocks = [told.blocks[0], parts_side_by_side(answers), *told.blocks[1:]]
    tell(replace(told, blocks=blocks), as_json=as_json, as_markdown=as_markdown)
    return code_of(answers)


def _split(options: str) -> list[str]:
    """The words of another plan's options, as a shell parts them."""
    try:
        return shlex.split(options)
    except ValueError as error:
        raise InputError("--against", options, f"options as a shell reads them: {str(error).lower()}") from None


def _asked(words: Sequence[str]) -> tuple[list[str], Any, dict[str, str]]:
    """The words without the command that they may begin with, what answers them, and the fields that are shown."""
    if words[:1] in (["train"], ["serve"]):
        kind, words = words[0], words[1:]
    else:
        flags = {word.partition("=")[0] for word in words}
        kind = "serve" if flags & {"--engine", *map(flag_of, ("input_len", "output_len"))} else "train"
    return list(words), *((served, SERVED) if kind == "serve" else (trained, TRAINED))


def _parsed(ask: Any, words: list[str]) -> Any:
    app = typer.Typer(add_completion=False)
    app.command()(ask)
    return typer.main.get_command(app)(args=words, prog_name="mlsysim why", standalone_mode=False)


def split_of(answer: Answer) -> dict[str, float]:
    """The parts of the main figure in seconds; compute at the peak rate stands apart from what kernels lose."""
    every = {name.replace("_", " "): float(part.m_as("s")) for name, part in answer.result.breakdown.items()}
    parts = {name: part for name, part in every.items() if part > LEAST * sum(every.values())}
    mfu, step = getattr(answer.result, "mfu", None), getattr(answer.result, "step_latency_total", None)
    if mfu is None or step is None or "compute" not in parts:
        return parts
    least = min(mfu * float(step.m_as("s")), parts["compute"])
    lost = {"kernels below the peak": parts["compute"] - least} if parts["compute"] > 1.000001 * least else {}
    return {"arithmetic at the peak": least, **lost, **{name: part for name, part in parts.items() if name != "compute"}}


def waterfall(answer: Answer) -> Table:
    """The parts one after another, each from where the one before it ends."""
    parts = split_of(answer)
    total, before, body = sum(parts.values()), 0.0, []
    for name, part in parts.items():
        begin, end = (round(BAR * at / total) for at in (before, before + part))
        body.append((name, _seconds(part), f"{part / total:.1%}", " " * begin + "#" * (end - begin)))
        before += part
    body.append(("in all", _seconds(total), "100.0%", "#" * BAR))
    return Table(("part", "time", "share", ""), body, "Where the time goes", ("time", "share"))


def parts_side_by_side(answers: Sequence[Answer]) -> Table:
    """The parts of several plans, and how much more time than the first each other takes."""
    split = [{**parts, "in all": sum(parts.values())} for parts in map(split_of, answers)]
    names = list(dict.fromkeys(name for parts in split for name in parts if name != "in all"))
    body = []
    for name in (*names, "in all"):
        first, *others = (parts.get(name, 0.0) for parts in split)
        body.append((name, _seconds(first), *(cell for other in others for cell in (_seconds(other), _more(first, other)))))
    header = ["part", answers[0].on, *(cell for answer in answers[1:] for cell in (answer.on, "difference"))]
    return Table(header, body, "Where the time goes", header[1:])


def _seconds(part: float) -> str:
    from mlsysim.core.units import with_unit

    return value_of(with_unit(part, "second")) if part else "-"


def _more(first: float, other: float) -> str:
    if math.isclose(first, other, rel_tol=1e-9):
        return "same"
    return f"{'+' if other > first else '-'}{_seconds(abs(other - first))}"
