"""The argument that is most out of the ordinary, of those of a call whose answer is no number."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pint

from mlsysim.core.errors import InputError, MLSysError
from mlsysim.core.spec import Spec
from mlsysim.core.units import Q_

# Sizes that are met in practice: of plain numbers, and of quantities in base units (a budget of 1e30 FLOP, a time of 1 ps).
_USUAL_NUMBERS = (1e-9, 1e15)
_USUAL_QUANTITIES = (1e-15, 1e33)
_LARGEST_DECADE = 400.0
# Specs hold nodes, which hold accelerators, which hold memories.
_DEEPEST = 6


def blamed(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], trouble: str) -> InputError | None:
    """The error that names the argument whose size is farthest from what is met in practice; None where none is far.

    Example:
        >>> def solve(batch_size, efficiency=1.0): ...
        >>> print(blamed(inspect.signature(solve), (8,), {"efficiency": 1e-300}, "latency would be infinite"))
        efficiency = 1e-300: expected a size that is met in practice: latency would be infinite
    """
    arguments = signature.bind_partial(*args, **kwargs).arguments
    parts = [part for name, value in arguments.items() for part in _numbers(name, value)]
    name, value, decades = max(parts, key=lambda part: part[2], default=("", None, 0.0))
    return InputError(name, value, f"a size that is met in practice: {trouble}") if decades > 0 else None


def _numbers(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any, float]]:
    """Every number in ``value`` with its name, and the decades by which it is out of the ordinary."""
    if isinstance(value, str):
        try:
            yield name, value, _decades(Q_(value).to_base_units().magnitude, _USUAL_QUANTITIES)
        except MLSysError:
            return
    elif isinstance(value, pint.Quantity):
        yield name, value, _decades(value.to_base_units().magnitude, _USUAL_QUANTITIES)
    elif isinstance(value, (int, float)):
        yield name, value, _decades(value, _USUAL_NUMBERS)
    elif depth < _DEEPEST:
        for inner, part in _parts(value):
            yield from _numbers(f"{name}{inner}", part, depth + 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Spec):
        yield from ((f".{field}", getattr(value, field)) for field in type(value).model_fields)
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{place}]", part) for place, part in enumerate(value))


def _decades(number: Any, usual: tuple[float, float]) -> float:
    if not isinstance(number, (int, float)) or number == 0:
        return 0.0
    decade = math.log10(abs(number)) if math.isfinite(number) else _LARGEST_DECADE
    return max(decade - math.log10(usual[1]), math.log10(usual[0]) - decade)
