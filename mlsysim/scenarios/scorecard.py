"""The scorecard of a scenario: what it comes to on one page."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlsysim.scenarios.changes import Asked, Change, best_changes
from mlsysim.scenarios.figures import Figure
from mlsysim.scenarios.limits import Limit
from mlsysim.solvers.result import Result

# What a card shows of the figures that there are, in this order.
_SHOWN = (
    *("step_latency_total", "mfu", "itl", "ttft", "ttft_p99", "latency_p99", "utilization"),
    *("tokens_per_second", "requests_per_second", "memory_per_accelerator", "power", "energy"),
    *("failures", "goodput", "days", "cost_per_hour", "cost_per_million", "cost", "run_energy", "carbon"),
)


@dataclass(frozen=True)
class Verdict:
    """A limit, and whether it holds.

    Attributes:
        limit: what is to hold.
        figure: what is predicted; None where the scenario cannot run.
        holds: whether it does.
        sure: whether all of the figure's interval says the same; None without one.
    """

    limit: Limit
    figure: Figure | None
    holds: bool
    sure: bool | None

    @property
    def text(self) -> str:
        """The verdict in a line."""
        if self.figure is None:
            return f"{self.limit.text}: fails, it cannot run"
        doubt = "" if self.sure is not False else ", but not all of its interval"
        return f"{self.limit.text}: {'holds' if self.holds else 'FAILS'}{doubt}, {self.figure.text}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        figure = None if self.figure is None else self.figure.to_dict()
        return {"limit": self.limit.text, "holds": self.holds, "sure": self.sure, "figure": figure}


@dataclass(frozen=True)
class Scorecard:
    """What a scenario comes to.

    Attributes:
        name: of the scenario.
        answer: the solver's result.
        figures: what is shown.
        verdicts: the limits, and whether they hold.
        changes: what would help most, each as the solver finds it.
        notes: what a reader should know of the answer.
    """

    name: str
    answer: Result
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        """Whether it can run at all."""
        return self.answer.feasible

    @property
    def holds(self) -> bool:
        """Whether it can run and keeps every limit."""
        return self.feasible and all(verdict.holds for verdict in self.verdicts)

    def rows(self) -> list[tuple[str, str]]:
        """The card's lines, each a name and what is told."""
        state = "feasible" if self.feasible else f"INFEASIBLE: {self.answer.reason}"
        told = [("can it run", state), ("rests on", self.answer.basis), ("binding", self.answer.binding)]
        told += [(figure.name.replace("_", " "), _noted(figure)) for figure in self.figures]
        told += [("limit", verdict.text) for verdict in self.verdicts]
        told += [("would help", str(change)) for change in self.changes]
        return told + [("note", note) for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The card as plain values."""
        return {
            "name": self.name,
            "feasible": self.feasible,
            "holds": self.holds,
            "reason": self.answer.reason,
            "basis": self.answer.basis,
            "binding": self.answer.binding,
            "figures": [figure.to_dict() for figure in self.figures],
            "limits": [verdict.to_dict() for verdict in self.verdicts],
            "changes": [change.to_dict() for change in self.changes],
            "notes": list(self.notes),
            "answer": self.answer.to_dict(),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.name, *(f"  {name:<{width}}  {told}" for name, told in rows)])

    def _repr_html_(self) -> str:
        lines = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(told)}</td></tr>" for name, told in self.rows())
        return f"<table><caption>{html.escape(self.name)}</caption>{''.join(lines)}</table>"


def _noted(figure: Figure) -> str:
    return f"{figure.text}, {figure.note}" if figure.note else figure.text


def scorecard(scenario: Asked, *, with_changes: bool = True) -> Scorecard:
    """Make the scorecard of a scenario, with or without what would help.

    Raises:
        InputError: an argument of the scenario is wrong, or a limit names no figure.
    """
    answer, known = scenario.answer, scenario.figures
    verdicts = tuple(verdict(limit, known, answer.feasible) for limit in scenario.limits)
    missed = tuple(one.limit for one in verdicts if not one.holds)
    return Scorecard(
        name=scenario.name,
        answer=answer,
        figures=_chosen(known) if answer.feasible else (),
        verdicts=verdicts,
        changes=best_changes(scenario, missed) if with_changes else (),
        notes=tuple(dict.fromkeys((*scenario.notes, *answer.diagnostics))),
    )


def _chosen(known: dict[str, Figure]) -> tuple[Figure, ...]:
    return tuple(known[name] for name in _SHOWN if name in known)


def verdict(limit: Limit, known: dict[str, Figure], feasible: bool) -> Verdict:
    """Tell whether a limit holds.

    Raises:
        InputError: no figure has the limit's name, or the limit is in another unit.
    """
    if not feasible:
        return Verdict(limit, None, holds=False, sure=None)
    limit.known_among(sorted(known))
    figure = known[limit.name]
    holds = limit.holds(figure.value)
    ends: Sequence[Any] = () if figure.low is None else (figure.low, figure.high)
    return Verdict(limit, figure, holds, all(limit.holds(end) == holds for end in ends) if ends else None)
