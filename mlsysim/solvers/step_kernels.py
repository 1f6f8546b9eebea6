"""The kernels of a training step or a serving pass, each with its arithmetic, its traffic and its time."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.core.units import Quantity, with_unit
from mlsysim.physics.kernels.roofline import KernelWork
from mlsysim.solvers.shown import shown


@dataclass(frozen=True, kw_only=True)
class StepKernels:
    """The kernels of a step on one accelerator; printed, they are a table.

    Attributes:
        subject: the step in a few words.
        kernels: each with all its calls, the longest first. Element-wise passes have no arithmetic that is counted.
        step: time of the whole step, with what the device waits for: communication, pipeline, host, optimizer.
        peak: rate of the accelerator at the format of its matrix products.
        memory_bandwidth: of the accelerator.
    """

    subject: str
    kernels: tuple[KernelWork, ...]
    step: Quantity
    peak: Quantity
    memory_bandwidth: Quantity

    @property
    def busy(self) -> Quantity:
        """Time of all kernels together."""
        return with_unit(sum(one.seconds for one in self.kernels), "second")

    def share(self, kernel: KernelWork) -> float:
        """The share of the step that a kernel takes."""
        return kernel.seconds / float(self.step.m_as("second"))

    def __str__(self) -> str:
        lines = [f"{self.subject}: {shown(self.busy)} of {shown(self.step)} in kernels"]
        peak = float(self.peak.m_as("flop/second"))
        for one in self.kernels:
            name = f"{one.name} ({one.direction})" if one.direction else one.name
            reached = f"{one.intensity:8.1f} FLOP/byte {one.rate_flops_per_s / peak:6.1%} of peak" if one.flops else ""
            seconds = shown(with_unit(one.seconds, "second"))
            lines.append(f"  {name:<34}{seconds:>12} {self.share(one):6.1%} {reached}".rstrip())
        return "\n".join(lines)


def told(
    subject: str, kernels: tuple[KernelWork, ...], step_s: float, peak_flops_per_s: float, bandwidth_Bps: float
) -> StepKernels:
    """The kernels of a step, the longest first, from plain numbers in SI units."""
    return StepKernels(
        subject=subject,
        kernels=tuple(sorted(kernels, key=lambda one: -one.seconds)),
        step=with_unit(step_s, "second"),
        peak=with_unit(peak_flops_per_s, "flop/second"),
        memory_bandwidth=with_unit(bandwidth_Bps, "byte/second"),
    )
