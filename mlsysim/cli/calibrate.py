"""The command ``mlsysim calibrate``: a shipped stack or serving engine, calibrated to one's own runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlsysim.cli.output import AsJson, AsMarkdown, Document, Notes, Table, at_work, tell
from mlsysim.core.errors import InputError

if TYPE_CHECKING:
    from mlsysim.fitting.own.fit import OwnCalibration


def calibrate(
    runs: Annotated[
        list[Path], typer.Argument(help="Tables of runs (*.csv, with a column value) or files of anchors (*.anchor.toml).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, *.toml.")],
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Fit to your own runs the few coefficients of a stack or an engine that they can tell; the rest stays as shipped.

    Prints how far off each run is as shipped, and by a fit that was not given it. What is written is named like a stack:
    stack="my-stack.toml", and in a table's column framework or engine.
    """
    from mlsysim.fitting.own.fit import calibrated
    from mlsysim.fitting.own.runs import read_runs

    if not output.name.endswith(".toml") or output.name.endswith(".anchor.toml"):
        raise InputError("output", str(output), "a name that ends in .toml")
    with at_work("fitting"):
        calibration = calibrated(read_runs(runs))
    output.write_text(calibration.text(), encoding="utf-8")
    tell(told(calibration, output), as_json=as_json, as_markdown=as_markdown)


def told(calibration: OwnCalibration, output: Path) -> Document:
    """Say what a calibration has found."""
    from mlsysim.validation.report.report import percent, shown
    from mlsysim.validation.report.statistics import quantile

    what = "training" if calibration.kind == "stack" else "serving"
    header = ("run", "as shipped", "calibrated without it")
    errors: list[dict[str, Any]] = [
        {"id": run.id, "shipped": float(before) - 1, "left_out": float(after) - 1}
        for run, before, after in zip(calibration.runs, calibration.shipped, calibration.left_out, strict=True)
    ]
    body: list[tuple[str, ...]] = [
        (run["id"], percent(run["shipped"], signed=True), percent(run["left_out"], signed=True)) for run in errors
    ]
    sizes = [[abs(float(ratio) - 1) for ratio in ratios] for ratios in (calibration.shipped, calibration.left_out)]
    for name, share in (("median", 0.5), ("p90", 0.9)):
        body.append((name, *(percent(quantile(each, share)) for each in sizes)))
    blocks: list[Table | Notes] = [Table(header, body, numbers=header[1:])]
    if sum(sizes[1]) >= sum(sizes[0]):
        blocks.append(
            Notes(["The calibration predicts a run that it has not seen no better than what is shipped: more runs are needed."])
        )
    placed, left = ([one for one in calibration.placed if one.identified is wanted] for wanted in (True, False))
    if placed:
        rows = [
            (one.part, *map(shown, (one.shipped, one.value, one.width)), "at the end of its range" if one.at_bound else "")
            for one in placed
        ]
        blocks.append(Table(("coefficient", "shipped", "calibrated", "+-", ""), rows, numbers=("shipped", "calibrated", "+-")))
    if left:
        title = "not identified by these runs, and near what is shipped; what would place them:"
        blocks.append(Table(("coefficient", "runs"), [(one.part, one.placed_by) for one in left], title))
    written = f'written: {output}; use it as stack="{output}", or in a table as the framework or the engine'
    blocks.append(Notes([written]))
    data: dict[str, Any] = {
        "command": "calibrate",
        "kind": calibration.kind,
        "like": calibration.like,
        "written": str(output),
        "runs": errors,
        "coefficients": [
            {name: getattr(one, name) for name in ("part", "shipped", "value", "width", "identified", "at_bound")}
            for one in calibration.placed
        ],
    }
    return Document(f"{len(calibration.runs)} figures of {what}, calibrated from {calibration.like}", blocks, data)
