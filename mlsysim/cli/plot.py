"""The option ``--plot`` of commands: their answer as a picture in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mlsysim.core.errors import InconsistentError

if TYPE_CHECKING:
    from mlsysim.solvers.result import Result
    from mlsysim.solvers.serving.capacity import CapacityResult

# Answers drawn as the parts of their time, and those drawn as what can be had for what.
WATERFALL, PARETO = ("train", "serve", "why"), ("capacity",)
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Draw the answer to a file, .png, .svg or .pdf.", rich_help_panel="Output")
]


def write(command: str, results: Sequence[Result], path: Path) -> None:
    """Draw the answers of a command to a file.

    Args:
        command: one of ``WATERFALL`` or ``PARETO``.
        results: its answers.
        path: the file, whose ending says the format.

    Raises:
        MLSysError: matplotlib is missing, or the answers are none that can be drawn.
    """
    from mlsysim import plots

    if command in WATERFALL:
        figure = plots.waterfall(*results)
    else:
        if not results[0].feasible:
            raise InconsistentError("--plot", str(path), "a load that some deployment serves within its limits")
        figure = plots.pareto(cast("CapacityResult", results[0]))
    plots.save(figure, path)
