"""Energy that a run takes from the grid, and emissions: ``SustainabilityModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlsysim.core.checks import instance, positive_quantity, real_number, strict_keywords
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, magnitude, with_unit
from mlsysim.infra.registry import Infra
from mlsysim.infra.types import Grid
from mlsysim.physics.operations.energy import emissions_g, facility_energy_J
from mlsysim.solvers.result import Result
from mlsysim.systems.types import Fleet

_SECONDS_A_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class SustainabilityResult(Result):
    """Energy at the building's meter, its carbon, and the mean power of the equipment."""

    HEADLINE: ClassVar[tuple[str, ...]] = ("energy", "carbon", "mean_power", "pue")

    energy: Quantity
    carbon: Quantity
    mean_power: Quantity
    duration: Quantity
    pue: float
    carbon_intensity: Quantity


class SustainabilityModel:
    """Energy and carbon of a fleet over a time.

    Source: Patterson et al. 2021, section 2: energy = accelerators x mean power x time x PUE; carbon = energy x grid.
    """

    @strict_keywords
    def solve(
        self,
        fleet: Fleet,
        *,
        duration_days: float,
        grid: Grid | Quantity | str,
        pue: float | None = None,
        energy: Quantity | str | None = None,
        accelerator_power: Quantity | str | None = None,
    ) -> SustainabilityResult:
        """Energy and carbon of ``fleet`` running for ``duration_days``.

        Args:
            fleet: what runs.
            duration_days: how long.
            grid: a ``Grid`` or its name in ``Infra.Grids``, or a carbon intensity such as "429 gCO2e/kWh".
            pue: power usage effectiveness of the building; default the grid entry's own, else 1.
            energy: measured energy at the meter, which replaces the estimate (and already contains PUE).
            accelerator_power: mean power per accelerator with its share of the host. Default: the node's maximum power
                where known, else the accelerators' TDP: an upper estimate.

        Raises:
            InputError: a duration, PUE or power out of range; ``energy`` beside ``accelerator_power`` or ``pue``.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> from mlsysim.systems.types import Fleet, Node
            >>> node = Node(name="V100", accelerator=Hardware.Cloud.V100, accelerators_per_node=8, intra_node_bw="300 GB/s")
            >>> fleet = Fleet(name="GPT-3", node=node, count=1250, fabric={"name": "IB", "bandwidth": "12.5 GB/s"})
            >>> run = SustainabilityModel().solve(
            ...     fleet, duration_days=14.8, grid="429 gCO2e/kWh", pue=1.10, accelerator_power="330 W"
            ... )
            >>> round(run.energy.to("MWh").magnitude), round(run.carbon.to("tCO2e").magnitude)
            (1289, 553)
        """
        instance("fleet", fleet, Fleet, "a Fleet")
        days = real_number("duration_days", duration_days, 0.0, above=True)
        seconds = days * _SECONDS_A_DAY
        intensity, grid_pue = _carbon_intensity(grid)
        notes: list[str] = []
        if energy is not None:
            if accelerator_power is not None or pue is not None:
                given = "accelerator_power" if accelerator_power is not None else "pue"
                raise InconsistentError("energy", energy, f"no {given} beside it: measured energy contains both")
            joules, effectiveness = positive_quantity("energy", energy, "joule"), 1.0
            notes.append("energy is measured, not estimated; it is taken to contain PUE")
        else:
            factor = pue if pue is not None else grid_pue
            if factor is None:
                notes.append("no PUE given: the building adds nothing")
            effectiveness = real_number("pue", 1.0 if factor is None else factor, 1.0, 10.0)
            watts = mean_power_W(fleet, accelerator_power, notes)
            joules = float(facility_energy_J(watts, seconds, effectiveness))
        return SustainabilityResult(
            solver="SustainabilityModel",
            subject=f"{fleet.name} for {days:g} days",
            basis="identity",
            binding="energy x carbon intensity",
            breakdown={
                "equipment": with_unit(joules / effectiveness, "joule"),
                "building": with_unit(joules * (1 - 1 / effectiveness), "joule"),
            },
            diagnostics=tuple(notes),
            energy=with_unit(joules, "joule"),
            carbon=with_unit(float(emissions_g(joules, intensity)), "gCO2e"),
            mean_power=with_unit(joules / effectiveness / seconds, "watt"),
            duration=with_unit(seconds, "second"),
            pue=effectiveness,
            carbon_intensity=with_unit(intensity * 3.6e6, "gCO2e/kilowatt_hour"),
        )


def _carbon_intensity(grid: Grid | Quantity | str) -> tuple[float, float | None]:
    if isinstance(grid, str) and not any(character.isdigit() for character in grid.split("_")[0]):
        grid = Infra.Grids.get(grid)
    if isinstance(grid, Grid):
        return grid.carbon_intensity_g_per_J, grid.pue
    intensity = magnitude("grid", grid, "gCO2e/joule")
    if intensity < 0:
        raise InputError("grid", grid, "a carbon intensity >= 0")
    return intensity, None


def mean_power_W(fleet: Fleet, accelerator_power: Quantity | str | None, notes: list[str]) -> float:
    """Mean power of the whole fleet's equipment: as given, else the nodes' maximum, else TDP; ``notes`` get which."""
    if accelerator_power is not None:
        return fleet.accelerators * positive_quantity("accelerator_power", accelerator_power, "watt")
    if fleet.node.max_power is not None:
        notes.append("power is the nodes' maximum: an upper estimate")
        return fleet.count * float(fleet.node.max_power.m_as("watt"))
    tdp = fleet.node.accelerator.tdp
    if tdp is None:
        expected = f"a power: {fleet.node.accelerator.name} lists no TDP"
        raise InputError("accelerator_power", None, expected)
    notes.append("power is the accelerators' TDP: hosts and network are left out, and few runs reach it")
    return fleet.accelerators * float(tdp.m_as("watt"))
