"""Where a system stands, and what it costs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import positive_quantity, real_number
from mlsysim.core.errors import UnknownNameError
from mlsysim.systems.hire import hire_price

KEYS = ("grid", "pue", "price")


@dataclass(frozen=True)
class Place:
    """A place; what nobody states of it is None, and the lines that need it are left out.

    Attributes:
        grid: a grid's name in ``Infra.Grids``, or a carbon intensity.
        pue: power usage effectiveness of the building.
        price_USD_per_s: of an accelerator, by the caller.
    """

    grid: Any = None
    pue: float | None = None
    price_USD_per_s: float | None = None

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Place:
        """Check what is stated of a place: ``grid``, ``pue`` and ``price``, each or none.

        Raises:
            InputError: another key, or a value out of range.

        Example:
            >>> Place.of({"price": "3.6 USD/hour"}).price_USD_per_s
            0.001
        """
        for name in table:
            if name not in KEYS:
                raise UnknownNameError.among("place", name, KEYS)
        price = table.get("price")
        pue = table.get("pue")
        return cls(
            grid=table.get("grid"),
            pue=None if pue is None else real_number("pue", pue, 1.0, 10.0),
            price_USD_per_s=None if price is None else positive_quantity("price", price, "USD/second"),
        )

    def rent(self, accelerator: str) -> tuple[float, str] | None:
        """Return what an accelerator costs in dollars a second, and whose price that is; None where nobody knows one.

        Without a price of the caller's it is that of published rents.

        Example:
            >>> Place.of({"price": "3.6 USD/hour"}).rent("H100 SXM5 80GB")
            (0.001, "at the caller's price")
            >>> Place().rent("H100 SXM5 80GB")[1]
            'at the median of 8 rents on demand of 2025, 2.45-12.29 USD/hour'
        """
        if self.price_USD_per_s is not None:
            return self.price_USD_per_s, "at the caller's price"
        published = hire_price(accelerator)
        return None if published is None else (published.median / 3600, f"at the {published}")
