"""What a scenario comes to, figure by figure, each with the interval that it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pint

from mlsysim.core.units import Quantity, with_unit
from mlsysim.scenarios.place import Place
from mlsysim.solvers.card import counted_by
from mlsysim.solvers.operations.power import PowerModel
from mlsysim.solvers.operations.sustainability import SustainabilityModel
from mlsysim.solvers.operations.time_to_train import time_to_train
from mlsysim.solvers.result import Result
from mlsysim.solvers.shown import shown, shown_range
from mlsysim.systems.types import Fleet

_SECONDS_A_DAY = 86400.0


@dataclass(frozen=True)
class Figure:
    """A figure of an answer.

    Attributes:
        name: by which limits call it.
        value: what is predicted.
        low: the lower end of where nine in ten measurements are expected; None where it has no interval.
        high: the upper end.
        note: what it is, where the name does not say.
    """

    name: str
    value: Quantity | float
    low: Quantity | float | None = None
    high: Quantity | float | None = None
    note: str = ""

    @property
    def shown(self) -> str:
        """The value as a card writes it."""
        return shown(self.value, counted_by(self.name))

    @property
    def interval(self) -> str:
        """The ends of its interval in the unit that the value is shown in; "" where it has none."""
        return "" if self.low is None else shown_range(self.low, self.high)

    @property
    def text(self) -> str:
        """The value with its interval."""
        return f"{self.shown} ({self.interval})" if self.interval else self.shown

    def to_dict(self) -> dict[str, Any]:
        """Plain values; quantities by their number, beside the unit."""
        unit = str(self.value.units) if isinstance(self.value, pint.Quantity) else ""
        ends = {"low": self.low, "high": self.high}
        told = {"value": plain(self.value)} | {name: None if end is None else plain(end) for name, end in ends.items()}
        return {"name": self.name, **told, "unit": unit, "note": self.note}


def plain(value: Any) -> float:
    """A quantity or a number as a float."""
    return float(getattr(value, "magnitude", value))


def figures(
    answer: Result,
    system: object,
    place: Place,
    tokens: float | None = None,
    served_per_s: float | None = None,
    failing: Mapping[str, Any] | None = None,
) -> dict[str, Figure]:
    """Return every figure of an answer, and those that follow from the place and from the tokens of a training run.

    Args:
        answer: a training step, or a deployment under its load.
        system: what it runs on.
        place: where.
        tokens: of a whole training run, or None.
        served_per_s: tokens a second of the requests that arrive, where a queue has no such figure of its own.
        failing: arguments of ``time_to_train`` that say how failures are survived; without them none are counted.
    """
    by_name = {part.name: _field(answer, part.name) for part in fields(answer) if _is_figure(getattr(answer, part.name))}
    accelerators = 1.0 if answer.facts is None else answer.facts.accelerators
    if served_per_s is not None:
        by_name["tokens_per_second"] = Figure(
            "tokens_per_second", with_unit(served_per_s, "count/second"), note="of what arrives"
        )
    speed = by_name.get("tokens_per_second")
    if speed is None:
        return by_name
    for figure in _following(answer, speed, accelerators, system, place, tokens):
        by_name[figure.name] = figure
    if tokens is not None and failing and answer.feasible:
        rent = place.rent("" if answer.facts is None else answer.facts.accelerator)
        price = None if rent is None else with_unit(3600 * rent[0], "USD/hour")
        run = time_to_train(answer, with_unit(tokens, "count"), price=price, **failing)
        by_name["failures"] = _renamed(run, "failures", "failures", "of the whole run")
        by_name["goodput"] = _renamed(run, "goodput", "goodput", "share of the time that is work kept")
        by_name["days"] = _renamed(run, "duration", "days", "with failures")
        if rent is not None:
            by_name["cost"] = _renamed(run, "cost", "cost", f"with failures, {rent[1]}")
    return by_name


def _renamed(run: Result, field: str, name: str, note: str) -> Figure:
    value = _field(run, field)
    return Figure(name, value.value, value.low, value.high, note)


def _field(answer: Result, name: str) -> Figure:
    interval = answer.interval_of(name)
    if interval is None:
        return Figure(name, getattr(answer, name))
    return Figure(name, getattr(answer, name), interval.low, interval.high)


def _is_figure(value: object) -> bool:
    return isinstance(value, (pint.Quantity, int, float)) and not isinstance(value, bool)


def _following(
    answer: Result, speed: Figure, accelerators: float, system: object, place: Place, tokens: float | None
) -> Iterator[Figure]:
    per_s = plain(speed.value)
    # A time goes with the inverse of the speed, whose ends change places.
    ends = (None, None) if speed.low is None else (per_s / (plain(speed.high) or 1.0), per_s / (plain(speed.low) or 1.0))

    def scaled(name: str, amount: float, unit: str, note: str = "") -> Figure:
        low, high = (None if end is None else with_unit(amount * end, unit) for end in ends)
        return Figure(name, with_unit(amount, unit), low, high, note)

    rent = place.rent("" if answer.facts is None else answer.facts.accelerator)
    if rent is not None:
        yield Figure("cost_per_hour", with_unit(3600 * rent[0] * accelerators, "USD/hour"), note=rent[1])
        yield scaled("cost_per_million", rent[0] * accelerators / per_s * 1e6, "USD", f"tokens, {rent[1]}")
    if tokens is None:
        return
    seconds = tokens / per_s
    yield scaled("days", seconds / _SECONDS_A_DAY, "day", "of computing, without failures")
    if rent is not None:
        yield scaled("cost", rent[0] * accelerators * seconds, "USD", f"of computing, {rent[1]}")
    if place.grid is None or not isinstance(system, Fleet):
        return
    watts, note = _equipment_W(answer, system)
    run = SustainabilityModel().solve(
        system, duration_days=seconds / _SECONDS_A_DAY, grid=place.grid, pue=place.pue, accelerator_power=watts
    )
    yield scaled("run_energy", float(run.energy.m_as("megawatt_hour")), "megawatt_hour", note)
    yield scaled("carbon", float(run.carbon.m_as("tCO2e")), "tCO2e", note)


def _equipment_W(answer: Result, system: Fleet) -> tuple[Quantity | None, str]:
    """Power of an accelerator with its share of the host, from what it does, and what that is; None where that is not known."""
    if answer.load is None:
        return None, "of its chips or nodes, whatever they do"
    power = PowerModel().solve(answer, accelerators_per_node=system.node.accelerators_per_node)
    each = with_unit(float(power.node_power.m_as("watt")) / system.node.accelerators_per_node, "watt")
    return each, "of accelerators by what they do, and their hosts"
