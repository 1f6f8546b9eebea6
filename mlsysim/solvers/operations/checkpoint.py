"""Checkpoints of a training: ``CheckpointModel``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlsysim.calibration.operations.checkpoints import checkpoint_contents
from mlsysim.core.checks import boolean, instance, positive_quantity, strict_keywords
from mlsysim.core.errors import InconsistentError, MissingArgumentError
from mlsysim.core.precision import bytes_per_element, precision_name
from mlsysim.core.units import Quantity, in_unit, with_unit
from mlsysim.models.types import Workload
from mlsysim.physics.operations.checkpoint import checkpoint_B, stalled_share, write_s
from mlsysim.solvers.operations.kept_time import KeptTimeResult, checkpoint_interval_s, kept_share
from mlsysim.solvers.shown import shown
from mlsysim.systems.types import Fleet

_FULL_B = 4.0


@dataclass(frozen=True, kw_only=True)
class CheckpointResult(KeptTimeResult):
    """A checkpoint's bytes and times, and what checkpoints cost.

    Attributes:
        size: of one checkpoint; the card adds it in binary units, in which benchmarks of storage print it.
        size_gib: of one checkpoint in GiB.
        bytes_per_parameter: of it.
        write_time: until storage holds it.
        stall: how long it stops the job: the whole write, or the copy to the hosts where the rest is asynchronous.
        stall_share: share of the time that checkpoints stop the job.
        checkpoint_interval, goodput: as ``KeptTimeResult`` has them, at the mean time between failures and without restarts.
    """

    HEADLINE = ("size", "size_gib", "write_time", "stall", "checkpoint_interval", "stall_share", "goodput")

    size: Quantity
    size_gib: float
    bytes_per_parameter: float
    write_time: Quantity
    stall: Quantity
    stall_share: float | None = None


class CheckpointModel:
    """Checkpoints of a training: bytes by stack and optimizer, time by storage, and the interval that loses least."""

    @strict_keywords
    def solve(
        self,
        workload: Workload,
        fleet: Fleet,
        *,
        storage_bandwidth: Quantity | str | None = None,
        stack: str = "master-weights",
        optimizer: str = "adam",
        precision: str = "bf16",
        sharded: bool = True,
        writer_bandwidth: Quantity | str | None = None,
        asynchronous: bool = False,
        copy_bandwidth: Quantity | str | None = None,
        checkpoint_interval: Quantity | str | None = None,
        mtbf: Quantity | str | None = None,
    ) -> CheckpointResult:
        """A checkpoint of ``workload``, trained on all of ``fleet``.

        Args:
            workload: the model.
            fleet: what it is trained on: its nodes write.
            storage_bandwidth: bytes that storage takes in a second, all writers together: no accelerator knows it.
            stack: the training stack, or "master-weights" (a copy in 32 bits beside 16-bit weights: 14 bytes a parameter with
                Adam), "weights-in-32-bits" (12) or "no-master-weights" (10).
            optimizer: "adam", "adam-8bit", "momentum" or "none" (weights alone).
            precision: number format of the weights, where the stack does not write them in 32 bits.
            sharded: every node writes its part; else one writes all.
            writer_bandwidth: bytes that one node sends a second; by default no limit.
            asynchronous: the job goes on once hosts hold a copy.
            copy_bandwidth: bytes that an accelerator copies to its host a second; by default its host link's.
            checkpoint_interval: work between two checkpoints.
            mtbf: mean time between failures of the whole job, such as ``ReliabilityModel`` finds; tells the best interval.

        Returns:
            Bytes, times and shares. Not feasible where a checkpoint takes longer to write than the next waits.

        Raises:
            InputError: an argument is out of range, or a bandwidth is missing.
            InconsistentError: a copy's bandwidth without an asynchronous write.
            UnknownNameError: no such stack, optimizer or number format.

        Example:
            >>> from mlsysim import Models, Systems
            >>> fleet = Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8)
            >>> saved = CheckpointModel().solve(Models.Language.Llama3_8B, fleet, storage_bandwidth="10 GB/s", mtbf="3 hour")
            >>> f"{saved.size_gib:.1f} GiB every {saved.checkpoint_interval.to('s').magnitude:.0f} s"
            '104.7 GiB every 485 s'
        """
        instance("workload", workload, Workload, "a workload")
        instance("fleet", fleet, Fleet, "a Fleet")
        if storage_bandwidth is None:
            expected = (
                f"bytes a second that storage takes in, such as '100 GB/s': {fleet.node.accelerator.name} does not say it"
            )
            raise MissingArgumentError("storage_bandwidth", None, expected)
        storage_Bps = positive_quantity("storage_bandwidth", storage_bandwidth, "byte/second")
        held = checkpoint_contents(stack, optimizer)
        weight_B = held.weight_B or bytes_per_element(precision_name("precision", precision))
        master_B = held.master_B if weight_B < _FULL_B else 0.0
        parameters = float(workload.parameters.m_as("count"))
        size_B = float(checkpoint_B(parameters, weight_B, master_B, held.moments, held.moment_B))
        writers = fleet.count if boolean("sharded", sharded) else 1
        writer_Bps = (
            math.inf if writer_bandwidth is None else positive_quantity("writer_bandwidth", writer_bandwidth, "byte/second")
        )
        written_s = float(write_s(size_B, storage_Bps, writers, writer_Bps))
        copied_s = _copy_s(fleet, size_B, sharded=sharded, asynchronous=asynchronous, copy_bandwidth=copy_bandwidth)
        stall_s = written_s if copied_s is None else copied_s
        mtbf_s = None if mtbf is None else positive_quantity("mtbf", mtbf, "second")
        interval_s = checkpoint_interval_s(checkpoint_interval, stall_s, mtbf_s)
        if checkpoint_interval is None and interval_s is not None:
            interval_s = max(interval_s, written_s - stall_s)  # the last is written before the next begins
        reason = ""
        if interval_s is not None and written_s > interval_s + (0.0 if copied_s is None else stall_s):
            takes, waits = (shown(with_unit(seconds, "second")) for seconds in (written_s, interval_s))
            reason = f"a checkpoint takes {takes} to write, the next comes after {waits} of work"
        kept = None
        if interval_s is not None and mtbf_s is not None:
            kept = kept_share(interval_s, stall_s, 0.0, mtbf_s)
        slowest = "storage" if storage_Bps <= writers * writer_Bps else "writers"
        return CheckpointResult(
            solver="CheckpointModel",
            subject=f"{workload.name} from {fleet.accelerators:,} x {fleet.node.accelerator.name}, {optimizer}, {stack}",
            basis="identity",
            reason=reason,
            binding=slowest if copied_s is None else "copy to the hosts",
            size=with_unit(size_B, "byte"),
            size_gib=size_B / 2**30,
            bytes_per_parameter=size_B / parameters,
            write_time=with_unit(written_s, "second"),
            stall=with_unit(stall_s, "second"),
            checkpoint_interval=None if interval_s is None else with_unit(interval_s, "second"),
            stall_share=None if interval_s is None else float(stalled_share(interval_s, stall_s)),
            goodput=kept,
        )


def _copy_s(
    fleet: Fleet, size_B: float, *, sharded: bool, asynchronous: bool, copy_bandwidth: Quantity | str | None
) -> float | None:
    """Seconds in which accelerators copy their parts to the hosts; None where the job waits for storage."""
    if not boolean("asynchronous", asynchronous):
        if copy_bandwidth is not None:
            raise InconsistentError(
                "copy_bandwidth", copy_bandwidth, "asynchronous=True beside it: else the job waits for storage"
            )
        return None
    link = fleet.node.accelerator.host_link_bw
    if copy_bandwidth is None and link is None:
        expected = f"bytes a second from an accelerator to its host: {fleet.node.accelerator.name} lists no host link"
        raise MissingArgumentError("copy_bandwidth", None, expected)
    copy_Bps = (
        in_unit(link, "byte/second")
        if copy_bandwidth is None and link is not None
        else positive_quantity("copy_bandwidth", copy_bandwidth, "byte/second")
    )
    return size_B / (fleet.accelerators if sharded else fleet.node.accelerators_per_node) / copy_Bps
