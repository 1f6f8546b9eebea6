"""What would help: changes of a scenario, each asked of the solver, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlsysim.core.errors import MLSysError
from mlsysim.core.precision import BYTES_PER_ELEMENT
from mlsysim.hardware.types import HardwareNode
from mlsysim.scenarios.figures import Figure, plain
from mlsysim.scenarios.limits import Limit
from mlsysim.solvers.analysis.levers import MEMORY, RATES, varied
from mlsysim.solvers.card import counted_by
from mlsysim.solvers.result import Result
from mlsysim.solvers.shown import shown
from mlsysim.systems.types import Fleet, Node, accelerator_of

# Arguments that make a plan: without any of them the search chooses it.
_SIZES = ("tp_size", "pp_size", "dp_size", "cp_size", "ep_size", "virtual_stages", "microbatch_count", "micro_batch")
OF_A_PLAN = (*_SIZES, "schedule")
# How much more of a rate is tried: it tells which one to buy. A gain below the second is not worth a line.
_FASTER, _LEAST = 1.25, 0.01
_MOST = 3  # changes that are told
_SPEED, _OF_A_QUEUE = "tokens_per_second", "ttft_p99"


class Asked(Protocol):
    """A scenario, as what judges it sees it."""

    name: str
    kind: str
    system: HardwareNode | Node | Fleet
    arguments: Mapping[str, Any]
    limits: tuple[Limit, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen because nobody stated it."""

    @property
    def answer(self) -> Result:
        """The solver's result."""

    @property
    def figures(self) -> dict[str, Figure]:
        """Every figure by its name."""

    def with_changes(self, system: Any = None, **arguments: Any) -> Asked:
        """Return the scenario on another system, or with other arguments."""


@dataclass(frozen=True)
class Change:
    """A change, and what it does.

    Attributes:
        text: the change in words.
        figure: the figure that it is judged by.
        before: that figure now; None where the scenario cannot run.
        after: that figure with the change.
        gain: by what share the figure gets better; infinite where the scenario could not run before.
    """

    text: str
    figure: str
    before: Any
    after: Any
    gain: float

    def __str__(self) -> str:
        what = counted_by(self.figure)
        was = "did not fit" if self.before is None else shown(self.before, what)
        return f"{self.text}: {self.figure.replace('_', ' ')} {shown(self.after, what)} ({was})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a change from what could not run has no gain."""
        told = {"text": self.text, "figure": self.figure, "before": None, "after": plain(self.after), "gain": None}
        return told if self.before is None else told | {"before": plain(self.before), "gain": self.gain}


def best_changes(scenario: Asked, missed: tuple[Limit, ...]) -> tuple[Change, ...]:
    """Return the changes that help most, the best first: of the first limit that is missed, else of the speed."""
    figure, upper = _judged_by(scenario, missed)
    now = scenario.figures.get(figure) if scenario.answer.feasible else None
    changes = []
    for text, other in _candidates(scenario):
        try:
            then = other.figures.get(figure) if other.answer.feasible else None
        except MLSysError:  # no such plan, or no kernel of this format
            continue
        if then is None:
            continue
        gain = float("inf") if now is None else _gain(now.value, then.value, upper)
        if gain > _LEAST:
            changes.append(Change(text, figure, None if now is None else now.value, then.value, gain))
    if now is None:  # what fits is judged by how good it is then
        return tuple(sorted(changes, key=lambda change: plain(change.after) * (1 if upper else -1))[:_MOST])
    return tuple(sorted(changes, key=lambda change: -change.gain)[:_MOST])


def _judged_by(scenario: Asked, missed: tuple[Limit, ...]) -> tuple[str, bool]:
    for limit in missed:
        if limit.name in scenario.figures:
            return limit.name, limit.upper
    if scenario.kind == "serve" and hasattr(scenario.answer, _OF_A_QUEUE):
        return _OF_A_QUEUE, True
    return _SPEED, False


def _gain(now: Any, then: Any, upper: bool) -> float:
    before, after = plain(now), plain(then)
    if not before or not after:
        return 0.0
    return before / after - 1 if upper else after / before - 1


def _candidates(scenario: Asked) -> Iterator[tuple[str, Asked]]:
    asked, serves = scenario.arguments, scenario.kind == "serve"
    yield from _formats(scenario)
    sizes: dict[str, list[Any]] = {}
    for name in ("tp_size", "pp_size"):
        if name in asked or (serves and name == "tp_size"):
            now = int(asked.get(name) or 1)
            sizes[name] = [2 * now, now // 2]
    sizes |= {name: [2 * asked[name]] for name in ("batch_size", "replicas") if serves and name in asked}
    for name, tried in sizes.items():
        for size in filter(None, tried):
            yield f"{name} = {size}", scenario.with_changes(**{name: size})
    if not serves and "tp_size" in asked:
        yield "the plan that the search finds", scenario.with_changes(**dict.fromkeys(OF_A_PLAN))
    machine = scenario.system
    if isinstance(machine, Fleet):
        yield f"{2 * machine.count} nodes", scenario.with_changes(machine.model_copy(update={"count": 2 * machine.count}))
    for rate in (*RATES, MEMORY):
        yield f"a quarter more {rate}", scenario.with_changes(varied(machine, rate, _FASTER))


def _formats(scenario: Asked) -> Iterator[tuple[str, Asked]]:
    """Narrower formats that the accelerator multiplies in; of serving, also weights alone."""
    device = accelerator_of(scenario.system)
    now = BYTES_PER_ELEMENT.get(str(scenario.arguments.get("precision") or "bf16"), 2.0)
    for name in ("fp8", "fp4"):
        if name in device.compute.precision_flops and BYTES_PER_ELEMENT[name] < now:
            yield f"precision = {name}", scenario.with_changes(precision=name)
    if scenario.kind == "serve" and not scenario.arguments.get("weight_precision"):
        yield "weight_precision = int4", scenario.with_changes(weight_precision="int4")
