"""Intervals of predictions: split-conformal on the log errors of runs like the one in question.

Sources: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005 (split-conformal prediction); Barber et al.,
"Conformal prediction beyond exchangeability", Annals of Statistics 2023 (weighted quantiles, here of groups); Lei et al.,
"Distribution-Free Predictive Inference for Regression", JASA 2018, section 5.2 (errors over a scale: of the facts left out).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlsysim.calibration.evidence import (
    ENERGY,
    ENOUGH,
    FACTS_OF,
    POWER,
    STANDS_ON,
    WHOLE,
    LeftOut,
    MeasuredRun,
    RunFacts,
    left_out,
    measured_runs,
    scale_of,
    unfitted,
)
from mlsysim.calibration.operations.power import power_device
from mlsysim.calibration.own import is_own, own_stack

LEVEL = 0.9
# Whose studies stand for a solver's where it has none: its predictions rest on the same tables of kernels.
_STUDIED_WITH = {**STANDS_ON, "DistributedModel": "ServingModel"}
# Things that a study needs, of which one in ten may be outside.
THINGS = 10
# Rows that a group of a study weighs as, at most: one sweep of a thousand runs is still one way to be new.
GROUP_ROWS = 40
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
        """Return the ends of the interval about a number or a quantity, of which no measurement exceeds ``most``.

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
    weighed = _weighed(groups)
    return _quantile(weighed, level * sum(weight for _, weight in weighed))


def _weighed(groups: Iterable[Sequence[float]]) -> list[tuple[float, float]]:
    return [(error, min(len(group), GROUP_ROWS) / len(group)) for group in groups for error in group]


def _quantile(weighed: Iterable[tuple[float, float]], wanted: float) -> float:
    """The error by which the weight that is wanted was seen, the largest where there is less."""
    seen, reached = 0.0, 0.0
    for error, weight in sorted(weighed):
        seen, reached = seen + weight, error
        if seen >= wanted - 1e-9:
            break
    return reached


def spread(
    solver: str, quantity: str, facts: RunFacts, *, known_source: bool = True, assumed: Collection[str] = ()
) -> Spread | None:
    """Return how far predictions of runs like one were off; None where a solver's predictions were never measured.

    All intervals come from here, whether a result, a table, the suite or a plan asks. What one rests on is the first of these
    that there is:

    1. Power rests on the accelerator's meters; energy on power and time, whose errors are independent.
    2. A stack of the user's own rests on the runs that it was calibrated to, each predicted without itself.
    3. Where fits were given runs of all that the run is of (``unfitted`` names nothing), it rests on validation runs: of the
       narrowest of ``SCOPES`` that has ``ENOUGH``. Where that is of several stacks, or of all kinds of models, those of its own
       stack, or kind, count one each, and the scope makes up the rest.
    4. Else, for each thing that no fit was given runs of, it rests on things of the same kind that were left out of fits: the
       thing's own validation runs count one each, and those that were left out make up the rest. Of several things, widths add
       as independent errors do. It is never narrower than (3), and where fewer than ``THINGS`` were left out with this solver,
       those of others add to that.

    Each is as much wider as the facts that a row leaves out cost elsewhere, unless what was left out of fits was further off.

    Args:
        solver: name of the solver whose prediction it is.
        quantity: ``evidence.WHOLE``, ``evidence.FIRST_TOKEN``, ``evidence.POWER`` or ``evidence.ENERGY``.
        facts: what the run is of.
        known_source: whether it is a run of a publication that fits were given runs of.
        assumed: columns that its row leaves out, and that defaults stand for.

    Example:
        >>> facts = RunFacts("Llama-3 70B", "dense", "H100 SXM5 80GB", "no such stack", 64)
        >>> known, new = spread("DistributedModel", "whole", facts._replace(stack="megatron-core-2024")), spread(
        ...     "DistributedModel", "whole", facts)
        >>> known.log_width < new.log_width, new.scope.startswith("no fit to this engine or stack")
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
    missing = unfitted(solver, quantity, facts, known_source=known_source)
    return _resting_on(solver, quantity, facts._replace(accelerators=1.0), missing, tuple(assumed))


@functools.lru_cache(maxsize=4096)
def _resting_on(
    solver: str, quantity: str, facts: RunFacts, missing: tuple[str, ...], assumed: tuple[str, ...]
) -> Spread | None:
    return resting_on(measured_pool(solver, quantity), _studies(), missing, facts, assumed)


def resting_on(
    pool: Pool, studies: Studies, missing: Sequence[str], facts: RunFacts, assumed: Collection[str] = ()
) -> Spread | None:
    """Return the last two rungs of ``spread``, by some runs and by what was left out of fits."""
    known = pool.closest(facts, assumed)
    if known is None or not missing:
        return known
    costs = [studies.cost(study, *pool.kind) for study in missing]
    studied: list[float] = []
    borrowed: list[float] = []
    for study, cost in zip(missing, costs, strict=True):
        own = [error for error, _ in pool.sharing(FACTS_OF[study], facts)] if FACTS_OF[study] else []
        (studied if cost.of_solver else borrowed).append(cost.made_up(own) if own else cost.width)
    # Things that were left out of fits leave facts out too: what a row leaves out widens it where it costs more than being new.
    width, widest = math.hypot(max(known.log_width, math.hypot(*studied)), *borrowed), max(costs, key=lambda cost: cost.width)
    if tuple(missing) == ("pair",) and width == known.log_width:
        return known
    named = " and to ".join(f"this {NAMED[study]}" for study in missing)
    scope = f"no fit to {named}: interval from those left out"
    return widest.spread(width, scope)


def made_up(own: Sequence[float], groups: Sequence[Sequence[float]]) -> float:
    """Return the quantile of a thing's own errors, one each, with others that make up for those that lack of ``ENOUGH``.

    Each group of others weighs as ``GROUP_ROWS`` at most; ``ENOUGH`` own ones stand alone. The correction for few is that of
    the own ones: as many as lack are as sure as the many that they stand for.

    Example:
        >>> made_up([], [[0.1] * 90 + [0.5] * 10]), made_up([0.3] * 3, [[0.1] * 90 + [0.5] * 10])
        (0.1, 0.3)
    """
    if len(own) >= ENOUGH:
        return conformal_quantile(own)
    weighed = _weighed(groups)
    share = (ENOUGH - len(own)) / sum(weight for _, weight in weighed)
    pairs = [(error, 1.0) for error in own] + [(error, weight * share) for error, weight in weighed]
    return _quantile(pairs, LEVEL * (ENOUGH + len(own) / ENOUGH))


def _scaled(run: MeasuredRun) -> float:
    return abs(run.error) / scale_of(run.solver, run.quantity, run.assumed)


def _of_own(solver: str, quantity: str, facts: RunFacts, assumed: Collection[str]) -> Spread | None:
    """The spread of a user's own stack, by its runs; on an accelerator that it was not calibrated on it is wider."""
    own = own_stack(facts.stack)
    errors = own.errors.get(quantity) if solver == own.solver else None
    if errors is None:
        return spread(solver, quantity, facts._replace(stack=own.like), assumed=assumed)
    wider = scale_of(solver, quantity, tuple(assumed))
    measured = Spread(wider * errors.log_width, f"the runs of {own.file}", errors.runs, errors.median, errors.p90)
    if facts.accelerator in own.accelerators:
        return measured
    left = _studies().cost("device", solver, quantity)
    scope = f"no fit to this accelerator by {own.file}: interval from those left out"
    return left.spread(wider * math.hypot(left.width, errors.log_width), scope)


class Pool:
    """Figures of one solver and one quantity, by what their runs have in common."""

    def __init__(self, solver: str, quantity: str, runs: Iterable[MeasuredRun]) -> None:
        """Keep the figures, to be sorted into the scopes that are asked for."""
        self._runs = [(run.facts, abs(run.error), _scaled(run)) for run in runs]
        self._errors: dict[tuple[str, ...], dict[tuple[str, ...], list[tuple[float, float]]]] = {}
        self._spreads: dict[tuple[tuple[str, ...], tuple[str, ...]], Spread] = {}
        self.kind = solver, quantity

    def closest(self, facts: RunFacts, assumed: Collection[str] = ()) -> Spread | None:
        """Return the spread of the narrowest scope of a run that has ``ENOUGH`` figures; None of an empty pool.

        Of a stack with fewer figures of its own, or with fewer of its kind of model where the scope is all of the stack's, each
        of these counts one, and the scope makes up the rest.
        """
        for names in SCOPES:
            errors = self.sharing(names, facts)
            if errors and (len(errors) >= ENOUGH or not names):
                nearer = ("stack", "kind") if names == ("stack",) else ("stack",) if "stack" not in names else names
                key = names, facts.named((*names, *nearer))
                if key not in self._spreads:
                    own = self.sharing(nearer, facts) if nearer != names else ()
                    self._spreads[key] = _spread_of(errors, ", ".join(facts.named(names)) or self.kind[0], own)
                known = self._spreads[key]
                return replace(known, log_width=known.log_width * scale_of(*self.kind, tuple(assumed))) if assumed else known
        return None

    def sharing(self, names: tuple[str, ...], facts: RunFacts) -> Sequence[tuple[float, float]]:
        """Return errors, and errors over the scale of what their rows leave out, of runs that share some facts with one."""
        if names not in self._errors:
            sorted_by = self._errors[names] = {}
            for of, error, scaled in self._runs:
                sorted_by.setdefault(of.named(names), []).append((error, scaled))
        return self._errors[names].get(facts.named(names), [])


@functools.cache
def measured_pool(solver: str, quantity: str) -> Pool:
    """All validation runs of a solver and a quantity."""
    return Pool(solver, quantity, (run for run in measured_runs() if (run.solver, run.quantity) == (solver, quantity)))


def _spread_of(errors: Sequence[tuple[float, float]], scope: str, own: Sequence[tuple[float, float]]) -> Spread:
    shares = sorted(math.expm1(error) for error, _ in errors)
    scaled = [error for _, error in errors]
    width = made_up([error for _, error in own], [scaled]) if own else conformal_quantile(scaled)
    return Spread(width, scope, len(errors), shares[len(shares) // 2], conformal_quantile(shares))


def spread_of(runs: Sequence[MeasuredRun]) -> Spread:
    """Return how far predictions of these runs were off."""
    return _spread_of([(abs(run.error), _scaled(run)) for run in runs], "", ())


@dataclass(frozen=True)
class Cost:
    """How far off predictions without a thing of a kind were.

    Attributes:
        groups: |ln(predicted / measured)| of each thing.
        of_solver: whether they are predictions of the solver itself.
    """

    groups: tuple[tuple[float, ...], ...]
    of_solver: bool

    @functools.cached_property
    def width(self) -> float:
        """What ``LEVEL`` of them are within."""
        return grouped_quantile(self.groups)

    @functools.cached_property
    def _made_up(self) -> dict[tuple[float, ...], float]:
        return {}

    def made_up(self, own: Sequence[float]) -> float:
        """What ``made_up`` gives of a thing's own errors and these; kept, for every run of the thing asks the same."""
        known, key = self._made_up, tuple(own)
        if key not in known:
            known[key] = made_up(own, self.groups)
        return known[key]

    def spread(self, width: float, scope: str) -> Spread:
        """The spread of a width and a scope that rests on them."""
        return Spread(width, scope, sum(map(len, self.groups)), *self._shares)

    @functools.cached_property
    def _shares(self) -> tuple[float, float]:
        return math.expm1(grouped_quantile(self.groups, 0.5)), math.expm1(self.width)


class Studies:
    """What was left out of fits, and what being without things of a kind cost."""

    def __init__(self, every: Iterable[LeftOut]) -> None:
        """Keep the studies."""
        self._every = tuple(every)
        self._costs: dict[tuple[str, str, str], Cost] = {}

    def cost(self, study: str, solver: str, quantity: str) -> Cost:
        """Return the errors of a solver where ``THINGS`` were studied, else of the one that shares its kernels, else of all.

        Args:
            study: one of ``STUDIES``, or "pair", which costs what a device does: each engine finds out other shares of it.
            solver: name of the solver.
            quantity: what is predicted.
        """
        key = "device" if study == "pair" else study, solver, quantity
        if key not in self._costs:
            cost = self._cost(*key)
            if study == "source":
                # A stack that is not known stands for its source, too: who leaves a source out costs at most that.
                cost = min(cost, self._cost("stack", solver, quantity), key=lambda one: one.width)
            self._costs[key] = cost
        return self._costs[key]

    def _cost(self, study: str, solver: str, quantity: str) -> Cost:
        asked = [one for one in self._every if (one.study, one.quantity) == (study, quantity)]
        for name in (solver, _STUDIED_WITH.get(solver, solver)):
            groups = [one.errors for one in asked if one.solver == name]
            if len(groups) >= THINGS:
                break
        else:
            name, groups = "", [one.errors for one in asked]
        return Cost(tuple(groups), name == solver)


@functools.cache
def _studies() -> Studies:
    return Studies(left_out())
