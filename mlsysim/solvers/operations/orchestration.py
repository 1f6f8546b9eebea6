"""Jobs that wait for accelerators: ``OrchestrationModel``."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.core.checks import percentile_share, positive_quantity, real_number, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.physics.queues.queueing import delay_scale_s, erlang_c, wait_percentile_s
from mlsysim.solvers.result import Result

_MOST_SERVERS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class OrchestrationResult(Result):
    """How long jobs wait; the waits are None where more work arrives than is done.

    Attributes:
        utilization: the part of the accelerators that runs jobs.
        wait_mean: mean time that a job waits.
        wait_percentile: time that ``percentile`` of the jobs do not wait longer than.
        wait_probability: share of the jobs that wait at all.
        turnaround: mean time from submission to end.
        jobs_waiting: mean number of jobs in the queue.
        percentile: the share of jobs that ``wait_percentile`` is of.
        slots: jobs that run at once.
    """

    HEADLINE = ("utilization", "wait_mean", "wait_percentile", "wait_probability", "jobs_waiting")

    utilization: float
    wait_mean: Quantity | None
    wait_percentile: Quantity | None
    wait_probability: float
    turnaround: Quantity | None
    jobs_waiting: float | None
    percentile: float
    slots: int


class OrchestrationModel:
    """A queue of jobs of one size before a cluster, first come first served (M/G/k; exact for M/M/k and M/G/1).

    Clusters reserve, preempt and backfill, and their jobs differ a thousandfold: this says what a plain queue would do.
    """

    @strict_keywords
    def solve(
        self,
        *,
        arrival_rate: Quantity | str,
        job_duration: Quantity | str,
        accelerators: int = 1,
        accelerators_per_job: int = 1,
        duration_cv2: float = 1.0,
        percentile: float = 0.9,
    ) -> OrchestrationResult:
        """Judge a cluster that jobs come to at random.

        Args:
            arrival_rate: jobs a time, such as "20 count/day".
            job_duration: mean time that a job runs.
            accelerators: of the cluster.
            accelerators_per_job: accelerators that each job takes.
            duration_cv2: squared coefficient of variation of the durations: 0 for equal ones, 1 for exponential ones.
            percentile: share of the jobs that ``wait_percentile`` is of.

        Raises:
            InputError: a number out of range, or a job that is larger than the cluster.

        Example:
            >>> cluster = OrchestrationModel().solve(
            ...     arrival_rate="20 count/day", job_duration="8 hour", accelerators=64, accelerators_per_job=8
            ... )
            >>> cluster.slots, round(cluster.utilization, 3), f"{cluster.wait_mean.m_as('hour'):.2f} h"
            (8, 0.833, '3.20 h')
        """
        per_s = positive_quantity("arrival_rate", arrival_rate, "count/second")
        job_s = positive_quantity("job_duration", job_duration, "second")
        count = whole_number("accelerators", accelerators)
        each = whole_number("accelerators_per_job", accelerators_per_job)
        cv2 = real_number("duration_cv2", duration_cv2, 0.0)
        share = percentile_share("percentile", percentile)
        if each > count:
            raise InconsistentError("accelerators_per_job", each, f"at most the {count} accelerators of the cluster")
        slots = count // each
        if slots > _MOST_SERVERS:
            raise InconsistentError("accelerators", count, f"at most {_MOST_SERVERS} jobs at once")
        load = per_s * job_s / slots
        idle = count - slots * each
        stable = load < 1
        waits = float(erlang_c(per_s * job_s, slots)) if stable else 1.0
        scale_s = float(delay_scale_s(job_s, slots, load, cv2)) if stable else 0.0
        mean_s, late_s = waits * scale_s, wait_percentile_s(share, waits, scale_s)
        return OrchestrationResult(
            solver="OrchestrationModel",
            subject=f"{per_s * 86400:.4g} jobs a day of {job_s / 3600:.4g} h on {slots} x {each} accelerators",
            basis="identity" if slots == 1 or cv2 == 1 else "law",
            reason="" if stable else f"saturated: {load:.3g} times the work that the cluster does; its queue grows without end",
            binding="accelerators" if not stable or mean_s > job_s else "job duration",
            breakdown=with_units({"waiting": mean_s, "running": job_s}, "second") if stable else {},
            diagnostics=(f"{idle} accelerators are too few for another job",) if idle else (),
            utilization=min(load, 1.0),
            wait_mean=with_unit(mean_s, "second") if stable else None,
            wait_percentile=with_unit(late_s, "second") if stable else None,
            wait_probability=waits,
            turnaround=with_unit(mean_s + job_s, "second") if stable else None,
            jobs_waiting=per_s * mean_s if stable else None,
            percentile=share,
            slots=slots,
        )
