"""Brings ``known_miss`` up to date: clears the reasons of cases that land in their band again, and gives new misses theirs.

A strict xfail that passes is red, and so is a miss that nobody knows of. Only tables are edited: a ``[[case]]`` of a TOML file
belongs to a person, who is told. A miss needs a reason that somebody has thought of.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.comparison import compare

COLUMN = "known_miss"


@dataclass(frozen=True)
class Standing:
    """The cases of one anchor file whose ``known_miss`` no longer says what is so."""

    path: Path
    source: str
    passing: tuple[str, ...]
    missing: tuple[str, ...]


def standing(anchors: Sequence[Anchor]) -> Standing:
    """The ids of known misses among ``anchors``, all of one file, that pass, and of misses that are not known."""
    passing: list[str] = []
    missing: list[str] = []
    for anchor in anchors:
        if compare(anchor).in_band == bool(anchor.case.known_miss):
            (passing if anchor.case.known_miss else missing).append(anchor.case.id)
    return Standing(anchors[0].path, anchors[0].source.key, tuple(passing), tuple(missing))


def rewritten(table: str, standing: Standing, reason: str) -> str:
    r"""The text of a table with the reasons of ``standing.passing`` cleared and, with a ``reason``, those of ``missing`` given.

    Example:
        >>> found = Standing(Path("a.toml"), "a", passing=("x",), missing=("y",))
        >>> print(rewritten("id,value,known_miss\nx,1,slow\ny,2,\n", found, "cause not found"), end="")
        id,value,known_miss
        x,1,
        y,2,cause not found
    """
    rows = list(csv.DictReader(io.StringIO(table)))
    columns = list(rows[0])
    if COLUMN not in columns and reason:
        columns.insert(columns.index("value") + 1, COLUMN)
    for row in rows:
        if row["id"] in standing.passing:
            row[COLUMN] = ""
        elif row["id"] in standing.missing and reason:
            row[COLUMN] = reason
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def updated(standing: Standing, reason: str) -> list[str]:
    """Writes the source's table, if it has one; without a ``reason`` new misses stay as they are.

    Returns:
        A line for each case that is left to a person.
    """
    table = standing.path.with_suffix(".csv")
    wanted = {*standing.passing, *(standing.missing if reason else ())}
    done: set[str] = set()
    if wanted and table.exists():
        before = table.read_text(encoding="utf-8")
        table.write_text(rewritten(before, standing, reason), encoding="utf-8")
        done = wanted & {row["id"] for row in csv.DictReader(io.StringIO(before))}
    left = [(case, "passes now: clear its known_miss") for case in standing.passing]
    left += [(case, "misses: it needs a known_miss") for case in standing.missing]
    return [f"{standing.source}: case {case!r} {told}" for case, told in left if case not in done]
