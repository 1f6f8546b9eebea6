"""Reading of entries of a calibration file: by name, with what they take from the entry that they are ``like``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from mlsysim.core.checks import one_of
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

    Args:
        entries: entries of one kind, by name.
        name: name of the entry.
        called: beginning of the names, such as "stack".

    Example:
        >>> fitted_of({"a": {"fit": ["x", "y"]}, "b": {"like": "a", "y": 3, "fit": ["y"]}}, "b", "stack")
        ('stack.a.x', 'stack.b.y')
    """
    entry = entries[name]
    like = fitted_of(entries, entry["like"], called) if "like" in entry else ()
    inherited = (key for key in like if key.rpartition(".")[2] not in entry)
    return (*inherited, *(f"{called}.{name}.{part}" for part in entry.get("fit", ())))


def coefficients(kind: type[T], entry: Mapping[str, Any]) -> T:
    """Read the coefficients of ``entry`` as a ``kind``; those that it leaves out keep their defaults."""
    names = (field.name for field in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: float(entry[name]) for name in names if name in entry})


def stack_of(kind: type[T], name: str, entry: Mapping[str, Any], of: Any) -> T:
    """Read a software stack: its name, its coefficients (``of`` is their type), and all else that ``entry`` states."""
    facts = {field.name: entry[field.name] for field in fields(kind) if field.name in entry}  # type: ignore[arg-type]
    return kind(**{**facts, "name": name, "coefficients": coefficients(of, entry)})


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
        >>> inference_stack("TensorRT MLPerf") is inference_stack("tensorrt-mlperf")
        True
    """

    @functools.cache
    def stack(name: str) -> T:
        entries = packaged_toml("calibration", file)["stack"]
        known = one_of("stack", name, entries)
        return stack_of(kind, known, resolved(entries, known), of) if known == name else stack(known)

    return stack
