"""The readable card of a result: infeasibility first, then the headline, the breakdown and what binds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pint

if TYPE_CHECKING:
    from mlsysim.solvers.result import Result

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
    "[carbon]": ("tCO2e", "kgCO2e", "gCO2e"),
}


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


def _quantity(quantity: Any) -> str:
    units = _SCALES.get(str(quantity.dimensionality), (str(quantity.units),))
    for unit in units:
        number = float(quantity.m_as(unit))
        if abs(number) >= 1:
            break
    text = f"{number:,.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    return f"{text} {unit}"


def render(result: Result) -> str:
    """The card."""
    lines = [f"{result.solver}: {result.subject}", f"  basis     {result.basis}"]
    state = "feasible" if result.feasible else f"INFEASIBLE: {result.reason}"
    lines.insert(1, f"  {state}")
    width = max((len(name) for name in (*result.HEADLINE, *result.breakdown)), default=0)
    headline = {name: getattr(result, name) for name in result.HEADLINE}
    lines += [f"  {name.replace('_', ' '):<{width}}  {shown(value)}" for name, value in headline.items() if value is not None]
    if result.breakdown:
        total: Any = sum(float(part.magnitude) for part in result.breakdown.values())
        lines.append("  breakdown")
        for name, part in result.breakdown.items():
            share = float(part.magnitude) / total if total else 0.0
            lines.append(f"    {name.replace('_', ' '):<{width}}  {shown(part):>12}  {share:6.1%}")
    lines.append(f"  binding   {result.binding}")
    lines += [f"  note      {note}" for note in result.diagnostics]
    return "\n".join(lines)
