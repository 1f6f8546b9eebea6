"""The parts of a result one after another, up to the whole: where the time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.plots.figure import BLUE, FAINT, INK, ORANGE, called, drawn, wrapped
from mlsysim.solvers.result import Result
from mlsysim.solvers.shown import readable_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_INCHES = 0.34
# A part below this share of the whole is no bar that anyone sees.
_LEAST_SHARE = 5e-4


def waterfall(*results: Result) -> Figure:
    """Draw the breakdown of a result as bars that begin where the one before ends; several below each other, to compare.

    The last bar is the whole, with its interval where the result has one. Parts that are below 0.05 % in all results are left
    out.

    Args:
        *results: one or more with a breakdown in the same unit.

    Raises:
        InputError: a result has no breakdown, or they are of different things.
        MLSysError: matplotlib is missing.

    Example:
        >>> from mlsysim import DistributedModel, Fleet, Models, Systems
        >>> fleet = Fleet(name="8 H100", node=Systems.Nodes.DGX_H100, count=1)
        >>> step = DistributedModel().solve(Models.Language.Llama3_8B, fleet, batch_size=64, efficiency=0.5)
        >>> waterfall(step).axes[0].get_xlabel()
        'time of a step (second)'
    """
    if not results:
        raise InputError("results", (), "at least one result")
    for one in results:
        if not one.breakdown or not sum(part.magnitude for part in one.breakdown.values()):
            raise InputError("results", one.solver, "one with a breakdown")
    dimensions = {str(next(iter(one.breakdown.values())).dimensionality) for one in results}
    if len(dimensions) > 1 or len({one.INTERVAL_OF for one in results}) > 1:
        raise InconsistentError("results", [one.solver for one in results], "breakdowns of the same thing")
    unit = readable_unit(max((_whole(one) for one in results), key=lambda whole: float(whole.magnitude)))
    names = _parts(results)
    height = 1.2 + sum(_ROW_INCHES * (len(names) + 1) + 0.35 for _ in results)
    several = f"Where the {called(results[0].INTERVAL_OF)} goes: {results[0].subject}"
    title = several if len(results) > 1 else _title(results[0])
    with drawn(title, len(results), height) as (figure, rows):
        for axes, one in zip(rows, results, strict=True):
            _bars(axes, one, names, unit)
            if len(results) > 1:
                axes.set_title(wrapped(_apart(one, results)), fontsize=10.5, x=0.0)
        right = max(axes.get_xlim()[1] for axes in rows)
        rows[-1].set_xlim(0, right)
        rows[-1].set_xlabel(f"{called(results[0].INTERVAL_OF)} ({unit})")
    return figure


def _whole(result: Result) -> Any:
    return sum(result.breakdown.values())


def _parts(results: tuple[Result, ...]) -> list[str]:
    """The parts that are to be seen in any of the results, in their order."""
    names = dict.fromkeys(name for one in results for name in one.breakdown)
    return [
        name
        for name in names
        if any(name in one.breakdown and one.breakdown[name] / _whole(one) > _LEAST_SHARE for one in results)
    ]


def _title(result: Result) -> str:
    largest = max(result.breakdown, key=lambda name: float(result.breakdown[name].magnitude))
    share = float((result.breakdown[largest] / _whole(result)).m_as("dimensionless"))
    state = "" if result.feasible else " (it does not fit)"
    return f"{result.subject}{state}: {share:.0%} is {largest.replace('_', ' ')}"


def _apart(result: Result, others: tuple[Result, ...]) -> str:
    """What tells a result from the others: the entries of its plan that differ, and its title where that differs."""
    plans = [getattr(one, "plan", {}) for one in others]
    mine = getattr(result, "plan", {})
    differs = [f"{name.replace('_', ' ')} {mine[name]}" for name in mine if any(plan.get(name) != mine[name] for plan in plans)]
    subject = [result.subject] if len({one.subject for one in others}) > 1 or not differs else []
    whole = float(_whole(result).magnitude)
    first = float(_whole(others[0]).magnitude)
    times = [] if result is others[0] else [f"{whole / first:.2f} of the first"]
    return ", ".join([*subject, *differs, *times])


def _bars(axes: Any, result: Result, names: list[str], unit: str) -> None:
    whole = float(_whole(result).m_as(unit))
    sizes = [float(result.breakdown[name].m_as(unit)) if name in result.breakdown else 0.0 for name in names]
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    rows = list(range(len(names), 0, -1))
    largest = [size == max(sizes) for size in sizes]
    begins = [end - size for end, size in zip(ends, sizes, strict=True)]
    axes.barh(
        rows, sizes, left=begins, height=0.7, color=[ORANGE if one else BLUE for one in largest], edgecolor=INK, linewidth=0.6
    )
    axes.barh([0], [whole], height=0.7, color=FAINT, edgecolor=INK, linewidth=0.6)
    for row, end in zip(rows, ends, strict=True):
        axes.plot([end, end], [row - 0.65, row - 0.35], color=INK, linewidth=0.6)
    told = [f"{name.replace('_', ' ')}  {size:,.3g}  {size / whole:5.1%}" for name, size in zip(names, sizes, strict=True)]
    axes.set_yticks([*rows, 0], [*told, f"the whole  {whole:,.4g}  100%"])
    right, interval = whole, result.interval
    if interval is not None:
        low, high = (_number(end, unit) for end in (interval.low, interval.high))
        axes.errorbar([whole], [0], xerr=[[whole - low], [high - whole]], color=INK, capsize=4, linewidth=1.3)
        axes.text(0.01 * whole, 0, f"nine in ten: {interval.range}", va="center", fontsize=10)
        right = max(whole, high)
    axes.set_ylim(-0.6, len(names) + 0.6)
    axes.set_xlim(0, 1.03 * right)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)


def _number(end: Any, unit: str) -> float:
    return float(end.m_as(unit)) if hasattr(end, "m_as") else float(end)
