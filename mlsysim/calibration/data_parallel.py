"""Data-parallel training of models that one accelerator holds whole: stacks (``data_parallel.toml``) and devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from mlsysim.calibration import gemm
from mlsysim.calibration.device_entries import device_entries
from mlsysim.calibration.devices import clock_of, entry_of, format_shares, names_of_a_pass
from mlsysim.calibration.store import fitted_of, stack_of
from mlsysim.core.toml import reads
from mlsysim.physics.training.data_parallel import ReplicaCoefficients

FILE = "data_parallel.toml"
COEFFICIENTS = tuple(part.name for part in fields(ReplicaCoefficients))


@dataclass(frozen=True)
class ReplicaStack:
    """A software stack: its coefficients, and the facts that are stated about it.

    Attributes:
        name, coefficients: the stack's name, and its fitted numbers.
        gradient_B, updated_B: bytes a parameter that are reduced, and that the optimizer moves.
        sharded_optimizer: each accelerator of a node updates its part of the parameters.
        unpadded: padding is left out of the arithmetic.
        bin_tokens: batches of samples of like length are padded to a multiple of this many tokens; 0: to the longest.
        accumulated_B: bytes a parameter and micro-batch to cast weights and to accumulate gradients.
        fused_attention: scores are not stored.
        fused_quantisation: 8-bit products find their operands quantised by the kernel before.
        elements_of_32_bits: passes between products run in 32 bits whatever the products do.
        channels_first_above_16: 32-bit values are kept channels-first.
        precisions: number format of the matrix products by measured device, where a table does not say.
    """

    name: str
    coefficients: ReplicaCoefficients
    gradient_B: float
    updated_B: float
    sharded_optimizer: bool = False
    unpadded: bool = False
    bin_tokens: float = 0.0
    accumulated_B: float = 0.0
    fused_attention: bool = False
    fused_quantisation: bool = False
    elements_of_32_bits: bool = False
    channels_first_above_16: bool = False
    precisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplicaHardware:
    """An accelerator's entry: whose measured kernels stand for it, the clock that it sustains, and its other formats.

    ``format_shares`` are the rates of products at other number formats over that of 16 bits, as shares of their peaks;
    ``traffic`` is the share of a convolution's bytes that its last-level cache does not hold, where an engine of inference cuts
    batches to fit in it.
    """

    name: str
    kernels: str
    clock: float
    format_shares: Mapping[str, float] = field(default_factory=dict)
    traffic: float = 1.0


@reads("calibration", "data_parallel.toml")
def replica_stack(name: str) -> ReplicaStack:
    """The stack called ``name``.

    Raises:
        UnknownNameError: no such stack; the message lists them.

    Example:
        >>> replica_stack("nvidia-mlperf-bert").unpadded
        True
    """
    return stack_of(ReplicaStack, ReplicaCoefficients, FILE, name)


@reads("calibration", "data_parallel.toml")
def replica_hardware(hardware_name: str) -> ReplicaHardware:
    """The kernels that stand for an accelerator of the registry.

    Raises:
        UnknownNameError: no kernels stand for it.

    Example:
        >>> replica_hardware("A30").kernels
        'a100_sxm'
    """
    name, entry = entry_of(device_entries("data_parallel"), hardware_name)
    return ReplicaHardware(name, entry["kernels"], clock_of(entry), format_shares(entry))


@reads("calibration", "data_parallel.toml")
def replica_fitted_names(stack_name: str, hardware_name: str, gemm_format: str) -> tuple[str, ...]:
    """Names of every coefficient that a step of this stack on this accelerator was fitted with.

    Example:
        >>> [name for name in replica_fitted_names("nvidia-mxnet", "A30", "bfloat16") if "clock" in name]
        ['device.a30.clock']
    """
    hardware = replica_hardware(hardware_name)
    device = fitted_of(device_entries("data_parallel"), hardware.name, "device")
    products = gemm.fitted_names(hardware.kernels, gemm_format)
    return names_of_a_pass(FILE, stack_name, hardware.kernels, products, device)


@reads("calibration", "data_parallel.toml")
def fitted_device_names(hardware_name: str) -> tuple[str, ...]:
    """Names of the fitted coefficients of an accelerator's entry.

    Example:
        >>> fitted_device_names("Tesla V100 SXM2 16GB")
        ('device.v100.clock', 'device.v100.fp32_share')
    """
    return fitted_of(device_entries("data_parallel"), replica_hardware(hardware_name).name, "device")
