"""The command ``mlsysim calibrate``: a shipped stack or serving engine, calibrated to one's own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlsysim.core.errors import InputError
from mlsysim.fitting.own.fit import OwnCalibration, Placed, calibrated
from mlsysim.fitting.own.runs import read_runs
from mlsysim.validation.report.report import percent, shown, table
from mlsysim.validation.report.statistics import quantile


def calibrate(
    runs: Annotated[
        list[Path], typer.Argument(help="Tables of runs (*.csv, with a column value) or files of anchors (*.anchor.toml).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, *.toml.")],
) -> None:
    """Fit to your own runs the few coefficients of a stack or an engine that they can tell; the rest stays as shipped.

    Prints how far off each run is as shipped, and by a fit that was not given it. What is written is named like a stack:
    stack="my-stack.toml", and in a table's column framework or engine.
    """
    if not output.name.endswith(".toml") or output.name.endswith(".anchor.toml"):
        raise InputError("output", str(output), "a name that ends in .toml")
    found = calibrated(read_runs(runs))
    output.write_text(found.text(), encoding="utf-8")
    for line in told(found):
        typer.echo(line)
    typer.echo(f'written: {output}; use it as stack="{output}", or in a table as the framework or the engine')


def told(found: OwnCalibration) -> list[str]:
    """Say what a calibration has found, in lines.

    Args:
        found: the calibration.
    """
    what = "training" if found.kind == "stack" else "serving"
    lines = [f"{len(found.runs)} figures of {what}, calibrated from {found.like}", ""]
    header = ("run", "as shipped", "calibrated without it")
    body: list[tuple[str, ...]] = [
        (run.id, percent(before - 1, signed=True), percent(after - 1, signed=True))
        for run, before, after in zip(found.runs, found.shipped, found.left_out, strict=True)
    ]
    sizes = [[abs(float(ratio) - 1) for ratio in ratios] for ratios in (found.shipped, found.left_out)]
    for name, share in (("median", 0.5), ("p90", 0.9)):
        body.append((name, *(percent(quantile(each, share)) for each in sizes)))
    lines += [*table(header, body), ""]
    if sum(sizes[1]) >= sum(sizes[0]):
        lines += [
            "The calibration predicts a run that it has not seen no better than what is shipped: more runs are needed.",
            "",
        ]
    placed = [_placed(one) for one in found.placed if one.identified]
    lines += table(("coefficient", "shipped", "calibrated", "+-", ""), placed) if placed else []
    left = [one for one in found.placed if not one.identified]
    if left:
        lines += ["", "not identified by these runs, and near what is shipped; what would place them:"]
        lines += table(("coefficient", "runs"), [(one.part, one.placed_by) for one in left])
    return [*lines, ""]


def _placed(one: Placed) -> tuple[str, ...]:
    return (one.part, shown(one.shipped), shown(one.value), shown(one.width), "at the end of its range" if one.at_bound else "")
