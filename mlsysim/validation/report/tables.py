"""The tables that pages of several formats have in common, as text."""

from __future__ import annotations

from collections.abc import Sequence

from mlsysim.validation.report.coverage import ALL, of_kinds, of_known, of_unfitted, of_unknown
from mlsysim.validation.report.report import Table, cells, percent
from mlsysim.validation.report.statistics import KernelSummary, Row


def of_aims(targets: Sequence[Row], emphasis: str = "") -> Table:
    """A line for each aim; of one that is missed it says why, and ``emphasis`` stands about that word.

    Example:
        >>> aim = {"title": "Serving", "measure": "mean", "cases": 3, "found": 0.2, "at_least": False, "limit": 0.1}
        >>> of_aims([{**aim, "held": False, "known_gap": "no kernels"}]).body
        [('Serving', 'mean', '3', '20.00 %', '<= 10.0 %', 'missed: no kernels')]
    """
    body = [
        (
            *(str(row["title"]), str(row["measure"]).replace("_", " "), str(row["cases"]), percent(row["found"], digits=2)),
            f"{'>=' if row['at_least'] else '<='} {percent(row['limit'])}",
            "met" if row["held"] else f"{emphasis}missed{emphasis}: {row['known_gap']}",
        )
        for row in targets
    ]
    return Table(("Rows", "Measure", "Cases", "Found", "Aim", "Standing"), body, left=2)


def of_intervals(rows: Sequence[Row], *, whole: bool) -> Table:
    """How often intervals hold, by family and kind; and, where ``whole``, as all of it must have run, by what was left out."""
    family_of = {str(row["source"]): str(row["family"]) for row in rows}
    judged = [(f"known, {one.name}", one) for one in of_known(family_of)]
    judged += [(f"no fit to {'something, all' if one.name == ALL else one.name}", one) for one in of_unfitted(family_of)]
    judged += [(f"by kind, {one.name}", one) for one in of_kinds(family_of)]
    judged += [(f"new, {one.name}", one) for one in (of_unknown() if whole else ())]
    body = [(name, f"{one.figures:,}", percent(one.covered), f"{one.width:.2f}") for name, one in judged]
    return Table(("Measurements", "Figures, or things left out", "In their interval", "Width"), body)


def of_kernels(name: str, summaries: Sequence[KernelSummary]) -> Table:
    """A line for each group of kernel times, which the first column's ``name`` says what they are."""
    columns = ("family", "role", "cases", "median", "mean", "p90", "bias", "gates", "coefficients")
    body = [cells(summary, columns) for summary in summaries]
    return Table((name, "Role", "Times", "Median", "Mean", "p90", "Bias", "Gates", "Coefficients"), body, left=2)
