"""The forward pass alone of ResNet-50 and BERT: stacks (``inference.toml``) and devices."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mlsysim.calibration import gemm
from mlsysim.calibration.data_parallel import ReplicaHardware, ReplicaStack, fitted_device_names, replica_hardware
from mlsysim.calibration.device_entries import device_entries
from mlsysim.calibration.devices import clock_of, entry_of, format_shares, names_of_a_pass
from mlsysim.calibration.store import fitted_of, stack_of
from mlsysim.core.errors import InputError
from mlsysim.core.toml import reads
from mlsysim.physics.training.data_parallel import ReplicaCoefficients

FILE = "inference.toml"


@dataclass(frozen=True, slots=True)
class InferenceCoefficients:
    """Coefficients that an engine adds to the kernels; at most six of these are fitted to one stack.

    Attributes:
        convolution_share: rate of its convolutions over the measured kernels' matrix products.
        matmul_share: rate of its matrix products over the measured kernels'.
        moved: bytes that passes between products move over those of kernels that each do one thing.
        traffic: bytes that convolutions move over those of their operands and results: below 1 where one kernel does several.
        prologue_share: what a tile costs beside its main loop, over the measured kernels.
        clock_share: share of the clock that the accelerator sustains without the engine's own limit of power.
        score_B: bytes that the selection of boxes moves for each of their scores (formats, layouts, levels put together).
        host_kernel_s: time of the host to launch a kernel.
        step_s: time of each batch, whatever its size.
    """

    convolution_share: float = 0.8
    matmul_share: float = 0.8
    moved: float = 1.0
    traffic: float = 1.0
    prologue_share: float = 1.0
    clock_share: float = 1.0
    score_B: float = 0.0
    host_kernel_s: float = 0.0
    step_s: float = 0.0

    def of(self, convolutional: bool) -> ReplicaCoefficients:
        """The coefficients with which a network of convolutions, or else an encoder, is solved."""
        share = self.convolution_share if convolutional else self.matmul_share
        return ReplicaCoefficients(matmul_share=share, moved=self.moved, host_kernel_s=self.host_kernel_s, step_s=self.step_s)


COEFFICIENTS = tuple(part.name for part in fields(InferenceCoefficients))


@dataclass(frozen=True)
class InferenceStack:
    """A software stack: its coefficients, and the facts that are stated about it.

    Attributes:
        name, coefficients: the stack's name, and its fitted numbers.
        folded: normalisation and activation are part of the convolution's kernel; only the shortcut is left between.
        unpadded, fused_attention: padding is left out of the arithmetic; scores are not stored.
        channels_first_above_16: 32-bit values are kept channels-first.
    """

    name: str
    coefficients: InferenceCoefficients
    folded: bool = False
    unpadded: bool = False
    fused_attention: bool = False
    channels_first_above_16: bool = False

    def as_trained(self) -> ReplicaStack:
        """A stack that trains with these facts, whose forward pass is this stack's."""
        return ReplicaStack(
            name=self.name,
            coefficients=ReplicaCoefficients(),
            gradient_B=0.0,
            updated_B=0.0,
            unpadded=self.unpadded,
            fused_attention=self.fused_attention,
            fused_quantisation=True,
            channels_first_above_16=self.channels_first_above_16,
        )


@reads("calibration", "inference.toml")
def inference_stack(name: str) -> InferenceStack:
    """The stack called ``name``.

    Raises:
        UnknownNameError: no such stack; the message lists them.

    Example:
        >>> inference_stack("tensorrt-mlperf").folded
        True
    """
    return stack_of(InferenceStack, InferenceCoefficients, FILE, name)


@reads("calibration", "inference.toml")
def inference_hardware(hardware_name: str) -> ReplicaHardware:
    """The kernels that stand for an accelerator of the registry.

    Raises:
        UnknownNameError: no kernels stand for it.

    Example:
        >>> inference_hardware("Tesla T4").kernels
        'a100_sxm'
        >>> inference_hardware("Tesla V100 SXM2 16GB").clock == replica_hardware("Tesla V100 SXM2 16GB").clock
        True
    """
    name, entry = entry_of(device_entries("inference"), hardware_name)
    shares = format_shares(entry)
    if entry.get("as_trained"):
        trained = replica_hardware(hardware_name)
        clock, shares = trained.clock, {**trained.format_shares, **shares}
    else:
        clock = clock_of(entry)
    return ReplicaHardware(name, entry["kernels"], clock, shares, float(entry.get("traffic", 1.0)))


def gemm_format(kernels: str, precision: str) -> str:
    """The measured number format of a device's kernels that stands for ``precision``; all 8-bit ones are alike.

    Raises:
        InputError: no kernels stand for it.

    Example:
        >>> gemm_format("a100_sxm", "int8"), gemm_format("h100_sxm", "int8"), gemm_format("l40s", "fp16")
        ('sq', 'fp8', 'bfloat16')
    """
    if precision in ("int8", "fp8"):
        return next(fmt for fmt in ("fp8", "sq") if fmt in gemm.measured_formats(kernels))
    if precision in ("fp16", "bf16", "tf32", "fp32"):
        return "bfloat16"
    raise InputError("precision", precision, "one of int8, fp8, fp16, bf16, tf32, fp32: no other kernels are calibrated")


@reads("calibration", "inference.toml")
def inference_fitted_names(stack_name: str, hardware_name: str, precision: str) -> tuple[str, ...]:
    """Names of every coefficient that a pass of this stack on this accelerator was fitted with.

    Example:
        >>> [name for name in inference_fitted_names("tensorrt-mlperf", "Tesla T4", "int8") if "clock" in name]
        ['device.t4.clock']
    """
    hardware = inference_hardware(hardware_name)
    own_names = fitted_of(device_entries("inference"), hardware.name, "device")
    device = (*_trained(hardware_name, hardware.name), *own_names)
    products = gemm.fitted_names(hardware.kernels, gemm_format(hardware.kernels, precision))
    return names_of_a_pass(FILE, stack_name, hardware.kernels, products, device)


def _trained(hardware_name: str, name: str) -> tuple[str, ...]:
    """Names of coefficients of training that count, where the accelerator has its clock from there and states no other."""
    entry = device_entries("inference")[name]
    names = fitted_device_names(hardware_name) if entry.get("as_trained") else ()
    return tuple(part for part in names if part.rpartition(".")[2] not in entry)
