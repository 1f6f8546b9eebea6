"""Reading of entries of a calibration file: by name, with what they take from the entry that they are ``like``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from mlsysim.core.checks import one_of
from mlsysim.core.toml import packaged_toml, reads

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


@functools.cache
def tables(file: str) -> dict[str, dict[str, Any]]:
    """The tables of a calibration file by name, or by kind (``stack``, ``device``) and name, as the TOML states them."""
    return packaged_toml("calibration", file)


def known_entry(argument: str, name: str, entries: Entries) -> dict[str, Any]:
    """The resolved entry that a caller named in ``argument``, in any spelling of its name.

    Raises:
        UnknownNameError: there is none of this name; the message lists near ones.

    Example:
        >>> known_entry("stack", "My Stack", {"my-stack": {"x": 1}})
        {'x': 1}
    """
    return resolved(entries, one_of(argument, name, entries))


def fitted_of(entries: Entries, name: str, called: str) -> tuple[str, ...]:
    """Names of an entry's fitted coefficients; one that it takes from the entry it is like keeps that entry's name.

    Example:
        >>> fitted_of({"a": {"fit": ["x", "y"]}, "b": {"like": "a", "y": 3, "fit": ["y"]}}, "b", "stack")
        ('stack.a.x', 'stack.b.y')
    """
    entry = entries[name]
    inherited = without_parts(fitted_of(entries, entry["like"], called), entry) if "like" in entry else ()
    return (*inherited, *(f"{called}.{name}.{part}" for part in entry.get("fit", ())))


def without_parts(names: Iterable[str], parts: Collection[str]) -> tuple[str, ...]:
    """The ``names`` of coefficients that are of none of these parts of an entry.

    Example:
        >>> without_parts(("stack.a.x", "stack.a.y"), {"y": 3})
        ('stack.a.x',)
    """
    return tuple(name for name in names if name.rpartition(".")[2] not in parts)


def coefficients(kind: type[T], entry: Mapping[str, Any]) -> T:
    """Read the coefficients of ``entry`` as a ``kind``; those that it leaves out keep their defaults."""
    names = (field.name for field in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: float(entry[name]) for name in names if name in entry})


def stacks_of(kind: type[T], coefficients_of: Any, file: str) -> Callable[[str], T]:
    """Make the function that reads a software stack of ``file`` by its name.

    Returns:
        A function of the name, which raises ``UnknownNameError`` with near names where there is no such stack.
    """

    @reads("calibration", file)
    def stack(name: str) -> T:
        stacks = tables(file)["stack"]
        called = one_of("stack", name, stacks)
        entry = resolved(stacks, called)
        stated = {field.name: entry[field.name] for field in fields(kind) if field.name in entry}  # type: ignore[arg-type]
        return kind(**{**stated, "name": called, "coefficients": coefficients(coefficients_of, entry)})

    return stack
