"""Data-parallel training of models that one accelerator holds whole: stacks (``data_parallel.toml``) and devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from mlsysim.calibration import gemm
from mlsysim.calibration.device_entries import device_entries
from mlsysim.calibration.devices import clock_names, clock_of, entry_of, format_shares
from mlsysim.calibration.shared_kernels import shared_names
from mlsysim.calibration.store import fitted_of, stacks_of, tables, without_parts
from mlsysim.core.toml import reads
from mlsysim.physics.training.data_parallel import ReplicaCoefficients

FILE = "data_parallel.toml"
# The sections of a device's entry, and the files of the stacks: models that are trained, and the forward pass alone.
TRAINED, INFERRED = "data_parallel", "inference"
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


# The stack of a name.
replica_stack = stacks_of(ReplicaStack, ReplicaCoefficients, FILE)


@reads("calibration", "devices/")
def pass_hardware(section: str, hardware_name: str) -> ReplicaHardware:
    """The kernels that stand for an accelerator; ``section`` is ``TRAINED`` or ``INFERRED``, which may have parts of the other.

    Raises:
        UnknownNameError: no kernels stand for it.

    Example:
        >>> pass_hardware(TRAINED, "A30").kernels, pass_hardware(INFERRED, "Tesla T4").kernels
        ('a100_sxm', 'a100_sxm')
        >>> pass_hardware(INFERRED, "Tesla V100 SXM2 16GB").clock == pass_hardware(TRAINED, "Tesla V100 SXM2 16GB").clock
        True
    """
    name, entry = entry_of(device_entries(section), hardware_name)
    shares = format_shares(entry)
    if entry.get("as_trained"):
        trained = pass_hardware(TRAINED, hardware_name)
        clock, shares = trained.clock, {**trained.format_shares, **shares}
    else:
        clock = clock_of(entry)
    return ReplicaHardware(name, entry["kernels"], clock, shares, float(entry.get("traffic", 1.0)))


@reads("calibration", "devices/")
def pass_fitted_names(section: str, stack_name: str, hardware_name: str, gemm_format: str) -> tuple[str, ...]:
    """Names of every coefficient that a pass of a stack on an accelerator was fitted with.

    Example:
        >>> [name for name in pass_fitted_names(TRAINED, "nvidia-mxnet", "A30", "bfloat16") if "clock" in name]
        ['device.a30.clock']
    """
    kernels = pass_hardware(section, hardware_name).kernels
    device = _device_names(section, hardware_name)
    # Without a clock under this load it is the one of training.
    clock = () if any(name.endswith(".clock") for name in device) else clock_names(kernels)
    products, stacks = gemm.fitted_names(kernels, gemm_format), tables(f"{section}.toml")["stack"]
    return (*shared_names("data_parallel"), *products, *clock, *device, *fitted_of(stacks, stack_name, "stack"))


def _device_names(section: str, hardware_name: str) -> tuple[str, ...]:
    """Names of the fitted coefficients of an accelerator's entry; what it has as it is trained keeps its name."""
    entries, name = device_entries(section), pass_hardware(section, hardware_name).name
    entry = entries[name]
    trained = without_parts(_device_names(TRAINED, hardware_name), entry) if entry.get("as_trained") else ()
    return (*trained, *fitted_of(entries, name, "device"))
