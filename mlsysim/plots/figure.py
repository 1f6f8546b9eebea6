"""What all plots share: how they look, what fields are called on an axis, and the one place that asks for matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysim.core.errors import InputError, MLSysError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES, HEIGHT_INCHES = 7.0, 4.4
DOTS_PER_INCH = 150
# Colours that the colour-blind tell apart (Okabe and Ito 2008, https://jfly.uni-koeln.de/color/), ordered so that neighbours
# also differ in grey; where two things must be told apart, a marker or a hatch says it too.
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
INK, FAINT = "#222222", "#9a9a9a"
COLOURS = (BLUE, ORANGE, GREEN, PINK, VERMILION, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
_LOOK: Any = {
    "font.family": "DejaVu Sans",  # it comes with matplotlib: pictures are the same everywhere
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
}
# Of a title of several lines, so many characters fit beside each other.
_TITLE_WIDTH = 68
_WORDS = {
    "step_latency_total": "time of a step",
    "latency": "time of a batch",
    "itl": "time between two tokens",
    "ttft": "time to first token",
    "request_latency": "time of a request",
    "tokens_per_second": "tokens a second",
    "capacity": "requests a second",
}


@contextmanager
def drawn(title: str, rows: int = 1, height: float = HEIGHT_INCHES) -> Iterator[tuple[Figure, list[Any]]]:
    """A new figure in the look of all plots, and its axes, one below the other on one horizontal axis.

    Raises:
        MLSysError: matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MLSysError("a picture needs matplotlib: pip install 'mlsysim-anchors[plot]'") from None
    with mpl.rc_context(_LOOK):
        figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, layout="constrained")
        axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        figure.suptitle(wrapped(title), x=0.01, ha="left", fontsize=12)
        yield figure, list(axes)


def wrapped(text: str) -> str:
    """Text in lines that fit the width of a plot.

    Example:
        >>> wrapped("short")
        'short'
    """
    return textwrap.fill(text, _TITLE_WIDTH, break_long_words=False)


def called(field: str) -> str:
    """What a field of a result is called on an axis.

    Example:
        >>> called("itl"), called("cost_per_hour")
        ('time between two tokens', 'cost per hour')
    """
    return _WORDS.get(field, field.replace("_", " "))


def look_of(place: int) -> dict[str, str]:
    """Colour and marker of one of several groups.

    Example:
        >>> look_of(0) == look_of(len(COLOURS) * len(MARKERS))
        True
    """
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def log_axes(axes: Any, horizontal: tuple[float, float], vertical: tuple[float, float]) -> None:
    """Make both axes logarithmic, with these ends."""
    axes.set(xscale="log", yscale="log", xlim=horizontal, ylim=vertical)


def plain_log_axis(axis: Any) -> None:
    """Mark an axis at 1, 2 and 5 of each power of ten, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def picture_path(path: str | Path) -> Path:
    """Check where a picture goes, before it is drawn: a file whose ending says the format.

    Raises:
        InputError: the ending is of no such format, or the folder is none.

    Example:
        >>> picture_path("step.svg").suffix
        '.svg'
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError("path", str(path), "a name that ends in .png, .svg or .pdf")
    if not target.parent.is_dir():
        raise InputError("path", str(path), f"a file in a folder that exists: {str(target.parent)!r} is none")
    return target


def save(figure: Any, path: str | Path) -> None:
    """Write a figure to a file whose ending says the format: .png, .svg or .pdf.

    Args:
        figure: what a plot returned.
        path: where it goes.

    Raises:
        InputError: the ending is of no such format, or the folder is none.
    """
    target = picture_path(path)
    # Without a date the same answer gives the same bytes.
    figure.savefig(target, metadata={".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(target.suffix.lower()))
