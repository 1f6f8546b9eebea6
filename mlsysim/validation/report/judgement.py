"""What an update of snapshots did: by family, by aim and by run, before and after, so that a person can judge it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlsysim.validation.report.report import percent, shown, table
from mlsysim.validation.report.statistics import Row, quantile

LARGEST = 20
# A change that prints as 0.0 %.
_UNSEEN = 5e-4


def as_it_was(row: Row, before: object) -> dict[str, Any]:
    """A case's row with the prediction that its snapshot kept, its error, and whether it was in the band.

    Args:
        row: the comparison of today's prediction.
        before: what the snapshot says was predicted.

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


def lines(rows: Iterable[Row], moves: Sequence[Row], targets: Sequence[Row] = ()) -> list[str]:
    """The judgement on predictions that moved.

    Args:
        rows: comparisons of today's predictions.
        moves: what each prediction that differs from its snapshot was, and is.
        targets: aims, with what was ``found`` today and ``before``.
    """
    if not moves:
        return []
    now = {(row["file"], row["id"]): row for row in rows}
    pairs = [
        (as_it_was(now[move["file"], move["id"]], move["before"]), now[move["file"], move["id"]])
        for move in moves
        if (move["file"], move["id"]) in now and move["before"] is not None
    ]
    seen = [(old, new) for old, new in pairs if _change(old, new) >= _UNSEEN]
    fresh = sum(move["before"] is None for move in moves)
    nearer, away = _nearer(seen)
    moved = f"{len(seen)} prediction{'' if len(seen) == 1 else 's'} moved"
    head = f"{moved}: {nearer} came nearer to what was measured, {away} went away"
    told = [f"{number} {what}" for number, what in ((len(pairs) - len(seen), "moved by less than 0.05 %"), (fresh, "are new"))]
    body = [f"{head}; {', '.join(one for one in told if not one.startswith('0 '))}".rstrip("; ")]
    return [*body, *_families(seen, now), *_aims(targets), *_largest(seen)]


def _change(old: Row, new: Row) -> float:
    one, other = old["predicted"], new["predicted"]
    if isinstance(one, float) and isinstance(other, float) and one:
        return abs(other / one - 1)
    return float(one != other)


def _nearer(pairs: Iterable[tuple[Row, Row]]) -> tuple[int, int]:
    judged = [(abs(old["error"]), abs(new["error"])) for old, new in pairs if new["error"] is not None]
    return sum(new < old for old, new in judged), sum(new > old for old, new in judged)


def _families(seen: Sequence[tuple[Row, Row]], now: Mapping[tuple[str, str], Row]) -> list[str]:
    """Median, p90 and coverage of each family and role that has runs that moved, over all of its runs."""
    before = {(new["file"], new["id"]): old for old, new in seen}
    groups: dict[tuple[str, str], list[tuple[Row, Row]]] = {}
    for key, row in now.items():
        groups.setdefault((str(row["family"]), str(row["role"])), []).append((before.get(key, row), row))
    body = []
    for (family, role), pairs in sorted(groups.items()):
        moved = [pair for pair in pairs if pair[0] is not pair[1]]
        if moved:
            nearer, away = _nearer(moved)
            middle, wide = (_pair(pairs, fraction) for fraction in (0.5, 0.9))
            body.append((family, role, str(len(moved)), middle, wide, _covered(pairs), f"{nearer}", f"{away}"))
    header = ("Family", "role", "moved", "median", "p90", "in interval", "nearer", "away")
    return ["", *table(header, body, left=2)] if body else []


def _pair(pairs: Sequence[tuple[Row, Row]], fraction: float) -> str:
    ends = [[abs(pair[side]["error"]) for pair in pairs if pair[side]["error"] is not None] for side in (0, 1)]
    return " -> ".join(percent(quantile(errors, fraction)) for errors in ends)


def _covered(pairs: Sequence[tuple[Row, Row]]) -> str:
    shares = []
    for side in (0, 1):
        rows = [pair[side] for pair in pairs if pair[side]["expected_low"] is not None]
        held = sum(row["expected_low"] <= row["measured"] <= row["expected_high"] for row in rows)
        shares.append(percent(held / len(rows)) if rows else "-")
    return " -> ".join(shares)


def _aims(targets: Sequence[Row]) -> list[str]:
    """A line for each aim whose figure moved; of those that were met and are not, and the other way round, it says so."""
    told = []
    for row in targets:
        before, found = row.get("before"), row["found"]
        if before is None or found is None or abs(found - before) < _UNSEEN / 10:
            continue
        was = before >= row["limit"] if row["at_least"] else abs(before) <= row["limit"]
        verdict = "" if was == row["held"] else "MET NOW" if row["held"] else "LOST"
        figures = " -> ".join(percent(figure, digits=2) for figure in (before, found))
        told.append((str(row["id"]), figures, f"for {percent(row['limit'])}", verdict))
    return ["", *table(("Aim", "before -> after", "", ""), told)] if told else []


def _largest(seen: Sequence[tuple[Row, Row]]) -> list[str]:
    first = sorted(seen, key=lambda pair: (-_change(*pair), str(pair[1]["id"])))[:LARGEST]
    body = [
        (
            str(new["id"]) if len(str(new["id"])) <= 36 else f"{str(new['id'])[:33]}...",
            f"{shown(old['predicted'])} -> {shown(new['predicted'], new['unit'])}",
            shown(new["measured"]),
            " -> ".join(percent(row["error"], signed=True) for row in (old, new)),
        )
        for old, new in first
    ]
    return ["", *table(("Largest moves", "predicted", "measured", "error"), body)] if body else []
