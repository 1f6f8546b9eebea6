"""The errors as a picture: one line for each source, one dot for each case. It needs matplotlib (the ``plot`` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlsysim.plots.figure import BLUE, FAINT, GREEN, INK, ORANGE, drawn, save
from mlsysim.validation.report.statistics import Row

_LOOKS = {"calibration": (FAINT, "."), "validation": (BLUE, "o"), "exact": (GREEN, "s"), "paper": (ORANGE, "D")}
# Errors beyond this are drawn at the edge.
_WIDEST = 1.0


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the relative errors of ``rows``, by source and role, to ``path``.

    Raises:
        MLSysError: matplotlib is missing.
    """
    measured = [row for row in rows if row["error"] is not None]
    sources = sorted({str(row["source"]) for row in measured}, reverse=True)
    with drawn(f"Errors of {len(measured):,} figures of {len(sources)} sources", height=1.6 + 0.24 * len(sources)) as (
        figure,
        (axes,),
    ):
        for role, (colour, marker) in _LOOKS.items():
            chosen = [row for row in measured if row["role"] == role]
            errors = [100 * max(-_WIDEST, min(_WIDEST, float(row["error"]))) for row in chosen]
            lines = [sources.index(str(row["source"])) for row in chosen]
            axes.scatter(errors, lines, s=12, alpha=0.6, color=colour, marker=marker, label=role, linewidths=0)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(sources)), sources)
        axes.set_ylim(-0.7, len(sources) - 0.3)
        axes.set_xlabel("predicted / measured - 1, in % (beyond 100 % at the edge)")
        axes.legend(loc="lower right")
    save(figure, path)
