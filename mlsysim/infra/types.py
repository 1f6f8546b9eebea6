"""Types of the places where systems run: the electricity grid and the site."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field, model_validator

from mlsysim.core.errors import InconsistentError
from mlsysim.core.provenance import Provenance
from mlsysim.core.quantities import CarbonIntensity, EnergyPrice, HirePrice, WaterIntensity
from mlsysim.core.spec import Spec
from mlsysim.core.units import in_unit


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
        return in_unit(self.carbon_intensity, "gCO2e/joule")


class Site(Spec):
    """A place where a job could run, and what that costs there.

    Attributes:
        name, grid: the site's name, and the grid that feeds it.
        pue: power usage effectiveness of the building; by default the grid entry's own, else 1.
        electricity_price: price of a unit of energy at the meter.
        accelerator_price: hire of one accelerator for a unit of time, if any.
        hourly_carbon, hourly_price: the intensity and the price of the coming hours, where they vary: a job may then wait for
            better ones. Both have one length.

    Example:
        >>> hydro = Grid(name="hydro", carbon_intensity="20 gCO2e/kWh")
        >>> Site(name="north", grid=hydro, electricity_price="0.04 USD/kWh").hours
        0
    """

    name: str = Field(min_length=1)
    grid: Grid
    pue: float | None = Field(default=None, ge=1.0, le=10.0)
    electricity_price: EnergyPrice | None = None
    accelerator_price: HirePrice | None = None
    hourly_carbon: tuple[CarbonIntensity, ...] = ()
    hourly_price: tuple[EnergyPrice, ...] = ()

    @model_validator(mode="after")
    def _hours_agree(self) -> Site:
        lengths = {len(series) for series in (self.hourly_carbon, self.hourly_price) if series}
        if len(lengths) > 1:
            raise InconsistentError(
                "hourly_price", len(self.hourly_price), f"as many hours as hourly_carbon: {len(self.hourly_carbon)}"
            )
        return self

    @property
    def hours(self) -> int:
        """The number of coming hours that are known one by one."""
        return max(len(self.hourly_carbon), len(self.hourly_price))
