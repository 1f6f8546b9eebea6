"""``Infra``: electricity grids.

Example:
    >>> Infra.Grids.US_Average_2020.carbon_intensity.m_as("gCO2e/kWh")
    429
"""

from __future__ import annotations

from mlsysim.core.registry import Registry
from mlsysim.infra.types import Grid


class InfraRegistry(Registry[Grid]):
    """Electricity ``Grids`` of countries, cloud regions and published studies."""

    def __init__(self) -> None:
        super().__init__("infra")
        self.Grids = self.group("Grids", Grid)


Infra = InfraRegistry()
