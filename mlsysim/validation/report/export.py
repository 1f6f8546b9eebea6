"""The report as a file: JSON for programs, Markdown for pages, LaTeX macros for papers, HTML with parity plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mlsysim.validation.report import estimates, plot, report
from mlsysim.validation.report import html as page
from mlsysim.validation.report.statistics import (
    KernelSummary,
    Row,
    Summary,
    by_family_and_role,
    kernels_by_family,
    kernels_by_table,
    total,
)

# A page of a thousand cases is read by nobody: sources with more are summarised.
LISTED_CASES = 30


def write(path: Path, rows: Sequence[Row], moves: Sequence[Row], kernels: Sequence[Row] = ()) -> None:
    """Write the report to ``path``, whose ending chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        plot.draw(path, rows)
        return
    path.write_text(_FORMATS[path.suffix](rows, moves, kernels), encoding="utf-8")


def as_json(rows: Sequence[Row], moves: Sequence[Row], kernels: Sequence[Row] = ()) -> str:
    """The report as JSON: every case, statistics of families and kernel tables, moved predictions and macros."""
    document = {
        "families": [summary.as_row() for summary in by_family_and_role(rows)],
        "kernels": [summary.as_row() for summary in kernels_by_family(kernels)],
        "kernel_tables": [summary.as_row() for summary in kernels_by_table(kernels)],
        "kernel_gates": [gate for row in kernels for gate in row["gates"]],
        "estimators": estimates.compared(rows),
        "total": total(rows, kernels),
        "cases": list(rows),
        "moved": list(moves),
        "macros": macros(rows),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(rows: Sequence[Row], moves: Sequence[Row], kernels: Sequence[Row] = ()) -> str:
    """The report as Markdown: the terminal's tables, and every case with its source; moved predictions are left out."""
    parts = []
    numbered = report.paper_rows(rows)
    if numbered:
        body = [
            (
                f"{row['row']}: {row['title']}",
                *(report.shown(row[name]) for name in ("predicted", "paper", "reported")),
                report.verdict(row),
            )
            for row in numbered
        ]
        parts += ["## The paper's anchors", report.markdown_table(("Anchor", "Solver", "Paper", "Reported", "Match?"), body)]
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
    return "\n\n".join(["# mlsysim anchors", total(rows, kernels), *parts]) + "\n"


def _cases(rows: Sequence[Row]) -> list[str]:
    """Sections on errors by family, and on the cases of sources that are no table of runs."""
    parts = ["## Errors by family", _summaries("Family", by_family_and_role(rows))]
    parts += report.outcomes(rows)
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


def _kernels(kernels: Sequence[Row]) -> list[str]:
    """Sections on errors of kernel times by family and table, and on gates that are known not to hold."""
    gaps = [
        (f"`{gate['id']}`", report.percent(gate["found"]), report.percent(gate["limit"]), gate["known_gap"])
        for row in kernels
        for gate in row["gates"]
        if gate["known_gap"] or not gate["held"]
    ]
    parts = ["## Kernels by family", _kernel_summaries("Family", kernels_by_family(kernels))]
    parts += ["## Kernels by table", _kernel_summaries("Table", kernels_by_table(kernels))]
    return (
        [*parts, "## Kernel gates that do not hold", report.markdown_table(("Gate", "Found", "Limit", "Why"), gaps)]
        if gaps
        else parts
    )


def _kernel_summaries(name: str, summaries: Sequence[KernelSummary]) -> str:
    """A table of errors of kernel times, one line for each group."""
    body = [
        (
            *(summary.family, summary.role, f"{summary.cases:,}", report.percent(summary.median)),
            *(report.percent(summary.mean), report.percent(summary.p90), report.percent(summary.bias, signed=True)),
            *(report.gates(summary), str(summary.coefficients)),
        )
        for summary in summaries
    ]
    return report.markdown_table((name, "Role", "Times", "Median", "Mean", "p90", "Bias", "Gates", "Coefficients"), body)


def _summaries(name: str, summaries: Sequence[Summary]) -> str:
    """A table of errors of cases, one line for each group."""
    body = [
        (
            *(summary.family, summary.role, str(summary.cases), report.percent(summary.median), report.percent(summary.mean)),
            *(report.percent(summary.p90), report.percent(summary.bias, signed=True), f"{summary.in_band}/{summary.cases}"),
            *(str(summary.known_misses), str(summary.coefficients), summary.bases),
        )
        for summary in summaries
    ]
    header = (name, "Role", "Cases", "Median", "Mean", "p90", "Bias", "In band", "Known misses", "Coefficients", "Basis")
    return report.markdown_table(header, body)


def as_latex(rows: Sequence[Row], moves: Sequence[Row], kernels: Sequence[Row] = ()) -> str:
    """The report as the macros that the paper's own script printed, one ``newcommand`` a line."""
    defined = [f"\\newcommand{{\\{name}}}{{{_escaped(text)}}}" for name, text in macros(rows).items()]
    return "\n".join(["% Written by pytest --anchor-report; do not edit.", *defined]) + "\n"


def macros(rows: Sequence[Row]) -> dict[str, str]:
    """All macros by name, in the order of the paper's rows."""
    ordered = sorted(rows, key=lambda row: (row["row"] is None, row["row"] or 0, row["id"]))
    return {name: text for row in ordered for name, text in row["macros"].items()}


def as_html(rows: Sequence[Row], moves: Sequence[Row], kernels: Sequence[Row] = ()) -> str:
    """The report as one self-contained HTML page."""
    return page.render(rows, moves, kernels)


def _escaped(text: str) -> str:
    for special in "&%$#_{}":
        text = text.replace(special, f"\\{special}")
    return text


_FORMATS: dict[str, Callable[[Sequence[Row], Sequence[Row], Sequence[Row]], str]] = {
    ".json": as_json,
    ".md": as_markdown,
    ".tex": as_latex,
    ".html": as_html,
}
