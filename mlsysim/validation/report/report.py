"""The report that ends a run: the paper's table, what the primary sources say, the errors of every family."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlsysim.core.toml import toml_file
from mlsysim.validation.report.findings import Findings
from mlsysim.validation.report.statistics import KernelSummary, Row, Summary, by_family_and_role, kernels_by_family, total


class Table(NamedTuple):
    """A table of text; ``left`` is how many of its first columns are no numbers."""

    header: Sequence[str]
    body: Sequence[Sequence[str]]
    left: int = 1

    def as_markdown(self) -> str:
        """The table in Markdown."""
        return markdown_table(self.header, self.body)


@functools.cache
def said(name: str) -> str:
    """What ``words.toml`` has a page say above a table."""
    return str(toml_file(Path(__file__).with_name("words.toml"))[name])


def lines(findings: Findings) -> list[str]:
    """The whole report: on cases, on predictions that moved, on kernel tables and on aims."""
    rows, kernels = findings.rows, findings.kernels
    counted = [total(rows, kernels)] if rows or kernels else []
    sections = [_paper(rows), _primary(rows), _moved(findings.moves), _families(rows), _kernels(kernels)]
    return sections_apart([*sections, _aims(findings.targets), counted])


def sections_apart(sections: Iterable[Sequence[str]]) -> list[str]:
    """The lines of those sections that have some, with an empty line between."""
    return [line for section in sections for line in (*section, "") if section][:-1]


def paper_rows(rows: Iterable[Row]) -> list[Row]:
    """The paper's numbered rows, in its order."""
    return sorted((row for row in rows if row["row"] is not None), key=lambda row: int(row["row"]))


def verdict(row: Row) -> str:
    """The "Match?" cell of a paper row; OK may not hide that the plan cannot run."""
    word = "OK" if row["matches_paper"] else "MISMATCH"
    return word if row["feasible"] else f"{word} (infeasible: {row['reason']})"


def corrections(row: Row, rows: Iterable[Row]) -> list[Row]:
    """The anchors of the primary source that stand beside a paper row."""
    return [other for other in rows if other["corrects"] == row["id"]]


def shown(value: object, unit: str = "") -> str:
    """Write a number as a person does.

    Example:
        >>> shown(37487.2, "image/s"), shown(0.40123), shown("TP=8"), shown(40.7, "percent")
        ('37,487 image/s', '0.4012', 'TP=8', '40.7 %')
    """
    symbol = {"percent": "%"}.get(unit, unit)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    else:
        text = str(value)
    return f"{text} {symbol}".rstrip()


def percent(fraction: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """Write a fraction in per cent; "-" where there is none. Nought is never negative, however it was added up.

    Example:
        >>> percent(0.0312), percent(-0.5, signed=True), percent(None), percent(-1e-17, signed=True)
        ('3.1 %', '-50.0 %', '-', '+0.0 %')
    """
    if fraction is None:
        return "-"
    rounded = round(100 * fraction, digits) + 0.0
    return f"{rounded:{'+' if signed else ''}.{digits}f} %"


def place_of(row: Row) -> str:
    """Say whether a prediction lies in its figure's band."""
    return "in band" if row["in_band"] else "known miss" if row["known_miss"] else "OUT OF BAND"


def standing(row: Row) -> str:
    """Say how a prediction stands to its figure: basis, error, in the band or not."""
    error = [] if row["error"] is None else [percent(row["error"], signed=True)]
    plan = [] if row["feasible"] else [f"infeasible: {row['reason']}"]
    return ", ".join([row["basis"], *error, place_of(row), *plan])


def table(header: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Align columns: the first ``left`` and the last to the left, numbers to the right."""
    cells = [list(header), *(list(row) for row in body)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    last = len(header) - 1
    return [
        "  ".join(
            cell.ljust(widths[column]) if column < left or column == last else cell.rjust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in cells
    ]


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    r"""Write a table in Markdown.

    Example:
        >>> print(markdown_table(("Name", "Error"), [("a|b", "3 %")]))
        | Name | Error |
        | --- | --- |
        | a\|b | 3 % |
    """
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_paper(rows: Sequence[Row]) -> Table:
    """The paper's numbered rows, with what its solver, its text and its own runs say."""
    body = [
        (f"{row['row']}: {row['title']}", *(shown(row[name]) for name in ("predicted", "paper", "reported")), verdict(row))
        for row in paper_rows(rows)
    ]
    return Table(("Anchor", "Solver", "Paper", "Reported", "Match?"), body)


def _paper(rows: Sequence[Row]) -> list[str]:
    told = of_paper(rows)
    return ["The paper's anchors", *table(*told)] if told.body else []


def _primary(rows: Sequence[Row]) -> list[str]:
    told = []
    for row in paper_rows(rows):
        if row["primary"]:
            told.append(f"{row['row']}: primary source says: {row['primary']}")
        for right in corrections(row, rows):
            measured, predicted = (shown(right[name], right["unit"]) for name in ("measured", "predicted"))
            told.append(f"   {right['id']}: {measured}; we predict {predicted} ({standing(right)})")
    return ["What the primary sources say, and what we predict for that", *told] if told else []


def _families(rows: Sequence[Row]) -> list[str]:
    header = (
        *("Family", "role", "cases", "median |error|", "p90 |error|", "bias"),
        *("in band", "known misses", "coefficients", "hand-picked", "basis"),
    )
    columns = (
        *("family", "role", "cases", "median", "p90", "bias"),
        *("in_band", "known_misses", "coefficients", "hand_picked", "bases"),
    )
    body = [cells(summary, columns) for summary in by_family_and_role(rows)]
    return [*table(header, body, left=2), *outcomes(rows)] if body else []


def _kernels(kernels: Sequence[Row]) -> list[str]:
    header = ("Kernels", "role", "tables", "times", "median |error|", "p90 |error|", "bias", "coefficients", "gates")
    columns = ("family", "role", "tables", "cases", "median", "p90", "bias", "coefficients", "gates")
    body = [cells(summary, columns) for summary in kernels_by_family(kernels)]
    return table(header, body, left=2) if body else []


def _aims(targets: Sequence[Row]) -> list[str]:
    """Lines that say how many aims are met, and which are not."""
    missed = [row for row in targets if not row["held"]]
    if not targets:
        return []
    head = f"{len(targets) - len(missed)} of {len(targets)} aims are met{'; missed:' if missed else ''}"
    body = [
        (str(row["id"]), percent(row["found"]), percent(row["limit"]), "known gap" if row["known_gap"] else "MISSED")
        for row in missed
    ]
    return [head, *(table(("Aim", "found", "limit", ""), body) if body else [])]


def cells(summary: Summary | KernelSummary, columns: Iterable[str]) -> tuple[str, ...]:
    """Fields of a summary as text: errors in per cent, what is in band of all, and gates by how many hold."""

    def cell(name: str) -> str:
        value = getattr(summary, name)
        if name == "gates" and isinstance(summary, KernelSummary):
            return gates(summary)
        if name == "in_band":
            return f"{value}/{summary.cases}"
        if name in ("median", "mean", "p90", "bias"):
            return percent(value, signed=name == "bias")
        return f"{value:,}" if name == "cases" and isinstance(summary, KernelSummary) else str(value)

    return tuple(map(cell, columns))


def gates(summary: KernelSummary) -> str:
    """Say how many limits on single tables hold; calibration rows have none."""
    if not summary.gates:
        return "-"
    known = f", {summary.known_gaps} known gap{'s' if summary.known_gaps > 1 else ''}" if summary.known_gaps else ""
    return f"{summary.held} of {summary.gates} hold{known}"


def outcomes(rows: Iterable[Row]) -> list[str]:
    """One line for each family and role whose cases fit in memory or do not."""
    return [
        f"{summary.family}, {summary.role}: balanced accuracy {percent(summary.balanced_accuracy)} of plans that fit or do not"
        for summary in by_family_and_role(rows)
        if summary.balanced_accuracy is not None
    ]


def _moved(moves: Sequence[Row]) -> list[str]:
    body = []
    for move in moves:
        before = "-" if move["before"] is None else shown(move["before"])
        body.append((move["id"], before, shown(move["after"]), _change(move)))
    return [f"{len(body)} predictions moved or new", *table(("Anchor", "from", "to", "change"), body)] if body else []


def _change(move: Mapping[str, Any]) -> str:
    before, after = move["before"], move["after"]
    if before == after:
        return "only its parts"
    if isinstance(before, (int, float)) and isinstance(after, (int, float)) and before:
        return percent(after / before - 1, signed=True)
    return "new" if before is None else "another plan"
