"""The best way to split a training step over a fleet: ``ParallelismOptimizer``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlsysim.calibration.memory import usable_memory_B
from mlsysim.core.checks import strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError, InfeasibleError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.physics.plan import ONE_F_ONE_B, Plan
from mlsysim.physics.work import RECOMPUTE_MODES
from mlsysim.solvers.distributed import DistributedModel, DistributedResult, with_recompute
from mlsysim.solvers.distributed_input import TrainingSetting, check_setting
from mlsysim.solvers.kernel_lowering import step_time
from mlsysim.solvers.lowering import training_work
from mlsysim.solvers.result import Result
from mlsysim.systems.types import Fleet

PAPER_OVERLAP = 0.85


@dataclass(frozen=True, kw_only=True)
class ParallelismResult(Result):
    """The fastest plan that fits.

    Attributes:
        best_config: its tp, pp, dp and the rest; empty when no plan fits.
        best: its full result, or None.
        total_searched: plans whose memory and step time were computed.
        total_feasible: those that fit.
        ranking: the fastest plans that fit, best first, each with its step time and memory.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ("best_config", "total_searched", "total_feasible")

    best_config: dict[str, Any]
    best: DistributedResult | None
    total_searched: int
    total_feasible: int
    ranking: tuple[dict[str, Any], ...]

    def require_best(self) -> DistributedResult:
        """The best plan's result, or ``InfeasibleError``."""
        if self.best is None:
            raise InfeasibleError(f"{self.subject}: {self.reason}")
        return self.best


class ParallelismOptimizer:
    """Searches TP x PP x DP exhaustively: TP within a node, ZeRO-1, 1F1B, micro-batches of one sequence.

    Every plan is judged by the physics of ``DistributedModel``, evaluated for all plans at once: memory (with the
    cheapest recomputation that fits), pipeline bubble, exposed communication.
    """

    @strict_keywords
    def solve(
        self,
        workload: Workload,
        fleet: Fleet,
        *,
        batch_size: int,
        seq_len: int | None = None,
        precision: str = "bf16",
        efficiency: float | None = None,
        zero_stage: int = 1,
        recompute: str | None = None,
        gradient_precision: str | None = None,
        overlap_comm: bool = True,
        overlap_efficiency: float | None = None,
        stack: str | None = None,
        attention: str = "flash",
        top_k: int = 5,
    ) -> ParallelismResult:
        """The fastest plan for ``batch_size`` samples of ``workload`` on ``fleet``.

        ``overlap_efficiency`` defaults to 0.85 where collectives may hide and no stack says how; the other arguments are those
        of ``DistributedModel.solve``. ``top_k`` plans are ranked.

        Raises:
            InputError: an argument out of range, or no legal plan at all (no factorization divides the batch).

        Example:
            >>> from mlsysim.models.registry import Models
            >>> from mlsysim.systems.registry import Systems
            >>> fleet = Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8)
            >>> found = ParallelismOptimizer().solve(Models.Language.Llama3_70B, fleet, batch_size=64, efficiency=0.5)
            >>> found.feasible, found.total_searched >= found.total_feasible > 0
            (True, True)
        """
        if stack is None and overlap_comm is True and overlap_efficiency is None:
            overlap_efficiency = PAPER_OVERLAP
        asked: dict[str, Any] = {
            "batch_size": batch_size,
            "seq_len": seq_len,
            "precision": precision,
            "efficiency": efficiency,
            "zero_stage": zero_stage,
            "recompute": recompute,
            "gradient_precision": gradient_precision,
            "overlap_comm": overlap_comm,
            "overlap_efficiency": overlap_efficiency,
            "stack": stack,
            "attention": attention,
        }
        setting = check_setting(workload, fleet, **asked)
        kept = whole_number("top_k", top_k)
        space = legal_plans(setting)
        work = training_work(setting.workload, setting.seq_len)
        plans, memory = with_recompute(work, space, setting)
        seconds = np.asarray(step_time(work, plans, setting).total_s, dtype=float)
        needed_B = np.asarray(memory.total_B, dtype=float)
        fits = needed_B <= usable_memory_B(fleet.node.accelerator.memory_capacity_B)
        order = [int(i) for i in np.argsort(np.where(fits, seconds, np.inf), kind="stable")[: min(kept, int(fits.sum()))]]
        ranking = tuple(_row(plans, i, seconds[i], needed_B[i]) for i in order)
        best = None
        if ranking:
            best = DistributedModel().solve(workload, fleet, **asked, tp_size=ranking[0]["tp"], pp_size=ranking[0]["pp"])
        return _result(setting, best, ranking, needed_B, int(fits.sum()))


def divisors(number: int) -> list[int]:
    """All divisors, smallest first.

    Example:
        >>> divisors(24)
        [1, 2, 3, 4, 6, 8, 12, 24]
    """
    return [d for d in range(1, number + 1) if number % d == 0]


def legal_plans(setting: TrainingSetting) -> Plan:
    """Every legal TP x PP x DP of the setting's fleet, as one plan of arrays.

    Legal: TP divides the heads, stays within a node and has a token for each rank; a stage has at least one layer; DP divides
    the batch.
    """
    fleet, model = setting.fleet, setting.workload
    ranks = fleet.accelerators
    heads, layers = (model.heads, model.layers) if isinstance(model, TransformerWorkload) else (1, 1)
    per_node = fleet.node.accelerators_per_node
    splits = [
        (tp, pp)
        for tp in divisors(per_node)
        for pp in divisors(ranks // tp)
        if heads % tp == 0 and tp <= setting.seq_len and pp <= layers and setting.batch_size % (ranks // (tp * pp)) == 0
    ]
    if not splits:
        expected = f"one that some data-parallel size of {ranks} accelerators divides"
        raise InconsistentError("batch_size", setting.batch_size, expected)
    tp, pp = (np.array(sizes, dtype=float) for sizes in zip(*splits, strict=True))
    dp: npt.NDArray[np.float64] = ranks / (tp * pp)
    ones = np.ones_like(tp)
    formats = setting.formats
    return Plan(
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ones,
        virtual_stages=ones,
        micro_batches=setting.batch_size / dp,
        micro_batch_tokens=ones * setting.seq_len,
        zero_stage=ones * setting.zero_stage,
        sequence_parallel=(tp > 1).astype(float),
        recompute=ones * (setting.recompute or 0),
        schedule=ones * ONE_F_ONE_B,
        weight_B=formats.weight_B,
        gradient_B=formats.gradient_B,
        optimizer_B=formats.optimizer_B,
    )


def _row(plans: Plan, i: int, seconds: float, needed_B: float) -> dict[str, Any]:
    one = {name: np.broadcast_to(np.asarray(getattr(plans, name)), np.shape(plans.tp))[i] for name in _SHOWN}
    row: dict[str, Any] = {name: int(value) for name, value in one.items()}
    row["recompute"] = RECOMPUTE_MODES[row["recompute"]]
    return {**row, "step_latency": with_unit(float(seconds), "second"), "memory": with_unit(float(needed_B), "byte")}


_SHOWN = ("tp", "pp", "dp", "micro_batches", "recompute")


def _result(
    setting: TrainingSetting,
    best: DistributedResult | None,
    ranking: tuple[dict[str, Any], ...],
    needed_B: npt.NDArray[np.float64],
    total_feasible: int,
) -> ParallelismResult:
    fleet = setting.fleet
    device = fleet.node.accelerator
    reason, notes = "", ()
    if best is None:
        usable = usable_memory_B(device.memory_capacity_B)
        reason = (
            f"none of {needed_B.size} plans fits: the smallest needs {needed_B.min() / 1e9:.1f} GB on each {device.name}, "
            f"of which {usable / 1e9:.1f} GB are usable"
        )
    breakdown: dict[str, Quantity] = {} if best is None else dict(best.breakdown)
    return ParallelismResult(
        solver="ParallelismOptimizer",
        subject=f"{setting.workload.name} on {fleet.accelerators} x {device.name}, batch {setting.batch_size}",
        basis=setting.basis,
        feasible=best is not None,
        reason=reason,
        binding="memory capacity" if best is None else best.binding,
        breakdown=breakdown,
        diagnostics=notes if best is None else best.diagnostics,
        best_config={} if best is None else dict(best.plan),
        best=best,
        total_searched=int(needed_B.size),
        total_feasible=total_feasible,
        ranking=ranking,
    )
