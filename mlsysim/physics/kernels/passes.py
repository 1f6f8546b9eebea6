"""Passes of a model that one accelerator holds whole: their seconds, and the device that runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlsysim.physics.kernels.gemm import GemmKernel
from mlsysim.physics.numeric import Num


class Passes(NamedTuple):
    """Seconds of the forward and of the backward pass of one micro-batch on the device, and the kernels of both."""

    forward_s: Num
    backward_s: Num
    kernels: Num


@dataclass(frozen=True, slots=True)
class SharedDataParallel:
    """Constants of all software stacks for models that one accelerator holds whole.

    Attributes:
        host_norm: norm of host and device time, between a sum (1) and a maximum (infinity).
        hop_s: latency of one hop of a reduction tree between nodes, both ways.
        batched_share: share of the peak that the batched products of attention with stored scores reach.
    """

    host_norm: float
    hop_s: float
    batched_share: float


@dataclass(frozen=True, slots=True)
class ReplicaDevice:
    """Fitted matrix products of an accelerator at one number format, its memory and its chip.

    Attributes:
        gemm: coefficients of the matrix products.
        peak_flops_per_s: peak rate at the format and at the clock that training sustains.
        value_B: bytes of an activation.
        element_B: bytes of an element in the passes between products.
        operand_B: bytes of an element of what a product multiplies (1 at 8 bits).
        memory_Bps, multiprocessors, cache_B: figures of the datasheet.
        streaming: share of the memory bandwidth that element-wise passes reach.
        shared: constants of all such stacks.
    """

    gemm: GemmKernel
    peak_flops_per_s: Num
    value_B: float
    element_B: float
    operand_B: float
    memory_Bps: Num
    multiprocessors: float
    cache_B: float
    streaming: Num
    shared: SharedDataParallel

    @property
    def streaming_Bps(self) -> Num:
        """Bandwidth that element-wise passes reach, in bytes per second."""
        return self.streaming * self.memory_Bps
