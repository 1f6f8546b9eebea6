"""A data-parallel training step on a calibrated stack, for ``SingleNodeModel``: checked input in, seconds out."""

from __future__ import annotations

from mlsysim.calibration.data_parallel import TRAINED, pass_fitted_names, replica_stack
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.data_parallel import Samples, replica_kernels, replica_plan, replica_work, stack_step
from mlsysim.lowering.forward import CalibratedRun
from mlsysim.models.types import Workload
from mlsysim.systems.types import Fleet, accelerator_of


def replica_run(
    workload: Workload,
    hardware: HardwareNode | Fleet,
    stack_name: str,
    *,
    batch: int,
    micro_batches: int,
    samples: Samples,
) -> CalibratedRun:
    """Time one step of ``batch`` samples on all accelerators together.

    Raises:
        InputError: a stack, accelerator, precision or workload that is not calibrated.
    """
    stack = replica_stack(stack_name)
    accelerator = accelerator_of(hardware)
    kernels, device = replica_kernels(accelerator, samples.precision, stack)
    plan = replica_plan(workload, hardware, micro_batches, stack)
    work = replica_work(workload, batch / (plan.replicas * micro_batches), samples, stack)
    step = stack_step(work, plan, kernels, stack.coefficients, device.clock)
    parts = {name: float(part_s) for name, part_s in step.each_s().items()}
    gemm_format = "fp8" if samples.precision == "fp8" else "bfloat16"
    return CalibratedRun(parts, pass_fitted_names(TRAINED, stack.name, accelerator.name, gemm_format))
