"""Other estimators beside ours, on the same cases: how far off each is where it predicts at all."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from mlsysim.validation.report.report import Table, percent, table
from mlsysim.validation.report.statistics import Row, pooled

_HEADER = ("Estimator", "family", "cases", "ours: median", "p90", "its: median", "p90", "not told")


def compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compare each estimator with ours, by family, on the validation cases that it predicts.

    Returns:
        A record an estimator and family: how many ``cases`` it predicts, how many not (``untold``) with the first
        ``reason``, and the ``median`` and ``p90`` of ``ours`` and of ``its`` errors there.

    Example:
        >>> row = {"family": "training", "role": "validation", "error": 0.1}
        >>> told = {"naive": {"predicted": 3.0, "error": -0.4, "reason": ""}}
        >>> compared([row | {"estimates": told}])[0]["its"]
        {'median': 0.4, 'p90': 0.4}
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["role"] == "validation" and row["error"] is not None:
            for name in row.get("estimates", ()):
                groups.setdefault((name, str(row["family"])), []).append(row)
    return [_record(name, family, groups[name, family]) for name, family in sorted(groups)]


def _record(name: str, family: str, rows: Sequence[Row]) -> dict[str, Any]:
    told = [row for row in rows if row["estimates"][name]["error"] is not None]
    reasons = [row["estimates"][name]["reason"] for row in rows if row["estimates"][name]["error"] is None]
    record: dict[str, Any] = {"estimator": name, "family": family, "cases": len(told), "untold": len(reasons)}
    record["reason"] = reasons[0] if reasons else ""
    record["ours"] = _two([float(row["error"]) for row in told])
    return record | {"its": _two([float(row["estimates"][name]["error"]) for row in told])}


def _two(errors: Sequence[float]) -> dict[str, float | None]:
    figures = pooled(errors)
    return {name: figures[name] for name in ("median", "p90")}


def lines(rows: Sequence[Row]) -> list[str]:
    """Write the comparison for a terminal: a line a family, and one for all of which an estimator predicts nothing."""
    comparisons = compared(rows)
    body = [_cells(one) for one in comparisons if one["cases"]]
    silent: dict[str, list[dict[str, Any]]] = {}
    for one in comparisons:
        if not one["cases"]:
            silent.setdefault(one["estimator"], []).append(one)
    told = [
        f"{name} predicts none of {sum(one['untold'] for one in ones):,} cases of {', '.join(one['family'] for one in ones)}: "
        f"{ones[0]['reason']}"
        for name, ones in silent.items()
    ]
    return [
        *(table(_HEADER, body, left=2) if body else ()),
        *(wrapped for line in told for wrapped in textwrap.wrap(line, 100)),
    ]


def of_estimators(rows: Sequence[Row]) -> Table:
    """The comparison as a table, which is empty where no other estimator was asked."""
    return Table(_HEADER, [_cells(one) for one in compared(rows)], left=2)


def as_markdown(rows: Sequence[Row]) -> list[str]:
    """Write the comparison as a section in Markdown; none where no other estimator was asked."""
    summaries = of_estimators(rows)
    return ["## Beside other estimators", summaries.as_markdown()] if summaries.body else []


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    errors = (percent(one[who][measure]) for who in ("ours", "its") for measure in ("median", "p90"))
    return (str(one["estimator"]), str(one["family"]), f"{one['cases']:,}", *errors, f"{one['untold']:,}")
