"""The base of all results: its basis, whether the plan can run, a readable card, and an export."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import pint

from mlsysim.core.errors import InfeasibleError, UnsoundError
from mlsysim.core.units import Quantity
from mlsysim.solvers.shown import shown

BASES = ("bound", "efficiency", "calibrated", "law", "identity")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A solver's answer. Quantities carry units; fractions are plain floats.

    Attributes:
        solver: name of the solver.
        subject: the question in a few words: the workload and what it runs on.
        basis: what the numbers rest on: ``bound`` (physics and datasheets), ``efficiency`` (a number that the caller
            owns), ``calibrated`` (fitted coefficients), ``law`` (a published empirical law) or ``identity`` (arithmetic
            on what the caller states).
        feasible: whether it can run at all: there is no ``reason`` against it. When not, that says why with the bytes, and the
            other numbers say what would hold if it could.
        reason: why it is infeasible, else empty.
        binding: what limits the result.
        breakdown: named parts that sum to the main quantity.
        diagnostics: what a reader should know of the input.
        coefficients: names of the fitted coefficients that it rests on (calibrated basis).
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ()
    # Fields that a search for the highest load finds, and that ``solve(request_rate=...)`` judges without one.
    JUDGED: ClassVar[tuple[str, ...]] = ()

    solver: str
    subject: str
    basis: str
    feasible: bool = field(init=False)
    reason: str = ""
    binding: str
    breakdown: Mapping[str, Quantity]
    diagnostics: tuple[str, ...] = ()
    coefficients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "feasible", not self.reason)
        for name, value in _unsound(vars(self)):
            raise UnsoundError(f"{name} would be {shown(value)} (of {self.solver})")

    def require_feasible(self) -> Self:
        """This result, or ``InfeasibleError`` with the reason."""
        if not self.feasible:
            raise InfeasibleError(f"{self.subject}: {self.reason}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values; a quantity becomes ``{"value": ..., "unit": ...}``."""
        return {part.name: _plain(getattr(self, part.name)) for part in fields(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        return _card(self)


# The most that a figure may be: shares of the peak, for nothing is faster. The last digits are lost in sums.
_MOST = dict.fromkeys(("mfu", "hfu", "prefill_mfu"), 1 + 1e-9)
_LARGEST = sys.float_info.max
# The least, where it is not 0: by how much one plan is slower than another.
_LEAST = {"slower": -1.0}


def _unsound(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Figures that are no finite number, negative, or above what they may be; results within were looked at when made."""
    for name, value in figures.items():
        kind = type(value)
        if kind is Quantity:
            number = value._magnitude
        elif kind is float or kind is int:
            number = value
        elif kind is dict:
            yield from _unsound(value)
            continue
        elif kind is tuple:
            if value and type(value[0]) is not str:
                for part in value:
                    yield from _unsound(part if type(part) is dict else {name: part})
            continue
        else:
            continue
        if not (0 <= number <= _LARGEST) or name in _MOST:
            least, most = _LEAST.get(name, 0.0), _MOST.get(name, _LARGEST)
            if not least <= number <= most:
                yield name, value


def _plain(value: Any) -> Any:
    if isinstance(value, pint.Quantity):
        return {"value": float(value.magnitude), "unit": str(value.units)}
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _card(result: Result) -> str:
    """The readable card: infeasibility first, then the headline, the breakdown and what binds."""
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
