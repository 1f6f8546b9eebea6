"""Checks of solver arguments: each returns the checked value or raises an ``InputError`` that names the argument."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from mlsysim.core.errors import InputError, UnknownArgumentError, UnknownNameError
from mlsysim.core.units import magnitude

P = ParamSpec("P")
R = TypeVar("R")

# Beyond this a float no longer holds the number, and products of several overflow.
_LARGEST_WHOLE = 2**63 - 1


def strict_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an unknown keyword raises ``UnknownArgumentError`` with the nearest name."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    accepted = frozenset(known)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not accepted.issuperset(kwargs):
            unknown = next(name for name in kwargs if name not in accepted)
            raise UnknownArgumentError.of(function.__qualname__, unknown, known)
        return function(*args, **kwargs)

    return checked


def whole_number(name: str, value: object, minimum: int = 1) -> int:
    """``value`` as an int ``>= minimum``; floats, strings and booleans are refused.

    Example:
        >>> whole_number("batch_size", 32)
        32
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = minimum - 1
    if isinstance(value, bool) or not minimum <= number <= _LARGEST_WHOLE:
        raise InputError(name, value, f"a whole number >= {minimum}")
    return number


def real_number(name: str, value: object, minimum: float, maximum: float = math.inf, *, above: bool = False) -> float:
    """``value`` as a finite float in [minimum, maximum], or (minimum, maximum] when ``above``.

    Example:
        >>> real_number("efficiency", 0.42, 0, 1, above=True)
        0.42
    """
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    inside = minimum < number <= maximum if above else minimum <= number <= maximum
    if not inside or not math.isfinite(number):
        low = f"> {minimum:g}" if above else f">= {minimum:g}"
        expected = f"a number {low}" + (f" and <= {maximum:g}" if math.isfinite(maximum) else "")
        hint = f" (a fraction: {number / 100:g} if {number:g} % is meant)" if maximum == 1 and 1 < number <= 100 else ""
        raise InputError(name, value, expected + hint)
    return number


def fraction(name: str, value: object) -> float:
    """``value`` as a float in (0, 1]; a percentage is refused with a hint.

    Example:
        >>> fraction("efficiency", 45)
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: efficiency = 45: expected a number > 0 and <= 1 (a fraction: 0.45 if 45 % is meant)
    """
    return real_number(name, value, 0.0, 1.0, above=True)


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """``value`` if it is one of ``known``, ignoring case.

    Example:
        >>> one_of("precision", "FP8", ["fp8", "bf16"])
        'fp8'
    """
    names = list(known)
    if isinstance(value, str):
        if value in names:
            return value
        if value.lower() in names:
            return value.lower()
    raise UnknownNameError.among(name, value, names)


def boolean(name: str, value: object) -> bool:
    """``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise InputError(name, value, "True or False")
    return value


def positive_quantity(name: str, value: object, unit: str) -> float:
    """The magnitude of ``value`` in ``unit``, > 0.

    Example:
        >>> positive_quantity("compute_budget", "5e23 flop", "flop")
        5e+23
    """
    number = magnitude(name, value, unit)
    if number <= 0:
        raise InputError(name, value, f"a quantity > 0 {unit}")
    return number


def instance(name: str, value: object, kind: type[R], expected: str) -> R:
    """``value`` if it is a ``kind``."""
    if not isinstance(value, kind):
        raise InputError(name, type(value).__name__, expected)
    return value
