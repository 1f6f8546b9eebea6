"""The card of a result: what a person reads of it first, as text in a terminal and as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

import pint

from mlsysim.solvers.interval import is_speed
from mlsysim.solvers.shown import shown

# What a count of a field counts, by a word of its name.
_COUNTED = ("tokens", "requests", "samples", "images", "accelerators", "parameters")
_BASES = {
    "bound": "bound: physics and datasheets alone, which no real run reaches",
    "efficiency": "efficiency: the share of the peak that the caller states",
}


class Part(NamedTuple):
    """A part of a breakdown: its name, its size as people write it, and its share of the whole."""

    name: str
    size: str
    share: float


class Card(NamedTuple):
    """What a card says, one thing below the other.

    Attributes:
        title: the solver and the question.
        state: whether it can run, and why not.
        basis: what the numbers rest on.
        headline: the main figures, each by its name.
        parts: what the main figure consists of; those that are nothing are left out.
        remarks: what binds, where the result was measured elsewhere, and notes, each by what it is.
    """

    title: str
    state: str
    basis: str
    headline: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]
    remarks: tuple[tuple[str, str], ...]


def card_of(result: Any) -> Card:
    """The card of a ``Result``."""
    named = [(name, getattr(result, name)) for name in result.HEADLINE]
    return Card(
        title=f"{result.solver}: {result.subject}",
        state="feasible" if result.feasible else f"INFEASIBLE: {result.reason}",
        basis=_basis(result),
        headline=tuple((_words(name), told(result, name, value)) for name, value in named if value is not None and value != {}),
        parts=tuple(_parts(result)),
        remarks=tuple(_remarks(result)),
    )


def as_text(card: Card) -> str:
    """The card as lines of text: infeasibility first, then the headline, the breakdown and what binds."""
    lines = [card.title, f"  {card.state}", f"  basis     {card.basis}"]
    width = max((len(name) for name in (*(name for name, _ in card.headline), *(part.name for part in card.parts))), default=0)
    lines += [f"  {name:<{width}}  {text}" for name, text in card.headline]
    if card.parts:
        lines.append("  breakdown")
        lines += [f"    {part.name:<{width}}  {part.size:>12}  {part.share:6.1%}" for part in card.parts]
    return "\n".join(lines + [f"  {kind:<9} {text}" for kind, text in card.remarks])


def as_html(card: Card) -> str:
    """The card as HTML: what a notebook shows."""
    cell = '<td style="text-align:left">'
    rows = [
        f"<tr>{cell}{escape(name)}</td>{cell}{escape(text)}</td></tr>" for name, text in (("basis", card.basis), *card.headline)
    ]
    for part in card.parts:
        bar = f'<div style="background:#0072B2;height:0.7em;width:{12 * part.share:.2f}em;display:inline-block"></div>'
        size = f"{escape(part.size)} &nbsp;{part.share:.1%} {bar}"
        rows.append(f"<tr>{cell}&nbsp;&nbsp;{escape(part.name)}</td>{cell}{size}</td></tr>")
    rows += [f"<tr>{cell}{escape(kind)}</td>{cell}{escape(text)}</td></tr>" for kind, text in card.remarks]
    colour = "#0a7d3c" if card.state == "feasible" else "#b00020"
    head = f'<b>{escape(card.title)}</b><br><span style="color:{colour}">{escape(card.state)}</span>'
    return f"<div>{head}<table>{''.join(rows)}</table></div>"


def told(result: Any, name: str, value: Any) -> str:
    """What a card says of a field: that it is a bound, or its interval, and of the main one what that rests on."""
    text, main = shown(value, counted_in(result, name)), name == result.INTERVAL_OF
    if result.basis == "bound" and is_speed(name, value):
        word = "least" if isinstance(value, pint.Quantity) and value.check("[time]") else "most"
        return f"at {word} {text}{': no real run is this fast' if main else ''}"
    interval = result.interval_of(name)
    return text if interval is None else f"{text} ({interval if main else interval.range})"


def counted_in(result: Any, name: str) -> str:
    """What a count in a field counts: as the result says, else by the field's name; "" where neither tells."""
    return str(result.COUNTED.get(name, counted_by(name)))


def counted_by(name: str) -> str:
    """What a count in a field of this name counts; "" where the name does not tell.

    Example:
        >>> counted_by("tokens_per_second"), counted_by("energy"), counted_by("ttft")
        ('tokens', 'tokens', '')
    """
    return next((word for word in _COUNTED if word.rstrip("s") in name), "tokens" if name == "energy" else "")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _basis(result: Any) -> str:
    if result.facts is not None and result.facts.stack:
        return f"{result.basis}, {result.facts.stack}"
    return _BASES.get(result.basis, str(result.basis))


def _parts(result: Any) -> Iterator[Part]:
    sizes: Mapping[str, float] = {name: float(part.magnitude) for name, part in result.breakdown.items()}
    total = sum(sizes.values())
    for name, size in sizes.items():
        if size:
            yield Part(_words(name), shown(result.breakdown[name], result.COUNTED.get("breakdown", "")), size / total)


def _remarks(result: Any) -> Iterator[tuple[str, str]]:
    yield "binding", result.binding
    if result.interval is not None and result.interval.elsewhere:
        of_others = f"{_words(result.INTERVAL_OF)} of a run that nobody has published: {result.interval.elsewhere}"
        yield "elsewhere", f"{of_others} (sources left out of the fit)"
    for note in result.diagnostics:
        yield "note", note
