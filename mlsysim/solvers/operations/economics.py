"""Money that a run or a fleet takes, hired or owned: ``EconomicsModel``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlsysim.core.checks import positive_quantity, real_number, strict_keywords
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, in_unit, with_unit, with_units
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.physics.operations.cost import capital_usd, electricity_usd, hire_usd
from mlsysim.physics.operations.energy import facility_energy_J
from mlsysim.solvers.operations.power import PowerModel, PowerResult
from mlsysim.solvers.result import Result
from mlsysim.systems.hire import hire_price
from mlsysim.systems.types import Fleet, Node

_HOUR_S = 3600.0
# The arguments of ownership beside ``amortization_years``, which says that accelerators are owned.
_OWNED = ("capex", "power", "electricity_price", "pue", "staff", "utilization")


@dataclass(frozen=True, kw_only=True)
class EconomicsResult(Result):
    """What a run costs.

    Attributes:
        cost: of the whole time.
        cost_per_hour: of all accelerators.
        cost_per_accelerator_hour: of one.
        cost_per_million_tokens: of a run whose rate is known; None of others.
        accelerator_hours: that are paid.
        price_basis: whose price it is, and its date where it is not the caller's.
    """

    HEADLINE = (
        *("cost", "cost_per_hour", "cost_per_accelerator_hour", "cost_per_million_tokens", "accelerator_hours", "price_basis"),
    )

    cost: Quantity
    cost_per_hour: Quantity
    cost_per_accelerator_hour: Quantity
    cost_per_million_tokens: Quantity | None
    accelerator_hours: float
    price_basis: str


class EconomicsModel:
    """Dollars of hired accelerators (hours times a dated price) or of owned ones (capital, electricity and staff).

    Source: Cottier et al., "The Rising Costs of Training Frontier AI Models", 2024, arXiv:2405.21015.
    """

    @strict_keywords
    def solve(
        self,
        hardware: HardwareNode | Node | Fleet | Result,
        *,
        duration_days: float | None = None,
        accelerator_hours: float | None = None,
        accelerators: float | None = None,
        price: Quantity | str | None = None,
        capex: Quantity | str | None = None,
        amortization_years: float | None = None,
        power: Quantity | str | None = None,
        electricity_price: Quantity | str | None = None,
        pue: float | None = None,
        staff: Quantity | str | None = None,
        utilization: float | None = None,
    ) -> EconomicsResult:
        """The cost of ``hardware`` over a time.

        Args:
            hardware: an accelerator, a node, a fleet, or a result of training or serving.
            duration_days: how long; or, in its place, ``accelerator_hours``.
            accelerator_hours: hours of all accelerators together.
            accelerators: how many, mean, where the hardware does not say it or others ran.
            price: hire of one accelerator, such as "2 USD/hour": the caller's. Without it and without ``amortization_years``:
                the registry's, with its date.
            capex: what an owned accelerator costs with its share of server and network. By default the registry's price of
                that device, never another's.
            amortization_years: over which the capital is spread: says that the accelerators are owned.
            power: of one accelerator with its share of the host. Default: that of a result's activity; else none is paid.
            electricity_price: at the meter, such as "0.09 USD/kWh".
            pue: power usage effectiveness of the building, cooling included; 1 by default.
            staff: of people, such as "500000 USD/year", for all accelerators.
            utilization: share of the years' hours that are used; 1 by default.

        Raises:
            InputError: a time, a price or a share out of range; a price that is missing; arguments of both hire and ownership.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> day = EconomicsModel().solve(
            ...     Hardware.get("H800"), duration_days=1, accelerators=226.75 * 8, price="2 USD/hour"
            ... )
            >>> round(day.cost.m_as("USD")), day.price_basis
            (87072, "the caller's")
        """
        machine, run = _machine(hardware)
        count = machine.count if accelerators is None else real_number("accelerators", accelerators, 0.0, above=True)
        hours, paid_hours = _hours(duration_days, accelerator_hours, count)
        owned = {
            name: value
            for name, value in zip(_OWNED, (capex, power, electricity_price, pue, staff, utilization), strict=True)
            if value is not None
        }
        if amortization_years is None:
            parts, told = _hired(machine.name, price, owned, paid_hours)
        else:
            if price is not None:
                raise InconsistentError("price", price, "none beside amortization_years: accelerators are hired or owned")
            years = real_number("amortization_years", amortization_years, 0.0, above=True)
            parts, told = _owned(machine, run, owned, years, paid_hours, hours)
        cost = sum(parts.values())
        tokens_per_s = getattr(run, "tokens_per_second", None)
        per_million = None
        if tokens_per_s is not None:
            per_million = with_unit(cost / hours / (in_unit(tokens_per_s, "count/second") * _HOUR_S / 1e6), "USD")
        return EconomicsResult(
            solver="EconomicsModel",
            subject=f"{count:g} x {machine.name} for {hours / 24:g} days",
            basis="identity",
            reason="" if run is None else run.reason,
            binding=max(parts, key=lambda part: parts[part]),
            breakdown=with_units(parts, "USD"),
            diagnostics=_notes(owned, run) if amortization_years is not None else (),
            cost=with_unit(cost, "USD"),
            cost_per_hour=with_unit(cost / hours, "USD/hour"),
            cost_per_accelerator_hour=with_unit(cost / paid_hours, "USD/hour"),
            cost_per_million_tokens=per_million,
            accelerator_hours=paid_hours,
            price_basis=told,
        )


@dataclass(frozen=True, slots=True)
class _Machine:
    """What is paid for: the accelerator's name and its entry, if the caller or the registry has one, and how many there are."""

    name: str
    device: HardwareNode | None
    count: float


def _machine(hardware: object) -> tuple[_Machine, Result | None]:
    """What is paid for, and the run, where a result of one was given."""
    if isinstance(hardware, HardwareNode):
        return _Machine(hardware.name, hardware, 1.0), None
    if isinstance(hardware, Node):
        return _Machine(hardware.accelerator.name, hardware.accelerator, float(hardware.accelerators_per_node)), None
    if isinstance(hardware, Fleet):
        device = hardware.node.accelerator
        return _Machine(device.name, device, float(hardware.accelerators)), None
    if isinstance(hardware, Result) and hardware.facts is not None:
        name = hardware.facts.accelerator
        return _Machine(name, Hardware.find(name), hardware.facts.accelerators), hardware
    raise InputError("hardware", hardware, "an accelerator, a Node, a Fleet, or a result of training or serving")


def _hours(duration_days: object, accelerator_hours: object, count: float) -> tuple[float, float]:
    """Hours of the run, and of all of its accelerators."""
    if (duration_days is None) == (accelerator_hours is None):
        argument = "duration_days" if duration_days is None else "accelerator_hours"
        raise InconsistentError(argument, accelerator_hours, "one of duration_days and accelerator_hours")
    if duration_days is not None:
        hours = 24 * real_number("duration_days", duration_days, 0.0, above=True)
        return hours, hours * count
    paid = real_number("accelerator_hours", accelerator_hours, 0.0, above=True)
    return paid / count, paid


def _hired(
    name: str, price: Quantity | str | None, owned: Mapping[str, object], paid_hours: float
) -> tuple[dict[str, float], str]:
    """The parts of what is hired, and whose price it is."""
    if owned:
        stray = next(iter(owned))
        raise InconsistentError(stray, owned[stray], "amortization_years beside it: it belongs to owned accelerators")
    if price is not None:
        return {"hire": float(hire_usd(paid_hours, positive_quantity("price", price, "USD/hour")))}, "the caller's"
    known = hire_price(name)
    if known is None:
        expected = f"a price an hour such as '2 USD/hour', or amortization_years: no rents of {name} are known"
        raise InputError("price", None, expected)
    return {"hire": float(hire_usd(paid_hours, known.median))}, str(known)


def _owned(
    machine: _Machine, run: Result | None, owned: Mapping[str, object], years: float, paid_hours: float, hours: float
) -> tuple[dict[str, float], str]:
    """The parts of what is owned, and whose price it is."""
    if "capex" in owned:
        capex_usd, told = positive_quantity("capex", owned["capex"], "USD"), "the caller's"
    elif (device := machine.device) is not None and device.price is not None:
        capex_usd = in_unit(device.price, "USD")
        told = f"the registry's price of {device.name}, released in {device.release_year}; server and network are not in it"
    else:
        raise InputError(
            "capex", None, f"what one costs to buy: no price of {machine.name} is known, and others' are not taken"
        )
    used = real_number("utilization", owned.get("utilization", 1.0), 0.0, 1.0, above=True)
    parts = {"capital": float(capital_usd(paid_hours, capex_usd, years, used))}
    watts = _watts(owned, run)
    building = real_number("pue", owned.get("pue", 1.0), 1.0, 10.0)
    if "electricity_price" in owned:
        if watts is None:
            raise InconsistentError("power", None, "a power beside electricity_price, or a result whose power is known")
        energy_J = float(facility_energy_J(watts, paid_hours * _HOUR_S, building))
        parts["electricity"] = float(
            electricity_usd(energy_J, positive_quantity("electricity_price", owned["electricity_price"], "USD/kilowatt_hour"))
        )
    if "staff" in owned:
        parts["staff"] = positive_quantity("staff", owned["staff"], "USD/hour") * hours
    return parts, told


def _watts(owned: Mapping[str, object], run: Result | None) -> float | None:
    """The power of one accelerator with its share of the host: as stated, or by a run's activity; None where it is unknown."""
    if "power" in owned:
        return positive_quantity("power", owned["power"], "watt")
    if run is None or run.load is None:
        return None
    powered = run if isinstance(run, PowerResult) else PowerModel().solve(run)
    return in_unit(powered.system_power, "watt") / run.load.accelerators


def _notes(owned: Mapping[str, object], run: Result | None) -> tuple[str, ...]:
    """What a reader should know of what was left out."""
    notes = [f"no {name} is stated: none is paid" for name in ("electricity_price", "staff") if name not in owned]
    if "power" not in owned and run is not None and "electricity_price" in owned:
        notes.append("power is that of the run's activity, with hosts")
    return tuple(notes)
