"""Checks that the search finds the layouts measured best, and chooses as those who ran: ``anchors/layouts.toml``.

A sweep compares the order of its measured layouts with the predicted one. A published choice is compared with the best plan
that ``ParallelismOptimizer`` finds under the same constraints: fleet, batch, precision, stack, and all that its authors did not
vary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from mlsysim.core.errors import MissingEntryError, UnknownNameError
from mlsysim.core.spec import Spec, spec_of
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import DIMENSIONS, ParallelismOptimizer, ParallelismResult
from mlsysim.validation.anchors.anchor import Anchor, Gap
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.anchors.inputs import build, call_of
from mlsysim.validation.anchors.loading import anchor_files, load_sound, written
from mlsysim.validation.anchors.schema import Key, Text

FILE = "layouts.toml"


class Sweep(Spec):
    """A source that measured many layouts of a model: one ranking for each value of the columns ``by``.

    Attributes:
        least: layouts that a ranking has at least.
        spearman: least rank correlation of predicted with measured step times.
        top: the layout that was measured best is among so many that are predicted best.
        within: the layout that is predicted best was measured at most so much slower than the best.
        known_gaps: why a ranking misses, by its name.
    """

    source: Key
    by: tuple[Text, ...]
    least: int = Field(ge=3)
    spearman: float = Field(gt=0, lt=1)
    top: int = Field(ge=1)
    within: float = Field(gt=0, lt=1)
    known_gaps: dict[str, Text] = Field(default_factory=dict)


class Published(Spec):
    """Plans that were published as good ones.

    Attributes:
        cases: patterns of source/case.
        within: the plan is predicted at most so much slower than the best that the search finds.
        free: dimensions that the search may change.
        unstated: those that the source does not print: the published plan has the best values of them.
        known_gaps: why a case misses, by its name.
    """

    cases: tuple[Text, ...]
    within: float = Field(gt=0, lt=1)
    free: tuple[Text, ...] = ("tp", "pp", "dp")
    unstated: tuple[Text, ...] = ()
    known_gaps: dict[str, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.free, *self.unstated):
            if name not in DIMENSIONS:
                raise UnknownNameError.among("free", name, DIMENSIONS)
        return self


class TimedSearch(Spec):
    """A search of the whole space, to time.

    Attributes:
        workload, fleet: as a case names them.
        solve: arguments of ``ParallelismOptimizer.solve``.
        least_plans: plans that it evaluates at least: fewer, and it would not be that search.
        rate: plans a second, of one core, on top of the time that any search takes.
        seconds: longest time of the whole search.
    """

    id: Key
    workload: Text
    fleet: dict[str, Any]
    solve: dict[str, Any]
    least_plans: int = Field(ge=1)
    rate: float = Field(gt=0)
    seconds: float = Field(gt=0)

    def call(self) -> Any:
        """The search."""
        workload, fleet = build("workload", self.workload, self.id), build("fleet", self.fleet, self.id)
        return ParallelismOptimizer().solve(workload, fleet, **{"space": "full", "progress": False, **self.solve})


class Layouts(Spec):
    """The file."""

    sweep: tuple[Sweep, ...] = ()
    published: tuple[Published, ...] = ()
    search: tuple[TimedSearch, ...] = ()


@dataclass(frozen=True, eq=False)
class Ranking:
    """The measured layouts of one sweep."""

    name: str
    sweep: Sweep
    anchors: tuple[Anchor, ...]

    @property
    def id(self) -> str:
        """The check's name, such as ``hagemann2023-llama-65b-128-2048``."""
        return f"{self.sweep.source}-{self.name}"

    @property
    def gap(self) -> Gap:
        """Why it misses."""
        place = f"known_gaps.{self.name!r} of the sweep of {self.sweep.source} in {FILE}"
        return Gap(self.sweep.known_gaps.get(self.name, ""), place)

    def missed(self) -> str:
        """The claim that does not hold; "" if all do."""
        rows = [compare(anchor).as_row() for anchor in self.anchors]
        measured, predicted = (np.array([float(row[column]) for row in rows]) for column in ("measured", "predicted"))
        order = np.argsort(predicted, kind="stable")
        correlation = float(np.corrcoef(ranks(measured), ranks(predicted))[0, 1])
        place = int(np.flatnonzero(order == np.argmin(measured))[0]) + 1
        slower = float(measured[order[0]] / measured.min() - 1)
        misses = []
        if correlation < self.sweep.spearman:
            misses.append(f"rank correlation is {correlation:.3f}, not {self.sweep.spearman}")
        if place > self.sweep.top:
            misses.append(f"the best measured layout comes {place}., not among {self.sweep.top}")
        if slower > self.sweep.within:
            misses.append(f"the layout predicted best was measured {100 * slower:.1f} % slower than the best")
        return "; ".join(misses)


@dataclass(frozen=True, eq=False)
class Choice:
    """One published plan."""

    published: Published
    anchor: Anchor

    @property
    def id(self) -> str:
        """The check's name: that of its case."""
        return self.anchor.id

    @property
    def gap(self) -> Gap:
        """Why it misses."""
        return Gap(self.published.known_gaps.get(self.anchor.id, ""), f"known_gaps.{self.anchor.id!r} in {FILE}")

    def missed(self) -> str:
        """Say how much slower the plan is than the best one, where that is too much."""
        slower, best = slower_than_best(self.anchor, self.published)
        if slower <= self.published.within:
            return ""
        shown = ", ".join(f"{name} {best[name]}" for name in ("tp", "pp", "dp", "virtual_stages"))
        return f"it is predicted {100 * slower:.1f} % slower than {shown}"


def ranks(values: Any) -> Any:
    """Ranks from 1; equal values share their mean rank.

    Example:
        >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def slower_than_best(anchor: Anchor, published: Published) -> tuple[float, Mapping[str, Any]]:
    """Predicted step of the case's plan over that of the best plan that the search finds, less one; and that plan."""
    call = call_of(anchor)
    inputs: Any = call.inputs
    workload, fleet = inputs
    published_step = DistributedModel().solve(workload, fleet, **call.keywords)
    plan, of_plan = published_step.plan, set(_OF_THE_PLAN)
    beside_plan = {name: value for name, value in call.keywords.items() if name not in of_plan}
    micro_batch = max(1, plan["micro_batch_tokens"] * plan["cp"] // beside_plan["seq_len"])
    stated = {**{name: plan[name] for name in DIMENSIONS if name in plan}, "micro_batch": micro_batch}
    if plan["tp"] == 1:  # whether it would split norms is not said
        del stated["sequence_parallel"]

    def searched(free: Collection[str]) -> ParallelismResult:
        fixed = {name: value for name, value in stated.items() if name not in free}
        if "virtual_stages" in free:
            del fixed["schedule"]
            # Whoever published a plan without interleaving may not have had it.
            most = None if "virtual_stages" in published.unstated else plan["virtual_stages"]
            fixed |= {} if most is None else {"virtual_stages": tuple(range(1, most + 1))}
        widest = max(fleet.node.accelerators_per_node, plan["tp"])
        # Who ran the plan knew that it fits: none is left out for being near the limit.
        asked = {**beside_plan, "space": "full", "max_tp_size": widest, "fixed": fixed, "top_k": 1, "margin": 0.0}
        return ParallelismOptimizer().solve(workload, fleet, **asked)

    best = searched({*published.free, *published.unstated}).best
    chosen = searched(published.unstated).best if published.unstated else published_step
    if best is None or chosen is None:
        return 0.0, plan
    return float(chosen.step_latency_total / best.step_latency_total) - 1, best.plan


# Arguments of ``DistributedModel.solve`` that are dimensions of the search.
_OF_THE_PLAN = (
    *("tp_size", "pp_size", "dp_size", "cp_size", "ep_size", "virtual_stages", "microbatch_count"),
    *("schedule", "sequence_parallel", "recompute", "zero_stage"),
)


def checks(root: Path) -> list[Ranking | Choice]:
    """The checks that ``layouts.toml`` under ``root`` asks for; none without the file."""
    layouts = _read(root)
    runs = [anchor for anchor in load_sound(anchor_files(root)).anchors if anchor.path.parent.name == "training"]
    return [*_rankings(layouts, runs), *_choices(layouts, runs)]


def timed_searches(root: Path) -> tuple[TimedSearch, ...]:
    """The searches to time."""
    return _read(root).search


def _read(root: Path) -> Layouts:
    return spec_of(Layouts, written(root / FILE), str(root / FILE))


def _rankings(layouts: Layouts, runs: Sequence[Anchor]) -> Iterator[Ranking]:
    for sweep in layouts.sweep:
        groups: dict[str, list[Anchor]] = {}
        for anchor in runs:
            if anchor.source.key == sweep.source:
                name = "-".join(str(anchor.case.run[column]) for column in sweep.by).lower().replace(" ", "-")
                groups.setdefault(name, []).append(anchor)
        measured = {name: tuple(anchors) for name, anchors in groups.items() if len(anchors) >= sweep.least}
        _all_named(sweep.known_gaps, measured)
        yield from (Ranking(name, sweep, anchors) for name, anchors in measured.items())


def _choices(layouts: Layouts, runs: Sequence[Anchor]) -> Iterator[Choice]:
    for published in layouts.published:
        by_id = {
            anchor.id: anchor
            for anchor in runs
            if any(fnmatchcase(f"{anchor.source.key}/{anchor.case.id}", pattern) for pattern in published.cases)
        }
        if not by_id:
            raise MissingEntryError(f"{FILE}: no training case is called {', '.join(published.cases)}")
        # Releases of a recipe that ask the same are one choice: that of the first.
        plans = {_plan_of(anchor): anchor for anchor in reversed(by_id.values())}
        choices = {anchor.id: Choice(published, anchor) for anchor in reversed(plans.values())}
        _all_named(published.known_gaps, choices)
        yield from choices.values()


def _plan_of(anchor: Anchor) -> str:
    """The plan that the case asks for, as text."""
    call = call_of(anchor)
    return f"{call.inputs!r} {sorted(call.keywords.items())}"


def _all_named(known_gaps: Mapping[str, str], checked: Mapping[str, Any]) -> None:
    for name in known_gaps:
        if name not in checked:
            raise MissingEntryError(f"{FILE}: {UnknownNameError.among('known_gaps', name, checked)}")
