"""What a kind of work achieves on an accelerator: ``EfficiencyModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import instance, one_of, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.options import STACK_OPTIONS
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.analysis.levers import plain_value
from mlsysim.solvers.recommended import recommended_engine, recommended_stack
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.systems.fleets import usual_node, whole_nodes
from mlsysim.systems.types import Fleet, Node

# What each kind of work is a share of: the peak of arithmetic, or the rate at which the bound reads weights and caches.
WORK = ("training", "prefill", "decode")
_TOKENS, _SEQUENCES_EACH = 2048, 8


@dataclass(frozen=True, kw_only=True)
class EfficiencyResult(Result):
    """The share of the hardware that a kind of work achieves.

    Attributes:
        efficiency: model FLOP over peak x time of training and prefill; of decoding, the bound's time over the step's.
        low: the lower end of where nine in ten measurements are expected; None where nothing like it was measured.
        high: the upper end.
        work: "training", "prefill" or "decode".
        stack: the stack or the engine, with which it is achieved.
        runs: published runs that the interval rests on.
        answer: the solver's own result.
    """

    HEADLINE = ("efficiency", "low", "high", "work", "stack", "runs")

    efficiency: float
    low: float | None
    high: float | None
    work: str
    stack: str
    runs: int
    answer: Result


class EfficiencyModel:
    """The efficiency that other tools ask their users for, as the calibrated solvers find it, with what was measured like it.

    Training counts model FLOP (MFU), with causal attention once and no recomputation; decoding is a share of the bound,
    because it waits for memory.
    """

    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        work: str = "training",
        batch_size: int | None = None,
        tokens: int = _TOKENS,
        **arguments: Any,
    ) -> EfficiencyResult:
        """Tell what share of the hardware is reached.

        Args:
            workload: a transformer.
            hardware: an accelerator (of training: a node of them), a node or a fleet.
            work: "training", "prefill" or "decode".
            batch_size: sequences of a step or in flight; by default 8 an accelerator of training, and 1 of serving.
            tokens: of a sequence.
            **arguments: what else ``DistributedModel`` or ``ServingModel`` take: ``stack``, ``tp_size``, ``precision``, ...;
                without ``stack`` the best supported of the accelerator is taken.

        Raises:
            InputError: an argument out of range, no such kind of work, or an ``efficiency``, which is what is asked for.
            InfeasibleError: the model does not fit.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> found = EfficiencyModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.H100, work="decode", batch_size=16)
            >>> 0.5 < found.low < found.efficiency < found.high < 1.1
            True
        """
        kind = one_of("work", work, WORK)
        instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
        if "efficiency" in arguments:
            raise InconsistentError("efficiency", arguments["efficiency"], "nothing: it is what is asked for")
        length = whole_number("tokens", tokens)
        asked = (workload, hardware, batch_size, length, arguments)
        answer, field, share = _training(*asked) if kind == "training" else _serving(kind, *asked)
        interval = answer.interval_of(field)
        ends: list[float] | None = None
        if interval is not None:
            reached = plain_value(answer, field)
            over = [float(getattr(end, "magnitude", end)) / reached for end in (interval.low, interval.high)]
            # A share of the bound falls where the time grows.
            ends = sorted(share / part if kind == "decode" else share * part for part in over)
        return EfficiencyResult(
            solver="EfficiencyModel",
            subject=f"{kind} of {answer.subject}",
            efficiency=share,
            low=None if ends is None else ends[0],
            high=None if ends is None else ends[1],
            work=kind,
            stack="" if answer.facts is None else answer.facts.stack,
            runs=0 if interval is None else interval.runs,
            answer=answer,
            **answer.taken("basis", "binding", "diagnostics", "coefficients"),
        )


def _training(
    workload: TransformerWorkload, hardware: Any, batch_size: int | None, tokens: int, arguments: dict[str, Any]
) -> tuple[Result, str, float]:
    if isinstance(hardware, Node):
        fleet = whole_nodes(hardware, 1)
    elif isinstance(hardware, HardwareNode):
        fleet = whole_nodes(usual_node(hardware), 1)
    else:
        fleet = instance("hardware", hardware, Fleet, "an accelerator such as Hardware.Cloud.H100, a Node or a Fleet")
    asked = recommended_stack(workload, fleet, arguments, None).added_to(arguments)
    batch = _SEQUENCES_EACH * fleet.accelerators if batch_size is None else batch_size
    step = DistributedModel().solve(workload, fleet, batch_size=batch, seq_len=tokens, **asked).require_feasible()
    return step, "mfu", step.mfu


def _serving(
    kind: str, workload: TransformerWorkload, hardware: Any, batch_size: int | None, tokens: int, arguments: dict[str, Any]
) -> tuple[Result, str, float]:
    asked = recommended_engine(workload, hardware, arguments, None).added_to(arguments)
    load: dict[str, Any] = {"batch_size": 1 if batch_size is None else batch_size, "input_len": tokens}
    run = ServingModel().solve(workload, hardware, **load, **asked).require_feasible()
    if kind == "prefill":
        return run, "prefill_mfu", run.prefill_mfu
    bound = {name: value for name, value in asked.items() if name not in ("stack", *STACK_OPTIONS)}
    light = ServingModel().solve(workload, hardware, **load, **bound)
    return run, "itl", float((light.itl / run.itl).m_as(""))
