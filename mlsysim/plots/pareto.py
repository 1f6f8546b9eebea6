"""Deployments of a capacity search by what they cost and how long users wait: what can be had for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.plots.figure import FAINT, INK, called, drawn, look_of
from mlsysim.solvers.serving.capacity import CapacityResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

_TIMES = ("itl", "ttft", "request_latency")
# More labels than these cover each other.
_MOST_LABELS = 6


def pareto(found: CapacityResult, *, against: str = "itl") -> Figure:
    """Draw the deployments that a capacity search tells of: cost of a million output tokens against a time.

    Those that no other beats in both are joined by a line; without prices the cost is the number of accelerators.

    Args:
        found: the answer of ``CapacityPlanner``.
        against: "itl", "ttft" or "request_latency".

    Raises:
        InputError: no such time, or an answer without a deployment.
        MLSysError: matplotlib is missing.

    Example:
        >>> from mlsysim import CapacityPlanner, Hardware, Models
        >>> load = dict(request_rate="20 count/s", input_len=1000, output_len=300, stack="vllm-2025", disaggregated=False)
        >>> found = CapacityPlanner().solve(Models.Language.Llama3_8B, [Hardware.Cloud.H100], max_itl="50 ms", **load)
        >>> pareto(found).axes[0].get_ylabel()
        'accelerators'
    """
    if against not in _TIMES:
        raise UnknownNameError.among("against", against, _TIMES)
    rows = _different((*found.front, *found.ranking))
    if not rows:
        raise InputError("found", found.subject, "an answer with a deployment that keeps the limits")
    priced = found.cost_per_million_tokens is not None
    points = [(_time_ms(row, against), _cost(row, priced)) for row in rows]
    best = [place for place, point in enumerate(points) if not any(_beats(other, point) for other in points)]
    best.sort(key=lambda place: points[place])
    kinds = list(dict.fromkeys(f"{row['hardware']}, {row['precision']}" for row in rows))
    unit = "USD" if priced else "accelerators"
    extremes = [points[place] for place in (best[-1], best[0])]
    ends = " to ".join(f"{cost:.3g} {unit} at {time_ms:,.3g} ms" for time_ms, cost in dict.fromkeys(extremes))
    with drawn(f"{found.subject}: {ends}") as (figure, (axes,)):
        axes.plot(*zip(*(points[place] for place in best), strict=True), color=FAINT, drawstyle="steps-post", zorder=1)
        for place, kind in enumerate(kinds):
            mine = [point for point, row in zip(points, rows, strict=True) if f"{row['hardware']}, {row['precision']}" == kind]
            axes.scatter(*zip(*mine, strict=True), s=46, edgecolor=INK, linewidth=0.6, label=kind, **look_of(place))
        # No deployment is cheaper and faster than one on the line: below and left of it there is room for words.
        for place in best[:: max(1, -(-len(best) // _MOST_LABELS))]:
            look: Any = {"xytext": (-7, -5), "textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 9.5}
            axes.annotate(_plan(rows[place]), points[place], color=INK, **look)
        axes.margins(x=0.3, y=0.15)
        share = f"{found.percentile:.0%}" if found.percentile < 1 else "all"
        axes.set_xlabel(f"{called(against)} that {share} of requests keep (ms)")
        axes.set_ylabel("USD for a million output tokens" if priced else "accelerators")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        axes.legend(loc="lower left")
    return figure


def _different(rows: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    for row in rows:
        if row not in seen:
            seen.append(row)
    return seen


def _time_ms(row: Mapping[str, Any], against: str) -> float:
    return float(row[against].m_as("ms"))


def _cost(row: Mapping[str, Any], priced: bool) -> float:
    return float(row["cost_per_million_tokens"].magnitude) if priced else float(row["accelerators"])


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def _plan(row: Mapping[str, Any]) -> str:
    tensor = f"TP {row['tp']}" + (f" PP {row['pp']}" if row["pp"] > 1 else "")
    decoding = f"{row['replicas']} x {tensor}"
    return (
        f"prefill {row['prefill_replicas']} x TP {row['prefill_tp']}\ndecode {decoding}" if row["disaggregated"] else decoding
    )
