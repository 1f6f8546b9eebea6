"""Rents of accelerators as clouds publish them, each with its date: ``hire_price``."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.hardware.registry import Hardware


@dataclass(frozen=True, slots=True)
class HirePrice:
    """Rents of one accelerator on demand, US dollars an hour.

    Attributes:
        median: the middle of the offers.
        least: the cheapest of them.
        most: the dearest of them.
        offers: how many there are.
        date: when they were published.
    """

    median: float
    least: float
    most: float
    offers: int
    date: str

    def __str__(self) -> str:
        return f"median of {self.offers} rents on demand of {self.date}, {self.least:g}-{self.most:g} USD/hour"


def hire_price(hardware_name: str) -> HirePrice | None:
    """Returns the rents of an accelerator by its registry name; None where too few were published.

    Example:
        >>> print(hire_price("H100 SXM5 80GB"))
        median of 8 rents on demand of 2025, 2.45-12.29 USD/hour
        >>> hire_price("no such card") is None
        True
    """
    try:
        entry = packaged_toml("systems", "fleets.toml")["hire"].get(Hardware.id_of(hardware_name))
    except UnknownNameError:
        return None
    return None if entry is None else HirePrice(**entry)
