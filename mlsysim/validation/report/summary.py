"""What a run prints by default: the paper's rows, a table of families, the aims that are missed, times, and a verdict."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from mlsysim.validation.anchors.record_keys import USER_SUFFIX
from mlsysim.validation.report import estimates, judgement, misses
from mlsysim.validation.report.coverage import Coverage, of_known
from mlsysim.validation.report.findings import Findings
from mlsysim.validation.report.report import Table, paper_rows, percent, place_of, sections_apart, shown, table, verdict
from mlsysim.validation.report.statistics import Row, quantile

WIDTH = 100
# What is beyond these is put together, so that a whole run stays within sixty lines.
_MOST_FAMILIES = 18
_QUICK_S = 1e-4


def lines(findings: Findings) -> list[str]:
    """The report on what ran, at most ``WIDTH`` columns wide; ``report.lines`` says all."""
    rows = findings.rows
    known = families(rows, findings.kernels, _MOST_FAMILIES)
    sections = [
        _paper(rows),
        _own(rows),
        table(*known) if known.body else [],
        _missed(rows),
        estimates.lines(rows),
        _aims(findings.targets),
        _times(findings.solves, findings.searches),
        judgement.lines(findings),
    ]
    return sections_apart(sections)


def runs(records: Sequence[Row]) -> list[str]:
    """A line for each run of a user's table, what their intervals rest on, and how many lie in theirs.

    Args:
        records: of each run what is ``told`` of it, its ``error``, the ``scope`` of its interval, and whether that ``held``.

    Example:
        >>> records = [{"told": "a: 1", "error": -0.1, "scope": "x", "held": True}]
        >>> runs([*records, {"told": "b: 2", "error": 0.5, "scope": "x", "held": False}])
        ['a: 1', 'b: 2', '', 'intervals of 2: x', '2 runs: half within 30.0 %, 1 in their 90 % interval']
    """
    held = sum(bool(record["held"]) for record in records)
    middle = percent(quantile([abs(record["error"]) for record in records], 0.5))
    scopes = Counter(str(record["scope"]) for record in records)
    told = [_cut(line, WIDTH) for line in (str(record["told"]) for record in records)]
    rests = [_cut(f"intervals of {count}: {scope}", WIDTH) for scope, count in scopes.most_common()]
    last = f"{len(records):,} run{'' if len(records) == 1 else 's'}: half within {middle}, {held:,} in their 90 % interval"
    return [*told, "", *rests, last]


def last_line(rows: Sequence[Row], failed: int = 0, left_out: int = 0) -> str:
    """The verdict on the validation runs among ``rows``.

    Example:
        >>> row = {"family": "serving", "file": "a.toml", "source": "?", "role": "validation", "error": 0.1, "known_miss": ""}
        >>> last_line([row, {**row, "error": -0.3, "known_miss": "slow"}], left_out=5)
        'filtered: 2 serving runs: half within 20.0 %; 1 known miss, see docs/anchors.md'
    """
    judged = [row for row in rows if row["role"] == "validation" and row["error"] is not None]
    known = of_known({str(row["source"]): str(row["family"]) for row in judged})
    names = sorted({str(row["family"]) for row in judged})
    runs = "run" if len(judged) == 1 else "runs"
    what = f"{len(judged):,} {names[0] + ' ' if len(names) == 1 else ''}{runs}" if judged else f"{len(rows):,} cases"
    told = [f"half within {percent(quantile([abs(row['error']) for row in judged], 0.5))}"] if judged else []
    told += [f"90 % intervals hold {percent(known[0].covered)}"] if known and not left_out else []
    count = sum(bool(row["known_miss"]) for row in rows)
    counted = f"{count:,} known miss{'' if count == 1 else 'es'}" if count else "no known miss"
    explained = not failed and not any(row["file"].endswith(USER_SUFFIX) for row in rows)
    counted += ", see docs/anchors.md" if count and explained else ""
    head = f"{failed} FAILED: " if failed else ""
    return f"{head}{'filtered: ' if left_out else ''}{what}: {'; '.join([', '.join(told) or 'none of validation', counted])}"


def _paper(rows: Sequence[Row]) -> list[str]:
    told = []
    for row in paper_rows(rows):
        figures = ", ".join(f"{who} {shown(row[key])}" for who, key in (("we", "predicted"), ("paper", "paper")))
        head, _, reason = verdict(row).partition(" ")
        told.append(_cut(f"{row['row']}: {row['title']} ... {head}  ({figures}) {reason}".rstrip(), WIDTH))
    return told


def _own(rows: Sequence[Row]) -> list[str]:
    """What was measured and predicted of each case of users' own files, what binds it, and the published runs next to it."""
    told = []
    for row in rows:
        if not row["file"].endswith(USER_SUFFIX):
            continue
        measured, predicted = (shown(row[name], row["unit"]) for name in ("measured", "predicted"))
        ends = "" if row["expected_low"] is None else f" ({shown(row['expected_low'])} to {shown(row['expected_high'])})"
        error = "" if row["error"] is None else f", {percent(row['error'], signed=True)}"
        head = f"{row['id']}: measured {measured}, predicted {predicted}{ends}{error}, {place_of(row)}"
        told += [_cut(f"{head}; limited by {row['binding']}", WIDTH)]
        told += [_cut(f"  near it: {published}", WIDTH) for published in row["nearest"]]
    return told


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def families(rows: Sequence[Row], kernels: Sequence[Row] = (), most: int | None = None) -> Table:
    """A line for the validation runs of each family, for kernel times, and for what is exact.

    Where there are more than ``most`` families, those with the fewest runs share the last line.
    """
    header = ("Family", "runs", "median", "p90", "in 90 % interval", "in band", "covered misses", "misses")
    covered = {one.name: one for one in of_known({str(row["source"]): str(row["family"]) for row in rows})}
    judged: dict[str, list[Row]] = {}
    for row in rows:
        if row["role"] == "validation":
            judged.setdefault(str(row["family"]), []).append(row)
    apart = sorted(judged, key=lambda name: (-len(judged[name]), name))
    apart = apart if most is None or len(apart) <= most else apart[: most - 1]
    body = [_family(name, judged[name], covered) for name in sorted(apart)]
    if few := [row for name in judged if name not in apart for row in judged[name]]:
        body.append(_family(f"{len(judged) - len(apart)} small families", few, covered))
    errors = [abs(error) for row in kernels if row["role"] == "validation" for error in row["errors"]]
    if errors:
        gates = [gate for row in kernels for gate in row["gates"]]
        held = f"{sum(bool(gate['held']) for gate in gates)}/{len(gates)} gates"
        body.append(("kernel times", f"{len(errors):,}", *_middle(errors), "-", held, "-", "-"))
    exact = [row for row in rows if row["role"] == "exact"]
    if exact:
        body.append(("exact", str(len(exact)), "-", "-", "-", f"{sum(bool(row['in_band']) for row in exact)}", "-", "-"))
    return Table(header, body)


def _family(name: str, rows: Sequence[Row], covered: Mapping[str, Coverage]) -> tuple[str, ...]:
    errors = [abs(row["error"]) for row in rows if row["error"] is not None]
    stands = Counter(map(misses.standing, rows))
    held = percent(covered[name].covered) if name in covered else "-"
    counts = (str(stands[one]) for one in (misses.IN_BAND, misses.COVERED, misses.MISS))
    return (name, f"{len(rows):,}", *_middle(errors), held, *counts)


def _missed(rows: Sequence[Row]) -> list[str]:
    """How many of all cases miss their band, in which way, and of which kinds those outside both are."""
    stands = Counter(misses.standing(row) for row in rows)
    if not stands[misses.MISS] + stands[misses.COVERED]:
        return []
    counts = Counter(reason.kind for reason in misses.reasons(rows).values())
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
    covered = f"outside their source's band: {stands[misses.COVERED]:,} covered by their own 90 % interval"
    return _wrapped(f"{covered}; {stands[misses.MISS]:,} by neither{f', by kind: {kinds}' if kinds else ''}")


def _middle(errors: Sequence[float]) -> tuple[str, str]:
    return percent(quantile(errors, 0.5)), percent(quantile(errors, 0.9))


def _aims(targets: Sequence[Row]) -> list[str]:
    if not targets:
        return []
    missed = [row for row in targets if not row["held"]]
    head = f"{len(targets) - len(missed)} of {len(targets)} aims are met"
    told = ", ".join(
        f"{row['id']} {percent(row['found'])} for {percent(row['limit'])}{'' if row['known_gap'] else ' (NOT KNOWN)'}"
        for row in missed
    )
    return _wrapped(f"{head}; missed: {told}" if missed else head)


def _times(solves: Sequence[Row], searches: Sequence[Row]) -> list[str]:
    slow = sorted((row for row in solves if row["seconds"] >= _QUICK_S), key=lambda row: row["seconds"])
    told = ", ".join(f"{row['solver']} {_seconds(row['seconds'])}" for row in slow)
    if quick := len(solves) - len(slow):
        told = f"{quick} below {_seconds(_QUICK_S)}{', ' if told else ''}{told}"
    rates = [row["plans"] / row["seconds"] / 1e6 for row in searches]
    searched = f"searches {min(rates):.1f} to {max(rates):.1f} million plans a second" if rates else ""
    parts = [part for part in (f"slowest solve of each solver: {told}" if told else "", searched) if part]
    return _wrapped("; ".join(parts)) if parts else []


def _seconds(seconds: float) -> str:
    """Write a time with two digits.

    Example:
        >>> _seconds(0.0123), _seconds(5.77e-6)
        ('12 ms', '5.8 us')
    """
    scale, unit = next(((scale, unit) for scale, unit in ((1.0, "s"), (1e-3, "ms")) if seconds >= scale), (1e-6, "us"))
    number = seconds / scale
    return f"{number:.{0 if number >= 10 else 1}f} {unit}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
