"""Stacks and devices of the forward pass alone (ResNet-50 and BERT served), as ``inference.toml`` has them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mlsysim.calibration import gemm
from mlsysim.calibration.data_parallel import ReplicaStack, fitted_device_names, replica_hardware
from mlsysim.calibration.shared_kernels import shared_names
from mlsysim.calibration.stacks import clock_names, entry_of, resolved, sustained_clock
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.physics.training.data_parallel import ReplicaCoefficients

FILE = "inference.toml"
# Number formats whose products may reach another share of their peak than those of 16 bits.
SHARED_FORMATS = ("int8", "fp8", "tf32", "fp32")


@dataclass(frozen=True, slots=True)
class InferenceCoefficients:
    """What an engine makes of the kernels; at most six of these are fitted to one stack.

    Attributes:
        convolution_share: rate of its convolutions over the measured kernels' matrix products.
        matmul_share: the same of its matrix products.
        moved: bytes that passes between products move over those of kernels that each do one thing.
        traffic: bytes that convolutions move over those of their operands and results: below 1 where one kernel does several.
        prologue_share: what a tile costs beside its main loop, over the measured kernels.
        clock_share: of the clock that the accelerator sustains without the engine's own limit of power.
        host_kernel_s: time of the host to launch a kernel.
        step_s: of each batch, whatever its size.
    """

    convolution_share: float = 0.8
    matmul_share: float = 0.8
    moved: float = 1.0
    traffic: float = 1.0
    prologue_share: float = 1.0
    clock_share: float = 1.0
    host_kernel_s: float = 0.0
    step_s: float = 0.0

    def of(self, convolutional: bool) -> ReplicaCoefficients:
        """Those that a network of convolutions, or an encoder, is solved with."""
        share = self.convolution_share if convolutional else self.matmul_share
        return ReplicaCoefficients(matmul_share=share, moved=self.moved, host_kernel_s=self.host_kernel_s, step_s=self.step_s)


COEFFICIENTS = tuple(part.name for part in fields(InferenceCoefficients))


@dataclass(frozen=True)
class InferenceStack:
    """A stack: its coefficients, and what is stated of it.

    Attributes:
        folded: normalisation and activation are part of the convolution's kernel; the shortcut is all that is left between.
        unpadded: padding is left out of the arithmetic.
        fused_attention: scores are not stored.
        channels_first_above_16: 32-bit values are kept channels-first.
    """

    name: str
    coefficients: InferenceCoefficients
    folded: bool = False
    unpadded: bool = False
    fused_attention: bool = False
    channels_first_above_16: bool = False

    def as_trained(self) -> ReplicaStack:
        """The same facts as those of a stack that trains, whose forward pass this is."""
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


@dataclass(frozen=True)
class InferenceHardware:
    """An accelerator's entry: whose measured kernels stand for it, its clock under this load, and its number formats.

    ``format_shares`` are the rates of products at other number formats over that of 16 bits, as shares of their peaks;
    ``traffic`` is the share of a convolution's bytes that its last-level cache does not hold, where the engine cuts batches to
    fit in it.
    """

    name: str
    kernels: str
    clock: float
    traffic: float = 1.0
    format_shares: Mapping[str, float] = field(default_factory=dict)


@functools.cache
def inference_tables() -> dict[str, dict[str, dict[str, Any]]]:
    """The TOML as it stands: ``stack`` and ``device`` tables."""
    return packaged_toml("calibration", FILE)


def inference_stack_names() -> tuple[str, ...]:
    """All stacks."""
    return tuple(inference_tables()["stack"])


@functools.cache
def inference_stack(name: str) -> InferenceStack:
    """The stack of this name.

    Raises:
        UnknownNameError: no such stack; the message lists them.

    Example:
        >>> inference_stack("tensorrt-mlperf").folded
        True
    """
    stacks = inference_tables()["stack"]
    if name not in stacks:
        raise UnknownNameError.among("stack", name, stacks)
    entry = resolved(stacks, name)
    stated = [part.name for part in fields(InferenceStack) if part.name not in ("name", "coefficients")]
    return InferenceStack(
        name=name,
        coefficients=InferenceCoefficients(**{key: float(entry[key]) for key in COEFFICIENTS if key in entry}),
        **{key: entry[key] for key in stated if key in entry},
    )


@functools.cache
def inference_hardware(hardware_name: str) -> InferenceHardware:
    """The kernels that stand for an accelerator of the registry.

    Raises:
        UnknownNameError: none do.

    Example:
        >>> inference_hardware("Tesla T4").kernels
        'a100_sxm'
        >>> inference_hardware("Tesla V100 SXM2 16GB").clock == replica_hardware("Tesla V100 SXM2 16GB").clock
        True
    """
    name, entry = entry_of(inference_tables()["device"], hardware_name)
    shares = {fmt: float(entry[f"{fmt}_share"]) for fmt in SHARED_FORMATS if f"{fmt}_share" in entry}
    if entry.get("as_trained"):
        trained = replica_hardware(hardware_name)
        clock, shares = trained.clock, {**trained.format_shares, **shares}
    else:
        clock = float(entry["clock"]) if "clock" in entry else sustained_clock(entry["kernels"])
    return InferenceHardware(name, entry["kernels"], clock, float(entry.get("traffic", 1.0)), shares)


def gemm_format(kernels: str, precision: str) -> str:
    """The number format at which a device's kernels were measured that stands for ``precision``; all 8-bit ones are alike.

    Raises:
        InputError: none does.

    Example:
        >>> gemm_format("a100_sxm", "int8"), gemm_format("h100_sxm", "int8"), gemm_format("l40s", "fp16")
        ('sq', 'fp8', 'bfloat16')
    """
    if precision in ("int8", "fp8"):
        return next(fmt for fmt in ("fp8", "sq") if fmt in gemm.measured_formats(kernels))
    if precision in ("fp16", "bf16", "tf32", "fp32"):
        return "bfloat16"
    raise InputError("precision", precision, "one of int8, fp8, fp16, bf16, tf32, fp32: no other kernels are calibrated")


@functools.cache
def inference_fitted_names(stack_name: str, hardware_name: str, precision: str) -> tuple[str, ...]:
    """Names of every coefficient that a pass of this stack on this accelerator was fitted with.

    Example:
        >>> [name for name in inference_fitted_names("tensorrt-mlperf", "Tesla T4", "int8") if "clock" in name]
        ['device.t4.clock']
    """
    found = inference_hardware(hardware_name)
    device = [*_trained(hardware_name, found.name), *_fitted("device", found.name)]
    clock = () if any(name.endswith(".clock") for name in device) else clock_names(found.kernels)
    products = gemm.fitted_names(found.kernels, gemm_format(found.kernels, precision))
    return (*shared_names("data_parallel"), *products, *clock, *device, *_fitted("stack", stack_name))


def _trained(hardware_name: str, name: str) -> tuple[str, ...]:
    """Those of ``data_parallel.toml``, where the accelerator has its clock from there and nothing of its own instead."""
    entry = inference_tables()["device"][name]
    names = fitted_device_names(hardware_name) if entry.get("as_trained") else ()
    return tuple(part for part in names if part.rpartition(".")[2] not in entry)


def _fitted(kind: str, name: str) -> list[str]:
    """A coefficient that an entry shares with the one that it is like has one name."""
    own = inference_tables()[kind][name]
    shared = [key for key in _fitted(kind, own["like"]) if key.rpartition(".")[2] not in own] if "like" in own else []
    return [*shared, *(f"{kind}.{name}.{part}" for part in own.get("fit", ()))]
