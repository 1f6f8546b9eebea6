"""Typed quantity fields for ``Spec`` classes: each fixes a dimension and a sign.

Example:
    >>> from mlsysim.core.spec import Spec
    >>> class Memory(Spec):
    ...     capacity: Bytes
    >>> int(Memory(capacity="80 GiB").capacity.m_as("byte"))
    85899345920
    >>> Memory(capacity="80 W")
    Traceback (most recent call last):
    mlsysim.core.errors.UnitError: Memory.capacity = '80 W': expected a quantity in byte
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from mlsysim.core.errors import InputError, UnitError
from mlsysim.core.units import Q_, Quantity, magnitude


@dataclass(frozen=True)
class QuantityField:
    """A pydantic annotation: a quantity convertible to ``unit``, finite, ``> 0`` (or ``>= 0``)."""

    unit: str
    allow_zero: bool = False
    forbid_bits: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(_text, when_used="json")
        )

    def validate(self, value: object) -> Quantity:
        """Check ``value``, and give it as a quantity of our registry in the unit it was given in."""
        number = magnitude("value", value, self.unit)
        quantity = Q_(value)  # type: ignore[arg-type]
        if self.forbid_bits and _counts_bits(quantity.units):
            raise UnitError("value", value, f"bytes, not bits (this is {quantity.m_as('GB'):g} GB)")
        if number < 0 or (number == 0 and not self.allow_zero):
            raise InputError("value", value, f"a quantity {'>=' if self.allow_zero else '>'} 0 {self.unit}")
        return quantity


@functools.lru_cache(maxsize=256)
def _counts_bits(units: Any) -> bool:
    """True if ``units`` are bits; cached, because printing a unit takes pint longer than all else that is checked here."""
    return "bit" in str(units)


def _text(quantity: Quantity) -> str:
    number = float(quantity.magnitude)
    return f"{number!r} {quantity.units:~}" if math.isfinite(number) else str(quantity)


Flops = Annotated[Quantity, QuantityField("flop")]
FlopRate = Annotated[Quantity, QuantityField("flop/second")]
Bytes = Annotated[Quantity, QuantityField("byte", forbid_bits=True)]
ByteRate = Annotated[Quantity, QuantityField("byte/second")]
Count = Annotated[Quantity, QuantityField("count")]
Power = Annotated[Quantity, QuantityField("watt")]
Energy = Annotated[Quantity, QuantityField("joule")]
Latency = Annotated[Quantity, QuantityField("second", allow_zero=True)]
Money = Annotated[Quantity, QuantityField("USD", allow_zero=True)]
EnergyPrice = Annotated[Quantity, QuantityField("USD/joule", allow_zero=True)]
HirePrice = Annotated[Quantity, QuantityField("USD/second", allow_zero=True)]
CarbonIntensity = Annotated[Quantity, QuantityField("gCO2e/joule", allow_zero=True)]
WaterIntensity = Annotated[Quantity, QuantityField("liter/joule", allow_zero=True)]
