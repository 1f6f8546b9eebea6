"""The command ``mlsysim check``: whether scenarios keep their limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlsysim.cli.exits import FAILS, HOLDS, INFEASIBLE
from mlsysim.cli.output import AsJson, AsMarkdown, Document, Facts, Table, tell

if TYPE_CHECKING:
    from mlsysim.scenarios.scorecard import Scorecard

_HEADER = ("question", "limit", "predicted", "90 % of measurements", "")


def check(
    file: Annotated[Path, typer.Argument(metavar="SCENARIO.toml", help="A scenario, or several questions in one file.")],
    changes: Annotated[bool, typer.Option("--changes", help="Also tell what would help most.")] = False,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> int:
    """Ask a file of questions, and tell a line for each limit: what is predicted, its interval, and whether it holds."""
    from mlsysim.scenarios.files import scenarios_in
    from mlsysim.scenarios.scorecard import scorecard

    cards = [scorecard(scenario, with_changes=changes) for scenario in scenarios_in(file)]
    blocks: list[Facts | Table] = [Table(_HEADER, [line for card in cards for line in _lines(card)])]
    if changes:
        blocks += [Facts(card.rows(), title=card.name) for card in cards]
    code = _exit_code(cards)
    data = {"command": "check", "file": str(file), "exit_code": code, "questions": [card.to_dict() for card in cards]}
    tell(Document(str(file), blocks, data), as_json=as_json, as_markdown=as_markdown)
    return code


def _exit_code(cards: list[Scorecard]) -> int:
    if not all(card.feasible for card in cards):
        return INFEASIBLE
    return HOLDS if all(card.holds for card in cards) else FAILS


def _lines(card: Scorecard) -> list[Sequence[str]]:
    if not card.feasible:
        return [(card.name, "can run", "", "", f"INFEASIBLE: {card.answer.reason}")]
    if not card.verdicts:
        return [(card.name, "can run", "", "", "holds")]
    told: list[Sequence[str]] = []
    for verdict in card.verdicts:
        figure = verdict.figure
        word = "holds" if verdict.holds else "FAILS"
        doubt = "" if verdict.sure is not False else ", not for all"
        value, interval = ("", "") if figure is None else (figure.shown, figure.interval)
        told.append((card.name, verdict.limit.text, value, interval, f"{word}{doubt}"))
    return told
