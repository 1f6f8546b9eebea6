"""A rate over the number of accelerators: how far adding more of them carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.core.units import time_power
from mlsysim.plots.figure import BLUE, FAINT, INK, called, drawn, plain_log_axis
from mlsysim.solvers.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scaling(results: Sequence[Result], *, of: str = "tokens_per_second") -> Figure:
    """Draw a rate of several results over their accelerators, with intervals, beside the line of ideal scaling.

    Ideal is the rate per accelerator of the smallest result. Results that do not fit are hollow.

    Args:
        results: answers of one solver on two or more numbers of accelerators.
        of: a field that is a rate, such as "tokens_per_second" or "throughput".

    Raises:
        InputError: too few results, two on as many accelerators, or no such rate.
        MLSysError: matplotlib is missing.

    Example:
        >>> from mlsysim import DistributedModel, Fleet, Models, Systems
        >>> fleets = [Fleet(name=f"{n} nodes", node=Systems.Nodes.DGX_H100, count=n) for n in (1, 2, 4)]
        >>> load = dict(batch_size=256, seq_len=8192, stack="megatron-core")
        >>> scaling([DistributedModel().solve(Models.Language.Llama3_8B, one, **load) for one in fleets]).axes[0].get_xlabel()
        'accelerators'
    """
    points = sorted(results, key=_accelerators)
    counts = [_accelerators(one) for one in points]
    if len(set(counts)) < max(2, len(counts)):
        raise InputError("results", counts, "two or more, each on another number of accelerators")
    rates = [_rate(one, of) for one in points]
    ideal = [rates[0] * count / counts[0] for count in counts]
    kept = rates[-1] / ideal[-1]
    facts = [one.facts for one in points if one.facts is not None]
    title = f"{facts[0].model} on {counts[0]:,.0f} to {counts[-1]:,.0f} x {facts[0].accelerator}: {kept:.0%} of ideal scaling"
    with drawn(title) as (figure, (axes,)):
        axes.plot(counts, ideal, color=FAINT, linestyle="--", label=f"ideal: as on {counts[0]:,.0f}")
        axes.plot(counts, rates, color=BLUE, label="predicted", zorder=3)
        intervals: list[Any] = [one.interval_of(of) for one in points]
        if all(intervals):
            ends = [(one.low.magnitude, one.high.magnitude) for one in intervals]
            axes.fill_between(counts, *zip(*ends, strict=True), color=BLUE, alpha=0.2, linewidth=0, label="nine in ten runs")
        for count, rate, best, one in zip(counts, rates, ideal, points, strict=True):
            axes.plot([count], [rate], "o", color=BLUE, markerfacecolor=BLUE if one.feasible else "white", zorder=4)
            mark = f"{rate / best:.0%}" if one.feasible else "does not fit"
            axes.annotate(mark, (count, rate), xytext=(6, -13), textcoords="offset points", fontsize=10, color=INK)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(counts, [f"{count:,.0f}" for count in counts])
        axes.minorticks_off()
        axes.margins(x=0.09)
        plain_log_axis(axes.yaxis)
        axes.set_xlabel("accelerators")
        axes.set_ylabel(called(of) if "second" in of else f"{called(of)} ({getattr(points[0], of).units:~})")
        axes.grid(visible=True)
        axes.legend(loc="upper left")
    return figure


def _accelerators(result: Result) -> float:
    if result.facts is None:
        raise InputError("results", result.solver, "results that say on how many accelerators they are")
    return result.facts.accelerators


def _rate(result: Result, of: str) -> float:
    rates = [name for name, value in vars(result).items() if time_power(value) < 0]
    if of not in rates:
        raise UnknownNameError.among("of", of, rates)
    rate = getattr(result, of)
    if not rate.magnitude:
        raise InconsistentError("of", of, "a rate above zero")
    return float(rate.magnitude)
