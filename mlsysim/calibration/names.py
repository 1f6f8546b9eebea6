"""Names that people give frameworks and serving engines, and the stack or engine that each means: ``data/names.toml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlsysim.calibration.own import ENGINE, STACK, is_own, own_stack
from mlsysim.core.names import folded, longest_beginning
from mlsysim.core.toml import packaged_toml, reads

_LATEST = 9999.0
# "0.12.0", "v3"; not the year of an engine of ours that is not there.
_NUMBERED = re.compile(r"\d+(?:[.]\d+)+")
_RELEASE = re.compile(r"(v?\d{1,2}([.][a-z0-9.]+)?)?")


def engine_called(text: str, year: float = _LATEST, *, alone: bool = False) -> str | None:
    """Returns the engine of ours that a name means, or None.

    Args:
        text: the engine's name, with its release or without.
        year: of the run; of an engine that was tuned again later, it tells which.
        alone: nothing but a release may follow the name; in cells of tables anything may.

    Example:
        >>> engine_called("vLLM 0.15.1"), engine_called("vllm 0.11", 2026), engine_called("vllm", 2024), engine_called("mine")
        ('vllm-2025', 'vllm-0.13', 'vllm-2024', None)
        >>> engine_called("vLLM 0.2.1", 2025), engine_called("vllm", 2025), engine_called("TensorRT-LLM", 2024)
        ('vllm-2023', 'vllm-0.13', 'tensorrt-llm-0.14')
    """
    if is_own(text):
        return own_stack(text, ENGINE).file
    known = _own("engines.toml").get(folded(text))
    listed: dict[str, Any] = _names()["engine"]
    name = longest_beginning(text, listed)
    # The year tells releases apart that have an engine's plain name; what they have in common is that of nobody's run.
    if known is not None and not (year < _LATEST and name is not None and folded(text) == folded(name)):
        return known
    if name is None or (alone and not _is_release(text, name)):
        return None
    eras = listed[name]
    if isinstance(eras, str):
        return eras
    stated = _NUMBERED.search(text)
    release = _numbers(stated[0]) if stated and "below" in eras[0] else ()
    for era in eras[:-1]:
        if release < _numbers(era["below"]) if release else year <= era["until"]:
            return str(era["stack"])
    return str(eras[-1]["stack"])


def framework_called(text: str, year: float | None = None) -> Mapping[str, Any] | None:
    """Returns what is known of the framework that a name means, its ``stack`` first of all; None where no name fits.

    Args:
        text: the framework's name, or a list of containers that mentions it.
        year: of the run; an older one of the same name may have had another stack, or counted other FLOP.

    Example:
        >>> framework_called("Megatron-LM v3", 2021)["stack"], framework_called("MaxText")["batch_by_accelerator"]
        ('megatron-2021', True)
        >>> framework_called("mine") is None
        True
    """
    if is_own(text):
        own = own_stack(text, STACK)
        return {**(framework_called(own.called, own.year) or unknown()), "stack": own.file, "own": True}
    names = _names()
    listed: dict[str, dict[str, Any]] = names["framework"]
    lowered = text.strip().lower()
    name = longest_beginning(lowered, listed) if lowered else None
    if name is None:
        # Containers come in any order: the first that an entry knows; else a name that the text has in it.
        mentioned = [entry for part, entry in names["mentions"].items() if part in lowered]
        name = (mentioned or sorted((name for name in listed if name in lowered), key=len, reverse=True) or [None])[0]
    if name is None:
        return None
    entry = listed[name]
    if year is not None:
        for era in sorted(entry.get("until", ()), key=lambda era: era["year"]):
            if year <= era["year"]:
                return {**entry, **era}
    return entry


def stack_called(text: str) -> str | None:
    """Returns the training stack of ours that a name means, of a framework today's; None where no name fits.

    Nothing but a release may follow a framework's name.

    Example:
        >>> stack_called("megatron-2021"), stack_called("torchtitan v0.1"), stack_called("pytorch-fsdp-pur")
        ('megatron-2021', 'torchtitan', None)
    """
    if is_own(text):
        return own_stack(text, STACK).file
    known = _own("stacks.toml").get(folded(text))
    listed: dict[str, dict[str, Any]] = _names()["framework"]
    name = None if known is not None else longest_beginning(text, listed)
    return str(listed[name]["stack"]) if name is not None and _is_release(text, name) else known


@reads("calibration", "names.toml")
def follower(name: str) -> str:
    """Returns the stack or engine of today that followed an older one: itself where none did.

    Example:
        >>> follower("vllm-2024"), follower("fastertransformer"), follower("sglang-2025")
        ('vllm-2025', 'tensorrt-llm-1.0', 'sglang-2025')
    """
    return str(_names()["followed_by"].get(name, name))


@reads("calibration", "names.toml")
def todays_stacks() -> frozenset[str]:
    """Returns the training stacks that frameworks' names mean today."""
    return frozenset(follower(entry["stack"]) for entry in _names()["framework"].values())


@reads("calibration", "names.toml")
def todays_engines() -> frozenset[str]:
    """Returns the engines that their names mean today."""
    listed: dict[str, Any] = _names()["engine"]
    return frozenset(follower(eras if isinstance(eras, str) else eras[-1]["stack"]) for eras in listed.values())


def unknown(accelerator: str = "") -> Mapping[str, Any]:
    """Returns what stands for a framework or an engine that no name fits; some accelerators are programmed in one way alone.

    Example:
        >>> unknown()["stack"], unknown("TPU v4")["stack"]
        ('generic', 'pathways-2022')
    """
    names = _names()
    entry: dict[str, Any] = names["unknown"]
    kinds = [names["framework"][name] for beginning, name in entry["on"].items() if accelerator.startswith(beginning)]
    return kinds[0] if kinds else entry


def stack_of_variant(variant: str, model: str) -> str | None:
    """Returns the stack that a run's variant, or its model's name, says; None where neither does.

    Example:
        >>> stack_of_variant("MP mode pure", ""), stack_of_variant("", "Mixtral 8x7B (tokendrop)"), stack_of_variant("", "")
        ('pytorch-fsdp-pure', 'megatron-core-tokendrop', None)
    """
    names = _names()
    said = [stack for part, stack in names["model_says"].items() if part in model.lower()]
    found: str | None = names["variant"].get(variant.strip().lower()) or (said[0] if said else None)
    return found


def _numbers(release: str) -> tuple[int, ...]:
    """The numbers of a release, to compare."""
    return tuple(map(int, release.split(".")))


def _is_release(text: str, name: str) -> bool:
    """True if what follows ``name`` in ``text`` is a release, or if nothing does."""
    return _RELEASE.fullmatch(folded(text)[len(folded(name)) :]) is not None


@reads("calibration", "names.toml")
def _names() -> dict[str, Any]:
    return packaged_toml("calibration", "names.toml")


@reads("calibration", "names.toml")
def _own(file: str) -> dict[str, str]:
    return {folded(name): name for name in packaged_toml("calibration", file)}
