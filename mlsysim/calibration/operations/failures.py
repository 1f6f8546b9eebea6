"""Rates of failures by class of fleet, and times of restarts, as ``data/failures.toml`` states them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import one_of
from mlsysim.core.toml import packaged_toml, reads

FILE = "failures.toml"
ANY = "any"
NODE_ACCELERATORS = 8  # of the nodes that the rates are of


@dataclass(frozen=True, slots=True)
class FleetClass:
    """Failures to expect of a fleet that has not been seen.

    Attributes:
        name: of the class.
        rate: failures of 1,000 node-days in the middle of its fleets.
        log_spread: standard deviation of the logarithm of another fleet's rate, also for how well the middle is known.
        fleets: how many fleets tell the rate.
    """

    name: str
    rate: float
    log_spread: float
    fleets: int


@reads("calibration", FILE)
def _rates() -> dict[str, tuple[str, float, bool]]:
    """The class and the rate of each fleet, and whether it is a fleet of its own."""
    rates = {}
    for name, entry in packaged_toml("calibration", FILE)["fleet"].items():
        stated = "rate" in entry
        rate = float(entry["rate"]) if stated else 1000 * entry["failures"] / (entry["nodes"] * entry["days"])
        rates[name] = (str(entry["class"]), rate, "beyond" not in entry)
    return rates


def fleet_class(name: str, without: str | None = None) -> FleetClass:
    """A class of fleets, in any spelling of its name.

    Args:
        name: "any", "established" (past its first months, runs like those before), "young" (a new cluster, or a first run of
            its size) or "all-job-failures" (whatever ended a job, mistakes of users among it).
        without: a published fleet that is left out, as if it had never been counted.

    Raises:
        UnknownNameError: no such class, or no such fleet.

    Example:
        >>> known = fleet_class("established")
        >>> round(known.rate, 1), round(known.log_spread, 2), known.fleets
        (3.9, 0.59, 4)
        >>> fleet_class("young").rate > known.rate
        True
    """
    rates = _rates()
    called = one_of("fleet_class", name, dict.fromkeys((ANY, *(kind for kind, _, _ in rates.values()))))
    left_out = None if without is None else one_of("without", without, rates)
    return _class(called, left_out)


@reads("calibration", FILE)
def _class(name: str, without: str | None) -> FleetClass:
    known = {fleet: entry for fleet, entry in _rates().items() if fleet != without}
    logs = [math.log(rate) for _, rate, is_fleet in known.values() if is_fleet]
    members = [math.log(rate) for kind, rate, is_fleet in known.values() if kind == name or (name == ANY and is_fleet)]
    middle, of_all = sum(members) / len(members), sum(logs) / len(logs)
    variance = sum((log - of_all) ** 2 for log in logs) / (len(logs) - 1)
    return FleetClass(name, math.exp(middle), math.sqrt(variance * (1 + 1 / len(members))), len(members))


@reads("calibration", FILE)
def restart_classes() -> Mapping[str, float]:
    """Seconds from a failure until work goes on, by who sees to it.

    Example:
        >>> restart_classes()["automated"]
        600.0
    """
    entries: dict[str, Any] = packaged_toml("calibration", FILE)["restart"]
    return {name: float(entry["seconds"]) for name, entry in entries.items()}
