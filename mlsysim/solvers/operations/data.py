"""Data for accelerators: what they ask of storage, CPUs and network, and what waits: ``DataModel``, ``TransformationModel``."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.core.checks import needed, positive_quantity, strict_keywords, whole_number
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.physics.operations.pipelines import preparation_s, required_Bps, stalled_share
from mlsysim.solvers.result import Result


@dataclass(frozen=True, kw_only=True)
class DataResult(Result):
    """What is read, what can be read, and what waits.

    Attributes:
        required_bandwidth: bytes a second that keep every accelerator busy.
        throughput: records a second that arrive, of all accelerators together.
        utilization: the part of the time in which accelerators have data (MLPerf Storage's AU).
        stalled_share: the part of the time in which they wait.
        supplies: records a second of each stage that a rate was stated of.
    """

    HEADLINE = ("required_bandwidth", "throughput", "utilization", "stalled_share")

    required_bandwidth: Quantity
    throughput: Quantity
    utilization: float
    stalled_share: float
    supplies: dict[str, Quantity]


class DataModel:
    """Records that accelerators take against what storage, CPUs and network give: the slowest stage sets the pace.

    Source: MLPerf Storage v1.0, rules: ideal rate = batch / computation time; required bandwidth = n x rate x record.
    """

    @strict_keywords
    def solve(
        self,
        *,
        sample_rate: Quantity | str,
        record_size: Quantity | str,
        storage_bandwidth: Quantity | str | None = None,
        accelerators: int = 1,
        preparation_rate: Quantity | str | None = None,
        network_bandwidth: Quantity | str | None = None,
    ) -> DataResult:
        """Judge a pipeline.

        Args:
            sample_rate: records a second that one accelerator takes when it never waits.
            record_size: bytes of a record as it is stored.
            storage_bandwidth: bytes a second that storage gives to all accelerators together.
            accelerators: how many read.
            preparation_rate: records a second that all CPUs decode and augment together; left out, they are no limit.
            network_bandwidth: bytes a second that arrive over the network at all accelerators; left out, it is no limit.

        Raises:
            InputError: a rate or a size is not positive, or no storage is stated: an accelerator has none of its own.

        Example:
            >>> run = DataModel().solve(
            ...     sample_rate="1000 count/s", record_size="150 kB", storage_bandwidth="6 GB/s", accelerators=64
            ... )
            >>> f"{run.required_bandwidth.m_as('GB/s'):.1f} GB/s", run.binding, round(run.stalled_share, 3)
            ('9.6 GB/s', 'storage', 0.375)
        """
        each = positive_quantity("sample_rate", sample_rate, "count/second")
        record_B = positive_quantity("record_size", record_size, "byte")
        count = whole_number("accelerators", accelerators)
        expected = "a bandwidth such as '10 GB/s': an accelerator has no storage of its own"
        storage = positive_quantity(
            "storage_bandwidth", needed("storage_bandwidth", storage_bandwidth, expected), "byte/second"
        )
        supplies = {"storage": storage / record_B}
        if preparation_rate is not None:
            supplies["preparation"] = positive_quantity("preparation_rate", preparation_rate, "count/second")
        if network_bandwidth is not None:
            supplies["network"] = positive_quantity("network_bandwidth", network_bandwidth, "byte/second") / record_B
        demand = count * each
        slowest = min(supplies, key=lambda stage: supplies[stage])
        arriving = min(demand, supplies[slowest])
        unstated = [stage for stage in ("preparation", "network") if stage not in supplies]
        return DataResult(
            solver="DataModel",
            subject=f"{count} accelerators, {each:.4g} records of {record_B / 1e3:.4g} kB a second each",
            basis="identity",
            binding="accelerators" if supplies[slowest] >= demand else slowest,
            breakdown=with_units({"computing": 1 / demand, "waiting": 1 / arriving - 1 / demand}, "second"),
            diagnostics=(f"no limit is stated of {' and '.join(unstated)}",) if unstated else (),
            required_bandwidth=with_unit(float(required_Bps(count, each, record_B)), "byte/second"),
            throughput=with_unit(arriving, "count/second"),
            utilization=arriving / demand,
            stalled_share=float(stalled_share(demand, supplies[slowest])),
            supplies=with_units(supplies, "count/second"),
        )


@dataclass(frozen=True, kw_only=True)
class TransformationResult(Result):
    """How long a batch is prepared, and what a step waits for it.

    Attributes:
        latency: seconds in which the workers prepare the batch.
        throughput: samples a second of all workers.
        stall: seconds that a step waits while the next batch is prepared beside it; None where no step time is stated.
        workers_needed: workers with which no step waits; None where no step time is stated.
    """

    HEADLINE = ("latency", "throughput", "stall", "workers_needed")

    latency: Quantity
    throughput: Quantity
    stall: Quantity | None
    workers_needed: float | None


class TransformationModel:
    """Decoding and augmenting on CPUs at stated rates: T = B / (n R). What a core reaches has to be measured."""

    @strict_keywords
    def solve(
        self,
        *,
        batch_size: int,
        worker_rate: Quantity | str,
        workers: int = 1,
        step_time: Quantity | str | None = None,
    ) -> TransformationResult:
        """Prepare a batch.

        Args:
            batch_size: samples of a batch.
            worker_rate: samples a second that one worker prepares, as measured.
            workers: processes or cores that prepare at once.
            step_time: time of the step that runs meanwhile.

        Raises:
            InputError: a number is not positive.

        Example:
            >>> run = TransformationModel().solve(batch_size=256, worker_rate="300 count/s", workers=8, step_time="80 ms")
            >>> f"{run.latency.m_as('ms'):.1f} ms, of which a step waits {run.stall.m_as('ms'):.1f} ms"
            '106.7 ms, of which a step waits 26.7 ms'
        """
        samples = whole_number("batch_size", batch_size)
        each = positive_quantity("worker_rate", worker_rate, "count/second")
        count = whole_number("workers", workers)
        step_s = None if step_time is None else positive_quantity("step_time", step_time, "second")
        seconds = float(preparation_s(samples, each, count))
        waits = step_s is None or seconds > step_s
        return TransformationResult(
            solver="TransformationModel",
            subject=f"{samples} samples on {count} workers of {each:.4g} a second",
            basis="identity",
            binding="preparation" if waits else "step",
            breakdown=with_units({"preparation": seconds}, "second"),
            latency=with_unit(seconds, "second"),
            throughput=with_unit(count * each, "count/second"),
            stall=None if step_s is None else with_unit(max(0.0, seconds - step_s), "second"),
            workers_needed=None if step_s is None else samples / (each * step_s),
        )
