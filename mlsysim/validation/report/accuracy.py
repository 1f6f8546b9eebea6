"""The accuracy page: aims, families, sources, a naive baseline, sources left out of the fit, the worst cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlsysim.calibration.evidence import FITTED_BASES
from mlsysim.validation.anchors.estimators import NAIVE_MFU
from mlsysim.validation.report import tables
from mlsysim.validation.report.findings import Findings
from mlsysim.validation.report.report import markdown_table, percent, said
from mlsysim.validation.report.statistics import (
    KernelSummary,
    Row,
    Summary,
    kernels_by_family,
    pooled,
    quantile,
    summarise,
    total,
)

WORST = 10


def write(path: Path, findings: Findings) -> None:
    """Write the accuracy page to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(findings), encoding="utf-8")


def as_markdown(findings: Findings) -> str:
    """The accuracy page as Markdown; sections about what did not run are left out."""
    rows, left_out, serving_left_out = findings.rows, findings.left_out, findings.serving_left_out
    parts = [said("head"), total(rows, findings.kernels), *_without(left_out, rows), *_aims(findings.targets)]
    parts += [*_groups("family", rows), *_groups("source", rows)]
    parts += [
        *_coverage(rows, whole=bool(left_out and serving_left_out)),
        *_naive(rows),
        *_serving_without(serving_left_out),
        *_worst(rows),
        *_recalled(findings.recalled),
        *_kernels(findings.kernels),
    ]
    return "\n\n".join(parts) + "\n"


def _recalled(runs: Sequence[Row]) -> list[str]:
    """Runs that are no anchors, since something that decides their speed is quoted from memory."""
    body = [
        (
            *(f"`{run['id']}`", str(run["metric"]), f"{run['value']:,.0f}", f"{run['predicted']:,.0f}"),
            *(percent(run["predicted"] / run["value"] - 1, signed=True), str(run["recalled"])),
        )
        for run in runs
    ]
    header = ("Run", "Metric", "Published", "Predicted", "Error", "Recalled")
    return ["## Runs that are partly recalled", said("recalled"), markdown_table(header, body)] if body else []


def _aims(targets: Sequence[Row]) -> list[str]:
    if not targets:
        return []
    met = sum(bool(row["held"]) for row in targets)
    head = f"{met} of {len(targets)} aims are met. They stand in `anchors/targets.toml`; those of kernels follow at the end."
    return ["## Aims", head, tables.of_aims(targets, "**").as_markdown()]


def _groups(column: str, rows: Sequence[Row]) -> list[str]:
    """A table with calibration and validation side by side; families and sources without either are in docs/anchors.md."""
    fitted = [row for row in rows if row["role"] in ("calibration", "validation")]
    body = []
    for name in sorted({str(row[column]) for row in fitted}):
        group = [row for row in fitted if row[column] == name]
        pair = [summarise(name, role, [row for row in group if row["role"] == role]) for role in ("calibration", "validation")]
        body.append(
            (
                *(name, " / ".join(str(one.cases) for one in pair), *_pairs(pair)),
                *(_pair(pair, "balanced_accuracy"), str(summarise(name, "", group).coefficients)),
                summarise(name, "", group).bases,
            )
        )
    header = (column.capitalize(), "Cases", "Median", "Mean", "p90", "Bias", "Balanced accuracy", "Coefficients", "Basis")
    return [f"## Errors by {column}, calibration / validation", markdown_table(header, body)] if body else []


def _pairs(pair: Sequence[Summary | KernelSummary]) -> list[str]:
    """The errors of both roles of a group, side by side."""
    return [*(_pair(pair, name) for name in ("median", "mean", "p90")), _pair(pair, "bias", signed=True)]


def _pair(pair: Sequence[Summary | KernelSummary], name: str, *, signed: bool = False) -> str:
    numbers = [getattr(one, name) for one in pair]
    return "-" if numbers == [None, None] else " / ".join(percent(one, signed=signed) for one in numbers)


def _coverage(rows: Sequence[Row], *, whole: bool) -> list[str]:
    """The section on intervals; what was left out of fits only where all of it ran."""
    table = tables.of_intervals(rows, whole=whole)
    return ["## Intervals", said("intervals"), table.as_markdown()] if table.body else []


def _naive(rows: Sequence[Row]) -> list[str]:
    compared = [row for row in rows if row["naive"] is not None and row["role"] == "validation"]
    if not compared:
        return []
    groups = {name: [row for row in compared if row["source"] == name] for name in sorted({row["source"] for row in compared})}
    body = [
        (name, str(len(group)), *_three(row["error"] for row in group), *_three(row["naive"] for row in group))
        for name, group in [*groups.items(), ("all of them", compared)]
    ]
    header = ("Source", "Cases", "Median", "Mean", "p90", "naive: Median", "Mean", "p90")
    return ["## Beside half of peak", said("naive").format(share=100 * NAIVE_MFU), markdown_table(header, body)]


def _three(errors: Iterable[float]) -> list[str]:
    figures = pooled(list(errors))
    return [percent(figures[name]) for name in ("median", "mean", "p90")]


def _without(left_out: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    if not left_out:
        return []
    body, medians = [], []
    for entry in left_out:
        single = entry["without"] == [entry["id"]]
        fitted = [abs(row["error"]) for row in rows if row["source"] == entry["id"] and row["error"] is not None]
        name = entry["id"] if single else f"{', '.join(entry['cases'])} without {', '.join(entry['without'])}"
        errors: dict[str, Any] = entry["errors"]
        medians += [errors["median"]] if single else []
        body.append((name, *_of_errors(errors), percent(quantile(fitted, 0.5))))
    header = ("Source", "Rows", "Median", "Mean", "p90", "Bias", "Median when its calibration rows are fitted")
    told = f"Median of the {len(medians)} sources' medians: {percent(quantile(medians, 0.5), digits=2)}."
    return ["## A source never seen: each training source without itself", said("left_out"), told, markdown_table(header, body)]


def _serving_without(entries: Sequence[Row]) -> list[str]:
    """The section on serving: each device, engine, model and source without itself, and all of a kind together."""
    if not entries:
        return []
    together = [entry for entry in entries if "without" not in entry]
    single = [entry for entry in entries if "without" in entry]
    body = []
    for entry in sorted(together, key=lambda one: str(one["kind"])) + sorted(single, key=lambda one: (one["kind"], one["id"])):
        name = entry.get("without", f"**each {entry['kind']}**")
        body.append((str(entry["kind"]), name, *_of_errors(entry["errors"]), *_of_errors(entry["first_token"])[:2]))
    header = ("Kind", "Without", "Rows", "Median", "Mean", "p90", "Bias", "First token: rows", "Median")
    return [
        "## Serving without a device, an engine, a model or a source",
        said("serving_left_out"),
        markdown_table(header, body),
    ]


def _of_errors(errors: Row) -> tuple[str, ...]:
    if not errors["points"]:
        return ("0", *("-",) * 4)
    numbers = (percent(errors[part]) for part in ("median", "mean", "p90"))
    return (str(errors["points"]), *numbers, percent(errors["bias"], signed=True))


def _worst(rows: Sequence[Row]) -> list[str]:
    """Sections on the worst validation cases, those with a calibrated stack apart: a bound predicts no real run."""
    parts = []
    validation = [row for row in rows if row["role"] == "validation" and row["error"] is not None]
    for title, calibrated in (("calibrated", True), ("of a plain bound, law or identity", False)):
        worst = sorted(
            (row for row in validation if (row["basis"] in FITTED_BASES) == calibrated),
            key=lambda row: (-abs(row["error"]), row["id"]),
        )[:WORST]
        body = [
            (
                f"`{row['id']}`",
                percent(row["error"], signed=True),
                f"{row['stack'] or '-'} on {row['accelerator'] or '-'}",
                str(row["known_miss"] or "in band"),
            )
            for row in worst
        ]
        if body:
            parts += [
                f"## The worst validation cases, {title}",
                markdown_table(("Case", "Error", "Ran", "What it suggests"), body),
            ]
    return parts


def _kernels(kernels: Sequence[Row]) -> list[str]:
    if not kernels:
        return []
    summaries = kernels_by_family(kernels)
    body = []
    for name in sorted({summary.family for summary in summaries}):
        pair = [
            next(one for one in summaries if (one.family, one.role) == (name, role)) for role in ("calibration", "validation")
        ]
        body.append((name, " / ".join(f"{one.cases:,}" for one in pair), *_pairs(pair), str(pair[1].coefficients)))
    gates = sorted((gate for row in kernels for gate in row["gates"]), key=lambda gate: str(gate["id"]))
    judged = [(f"`{gate['id']}`", percent(gate["found"]), f"<= {percent(gate['limit'])}", _standing(gate)) for gate in gates]
    met = sum(bool(gate["held"]) for gate in gates)
    parts = ["## Kernels by family, calibration / validation"]
    parts.append(markdown_table(("Family", "Times", "Median", "Mean", "p90", "Bias", "Coefficients"), body))
    told = f"{met} of {len(gates)} are met, each by the validation rows of a table; they stand in `anchors/kernels/gates.toml`."
    return [*parts, "## Aims of kernels", told, markdown_table(("Table and aim", "Found", "Aim", "Standing"), judged)]


def _standing(gate: Row) -> str:
    return "met" if gate["held"] else f"**missed**: {gate['known_gap']}"
