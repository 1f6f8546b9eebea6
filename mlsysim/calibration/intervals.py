"""Intervals of predictions: split-conformal on the log errors of runs like the one in question.

Sources: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005 (split-conformal prediction); Barber et al.,
"Conformal prediction beyond exchangeability", Annals of Statistics 2023 (weighted quantiles, here of groups); Lei et al.,
"Distribution-Free Predictive Inference for Regression", JASA 2018, section 5.2 (errors over a scale: of the facts left out).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlsysim.calibration.evidence import (
    ENERGY,
    POWER,
    WHOLE,
    MeasuredRun,
    RunFacts,
    assumed_facts,
    left_out,
    measured_facts,
    measured_runs,
)
from mlsysim.calibration.operations.power import power_device
from mlsysim.calibration.own import is_own, own_stack

LEVEL = 0.9
# Runs that a scope needs: the 90 % quantile of twenty is the second largest.
ENOUGH = 20
# Rows that a group of a study weighs as, at most: one sweep of a thousand runs is still one way to be new.
GROUP_ROWS = 40
# What can be without measurements, in the order in which it is said, and the study that tells what that costs.
STUDIES = ("source", "stack", "device", "model")
# What runs have in common with one, from the narrowest scope to the widest.
SCOPES: tuple[tuple[str, ...], ...] = (
    ("stack", "accelerator", "kind"),
    ("stack", "model"),
    ("stack", "kind"),
    ("stack",),
    ("accelerator", "kind"),
    ("kind",),
    (),
)
# What each of them is called, and an engine on its accelerator.
NAMED = {
    **{"source": "source", "stack": "engine or stack", "device": "accelerator", "model": "model"},
    "pair": "engine on this accelerator",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """How far predictions like one were off: ``log_width`` covers ``LEVEL`` of |ln(predicted / measured)|.

    Attributes:
        log_width: half the interval's width, as a natural logarithm.
        scope: the runs that it rests on, in words.
        runs: how many these are.
        median: the middle of their |predicted / measured - 1|.
        p90: what nine in ten of them stay within.
    """

    log_width: float
    scope: str
    runs: int
    median: float
    p90: float

    def about(self, value: Any, most: float | None = None) -> tuple[Any, Any]:
        """Return the ends of the interval about a number or a quantity.

        Args:
            value: what is predicted.
            most: what no measurement exceeds, such as the whole of a peak.

        Example:
            >>> Spread(0.7, "all", 20, 0.1, 0.5).about(0.6, most=1.0)[1]
            1.0
        """
        factor = math.exp(self.log_width)
        high = value * factor
        return value / factor, high if most is None else max(value, min(high, most))


def conformal_quantile(errors: Sequence[float]) -> float:
    """Return the ceil((n + 1) LEVEL)-th smallest of n errors, the largest where there are too few.

    Example:
        >>> conformal_quantile([0.1 * step for step in range(1, 20)])
        1.8
    """
    ordered = sorted(errors)
    return ordered[min(math.ceil((len(ordered) + 1) * LEVEL), len(ordered)) - 1]


def grouped_quantile(groups: Sequence[Sequence[float]], level: float = LEVEL) -> float:
    """Return the quantile of errors in groups of which a new one is asked: a group weighs as ``GROUP_ROWS`` rows at most.

    Example:
        >>> grouped_quantile([[0.1] * 1000, [0.5] * 40], 0.4), grouped_quantile([[0.1] * 1000, [0.5] * 40])
        (0.1, 0.5)
    """
    weighed = sorted((error, min(len(group), GROUP_ROWS) / len(group)) for group in groups for error in group)
    wanted, seen = level * sum(weight for _, weight in weighed), 0.0
    for error, weight in weighed:
        seen += weight
        if seen >= wanted - 1e-9:
            return error
    return weighed[-1][0]


def spread(
    solver: str, quantity: str, facts: RunFacts, *, known_source: bool = True, assumed: Collection[str] = ()
) -> Spread | None:
    """Return how far predictions of runs like one were off; None where a solver's predictions were never measured.

    Where the source, the stack, the accelerator or the model has no measurements of its own, the interval comes from
    predictions by fits without things of that kind; of several, their widths add as independent errors do.

    Args:
        solver: name of the solver whose prediction it is.
        quantity: ``evidence.WHOLE``, ``evidence.FIRST_TOKEN``, ``evidence.POWER`` or ``evidence.ENERGY``.
        facts: what the run is of.
        known_source: whether it is a run of a publication that has measurements here.
        assumed: columns that its row leaves out, and that defaults stand for.

    Example:
        >>> facts = RunFacts("Llama-3 70B", "dense", "H100 SXM5 80GB", "no such stack", 64)
        >>> known, new = spread("DistributedModel", "whole", facts._replace(stack="megatron-core")), spread(
        ...     "DistributedModel", "whole", facts)
        >>> known.log_width < new.log_width, new.scope.startswith("no measurement of this engine or stack")
        (True, True)
    """
    if quantity == POWER:
        drawn = power_device(facts.accelerator)
        return Spread(drawn.log_width, drawn.scope, drawn.runs, drawn.median, drawn.p90)
    if quantity == ENERGY:
        power = spread(solver, POWER, facts)
        time = spread(solver, WHOLE, facts, known_source=known_source, assumed=assumed)
        if power is None or time is None:
            return None
        return replace(power, log_width=math.hypot(power.log_width, time.log_width))
    if is_own(facts.stack):
        return _of_own(solver, quantity, facts, assumed)
    closest = _pool(solver, quantity).closest(facts, solver, assumed)
    if closest is None:
        return None
    missing = unmeasured(solver, facts, known_source=known_source)
    if not missing:
        return closest
    studies = [_study(study, solver, quantity) for study in missing]
    # Things that were left out of fits leave facts out too: what a row leaves out widens it where it costs more than being new.
    width = max(math.hypot(*(one.log_width for one in studies)), closest.log_width)
    if missing == ("pair",) and width == closest.log_width:
        return closest
    named = " and of ".join(f"this {NAMED[study]}" for study in missing)
    scope = f"no measurement of {named}: interval from those left out"
    widest = max(studies, key=lambda one: one.log_width)
    return Spread(width, scope, widest.runs, widest.median, widest.p90)


def scale(costs: Mapping[str, float], assumed: Collection[str]) -> float:
    """Return how many times as far off as a run that states all of its facts one is that leaves some out.

    Args:
        costs: of each fact, how many times as far off runs are without it: measured on those that state it.
        assumed: columns that the run's row leaves out; what they cost adds as independent errors do.

    Example:
        >>> scale({"a": 3.0, "b": 2.0, "c": 0.9}, ["a", "c"]), round(scale({"a": 3.0, "b": 2.0}, ["a", "b", "d"]) ** 2)
        (3.0, 12)
    """
    return math.sqrt(1 + sum(max(costs.get(fact, 1.0), 1.0) ** 2 - 1 for fact in assumed))


@functools.lru_cache(maxsize=1024)
def _scale(solver: str, quantity: str, assumed: tuple[str, ...]) -> float:
    kind = solver, quantity
    return scale({one.fact: one.missing / one.stated for one in assumed_facts() if (one.solver, one.quantity) == kind}, assumed)


def _scaled(run: MeasuredRun) -> float:
    return abs(run.error) / _scale(run.solver, run.quantity, run.assumed)


def _of_own(solver: str, quantity: str, facts: RunFacts, assumed: Collection[str]) -> Spread | None:
    """The spread of a user's own stack, by its runs; on an accelerator that it was not calibrated on it is wider."""
    own = own_stack(facts.stack)
    errors = own.errors.get(quantity) if solver == own.solver else None
    if errors is None:
        return spread(solver, quantity, facts._replace(stack=own.like), assumed=assumed)
    wider = _scale(solver, quantity, tuple(assumed))
    measured = Spread(wider * errors.log_width, f"the runs of {own.file}", errors.runs, errors.median, errors.p90)
    if facts.accelerator in own.accelerators:
        return measured
    left = _study("device", solver, quantity)
    scope = f"no measurement of this accelerator by {own.file}: interval from those left out"
    return Spread(wider * math.hypot(left.log_width, errors.log_width), scope, left.runs, left.median, left.p90)


def unmeasured(solver: str, facts: RunFacts, *, known_source: bool = True) -> tuple[str, ...]:
    """Name what of a run has no measurements of its own, of ``STUDIES``, or "pair": its engine on its accelerator.

    A stack that is not known stands for its source too. Models and pairs matter where an engine's kernels were not measured for
    them: in serving language models.
    """
    if is_own(facts.stack):
        own = own_stack(facts.stack)
        if solver == own.solver:
            return () if facts.accelerator in own.accelerators else ("device",)
        facts = facts._replace(stack=own.like)
    known = _known(solver)
    missing = []
    if facts.stack not in known["stack"]:
        missing.append("stack")
    elif not known_source:
        missing.append("source")
    if facts.accelerator not in known["device"]:
        missing.append("device")
    elif known["pair"] and facts.stack in known["stack"] and (facts.stack, facts.accelerator) not in known["pair"]:
        missing.append("pair")
    if known["model"] and facts.model not in known["model"]:
        missing.append("model")
    return tuple(missing)


@functools.cache
def _known(solver: str) -> dict[str, frozenset[Any]]:
    """What a solver was measured on; no models or pairs where leaving out was never studied. Every calibrated solve asks."""
    facts = measured_facts(solver)
    studied = {one.study for one in left_out() if one.solver == solver}
    return {
        "stack": frozenset(one.stack for one in facts),
        "device": frozenset(one.accelerator for one in facts),
        "pair": frozenset((one.stack, one.accelerator) for one in facts if "device" in studied),
        "model": frozenset(one.model for one in facts if "model" in studied),
    }


class Pool:
    """Figures of one solver and one quantity, by what their runs have in common."""

    def __init__(self, runs: Iterable[MeasuredRun]) -> None:
        """Sort the figures into the scopes that they belong to."""
        self._errors: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[float, float]]] = {}
        self._spreads: dict[tuple[tuple[str, ...], tuple[str, ...]], Spread] = {}
        self._kind = "", ""
        for run in runs:
            self._kind = run.solver, run.quantity
            for names in SCOPES:
                self._errors.setdefault((names, _values(run.facts, names)), []).append((abs(run.error), _scaled(run)))

    def closest(self, facts: RunFacts, solver: str = "", assumed: Collection[str] = ()) -> Spread | None:
        """Return the spread of the narrowest scope of a run that has ``ENOUGH`` figures; None of an empty pool.

        ``solver`` is what the scope of all figures is called; ``assumed`` are the columns that the run's row leaves out.
        """
        for names in SCOPES:
            key = names, _values(facts, names)
            errors = self._errors.get(key, ())
            if errors and (len(errors) >= ENOUGH or not names):
                if key not in self._spreads:
                    self._spreads[key] = _spread_of(errors, ", ".join(key[1]) or solver)
                known = self._spreads[key]
                return replace(known, log_width=known.log_width * _scale(*self._kind, tuple(assumed))) if assumed else known
        return None


def _values(facts: RunFacts, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(getattr(facts, name) for name in names)


@functools.cache
def _pool(solver: str, quantity: str) -> Pool:
    return Pool(run for run in measured_runs() if (run.solver, run.quantity) == (solver, quantity))


def _spread_of(errors: Sequence[tuple[float, float]], scope: str) -> Spread:
    shares = sorted(math.expm1(error) for error, _ in errors)
    return Spread(
        conformal_quantile([scaled for _, scaled in errors]),
        scope,
        len(errors),
        shares[len(shares) // 2],
        conformal_quantile(shares),
    )


def spread_of(runs: Sequence[MeasuredRun]) -> Spread:
    """Return how far predictions of these runs were off.

    Args:
        runs: the figures, one at least.
    """
    return _spread_of([(abs(run.error), _scaled(run)) for run in runs], "")


@functools.cache
def _study(study: str, solver: str, quantity: str) -> Spread:
    """How far off predictions without a thing of a kind were: of this solver where that was studied, else of all."""
    every = [one for one in left_out() if one.quantity == quantity]
    study = "device" if study == "pair" else study  # each engine finds out other shares of a device
    asked = [one for one in every if one.study == study]
    of_solver = [one for one in asked if one.solver == solver]
    # Stacks of training runs are their sources' own: who leaves one out leaves out the other.
    with_source = [one for one in every if one.study == "source" and one.solver == solver] if study == "stack" else []
    groups = [one.errors for one in of_solver or with_source or asked]
    middle, wide = grouped_quantile(groups, 0.5), grouped_quantile(groups)
    return Spread(wide, "", sum(map(len, groups)), math.expm1(middle), math.expm1(wide))
