"""The report as a file: JSON for programs, Markdown for pages, LaTeX macros for papers, HTML for people, PNG for a glance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlsysim.validation.report import estimates, html, judgement, misses, plot, report, tables
from mlsysim.validation.report.findings import Findings
from mlsysim.validation.report.statistics import (
    Row,
    Summary,
    by_family_and_role,
    kernels_by_family,
    kernels_by_table,
    total,
)

# A page of a thousand cases is read by nobody: sources with more are summarised.
LISTED_CASES = 30
# The schema of the report in JSON, beside this module. A change that breaks readers takes the next number.
SCHEMA_FILE = "report.schema.json"
SCHEMA = "urn:mlsysim-anchors:report:1"
# What the cases of a source share, and so is said of the source.
_OF_SOURCE = ("citation", "url", "file", "solver")
# What many cases share stands once, in a list; a case says the place in it.
_SHARED = {"coefficients": "coefficient_sets", "plan": "plans", "locator": "locators"}
# What a case says only where it is something else.
_EXPECTED = {"expect_feasible": True, "feasible": True, "in_band": True}
_DIGITS = 6


def write(path: Path, findings: Findings) -> None:
    """Write the report to ``path``, whose ending chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        plot.draw(path, findings.rows)
        return
    path.write_text(_FORMATS[path.suffix](findings), encoding="utf-8")


def as_json(findings: Findings) -> str:
    """The report as JSON, a case a line: what it says is in ``report.schema.json`` beside this module."""
    rows, kernels = findings.rows, findings.kernels
    shared = {name: list(dict.fromkeys(_shared(row, name) for row in rows)) for name in _SHARED}
    places = {name: {one: place for place, one in enumerate(ones)} for name, ones in shared.items()}
    judged, told = judgement.judged(findings), misses.reasons(rows)
    document = {
        "$schema": SCHEMA,
        "verdict": findings.verdict,
        "total": total(rows, kernels),
        "families": [summary.as_row() for summary in by_family_and_role(rows)],
        "kernels": [summary.as_row() for summary in kernels_by_family(kernels)],
        "kernel_tables": [summary.as_row() for summary in kernels_by_table(kernels)],
        "kernel_gates": [gate for row in kernels for gate in row["gates"]],
        "estimators": estimates.compared(rows),
        "aims": list(findings.targets),
        "sources": {str(row["source"]): {name: row[name] for name in _OF_SOURCE} for row in rows},
        **{_SHARED[name]: ones for name, ones in shared.items()},
        "miss_kinds": {kind.id: kind.reason for kind in misses.kinds()},
        "cases": [
            {**_stated(row), **_of_miss(row, told), **{name: places[name][_shared(row, name)] for name in _SHARED}}
            for row in rows
        ],
        "moved": list(findings.moves),
        "judgement": judged.as_row() if judged is not None else None,
        "macros": macros(rows),
    }
    parts = (f"{_line(name)}: {_lines(value)}" for name, value in document.items())
    return "\n".join(("{", ",\n".join(parts), "}", ""))


def _of_miss(row: Row, told: Mapping[tuple[str, str], misses.Reason]) -> dict[str, str]:
    """How a case outside its band stands, and of which kind it is."""
    standing, reason = misses.standing(row), told.get((str(row["file"]), str(row["id"])))
    return ({"standing": standing} if standing != misses.IN_BAND else {}) | ({"miss_kind": reason.kind} if reason else {})


def _shared(row: Row, name: str) -> Any:
    """A text, or a list that has travelled as JSON, as a key."""
    return row[name] if isinstance(row[name], str) else tuple(row[name])


def _stated(row: Row) -> dict[str, Any]:
    """What a case says for itself: nothing that its source says, or that is empty or as one expects."""
    return {
        name: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
        for name, value in row.items()
        if name not in _OF_SOURCE
        and value not in (None, "", (), {}, [])
        and value is not _EXPECTED.get(name)
        and (name, value) != ("title", row["id"])
    }


def _lines(value: Any) -> str:
    """JSON with a line for each entry of a list or table."""
    if not value or not isinstance(value, list | dict):
        return _line(value)
    entries = map(_line, value) if isinstance(value, list) else (f"{_line(name)}: {_line(one)}" for name, one in value.items())
    brackets = "[]" if isinstance(value, list) else "{}"
    return "\n".join((brackets[0], ",\n".join(entries), brackets[1]))


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def as_markdown(findings: Findings) -> str:
    """The report as Markdown: the terminal's tables, the cases of small sources with where they were read, and what moved."""
    rows, kernels = findings.rows, findings.kernels
    judged = judgement.judged(findings)
    parts = []
    numbered = report.paper_rows(rows)
    if numbered:
        parts += ["## The paper's anchors", report.of_paper(rows).as_markdown()]
        told = []
        for row in numbered:
            told.append(f"- {row['row']}: {row['primary']}")
            for right in report.corrections(row, rows):
                figure, predicted = (report.shown(right[name], right["unit"]) for name in ("measured", "predicted"))
                told.append(f"  - `{right['id']}`: {figure}; we predict {predicted} ({report.standing(right)})")
        parts += ["## What the primary sources say", "\n".join(told)]
    parts += estimates.as_markdown(rows)
    if rows:
        parts += _cases(rows)
    if kernels:
        parts += _kernels(kernels)
    if judged is not None:
        parts.append(judged.as_markdown())
    return "\n\n".join(["# mlsysim anchors", total(rows, kernels), *parts]) + "\n"


def _cases(rows: Sequence[Row]) -> list[str]:
    """Sections on errors by family, and on the cases of sources that are no table of runs."""
    parts = ["## Errors by family", _summaries("Family", by_family_and_role(rows))]
    parts += report.outcomes(rows)
    parts += _misses(rows)
    sources = Counter(row["source"] for row in rows)
    cases = [
        (
            *(f"`{row['id']}`", report.shown(row["measured"], row["unit"]), report.shown(row["predicted"], row["unit"])),
            *(report.standing(row), f"{row['citation']}, {row['locator']}"),
        )
        for row in rows
        if sources[row["source"]] <= LISTED_CASES
    ]
    left_out = sum(cases > LISTED_CASES for cases in sources.values())
    parts += [
        f"## Cases\n\nThose of the {left_out} sources with more than {LISTED_CASES} are in `snapshots/`.",
        report.markdown_table(("Case", "Measured", "Predicted", "Standing", "Source"), cases),
    ]
    return parts


def _misses(rows: Sequence[Row]) -> list[str]:
    """The section on cases outside their band: how many of each standing, the kinds, and where the misses are."""
    stands = Counter(misses.standing(row) for row in rows)
    if not stands[misses.COVERED] + stands[misses.MISS]:
        return []
    counted = "; ".join(f"{name}: {stands[name]:,}" for name in (misses.IN_BAND, misses.COVERED, misses.MISS))
    sections = [one.as_markdown() for one in (misses.by_kind(rows), misses.by_source(rows)) if one.body]
    return ["## Known misses", report.said("misses"), f"Of all cases, {counted}.", *sections]


def _kernels(kernels: Sequence[Row]) -> list[str]:
    """Sections on errors of kernel times by family and table, and on gates that are known not to hold."""
    gaps = [
        (f"`{gate['id']}`", report.percent(gate["found"]), report.percent(gate["limit"]), gate["known_gap"])
        for row in kernels
        for gate in row["gates"]
        if gate["known_gap"] or not gate["held"]
    ]
    parts = ["## Kernels by family", tables.of_kernels("Family", kernels_by_family(kernels)).as_markdown()]
    parts += ["## Kernels by table", tables.of_kernels("Table", kernels_by_table(kernels)).as_markdown()]
    return (
        [*parts, "## Kernel gates that do not hold", report.markdown_table(("Gate", "Found", "Limit", "Why"), gaps)]
        if gaps
        else parts
    )


def _summaries(name: str, summaries: Sequence[Summary]) -> str:
    """A table of errors of cases, one line for each group."""
    columns = (
        *("family", "role", "cases", "median", "mean", "p90", "bias"),
        *("in_band", "known_misses", "coefficients", "bases"),
    )
    body = [report.cells(summary, columns) for summary in summaries]
    header = (name, "Role", "Cases", "Median", "Mean", "p90", "Bias", "In band", "Known misses", "Coefficients", "Basis")
    return report.markdown_table(header, body)


def as_latex(findings: Findings) -> str:
    """The report as the macros that the paper's own script printed, one ``newcommand`` a line."""
    defined = [f"\\newcommand{{\\{name}}}{{{_escaped(text)}}}" for name, text in macros(findings.rows).items()]
    return "\n".join(["% Written by pytest --anchor-report; do not edit.", *defined]) + "\n"


def macros(rows: Sequence[Row]) -> dict[str, str]:
    """All macros by name, in the order of the paper's rows."""
    ordered = sorted(rows, key=lambda row: (row["row"] is None, row["row"] or 0, row["id"]))
    return {name: text for row in ordered for name, text in row["macros"].items()}


def _escaped(text: str) -> str:
    for special in "&%$#_{}":
        text = text.replace(special, f"\\{special}")
    return text


_FORMATS: dict[str, Callable[[Findings], str]] = {
    ".json": as_json,
    ".md": as_markdown,
    ".tex": as_latex,
    ".html": html.render,
}
