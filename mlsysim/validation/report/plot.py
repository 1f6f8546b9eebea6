"""The errors as a picture: one line for each source, one dot for each case. It needs matplotlib (the ``plot`` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlsysim.core.errors import MLSysError
from mlsysim.validation.report.statistics import Row

_COLOURS = {"calibration": "tab:gray", "validation": "tab:blue", "exact": "tab:green", "paper": "tab:orange"}
# Errors beyond this are drawn at the edge.
_WIDEST = 1.0


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the relative errors of ``rows``, by source and role, to ``path``.

    Raises:
        MLSysError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MLSysError(f"{path.name}: a picture needs matplotlib: pip install 'mlsysim-anchors[plot]'") from None
    measured = [row for row in rows if row["error"] is not None]
    sources = sorted({str(row["source"]) for row in measured}, reverse=True)
    figure = Figure(figsize=(9, 1 + 0.3 * len(sources)), layout="constrained")
    axes = figure.add_subplot()
    for role, colour in _COLOURS.items():
        chosen = [row for row in measured if row["role"] == role]
        errors = [100 * max(-_WIDEST, min(_WIDEST, float(row["error"]))) for row in chosen]
        lines = [sources.index(str(row["source"])) for row in chosen]
        axes.scatter(errors, lines, s=9, alpha=0.5, color=colour, label=role, linewidths=0)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(sources)), sources)
    axes.set_xlabel("predicted / measured - 1, in % (beyond 100 % at the edge)")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
