"""What an update of snapshots did: by family, by aim and by run, before and after, so that a person can judge it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlsysim.validation.report.findings import Findings
from mlsysim.validation.report.report import Table, percent, shown, table
from mlsysim.validation.report.statistics import AsRow, Row, covered, quantile

LARGEST = 20
# The heading of the section that a page of Markdown ends with, after an update of snapshots.
MOVED = "## What moved"
# A change that prints as 0.0 %.
_UNSEEN = 5e-4


@dataclass(frozen=True)
class Judgement(AsRow):
    """What became of predictions that moved. Errors and shares are fractions.

    Attributes:
        moved, nearer, away: how many moved, came nearer to what was measured, went away from it.
        unseen: how many moved by less than 0.05 %; they count in nothing else.
        new: how many had no snapshot.
        families: of each family and role with runs that moved, over all of its runs: their median, p90 and share
            ``in_interval``, each before and after; ``moved``, ``nearer`` and ``away``.
        aims: the aims whose figure moved, ``before`` and ``found`` now; ``change`` is "MET NOW", "LOST" or "".
        largest: the largest moves, with what was measured, and the error before and after.
    """

    moved: int
    nearer: int
    away: int
    unseen: int
    new: int
    families: tuple[dict[str, Any], ...]
    aims: tuple[dict[str, Any], ...]
    largest: tuple[dict[str, Any], ...]

    @property
    def head(self) -> str:
        """One line: how many moved, and which way."""
        counts = {"moved by less than 0.05 %": self.unseen, "are new": self.new}
        beside = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        moved = f"{self.moved} prediction{'' if self.moved == 1 else 's'} moved"
        told = f"{moved}: {self.nearer} came nearer to what was measured, {self.away} went away"
        return f"{told}; {beside}" if beside else told

    @property
    def tables(self) -> list[Table]:
        """Families, aims and the largest moves, as text; those that have a line."""
        families = [
            (
                *(one["family"], one["role"], str(one["moved"])),
                *(" -> ".join(percent(share) for share in one[name]) for name in ("median", "p90", "in_interval")),
                *(str(one["nearer"]), str(one["away"])),
            )
            for one in self.families
        ]
        aims = [
            (
                *(one["id"], " -> ".join(percent(one[name], digits=2) for name in ("before", "found"))),
                *(f"for {percent(one['limit'])}", one["change"]),
            )
            for one in self.aims
        ]
        largest = [
            (
                one["id"] if len(one["id"]) <= 36 else f"{one['id'][:33]}...",
                f"{shown(one['before'])} -> {shown(one['after'], one['unit'])}",
                shown(one["measured"]),
                " -> ".join(percent(one[name], signed=True) for name in ("error_before", "error_after")),
            )
            for one in self.largest
        ]
        all_three = [
            Table(("Family", "role", "moved", "median", "p90", "in interval", "nearer", "away"), families, left=2),
            Table(("Aim", "before -> after", "", ""), aims),
            Table(("Largest moves", "predicted", "measured", "error"), largest),
        ]
        return [one for one in all_three if one.body]

    def as_markdown(self) -> str:
        """The judgement as a section of a page."""
        return "\n\n".join([MOVED, self.head, *(one.as_markdown() for one in self.tables)])


def as_it_was(row: Row, before: object) -> dict[str, Any]:
    """A case's row with the prediction that its snapshot kept, its error, and whether it was in the band.

    Example:
        >>> row = {"predicted": 110.0, "measured": 100.0, "error": 0.1, "low": 95.0, "high": 105.0, "in_band": False,
        ...        "expected_low": 88.0, "expected_high": 137.5}
        >>> was = as_it_was(row, 100.0)
        >>> was["error"], was["in_band"], was["expected_low"]
        (0.0, True, 80.0)
    """
    if not isinstance(before, int | float) or not isinstance(row["predicted"], float) or row["error"] is None:
        return {**row, "predicted": before, "in_band": before == row["measured"]}
    share = before / row["predicted"] if row["predicted"] else 1.0
    ends = {name: None if row[name] is None else row[name] * share for name in ("expected_low", "expected_high")}
    in_band = row["low"] is None or row["low"] <= before <= row["high"]
    return {**row, **ends, "predicted": float(before), "error": (1 + row["error"]) * share - 1, "in_band": in_band}


def judged(findings: Findings) -> Judgement | None:
    """The judgement on predictions that moved from their snapshots, and on aims before and now; None where none did."""
    moves = findings.moves
    if not moves:
        return None
    now = {(row["file"], row["id"]): row for row in findings.rows}
    pairs = [
        (as_it_was(now[move["file"], move["id"]], move["before"]), now[move["file"], move["id"]])
        for move in moves
        if (move["file"], move["id"]) in now and move["before"] is not None
    ]
    seen = [(old, new) for old, new in pairs if _change(old, new) >= _UNSEEN]
    nearer, away = _nearer(seen)
    return Judgement(
        moved=len(seen),
        nearer=nearer,
        away=away,
        unseen=len(pairs) - len(seen),
        new=sum(move["before"] is None for move in moves),
        families=tuple(_families(seen, now)),
        aims=tuple(_aims(findings.targets)),
        largest=tuple(_largest(seen)),
    )


def lines(findings: Findings) -> list[str]:
    """The judgement on predictions that moved, as the terminal shows it."""
    judgement = judged(findings)
    if judgement is None:
        return []
    return [judgement.head, *(line for one in judgement.tables for line in ("", *table(one.header, one.body, left=one.left)))]


def _change(old: Row, new: Row) -> float:
    one, other = old["predicted"], new["predicted"]
    if isinstance(one, float) and isinstance(other, float) and one:
        return abs(other / one - 1)
    return float(one != other)


def _nearer(pairs: Iterable[tuple[Row, Row]]) -> tuple[int, int]:
    errors = [(abs(old["error"]), abs(new["error"])) for old, new in pairs if new["error"] is not None]
    return sum(new < old for old, new in errors), sum(new > old for old, new in errors)


def _families(seen: Sequence[tuple[Row, Row]], now: Mapping[tuple[str, str], Row]) -> list[dict[str, Any]]:
    """Median, p90 and coverage of each family and role that has runs that moved, over all of its runs."""
    before = {(new["file"], new["id"]): old for old, new in seen}
    groups: dict[tuple[str, str], list[tuple[Row, Row]]] = {}
    for key, row in now.items():
        groups.setdefault((str(row["family"]), str(row["role"])), []).append((before.get(key, row), row))
    told = []
    for (family, role), pairs in sorted(groups.items()):
        moved = [pair for pair in pairs if pair[0] is not pair[1]]
        if moved:
            nearer, away = _nearer(moved)
            sides = [[pair[side] for pair in pairs] for side in (0, 1)]
            told.append(
                {
                    **{"family": family, "role": role, "moved": len(moved), "nearer": nearer, "away": away},
                    **{name: [_error(side, share) for side in sides] for name, share in (("median", 0.5), ("p90", 0.9))},
                    "in_interval": [covered(side) for side in sides],
                }
            )
    return told


def _error(rows: Sequence[Row], fraction: float) -> float | None:
    return quantile([abs(row["error"]) for row in rows if row["error"] is not None], fraction)


def _aims(targets: Sequence[Row]) -> list[dict[str, Any]]:
    """Each aim whose figure moved; of those that were met and are not, and the other way round, it says so."""
    told = []
    for row in targets:
        before, now = row.get("before"), row["found"]
        if before is None or now is None or abs(now - before) < _UNSEEN / 10:
            continue
        was = before >= row["limit"] if row["at_least"] else abs(before) <= row["limit"]
        change = "" if was == row["held"] else "MET NOW" if row["held"] else "LOST"
        told.append({"id": str(row["id"]), "before": before, "found": now, "limit": row["limit"], "change": change})
    return told


def _largest(seen: Sequence[tuple[Row, Row]]) -> list[dict[str, Any]]:
    first = sorted(seen, key=lambda pair: (-_change(*pair), str(pair[1]["id"])))[:LARGEST]
    return [
        {
            **{"id": str(new["id"]), "unit": new["unit"], "measured": new["measured"]},
            **{"before": old["predicted"], "after": new["predicted"]},
            **{"error_before": old["error"], "error_after": new["error"]},
        }
        for old, new in first
    ]
