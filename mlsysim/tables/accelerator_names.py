"""Which accelerator a table means: the spellings of published tables, and what a registry name has in common with them."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.hardware.registry import Hardware

# Words that say nothing of the device: who makes it, and how it is sold, cooled and limited.
_IDLE = frozenset(
    re.findall(
        r"\w+",
        """nvidia amd intel habana google graphcore huawei instinct tesla geforce radeon blackwell hopper ampere volta
        gpu gpus tpu ipu accelerator accelerators tensor core cores chip chips device module pod slice per node
        cloud aws azure gcp dgx hgx oam cts nvl72 virtualized superchip edition nps1 spx""",
    )
)
_BRACKETS = re.compile(r"\([^()]*\)")
_WORD = re.compile(r"[a-z0-9]+")
_MEMORY = re.compile(r"\b(\d+)\s*g(?:i?b)?\b")
_IDLE_PATTERN = re.compile(r"hbm\d?e?|gddr\d+x?|\d+w|\d+")
_FORM = re.compile(r"(sxm|pcie|nvl|oam)\d?")
# Families whose number many write apart from the letters.
_APART = re.compile(r"\b(tpu|mi|rtx|gh|gb|gaudi)[\s_-]*(v?\d)")


class _Spelling(NamedTuple):
    """A name taken apart: what must agree, how it is mounted (sxm, and of which generation), its memory: where it says so."""

    words: frozenset[str]
    family: str
    form: str
    memory: str


@functools.cache
def accelerator_entry(text: str) -> str:
    """The registry id of the accelerator that a table calls ``text``.

    The table of spellings comes first; then case, punctuation, vendor, brackets and mounting are set aside.

    Raises:
        UnknownNameError: none, or several that differ in more than that; the message has near names.

    Example:
        >>> accelerator_entry("NVIDIA A100-SXM4-80GB (400W)"), accelerator_entry("TPU v5p-1024")
        ('a100_sxm_80gb', 'tpu_v5p')
        >>> accelerator_entry("h100 pcie"), accelerator_entry("MI250X GCD")
        ('h100_pcie', 'mi250x_gcd')
    """
    lowered = text.strip().lower()
    if not lowered:
        raise InputError("accelerator", text, "a name: the row leaves it out")
    if lowered in _listed() or lowered in _registered():
        return _listed().get(lowered) or _registered()[lowered]
    # Brackets mostly hold the node or a power limit; where nothing else names a device, they do.
    for read in (_BRACKETS.sub(" ", lowered), lowered):
        given = _taken_apart(read)
        alike = [entry for entry, names in _known().items() if given.words and _named(given, names)]
        found = _preferring(alike, given)
        usual = _listed().get(" ".join(sorted(given.words)))
        if len(found) == 1 or usual in found:
            return found[0] if len(found) == 1 else str(usual)
        if alike:
            raise UnknownNameError("accelerator", text, f"one that says which: {', '.join(found or alike)}")
    raise UnknownNameError.among("accelerator", text, _known())


def _named(given: _Spelling, names: tuple[_Spelling, ...]) -> bool:
    """Whether one of the device's names is in the given one, and nothing of the given one is in none of them."""
    everything = frozenset().union(*(name.words for name in names))
    return given.words <= everything and any(name.words and name.words <= given.words for name in names)


def _preferring(found: list[str], given: _Spelling) -> list[str]:
    """The entries that have the given memory and mounting, or do not say."""
    for part in ("memory", "family", "form"):
        wanted = getattr(given, part)
        if wanted:
            have = [entry for entry in found if any(getattr(name, part) == wanted for name in _known()[entry])]
            silent = [entry for entry in found if not any(getattr(name, part) for name in _known()[entry])]
            # A generation of a mounting that no entry has ("SXM6") is as good as none.
            found = have or silent or (found if part == "form" else [])
    # A table that names no mounting means the board of a server.
    if not given.family and len(found) > 1:
        boards = [entry for entry in found if any(name.family == "sxm" for name in _known()[entry])]
        found = boards or found
    # The narrowest name: a GCD is named after its module.
    exact = [entry for entry in found if any(name.words == given.words for name in _known()[entry])]
    return exact if len(found) > 1 and exact else found


def _taken_apart(text: str) -> _Spelling:
    joined = _APART.sub(r"\1\2", text.lower())
    family, form, memory = "", "", ""
    if found := _MEMORY.search(joined):
        memory, joined = found[1], _MEMORY.sub(" ", joined)
    words = set()
    for word in _WORD.findall(joined):
        if match := _FORM.fullmatch(word):
            family, form = match[1], word
        elif word not in _IDLE and not _IDLE_PATTERN.fullmatch(word):
            words.add(word)
    return _Spelling(frozenset(words), family, form, memory)


@functools.cache
def _listed() -> dict[str, str]:
    found: dict[str, str] = packaged_toml("tables", "table_names.toml")["accelerator"]
    return found


@functools.cache
def _registered() -> dict[str, str]:
    """Ids by all names of the registry, in lower case."""
    both = Hardware.Cloud.spellings() | Hardware.Workstation.spellings()
    return {name.lower(): entry for entry, names in both.items() for name in reversed(names)}


@functools.cache
def _known() -> dict[str, tuple[_Spelling, ...]]:
    """All names of every accelerator of a data centre or workstation, by id."""
    both = Hardware.Cloud.spellings() | Hardware.Workstation.spellings()
    return {
        entry: tuple(_taken_apart(_BRACKETS.sub(" ", name).replace("_", " ")) for name in names)
        for entry, names in both.items()
    }
