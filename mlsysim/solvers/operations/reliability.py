"""How often a job fails, and what that costs it: ``ReliabilityModel``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlsysim.calibration.intervals import LEVEL
from mlsysim.calibration.operations.failures import ANY, NODE_ACCELERATORS, fleet_class, restart_classes
from mlsysim.core.checks import instance, one_of, positive_quantity, real_number, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError, MissingArgumentError
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.physics.operations.reliability import (
    count_interval,
    first_order_ettr,
    gamma_interval,
    gamma_shape,
    kokolis_ettr,
    time_shares,
)
from mlsysim.solvers.interval import Interval
from mlsysim.solvers.operations.kept_time import KeptTimeResult, checkpoint_interval_s, kept_share
from mlsysim.solvers.shown import shown
from mlsysim.systems.types import Fleet

_DAY_S = 86400.0
_RATE_NODE_DAYS = 1000.0
_LEAST_KEPT = 0.01  # a job that keeps less of its time makes no progress that anybody would pay for


@dataclass(frozen=True, slots=True)
class FailureRate:
    """Failures of a node of eight accelerators.

    Attributes:
        per_1000_node_days: the rate, in the middle of what is expected.
        shape: how sure it is: the shape of the gamma distribution of the fleet's own rate; None where that is known.
        known_by: what it rests on.
        fleets: how many fleets, or counted failures, that is.
        basis: as of results.
    """

    per_1000_node_days: float
    shape: float | None
    known_by: str
    fleets: int
    basis: str

    @property
    def mean(self) -> float:
        """The mean rate of fleets like this one: above the middle, for rates spread evenly in their logarithm."""
        return self.per_1000_node_days * (1 if self.shape is None else math.sqrt(1 + 1 / self.shape))

    def ends(self) -> tuple[float, float]:
        """Where nine in ten rates of fleets like this one lie."""
        return (self.mean, self.mean) if self.shape is None else gamma_interval(self.mean, self.shape)


@dataclass(frozen=True, kw_only=True)
class ReliabilityResult(KeptTimeResult):
    """A job's failures, and where its time goes.

    Attributes:
        failures: those to expect while it runs.
        mttf: mean time from one failure of the job to the next.
        rate: failures of 1,000 node-days, of nodes of eight accelerators.
        fleet_class: whose rate it is.
        ettr_kokolis: the goodput by Kokolis et al., who take half an interval as lost.
        ettr_first_order: that share as 1 / (1 + sqrt(2 d / M) + R / M), at Young's interval.
        lost_per_failure: work that a failure undoes and restart that it takes.
        failure_rate: the rate with how sure it is.
        job: node-days of eight accelerators.
    """

    HEADLINE = ("failures", "mttf", "rate", "goodput", "checkpoint_interval", "lost_per_failure")
    INTERVAL_OF = "failures"

    failures: float
    mttf: Quantity
    rate: float
    fleet_class: str
    ettr_kokolis: float | None = None
    ettr_first_order: float | None = None
    lost_per_failure: Quantity | None = None
    restart_time: Quantity | None = None
    checkpoint_time: Quantity | None = None
    failure_rate: FailureRate
    job: float

    def interval_of(self, name: str) -> Interval | None:
        """Where nine in ten are expected: counts of a fleet like this one, its rate, its time between failures, its goodput."""
        low, high = self.failure_rate.ends()
        if name == "failures":
            mean = self.failure_rate.mean * self.job / _RATE_NODE_DAYS
            ends: tuple[float | Quantity, float | Quantity] = count_interval(mean, self.failure_rate.shape or math.inf)
        elif low == high:
            return super().interval_of(name)
        elif name == "rate":
            ends = low, high
        elif name == "mttf":
            ends = self.mttf * (self.rate / high), self.mttf * (self.rate / low)
        elif name == "goodput" and self.goodput is not None:
            ends = self.goodput_at(high / self.rate), self.goodput_at(low / self.rate)
        else:
            return super().interval_of(name)
        known = self.failure_rate
        return Interval(*ends, LEVEL, known.known_by, known.fleets, 0.0, 0.0, "")

    def goodput_at(self, times: float) -> float:
        """The goodput where failures come so many times as often, at the same interval."""
        parts = (self.checkpoint_interval, self.checkpoint_time, self.restart_time)
        interval_s, checkpoint_s, restart_s = (0.0 if part is None else float(part.m_as("second")) for part in parts)
        return kept_share(interval_s, checkpoint_s, restart_s, float(self.mttf.m_as("second")) / times)


class ReliabilityModel:
    """Failures of a job on a fleet, and what checkpoints and restarts leave of its time.

    Fleets differ by far more than the failures of one fleet vary by chance: of a fleet that was never counted, the interval is
    negative binomial about the level of its class; once its own failures are counted (``events``, ``node_days``) it is Poisson
    about that rate, as surely as so few failures tell it.
    """

    @strict_keywords
    def solve(
        self,
        fleet: Fleet,
        *,
        duration: Quantity | str,
        fleet_class: str = ANY,
        events: int | None = None,
        node_days: float | None = None,
        node_mtbf: Quantity | str | None = None,
        checkpoint_time: Quantity | str | None = None,
        checkpoint_interval: Quantity | str | None = None,
        restart_time: Quantity | str = "automated",
        without: str | None = None,
    ) -> ReliabilityResult:
        """Failures of a job that takes all of ``fleet`` for ``duration``.

        Args:
            fleet: what it runs on; rates are of eight accelerators, whatever a node has.
            duration: how long it runs, failures and restarts included.
            fleet_class: "any", "established", "young" or "all-job-failures".
            events: failures that were counted on this fleet; needs ``node_days``.
            node_days: nodes of eight accelerators times the days in which ``events`` were counted.
            node_mtbf: mean time between failures of such a node, where it is known.
            checkpoint_time: how long a checkpoint stops the job; without it no goodput is answered.
            checkpoint_interval: work between two checkpoints; by default what loses least.
            restart_time: from a failure until work goes on: a time, or "automated", "diagnosed" or "by-people".
            without: a published fleet that is left out of its class.

        Returns:
            Failures with their interval, and where the time goes.

        Raises:
            InputError: an argument is out of range.
            InconsistentError: two arguments say the rate, or one says half of it.
            UnknownNameError: no such class of fleets or restarts.

        Example:
            >>> from mlsysim.systems.registry import Systems
            >>> fleet = Fleet(name="16k H100", node=Systems.Nodes.DGX_H100, count=2048)
            >>> job = ReliabilityModel().solve(fleet, duration="54 day", events=419, node_days=110592, checkpoint_time="30 s")
            >>> f"{job.failures:.0f} failures, every {job.mttf.to('hour').magnitude:.2f} h, goodput {job.goodput:.2f}"
            '419 failures, every 3.09 h, goodput 0.88'
        """
        instance("fleet", fleet, Fleet, "a Fleet")
        duration_s = positive_quantity("duration", duration, "second")
        known = failure_rate(fleet_class, events, node_days, node_mtbf, without)
        return reliability(
            fleet.accelerators,
            duration_s,
            known,
            subject=f"{fleet.accelerators:,} x {fleet.node.accelerator.name} for {shown(with_unit(duration_s, 'second'))}",
            checkpoint_time=checkpoint_time,
            checkpoint_interval=checkpoint_interval,
            restart_time=restart_time,
        )


def failure_rate(
    kind: str, events: int | None, node_days: float | None, node_mtbf: Quantity | str | None, without: str | None
) -> FailureRate:
    """The rate of a fleet: of its class, told without the published fleet ``without``, or its own.

    Raises:
        InputError: one is out of range, or two say the rate.
    """
    if node_mtbf is not None:
        if events is not None or node_days is not None:
            name, value = ("events", events) if events is not None else ("node_days", node_days)
            raise InconsistentError(name, value, "nothing beside node_mtbf: both say how often a node fails")
        days = positive_quantity("node_mtbf", node_mtbf, "second") / _DAY_S
        return FailureRate(_RATE_NODE_DAYS / days, None, "the node's mean time between failures that was given", 1, "identity")
    if events is not None or node_days is not None:
        for name, value in (("events", events), ("node_days", node_days)):
            if value is None:
                raise MissingArgumentError(name, None, "both events and node_days: failures, and nodes times days")
        count, exposure = whole_number("events", events), real_number("node_days", node_days, 0.0, above=True)
        known_by = f"{count:,} failures that were counted on this fleet"
        return FailureRate(_RATE_NODE_DAYS * count / exposure, count + 0.5, known_by, count, "identity")
    known = fleet_class(kind, without)
    told = f"{known.fleets} published fleets ({known.name})"
    return FailureRate(known.rate, gamma_shape(known.log_spread), told, known.fleets, "law")


def reliability(
    accelerators: int,
    duration_s: float,
    known: FailureRate,
    *,
    subject: str,
    checkpoint_time: Quantity | str | None,
    checkpoint_interval: Quantity | str | None,
    restart_time: Quantity | str,
) -> ReliabilityResult:
    """The failures of a job, and where its time goes."""
    nodes = accelerators / NODE_ACCELERATORS
    job = nodes * duration_s / _DAY_S
    mtbf_s = _RATE_NODE_DAYS * _DAY_S / (known.per_1000_node_days * nodes)
    restart_s = _restart_s(restart_time)
    figures: dict[str, object] = {}
    breakdown: dict[str, Quantity] = {}
    reason, binding = "", "failures"
    if checkpoint_time is None and checkpoint_interval is not None:
        raise MissingArgumentError("checkpoint_time", None, "how long a checkpoint stops the job, beside checkpoint_interval")
    if checkpoint_time is not None:
        checkpoint_s = positive_quantity("checkpoint_time", checkpoint_time, "second")
        interval_s = checkpoint_interval_s(checkpoint_interval, checkpoint_s, mtbf_s)
        assert interval_s is not None, "failures are known, and with them what loses least"
        kept = kept_share(interval_s, checkpoint_s, restart_s, mtbf_s)
        if kept < _LEAST_KEPT:
            reason = f"failures come every {shown(with_unit(mtbf_s, 'second'))}: less than 1 % of the time is work that is kept"
        else:
            shares = time_shares(interval_s, checkpoint_s, restart_s, mtbf_s)
            named = dict(zip(("work kept", "checkpoints", "lost work", "restarts"), shares, strict=True))
            breakdown = with_units({name: share * duration_s for name, share in named.items()}, "second")
            binding = max(list(named)[1:], key=lambda name: named[name])
            figures["lost_per_failure"] = with_unit((shares.lost + shares.restarts) * mtbf_s, "second")
        figures |= {
            "checkpoint_interval": with_unit(interval_s, "second"),
            "checkpoint_time": with_unit(checkpoint_s, "second"),
            "restart_time": with_unit(restart_s, "second"),
            "goodput": kept,
            "ettr_kokolis": max(0.0, float(kokolis_ettr(interval_s, checkpoint_s, restart_s, mtbf_s))),
            "ettr_first_order": float(first_order_ettr(checkpoint_s, restart_s, mtbf_s)),
        }
    return ReliabilityResult(
        solver="ReliabilityModel",
        subject=subject,
        basis=known.basis,
        reason=reason,
        binding=binding,
        breakdown=breakdown,
        diagnostics=(f"the rate is that of {known.known_by}",),
        failures=duration_s / mtbf_s,
        mttf=with_unit(mtbf_s, "second"),
        rate=known.per_1000_node_days,
        fleet_class=known.known_by,
        failure_rate=known,
        job=job,
        **figures,  # type: ignore[arg-type]
    )


def _restart_s(restart_time: Quantity | str) -> float:
    """Seconds of a restart: a class of restarts, or a time."""
    classes = restart_classes()
    if isinstance(restart_time, str) and not any(letter.isdigit() for letter in restart_time):
        return classes[one_of("restart_time", restart_time, classes)]
    return positive_quantity("restart_time", restart_time, "second")
