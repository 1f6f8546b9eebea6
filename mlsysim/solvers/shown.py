"""Values as a person writes them: four digits, and the unit in which the number is readable."""

from __future__ import annotations

from typing import Any

import pint

# Units a reader expects, largest first: the first one in which the number is at least 1.
_SCALES = {
    "[time]": ("day", "hour", "second", "ms", "us"),
    "[information]": ("TB", "GB", "MB", "kB", "byte"),
    "[operations]": ("EFLOP", "TFLOP", "GFLOP", "FLOP"),
    "[operations] / [time]": ("PFLOP/s", "TFLOP/s", "GFLOP/s"),
    "[information] / [time]": ("TB/s", "GB/s", "MB/s"),
    "[count]": ("Tcount", "Gcount", "Mcount", "count"),
    "[count] / [time]": ("Mcount/s", "count/s"),
    "[energy]": ("MWh", "kWh", "J"),
    "[energy] / [time]": ("MW", "kW", "W"),
    "[energy] / [count]": ("kJ/count", "J/count", "mJ/count"),
    "[carbon]": ("tCO2e", "kgCO2e", "gCO2e"),
}

# Between these a number is written out whole.
_LEAST_WHOLE, _MOST_WHOLE = 1e4, 1e15


def shown(value: object) -> str:
    """A value as a person writes it: four digits, a fitting unit.

    Example:
        >>> from mlsysim.core.units import Q_
        >>> shown(Q_("0.00432 s")), shown(Q_("85.9e9 byte")), shown(0.38123)
        ('4.32 ms', '85.9 GB', '0.3812')
    """
    if isinstance(value, pint.Quantity):
        return _quantity(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ", ".join(f"{k} {shown(v)}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def shown_range(low: Any, high: Any) -> str:
    """The ends of a range about a value, in the unit in which ``shown`` writes that value, without it.

    Example:
        >>> from mlsysim.core.units import Q_
        >>> shown_range(Q_("0.8 s"), Q_("1.25 s")), shown_range(0.3512, 0.4234)
        ('0.8-1.25', '0.351-0.423')
    """
    if isinstance(low, pint.Quantity):
        # Intervals are even in the logarithm: the value lies at the ends' geometric mean.
        unit = readable_unit(low * (high / low).m_as("dimensionless") ** 0.5)
        low, high = low.m_as(unit), high.m_as(unit)
    return "-".join(f"{end:,.3g}" if abs(end) < 1e3 else f"{end:,.0f}" for end in (low, high))


def readable_unit(quantity: Any) -> str:
    """The largest unit in which the number is at least 1, else the smallest."""
    units = _SCALES.get(str(quantity.dimensionality), (str(quantity.units),))
    return next((unit for unit in units if abs(float(quantity.m_as(unit))) >= 1), units[-1])


def _quantity(quantity: Any) -> str:
    unit = readable_unit(quantity)
    number = float(quantity.m_as(unit))
    text = f"{number:,.0f}" if _LEAST_WHOLE <= abs(number) < _MOST_WHOLE else f"{number:,.4g}"
    return f"{text} {unit}"
