"""Values as a person writes them: four digits, and the unit in which the number is readable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pint

# Units a reader expects, largest first: the first one in which the number is at least 1.
_SCALES = {
    "[time]": ("day", "hour", "second", "ms", "us"),
    "[information]": ("TiB", "GiB", "MiB", "KiB", "byte"),
    "[operations]": ("EFLOP", "TFLOP", "GFLOP", "FLOP"),
    "[operations] / [time]": ("PFLOP/s", "TFLOP/s", "GFLOP/s"),
    "[information] / [time]": ("TB/s", "GB/s", "MB/s"),
    "[count]": ("Tcount", "Gcount", "Mcount", "count"),
    "[count] / [time]": ("Mcount/s", "count/s"),
    "[energy]": ("MWh", "kWh", "J"),
    "[energy] / [time]": ("MW", "kW", "W"),
    "[energy] / [count]": ("kJ/count", "J/count", "mJ/count"),
    "[currency]": ("USD",),
    "[currency] / [time]": ("USD/hour",),
    "[carbon]": ("tCO2e", "kgCO2e", "gCO2e"),
}
# What people write in place of a unit's name.
_WRITTEN = {"day": "days", "hour": "h", "second": "s", "byte": "B", "USD": "$", "USD/hour": "$/h"}
_COUNT = "count"

# Between these a number is written out whole.
_LEAST_WHOLE, _MOST_WHOLE = 1e4, 1e15


def shown(value: object, counted: str = "") -> str:
    """A value as a person writes it: four digits, a fitting unit.

    Args:
        value: a quantity, a number, a text, or a mapping of these.
        counted: what a count counts, such as "tokens".

    Example:
        >>> from mlsysim.core.units import Q_
        >>> shown(Q_("0.00432 s")), shown(Q_("85.9e9 byte")), shown(0.38123), shown(Q_("250 count/s"), "tokens")
        ('4.32 ms', '80 GiB', '0.3812', '250 tokens/s')
    """
    if isinstance(value, pint.Quantity):
        return _quantity(value, counted)
    if isinstance(value, Mapping):
        return ", ".join(_entry(str(key), inner) for key, inner in value.items() if not _says_nothing(str(key), inner))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
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


def written_unit(unit: str, counted: str = "") -> str:
    """What people write for a unit, with what is counted in place of "count".

    Money's sign comes before the number: ``shown`` sees to that.

    Example:
        >>> written_unit("second"), written_unit("USD/hour"), written_unit("Mcount/s", "tokens"), written_unit("GFLOP/s")
        ('s', '$/h', 'M tokens/s', 'GFLOP/s')
    """
    if not counted or _COUNT not in unit:
        return _WRITTEN.get(unit, unit)
    ahead, _, behind = unit.partition(_COUNT)
    one = counted.removesuffix("s") if "/" in ahead else counted
    return f"{ahead} {one}{behind}" if ahead and "/" not in ahead else f"{ahead}{one}{behind}"


def _quantity(quantity: Any, counted: str) -> str:
    unit = readable_unit(quantity)
    number = float(quantity.m_as(unit))
    text = f"{number:,.0f}" if _LEAST_WHOLE <= abs(number) < _MOST_WHOLE else f"{number:,.4g}"
    written = written_unit(unit, counted)
    return f"${text}{written[1:]}" if written.startswith("$") else f"{text} {written}"


# Parts that something is divided into: one part is no division.
_DIVISIONS = (
    *("tp", "pp", "dp", "cp", "ep", "virtual_stages", "attention_dp"),
    *("prefill_tp", "prefill_pp", "prefill_ep", "prefill_attention_dp"),
)


def _says_nothing(name: str, value: object) -> bool:
    """Whether an entry is one that nobody would write down: none, no, nought, or a division in one part."""
    return value is None or value == 0 or (name in _DIVISIONS and value == 1)


def _entry(name: str, value: object) -> str:
    """One entry of a mapping; a name alone says that it is so."""
    told = name.replace("_", " ")
    return told if value is True else f"{told} {shown(value)}"
