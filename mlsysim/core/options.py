"""Arguments that several functions share: each has its name, type, default and meaning once, in a ``TypedDict`` of options.

A function takes them as ``**options: Unpack[SomeOptions]``. Type checkers and editors read that; ``inspect.signature`` and
``help`` show every option as an argument of its own, because ``strict_keywords`` writes them out.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_UNPACKED = "Unpack["


@dataclass(frozen=True, slots=True)
class Option:
    """The default of an argument, and its meaning: ``Annotated[int, Option(1, "...")]``."""

    default: Any
    meaning: str


@functools.cache
def options(kind: Any) -> dict[str, Option]:
    """The options of a ``TypedDict``, with those that it inherits."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: next(extra for extra in get_args(hint) if isinstance(extra, Option)) for name, hint in hints.items()}


def with_defaults(kind: Any, stated: dict[str, Any]) -> dict[str, Any]:
    """Every option of ``kind``, as stated or at its default."""
    defaults = _defaults(kind)
    return defaults | {name: value for name, value in stated.items() if name in defaults}


@functools.cache
def _defaults(kind: Any) -> dict[str, Any]:
    return {name: option.default for name, option in options(kind).items()}


def written_out(function: Callable[..., Any]) -> tuple[inspect.Signature, str | None]:
    """The signature and the docstring of ``function``, in which each option that it unpacks is an argument of its own.

    The docstring's line that explains ``**options`` gives way to one line for each option.
    """
    signature, doc = inspect.signature(function), function.__doc__
    unpacked = [argument for argument in signature.parameters.values() if argument.kind is argument.VAR_KEYWORD]
    if not unpacked or not str(unpacked[0].annotation).startswith(_UNPACKED):
        return signature, doc
    kind = function.__globals__[unpacked[0].annotation[len(_UNPACKED) : -1]]
    types = get_type_hints(kind)
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=_shown(types[name]))
        for name, option in options(kind).items()
    ]
    others = [argument for argument in signature.parameters.values() if argument is not unpacked[0]]
    ahead = [argument for argument in others if argument.kind is not argument.KEYWORD_ONLY]
    lines = [
        written
        for line in (doc or "").split("\n")
        for written in (_meanings(kind, line) if line.strip().startswith(f"**{unpacked[0].name}:") else [line])
    ]
    return signature.replace(parameters=[*ahead, *named, *others[len(ahead) :]]), "\n".join(lines) or doc


def _meanings(kind: Any, line: str) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    return [f"{indent}{name}: {option.meaning}." for name, option in options(kind).items()]


def _shown(annotation: Any) -> str:
    """A type as source has it, without the modules that its parts come from."""
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join("None" if part is NoneType else _shown(part) for part in get_args(annotation))
    return re.sub(r"(\w+\.)+", "", inspect.formatannotation(annotation))
