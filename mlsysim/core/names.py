"""Meanings of spellings: the one reader of names, of tables, anchors, arguments and the registries alike.

People write "H200 SXM 141GB", "NVIDIA H200-SXM-141GB" and "h200_sxm" for one thing. A name is compared in steps, and the
first step that knows it decides:

1. Case and punctuation are set aside (``folded``), for the names that a registry has and the spellings that are listed.
2. Words that say nothing are dropped (makers, organisations, suffixes of checkpoints), and what tells variants of one thing
   apart is taken out (memory, mounting). Several candidates are narrowed by that; what is left over is refused.

Which words say nothing and which spellings are listed is data: ``names.toml`` beside each registry.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlsysim.core.errors import DataError, nearest_names

_BRACKETS = re.compile(r"\([^()]*\)")
_POINT = re.compile(r"(?<=\d)p(?=\d)")
_GAP = re.compile(r"(?<=\d)[^a-z0-9]+(?=\d)")
_PUNCTUATION = re.compile(r"[^a-z0-9.]+|(?<!\d)\.|\.(?!\d)")
# Names whose meaning is kept: a table of any length may have another one in each row.
_MOST_ANSWERS = 2**14
# The hyphens and spaces that word processors write.
_TYPOGRAPHY = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u00a0": " ", "_": " "})


@functools.lru_cache(maxsize=2**14)
def folded(name: str) -> str:
    """Returns ``name`` without case and punctuation; what stands between two digits becomes a point.

    Example:
        >>> folded("OPT-1.3B"), folded("OPT_1_3B"), folded("opt_1p3b"), folded("OPT-13B")
        ('opt1.3b', 'opt1.3b', 'opt1.3b', 'opt13b')
    """
    return _PUNCTUATION.sub("", _GAP.sub(".", _POINT.sub(".", name.lower())))


@dataclass(frozen=True)
class Reading:
    """Rules by which the names of one kind of thing are taken apart.

    Attributes:
        replacements: patterns and what stands in their place, in this order, in lower-case text.
        qualifiers: patterns that tell variants of one thing apart, by what they tell; the first group is the value.
        lenient: qualifiers that are ignored where no variant has the value that a name gives.
        remarks: brackets hold a remark, which is set aside unless nothing else names the thing.
    """

    replacements: tuple[tuple[re.Pattern[str], str], ...] = ()
    qualifiers: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    lenient: frozenset[str] = frozenset()
    remarks: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Reading:
        """Returns the reading that a ``names.toml`` describes.

        Args:
            document: its tables ``replacements`` (pattern to text), ``qualifiers`` (name to pattern) and ``words``, whose
                ``idle`` ones are dropped, as is what stands in ``brackets`` if they hold "remarks". Each may be missing.

        Example:
            >>> Reading.of({"words": {"idle": ["nvidia", "gpu"]}}).parts("NVIDIA T4 GPU").core
            't4'
        """
        replaced = [(re.compile(pattern), text) for pattern, text in document.get("replacements", {}).items()]
        words = document.get("words", {})
        if idle := words.get("idle"):
            replaced.append((re.compile(rf"(?<![a-z0-9])(?:{'|'.join(idle)})(?![a-z0-9])"), " "))
        qualifiers = document.get("qualifiers", {})
        return cls(
            replacements=tuple(replaced),
            qualifiers={name: re.compile(rule["pattern"]) for name, rule in qualifiers.items()},
            lenient=frozenset(name for name, rule in qualifiers.items() if rule.get("lenient")),
            remarks=words.get("brackets") == "remarks",
        )

    def parts(self, text: str) -> _Parts:
        """Returns ``text`` taken apart: its core, its qualifiers, and both together."""
        rest = text.lower().translate(_TYPOGRAPHY)
        for pattern, replacement in self.replacements:
            rest = pattern.sub(replacement, rest)
        qualified = folded(rest)
        by_part = {}
        for name, pattern in self.qualifiers.items():
            if match := pattern.search(rest):
                by_part[name] = match[1]
        for pattern in self.qualifiers.values():
            rest = pattern.sub(" ", rest)
        return _Parts(folded(rest), by_part, qualified)


@dataclass(frozen=True)
class _Parts:
    """A name taken apart: ``core`` must agree, ``qualifiers`` narrow; ``qualified`` is the core before they were taken out."""

    core: str
    qualifiers: Mapping[str, str]
    qualified: str


class Names:
    """The names of things of one kind, by an id each.

    Example:
        >>> chips = Names({"a_40": ["A100 40GB"], "a_80": ["A100 80GB", "A100"]}, Reading.of(
        ...     {"words": {"idle": ["nvidia"], "brackets": "remarks"}, "qualifiers": {"memory": {"pattern": "([0-9]+) ?gb"}}}))
        >>> chips.find("NVIDIA A100-40GB"), chips.find("a100"), chips.find("A100 (at 400 W)"), chips.find("A100 20GB")
        (('a_40',), ('a_80',), ('a_80',), ())
    """

    def __init__(
        self,
        names: Mapping[str, Iterable[str]],
        reading: Reading | None = None,
        spellings: Mapping[str, str] | None = None,
    ) -> None:
        """Takes the names that each id has, how they are taken apart, and further spellings with the id of each.

        Raises:
            DataError: a spelling stands for an id that is not there, or for another than a name of that spelling.
        """
        self._reading = reading or Reading()
        self._names = {id: tuple(dict.fromkeys(known)) for id, known in names.items()}
        self._folded: dict[str, list[str]] = {}
        self._cores: dict[str, dict[str, list[_Parts]]] = {}
        for id, known in self._names.items():
            for name in known:
                self._add(folded(name), id)
                parts = self._reading.parts(self._bare(name))
                self._cores.setdefault(parts.core, {}).setdefault(id, []).append(parts)
        for spelling, id in (spellings or {}).items():
            if id not in self._names:
                raise DataError(f"spelling {spelling!r}: {id!r} is not there")
            if self._folded.get(folded(spelling), [id]) != [id]:
                raise DataError(f"spelling {spelling!r}: it is a name of {', '.join(self._folded[folded(spelling)])}")
            self._add(folded(spelling), id)
        self._answers: dict[str, tuple[str, ...]] = {}

    def _add(self, key: str, id: str) -> None:
        owners = self._folded.setdefault(key, [])
        if id not in owners:
            owners.append(id)

    def find(self, text: str) -> tuple[str, ...]:
        """Returns the ids that ``text`` may mean: one if it is a name, several if it does not say which, none if unknown."""
        answer = self._answers.get(text)
        if answer is None:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            answer = self._answers[text] = self._found(text)
        return answer

    def _found(self, text: str) -> tuple[str, ...]:
        if (exact := self._folded.get(folded(text))) and folded(text):
            return tuple(exact)
        for read in dict.fromkeys((self._bare(text), text)):
            parts = self._reading.parts(read)
            candidates = self._cores.get(parts.core, {}) if parts.core else {}
            left = self._narrowed(candidates, parts)
            for key in (parts.qualified, parts.core):
                usual = [id for id in self._folded.get(key, ()) if id in left or not candidates]
                if len(left) != 1 and len(usual) == 1:
                    left = usual
            if left or candidates:
                return tuple(left)
        return ()

    def _bare(self, text: str) -> str:
        return _BRACKETS.sub(" ", text) if self._reading.remarks else text

    def _narrowed(self, candidates: Mapping[str, Sequence[_Parts]], parts: _Parts) -> list[str]:
        """The candidates that have each qualifier that ``parts`` give; failing these, those that do not say."""
        left = list(candidates)
        for qualifier, wanted in parts.qualifiers.items():
            have = [id for id in left if any(name.qualifiers.get(qualifier) == wanted for name in candidates[id])]
            silent = [id for id in left if not any(qualifier in name.qualifiers for name in candidates[id])]
            left = have or silent or (left if qualifier in self._reading.lenient else [])
        return left

    def bare(self, text: str) -> str:
        """Returns ``text`` without what says nothing and without its qualifiers, case and punctuation set aside."""
        return self._reading.parts(self._bare(text)).core

    def qualifier(self, text: str, name: str) -> str | None:
        """Returns what ``text`` says of this qualifier, such as its memory; None if it does not."""
        return self._reading.parts(text).qualifiers.get(name)

    def nearest(self, text: object, among: Iterable[str]) -> list[str]:
        """Find the ids, of those ``among``, of at most three things whose names are spelt most like ``text``."""
        if not isinstance(text, str):
            return []
        owners = {name: id for id in among for name in reversed(self._names[id])}
        core = self._reading.parts(self._bare(text)).core or text
        variants = [id for id in self._cores.get(core, ()) if id in owners.values()]
        near = [owners[name] for name in nearest_names(core, owners, count=12, least=0.45)]
        return list(dict.fromkeys((*variants, *near)))[:3]


def longest_beginning(text: str, known: Iterable[str]) -> str | None:
    """Returns the longest of ``known`` that ``text`` begins with, case and punctuation set aside; None if none does.

    Example:
        >>> longest_beginning("TensorRT-LLM v0.9.0", ["tensorrt-llm", "tensorrt-llm v0.9"])
        'tensorrt-llm v0.9'
    """
    whole = folded(text)
    begun = [name for name in known if whole.startswith(folded(name))]
    return max(begun, key=lambda name: len(folded(name))) if begun else None
