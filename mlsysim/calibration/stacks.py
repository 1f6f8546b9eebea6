"""Software stacks and sustained clocks, read from ``stacks.toml`` and ``devices.toml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mlsysim.calibration import attention, collectives, gemm, shared, siblings
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.physics.training.memory import MemoryTerms
from mlsysim.physics.training.step_inputs import StackCoefficients

# Korthikanti et al. 2022, section 4.1: 5 a s^2 b of each layer, the output of softmax and of dropout and its mask.
_SCORE_B = {"unfused": 5.0, "fused-softmax": 5.0}
# Formats of products that leave a quantised copy of their inputs.
_QUANTISED = ("fp8", "fp4")
COEFFICIENTS = tuple(field.name for field in fields(StackCoefficients))


@dataclass(frozen=True)
class Stack:
    """A software stack: its coefficients, and the facts that are stated about it.

    Attributes:
        name, coefficients: the stack's name, and its fitted numbers.
        gather_B, reduce_B: bytes a parameter that its collectives carry (None: the formats of the plan).
        fused_quantisation, vendor_attention: the kernel before quantises; attention is the vendor's, else FlashAttention.
        memory: terms of its memory with attention that stores no scores.
        score_B: bytes that it keeps per score, by the name of the attention kernel that stores them.
        keeps_operands: 8-bit products keep their quantised inputs for the backward pass, not the 16-bit ones.
    """

    name: str
    coefficients: StackCoefficients
    gather_B: float | None
    reduce_B: float | None
    fused_quantisation: bool
    vendor_attention: bool
    memory: MemoryTerms
    score_B: Mapping[str, float]
    keeps_operands: bool

    def memory_terms(self, attention: str, precision: str = "bf16") -> MemoryTerms:
        """Terms of the stack's memory with this attention kernel and format of the matrix products.

        Example:
            >>> stack("megatron-2022").memory_terms("unfused").score_B, stack("megatron-2022").memory_terms("flash").score_B
            (5.0, 0.0)
        """
        input_B = 1.0 if self.keeps_operands and precision in _QUANTISED else 2.0
        return replace(self.memory, score_B=self.score_B.get(attention, 0.0), input_B=input_B)


@functools.cache
def stack(name: str) -> Stack:
    """The stack called ``name``.

    Raises:
        UnknownNameError: no such stack; the message lists them.

    Example:
        >>> stack("megatron-2021").coefficients.tp_hidden_backward
        0.0
    """
    entry = _entry("stack", name, "stacks.toml")
    coefficients = {key: float(entry[key]) for key in COEFFICIENTS if key in entry}
    return Stack(
        name=name,
        coefficients=StackCoefficients(**coefficients),
        gather_B=entry.get("gather_B"),
        reduce_B=entry.get("reduce_B"),
        fused_quantisation=bool(entry.get("fused_quantisation", False)),
        vendor_attention=bool(entry.get("vendor_attention", False)),
        memory=MemoryTerms(**{key: float(value) for key, value in entry.get("memory", {}).items()}),
        score_B={**_SCORE_B, **entry.get("score_B", {})},
        keeps_operands=bool(entry.get("keeps_operands", False)),
    )


@functools.cache
def fitted_names(stack_name: str, device: str, gemm_format: str) -> tuple[str, ...]:
    """Names of every coefficient that a training step of this stack on this device was fitted with.

    Example:
        >>> [name for name in fitted_names("megatron-2021", "a100_sxm", "bfloat16") if "clock" in name]
        ['clock.a100_sxm']
    """
    kernels = kernels_of(device)
    names = list(dict.fromkeys(name for fmt in ("bfloat16", gemm_format) for name in gemm.fitted_names(kernels, fmt)))
    names += attention.fitted_names("prefill", kernels, ["bfloat16"])
    names += collectives.fitted_names("device", kernels)
    names += shared.fitted_names()
    names += clock_names(device)
    return (*names, *_fitted_of_stack(stack_name))


def _fitted_of_stack(name: str) -> list[str]:
    """Names of a stack's fitted coefficients; one that it takes from the stack it is like keeps that stack's name."""
    entry = _tables("stacks.toml")[name]
    like = _fitted_of_stack(entry["like"]) if "like" in entry else []
    inherited = [key for key in like if key.rpartition(".")[2] not in entry]
    fitted = (*entry.get("fit", ()), *(f"memory.{term}" for term in entry.get("memory_fit", ())))
    return [*inherited, *(f"stack.{name}.{part}" for part in fitted)]


def stack_names() -> tuple[str, ...]:
    """The names of all stacks."""
    return tuple(_tables("stacks.toml"))


@functools.cache
def measured_device(hardware_name: str) -> str:
    """The entry of this accelerator, which its measured kernels are named after unless the entry says otherwise.

    Raises:
        UnknownNameError: it has none.

    Example:
        >>> measured_device("A100 SXM4 40GB")
        'a100_sxm_40gb'
    """
    known = _devices()
    if hardware_name not in known:
        raise UnknownNameError.among("accelerator with calibrated kernels", hardware_name, known)
    return known[hardware_name]


def measured_hardware() -> tuple[str, ...]:
    """The registry names of all accelerators with calibrated kernels, measured or stated."""
    return tuple(_devices())


@functools.cache
def _devices() -> dict[str, str]:
    """The device of each accelerator: that of its entry, or, without one, that of its stated kernels."""
    stated = {siblings.hardware(device).name: device for device in siblings.stated_devices()}
    return stated | {name: device for device, entry in _tables("devices.toml").items() for name in entry["hardware"]}


def kernels_of(device: str) -> str:
    """The device whose measured kernels stand for ``device``: itself, unless its entry says another.

    Example:
        >>> kernels_of("h100_sxm"), kernels_of("a100_sxm_40gb")
        ('h100_sxm', 'a100_sxm')
    """
    return str(_tables("devices.toml").get(device, {}).get("kernels", device))


def sustained_clock(device: str) -> float:
    """Share of the benchmark's clock that training sustains; a device without an entry has its sibling's."""
    return float(_clock_entry(device)[1]["clock"])


def clock_names(device: str) -> tuple[str, ...]:
    """The names of the fitted coefficient behind ``sustained_clock``: one or none."""
    name, entry = _clock_entry(device)
    return (f"clock.{name}",) if entry["fitted"] else ()


def _clock_entry(device: str) -> tuple[str, dict[str, Any]]:
    known = _tables("devices.toml")
    while device not in known:
        device = siblings.sibling(device, "gemm")
    return device, known[device]


def _entry(kind: str, name: str, file: str) -> dict[str, Any]:
    known = _tables(file)
    if name not in known:
        raise UnknownNameError.among(kind, name, known)
    return resolved(known, name)


def resolved(entries: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """An entry with what it takes from the one that it is ``like``.

    Example:
        >>> resolved({"a": {"x": 1, "y": 2}, "b": {"like": "a", "y": 3}}, "b")
        {'x': 1, 'y': 3, 'like': 'a'}
    """
    entry = entries[name]
    return {**resolved(entries, entry["like"]), **entry} if "like" in entry else dict(entry)


def entry_of(devices: Mapping[str, Mapping[str, Any]], hardware_name: str) -> tuple[str, dict[str, Any]]:
    """The name of an accelerator's entry in a family's table of devices, and that entry.

    Without one of its own an accelerator takes that of the nearest sibling that has one, on its own kernels.

    Raises:
        UnknownNameError: neither it nor a sibling has one.
    """
    known = {listed: name for name, entry in devices.items() for listed in entry["hardware"]}
    if hardware_name in known:
        return known[hardware_name], resolved(devices, known[hardware_name])
    device = _devices().get(hardware_name)
    for relative in siblings.line_of(kernels_of(device)) if device else ():
        if relative in devices:
            return relative, {**resolved(devices, relative), "kernels": device}
    raise UnknownNameError.among("accelerator with calibrated kernels", hardware_name, known)


@functools.cache
def _tables(file: str) -> dict[str, dict[str, Any]]:
    return packaged_toml("calibration", file)
