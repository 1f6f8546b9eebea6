"""The forward pass alone of ResNet-50 and BERT: stacks (``inference.toml``) and devices."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.calibration import gemm
from mlsysim.calibration.data_parallel import INFERRED, PassStack, pass_fitted_names, pass_hardware
from mlsysim.calibration.store import stacks_of
from mlsysim.core.errors import InputError
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


@dataclass(frozen=True, kw_only=True)
class InferenceStack(PassStack):
    """A stack of the forward pass alone.

    Attributes:
        coefficients: its fitted numbers.
        folded: normalisation and activation are part of the convolution's kernel; only the shortcut is left between.
    """

    coefficients: InferenceCoefficients
    folded: bool = False


# The stack of a name.
inference_stack = stacks_of(InferenceStack, InferenceCoefficients, FILE)


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


def inference_fitted_names(stack_name: str, hardware_name: str, precision: str) -> tuple[str, ...]:
    """Names of every coefficient that a pass of this stack on this accelerator was fitted with.

    Example:
        >>> [name for name in inference_fitted_names("tensorrt-mlperf", "Tesla T4", "int8") if "clock" in name]
        ['device.t4.clock']
    """
    products = gemm_format(pass_hardware(INFERRED, hardware_name).kernels, precision)
    return pass_fitted_names(INFERRED, stack_name, hardware_name, products)
