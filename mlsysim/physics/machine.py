"""The machine that training runs on, as plain rates: the device, its links and the network."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from mlsysim.physics.numeric import Num


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that a step runs on, in SI units.

    Attributes:
        rate_flops_per_s: rate that one accelerator delivers (peak, or peak x the caller's efficiency).
        memory_Bps: memory bandwidth of one accelerator.
        intra_Bps, inter_Bps: links inside a node and between nodes, per accelerator, one direction.
        per_node: accelerators that share a node.
        oversubscription: ratio of the fabric between nodes (1: none).
        slowest_clock: clock of the slowest accelerator over that of one in the middle: it sets the pace of all.
    """

    rate_flops_per_s: Num
    memory_Bps: Num
    intra_Bps: Num
    inter_Bps: Num
    per_node: float
    oversubscription: Num = 1.0
    slowest_clock: Num = 1.0


def slowest_of(count: float, spread: float) -> float:
    """Mean figure of the slowest of some devices over that of one in the middle, where figures of single ones are normal.

    The largest of n normal draws is, on average, the quantile (n - 3/8) / (n + 1/4) (Blom 1958, Statistical Estimates and
    Transformed Beta-Variables).

    Args:
        count: devices, all of which wait for the slowest.
        spread: standard deviation of one of them, as a share.

    Example:
        >>> [round(slowest_of(count, 0.01), 4) for count in (1, 2, 8, 1024)]
        [1.0, 0.9941, 0.9857, 0.9677]
    """
    return 1.0 - spread * NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
