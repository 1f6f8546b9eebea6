"""Limits as people write them: "mfu > 0.4", "ttft_p99 < 2 s", "cost_per_million < 0.5"."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pint

from mlsysim.core.errors import InputError, UnitError, UnknownNameError
from mlsysim.core.units import Quantity, magnitude

_LIMIT = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?P<sign><=|>=|<|>)\s*(?P<value>\S.*?)\s*")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_EXPECTED = 'a name, <, <=, > or >=, and a value, such as "mfu > 0.4" or "ttft_p99 < 2 s"'
# Figures that people give without a unit, and the one that they mean.
UNITS = {
    "days": "day",
    "cost": "USD",
    "cost_per_million": "USD",
    "cost_per_hour": "USD/hour",
    "run_energy": "megawatt_hour",
    "carbon": "tCO2e",
}


@dataclass(frozen=True)
class Limit:
    """A limit on a figure.

    Attributes:
        text: as it was written.
        name: of the figure.
        upper: whether the figure is to stay below it.
        strict: whether the value itself is too much.
        value: number and unit as they were written.
    """

    text: str
    name: str
    upper: bool
    strict: bool
    value: str

    @classmethod
    def of(cls, text: object) -> Limit:
        """Read a limit.

        Raises:
            InputError: it is none.

        Example:
            >>> Limit.of("ttft_p99 <= 2 s").name, Limit.of("mfu>0.4").upper
            ('ttft_p99', False)
            >>> Limit.of("mfu is large")
            Traceback (most recent call last):
            mlsysim.core.errors.InputError: limits = 'mfu is large': expected a name, <, <=, > or >=, and a value, such as \
"mfu > 0.4" or "ttft_p99 < 2 s"
        """
        match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError("limits", text, _EXPECTED)
        sign = match["sign"]
        return cls(str(text).strip(), match["name"], sign[0] == "<", len(sign) == 1, match["value"])

    def in_unit_of(self, figure: Quantity | float) -> float:
        """Return the limit's number in the unit that a figure is in.

        Raises:
            UnitError: the limit has another dimension, or no unit where one is needed.
        """
        plain = _NUMBER.fullmatch(self.value)
        if not isinstance(figure, pint.Quantity):
            if plain is None:
                raise UnitError("limits", self.text, f"a plain number for {self.name}")
            return float(self.value)
        unit = str(figure.units)
        if plain is not None and self.name not in UNITS:
            raise UnitError("limits", self.text, f'a value with a unit, such as "{self.name} < 1 {unit}"')
        try:
            return magnitude("limits", self.value if plain is None else f"{self.value} {UNITS[self.name]}", unit)
        except InputError as error:
            raise type(error)("limits", self.text, error.expected, error.suggestion) from None

    def holds(self, figure: Quantity | float) -> bool:
        """Tell whether a figure keeps the limit.

        Raises:
            UnitError: as ``in_unit_of``.

        Example:
            >>> from mlsysim.core.units import Q_
            >>> Limit.of("mfu > 0.4").holds(0.41), Limit.of("cost < 30").holds(Q_("31 USD"))
            (True, False)
        """
        limit = self.in_unit_of(figure)
        number = float(figure.magnitude) if isinstance(figure, pint.Quantity) else float(figure)
        within = number < limit if self.upper else number > limit
        return within or (not self.strict and number == limit)

    def known_among(self, names: list[str]) -> None:
        """Refuse a name that no figure has.

        Raises:
            UnknownNameError: it is none of them; the message has the nearest.
        """
        if self.name not in names:
            raise UnknownNameError.among("limits", self.name, names)
