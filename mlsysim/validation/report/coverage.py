"""How often measurements lie in the intervals of predictions that they took no part in."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from mlsysim.calibration.evidence import FIRST_TOKEN, WHOLE, MeasuredRun, left_out, measured_runs
from mlsysim.calibration.intervals import LEVEL, Pool, grouped_quantile

FOLDS = 10
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
    """Cross-conformal by run: each tenth of the runs against intervals from the other nine; all together, then each family."""
    if family_of.keys().isdisjoint(run.source for run in measured_runs()):
        return []  # a user's own sources
    kinds = sorted({(run.solver, run.quantity) for run in measured_runs()})
    every = (one for kind in kinds for one in judged_runs(*kind))
    judged = [(family_of[one.run.source], one.held, one.width) for one in every if one.run.source in family_of]
    if not judged:
        return []
    families = sorted({family for family, _, _ in judged})
    return [_coverage("all", judged), *(_coverage(name, [one for one in judged if one[0] == name]) for name in families)]


class Judged(NamedTuple):
    """A measured run against the interval that the other folds give it.

    Attributes:
        run: the run.
        held: whether its measurement lies in that interval.
        width: half of its width, as a natural logarithm.
    """

    run: MeasuredRun
    held: bool
    width: float


@functools.cache
def judged_runs(solver: str, quantity: str) -> tuple[Judged, ...]:
    """Judge the measured runs of a solver, each by the nine tenths of the runs that it is not among."""
    runs = [run for run in measured_runs() if (run.solver, run.quantity) == (solver, quantity)]
    judged = []
    for fold in range(FOLDS):
        pool = Pool(run for run in runs if _fold(run) != fold)
        for run in runs:
            if _fold(run) == fold and (interval := pool.closest(run.facts, assumed=run.assumed)) is not None:
                judged.append(Judged(run, abs(run.error) <= interval.log_width, interval.log_width))
    return tuple(judged)


def of_unknown() -> list[Coverage]:
    """Each source, stack, device and model that a fit was not given, against intervals from the others that were left out.

    The share is the mean of theirs: one sweep of a thousand runs is one source.
    """
    rows = []
    for study in dict.fromkeys(one.study for one in left_out()):
        for quantity in (WHOLE, FIRST_TOKEN):
            every = [one for one in left_out() if (one.study, one.quantity) == (study, quantity)]
            shares, widths = [], []
            for one in every:
                others = [other.errors for other in every if other is not one and other.solver == one.solver]
                if not others:
                    continue
                width = grouped_quantile(others)
                shares.append(sum(error <= width for error in one.errors) / len(one.errors))
                widths.append(math.exp(2 * width))
            if shares:
                covered = sum(shares) / len(shares)
                rows.append(Coverage(f"each {study} left out, {quantity}", len(shares), covered, median(widths)))
    return rows


def _fold(run: MeasuredRun) -> int:
    return int(run.run, 16) % FOLDS


def _coverage(name: str, judged: Sequence[tuple[str, bool, float]]) -> Coverage:
    widths: Iterable[float] = (math.exp(2 * width) for _, _, width in judged)
    return Coverage(name, len(judged), sum(held for _, held, _ in judged) / len(judged), median(widths))
