"""The machine that training runs on, as plain rates: the device, its links and the network."""

from __future__ import annotations

from dataclasses import dataclass

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
