"""Elementwise choices for floats and arrays alike.

numpy's ufuncs take about a microsecond even on two floats, so that a scalar solve would spend its time in them: floats
take Python's own operations, arrays numpy's, with the same result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from numpy import ndarray

Floats: TypeAlias = npt.NDArray[np.float64]
Whole: TypeAlias = npt.NDArray[np.int_]
Num: TypeAlias = float | Floats
Truth: TypeAlias = bool | npt.NDArray[np.bool_]
P = ParamSpec("P")
R = TypeVar("R")


def where(condition: Any, yes: Num, no: Num) -> Num:
    """Take ``yes`` where ``condition`` holds, else ``no``.

    Example:
        >>> where(3 > 2, 1.0, 0.0), where(np.array([True, False]), 1.0, 0.0)
        (1.0, array([1., 0.]))
    """
    if isinstance(condition, ndarray):
        return np.where(condition, yes, no)
    return yes if condition else no


def somewhere(a: Any) -> bool:
    """True if ``a``, or any element of it, holds: what holds nowhere in an array need not be computed.

    Example:
        >>> somewhere(0.0), somewhere(np.array([0.0, 2.0]))
        (False, True)
    """
    return bool(a.any()) if isinstance(a, ndarray) else bool(a)


def everywhere(a: Any) -> bool:
    """True if ``a``, or every element of it, holds.

    Example:
        >>> everywhere(True), everywhere(np.array([0.0, 2.0]))
        (True, False)
    """
    return bool(a.all()) if isinstance(a, ndarray) else bool(a)


def maximum(a: Num, b: Num) -> Num:
    """The larger of the two, element by element.

    Example:
        >>> maximum(1.0, 2.0), maximum(np.array([1.0, 3.0]), 2.0)
        (2.0, array([2., 3.]))
    """
    if isinstance(a, ndarray) or isinstance(b, ndarray):
        return np.maximum(a, b)
    return a if a >= b else b


def minimum(a: Num, b: Num) -> Num:
    """The smaller of the two, element by element.

    Example:
        >>> minimum(1.0, 2.0)
        1.0
    """
    if isinstance(a, ndarray) or isinstance(b, ndarray):
        return np.minimum(a, b)
    return a if a <= b else b


def least_and_most(*values: Num) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """Give ``minimum`` and ``maximum`` for inner loops over ``values``, whose types are looked at only once.

    Example:
        >>> least, most = least_and_most(1.0, 2.0)
        >>> least(1.0, 2.0), most(1.0, 2.0)
        (1.0, 2.0)
    """
    for value in values:
        if isinstance(value, ndarray):
            return np.minimum, np.maximum
    return _lesser, _greater


# Python's own min and max take any number of arguments, at five times the price.
def _lesser(a: float, b: float) -> float:
    return a if a <= b else b


def _greater(a: float, b: float) -> float:
    return a if a >= b else b


def ceil(a: Num) -> Num:
    """Round up, to a float.

    Example:
        >>> ceil(31.5)
        32.0
    """
    return np.ceil(a) if isinstance(a, ndarray) else float(math.ceil(a))


def floor(a: Num) -> Num:
    """Round down, to a float.

    Example:
        >>> floor(31.5)
        31.0
    """
    return np.floor(a) if isinstance(a, ndarray) else float(math.floor(a))


def sqrt(a: Num) -> Num:
    """The square root.

    Example:
        >>> sqrt(4.0)
        2.0
    """
    return np.sqrt(a) if isinstance(a, ndarray) else math.sqrt(a)


def exp(a: Num) -> Num:
    """Euler's number to the power of ``a``.

    Example:
        >>> exp(0.0)
        1.0
    """
    return np.exp(a) if isinstance(a, ndarray) else math.exp(a)


def expm1(a: Num) -> Num:
    """The value exp(a) - 1 without the loss of digits near zero.

    Example:
        >>> expm1(1e-20)
        1e-20
    """
    return np.expm1(a) if isinstance(a, ndarray) else math.expm1(a)


def in_norm(one: Num, other: Num, norm: Num) -> Num:
    """(one^p + other^p)^(1/p): two times that overlap, of which the longer sets the pace, and the other shows a little.

    Example:
        >>> in_norm(3.0, 4.0, 2.0)
        5.0
    """
    return (one**norm + other**norm) ** (1 / norm)


def added_in_norm(base: Num, other: Num, norm: float) -> Num:
    """What ``other`` adds to ``base`` where both overlap, (base^p + other^p)^(1/p) - base, without the loss of a difference.

    Example:
        >>> added_in_norm(3.0, 4.0, 2.0), added_in_norm(1.0, 1e-9, 4.0) > 0
        (2.0, True)
    """
    powers = (other / base) ** norm
    if isinstance(powers, ndarray):
        return base * np.expm1(np.log1p(powers) / norm)
    return base * math.expm1(math.log1p(powers) / norm)


def once_for_floats(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it keeps its last few hundred results, of floats and what consists of them; not of arrays.

    Example:
        >>> @once_for_floats
        ... def half(a: Num) -> Num:
        ...     print("computed")
        ...     return a / 2
        >>> half(3.0), half(3.0)
        computed
        (1.5, 1.5)
    """
    kept = functools.lru_cache(maxsize=512)(function)

    @functools.wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return kept(*args, **kwargs)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # an array has no hash, and two arrays are not simply equal
            return function(*args, **kwargs)

    return asked
