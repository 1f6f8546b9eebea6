"""Limits on the time of a solve: ``anchors/times.toml`` names each solver's slowest case and its limit.

Limits are in milliseconds of processor time on the machine that they were measured on. A slower machine gets as much more as it
takes longer to a yardstick: the mix of Python's arithmetic and small arrays that solves consist of. So a limit is near what is
measured, and fails for the solver's sake only. ``python -m mlsysim.validation.anchors.times anchors`` prints which cases are
the slowest now.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mlsysim.core.errors import MissingEntryError, UnknownNameError
from mlsysim.core.spec import Spec, spec_in
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.batches import engine_batches
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.token_load import replica_paces
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import Call, build, call_of
from mlsysim.validation.anchors.loading import anchor_files, load_all, not_installed
from mlsysim.validation.anchors.schema import Text

FILE = "times.toml"
_PRINTED = 3  # slowest cases of a solver
_TRIES = 6  # of work that misses its limit


class Limit(Spec):
    """The slowest case of a solver, and how long it may take.

    Attributes:
        case: id of the case.
        limit_ms: longest time of its quickest round.
        reason: what the time goes into.
    """

    case: Text
    limit_ms: float = Field(gt=0)
    reason: Text


class Capacity(Spec):
    """Plans to serve a model, to time what ``CapacityPlanner`` asks of each: its speed with every number of requests in flight.

    Attributes:
        workload, nodes: as a case names them.
        plans: TP and PP of each.
        solve: arguments of a deployment.
        most: requests in flight at most.
        rate: numbers of requests of a plan that are answered a second, at least.
    """

    workload: Text
    nodes: tuple[Text, ...]
    plans: tuple[tuple[int, int], ...]
    solve: dict[str, Any]
    most: int = Field(ge=1)
    rate: float = Field(gt=0)

    def answered(self) -> int:
        """Lays out every plan on every node, and counts the numbers of requests whose speed it has then."""
        count, workload = 0, build("workload", self.workload, FILE)
        for node in (build("node", name, FILE) for name in self.nodes):
            for tp, pp in self.plans:
                pace = paces(Deployment.of(workload, node, **self.solve, tp_size=tp, pp_size=pp), None)
                pace = replace(pace, places=min(pace.places, self.most))
                count += min(pace.token_s.size, pace.completions_per_s.size)
        return count


class Times(Spec):
    """The file: ``yardstick_ms`` is what the yardstick took where the limits were measured; ``solver`` has limits by solver."""

    yardstick_ms: float = Field(gt=0)
    solver: dict[str, Limit]
    capacity: Capacity | None = None


_NO_LIMITS = Times(yardstick_ms=math.inf, solver={})


def times(root: Path) -> Times:
    """The limits of a tree of anchors, which may state none.

    Raises:
        DataError: the file is malformed.
    """
    return spec_in(root / FILE, Times) or _NO_LIMITS


def timed_cases(root: Path, anchors: Iterable[Anchor]) -> dict[str, Anchor]:
    """The case that each solver is timed on: its slowest if the tree names it, else its first.

    A solver whose library is not installed has none.

    Raises:
        MissingEntryError: a case that the tree names does not exist.
    """
    chosen: dict[str, Anchor] = {}
    by_id = {}
    for anchor in anchors:
        chosen.setdefault(anchor.source.solver, anchor)
        by_id[anchor.id] = anchor
    lacking = not_installed(root)
    for solver, limit in times(root).solver.items():
        if solver in lacking:
            continue
        if limit.case not in by_id or by_id[limit.case].source.solver != solver:
            near = [name for name, anchor in by_id.items() if anchor.source.solver == solver]
            raise MissingEntryError(f"{root / FILE}: {UnknownNameError.among(f'case of {solver}', limit.case, near, shown=3)}")
        chosen[solver] = by_id[limit.case]
    return chosen


def against_limit(
    work: Callable[[], object], rounds: int, limit_s: float, yardstick_ms: float = math.inf
) -> tuple[float, float]:
    """Seconds that ``work`` takes in its quickest round, and the limit on a machine that is as slow as this one was just then.

    A machine whose cores others share is slower for a moment or a second, by as much as two: so the yardstick is laid on before
    and after, the quicker of the two counts, and work that misses its limit is tried again.
    The limit is that of a machine whose yardstick takes ``yardstick_ms``, by default of any.
    """
    tries: list[tuple[float, float]] = []
    while len(tries) < _TRIES and (not tries or tries[-1][0] > tries[-1][1]):
        before_s, taken_s = yardstick_s(), best_s(work, rounds)
        slower = max(1.0, 1e3 * min(before_s, yardstick_s()) / yardstick_ms)
        tries.append((taken_s, slower * limit_s))
    return min(tries, key=lambda one: one[0] / one[1])


def solve_anew(call: Call) -> Callable[[], object]:
    """What is timed of a solver: the call without the batches, replicas and loads of servers that earlier calls have left."""

    def solve() -> object:
        engine_batches.answers.clear()
        replica_paces.answers.clear()
        return call.result()

    return solve


def yardstick_s() -> float:
    """Seconds of a fixed piece of work, the quickest of several rounds."""
    return best_s(_work, rounds=15)


def best_s(work: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time of the quickest round: whatever else runs on the machine, threads that spin included."""
    quickest = math.inf
    for _ in range(rounds):
        start = time.process_time()
        work()
        quickest = min(quickest, time.process_time() - start)
    return quickest


def _work() -> float:
    total, small = 0.0, np.linspace(1.0, 2.0, 64)
    for number in range(1, 400):
        total += math.log(number) * max(1.0, number / 7) ** 0.5
        total += float((small * number).sum()) if number % 4 == 0 else 0.0
    return total


def _slowest(anchors: Iterable[Anchor]) -> dict[str, list[tuple[float, str]]]:
    """Seconds and ids of the cases of each solver, the slowest first."""
    slow: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for anchor in anchors:
        slow[anchor.source.solver].append((best_s(solve_anew(call_of(anchor)), rounds=5), anchor.id))
    return {solver: sorted(cases, reverse=True) for solver, cases in slow.items()}


if __name__ == "__main__":
    print(f"yardstick {1e3 * yardstick_s():.3f} ms")
    for solver, cases in _slowest(load_all(anchor_files(Path(sys.argv[1])))).items():
        told = ", ".join(f"{1e3 * seconds:.3g} ms {case}" for seconds, case in cases[:_PRINTED])
        print(f"{solver}: {told}; median {1e3 * cases[len(cases) // 2][0]:.3g} ms")
