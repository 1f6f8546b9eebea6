"""Stacks and devices of data-parallel training of models that one accelerator holds whole (``data_parallel.toml``)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mlsysim.calibration import gemm
from mlsysim.calibration.shared_kernels import shared_names
from mlsysim.calibration.stacks import clock_names, entry_of, resolved, sustained_clock
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.physics.training.data_parallel import ReplicaCoefficients

FILE = "data_parallel.toml"
# Number formats whose products may reach another share of their peak than those of 16 bits.
SHARED_FORMATS = ("tf32", "fp32", "fp8")
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

    ``format_shares`` are the rates of products at other number formats over that of 16 bits, as shares of their peaks.
    """

    name: str
    kernels: str
    clock: float
    format_shares: Mapping[str, float] = field(default_factory=dict)


@functools.cache
def replica_tables() -> dict[str, dict[str, dict[str, Any]]]:
    """Give the TOML's tables ``stack`` and ``device``."""
    return packaged_toml("calibration", FILE)


def replica_stack_names() -> tuple[str, ...]:
    """The names of all stacks."""
    return tuple(replica_tables()["stack"])


@functools.cache
def replica_stack(name: str) -> ReplicaStack:
    """The stack called ``name``.

    Raises:
        UnknownNameError: no such stack; the message lists them.

    Example:
        >>> replica_stack("nvidia-mlperf-bert").unpadded
        True
    """
    stacks = replica_tables()["stack"]
    if name not in stacks:
        raise UnknownNameError.among("stack", name, stacks)
    return stack_of_entry(name, resolved(stacks, name))


def stack_of_entry(name: str, entry: Mapping[str, Any]) -> ReplicaStack:
    """The stack that a resolved entry describes."""
    facts = [part.name for part in fields(ReplicaStack) if part.name not in ("name", "coefficients")]
    return ReplicaStack(
        name=name,
        coefficients=ReplicaCoefficients(**{key: float(entry[key]) for key in COEFFICIENTS if key in entry}),
        **{key: entry[key] for key in facts if key in entry},
    )


@functools.cache
def replica_hardware(hardware_name: str) -> ReplicaHardware:
    """The kernels that stand for an accelerator of the registry.

    Raises:
        UnknownNameError: no kernels stand for it.

    Example:
        >>> replica_hardware("A30").kernels
        'a100_sxm'
    """
    name, entry = entry_of(replica_tables()["device"], hardware_name)
    clock = float(entry["clock"]) if "clock" in entry else sustained_clock(entry["kernels"])
    shares = {fmt: float(entry[f"{fmt}_share"]) for fmt in SHARED_FORMATS if f"{fmt}_share" in entry}
    return ReplicaHardware(name, entry["kernels"], clock, shares)


@functools.cache
def replica_fitted_names(stack_name: str, hardware_name: str, gemm_format: str) -> tuple[str, ...]:
    """Names of every coefficient that a step of this stack on this accelerator was fitted with.

    Example:
        >>> [name for name in replica_fitted_names("nvidia-mxnet", "A30", "bfloat16") if "clock" in name]
        ['device.a30.clock']
    """
    hardware = replica_hardware(hardware_name)
    device = _fitted("device", hardware.name)
    clock = () if any(name.endswith(".clock") for name in device) else clock_names(hardware.kernels)
    return (
        *shared_names("data_parallel"),
        *gemm.fitted_names(hardware.kernels, gemm_format),
        *clock,
        *device,
        *_fitted("stack", stack_name),
    )


@functools.cache
def fitted_device_names(hardware_name: str) -> tuple[str, ...]:
    """Names of the fitted coefficients of an accelerator's entry.

    Example:
        >>> fitted_device_names("Tesla V100 SXM2 16GB")
        ('device.v100.clock', 'device.v100.fp32_share')
    """
    return tuple(_fitted("device", replica_hardware(hardware_name).name))


def _fitted(kind: str, name: str) -> list[str]:
    """Names of an entry's fitted coefficients; one that it takes from the entry it is like keeps that entry's name."""
    entry = replica_tables()[kind][name]
    inherited = [key for key in _fitted(kind, entry["like"]) if key.rpartition(".")[2] not in entry] if "like" in entry else []
    return [*inherited, *(f"{kind}.{name}.{part}" for part in entry.get("fit", ()))]
