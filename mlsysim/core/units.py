"""The one unit registry, and the few ways in and out of it.

pint guards the boundary: solvers take and return quantities, physics sees plain floats in SI units (seconds, bytes,
FLOP, joules, USD, gCO2e). pint's typing is weak, so it is touched in this module only as far as possible.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias

import pint

from mlsysim.core.errors import InputError, UnitError, nearest

ureg: Any = pint.UnitRegistry(None)
ureg.load_definitions(str(resources.files("mlsysim.core") / "units.txt"))

if TYPE_CHECKING:
    Quantity: TypeAlias = pint.Quantity[Any]
else:
    Quantity = ureg.Quantity

# What a quantity's text may be: one number and one unit (none: a plain ratio), such as "429 gCO2e/kWh". Nothing is evaluated.
_LONGEST = 100
_NAME_AND_POWER = r"[^\W\d]\w*(?:\s*(?:\*\*|\^)\s*-?\d)?"
_UNIT = re.compile(rf"(?:1\s*/\s*)?{_NAME_AND_POWER}(?:\s*[*/]\s*{_NAME_AND_POWER})*")
_QUANTITY = re.compile(rf"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*((?:{_UNIT.pattern})?)\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d")
# Whole numbers that a float holds exactly.
_MOST_DIGITS = 15
_AMBIGUOUS_BIT = re.compile(r"\b([kMGTP]i?)b(ps)?\b")


def _rebuilt(magnitude: Any, unit: str) -> Quantity:
    return ureg.Quantity(magnitude, unit)  # type: ignore[no-any-return]


# pint unpickles into its application registry, which knows neither FLOP nor USD: worker processes need this one.
ureg.Quantity.__reduce__ = lambda self: (_rebuilt, (self.magnitude, str(self.units)))


def Q_(value: float | str | Quantity, unit: str | None = None) -> Quantity:
    """A quantity from a string ("80 GB"), or from a number and a unit.

    Raises:
        UnitError: the unit is unknown, or the text is not a quantity.

    Example:
        >>> Q_("405e9 count").to("Gcount").magnitude
        405.0
        >>> int(Q_(80, "GiB").to("byte").magnitude)
        85899345920
    """
    try:
        if unit is not None:
            if len(unit) > _LONGEST or not (unit == "" or _UNIT.fullmatch(unit)):
                raise ValueError(unit)
            return ureg.Quantity(_number(value), unit)  # type: ignore[no-any-return]
        if isinstance(value, str):
            parts = _QUANTITY.fullmatch(value) if len(value) <= _LONGEST else None
            if parts is None:
                raise ValueError(value)
            number = parts[1]
            whole = number.isdigit() and len(number) <= _MOST_DIGITS
            if not whole and math.isinf(float(number)):
                raise ValueError(value)
            return with_unit(int(number) if whole else float(number), parts[2])
        if isinstance(value, pint.Quantity) and value._REGISTRY is not ureg:
            return ureg.Quantity(value.magnitude, str(value.units))  # type: ignore[no-any-return]
        return ureg.Quantity(_number(value))  # type: ignore[no-any-return]
    except pint.UndefinedUnitError as error:
        raise _unknown_unit(value if unit is None else unit, error) from None
    except Exception:  # pint's parser raises tokenize, assertion, type and its own errors
        comma = isinstance(value, str) and _DECIMAL_COMMA.match(value[:_LONGEST])
        expected = "a point before decimals, not a comma" if comma else "a number with a unit, such as '80 GB' or '275 TFLOP/s'"
        raise UnitError("quantity", value, expected) from None


def _number(value: Any) -> Any:
    """Refuse text in place of a number, which pint would evaluate, and whole numbers beyond any float."""
    if isinstance(value, (str, bytes)):
        raise ValueError(value)
    if isinstance(value, int):
        float(value)
    return value


def _unknown_unit(text: object, error: pint.UndefinedUnitError) -> UnitError:
    names = error.unit_names
    name = names if isinstance(names, str) else ", ".join(names)
    if match := _AMBIGUOUS_BIT.search(str(text)):
        prefix = match[1]
        return UnitError("quantity", text, f"'{prefix}B' for bytes or '{prefix}bit' for bits ('{name}' could be either)")
    return UnitError("quantity", text, f"known units ('{name}' is not one)", nearest(name, _unit_names()))


def _unit_names() -> list[str]:
    return [name for name in dir(ureg) if not name.startswith("_")] + ["GB", "GiB", "TFLOP", "kWh", "MWh", "ms", "us", "Gcount"]


def magnitude(name: str, value: object, unit: str) -> float:
    """The finite magnitude of ``value`` (a quantity or its text) in ``unit``.

    Raises:
        UnitError: a bare number, an unknown unit, or another dimension; the message names ``name``.
        InputError: nan or infinity.

    Example:
        >>> magnitude("bandwidth", "400 Gbit/s", "byte/second")
        50000000000.0
    """
    if not isinstance(value, (str, pint.Quantity)):
        raise UnitError(name, value, f"a quantity in {unit}, such as Q_(..., '{unit}')")
    try:
        if isinstance(value, str):
            number = _text_magnitude(value, unit)
        else:
            number = in_unit(value if value._REGISTRY is ureg else Q_(value), unit)
    except UnitError as error:
        raise UnitError(name, value, error.expected, error.suggestion) from None
    except pint.DimensionalityError:
        raise UnitError(name, value, f"a quantity in {unit}") from None
    except (TypeError, ValueError, OverflowError):
        raise UnitError(name, value, f"one number in {unit}") from None
    if not math.isfinite(number):
        raise InputError(name, value, "a finite quantity")
    return number


@functools.lru_cache(maxsize=4096)
def _text_magnitude(text: str, unit: str) -> float:
    """The magnitude of ``text`` in ``unit``, cached: parsing takes pint 0.1 ms."""
    return float(Q_(text).m_as(unit))


def with_unit(number: float, unit: str) -> Quantity:
    """Make the quantity ``Q_(number, unit)``, fifteen times faster, for results.

    This sets pint's two slots itself, since pint's constructor takes 8 us and a result has thirty quantities; a test
    compares the two.
    """
    parsed = _UNITS.get(unit)
    if parsed is None:
        parsed = _UNITS[unit] = ureg.Unit(unit)._units
    quantity: Any = object.__new__(Quantity)
    quantity._magnitude, quantity._units = number, parsed
    return quantity  # type: ignore[no-any-return]


def with_units(numbers: Mapping[str, float], unit: str) -> dict[str, Quantity]:
    """Each of the named ``numbers`` in ``unit``.

    Example:
        >>> f"{with_units({'wait': 0.5}, 'second')['wait'].m_as('ms'):g}"
        '500'
    """
    return {name: with_unit(float(number), unit) for name, number in numbers.items()}


_UNITS: dict[str, Any] = {}


def in_unit(quantity: Quantity, unit: str) -> float:
    """The magnitude of ``quantity`` in ``unit``, as ``m_as`` gives it, which finds the factor anew each time (50 us).

    Raises:
        pint.DimensionalityError: ``quantity`` has another dimension.

    Example:
        >>> in_unit(with_unit(0.25, "second"), "ms")
        250.0
    """
    factor = _factor(quantity._units, unit)
    return float(quantity.m_as(unit)) if factor is None else float(quantity.magnitude) * factor


@functools.lru_cache(maxsize=1024)
def _factor(units: Any, unit: str) -> float | None:
    """The factor from ``units`` to ``unit``; None where their zeros differ, as those of temperatures do."""
    zero, one = (float(ureg.Quantity(number, units).m_as(unit)) for number in (0.0, 1.0))
    return one if zero == 0.0 else None


def time_power(value: object) -> float:
    """The power of time in a value: 1 for a time, -1 for a rate, 0 for what is neither, or no quantity.

    Example:
        >>> time_power(Q_("2 s")), time_power(Q_("5 count/s")), time_power(0.4)
        (1.0, -1.0, 0.0)
    """
    powers: Any = value.dimensionality if isinstance(value, pint.Quantity) else {}
    return float(powers.get("[time]", 0))


__all__ = ["Q_", "Quantity", "in_unit", "magnitude", "ureg", "with_unit"]


def in_gib(bytes_: float) -> str:
    """Bytes of memory as people count them: the 80 GB of a card are 80 GiB.

    Example:
        >>> in_gib(80 * 2**30), in_gib(141.1e9)
        ('80 GiB', '131.4 GiB')
    """
    return f"{round(bytes_ / 2**30, 1):g} GiB"
