"""Serving engines, and the kernels that stand for a device, read from ``engines.toml`` and ``devices/``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mlsysim.calibration.device_entries import DEVICES, device_entries
from mlsysim.calibration.devices import kernels_of, measured_device, measured_hardware, queried_clock
from mlsysim.calibration.gemm import measured_devices
from mlsysim.calibration.names import engine_called
from mlsysim.calibration.own import ENGINE, OwnStack, is_own, known_parts, own_stack
from mlsysim.calibration.store import coefficients, fitted_of, known_entry, resolved, without_parts
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml, reading, reads
from mlsysim.physics.serving.deployment import EngineCoefficients, EngineKernels

COEFFICIENTS = tuple(field.name for field in fields(EngineCoefficients))
# Number formats whose products may reach another share of their peak than those of 16 bits.
FORMAT_SHARES = ("fp32", "tf32", "int8")


@dataclass(frozen=True)
class CardLimits:
    """Limits that an engine starts with on accelerators of less memory than ``below_GiB``, or with ``named`` in their name."""

    below_GiB: float
    step_tokens: float
    most_sequences: float
    named: str = ""


@dataclass(frozen=True)
class Engine:
    """A serving engine: its coefficients, and the facts that are stated about it.

    Attributes:
        name, coefficients: the engine's name, and its fitted numbers.
        has, memory_share: its kernels, and the share of the device's memory that weights and cache may fill.
        free_share: share that the cache may fill of what weights and workspace leave of that, where a scheduler fills it.
        most_sequences: sequences that it decodes together at most.
        reserves: cache is set aside for a sequence's longest length when it starts; else it grows with it.
        step_tokens, fitted: tokens of prompts that a pass computes at most (chunked prefill); names of fitted coefficients.
        beside_experts: number format of the other weights in its files, where experts alone have one; empty: the model's own.
        client: what its users reach it through (``harnesses.toml``).
        cards: its limits on smaller accelerators, the smallest first; ``step_tokens`` and ``most_sequences`` are of all others.
        file: of a user's own engine, the path by which it is named.
    """

    name: str
    coefficients: EngineCoefficients
    has: EngineKernels
    memory_share: float
    most_sequences: float
    reserves: bool
    step_tokens: float
    fitted: tuple[str, ...]
    client: str
    beside_experts: str = ""
    free_share: float = 1.0
    cards: tuple[CardLimits, ...] = ()
    file: str = ""

    def on(self, hardware_name: str, memory_GiB: float) -> Engine:
        """The engine with the limits that it starts with on an accelerator.

        Example:
            >>> [engine("sglang-2025").on("", memory_GiB).step_tokens for memory_GiB in (24, 80, 180)]
            [2048.0, 8192.0, 16384.0]
        """
        for card in self.cards:
            if memory_GiB < card.below_GiB or (card.named and card.named in hardware_name):
                return replace(self, step_tokens=card.step_tokens, most_sequences=card.most_sequences)
        return self


def engine(name: str) -> Engine:
    """The engine called ``name``, the one that another name of an engine and its release means, or the user's own in a file.

    Raises:
        UnknownNameError: no such engine; the message has the nearest names.
        DataError: the file is none that ``mlsysim calibrate`` wrote.

    Example:
        >>> engine("vllm-2025").has.grouped_decode, engine("vLLM 0.15.0").name
        (True, 'vllm-2025')
    """
    return _calibrated(own_stack(name, ENGINE)) if is_own(name) else _shipped(name)


@functools.lru_cache(maxsize=64)
def _calibrated(own: OwnStack) -> Engine:
    """The user's own engine: it keeps the name of the one that it is like, by which facts about it are found."""
    with reading(f"{own.file}: [{own.kind}]: like"):
        base = _shipped(own.like)
    numbers = replace(base.coefficients, **known_parts(own, COEFFICIENTS))
    return replace(base, coefficients=numbers, fitted=(*without_parts(base.fitted, own.values), *own.names), file=own.file)


@reads("calibration", "engines.toml")
def _shipped(name: str) -> Engine:
    known = engine_tables()
    called = name if name in known else engine_called(name, alone=True)
    if called is not None and called != name:
        return _shipped(called)
    entry = known_entry("stack", name, known)
    return Engine(
        name=name,
        coefficients=coefficients(EngineCoefficients, entry),
        has=_kernels(entry.get("kernels", {})),
        memory_share=float(entry["memory_use"]),
        most_sequences=float(entry["most_sequences"]),
        reserves=bool(entry.get("reserves", True)),
        step_tokens=float(entry["step_tokens"]),
        fitted=fitted_of(engine_tables(), name, "engine"),
        beside_experts=str(entry.get("beside_experts", "")),
        free_share=float(entry.get("free_share", 1.0)),
        client=str(entry["client"]),
        cards=tuple(_card(card, entry) for card in entry.get("cards", ())),
    )


def _card(card: Mapping[str, Any], entry: Mapping[str, Any]) -> CardLimits:
    tokens, sequences = (float(card.get(part, entry[part])) for part in ("step_tokens", "most_sequences"))
    return CardLimits(float(card["below_GiB"]), tokens, sequences, str(card.get("named", "")))


def engine_names() -> tuple[str, ...]:
    """The names of all engines."""
    return tuple(engine_tables())


def _kernels(facts: Mapping[str, Any]) -> EngineKernels:
    hashable: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return EngineKernels(**hashable)


@dataclass(frozen=True, kw_only=True)
class EngineDevice:
    """The measured kernels that stand for an accelerator, and how its own differ from them.

    Attributes:
        name, gemm, attention, collectives: the entry, and the measured devices whose kernels stand for its own.
        clock: share of its own clock that queries sustain on it, under a power limit that was seen to matter with kernels of
            another; else 1.
        kernel_clock: the same, where neither ``compute_share`` nor ``sustained_share`` has it.
        fitted: names of its fitted coefficients.
        compute_share, memory_share, attention_share: shares of what those kernels reach that this device's reach.
        sustained_share: share of its peak that its power limit sustains at 16 bits.
        link: coefficients of collectives that differ from the measured device's.
        link_share: share of its links' stated bandwidth that all-reduces reach.
        crossing_share: share of that where more than half a node takes part: its two sockets' cards meet on the bus between.
        lends: whether an engine with products of its own calls the vendor's, too, where they are faster.
        own_compute_share: share of the kernels that such an engine calls (``compute_share``, unless an entry states another);
            where it calls none, share of its peak that the engine's own products reach.
        own_memory_share: share of the memory's rate that an engine's own kernels reach.
        fp32_lanes: 32-bit lanes of a multiprocessor, where the clock of its cores limits such kernels; 0 where memory does.
        fp32_share, tf32_share, int8_share: rate of products in that format over that of 16 bits, as shares of their peaks (a
            power limit holds back the matrix units more than the cores).
    """

    name: str
    gemm: str
    attention: str
    collectives: str
    clock: float
    kernel_clock: float
    fitted: tuple[str, ...]
    compute_share: float = 1.0
    memory_share: float = 1.0
    attention_share: float = 1.0
    sustained_share: float = 1.0
    link: Mapping[str, float]
    link_share: float = 1.0
    crossing_share: float = 1.0
    lends: bool
    own_compute_share: float
    own_memory_share: float = 0.9
    fp32_lanes: float
    fp32_share: float = 1.0
    tf32_share: float = 1.0
    int8_share: float = 1.0

    def format_share(self, precision: str) -> float:
        """Rate of products at this number format over that of 16 bits, as shares of their peaks.

        Example:
            >>> engine_device("H100 SXM5 80GB").format_share("bf16")
            1.0
        """
        return float(getattr(self, f"{precision}_share")) if precision in FORMAT_SHARES else 1.0


def shares_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The shares that a device's entry states; ``own_compute_share`` is ``compute_share`` where only that is stated.

    Example:
        >>> shares_of({"compute_share": 0.9, "source": "a run"})
        {'own_compute_share': 0.9, 'compute_share': 0.9}
    """
    names = (part.name for part in fields(EngineDevice) if part.name.endswith("_share"))
    stated = {name: float(entry[name]) for name in names if name in entry}
    own = {"own_compute_share": stated["compute_share"]} if "compute_share" in stated else {}
    return own | stated


@reads("calibration", DEVICES)
def engine_device(hardware_name: str) -> EngineDevice:
    """The kernels that stand for this accelerator: those that it trains with, unless it has an entry here.

    Raises:
        UnknownNameError: no kernels stand for it.

    Example:
        >>> engine_device("H100 SXM5 80GB").gemm, engine_device("Instinct MI300X").gemm
        ('h100_sxm', 'mi300x')
    """
    known = {hardware: name for name, entry in device_tables().items() for hardware in entry["hardware"]}
    if hardware_name not in known:
        try:
            name = kernels_of(measured_device(hardware_name))
        except UnknownNameError:
            known |= {hardware: hardware for hardware in measured_hardware()}
            raise UnknownNameError.among("accelerator with kernels for serving", hardware_name, known) from None
        entry: dict[str, Any] = {"gemm": name, "attention": name, "collectives": name}
    else:
        name = known[hardware_name]
        entry = resolved(device_tables(), name)
    # Kernels that were measured on the card itself ran at the clock that its power limit leaves.
    clock = 1.0 if name in measured_devices() else queried_clock(hardware_name)
    kernel_clock = 1.0 if "compute_share" in entry or "sustained_share" in entry else clock
    return EngineDevice(
        name=name,
        gemm=entry.get("gemm", ""),
        attention=entry["attention"],
        collectives=entry["collectives"],
        clock=clock,
        kernel_clock=kernel_clock,
        lends=bool(entry.get("lends", "gemm" in entry)),
        fp32_lanes=float(entry.get("fp32_lanes", 0.0)),
        link={key: float(value) for key, value in entry.get("link", {}).items()},
        fitted=tuple(f"engine_device.{name}.{part}" for part in entry.get("fit", ())),
        **{"own_compute_share": kernel_clock, **shares_of(entry)},
    )


@reads("calibration", "engines.toml")
def engine_tables() -> dict[str, dict[str, Any]]:
    """Give the entries of ``engines.toml``."""
    return packaged_toml("calibration", "engines.toml")


def device_tables() -> dict[str, dict[str, Any]]:
    """Give what entries of devices say of serving."""
    return device_entries("serving")
