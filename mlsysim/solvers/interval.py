"""Where a measurement of what a result says is expected, and the published runs that are most like it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pint

from mlsysim.calibration.evidence import ENERGY, MeasuredRun, RunFacts, measured_runs, quantity_of
from mlsysim.calibration.intervals import LEVEL, spread
from mlsysim.calibration.own import is_own, own_stack
from mlsysim.core.units import Quantity
from mlsysim.models.registry import Models
from mlsysim.solvers.shown import shown_range

NEAREST = 3
# Of two runs, what a difference in each fact costs; a factor of e in accelerators costs one.
_WEIGHTS = {"stack": 4.0, "accelerator": 3.0, "kind": 4.0, "model": 1.0}


@dataclass(frozen=True)
class Interval:
    """Where ``level`` of measurements are expected.

    Attributes:
        low: the lower end.
        high: the upper end.
        level: the share of measurements.
        scope: the runs that it rests on: what they have in common, or what they were predicted without.
        runs: how many they are.
        median: the middle of their |predicted / measured - 1|.
        p90: what nine in ten of them stay within.
        elsewhere: the ends for a run of somebody who published none of them, from sources left out of the fit, in the unit of a
            card; "" where the interval is as wide.
    """

    low: Quantity | float
    high: Quantity | float
    level: float
    scope: str
    runs: int
    median: float
    p90: float
    elsewhere: str

    @property
    def range(self) -> str:
        """The ends, as in "7.9-9.1", in the unit in which a card writes the value."""
        return shown_range(self.low, self.high)

    def __str__(self) -> str:
        if not self.p90:  # no errors were measured: what it rests on says it all
            return f"{self.range}; {self.scope}"
        like_this = f"{self.runs:,} runs like this" if not self.scope.startswith("no ") else f"{self.scope}, {self.runs:,} runs"
        return f"{self.range}; {like_this}: half within {100 * self.median:.1f} %, nine in ten within {100 * self.p90:.1f} %"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; quantities by their number, in the unit of the result's field."""
        ends = {
            "low": float(getattr(self.low, "magnitude", self.low)),
            "high": float(getattr(self.high, "magnitude", self.high)),
        }
        told = {name: getattr(self, name) for name in ("level", "scope", "runs", "median", "p90")}
        return ends | told


def interval_about(solver: str, field: str, value: Any, facts: RunFacts) -> Interval | None:
    """Return the interval of a field; None for what is no time, rate, power, energy or utilisation, or was never measured."""
    if not is_speed(field, value):
        return None
    known = spread(solver, quantity_of(field), facts)
    if known is None:
        return None
    other = spread(solver, quantity_of(field), facts, known_source=False)
    # Attention counted in full, though kernels leave half of it out, may come to more than the peak.
    most = 1.0 if isinstance(value, float) and field.endswith("mfu") else None
    elsewhere = ""
    if other is not None and other.log_width > known.log_width:
        elsewhere = shown_range(*other.about(value, most))
    return Interval(*known.about(value, most), LEVEL, known.scope, known.runs, known.median, known.p90, elsewhere)


def is_speed(field: str, value: Any) -> bool:
    """Tell whether a field is a time, a rate, a power, an energy or a utilisation: what measurements are compared in."""
    if isinstance(value, pint.Quantity):
        return "[time]" in value.dimensionality or quantity_of(field) == ENERGY
    return isinstance(value, float) and "mfu" in field


def nearest_to(solver: str, quantity: str, facts: RunFacts) -> tuple[MeasuredRun, ...]:
    """Return the published runs that have most in common with one; of equally near ones, those of different sources first.

    To facts of 0 accelerators any number of them is as near.

    Example:
        >>> runs = nearest_to("ServingModel", "whole", RunFacts("Llama-3.1 8B", "dense", "H100 SXM5 80GB", "vllm-2025", 1))
        >>> len(runs), {run.facts.stack for run in runs}
        (3, {'vllm-2025'})
    """
    if is_own(facts.stack):
        facts = facts._replace(stack=own_stack(facts.stack).like)
    measured = [run for run in measured_runs() if (run.solver, run.quantity) == (solver, quantity)]
    runs = sorted(measured, key=lambda run: _distance(run.facts, facts))
    return tuple(_apart(runs))[:NEAREST]


@functools.lru_cache(maxsize=4096)
def called(model: str) -> str:
    """Return what the registry calls a model of which a publication has its own spelling; one that it has not, as it is.

    Example:
        >>> called("LLAMA3_70B"), called("in-house 7B")
        ('Llama-3-70B', 'in-house 7B')
    """
    known = Models.Language.find(model)
    return model if known is None else known.name


def _distance(one: RunFacts, other: RunFacts) -> float:
    one, other = one._replace(model=called(one.model)), other._replace(model=called(other.model))
    different = sum(cost for name, cost in _WEIGHTS.items() if getattr(one, name) != getattr(other, name))
    if not other.accelerators:
        return different
    return different + abs(math.log(max(one.accelerators, 1.0) / other.accelerators))


def _apart(runs: list[MeasuredRun]) -> Iterator[MeasuredRun]:
    """A run of each set of facts, and only then their repetitions."""
    seen: set[RunFacts] = set()
    repeated = []
    for run in runs:
        if run.facts in seen:
            repeated.append(run)
            continue
        seen.add(run.facts)
        yield run
        if len(seen) >= NEAREST:
            break
    yield from repeated
