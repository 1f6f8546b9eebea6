"""The best way to split a training step over a fleet: ``ParallelismOptimizer``."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Unpack

from mlsysim.calibration.memory import plan_margin, usable_memory_B
from mlsysim.core.checks import (
    boolean,
    instance,
    mapping,
    one_of,
    positive_quantity,
    real_number,
    strict_keywords,
    whole_number,
)
from mlsysim.core.choices import Basis, Objective, SearchSpace
from mlsysim.core.errors import InconsistentError, InfeasibleError, InputError, UnknownNameError
from mlsysim.core.units import Quantity, in_gib
from mlsysim.lowering.options import TrainingOptions
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.lowering.work import training_work
from mlsysim.models.types import Workload
from mlsysim.physics.layer.work import RECOMPUTE_MODES
from mlsysim.physics.plan import ONE_F_ONE_B, SCHEDULES
from mlsysim.solvers.recommended import NOTHING_CHOSEN, recommended_stack
from mlsysim.solvers.training.best_plan import best_config, best_figures, solve_arguments, whole_training
from mlsysim.solvers.training.distributed import DistributedModel, DistributedResult, textbook_memory
from mlsysim.solvers.training.objective import check_objective
from mlsysim.solvers.training.plan_space import Choices, size, splits
from mlsysim.solvers.training.search import Found, Question, exhausted
from mlsysim.solvers.training.search_rows import SearchedResult, found_row, in_words, nearest_alternatives, plan_of
from mlsysim.systems.types import Fleet

PAPER_OVERLAP = 0.85
SPACES = ("tp-pp-dp", "full")
# Dimensions that a caller can fix, and those whose values are names.
DIMENSIONS = (
    *("tp", "pp", "cp", "dp", "ep", "virtual_stages", "micro_batch"),
    *("sequence_parallel", "recompute", "zero_stage", "schedule"),
)
_NAMED = {"recompute": RECOMPUTE_MODES, "schedule": SCHEDULES}


@dataclass(frozen=True, kw_only=True)
class ParallelismResult(SearchedResult):
    """The best plan that fits.

    Attributes:
        best_config: its tp, pp, dp and the rest, for ``DistributedModel.solve(**best_config)``; empty when no plan fits.
        best: its full result, or None.
        step_latency_total: its step, with the interval of the result; ``step_time`` is the same.
        tokens_per_second, mfu, memory_per_accelerator, memory_free: of the best plan, as ``DistributedResult`` has them.
        duration: of the whole training, where its ``tokens`` are given; of objective time_to_train with what failures cost.
        cost: of its accelerators over that time, where the ``price`` is given, too; else None.
        faster: what the step would gain if its largest parts beside compute were hidden.
        objective: what was made best, and ``objective_value`` the best plan's.
        ranking: the best plans that fit, best first, each with its step time and memory.
        pareto: the plans that no other beats in both the objective and memory, best first.
        alternatives: for each dimension of the best plan, what its other values cost when nothing else is changed.
        why: the same in words.
        complete: whether the search came to its end (an interrupt returns the best so far).
    """

    INTERVAL_OF = "step_latency_total"
    MEASURED_AS = "DistributedModel"
    ROWS_OF = "ranking"
    HEADLINE = (
        *("best_config", "step_latency_total", "tokens_per_second", "mfu", "memory_per_accelerator", "memory_free"),
        *("duration", "cost", "faster", "total_evaluated", "total_feasible"),
    )

    best_config: dict[str, Any]
    best: DistributedResult | None
    step_latency_total: Quantity | None = None
    objective: str
    objective_value: float | Quantity | None
    ranking: tuple[dict[str, Any], ...]
    pareto: tuple[dict[str, Any], ...]
    alternatives: tuple[dict[str, Any], ...]
    why: tuple[str, ...]
    complete: bool
    tokens_per_second: Quantity | None = None
    mfu: float | None = None
    memory_per_accelerator: Quantity | None = None
    memory_free: Quantity | None = None
    duration: Quantity | None = None
    cost: Quantity | None = None
    faster: str | None = None

    @property
    def step_time(self) -> Quantity | None:
        """Time of the best plan's step."""
        return self.step_latency_total

    def require_best(self) -> DistributedResult:
        """The best plan's result, or ``InfeasibleError``."""
        if self.best is None:
            raise InfeasibleError(f"{self.subject}: {self.reason}")
        return self.best


class ParallelismOptimizer:
    """Exhausts the ways to split a step, each judged by the physics of ``DistributedModel``, many at once.

    ``space="tp-pp-dp"`` is TP x PP x DP: TP within a node, 1F1B, micro-batches of one sequence, one ZeRO stage, the cheapest
    recomputation that fits. ``space="full"`` is TP x PP x VPP x DP x CP x EP x micro-batch x recompute x ZeRO x SP x schedule:
    all legal factorizations. Plans that do not fit are dropped before their time is computed.
    """

    @strict_keywords
    def solve(
        self,
        workload: Workload,
        fleet: Fleet,
        *,
        zero_stage: int | None = None,
        batch_size: int,
        top_k: int = 5,
        space: SearchSpace | str = "tp-pp-dp",
        fixed: Mapping[str, Any] | None = None,
        max_memory: Quantity | str | None = None,
        margin: float | None = None,
        max_tp_size: int | None = None,
        idle_accelerators: bool = False,
        tokens: Quantity | str | int | None = None,
        price: Quantity | str | None = None,
        objective: Objective | str = "step_time",
        accelerator_price: Quantity | str | None = None,
        accelerator_power: Quantity | str | None = None,
        train_tokens: Quantity | str | int | None = None,
        accelerator_mtbf: Quantity | str | None = None,
        checkpoint_time: Quantity | str | None = None,
        restart_time: Quantity | str | None = None,
        executor: Executor | None = None,
        progress: bool | None = None,
        basis: Basis | str | None = None,
        **options: Unpack[TrainingOptions],
    ) -> ParallelismResult:
        """The best plan for ``batch_size`` samples of ``workload`` on ``fleet``.

        Args:
            workload: what is trained.
            fleet: what it is trained on.
            batch_size: samples of a step.
            zero_stage: the one to search (1, or in the full space all).
            top_k: plans to rank.
            space: "tp-pp-dp" or "full".
            fixed: values of dimensions that are not to be searched: one, or several to choose from, such as
                ``{"tp": 8, "pp": (8, 16), "recompute": "none"}``.
            max_memory: most memory of an accelerator (what it has, less the reserve).
            margin: share of that memory that a plan leaves free, because predictions of it are not exact. By default, on a
                stack, the least with which hardly a published layout ran out of memory that was predicted to fit; else none.
            max_tp_size: most TP ranks; by default those of a node: wider, its collectives cross the network.
            idle_accelerators: whether a plan may leave accelerators unused: whole nodes, or part of one.
            tokens: of the whole training, to tell how long it takes; another name of ``train_tokens``.
            price: of one accelerator, such as "2.5 USD/hour", to tell what that costs; another name of ``accelerator_price``.
            objective: step_time, mfu, tokens_per_dollar, tokens_per_joule or time_to_train; they can differ only between
                plans of different numbers of accelerators.
            accelerator_price: of one accelerator, such as "2.5 USD/hour" (for tokens_per_dollar).
            accelerator_power: of one accelerator with its share of the node (for tokens_per_joule; by default the node's most,
                or the TDP).
            train_tokens: of the whole training (for time_to_train).
            accelerator_mtbf: mean time between failures that stop the job, of one accelerator with its share of the node (for
                time_to_train).
            checkpoint_time: of writing one (for time_to_train).
            restart_time: of a restart (for time_to_train).
            executor: any ``concurrent.futures`` executor to run the parts of a large search, such as Dask's
                ``client.get_executor()``; by default this process.
            progress: whether to show a bar (by default on a terminal, after a second, with the extra ``cli``).
            basis: "bound" for the speed of light, which ``space="tp-pp-dp"`` is anyway without ``stack`` or ``efficiency``; the
                full space then takes the stack that is best supported on the accelerator, and names it.
            **options: those of ``DistributedModel.solve`` that all plans share, see ``TrainingOptions``.

        Raises:
            InputError: an argument out of range, or no legal plan at all (no factorization divides the batch).

        Example:
            >>> from mlsysim import Models, Systems
            >>> fleet = Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8)
            >>> found = ParallelismOptimizer().solve(Models.Language.Llama3_70B, fleet, batch_size=64, efficiency=0.5)
            >>> found.feasible, found.total_legal >= found.total_evaluated >= found.total_feasible > 0
            (True, True)
            >>> more = ParallelismOptimizer().solve(
            ...     Models.Language.Llama3_70B, fleet, batch_size=64, efficiency=0.5, space="full", fixed={"cp": 1}
            ... )
            >>> more.best.step_latency_total <= found.best.step_latency_total, more.total_evaluated > 1000
            (True, True)
        """
        whole = one_of("space", space, SPACES) == "full"
        chosen = recommended_stack(workload, fleet, options, basis) if whole or basis is not None else NOTHING_CHOSEN
        asked = chosen.added_to(options)
        if not (asked.get("stack") or asked.get("overlap_efficiency") is not None) and asked.get("overlap_comm", True) is True:
            asked["overlap_efficiency"] = PAPER_OVERLAP
        setting = TrainingSetting.of(
            workload, fleet, batch_size=batch_size, zero_stage=1 if zero_stage is None else zero_stage, **asked
        )
        choices = _choices(setting, whole, zero_stage, fixed, max_tp_size, boolean("idle_accelerators", idle_accelerators))
        work = training_work(setting.workload, setting.seq_len, setting.adapters)
        step_tokens = setting.batch_size * setting.seq_len
        whole_run = whole_training(tokens, train_tokens, price, accelerator_price)
        prices = {
            "accelerator_price": price if accelerator_price is None and objective == "tokens_per_dollar" else accelerator_price,
            "accelerator_power": accelerator_power,
            "train_tokens": tokens if train_tokens is None and objective == "time_to_train" else train_tokens,
            "accelerator_mtbf": accelerator_mtbf,
            "checkpoint_time": checkpoint_time,
            "restart_time": restart_time,
        }
        goal = check_objective(
            objective,
            fleet,
            step_tokens=step_tokens,
            peak_step_s=work.training_flops * step_tokens / setting.peak_flops_per_s,
            given=prices,
        )
        free = _margin(margin, setting)
        budget_B = (1 - free) * usable_memory_B(fleet.node.accelerator.memory_capacity_B)
        if max_memory is not None:
            budget_B = min(budget_B, positive_quantity("max_memory", max_memory, "byte"))
        question = Question(setting, choices, goal, budget_B, whole_number("top_k", top_k))
        parts = splits(setting, choices)
        if executor is not None:
            instance("executor", executor, Executor, "a concurrent.futures executor")
        result, complete = exhausted(question, parts, executor, progress)
        if not result.legal and complete:
            raise _no_plan(setting, fixed)
        left = (f"every plan leaves {100 * free:g} % of the usable memory free (margin)",) if free else ()
        return _result(question, asked, result, complete, (*chosen.notes, *left), whole_run)


def _choices(
    setting: TrainingSetting,
    whole: bool,
    zero_stage: int | None,
    fixed: Mapping[str, Any] | None,
    max_tp_size: int | None,
    idle: bool,
) -> Choices:
    """Read the dimensions that the caller leaves open."""
    most = setting.fleet.node.accelerators_per_node if max_tp_size is None else whole_number("max_tp_size", max_tp_size)
    if whole:
        choices = Choices(max_tp=most, idle=idle)
        if zero_stage is not None:
            choices = replace(choices, zero_stage=(setting.zero_stage,))
        if setting.recompute is not None:
            choices = replace(choices, recompute=(setting.recompute,))
    else:
        choices = Choices(
            cp=(1,),
            ep=(1,),
            virtual_stages=(1,),
            micro_batch=(1,),
            sequence_parallel=None,
            recompute=None if setting.recompute is None else (setting.recompute,),
            zero_stage=(setting.zero_stage,),
            schedule=(ONE_F_ONE_B,),
            max_tp=most,
            idle=idle,
        )
    choices = replace(choices, expert_tp=setting.expert_tp, shard=setting.shards)
    named = {} if fixed is None else mapping("fixed", fixed, f"values of {', '.join(DIMENSIONS)}, by these names")
    given: dict[str, Any] = {name: _values(name, value) for name, value in named.items()}
    return replace(choices, **given)


def _margin(margin: float | None, setting: TrainingSetting) -> float:
    """The share of memory that plans leave free: as asked, else what measured layouts of stacks justify."""
    if margin is None:
        return 0.0 if setting.stack is None else plan_margin()
    share = real_number("margin", margin, 0.0)
    if share >= 1:
        raise InputError("margin", margin, "a share of the memory, at least 0 and less than 1")
    return share


def _values(name: str, given: Any) -> tuple[Any, ...]:
    """The values of a dimension that the caller allows."""
    if name not in DIMENSIONS:
        raise UnknownNameError.among("fixed", name, DIMENSIONS)
    several = given if isinstance(given, (tuple, list, range)) else (given,)
    argument = f"fixed[{name!r}]"
    if not several:
        raise InputError(argument, given, "at least one value")
    if name in _NAMED:
        return tuple(_NAMED[name].index(one_of(argument, value, _NAMED[name])) for value in several)
    if name == "sequence_parallel":
        return tuple(boolean(argument, value) for value in several)
    if name == "zero_stage" and any(value not in (0, 1, 2, 3) for value in several):
        raise InputError(argument, given, "0, 1, 2 or 3")
    return tuple(whole_number(argument, value, minimum=0 if name == "zero_stage" else 1) for value in several)


def _no_plan(setting: TrainingSetting, fixed: Mapping[str, Any] | None) -> InputError:
    if fixed:
        return InconsistentError("fixed", dict(fixed), "values of which some legal plan has all")
    expected = f"one that some data-parallel size of {setting.fleet.accelerators} accelerators divides"
    return InconsistentError("batch_size", setting.batch_size, expected)


def used_fleet(fleet: Fleet, accelerators: int) -> Fleet:
    """The part of ``fleet`` that a plan of so many accelerators uses."""
    if accelerators == fleet.accelerators:
        return fleet
    per_node = fleet.node.accelerators_per_node
    if accelerators % per_node == 0:
        return fleet.model_copy(update={"count": accelerators // per_node})
    return fleet.model_copy(update={"count": 1, "node": fleet.node.model_copy(update={"accelerators_per_node": accelerators})})


def _result(
    question: Question,
    asked: dict[str, Any],
    result: Found,
    complete: bool,
    said: tuple[str, ...],
    whole_run: tuple[float | None, float | None],
) -> ParallelismResult:
    """The answer; ``said`` is what its card notes, ``whole_run`` tokens and price of the whole training."""
    setting, fleet = question.setting, question.setting.fleet
    device = fleet.node.accelerator
    best, reason, value, config = None, "", None, dict[str, Any]()
    figures: dict[str, Any] = {"binding": "memory capacity"}
    alternatives: tuple[dict[str, Any], ...] = ()
    if result.feasible:
        first = result.best[:, 0]
        plan = plan_of(first)
        used = plan["tp"] * plan["pp"] * plan["dp"] * plan["cp"]
        arguments = {**asked, **solve_arguments(plan), "batch_size": setting.batch_size}
        best = DistributedModel().solve(setting.workload, used_fleet(fleet, used), **arguments)
        config, figures = best_config(best, plan), best_figures(best, used, question.objective, *whole_run)
        value = question.objective.value(float(first[-2]), used)
        alternatives = tuple(nearest_alternatives(question, first))
    else:
        reason = (
            f"none of {result.legal} plans fits: the smallest needs {in_gib(result.least_B)} on each {device.name}, "
            f"of which {in_gib(question.budget_B)} are usable"
        )
    notes = (*said, *(() if complete else ("the search was interrupted: the best so far",)))
    return ParallelismResult(
        solver="ParallelismOptimizer",
        subject=f"{setting.workload.name} on {fleet.accelerators} x {device.name}, batch {setting.batch_size}",
        basis=setting.basis,
        reason=reason,
        diagnostics=(*notes, *textbook_memory(setting)) if best is None else (*notes, *best.diagnostics),
        best_config=config,
        best=best,
        objective=question.objective.name,
        objective_value=value,
        total_space=size(setting, question.choices),
        total_legal=result.legal,
        total_evaluated=result.evaluated,
        total_feasible=result.feasible,
        total_searched=result.legal,
        ranking=tuple(found_row(column) for column in result.best.T),
        pareto=tuple(found_row(column) for column in result.front.T),
        alternatives=alternatives,
        why=tuple(in_words(row, question.budget_B) for row in alternatives),
        complete=complete,
        **figures,
    )
