"""The command ``mlsysim why``: where the time of one plan goes, or of two side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mlsysim.cli.options import flag_of
from mlsysim.cli.output import AsJson, AsMarkdown, Document, Facts, Table, at_work, tell
from mlsysim.cli.results import Answer, code_of, document_of, value_of
from mlsysim.cli.serve import SHOWN as SERVED
from mlsysim.cli.serve import served
from mlsysim.cli.train import SHOWN as TRAINED
from mlsysim.cli.train import trained

BAR = 40


def why(
    context: typer.Context,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Options of another plan, in quotes, in place of the same ones; may be repeated."),
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> int:
    """Show where the time of a training step, or of a token that is served, goes: takes the options of train, or of serve.

    With --against, or several machines, the parts stand side by side.
    """
    words, ask, shown = _asked(context.args)
    plans = [("as asked", words), *((options, [*words, *shlex.split(options)]) for options in against or ())]
    answers: list[tuple[str, Answer]] = []
    with at_work("solving"):
        for called, line in plans:
            found: list[Answer] = _parsed(ask, line)
            answers += [(answer.on if not against else called, answer) for answer in found]
    base = document_of("why", [answer for _, answer in answers], shown)
    data = {**base.data, "plans": [called for called, _ in answers]}
    if len(answers) == 1:
        block, facts = waterfall(answers[0][1]), [one for one in base.blocks if isinstance(one, Facts)]
        document = Document(base.title, [*facts, block], data)
    else:
        document = Document(base.title, [side_by_side(answers, shown), parts_side_by_side(answers)], data)
    tell(document, as_json=as_json, as_markdown=as_markdown)
    return code_of([answer for _, answer in answers])


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
    """The parts of the main figure in seconds; compute at the peak rate stands apart from what kernels lose.

    Args:
        answer: a step, or a token.
    """
    parts = {name.replace("_", " "): float(part.m_as("s")) for name, part in answer.result.breakdown.items() if part.magnitude}
    mfu, step = getattr(answer.result, "mfu", None), getattr(answer.result, "step_latency_total", None)
    if mfu is None or step is None or "compute" not in parts:
        return parts
    least = min(mfu * float(step.m_as("s")), parts["compute"])
    lost = {"kernels below the peak": parts["compute"] - least} if parts["compute"] > 1.000001 * least else {}
    return {"arithmetic at the peak": least, **lost, **{name: part for name, part in parts.items() if name != "compute"}}


def waterfall(answer: Answer) -> Table:
    """The parts one after another, each from where the one before it ends.

    Args:
        answer: a step, or a token.
    """
    from mlsysim.core.units import with_unit

    parts = split_of(answer)
    total, before, body = sum(parts.values()), 0.0, []
    for name, part in parts.items():
        begin, end = (round(BAR * at / total) for at in (before, before + part))
        body.append((name, value_of(with_unit(part, "second")), f"{part / total:.1%}", " " * begin + "#" * (end - begin)))
        before += part
    body.append(("in all", value_of(with_unit(total, "second")), "100.0%", "#" * BAR))
    return Table(("part", "time", "share", ""), body, "Where the time goes", ("time", "share"))


def side_by_side(answers: Sequence[tuple[str, Answer]], shown: dict[str, str]) -> Table:
    """The figures of several plans, a column each.

    Args:
        answers: with what each is called.
        shown: the fields that are shown, by what they are called.
    """
    rows = [("runs", *("it fits" if answer.result.feasible else "INFEASIBLE" for _, answer in answers))]
    for name, called in shown.items():
        values = [getattr(answer.result, name, None) for _, answer in answers]
        if any(value is not None for value in values):
            rows.append((called, *("-" if value is None else value_of(value) for value in values)))
    return Table(("", *(called for called, _ in answers)), rows)


def parts_side_by_side(answers: Sequence[tuple[str, Answer]]) -> Table:
    """The parts of several plans, and how much more time than the first each other takes.

    Args:
        answers: with what each is called.
    """
    from mlsysim.core.units import with_unit

    split = [split_of(answer) for _, answer in answers]
    split = [{**parts, "in all": sum(parts.values())} for parts in split]
    names = list(dict.fromkeys(name for parts in split for name in parts if name != "in all"))
    body = []
    for name in (*names, "in all"):
        first, *others = (parts.get(name, 0.0) for parts in split)
        cells = [value_of(with_unit(first, "second")) if first else "-"]
        for other in others:
            more = value_of(with_unit(abs(other - first), "second"))
            sign = "+" if other >= first else "-"
            cells += [value_of(with_unit(other, "second")) if other else "-", f"{sign}{more}" if other != first else "same"]
        body.append((name, *cells))
    header = ["part", answers[0][0]]
    for called, _ in answers[1:]:
        header += [called, "difference"]
    return Table(header, body, "Where the time goes", header[1:])
