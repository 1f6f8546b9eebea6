"""From typed workloads and accelerators to the kernels of a forward pass on a calibrated engine."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mlsysim.calibration.data_parallel import INFERRED, ReplicaHardware, pass_hardware
from mlsysim.calibration.gemm import gemm_kernel
from mlsysim.calibration.inference import (
    InferenceCoefficients,
    InferenceStack,
    gemm_format,
    inference_fitted_names,
    inference_stack,
)
from mlsysim.calibration.shared import shared_coefficients
from mlsysim.calibration.shared_kernels import shared_constants
from mlsysim.core.precision import bytes_per_element
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.data_parallel import CalibratedRun, Kernels, ReplicaWork, Samples, replica_work, work_passes
from mlsysim.models.types import Workload
from mlsysim.physics.kernels.convolution import convolution_scores
from mlsysim.physics.kernels.passes import SharedDataParallel
from mlsysim.physics.numeric import Num, added_in_norm


class ForwardTime(NamedTuple):
    """Seconds of one batch: their sum is the whole."""

    device_s: Num
    host_s: Num
    fixed_s: Num


def inference_run(
    workload: Workload, accelerator: HardwareNode, stack_name: str, batch: int, samples: Samples
) -> CalibratedRun:
    """Time one forward pass of ``batch`` samples on one accelerator.

    Raises:
        InputError: a stack, accelerator, precision or workload that is not calibrated.
    """
    stack = inference_stack(stack_name)
    kernels, hardware = inference_kernels(accelerator, samples.precision)
    work = inference_work(workload, float(batch), samples, stack)
    time = forward_time(work, kernels, stack.coefficients, hardware.clock, hardware.traffic)
    parts = {part.removesuffix("_s"): float(getattr(time, part)) for part in time._fields}
    return CalibratedRun(parts, inference_fitted_names(stack.name, accelerator.name, samples.precision))


def inference_kernels(accelerator: HardwareNode, precision: str) -> tuple[Kernels, ReplicaHardware]:
    """The fitted kernels that stand for ``accelerator`` at ``precision``; 8-bit values are written as such.

    Raises:
        UnknownNameError: none do.
        InputError: none at this precision.
    """
    hardware = pass_hardware(INFERRED, accelerator.name)
    halves = gemm_kernel(hardware.kernels)
    # The kernel before has written what an 8-bit product reads: nothing is quantised between.
    kernel = replace(
        gemm_kernel(hardware.kernels, gemm_format(hardware.kernels, precision)), launch_s=halves.launch_s, quantise_sweeps=0.0
    )
    value_B = bytes_per_element(precision)
    attention = precision if value_B > 1 else "fp16"
    widths = dict.fromkeys(("value_B", "element_B", "operand_B"), value_B)
    return Kernels.of(accelerator, hardware, kernel, precision, attention=attention, **widths), hardware


def inference_work(workload: Workload, batch: Num, samples: Samples, stack: InferenceStack) -> ReplicaWork:
    """The kernels of a batch of ``batch`` samples; where normalisation is folded, convolutions have none.

    Raises:
        InputError: a workload whose layers are not calibrated.
    """
    work = replica_work(workload, batch, samples, stack)
    if work.network is None or not stack.folded:
        return work
    return replace(work, network=replace(work.network, normalised=np.zeros_like(work.network.normalised)))


def forward_time(
    work: ReplicaWork, kernels: Kernels, stack: InferenceCoefficients, clock: Num, cache_traffic: float = 1.0
) -> ForwardTime:
    """Host and device as (a^n + b^n)^(1/n), and what each batch costs, for a solve and for the fit alike.

    The host runs ahead of the device until it cannot: close to a maximum of the two, not their sum.
    ``cache_traffic`` is the device's share of a convolution's bytes that reaches memory.
    """
    coefficients = stack.of(work.network is not None)
    known = kernels.device
    product = replace(known.gemm, prologue_k=known.gemm.prologue_k * stack.prologue_share)
    moved_B = known.value_B * (stack.traffic * cache_traffic if work.network is not None else 1.0)
    moving = replace(kernels, device=replace(known, gemm=product, value_B=moved_B))
    passes = work_passes(work, moving, coefficients, clock * stack.clock_share)
    selected_s: Num = 0.0
    if work.network is not None and stack.score_B:
        # Scores of boxes stream through memory as often as kernels rewrite them.
        scored_B = stack.score_B * convolution_scores(work.network) * work.batch
        selected_s = scored_B / (known.memory_Bps * shared_coefficients().streaming)
    device_s = passes.forward_s + selected_s
    host_s = passes.kernels / 3 * coefficients.host_kernel_s
    beside_s = added_in_norm(device_s, host_s, shared_constants(SharedDataParallel).host_norm)
    return ForwardTime(device_s, beside_s, coefficients.step_s + 0.0 * device_s)
