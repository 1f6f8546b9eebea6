"""How often measurements lie in the intervals of predictions that they took no part in."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from mlsysim.calibration.evidence import (
    FIRST_TOKEN,
    WHOLE,
    MeasuredRun,
    RunFacts,
    is_known_key,
    left_out,
    measured_runs,
    unfitted,
)
from mlsysim.calibration.intervals import LEVEL, NAMED, Pool, Studies, measured_pool, resting_on

FOLDS = 10
# The name of all runs together.
ALL = "all"
# A run that shares nothing with any other.
_NOTHING = RunFacts("-", "-", "-", "-", 1.0)
# Two-sided 99 % of a normal distribution.
_Z = 2.576


@dataclass(frozen=True)
class Coverage:
    """Measurements of a family, or of a way of being new, against their intervals.

    Attributes:
        name: the family, or what was left out.
        figures: how many there are.
        covered: the share of them that lies in its interval.
        width: the median of the intervals' high / low.
    """

    name: str
    figures: int
    covered: float
    width: float

    @property
    def holds(self) -> bool:
        """Whether the share is what chance makes of the stated level, 99 times in 100, for so many figures."""
        return abs(self.covered - LEVEL) <= _Z * math.sqrt(LEVEL * (1 - LEVEL) / max(self.figures, 1))


def of_known(family_of: Mapping[str, str]) -> list[Coverage]:
    """Judge runs of what fits were given runs of: all together, then those of each family of the sources in ``family_of``."""
    known = [one for one in _every(family_of) if not one.missing]
    return _by([(ALL, one) for one in known] + [(family_of[one.run.source], one) for one in known])


def of_unfitted(family_of: Mapping[str, str]) -> list[Coverage]:
    """Judge runs of what no fit was given runs of: all together, then by what that is, where a run may be of several."""
    new = [one for one in _every(family_of) if one.missing]
    return _by([(ALL, one) for one in new] + [(f"this {NAMED[study]}", one) for one in new for study in one.missing])


def of_kinds(family_of: Mapping[str, str]) -> list[Coverage]:
    """Judge the runs of each solver by what they differ most in: dense models or experts, first tokens or what follows them."""
    return _by([(f"{one.run.solver}, {one.run.facts.kind}, {one.run.quantity}", one) for one in _every(family_of)])


def _every(family_of: Mapping[str, str]) -> list[Judged]:
    """All judged runs of some sources; none where all are a user's own."""
    if family_of.keys().isdisjoint(run.source for run in measured_runs()):
        return []
    kinds = sorted({(run.solver, run.quantity) for run in measured_runs()})
    return [one for kind in kinds for one in judged_runs(*kind) if one.run.source in family_of]


def _by(named: Iterable[tuple[str, Judged]]) -> list[Coverage]:
    groups: dict[str, list[Judged]] = {}
    for name, one in named:
        groups.setdefault(name, []).append(one)
    return [_coverage(name, groups[name]) for name in sorted(groups, key=lambda name: (name != ALL, name))]


class Judged(NamedTuple):
    """A measured run against the interval that the other folds give it.

    Attributes:
        run: the run.
        missing: what of it no fit was given runs of.
        held: whether its measurement lies in that interval.
        width: half of its width, as a natural logarithm.
    """

    run: MeasuredRun
    missing: tuple[str, ...]
    held: bool
    width: float


@functools.cache
def judged_runs(solver: str, quantity: str) -> tuple[Judged, ...]:
    """Judge the measured runs of a solver, each by the nine tenths of the runs that it is not among.

    Of what was left out of fits, a run of a source that no fit was given takes all but that source.
    """
    runs = [run for run in measured_runs() if (run.solver, run.quantity) == (solver, quantity)]
    studies = {source: Studies(one for one in left_out() if one.name != source) for source in {run.source for run in runs}}
    judged = []
    for fold in range(FOLDS):
        pool = Pool(solver, quantity, (run for run in runs if _fold(run) != fold))
        for run in runs:
            if _fold(run) != fold:
                continue
            missing = unfitted(solver, quantity, run.facts, known_source=is_known_key(run.source))
            interval = resting_on(pool, studies[run.source], missing, run.facts, run.assumed)
            if interval is not None:
                judged.append(Judged(run, missing, abs(run.error) <= interval.log_width, interval.log_width))
    return tuple(judged)


def of_unknown() -> list[Coverage]:
    """Each source, stack, device and model that a fit was not given, against intervals from the others that were left out.

    The share is the mean of theirs: one sweep of a thousand runs is one source.
    """
    rows = []
    for study in dict.fromkeys(one.study for one in left_out()):
        for quantity in (WHOLE, FIRST_TOKEN):
            shares, widths = [], []
            for one in left_out():
                if (one.study, one.quantity) == (study, quantity):
                    others = Studies(other for other in left_out() if other.name != one.name)
                    interval = resting_on(measured_pool(one.solver, quantity), others, (study,), _NOTHING)
                    if interval is not None:
                        shares.append(sum(error <= interval.log_width for error in one.errors) / len(one.errors))
                        widths.append(math.exp(2 * interval.log_width))
            if shares:
                covered = sum(shares) / len(shares)
                rows.append(Coverage(f"each {study} left out, {quantity}", len(shares), covered, median(widths)))
    return rows


def _fold(run: MeasuredRun) -> int:
    return int(run.run, 16) % FOLDS


def _coverage(name: str, judged: Sequence[Judged]) -> Coverage:
    covered = sum(one.held for one in judged) / len(judged)
    return Coverage(name, len(judged), covered, median(math.exp(2 * one.width) for one in judged))
