"""A whole training from a plan: days, failures, dollars and energy (``time_to_train``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlsysim.calibration.intervals import LEVEL
from mlsysim.calibration.operations.failures import ANY
from mlsysim.core.checks import positive_quantity, strict_keywords
from mlsysim.core.errors import InputError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.solvers.interval import Interval
from mlsysim.solvers.operations.power import PowerModel
from mlsysim.solvers.operations.reliability import ReliabilityResult, failure_rate, reliability
from mlsysim.solvers.result import Result

_SCALED = ("duration", "accelerator_hours", "cost", "energy")
_CERTAIN = (1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class TrainingRunResult(Result):
    """A whole training.

    Attributes:
        duration: from its first step to its last, failures included.
        steps: optimizer steps.
        accelerator_hours: what is hired.
        cost: of these, where a price was given.
        energy: at the building's meter, hosts included, where the plan's power is known; what waits draws idle power.
        failures: those to expect.
        goodput: share of the time that is work kept.
        reliability: the failures, and where the time goes.
        step_interval: the interval of the plan's step, over the step; (1, 1) where it has none.
        power_interval: the interval of its power, over the power.
    """

    HEADLINE = ("duration", "accelerator_hours", "cost", "energy", "failures", "goodput", "steps")
    INTERVAL_OF = "duration"

    duration: Quantity
    steps: float
    accelerator_hours: float
    cost: Quantity | None = None
    energy: Quantity | None = None
    failures: float
    goodput: float
    reliability: ReliabilityResult
    step_interval: tuple[float, float]
    power_interval: tuple[float, float] = _CERTAIN

    def interval_of(self, name: str) -> Interval | None:
        """Where nine in ten trainings are expected: by the intervals of step and failures, taken as independent."""
        value = getattr(self, name, None) if name in _SCALED else None
        if value is None:
            return self.reliability.interval_of(name) if name in ("failures", "goodput") else super().interval_of(name)
        kept = self.reliability.interval_of("goodput")
        of_failures = (
            _CERTAIN if kept is None else (self.goodput / _number(kept.high), self.goodput / max(_number(kept.low), 1e-9))
        )
        of_power = self.power_interval if name == "energy" else _CERTAIN
        low, high = (
            math.exp(sign * math.hypot(*(math.log(part) for part in parts)))
            for sign, *parts in zip((-1, 1), self.step_interval, of_failures, of_power, strict=True)
        )
        scope = f"the plan's step, and {self.reliability.failure_rate.known_by}"
        return Interval(value * low, value * high, LEVEL, scope, self.reliability.failure_rate.fleets, 0.0, 0.0, "")


@strict_keywords
def time_to_train(
    plan: Result,
    tokens: Quantity | str,
    *,
    checkpoint_time: Quantity | str,
    checkpoint_interval: Quantity | str | None = None,
    restart_time: Quantity | str = "automated",
    fleet_class: str = ANY,
    events: int | None = None,
    node_days: float | None = None,
    node_mtbf: Quantity | str | None = None,
    price: Quantity | str | None = None,
    pue: float = 1.0,
) -> TrainingRunResult:
    """How long a plan trains for ``tokens``, with failures, and what it costs.

    Args:
        plan: what ``DistributedModel`` answers, or ``ParallelismOptimizer``, of which the best plan is taken.
        tokens: of all steps, as "15e12 count".
        checkpoint_time: how long a checkpoint stops the job, such as ``CheckpointModel`` finds.
        checkpoint_interval: work between two checkpoints; by default what loses least.
        restart_time: a time, or "automated", "diagnosed" or "by-people".
        fleet_class: "any", "established" or "young".
        events: failures that were counted on this fleet; needs ``node_days``.
        node_days: nodes of eight accelerators times days.
        node_mtbf: mean time between failures of such a node.
        price: of an accelerator, as "2 USD/hour".
        pue: power usage effectiveness: what the building's meter reads over what its computers take.

    Returns:
        Days, accelerator-hours, dollars, energy and failures, with intervals.

    Raises:
        InputError: ``plan`` is no plan of a training of tokens, or an argument is out of range.
        InfeasibleError: the plan does not fit.

    Example:
        >>> from mlsysim import DistributedModel, Fleet, Models, Systems
        >>> fleet = Fleet(name="1024 H100", node=Systems.Nodes.DGX_H100, count=128)
        >>> plan = DistributedModel().solve(
        ...     Models.Language.Llama3_8B, fleet, batch_size=1024, seq_len=8192, efficiency=0.4, zero_stage=1, recompute="full"
        ... )
        >>> run = time_to_train(plan, "2e12 count", checkpoint_time="10 s", price="2 USD/hour")
        >>> run.duration.to("day") > plan.step_latency_total.to("day") * run.steps, run.failures > 0
        (True, True)
    """
    plan = getattr(plan, "best", None) or plan
    step: Any = getattr(plan, "step_latency_total", None)
    rate: Any = getattr(plan, "tokens_per_second", None)
    facts = getattr(plan, "facts", None)
    if not isinstance(plan, Result) or step is None or rate is None or facts is None:
        raise InputError("plan", type(plan).__name__, "what DistributedModel or ParallelismOptimizer answers")
    plan.require_feasible()
    amount = positive_quantity("tokens", tokens, "count")
    working_s = amount / float(rate.m_as("count/second"))
    accelerators = round(facts.accelerators)
    known = failure_rate(fleet_class, events, node_days, node_mtbf, None)
    asked: dict[str, Any] = {
        "checkpoint_time": checkpoint_time,
        "checkpoint_interval": checkpoint_interval,
        "restart_time": restart_time,
    }
    subject = f"{plan.subject}, for {amount / 1e9:,.4g} G tokens"
    # The shares of the time do not hang on how long it is.
    kept = reliability(accelerators, working_s, known, subject=subject, **asked).require_feasible().goodput or 0.0
    failures = reliability(accelerators, working_s / kept, known, subject=subject, **asked)
    hours = accelerators * working_s / kept / 3600
    interval = plan.interval
    ends = _CERTAIN if interval is None else (_number(interval.low / step), _number(interval.high / step))
    return TrainingRunResult(
        solver="time_to_train",
        subject=subject,
        breakdown=failures.breakdown,
        diagnostics=(*failures.diagnostics, *(() if price is None else ("the price is the caller's",))),
        duration=with_unit(working_s / kept, "second"),
        steps=working_s / float(step.m_as("second")),
        accelerator_hours=hours,
        cost=None if price is None else with_unit(hours * positive_quantity("price", price, "USD/hour"), "USD"),
        failures=failures.failures,
        goodput=kept,
        reliability=failures,
        step_interval=ends,
        **plan.taken("basis", "binding", "coefficients"),
        **_energy(plan, failures, pue),
    )


def _energy(plan: Result, failures: ReliabilityResult, pue: float) -> dict[str, Any]:
    """The fields of energy: working accelerators draw the plan's power, those that wait for storage or a restart idle power."""
    if plan.load is None:
        return {}
    drawn = PowerModel().solve(plan, pue=pue)
    idle_W = plan.load.accelerator.coefficients.idle * plan.load.accelerator.tdp_W
    saved_W = plan.load.accelerators * (float(drawn.power.m_as("watt")) - idle_W) * pue
    seconds = {name: float(part.m_as("second")) for name, part in failures.breakdown.items()}
    waiting_s = seconds["checkpoints"] + seconds["restarts"]
    joules = float(drawn.facility_power.m_as("watt")) * sum(seconds.values()) - saved_W * waiting_s
    interval = drawn.interval_of("power")
    ends = _CERTAIN if interval is None else tuple(_number(end / drawn.power) for end in (interval.low, interval.high))
    return {"energy": with_unit(joules, "joule"), "power_interval": ends}


def _number(value: Any) -> float:
    return float(getattr(value, "magnitude", value))
