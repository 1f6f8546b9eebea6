"""Checks of solver arguments: each returns the checked value or raises an ``InputError`` that names the argument."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, ParamSpec, TypeVar

from mlsysim.core.blame import blamed
from mlsysim.core.errors import (
    InconsistentError,
    InputError,
    MissingArgumentError,
    UnitError,
    UnknownArgumentError,
    UnknownNameError,
    UnsoundError,
)
from mlsysim.core.names import folded
from mlsysim.core.options import written_out
from mlsysim.core.units import magnitude

P = ParamSpec("P")
R = TypeVar("R")

# The largest whole number that counts anything in a system: batches, tokens of a sequence, accelerators.
_LARGEST_WHOLE = 10**12


def strict_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that an unknown keyword raises ``UnknownArgumentError``; unpacked options are written out.

    Where arithmetic fails, or a result is unsound, an ``InputError`` names the argument whose size explains it.
    """
    signature, doc = written_out(function)
    known = [name for name in signature.parameters if name not in ("self", "cls")]
    accepted = frozenset(known)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not accepted.issuperset(kwargs):
            unknown = next(name for name in kwargs if name not in accepted)
            raise UnknownArgumentError.of(function.__qualname__, unknown, known)
        try:
            return function(*args, **kwargs)
        except (UnsoundError, ArithmeticError, ValueError, RuntimeWarning) as error:
            if isinstance(error, InputError):
                raise
            trouble = str(error) if isinstance(error, UnsoundError) else "the answer would be no number"
            explained = blamed(signature, args, kwargs, trouble)
            if explained is None:
                raise
            raise explained from None

    checked.__signature__ = signature  # type: ignore[attr-defined]
    checked.__doc__ = doc
    return checked


def whole_number(name: str, value: object, minimum: int = 1, maximum: int = _LARGEST_WHOLE) -> int:
    """Check that ``value`` is an int from ``minimum`` to ``maximum``; floats, strings and booleans are refused.

    Example:
        >>> whole_number("batch_size", 32)
        32
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = minimum - 1
    if isinstance(value, bool) or not minimum <= number <= maximum:
        most = f" and <= {maximum:.0g}" if number > maximum else ""
        raise InputError(name, value, f"a whole number >= {minimum}{most}")
    return number


def real_number(name: str, value: object, minimum: float, maximum: float = math.inf, *, above: bool = False) -> float:
    """Check that ``value`` is a finite float in [minimum, maximum], or (minimum, maximum] when ``above``.

    Example:
        >>> real_number("efficiency", 0.42, 0, 1, above=True)
        0.42
    """
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    inside = minimum < number <= maximum if above else minimum <= number <= maximum
    if not inside or not math.isfinite(number):
        low = f"> {minimum:g}" if above else f">= {minimum:g}"
        expected = f"a number {low}" + (f" and <= {maximum:g}" if math.isfinite(maximum) else "")
        hint = f" (a fraction: {number / 100:g} if {number:g} % is meant)" if maximum == 1 and 1 < number <= 100 else ""
        raise InputError(name, value, expected + hint)
    return number


def fraction(name: str, value: object) -> float:
    """Check that ``value`` is a float in (0, 1]; a percentage is refused with a hint.

    Example:
        >>> fraction("efficiency", 45)
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: efficiency = 45: expected a number > 0 and <= 1 (a fraction: 0.45 if 45 % is meant)
    """
    return real_number(name, value, 0.0, 1.0, above=True)


def percentile_share(name: str, value: object) -> float:
    """Check that ``value`` is a share of requests that keep a limit: above 0 and below 1, for all of them keep none.

    Example:
        >>> percentile_share("percentile", 0.99)
        0.99
        >>> percentile_share("percentile", 1.0)
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: percentile = 1.0: expected a share below 1: among all requests that come at random \
some wait longer than any limit
    """
    share = fraction(name, value)
    if share == 1:
        raise InputError(name, value, "a share below 1: among all requests that come at random some wait longer than any limit")
    return share


def listed(name: str, value: object, kind: type[R], expected: str) -> list[R]:
    """Check that ``value`` is a list, or another sequence or a set, of at least one ``kind``.

    Example:
        >>> listed("tp_sizes", 8, int, "whole numbers")
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: tp_sizes = 8: expected whole numbers in a list
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, Set)) or not value:
        shown = value if isinstance(value, (str, int, float, Sequence, Set)) else getattr(value, "name", type(value).__name__)
        raise InputError(name, shown, f"{expected} in a list")
    return [instance(name, item, kind, expected) for item in value]


def mapping(name: str, value: object, expected: str) -> Mapping[Any, Any]:
    """Check that ``value`` is a mapping."""
    if not isinstance(value, Mapping):
        raise InputError(name, value, expected)
    return value


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """Check that ``value`` is one of ``known``, case and punctuation set aside, and give it as ``known`` writes it.

    Raises:
        UnknownNameError: it is none of them.

    Example:
        >>> one_of("precision", "FP8", ["fp8", "bf16"]), one_of("schedule", "zero bubble", ["1f1b", "zero_bubble"])
        ('fp8', 'zero_bubble')
    """
    names = list(known)
    if isinstance(value, str):
        if value in names:
            return value
        alike = [candidate for candidate in names if folded(candidate) == folded(value)]
        if len(alike) == 1:
            return alike[0]
    raise UnknownNameError.among(name, value, names)


def looked_up(name: str, value: object, known: Mapping[str, R]) -> R:
    """What ``known`` has under ``value``, a name written just as there.

    Raises:
        UnknownNameError: it has no such name.

    Example:
        >>> looked_up("mode", "full", {"full": 2, "none": 0})
        2
    """
    if not isinstance(value, str) or value not in known:
        raise UnknownNameError.among(name, value, known)
    return known[value]


def boolean(name: str, value: object) -> bool:
    """Check that ``value`` is True or False."""
    if not isinstance(value, bool):
        raise InputError(name, value, "True or False")
    return value


def positive_quantity(name: str, value: object, unit: str) -> float:
    """Check that ``value`` is a quantity > 0, and give its magnitude in ``unit``.

    Example:
        >>> positive_quantity("compute_budget", "5e23 flop", "flop")
        5e+23
    """
    number = magnitude(name, value, unit)
    if number <= 0:
        raise InputError(name, value, f"a quantity > 0 {unit}")
    return number


def request_rate_per_s(name: str, value: object) -> float:
    """Check that ``value`` is a rate of requests > 0, and give it in requests a second. Tokens are counts, too, but none.

    Example:
        >>> request_rate_per_s("request_rate", "90 request/min")
        1.5
        >>> request_rate_per_s("request_rate", "20 tokens/s")
        Traceback (most recent call last):
        mlsysim.core.errors.UnitError: request_rate = '20 tokens/s': expected requests a time, such as '20 count/s', not tokens
    """
    if isinstance(value, str) and "token" in value.casefold():
        raise UnitError(name, value, "requests a time, such as '20 count/s', not tokens")
    return positive_quantity(name, value, "count/second")


def by_either_name(check: Callable[[str, object], R], **named: object) -> R | None:
    """Check an argument that has two names, given by one of them, or by both if they agree; None if by neither.

    Raises:
        InconsistentError: its two names have different values.

    Example:
        >>> by_either_name(whole_number, input_len=None, seq_len=128)
        128
        >>> by_either_name(whole_number, input_len=64, seq_len=128)
        Traceback (most recent call last):
        mlsysim.core.errors.InconsistentError: seq_len = 128: expected 64, as input_len says: both name the same argument
    """
    checked = {name: check(name, value) for name, value in named.items() if value is not None}
    first = next(iter(checked), "")
    for name, value in checked.items():
        seen = checked[first]
        alike = math.isclose(value, seen) if isinstance(value, float) and isinstance(seen, float) else value == seen
        if not alike:
            raise InconsistentError(name, named[name], f"{named[first]}, as {first} says: both name the same argument")
    return checked[first] if checked else None


def needed(name: str, value: R | None, expected: str) -> R:
    """Check that ``value`` was not left out."""
    if value is None:
        raise MissingArgumentError(name, None, expected)
    return value


def instance(name: str, value: object, kind: type[R], expected: str) -> R:
    """Check that ``value`` is a ``kind``."""
    if not isinstance(value, kind):
        raise InputError(name, type(value).__name__, expected)
    return value
