"""From typed workloads and fleets to the kernels of a data-parallel step on a calibrated stack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from mlsysim.calibration.attention import measured_attention, prefill_kernel
from mlsysim.calibration.data_parallel import (
    TRAINED,
    PassStack,
    ReplicaHardware,
    ReplicaStack,
    pass_fitted_names,
    pass_hardware,
    replica_stack,
)
from mlsysim.calibration.devices import slowest_clock
from mlsysim.calibration.gemm import FORMATS, gemm_kernel
from mlsysim.calibration.shared import shared_coefficients
from mlsysim.calibration.shared_kernels import shared_constants
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.precision import bytes_per_element
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.convolutions import convolutions
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.physics.kernels.attention import AttentionDevice, PrefillKernel
from mlsysim.physics.kernels.convolution import Convolutions, convolution_passes
from mlsysim.physics.kernels.gemm import GemmKernel
from mlsysim.physics.kernels.passes import Passes, ReplicaDevice, SharedDataParallel
from mlsysim.physics.layer.encoder import EncoderShape, encoder_passes
from mlsysim.physics.numeric import Num
from mlsysim.physics.training.data_parallel import ReplicaCoefficients, ReplicaPlan, ReplicaStep, replica_step
from mlsysim.systems.types import Fleet, accelerator_of

_GEMM_FORMAT = {"fp8": "fp8", "fp16": "bfloat16", "bf16": "bfloat16", "tf32": "bfloat16", "fp32": "bfloat16"}
_SINGLE_B = 4.0
# Where padding is left out, samples of all lengths up to the longest: the mean of what their tokens see is two thirds of it.
_SEEN_OF_LONGEST = 2.0 / 3.0


@dataclass(frozen=True, slots=True)
class Samples:
    """What is known of the samples of a batch: their number format, and the tokens of each (1 for images).

    Attributes:
        precision: number format of the matrix products.
        seq_len, mean_tokens: tokens of the longest sample, and of the mean one.
        masked_share: share of the tokens that the head of a language model looks at.
    """

    precision: str
    seq_len: int
    mean_tokens: float
    masked_share: float


@dataclass(frozen=True, slots=True)
class Kernels:
    """An accelerator at a precision, at the rates of its datasheet; the clock is applied with the stack's coefficients.

    ``format_share`` is the rate of products at this number format over that of the measured 16-bit kernels, as shares of
    their peaks.
    """

    device: ReplicaDevice
    attention: PrefillKernel
    attention_peak_flops_per_s: float
    format_share: Num

    @classmethod
    def of(
        cls,
        accelerator: HardwareNode,
        hardware: ReplicaHardware,
        gemm: GemmKernel,
        precision: str,
        *,
        value_B: float,
        element_B: float,
        operand_B: float,
        attention: str,
    ) -> Self:
        """The kernels of ``accelerator`` whose products are ``gemm``, and whose attention runs at the format ``attention``.

        Raises:
            InputError: the registry lacks something that kernels need, or a rate of the format.
        """
        units, cache = accelerator.compute.multiprocessors, accelerator.memory.l2_capacity
        if units is None or cache is None:
            expected = "one with multiprocessors and l2_capacity: kernels need both"
            raise InconsistentError("accelerator", accelerator.name, expected)
        return cls(
            device=ReplicaDevice(
                gemm=gemm,
                peak_flops_per_s=accelerator.rate_flops_per_s(precision),
                value_B=value_B,
                element_B=element_B,
                operand_B=operand_B,
                memory_Bps=accelerator.memory_bandwidth_Bps,
                multiprocessors=float(units),
                cache_B=float(cache.m_as("byte")),
                streaming=shared_coefficients().streaming,
                shared=shared_constants(SharedDataParallel),
            ),
            attention=prefill_kernel(measured_attention("prefill", hardware.kernels)),
            attention_peak_flops_per_s=accelerator.rate_flops_per_s(attention),
            format_share=hardware.format_shares.get(precision, 1.0),
        )


@dataclass(frozen=True, slots=True)
class ReplicaWork:
    """The model's kernels on one accelerator: of a convolutional network or of an encoder.

    Attributes:
        network, shape: one of the two.
        batch: samples of a micro-batch on one accelerator.
        tokens: of a sample that are computed (1 for images).
        transposed: 1.0 where images are channels-first and the kernels channels-last.
    """

    network: Convolutions | None
    shape: EncoderShape | None
    batch: Num
    tokens: Num
    transposed: float = 0.0


@dataclass(frozen=True, slots=True)
class CalibratedRun:
    """Seconds of a batch or a step by part, and the fitted coefficients behind them."""

    parts: dict[str, float]
    coefficients: tuple[str, ...]


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
    stack, accelerator = replica_stack(stack_name), accelerator_of(hardware)
    kernels, device = replica_kernels(accelerator, samples.precision, stack)
    plan = replica_plan(workload, hardware, micro_batches, stack)
    work = replica_work(workload, batch / (plan.replicas * micro_batches), samples, stack)
    step = replica_step_on_stack(work, plan, kernels, stack.coefficients, device.clock)
    parts = {name: float(part_s) for name, part_s in step.each_s().items()}
    return CalibratedRun(parts, pass_fitted_names(TRAINED, stack.name, accelerator.name, _GEMM_FORMAT[samples.precision]))


def replica_kernels(accelerator: HardwareNode, precision: str, stack: ReplicaStack) -> tuple[Kernels, ReplicaHardware]:
    """The fitted kernels that stand for ``accelerator`` at ``precision``.

    Raises:
        UnknownNameError: none do.
        InputError: none at this precision.
    """
    hardware = pass_hardware(TRAINED, accelerator.name)
    if precision not in _GEMM_FORMAT:
        raise InputError("precision", precision, f"one of {', '.join(_GEMM_FORMAT)}: no other kernels are calibrated")
    kernel = gemm_kernel(hardware.kernels, _GEMM_FORMAT[precision])
    if precision == "fp8" and stack.fused_quantisation:
        kernel = replace(kernel, launch_s=gemm_kernel(hardware.kernels).launch_s, quantise_sweeps=0.0)
    value_B = bytes_per_element(precision) if precision in ("tf32", "fp32") else 2.0
    halves = "fp16" if precision in ("fp8", "fp16", "bf16") else precision
    kernels = Kernels.of(
        accelerator,
        hardware,
        kernel,
        precision,
        value_B=value_B,
        element_B=_SINGLE_B if stack.elements_of_32_bits else value_B,
        operand_B=FORMATS["fp8"].input_B if precision == "fp8" else value_B,
        attention=halves,
    )
    return kernels, hardware


def replica_work(workload: Workload, batch: Num, samples: Samples, stack: PassStack) -> ReplicaWork:
    """The kernels of one micro-batch of ``batch`` samples on one accelerator.

    Raises:
        InputError: a workload whose layers are not calibrated.
    """
    if not isinstance(workload, TransformerWorkload):
        # Only tensor cores want channels last; 32-bit arithmetic takes them first.
        transposed = 1.0 if stack.channels_first_above_16 and samples.precision == "tf32" else 0.0
        return ReplicaWork(convolutions(workload.name), None, batch, 1.0, transposed)
    if workload.causal or workload.ffn_matrices != 2 or workload.moe is not None or workload.mla is not None:
        raise InputError("workload", workload.name, "an encoder such as BERT, or a convolutional network, beside this stack")
    shorter = stack.unpadded and samples.mean_tokens < samples.seq_len
    layers = workload.layer_shape
    shape = EncoderShape.extending(
        layers,
        vocab=layers.vocab if samples.masked_share > 0 else 0.0,
        seq_len=samples.seq_len * (_SEEN_OF_LONGEST if shorter else 1.0),
        head_share=samples.masked_share,
        fused=1.0 if stack.fused_attention else 0.0,
    )
    longest = float(samples.seq_len)
    computed = min(longest, samples.mean_tokens + stack.bin_tokens / 2) if shorter else longest
    return ReplicaWork(None, shape, batch, computed)


def replica_plan(workload: Workload, hardware: HardwareNode | Fleet, micro_batches: int, stack: ReplicaStack) -> ReplicaPlan:
    """The plan by which the accelerators of a fleet exchange gradients; a lone one has nobody to."""
    parameters = float(workload.parameters.m_as("count"))
    fleet = hardware if isinstance(hardware, Fleet) else None
    per_node = 1.0 if fleet is None else float(fleet.node.accelerators_per_node)
    return ReplicaPlan(
        replicas=1.0 if fleet is None else float(fleet.accelerators),
        per_node=per_node,
        micro_batches=float(micro_batches),
        accumulated_B=stack.accumulated_B * parameters,
        gradient_B=stack.gradient_B * parameters,
        updated_B=stack.updated_B * parameters / (per_node if stack.sharded_optimizer else 1.0),
        intra_Bps=float("inf") if fleet is None else fleet.node.intra_bandwidth_Bps,
        inter_Bps=float("inf") if fleet is None else fleet.inter_bandwidth_Bps,
        slowest_clock=1.0 if fleet is None else slowest_clock(fleet.node.accelerator.name, fleet.accelerators),
    )


def work_passes(work: ReplicaWork, kernels: Kernels, coefficients: ReplicaCoefficients, clock: Num) -> Passes:
    """Forward and backward pass of a micro-batch."""
    device, known = clocked(kernels, coefficients, clock), kernels.device
    if work.network is not None:
        return convolution_passes(work.network, work.batch, device, coefficients.moved, work.transposed)
    assert work.shape is not None
    chip = AttentionDevice(
        kernels.attention_peak_flops_per_s * clock, known.memory_Bps, known.multiprocessors, known.cache_B, 1.0
    )
    backward_rate = shared_coefficients().attention_backward
    tokens = work.batch * work.tokens
    return encoder_passes(work.shape, tokens, device, kernels.attention, chip, backward_rate, coefficients.moved)


def clocked(kernels: Kernels, coefficients: ReplicaCoefficients, clock: Num) -> ReplicaDevice:
    """Scale the device by the clock that it sustains, and by the share of it that the stack's kernels reach."""
    peak_flops_per_s = kernels.device.peak_flops_per_s * kernels.format_share * clock * coefficients.matmul_share
    return replace(kernels.device, peak_flops_per_s=peak_flops_per_s)


def replica_step_on_stack(
    work: ReplicaWork, plan: ReplicaPlan, kernels: Kernels, coefficients: ReplicaCoefficients, clock: Num
) -> ReplicaStep:
    """Time one step on a stack, for a solve and for the fit alike; the slowest replica sets the pace."""
    clock = clock * plan.slowest_clock
    passes = work_passes(work, kernels, coefficients, clock)
    return replica_step(passes, plan, clocked(kernels, coefficients, clock), coefficients)
