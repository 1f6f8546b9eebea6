"""Brings ``known_miss`` up to date after a recalibration: ``python -m mlsysim.fitting.known_misses anchors``.

Clears the reasons of cases that now land in their band (a strict xfail that passes is red), in tables and nowhere else: a
``[[case]]`` of a TOML file is told, not edited. Cases that have left their band are listed. A miss needs a reason that somebody
has thought of, so nothing is written for them unless ``--source KEY --reason "why"`` gives one.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlsysim.core.errors import UnknownNameError
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.anchors.loading import anchor_files, load

COLUMN = "known_miss"


@dataclass(frozen=True)
class Standing:
    """The cases of one anchor file whose ``known_miss`` no longer says what is so."""

    path: Path
    source: str
    passing: tuple[str, ...]
    missing: tuple[str, ...]


def standing(anchors: Sequence[Anchor]) -> Standing:
    """``anchors`` of one file: the ids of known misses that pass, and of misses that are not known."""
    passing: list[str] = []
    missing: list[str] = []
    for anchor in anchors:
        if compare(anchor).in_band == bool(anchor.case.known_miss):
            (passing if anchor.case.known_miss else missing).append(anchor.case.id)
    return Standing(anchors[0].path, anchors[0].source.key, tuple(passing), tuple(missing))


def rewritten(table: str, found: Standing, reason: str) -> str:
    r"""The text of a table with the reasons of ``found.passing`` cleared and, with a ``reason``, those of ``missing`` given.

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
        if row["id"] in found.passing:
            row[COLUMN] = ""
        elif row["id"] in found.missing and reason:
            row[COLUMN] = reason
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def updated(found: Standing, reason: str) -> set[str]:
    """Writes the source's table, if it has one; the ids of the cases that are right now."""
    table = found.path.with_suffix(".csv")
    wanted = {*found.passing, *(found.missing if reason else ())}
    if not wanted or not table.exists():
        return set()
    before = table.read_text(encoding="utf-8")
    table.write_text(rewritten(before, found, reason), encoding="utf-8")
    done = wanted & {row["id"] for row in csv.DictReader(io.StringIO(before))}
    print(f"{table}: {len(done & set(found.passing))} pass again, {len(done & set(found.missing))} given a reason")
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Updates the tables and lists what is left to a person; 1 while something is."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m mlsysim.fitting.known_misses", description=about)
    parser.add_argument("root", type=Path, help="the folder of the anchors")
    parser.add_argument("--source", default="", help="the key of the source whose new misses --reason explains")
    parser.add_argument("--reason", default="", help="why they miss")
    asked = parser.parse_args(arguments)
    if bool(asked.source) != bool(asked.reason):
        parser.error("--source and --reason go together")
    files = [standing(load(path)) for path in anchor_files(asked.root)]
    if asked.source and asked.source not in {found.source for found in files}:
        raise UnknownNameError.among("source", asked.source, [found.source for found in files])
    left = 0
    for found in files:
        done = updated(found, asked.reason if found.source == asked.source else "")
        told = [(case, "passes now: clear its known_miss") for case in found.passing]
        told += [(case, "misses: it needs a known_miss") for case in found.missing]
        for case, what in told:
            if case not in done:
                left += 1
                print(f"{found.path}: case {case!r} {what}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
