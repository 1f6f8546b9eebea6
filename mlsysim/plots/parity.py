"""Predictions against measurements: how far off, and on which side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlsysim.core.errors import InputError
from mlsysim.plots.figure import COLOURS, FAINT, INK, drawn, log_axes, look_of, plain_log_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What was measured is called so in rows of a report and in tables that are predicted.
_MEASURED = ("measured", "value")
_UNITS = ("unit", "metric")
_FACTORS = (1.1, 1.25)
# On a longer axis plain numbers cover each other.
_FEW_DECADES = 1e3
# With more points than this, their intervals cover each other.
_MOST_INTERVALS = 60
_MOST_GROUPS = len(COLOURS) - 1


def parity(rows: Iterable[Mapping[str, Any]], *, by: str = "accelerator") -> Figure:
    """Draw what was predicted over what was measured, with the lines of no error and of errors of 10 and 25 %.

    Args:
        rows: rows of ``predict_table`` whose ``value`` was measured, or of an anchors' report; those without a number in both
            are left out. Of up to 60, intervals are drawn too.
        by: a column whose values get a colour and a marker each, the most frequent ones.

    Raises:
        InputError: no row has a measurement and a prediction.
        MLSysError: matplotlib is missing.

    Example:
        >>> runs = [{"value": 100.0, "predicted": 110.0}, {"value": 40.0, "predicted": 38.0}]
        >>> parity([run | {"metric": "mfu_pct"} for run in runs]).axes[0].get_xlabel()
        'measured (mfu_pct)'
    """
    pairs = _pairs(rows)
    title = _title(pairs)
    units = list(dict.fromkeys(unit for row, _, _ in pairs if (unit := _unit(row))))
    unit = units[0] if len(units) == 1 else "each in its own unit" if units else "no unit stated"
    with drawn(title, height=5.6) as (figure, (axes,)):
        values = [value for _, *both in pairs for value in both]
        least, largest = 0.8 * min(values), 1.25 * max(values)
        ends = (least, largest)
        axes.plot(ends, ends, color=INK, linewidth=1)
        for factor, style in zip(_FACTORS, ("--", ":"), strict=True):
            for side in (factor, 1 / factor):
                label = f"{factor - 1:.0%} off" if side == factor else None
                axes.plot(ends, [side * end for end in ends], color=FAINT, linestyle=style, linewidth=1, label=label)
        for place, (name, mine) in enumerate(_groups(pairs, by).items()):
            _, measured, predicted = zip(*mine, strict=True)
            look: Any = {"s": 26, "alpha": 0.75, "edgecolor": INK, "linewidth": 0.4, "zorder": 3, **look_of(place)}
            axes.scatter(measured, predicted, label=name or None, **look)
        if len(pairs) <= _MOST_INTERVALS:
            for row, value, _ in pairs:
                if interval := _interval(row):
                    axes.plot([value, value], interval, color=FAINT, linewidth=1, zorder=2)
        log_axes(axes, ends, ends)
        if largest / least < _FEW_DECADES:
            plain_log_axis(axes.xaxis)
            plain_log_axis(axes.yaxis)
        axes.set_xlabel(f"measured ({unit})")
        axes.set_ylabel(f"predicted ({unit})")
        axes.grid(visible=True)
        axes.legend(loc="upper left")
    return figure


def parity_title(rows: Iterable[Mapping[str, Any]]) -> str:
    """What ``parity`` says above its plot: how many predictions there are, and how far off they are.

    Raises:
        InputError: no row has a measurement and a prediction.

    Example:
        >>> parity_title([{"value": 100.0, "predicted": 110.0}])
        '1 predictions against measurements: half within 10.0%, nine in ten within 10.0%'
    """
    return _title(_pairs(rows))


def _pairs(rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    pairs = [(row, *pair) for row in rows if (pair := _pair(row))]
    if not pairs:
        raise InputError("rows", "none", "rows with a number that was measured (value) and one that was predicted")
    return pairs


def _title(pairs: list[Any]) -> str:
    off = sorted(abs(predicted / measured - 1) for _, measured, predicted in pairs)
    half, most = statistics.median(off), off[math.ceil(0.9 * len(off)) - 1]
    return f"{len(pairs):,} predictions against measurements: half within {half:.1%}, nine in ten within {most:.1%}"


def _number(value: object) -> float | None:
    """A cell as a positive number, else None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _pair(row: Mapping[str, Any]) -> tuple[float, float] | None:
    measured = next((number for name in _MEASURED if (number := _number(row.get(name))) is not None), None)
    predicted = _number(row.get("predicted"))
    return None if measured is None or predicted is None else (measured, predicted)


def _unit(row: Mapping[str, Any]) -> str:
    return next((str(row[name]) for name in _UNITS if row.get(name)), "")


def _interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    names = ("expected_low", "expected_high") if "expected_low" in row else ("low", "high")
    low, high = (_number(row.get(name)) for name in names)
    return None if low is None or high is None else (low, high)


def _groups(pairs: list[Any], by: str) -> dict[str, list[Any]]:
    """The points of each value of a column, the most frequent first; those of rare values together."""
    groups: dict[str, list[Any]] = {}
    for pair in pairs:
        groups.setdefault(str(pair[0].get(by) or ""), []).append(pair)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    if len(ordered) <= _MOST_GROUPS + 1:
        return dict(ordered)
    rest = [pair for _, mine in ordered[_MOST_GROUPS:] for pair in mine]
    return dict(ordered[:_MOST_GROUPS]) | {f"{len(ordered) - _MOST_GROUPS} others": rest}
