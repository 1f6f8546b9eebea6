"""Where systems run: the grid that feeds them."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from mlsysim.core.provenance import Provenance
from mlsysim.core.quantities import CarbonIntensity, WaterIntensity
from mlsysim.core.spec import Spec


class Grid(Spec):
    """An electricity grid, and where known the data centre on it.

    Example:
        >>> grid = Grid(name="US average 2020", carbon_intensity="429 gCO2e/kWh")
        >>> round(grid.carbon_intensity_g_per_J * 3.6e6)
        429
    """

    name: str = Field(min_length=1)
    carbon_intensity: CarbonIntensity
    pue: float | None = Field(default=None, ge=1.0, le=10.0)
    water_intensity: WaterIntensity | None = None
    year: int | None = None
    provenance: Provenance | None = None

    @cached_property
    def carbon_intensity_g_per_J(self) -> float:
        """Grams of CO2 equivalent per joule."""
        return float(self.carbon_intensity.m_as("gCO2e/joule"))
