"""Place and start of a job: ``PlacementOptimizer``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlsysim.core.checks import instance, listed, one_of, real_number, strict_keywords
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, magnitude, with_unit
from mlsysim.infra.registry import Infra
from mlsysim.infra.types import Grid, Site
from mlsysim.physics.numeric import Floats
from mlsysim.physics.operations.placement import sums_over_run
from mlsysim.solvers.operations.sustainability import mean_power_W
from mlsysim.solvers.result import Result
from mlsysim.systems.types import Fleet

OBJECTIVES = ("cost", "carbon")
# What the names of cloud regions begin with.
_CLOUDS = ("AWS", "Amazon", "Azure", "Microsoft", "Google")
_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class PlacementResult(Result):
    """The cheapest site and hour.

    Attributes:
        best_site, start_hour: where, and how many hours from now.
        cost: hire, electricity and carbon tax together; ``carbon`` what is emitted; ``energy`` at the building's meter.
        total_searched: sites times hours.
        ranking: the best hour of each site, best first.
    """

    HEADLINE = ("best_site", "start_hour", "cost", "carbon")

    best_site: str
    start_hour: int
    cost: Quantity
    carbon: Quantity
    energy: Quantity
    total_searched: int
    ranking: tuple[dict[str, Any], ...]


class PlacementOptimizer:
    """Tries every site and every hour that a job can start in: exhaustive, and exact for prices that change by the hour."""

    @strict_keywords
    def solve(
        self,
        fleet: Fleet,
        *,
        duration_hours: float,
        sites: Sequence[Site | Grid | str] | None = None,
        carbon_tax: Quantity | str = "0 USD/tCO2e",
        accelerator_power: Quantity | str | None = None,
        latest_end_hour: float | None = None,
        objective: str = "cost",
    ) -> PlacementResult:
        """The best site and hour for ``fleet`` to run ``duration_hours`` without a pause.

        Args:
            fleet: what runs; its price, if any, is the site's.
            duration_hours: how long.
            sites: where it could run: sites, or grids and their names in ``Infra.Grids``; by default all regions of the cloud
                providers there. One whose hours are known starts in any that leaves time; one whose are not, now.
            carbon_tax: on what is emitted.
            accelerator_power: mean power of one accelerator with its share of the host; by default the node's most, else TDP.
            latest_end_hour: hours from now by which it must be done.
            objective: cost (hire, electricity and tax) or carbon.

        Raises:
            InputError: an argument out of range; no site with time enough.

        Example:
            >>> from mlsysim.infra.types import Grid
            >>> from mlsysim.systems.registry import Systems
            >>> fleet = Fleet(name="8 H100", node=Systems.Nodes.DGX_H100, count=1)
            >>> coal, hydro = (
            ...     Site(name=name, grid=Grid(name=name, carbon_intensity=intensity), electricity_price=price)
            ...     for name, intensity, price in (
            ...         ("coal", "820 gCO2e/kWh", "0.05 USD/kWh"),
            ...         ("hydro", "24 gCO2e/kWh", "0.08 USD/kWh"),
            ...     )
            ... )
            >>> free, taxed = (
            ...     PlacementOptimizer().solve(fleet, duration_hours=24, sites=[coal, hydro], carbon_tax=tax)
            ...     for tax in ("0 USD/tCO2e", "100 USD/tCO2e")
            ... )
            >>> free.best_site, taxed.best_site
            ('coal', 'hydro')
        """
        instance("fleet", fleet, Fleet, "a Fleet")
        hours = real_number("duration_hours", duration_hours, 0.0, above=True)
        tax = magnitude("carbon_tax", carbon_tax, "USD/gCO2e")
        if tax < 0:
            raise InputError("carbon_tax", carbon_tax, "a tax >= 0")
        latest = None if latest_end_hour is None else real_number("latest_end_hour", latest_end_hour, 0.0, above=True)
        goal = one_of("objective", objective, OBJECTIVES)
        places = _sites(sites)
        notes: list[str] = []
        watts = mean_power_W(fleet, accelerator_power, notes)
        tried = [_tried(site, fleet, hours, watts, tax, latest) for site in places]
        rows = [_best_hour(site, figures, goal) for site, figures in zip(places, tried, strict=True) if figures["cost"].size]
        if not rows:
            raise InconsistentError(
                "duration_hours", hours, "one that some site has time for before its hours, or latest_end_hour, end"
            )
        rows.sort(key=lambda row: (row[goal], row["carbon"]))
        best = rows[0]
        return PlacementResult(
            solver="PlacementOptimizer",
            subject=f"{fleet.name} for {hours:g} hours",
            basis="identity",
            binding=max(("hire", "electricity", "tax"), key=lambda part: best[part]) if goal == "cost" else "carbon",
            breakdown={part: best[part] for part in ("hire", "electricity", "tax")},
            diagnostics=tuple(notes),
            best_site=best["site"],
            start_hour=best["start_hour"],
            cost=best["cost"],
            carbon=best["carbon"],
            energy=best["energy"],
            total_searched=sum(figures["cost"].size for figures in tried),
            ranking=tuple(rows),
        )


def _sites(stated: Sequence[Site | Grid | str] | None) -> list[Site]:
    """Sites; a grid is a site without prices of its own."""
    if stated is None:
        clouds = [grid for grid in Infra.Grids if grid.name.startswith(_CLOUDS)]
        return [Site(name=grid.name, grid=grid) for grid in clouds]
    sites = []
    for place in listed("sites", stated, object, "Sites, or grids and their names"):
        grid = Infra.Grids.get(place) if isinstance(place, str) else place
        site = Site(name=grid.name, grid=grid) if isinstance(grid, Grid) else grid
        sites.append(instance("sites", site, Site, "Sites, or grids of Infra.Grids"))
    return sites


def _tried(site: Site, fleet: Fleet, hours: float, watts: float, tax: float, latest: float | None) -> dict[str, Floats]:
    """Figures of every hour that the job can start in; none where there is no time."""
    pue = site.pue if site.pue is not None else (site.grid.pue or 1.0)
    hourly_J = watts * pue * _HOUR_S
    price = 0.0 if site.electricity_price is None else float(site.electricity_price.m_as("USD/joule"))
    prices = [float(value.m_as("USD/joule")) for value in site.hourly_price] or [price] * site.hours
    intensities = [float(value.m_as("gCO2e/joule")) for value in site.hourly_carbon]
    intensities = intensities or [site.grid.carbon_intensity_g_per_J] * site.hours
    if site.hours:
        known = site.hours if latest is None else min(site.hours, int(latest))
        known = known if hours <= known else 0
        electricity = sums_over_run(np.array(prices[:known]), hours) * hourly_J if known else np.empty(0)
        carbon = sums_over_run(np.array(intensities[:known]), hours) * hourly_J if known else np.empty(0)
    else:  # the same at all hours: now is as good as any
        starts = 1 if latest is None or np.ceil(hours) <= int(latest) else 0
        electricity = np.full(starts, price * hours * hourly_J)
        carbon = np.full(starts, site.grid.carbon_intensity_g_per_J * hours * hourly_J)
    rate = 0.0 if site.accelerator_price is None else float(site.accelerator_price.m_as("USD/second"))
    hire = np.full_like(carbon, rate * fleet.accelerators * hours * _HOUR_S)
    return {
        "hire": hire,
        "electricity": electricity,
        "tax": tax * carbon,
        "cost": hire + electricity + tax * carbon,
        "carbon": carbon,
        "energy": np.full_like(carbon, hourly_J * hours),
    }


_UNITS = {"hire": "USD", "electricity": "USD", "tax": "USD", "cost": "USD", "carbon": "gCO2e", "energy": "joule"}


def _best_hour(site: Site, figures: dict[str, Floats], goal: str) -> dict[str, Any]:
    start = int(np.argmin(figures[goal]))
    return {
        "site": site.name,
        "start_hour": start,
        **{name: with_unit(float(values[start]), _UNITS[name]) for name, values in figures.items()},
    }
