"""Software stacks, read from ``stacks.toml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mlsysim.calibration import attention, collectives, gemm, shared
from mlsysim.calibration.devices import clock_names, kernels_of
from mlsysim.calibration.own import STACK, OwnStack, is_own, known_parts, own_stack
from mlsysim.calibration.store import coefficients, fitted_of, known_entry, resolved, tables, without_parts
from mlsysim.core.toml import reading, reads
from mlsysim.physics.training.memory import MemoryTerms
from mlsysim.physics.training.step_inputs import StackCoefficients

_FILE = "stacks.toml"
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
        integer_sweeps: times its narrow bytes that quantising each operand of an integer product moves.
        eager: PyTorch runs each operation of norms, rotation and gates by itself, unless the run is compiled (None: its kernels
            are its own, and compiling changes nothing).
        memory: terms of its memory with attention that stores no scores.
        score_B: bytes that it keeps per score, by the name of the attention kernel that stores them.
        gradients: number format that it accumulates gradients in beside 16-bit weights, unless it is told another ("": theirs).
        expert_tile: ``tile_rows``, ... (``physics.layer.ExpertShape``) of one kernel of all experts in tiles of its own.
        masked: products with a mask put tokens in order for experts of a fixed capacity; else they are copied.
        sequence_parallel: ranks of a TP group split the sequence between products, unless a run says otherwise.
        adapters: projections that have adapters in it, where only these are trained and nobody says which ("": attention's).
        keeps_operands: 8-bit products keep their quantised inputs for the backward pass, not the 16-bit ones.
    """

    name: str
    coefficients: StackCoefficients
    memory: MemoryTerms
    score_B: Mapping[str, float]
    expert_tile: Mapping[str, float]
    gather_B: float | None = None
    reduce_B: float | None = None
    fused_quantisation: bool = False
    vendor_attention: bool = False
    integer_sweeps: float = 0.0
    eager: bool | None = None
    masked: bool = False
    keeps_operands: bool = False
    gradients: str = ""
    sequence_parallel: bool = True
    adapters: str = ""

    def memory_terms(self, attention: str, precision: str = "bf16") -> MemoryTerms:
        """Terms of the stack's memory with this attention kernel and format of the matrix products.

        Example:
            >>> stack("megatron-2022").memory_terms("unfused").score_B, stack("megatron-2022").memory_terms("flash").score_B
            (5.0, 0.0)
        """
        input_B = 1.0 if self.keeps_operands and precision in _QUANTISED else 2.0
        return replace(self.memory, score_B=self.score_B.get(attention, 0.0), input_B=input_B)


def stack(name: str) -> Stack:
    """The stack called ``name``, or the user's own in the file of this path.

    Raises:
        UnknownNameError: no such stack; the message lists them.
        DataError: the file is none that ``mlsysim calibrate`` wrote.

    Example:
        >>> stack("megatron-2021").coefficients.tp_hidden_backward
        0.0
    """
    return _calibrated(own_stack(name, STACK)) if is_own(name) else _shipped(name)


@functools.lru_cache(maxsize=64)
def _calibrated(own: OwnStack) -> Stack:
    with reading(f"{own.file}: [{own.kind}]: like"):
        base = _shipped(own.like)
    return replace(base, name=own.file, coefficients=replace(base.coefficients, **known_parts(own, COEFFICIENTS)))


@reads("calibration", "stacks.toml")
def _shipped(name: str) -> Stack:
    entry = usual_entry(name)
    read: dict[str, Any] = {
        "name": name,
        "coefficients": coefficients(StackCoefficients, entry),
        "memory": MemoryTerms(**{key: float(value) for key, value in entry.get("memory", {}).items()}),
        "score_B": {**_SCORE_B, **entry.get("score_B", {})},
        "expert_tile": {key: float(value) for key, value in entry.get("expert_tile", {}).items()},
    }
    return Stack(**{part.name: entry[part.name] for part in fields(Stack) if part.name in entry} | read)


@reads("calibration", "stacks.toml")
def usual_entry(name: str) -> Mapping[str, Any]:
    """What the file states of a shipped stack, with what it takes from the one that it is like and from what stacks share.

    Example:
        >>> usual_entry("megatron-2021")["host_layer_s"] == shared.shared_values()["host_layer_s"]
        True
    """
    return shared.with_usual(known_entry("stack", name, tables(_FILE)), shared.shared_values())


def fitted_names(stack_name: str, device: str, gemm_format: str) -> tuple[str, ...]:
    """Names of every coefficient that a training step of this stack on this device was fitted with.

    Example:
        >>> [name for name in fitted_names("megatron-2021", "a100_sxm", "bfloat16") if "clock" in name]
        ['clock.a100_sxm']
    """
    if is_own(stack_name):
        own = own_stack(stack_name, STACK)
        return (*without_parts(fitted_names(own.like, device, gemm_format), own.values), *own.names)
    return _fitted_names(stack_name, device, gemm_format)


@reads("calibration", "stacks.toml")
def _fitted_names(stack_name: str, device: str, gemm_format: str) -> tuple[str, ...]:
    kernels = kernels_of(device)
    names = list(dict.fromkeys(name for fmt in ("bfloat16", gemm_format) for name in gemm.fitted_names(kernels, fmt)))
    names += attention.fitted_names("prefill", kernels, ["bfloat16"])
    names += collectives.fitted_names("device", kernels)
    names += shared.fitted_names(resolved(tables(_FILE), stack_name).get("usual", ()))
    names += clock_names(device)
    return (*names, *fitted_of(_with_memory(), stack_name, "stack"))


@reads("calibration", "stacks.toml")
def _with_memory() -> dict[str, dict[str, Any]]:
    """The stacks, each with the fitted terms of its memory among what was fitted of it."""
    terms = {name: [f"memory.{term}" for term in entry.get("memory_fit", ())] for name, entry in tables(_FILE).items()}
    return {name: {**entry, "fit": [*entry.get("fit", ()), *terms[name]]} for name, entry in tables(_FILE).items()}


def stack_names() -> tuple[str, ...]:
    """The names of all stacks."""
    return tuple(tables(_FILE))
