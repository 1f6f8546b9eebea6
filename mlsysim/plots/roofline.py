"""The kernels of a step under the roof of its accelerator: what arithmetic limits, what memory, and what neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlsysim.core.errors import InputError
from mlsysim.physics.kernels.roofline import KernelWork, roofline_s
from mlsysim.plots.figure import FAINT, INK, drawn, log_axes, look_of, plain_log_axis
from mlsysim.solvers.shown import shown
from mlsysim.solvers.step_kernels import StepKernels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_HOLLOW = "backward"

# A dot whose kernel takes all of the step has this area, in points squared; none is smaller than the least.
_WHOLE_AREA, _LEAST_AREA = 900.0, 28.0
# Kernels that take less of the step than this are dots that say nothing.
_LEAST_SHARE = 0.002
_TERA = 1e12


def roofline(step: StepKernels) -> Figure:
    """Draw what each kernel reaches over its arithmetic intensity; a dot's area is its share of the step.

    Kernels of the backward pass are hollow. Element-wise passes have no arithmetic that is counted: their share of the step
    stands in the legend, and so does the time in which no kernel runs.

    Args:
        step: what ``DistributedModel().kernels`` or ``ServingModel().kernels`` returned.

    Raises:
        InputError: no kernel has arithmetic.
        MLSysError: matplotlib is missing.

    Example:
        >>> from mlsysim import Hardware, Models, ServingModel
        >>> load = dict(input_len=1024, batch_size=16, stack="vllm-2025")
        >>> step = ServingModel().kernels(Models.Language.Llama3_8B, Hardware.Cloud.H100, **load)
        >>> roofline(step).axes[0].get_xlabel()
        'arithmetic intensity (FLOP/byte of operands and results)'
    """
    dots = [one for one in step.kernels if one.flops and step.share(one) >= _LEAST_SHARE]
    if not dots:
        raise InputError("step", step.subject, "a step with kernels that compute")
    peak, bandwidth_Bps = float(step.peak.m_as("flop/second")), float(step.memory_bandwidth.m_as("byte/second"))
    ridge = peak / bandwidth_Bps
    least, most = min(*(one.intensity for one in dots), ridge) / 3, max(*(one.intensity for one in dots), ridge) * 4
    roof = [(x, x / float(roofline_s(x, 1.0, peak, bandwidth_Bps)) / _TERA) for x in (least, ridge, most)]
    lowest = min(roof[0][1], *(one.rate_flops_per_s / _TERA for one in dots))
    with drawn(f"{step.subject}: {_finding(step)}", height=5.2) as (figure, (axes,)):
        axes.plot(*zip(*roof, strict=True), color=INK, linewidth=1.6)
        axes.axvline(ridge, color=FAINT, linestyle=":", linewidth=1)
        told = f"roof: {shown(step.memory_bandwidth)} of memory, peak {shown(step.peak)}"
        axes.annotate(told, (most, peak / _TERA), xytext=(-4, 6), textcoords="offset points", ha="right", fontsize=10)
        handles = [_dots(axes, step, dots, name, place) for place, name in enumerate(dict.fromkeys(one.name for one in dots))]
        rest = sum(step.share(one) for one in step.kernels if not one.flops)
        no_kernel = 1 - float((step.busy / step.step).m_as("dimensionless"))
        for name, share in (("element-wise passes", rest), ("no kernel runs", no_kernel)):
            handles += axes.plot([], [], linestyle="none", label=f"{name} {share:.1%}")
        log_axes(axes, (least, most), (lowest / 2, peak / _TERA * 2))
        plain_log_axis(axes.xaxis)
        plain_log_axis(axes.yaxis)
        axes.set_xlabel("arithmetic intensity (FLOP/byte of operands and results)")
        axes.set_ylabel("TFLOP/s of an accelerator")
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        hollow = " (hollow: backward)" if any(one.direction == _HOLLOW for one in dots) else ""
        figure.legend(handles=handles, loc="outside lower center", ncols=2, title=f"share of the step{hollow}")
    return figure


def _dots(axes: Any, step: StepKernels, dots: list[KernelWork], name: str, place: int) -> Line2D:
    """Draw the dots of a kernel, and give its line of the legend."""
    from matplotlib.lines import Line2D

    look = look_of(place)
    colour, marker = look["color"], look["marker"]
    mine = [one for one in dots if one.name == name]
    for one in mine:
        hollow = one.direction == _HOLLOW
        axes.scatter(
            [one.intensity],
            [one.rate_flops_per_s / _TERA],
            s=max(_LEAST_AREA, _WHOLE_AREA * step.share(one)),
            marker=marker,
            facecolor="none" if hollow else colour,
            edgecolor=colour if hollow else INK,
            linewidth=1.6 if hollow else 0.6,
            zorder=3,
        )
    told = f"{name} {sum(map(step.share, mine)):.1%}"
    return Line2D([], [], linestyle="none", marker=marker, color=colour, markeredgecolor=INK, markeredgewidth=0.6, label=told)


def _finding(step: StepKernels) -> str:
    """What takes the most time, and which side of the ridge it lies on."""
    first = step.kernels[0]
    if not first.flops:
        return f"{step.share(first):.0%} is {first.name}"
    return f"{_together(step, first):.0%} is {first.name}, limited by {_limit(step, first)}"


def _together(step: StepKernels, kernel: KernelWork) -> float:
    return sum(step.share(one) for one in step.kernels if one.name == kernel.name)


def _limit(step: StepKernels, kernel: KernelWork) -> str:
    ridge = float((step.peak / step.memory_bandwidth).m_as("flop/byte"))
    return "memory" if kernel.intensity < ridge else "arithmetic"
