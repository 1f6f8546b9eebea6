"""From typed workloads and accelerators to the kernels of a calibrated step."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from mlsysim.calibration import siblings as stated
from mlsysim.calibration.attention import prefill_kernel
from mlsysim.calibration.collectives import collective_coefficients, link_behind_Bps
from mlsysim.calibration.devices import kernels_of, measured_device, sustained_clock
from mlsysim.calibration.gemm import FORMATS, gemm_kernel, has_format
from mlsysim.calibration.shared import runs_older_flash, shared_coefficients
from mlsysim.calibration.stacks import Stack, fitted_names, stack
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.training_setting import SCORES_STORED, TrainingSetting
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.kernels.attention import AttentionDevice
from mlsysim.physics.kernels.roofline import KernelWork
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.machine import Machine
from mlsysim.physics.numeric import Num, where
from mlsysim.physics.plan import Plan
from mlsysim.physics.training.kernel_step import LayerTimes, kernel_parts, layer_times, once_per_layer
from mlsysim.physics.training.roofline_step import training_step
from mlsysim.physics.training.step import Overlap, StepTime, assemble_step
from mlsysim.physics.training.step_inputs import KernelDevice, StackCoefficients, TrainedShape
from mlsysim.physics.training.step_kernels import step_kernels

_GEMM_FORMAT = {"bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8", "int8": "sq", "fp4": "nvfp4"}


def kernel_device(accelerator: HardwareNode, precision: str, used_by: Stack) -> KernelDevice:
    """The fitted kernels of ``accelerator`` at ``precision`` as a stack calls them, at its own datasheet's rates.

    Raises:
        UnknownNameError: no kernels of it were measured.
        InputError: none at this precision.
    """
    device = measured_device(accelerator.name)
    kernels = kernels_of(device)
    if precision not in _GEMM_FORMAT or not has_format(kernels, _GEMM_FORMAT[precision]):
        known = [name for name, kind in _GEMM_FORMAT.items() if has_format(kernels, kind)]
        expected = f"one of {', '.join(known)}: no other kernels are calibrated for {accelerator.name}"
        raise InputError("precision", precision, expected)
    units = stated.own_fact(device, "matrix_units", accelerator.compute.multiprocessors)
    if units is None:
        raise InconsistentError("accelerator", accelerator.name, "one with multiprocessors: kernels need them")
    peaks = (accelerator.rate_flops_per_s(FORMATS[_GEMM_FORMAT[precision]].precision), accelerator.rate_flops_per_s("bf16"))
    # Softmax runs on the cores beside the matrix engines, where these are other units.
    cores = float(accelerator.compute.multiprocessors or units)
    rates = (*peaks, accelerator.memory_bandwidth_Bps, float(units), cores, accelerator.cache_B)
    sweeps = used_by.integer_sweeps if precision == "int8" else 0.0
    return _kernel_device(device, _GEMM_FORMAT[precision], used_by.fused_quantisation, sweeps, *rates)


@functools.lru_cache(maxsize=256)
def _kernel_device(
    device: str,
    gemm_format: str,
    fused_quantisation: bool,
    sweeps: float,
    peak_flops_per_s: float,
    peak16: float,
    memory_Bps: float,
    units: float,
    cores: float,
    cache_B: float,
) -> KernelDevice:
    """The kernels of a measured device at these rates, cached: a search or a table asks for one again and again."""
    kernels = kernels_of(device)
    head = gemm_kernel(kernels)
    gemm = gemm_kernel(kernels, gemm_format)
    if fused_quantisation:
        gemm = replace(gemm, launch_s=head.launch_s, quantise_sweeps=0.0)
    if sweeps:
        gemm = replace(gemm, launch_s=head.launch_s, quantise_sweeps=sweeps, weight_sweeps=sweeps)
    return KernelDevice(
        gemm=gemm,
        gemm_peak_flops_per_s=peak_flops_per_s,
        gemm_input_B=FORMATS[gemm_format].input_B,
        head_gemm=head,
        head_peak_flops_per_s=peak16,
        attention=prefill_kernel(kernels),
        attention_device=AttentionDevice(peak16, memory_Bps, cores, cache_B, stated.fact(device, "array", 1.0)),
        # The benchmark's pipeline fill is that of a lone call; in a step, calls queue on the stream behind each other's tails.
        collectives=replace(collective_coefficients(kernels), fill_s=0.0),
        link_Bps=link_behind_Bps(kernels),
        memory_Bps=memory_Bps,
        multiprocessors=units,
        cache_B=cache_B,
        clock=sustained_clock(device),
        shared=shared_coefficients(),
        torus_axes=stated.fact(device, "torus_axes", 1.0),
    )


def wire_machine(machine: Machine, device: KernelDevice, known: Stack, tp: Num) -> Machine:
    """``machine`` with the bandwidths that large rings reach: on a torus those of the axes that tensor parallelism leaves."""
    left = where(tp > 1, (device.torus_axes - 1) / device.torus_axes, 1.0) if device.torus_axes > 1 else 1.0
    inter_Bps = machine.inter_Bps * known.coefficients.network_share
    return replace(machine, intra_Bps=device.collectives.bandwidth_Bps * left, inter_Bps=inter_Bps)


def wire_plan(plan: Plan, stack: Stack) -> Plan:
    """``plan`` with the bytes a parameter that the stack's data-parallel collectives carry."""
    weight_B = plan.weight_B if stack.gather_B is None else stack.gather_B
    gradient_B = plan.gradient_B if stack.reduce_B is None else stack.reduce_B
    return replace(plan, weight_B=weight_B, gradient_B=gradient_B)


def stack_overlap(coefficients: StackCoefficients, plan: Plan) -> Overlap:
    """Shares that a stack hides; its tensor-parallel collectives come with their hidden share already taken off."""
    sends = where(plan.virtual_stages > 1, coefficients.interleaved_sends_hidden, coefficients.pp_hidden)
    return Overlap(tp=0.0, ep=0.0, pp=sends, dp=coefficients.dp_hidden)


def _on_stack(setting: TrainingSetting, stack_name: str) -> tuple[Stack, TrainedShape, Machine, KernelDevice]:
    """The stack of a setting, a layer on it, the machine, and the device's kernels before the stack's coefficients."""
    known = stack(stack_name)
    device = kernel_device(setting.fleet.node.accelerator, setting.precision, known)
    return known, setting_shape(setting, known), setting.machine(), device


def calibrated_step(work: LayeredWork, plan: Plan, setting: TrainingSetting, stack_name: str) -> StepTime:
    """One step of ``plan`` from calibrated kernels and the coefficients of a stack."""
    known, shape, machine, device = _on_stack(setting, stack_name)
    used = device.under(known.coefficients, machine)

    def times(split: Plan) -> LayerTimes:
        return layer_times(work, shape, split, wire_machine(machine, used, known, split.tp), used, known.coefficients)

    layer = once_per_layer(times, plan) if isinstance(plan.tp, np.ndarray) else None
    return stack_step(work, shape, plan, machine, device, known, setting.straggler_factor, layer)


def kernels_of_step(work: LayeredWork, plan: Plan, setting: TrainingSetting) -> tuple[KernelWork, ...]:
    """The kernels of one step of ``plan`` on the setting's stack, one by one.

    Raises:
        InconsistentError: there is no stack, without which a layer is one piece of work.
    """
    if setting.stack is None:
        raise InconsistentError("stack", None, "a stack: without one a layer has no kernels to tell of")
    known, shape, machine, device = _on_stack(setting, setting.stack)
    used = device.under(known.coefficients, machine)
    return step_kernels(work, shape, plan, wire_machine(machine, used, known, plan.tp), used, known.coefficients)


def setting_shape(setting: TrainingSetting, known: Stack) -> TrainedShape:
    """The kernels of one layer of a setting.

    Raises:
        InputError: a workload whose layers are not calibrated.
    """
    workload = setting.workload
    if not isinstance(workload, TransformerWorkload):
        raise InputError("workload", workload.name, "a transformer beside stack: no other layers are calibrated")
    device = measured_device(setting.fleet.node.accelerator.name)
    slower = runs_older_flash(kernels_of(device)) and not known.vendor_attention
    layers, seq_len = workload.layer_shape, float(setting.seq_len)
    masked_tokens = seq_len if setting.capacity_factor and known.masked else 0.0
    tile = {} if masked_tokens else dict(known.expert_tile)
    # Cores compute tiles at the same time.
    tile["tile_step_s"] = tile.get("tile_step_s", 0.0) / stated.fact(device, "cores", 1.0)
    return TrainedShape.extending(
        layers,
        routed=replace(
            layers.routed,
            imbalance=setting.capacity_factor or setting.routing_imbalance,
            masked_tokens=masked_tokens,
            devices=stated.fact(device, "devices", 1.0),
            **tile,
        ),
        seq_len=seq_len,
        flash=0.0 if setting.attention in SCORES_STORED else 1.0,
        older_on_hopper=float(slower),
        flash_1=float(setting.attention == "flash-1"),
        uneven=1.0 if workload.prediction_layers or (workload.moe and workload.moe.first_dense_layers) else 0.0,
        head_passes=1.0 + workload.prediction_layers,
        eager=float(setting.eager),
        async_tp=float(setting.async_tp),
        adapters=setting.adapters,
    )


def stack_step(
    work: LayeredWork,
    shape: TrainedShape,
    plan: Plan,
    machine: Machine,
    device: KernelDevice,
    known: Stack,
    slower: float = 1.0,
    layer: LayerTimes | None = None,
) -> StepTime:
    """One step on a stack, for a solve and for the fit alike; the slowest rank sets the pace of all that runs on a device.

    ``layer`` holds the times of the plan's layers where the caller has them already.
    """
    coefficients = known.coefficients
    device = device.under(coefficients, machine)
    machine = wire_machine(machine, device, known, plan.tp)
    if layer is None:
        layer = layer_times(work, shape, plan, machine, device, coefficients)
    parts = kernel_parts(work, shape, layer, wire_plan(plan, known), machine, device, coefficients)
    if slower != 1.0:
        parts = replace(
            parts,
            layer_s=parts.layer_s * slower,
            recompute_s=parts.recompute_s * slower,
            head_s=parts.head_s * slower,
            optimizer_s=parts.optimizer_s * slower,
        )
    return assemble_step(work.layers, parts, plan, stack_overlap(known.coefficients, plan))


def coefficients_used(setting: TrainingSetting) -> tuple[str, ...]:
    """Names of the fitted coefficients behind a step; none without a stack."""
    if setting.stack is None:
        return ()
    device = measured_device(setting.fleet.node.accelerator.name)
    return fitted_names(setting.stack, device, _GEMM_FORMAT[setting.precision])


def step_time(work: LayeredWork, plan: Plan, setting: TrainingSetting) -> StepTime:
    """One step on the setting's basis."""
    if setting.stack is not None:
        return calibrated_step(work, plan, setting, setting.stack)
    return training_step(work, plan, setting.machine(), setting.overlap)
