"""Energy that a run takes from the grid, emissions and water: ``SustainabilityModel``."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.calibration.operations.power import trained_watts
from mlsysim.core.checks import positive_quantity, real_number, strict_keywords
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, in_unit, magnitude, with_unit
from mlsysim.infra.registry import Infra
from mlsysim.infra.types import Grid
from mlsysim.physics.operations.energy import embodied_g, emissions_g, facility_energy_J, water_L
from mlsysim.solvers.operations.power import PowerModel, PowerResult
from mlsysim.solvers.result import Result
from mlsysim.systems.types import Fleet

_SECONDS_A_DAY = 86400.0
_DAYS_A_YEAR = 365.0
_KWH_J = 3.6e6
LOCATION = "location-based"
MEASURED, ESTIMATED = "the meter that was read", "the building's meter: equipment times PUE"


@dataclass(frozen=True, kw_only=True)
class SustainabilityResult(Result):
    """Energy at the building's meter, its carbon and its water, and the mean power of the equipment.

    Attributes:
        energy: at the ``boundary``.
        carbon: what the grid emits for it; ``carbon_basis`` says that this is location-based: no purchase is taken off.
        mean_power: of the equipment.
        duration: of the run.
        pue: energy at the meter over that of the equipment.
        carbon_intensity: of the grid.
        boundary: where the energy is read.
        market_carbon: what the contracts that the caller states emit for it; None without any.
        embodied_carbon: what making the accelerators emitted, by the run's share of their lifetime; None if not stated.
        water_on_site: what cooling evaporates, by the energy of the equipment; None where it is not stated.
        water_at_source: what generation consumes, by the energy at the meter; never added to that on site.
    """

    HEADLINE = (
        *("energy", "carbon", "carbon_basis", "mean_power", "pue", "boundary", "market_carbon", "embodied_carbon"),
        *("water_on_site", "water_at_source"),
    )

    energy: Quantity
    carbon: Quantity
    mean_power: Quantity
    duration: Quantity
    pue: float
    carbon_intensity: Quantity
    carbon_basis: str = LOCATION
    boundary: str = ESTIMATED
    market_carbon: Quantity | None = None
    embodied_carbon: Quantity | None = None
    water_on_site: Quantity | None = None
    water_at_source: Quantity | None = None


class SustainabilityModel:
    """Energy, carbon and water of a fleet, or of a training or serving run, over a time.

    Source: Patterson et al. 2021, section 2: energy = accelerators x mean power x time x PUE; carbon = energy x grid.
    """

    @strict_keywords
    def solve(
        self,
        fleet: Fleet | Result,
        *,
        duration_days: float,
        grid: Grid | Quantity | str,
        pue: float | None = None,
        energy: Quantity | str | None = None,
        accelerator_power: Quantity | str | None = None,
        market: Quantity | str | None = None,
        embodied: Quantity | str | None = None,
        lifetime_years: float | None = None,
        wue: Quantity | str | None = None,
        source_wue: Quantity | str | None = None,
    ) -> SustainabilityResult:
        """Energy and carbon of ``fleet`` running for ``duration_days``.

        Args:
            fleet: what runs: a fleet, or a result of training or serving, whose power is that of its activity with hosts (a
                result of ``PowerModel``: with the hosts and the limit that it was asked for).
            duration_days: how long.
            grid: a ``Grid`` or its name in ``Infra.Grids``, or a carbon intensity such as "429 gCO2e/kWh": location-based.
            pue: power usage effectiveness of the building; default the grid entry's own, else 1.
            energy: measured energy at the meter, which replaces the estimate (and already contains PUE).
            accelerator_power: mean power per accelerator with its share of the host. Default of a fleet: what meters read of
                training runs on such a chip, else the node's maximum power, else the accelerators' TDP: an upper estimate.
            market: carbon intensity of contracted electricity, such as "0 gCO2e/kWh": market-based, beside the other.
            embodied: carbon of making one accelerator with its share of the host, such as "150 kgCO2e".
            lifetime_years: over which the embodied carbon is spread.
            wue: water that cooling evaporates on site for the equipment's energy, such as "1.15 L/kWh".
            source_wue: water that generation consumes for the energy at the meter. Default: the grid entry's own.

        Raises:
            InputError: a duration, PUE or power out of range; ``energy`` beside ``accelerator_power`` or ``pue``; ``embodied``
                without ``lifetime_years`` or the other way round.

        Example:
            >>> from mlsysim import Fleet, Hardware, Node
            >>> node = Node(name="V100", accelerator=Hardware.Cloud.V100, accelerators_per_node=8, intra_node_bw="300 GB/s")
            >>> fleet = Fleet(name="GPT-3", node=node, count=1250, fabric={"name": "IB", "bandwidth": "12.5 GB/s"})
            >>> run = SustainabilityModel().solve(
            ...     fleet, duration_days=14.8, grid="429 gCO2e/kWh", pue=1.10, accelerator_power="330 W"
            ... )
            >>> round(run.energy.to("MWh").magnitude), round(run.carbon.to("tCO2e").magnitude)
            (1289, 553)
            >>> run.carbon_basis
            'location-based'
        """
        name, accelerators = _subject(fleet)
        days = real_number("duration_days", duration_days, 0.0, above=True)
        seconds = days * _SECONDS_A_DAY
        place, intensity = _carbon_intensity(grid)
        notes: list[str] = []
        if energy is not None:
            if accelerator_power is not None or pue is not None:
                argument = "accelerator_power" if accelerator_power is not None else "pue"
                raise InconsistentError("energy", energy, f"no {argument} beside it: measured energy contains both")
            joules, effectiveness = positive_quantity("energy", energy, "joule"), 1.0
            notes.append("energy is measured, not estimated; it is taken to contain PUE")
        else:
            factor = pue if pue is not None or place is None else place.pue
            if factor is None:
                notes.append("no PUE given: the building adds nothing")
            effectiveness = real_number("pue", 1.0 if factor is None else factor, 1.0, 10.0)
            joules = float(facility_energy_J(mean_power_W(fleet, accelerator_power, notes), seconds, effectiveness))
        equipment_J = joules / effectiveness
        source = _litres("source_wue", source_wue)
        if source is None and place is not None and place.water_intensity is not None:
            source = in_unit(place.water_intensity, "liter/kilowatt_hour")
        return SustainabilityResult(
            solver="SustainabilityModel",
            subject=f"{name} for {days:g} days",
            basis="identity",
            binding="energy x carbon intensity",
            breakdown={
                "equipment": with_unit(equipment_J, "joule"),
                "building": with_unit(joules - equipment_J, "joule"),
            },
            diagnostics=tuple(notes),
            energy=with_unit(joules, "joule"),
            carbon=with_unit(float(emissions_g(joules, intensity)), "gCO2e"),
            mean_power=with_unit(equipment_J / seconds, "watt"),
            duration=with_unit(seconds, "second"),
            pue=effectiveness,
            carbon_intensity=with_unit(intensity * _KWH_J, "gCO2e/kilowatt_hour"),
            boundary=ESTIMATED if energy is None else MEASURED,
            market_carbon=None if market is None else with_unit(joules * _intensity("market", market), "gCO2e"),
            embodied_carbon=_embodied(embodied, lifetime_years, accelerators, seconds),
            water_on_site=_water(equipment_J, _litres("wue", wue)),
            water_at_source=_water(joules, source),
        )


def _subject(fleet: object) -> tuple[str, float]:
    """The name and the number of accelerators of what runs.

    Raises:
        InputError: it is neither a fleet nor a result whose power is known.
    """
    if isinstance(fleet, Fleet):
        return fleet.name, float(fleet.accelerators)
    if isinstance(fleet, Result) and fleet.load is not None:
        return fleet.subject, fleet.load.accelerators
    raise InputError(
        "fleet", getattr(fleet, "subject", fleet), "a Fleet, or a result of training or serving whose power is known"
    )


def _carbon_intensity(grid: Grid | Quantity | str) -> tuple[Grid | None, float]:
    """The grid's entry, if it is one, and grams a joule."""
    if isinstance(grid, str) and not any(character.isdigit() for character in grid.split("_")[0]):
        grid = Infra.Grids.get(grid)
    if isinstance(grid, Grid):
        return grid, grid.carbon_intensity_g_per_J
    return None, _intensity("grid", grid)


def _intensity(name: str, value: object) -> float:
    intensity = magnitude(name, value, "gCO2e/joule")
    if intensity < 0:
        raise InputError(name, value, "a carbon intensity >= 0")
    return intensity


def _litres(name: str, value: object) -> float | None:
    """Litres a kilowatt-hour; None where nobody says."""
    if value is None:
        return None
    litres = magnitude(name, value, "liter/kilowatt_hour")
    if litres < 0:
        raise InputError(name, value, "litres a kilowatt-hour >= 0")
    return litres


def _water(energy_J: float, litres_per_kWh: float | None) -> Quantity | None:
    return None if litres_per_kWh is None else with_unit(float(water_L(energy_J, litres_per_kWh)), "liter")


def _embodied(embodied: object, lifetime_years: object, accelerators: float, seconds: float) -> Quantity | None:
    """What making the accelerators emitted, by the share of their lifetime; None where nobody says.

    Raises:
        InputError: one of the two is missing, or out of range.
    """
    if embodied is None and lifetime_years is None:
        return None
    if embodied is None or lifetime_years is None:
        missing = "embodied" if embodied is None else "lifetime_years"
        raise InconsistentError(missing, None, "both: embodied carbon is spread over a lifetime")
    each_g = positive_quantity("embodied", embodied, "gCO2e")
    lifetime_s = real_number("lifetime_years", lifetime_years, 0.0, above=True) * _DAYS_A_YEAR * _SECONDS_A_DAY
    if lifetime_s < seconds:
        raise InconsistentError("lifetime_years", lifetime_years, "at least the duration")
    return with_unit(float(embodied_g(each_g, accelerators, seconds, lifetime_s)), "gCO2e")


def mean_power_W(fleet: Fleet | Result, accelerator_power: Quantity | str | None, notes: list[str]) -> float:
    """Mean power of all equipment, in W; ``notes`` gets what it is.

    Returns:
        That of the caller; of a run, by its activity, with hosts; of a fleet, what meters read of training runs on its chips,
        else the nodes' maximum, else TDP.
    """
    if accelerator_power is not None:
        return _subject(fleet)[1] * positive_quantity("accelerator_power", accelerator_power, "watt")
    if isinstance(fleet, Result):
        run = fleet if isinstance(fleet, PowerResult) else PowerModel().solve(fleet)
        each_W = in_unit(run.power, "watt")
        notes.append(f"power is that of the run's activity, with hosts: {each_W:.0f} W of an accelerator")
        return in_unit(run.system_power, "watt")
    known = trained_watts(fleet.node.accelerator.name)
    if known is not None:
        notes.append("power is what meters read of training runs on such accelerators, hosts included")
        return fleet.accelerators * known
    if fleet.node.max_power is not None:
        notes.append("power is the nodes' maximum: an upper estimate")
        return fleet.count * in_unit(fleet.node.max_power, "watt")
    tdp = fleet.node.accelerator.tdp
    if tdp is None:
        expected = f"a power: {fleet.node.accelerator.name} lists no TDP"
        raise InputError("accelerator_power", None, expected)
    notes.append("power is the accelerators' TDP: hosts and network are left out, and few runs reach it")
    return fleet.accelerators * in_unit(tdp, "watt")
