"""The roofline: work takes as long as its arithmetic or its memory traffic, whichever is longer.

Source: Williams, Waterman, Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlsysim.physics.numeric import Num, maximum

# What the kernels of a step or pass beside its products are called (products: ``physics.layer.products``).
ATTENTION, HEAD, ELEMENT_WISE = "attention", "output head", "element-wise passes"


@dataclass(frozen=True, slots=True)
class KernelWork:
    """All calls of one kernel in a step, on one accelerator.

    Attributes:
        name: what it computes.
        direction: the pass that it belongs to: "forward", "backward", "prefill" or "decode"; "" where it is of several.
        flops: its arithmetic.
        moved_B: operands read and results written, each once.
        seconds: the time that it takes.
    """

    name: str
    direction: str
    flops: float
    moved_B: float
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOP for each byte of operands and results."""
        return self.flops / self.moved_B

    @property
    def rate_flops_per_s(self) -> float:
        """FLOP a second that it reaches."""
        return self.flops / self.seconds

    def times(self, calls: float) -> KernelWork:
        """This kernel, called ``calls`` times as often.

        Example:
            >>> KernelWork("attention", "forward", 4.0, 2.0, 1.0).times(3.0).flops
            12.0
        """
        return KernelWork(self.name, self.direction, calls * self.flops, calls * self.moved_B, calls * self.seconds)

    def beside(self, other: KernelWork) -> KernelWork:
        """This kernel's calls and those of ``other``, under this one's name."""
        parts = (self.flops + other.flops, self.moved_B + other.moved_B, self.seconds + other.seconds)
        return KernelWork(self.name, self.direction, *parts)


def each_once(calls: Iterable[KernelWork]) -> list[KernelWork]:
    """All calls of each kernel and direction as one, in the order of their first calls.

    Example:
        >>> up = KernelWork("up", "forward", 4.0, 2.0, 1.0)
        >>> [one.seconds for one in each_once([up, up.times(2.0)])]
        [3.0]
    """
    merged: dict[tuple[str, str], KernelWork] = {}
    for one in calls:
        key = one.name, one.direction
        merged[key] = merged[key].beside(one) if key in merged else one
    return list(merged.values())


def roofline_s(flops: Num, moved_B: Num, rate_flops_per_s: Num, bandwidth_Bps: Num) -> Num:
    """Time = max(FLOP / rate, bytes / bandwidth), in seconds; arguments broadcast.

    Valid for work whose arithmetic and traffic overlap perfectly: a lower bound for a sequence of kernels.

    Example:
        >>> float(roofline_s(2e12, 1e9, 1e15, 2e12))
        0.002
    """
    return maximum(flops / rate_flops_per_s, moved_B / bandwidth_Bps)
