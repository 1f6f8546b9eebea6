"""How entries of a calibration file are read: by name, with what they take from the entry that they are ``like``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml

Entries = Mapping[str, Mapping[str, Any]]
T = TypeVar("T")


def resolved(entries: Entries, name: str) -> dict[str, Any]:
    """An entry with what it takes from the one that it is ``like``.

    Example:
        >>> resolved({"a": {"x": 1, "y": 2}, "b": {"like": "a", "y": 3}}, "b")
        {'x': 1, 'y': 3, 'like': 'a'}
    """
    entry = entries[name]
    return {**resolved(entries, entry["like"]), **entry} if "like" in entry else dict(entry)


def known_entry(argument: str, name: str, entries: Entries) -> dict[str, Any]:
    """The resolved entry that a caller named in ``argument``.

    Raises:
        UnknownNameError: there is none of this name; the message lists near ones.
    """
    if name not in entries:
        raise UnknownNameError.among(argument, name, entries)
    return resolved(entries, name)


def fitted_of(entries: Entries, name: str, called: str) -> tuple[str, ...]:
    """Names of an entry's fitted coefficients; one that it shares with the entry that it is like has one name.

    Args:
        entries: of one kind, by name.
        name: the entry.
        called: what the names begin with, such as "stack".

    Example:
        >>> fitted_of({"a": {"fit": ["x", "y"]}, "b": {"like": "a", "y": 3, "fit": ["y"]}}, "b", "stack")
        ('stack.a.x', 'stack.b.y')
    """
    entry = entries[name]
    behind = fitted_of(entries, entry["like"], called) if "like" in entry else ()
    shared = (key for key in behind if key.rpartition(".")[2] not in entry)
    return (*shared, *(f"{called}.{name}.{part}" for part in entry.get("fit", ())))


def coefficients(kind: type[T], entry: Mapping[str, Any]) -> T:
    """The coefficients that ``entry`` has, as a ``kind``; those that it leaves out keep their defaults."""
    names = (field.name for field in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: float(entry[name]) for name in names if name in entry})


def stack_of(kind: type[T], name: str, entry: Mapping[str, Any], of: Any) -> T:
    """A software stack: its name, its coefficients (``of`` is their type), and whatever else ``entry`` states of its fields."""
    stated = {field.name: entry[field.name] for field in fields(kind) if field.name in entry}  # type: ignore[arg-type]
    return kind(**{**stated, "name": name, "coefficients": coefficients(of, entry)})


def stack_reader(file: str, kind: type[T], of: Any) -> Callable[[str], T]:
    """A function that gives the software stack of a name in ``file``, the same object each time.

    Args:
        file: of this room.
        kind: type of its stacks.
        of: type of their coefficients.

    Example:
        >>> from mlsysim.calibration.inference import inference_stack
        >>> inference_stack("tensorrt-mlperf").folded
        True
        >>> inference_stack("tensorrt")
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: stack = 'tensorrt': ...
    """

    @functools.cache
    def stack(name: str) -> T:
        return stack_of(kind, name, known_entry("stack", name, packaged_toml("calibration", file)["stack"]), of)

    return stack
