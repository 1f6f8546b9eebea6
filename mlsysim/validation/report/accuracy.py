"""The accuracy page: aims, families, sources, a naive baseline, sources left out of the fit, the worst cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mlsysim.calibration.evidence import FITTED_BASES
from mlsysim.validation.anchors.estimators import NAIVE_MFU
from mlsysim.validation.report import tables
from mlsysim.validation.report.report import markdown_table, percent
from mlsysim.validation.report.statistics import Row, Summary, kernels_by_family, pooled, quantile, summarise, total

WORST = 10
_HEAD = """\
# Accuracy

How far predictions are from published measurements: |predicted / measured - 1|; bias is the mean of the signed error.
Calibration cases may be fitted, validation cases never are; "calibration / validation" stand side by side, and known misses
count in every number. Written by `pytest anchors --accuracy-report=docs/accuracy.md`; a test fails when a prediction has moved
and the page has not."""
_NAIVE = f"""\
Model FLOP (causal attention once, no recomputation) over {100 * NAIVE_MFU:.0f} % of the peak of the accelerators, whatever the
plan and the stack: the calculation on the back of an envelope, on the same validation cases and in the same metric."""
_RECALLED = """\
Published runs of which something that decides their speed is quoted from memory. They are no anchors: nothing is fitted to
them, and nothing is judged by them. They stand in `anchors/recalled.toml` with their sources."""
_LEFT_OUT = """\
What a reader's own runs are most like. Stacks and sustained clocks are fitted again to the calibration cases of all other
sources; what no other source identifies stands at the median of the others. All rows of the source are then predicted, in both
roles. The fits are kept in `anchors/left_out.toml`, written by `python -m mlsysim.fitting refresh`; a test fails when they give
other errors today."""

_SERVING_LEFT_OUT = """\
Engines and devices are fitted again to the calibration cases without those of one device, engine, model or source; all of its
rows are then predicted, in both roles. A device without figures has the median of its peers' shares, an engine without figures
is the one engine that fits those of its peers together (`peers` of the calibration files). Rows: decode steps and whole
batches; times to the first token stand beside them. The fits are kept in `anchors/serving_left_out.toml`, written by
`python -m mlsysim.fitting refresh`; a test fails when they give other errors today."""


COVERAGE = """\
Each calibrated prediction has an interval that is meant to hold nine in ten measurements, from the errors of validation runs of
its stack, accelerator and kind of model, or of a wider scope where these are fewer than twenty. Known: each tenth of the runs
against intervals from the other nine. New: each source, stack, device and model that a fit was not given, against intervals
from the others that were left out, every one of them weighing the same. Width: the median of high / low."""


def write(
    path: Path,
    rows: Sequence[Row],
    kernels: Sequence[Row],
    targets: Sequence[Row],
    left_out: Sequence[Row],
    serving_left_out: Sequence[Row] = (),
) -> None:
    """Write the accuracy page to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(rows, kernels, targets, left_out, serving_left_out), encoding="utf-8")


def as_markdown(
    rows: Sequence[Row],
    kernels: Sequence[Row],
    targets: Sequence[Row],
    left_out: Sequence[Row],
    serving_left_out: Sequence[Row] = (),
    recalled: Sequence[Row] = (),
) -> str:
    """The accuracy page as Markdown; sections about what did not run are left out."""
    parts = [_HEAD, total(rows, kernels), *_without(left_out, rows), *_aims(targets)]
    parts += [*_groups("family", rows), *_groups("source", rows)]
    parts += [
        *_coverage(rows, whole=bool(left_out and serving_left_out)),
        *_naive(rows),
        *_serving_without(serving_left_out),
        *_worst(rows),
        *_recalled(recalled),
        *_kernels(kernels),
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
    return ["## Runs that are partly recalled", _RECALLED, markdown_table(header, body)] if body else []


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
                *(name, " / ".join(str(one.cases) for one in pair), _pair(pair, lambda one: one.median)),
                *(_pair(pair, lambda one: one.mean), _pair(pair, lambda one: one.p90), _pair(pair, lambda one: one.bias, True)),
                *(_pair(pair, lambda one: one.balanced_accuracy), str(summarise(name, "", group).coefficients)),
                summarise(name, "", group).bases,
            )
        )
    header = (column.capitalize(), "Cases", "Median", "Mean", "p90", "Bias", "Balanced accuracy", "Coefficients", "Basis")
    return [f"## Errors by {column}, calibration / validation", markdown_table(header, body)] if body else []


def _pair(pair: Iterable[Summary], value: Callable[[Summary], float | None], signed: bool = False) -> str:
    numbers = [value(one) for one in pair]
    return "-" if numbers == [None, None] else " / ".join(percent(one, signed=signed) for one in numbers)


def _coverage(rows: Sequence[Row], *, whole: bool) -> list[str]:
    """The section on intervals; what was left out of fits only where all of it ran."""
    table = tables.of_intervals(rows, whole=whole)
    return ["## Intervals", COVERAGE, table.as_markdown()] if table.body else []


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
    return ["## Beside half of peak", _NAIVE, markdown_table(header, body)]


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
        numbers = (percent(errors[part]) for part in ("median", "mean", "p90"))
        bias = percent(errors["bias"], signed=True)
        body.append((name, str(errors["points"]), *numbers, bias, percent(quantile(fitted, 0.5))))
    header = ("Source", "Rows", "Median", "Mean", "p90", "Bias", "Median when its calibration rows are fitted")
    told = f"Median of the {len(medians)} sources' medians: {percent(quantile(medians, 0.5), digits=2)}."
    return ["## A source never seen: each training source without itself", _LEFT_OUT, told, markdown_table(header, body)]


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
    return ["## Serving without a device, an engine, a model or a source", _SERVING_LEFT_OUT, markdown_table(header, body)]


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
                _why(row),
            )
            for row in worst
        ]
        if body:
            parts += [
                f"## The worst validation cases, {title}",
                markdown_table(("Case", "Error", "Ran", "What it suggests"), body),
            ]
    return parts


def _why(row: Row) -> str:
    return str(row["known_miss"] or "in band")


def _kernels(kernels: Sequence[Row]) -> list[str]:
    if not kernels:
        return []
    summaries = kernels_by_family(kernels)
    body = []
    for name in sorted({summary.family for summary in summaries}):
        pair = [
            next(one for one in summaries if (one.family, one.role) == (name, role)) for role in ("calibration", "validation")
        ]
        three = [" / ".join(percent(value) for value in values) for values in _columns(pair)]
        signed = " / ".join(percent(one.bias, signed=True) for one in pair)
        body.append((name, " / ".join(f"{one.cases:,}" for one in pair), *three, signed, str(pair[1].coefficients)))
    gates = sorted((gate for row in kernels for gate in row["gates"]), key=lambda gate: str(gate["id"]))
    judged = [(f"`{gate['id']}`", percent(gate["found"]), f"<= {percent(gate['limit'])}", _standing(gate)) for gate in gates]
    met = sum(bool(gate["held"]) for gate in gates)
    parts = ["## Kernels by family, calibration / validation"]
    parts.append(markdown_table(("Family", "Times", "Median", "Mean", "p90", "Bias", "Coefficients"), body))
    told = f"{met} of {len(gates)} are met, each by the validation rows of a table; they stand in `anchors/kernels/gates.toml`."
    return [*parts, "## Aims of kernels", told, markdown_table(("Table and aim", "Found", "Aim", "Standing"), judged)]


def _columns(pair: Sequence[Any]) -> list[list[float | None]]:
    return [[getattr(one, name) for one in pair] for name in ("median", "mean", "p90")]


def _standing(gate: Row) -> str:
    return "met" if gate["held"] else f"**missed**: {gate['known_gap']}"
