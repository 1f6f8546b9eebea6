"""Two results side by side, term by term: ``compare``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import pint

from mlsysim.core.checks import instance
from mlsysim.core.errors import InconsistentError
from mlsysim.solvers.card import counted_in
from mlsysim.solvers.result import Result
from mlsysim.solvers.shown import shown

FIGURE, PART = "figure", "part"


@dataclass(frozen=True)
class Term:
    """A figure of both results, or a part of their breakdowns.

    Attributes:
        name: the field, or the part.
        kind: ``FIGURE`` or ``PART``.
        first, second: what each result says; None where it has no such part.
        texts: both as people write them.
        change: the second over the first, less one; of a part, what it adds to the whole of the first; None of what is no
            number, and of a plan's entries.
    """

    name: str
    kind: str
    first: Any
    second: Any
    texts: tuple[str, str]
    change: float | None


@dataclass(frozen=True)
class Comparison:
    """Two results of one solver, term by term; printed, a table.

    Attributes:
        first, second: the results.
        terms: figures of the headline, with the entries of plans that differ, then the parts of the breakdown.
    """

    first: Result
    second: Result
    terms: tuple[Term, ...]

    def __str__(self) -> str:
        header = ("", "first", "second", "change")
        rows = [(term.name.replace("_", " "), *term.texts, _percent(term)) for term in self.terms]
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(4)]
        about = [
            f"{place}: {one.solver}: {one.subject} ({_state(one)})" for place, one in zip(header[1:], _both(self), strict=False)
        ]
        lines: list[str] = []
        for term, row in zip((None, *self.terms), (header, *rows), strict=True):
            if term is not None and term.kind == PART and not any(line.startswith("breakdown") for line in lines):
                lines.append("breakdown")
            cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append(f"  {row[0]:<{widths[0]}}  {'  '.join(cells)}".rstrip())
        return "\n".join([*about, *lines])

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        body = "".join(
            f"<tr><td>{escape(term.name.replace('_', ' '))}</td>"
            + "".join(f"<td>{escape(text)}</td>" for text in (*term.texts, _percent(term)))
            + "</tr>"
            for term in self.terms
        )
        titles = "<br>".join(escape(f"{one.solver}: {one.subject} ({_state(one)})") for one in _both(self))
        return f"<div>{titles}<table><tr><th></th><th>first</th><th>second</th><th>change</th></tr>{body}</table></div>"

    def to_dict(self) -> dict[str, Any]:
        """Both results and the change of each term, as plain values."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "changes": {term.name: term.change for term in self.terms},
        }


def compare(first: Result, second: Result) -> Comparison:
    """Put two results of the same solver side by side, term by term.

    Args:
        first: what is compared with.
        second: what is compared.

    Returns:
        The figures of their headlines and the parts of their breakdowns, each with how much it changes; printed, a table.

    Raises:
        InputError: one is no result, or they are of different solvers.

    Example:
        >>> from mlsysim import Hardware, Models, ServingModel
        >>> load = dict(input_len=1024, output_len=256, batch_size=8, stack="vllm-2025")
        >>> cards = Hardware.Cloud.H100, Hardware.Cloud.H200
        >>> runs = [ServingModel().solve(Models.Language.Llama3_8B, card, **load) for card in cards]
        >>> changes = compare(*runs).to_dict()["changes"]
        >>> changes["itl"] < 0 < changes["tokens_per_second"]
        True
    """
    for name, value in (("first", first), ("second", second)):
        instance(name, value, Result, "a result of a solver")
    if type(first) is not type(second):
        raise InconsistentError("second", second.solver, f"a result of {first.solver}, as the first is")
    return Comparison(first, second, (*_figures(first, second), *_parts(first, second)))


def _figures(first: Result, second: Result) -> Iterator[Term]:
    for name in first.HEADLINE:
        one, other = getattr(first, name), getattr(second, name)
        counted = counted_in(first, name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            for key in dict.fromkeys((*one, *other)):
                if one.get(key) != other.get(key):
                    yield replace(_figure(str(key), one.get(key), other.get(key), counted), change=None)
        elif one is not None or other is not None:
            yield _figure(name, one, other, counted)


def _figure(name: str, one: Any, other: Any, counted: str) -> Term:
    texts = ["-" if value is None else shown(value, counted) for value in (one, other)]
    before, after = _number(one), _number(other)
    change = after / before - 1 if before and after is not None else None
    return Term(name, FIGURE, one, other, (texts[0], texts[1]), change)


def _parts(first: Result, second: Result) -> Iterator[Term]:
    whole = sum(float(part.magnitude) for part in first.breakdown.values())
    for name in dict.fromkeys((*first.breakdown, *second.breakdown)):
        values = first.breakdown.get(name), second.breakdown.get(name)
        sizes = [0.0 if value is None else float(value.magnitude) for value in values]
        if any(sizes):
            counted = first.COUNTED.get("breakdown", "")
            texts = tuple("-" if not size else shown(value, counted) for size, value in zip(sizes, values, strict=True))
            yield Term(name, PART, *values, (texts[0], texts[1]), (sizes[1] - sizes[0]) / whole if whole else None)


def _number(value: Any) -> float | None:
    """A field's number in base units; None of what is no number."""
    if isinstance(value, pint.Quantity):
        return float(value.magnitude)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _percent(term: Term) -> str:
    if term.change is None:
        return ""
    # Adding nought takes the sign off a rounded nought.
    percent = round(100 * term.change, 1) + 0.0
    return f"{percent:+.1f} %" + (" of the whole" if term.kind == PART else "")


def _state(result: Result) -> str:
    named = "" if result.facts is None or not result.facts.stack else f", {result.facts.stack}"
    return f"{result.basis}{named}{'' if result.feasible else ', INFEASIBLE'}"


def _both(comparison: Comparison) -> tuple[Result, Result]:
    return comparison.first, comparison.second
