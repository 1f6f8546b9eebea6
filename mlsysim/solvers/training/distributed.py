"""One training step of a fleet: ``DistributedModel``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Unpack

from mlsysim.calibration.memory import usable_memory_B
from mlsysim.calibration.operations.power import AcceleratorLoad
from mlsysim.core.checks import strict_keywords
from mlsysim.core.units import Quantity, with_unit, with_units
from mlsysim.lowering.feasibility import over_budget
from mlsysim.lowering.operations.power import training_activity
from mlsysim.lowering.options import StepOptions
from mlsysim.lowering.training_kernels import coefficients_used, kernels_of_step, step_time
from mlsysim.lowering.training_plan import training_step
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.lowering.work import training_work
from mlsysim.models.types import CNNWorkload, Workload
from mlsysim.physics.layer.work import FULL, NONE, RECOMPUTE_MODES, SELECTIVE, LayeredWork
from mlsysim.physics.numeric import Num, somewhere, where
from mlsysim.physics.plan import SCHEDULES, Plan
from mlsysim.physics.records import chosen
from mlsysim.physics.training.memory import MEMORY_PARTS, MemoryUse, training_memory
from mlsysim.physics.training.step import StepTime
from mlsysim.solvers.result import DrawnResult, SampledResult, beyond_context, drawn, run_facts
from mlsysim.solvers.step_kernels import StepKernels, told
from mlsysim.systems.types import Fleet


@dataclass(frozen=True, kw_only=True)
class DistributedResult(SampledResult, DrawnResult):
    """One optimizer step.

    ``mfu`` counts model FLOP (causal attention once, no recomputation) over peak x time; ``mfu_full_attention`` counts
    attention without the causal discount, as PaLM's and most published MFU do. ``scaling_efficiency`` is MFU over the
    caller's efficiency (over 1 for the bound). ``throughput`` counts samples, ``tokens_per_second`` tokens. ``memory_free`` is
    what the plan leaves of the memory that the runtime does not take, 0 where it does not fit. ``energy`` is that
    of a step.
    """

    HEADLINE = (
        *("step_latency_total", "tokens_per_second", "mfu", "memory_per_accelerator", "memory_free"),
        *("power", "energy", "plan"),
    )
    INTERVAL_OF = "step_latency_total"

    step_latency_total: Quantity
    tokens_per_second: Quantity
    tokens_per_second_per_accelerator: Quantity
    mfu_full_attention: float
    scaling_efficiency: float
    flops_per_accelerator: Quantity
    memory_per_accelerator: Quantity
    memory_free: Quantity
    memory: dict[str, Quantity]
    plan: dict[str, Any]

    @property
    def step_time(self) -> Quantity:
        """Time of the step."""
        return self.step_latency_total


class DistributedModel:
    """Training step time, MFU and memory of a parallel plan, from physics.

    Compute is divided over TP and PP; collectives hide under compute as far as they fit, or by the caller's
    ``overlap_efficiency``; the pipeline adds its bubble; memory is that of the fullest rank, and on a ``stack`` also what that
    keeps beyond the textbook. Selective recomputation repeats the attention core, activation functions and norms. Unfused
    attention stores its scores; so does fused-softmax, whose scale, mask and softmax are one kernel; flash-1 is
    FlashAttention-1. More micro-batches than sequences cut sequences in parts.
    """

    @strict_keywords
    def solve(
        self,
        workload: Workload,
        fleet: Fleet,
        *,
        batch_size: int,
        **options: Unpack[StepOptions],
    ) -> DistributedResult:
        """One step of ``workload`` on ``fleet``.

        Args:
            workload: a transformer, or a network of known FLOP a sample (data parallelism only).
            fleet: nodes and the fabric between them.
            batch_size: samples (sequences) in a step, all ranks together.
            **options: see ``TrainingOptions`` and ``PlanOptions``.

        Raises:
            InputError: an argument out of range, or two that contradict each other.

        Example:
            >>> from mlsysim import Models, Systems
            >>> fleet = Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8)
            >>> step = DistributedModel().solve(
            ...     Models.Language.Llama3_8B, fleet, batch_size=128, seq_len=8192, tp_size=2, efficiency=0.5
            ... )
            >>> step.feasible, step.plan["dp"], 0.4 < step.mfu <= 0.5
            (True, 32, True)
        """
        setting, plan = training_step(workload, fleet, batch_size=batch_size, **options)
        work = training_work(setting.workload, setting.seq_len, setting.adapters)
        plan, memory = with_recompute(work, plan, setting)
        step = step_time(work, plan, setting)
        return distributed_result(setting, work, plan, memory, step)

    @strict_keywords
    def kernels(
        self,
        workload: Workload,
        fleet: Fleet,
        *,
        batch_size: int,
        **options: Unpack[StepOptions],
    ) -> StepKernels:
        """The kernels of the forward and backward passes of one step on a ``stack``, what recomputation repeats left out.

        Args:
            workload: a transformer.
            fleet: nodes and the fabric between them.
            batch_size: samples (sequences) in a step, all ranks together.
            **options: see ``TrainingOptions`` and ``PlanOptions``.

        Raises:
            InputError: as ``solve``; without a ``stack`` a layer has no kernels to tell of.

        Example:
            >>> from mlsysim import Models, Systems
            >>> fleet = Fleet(name="8 H100", node=Systems.Nodes.DGX_H100, count=1)
            >>> step = DistributedModel().kernels(
            ...     Models.Language.Llama3_8B, fleet, batch_size=64, seq_len=8192, tp_size=2, stack="megatron-core"
            ... )
            >>> step.kernels[0].name, step.busy < step.step
            ('feed-forward up', True)
        """
        setting, plan = training_step(workload, fleet, batch_size=batch_size, **options)
        work = training_work(setting.workload, setting.seq_len, setting.adapters)
        plan, _ = with_recompute(work, plan, setting)
        listed = kernels_of_step(work, plan, setting)
        step_s = float(step_time(work, plan, setting).total_s)
        bandwidth_Bps = setting.fleet.node.accelerator.memory_bandwidth_Bps
        return told(_subject(setting), listed, step_s, setting.peak_flops_per_s, bandwidth_Bps)


def with_recompute(
    work: LayeredWork, plan: Plan, setting: TrainingSetting, budget_B: float | None = None
) -> tuple[Plan, MemoryUse]:
    """``plan`` with its recompute mode and memory: the given one, else the cheapest that fits, else none.

    Takes plans of scalars or of arrays. ``budget_B`` is by default what the accelerator has.
    """
    terms = setting.memory_terms
    if setting.recompute is not None:
        return plan, training_memory(work, plan, terms)
    usable = usable_memory_B(setting.fleet.node.accelerator.memory_capacity_B) if budget_B is None else budget_B
    recompute: Num = plan.micro_batches * 0.0 + NONE
    memory = training_memory(work, replace(plan, recompute=recompute), terms)
    too_big = where(memory.total_B > usable, 1.0, 0.0)
    for mode in (SELECTIVE, FULL):
        if not somewhere(too_big):
            break
        other = training_memory(work, replace(plan, recompute=recompute * 0.0 + mode), terms)
        mended = where(other.total_B <= usable, too_big, 0.0)
        recompute = where(mended == 1.0, mode, recompute)
        memory = chosen(mended == 1.0, other, memory)
        too_big = too_big - mended
    return replace(plan, recompute=recompute), memory


def plan_summary(plan: Plan) -> dict[str, Any]:
    """A plan of scalars in the field's terms."""
    return {
        "tp": int(plan.tp),
        "pp": int(plan.pp),
        "dp": int(plan.dp),
        "cp": int(plan.cp),
        "ep": int(plan.ep),
        "virtual_stages": int(plan.virtual_stages),
        "micro_batches": int(plan.micro_batches),
        "micro_batch_tokens": int(plan.micro_batch_tokens),
        "schedule": SCHEDULES[int(plan.schedule)],
        "zero_stage": int(plan.zero_stage),
        "sequence_parallel": bool(plan.sequence_parallel),
        "recompute": RECOMPUTE_MODES[int(plan.recompute)],
    }


def distributed_result(
    setting: TrainingSetting, work: LayeredWork, plan: Plan, memory: MemoryUse, step: StepTime
) -> DistributedResult:
    """The answer from the step and the memory of a plan, all of them records of floats."""
    parts = {name: float(part_s) for name, part_s in step.each_s().items()}
    sizes = {part.removesuffix("_B"): float(getattr(memory, part)) for part in MEMORY_PARTS}
    seconds, needed_B = sum(parts.values()), sum(sizes.values())
    fleet, tokens = setting.fleet, setting.batch_size * setting.seq_len
    device = fleet.node.accelerator
    reason = over_budget(needed_B, device, "each", sizes)
    machine_flops = setting.peak_flops_per_s * fleet.accelerators * seconds
    mfu = work.training_flops * tokens / machine_flops
    achieved = work.training_flops * tokens / fleet.accelerators / seconds
    activity = None if setting.basis == "bound" else training_activity(setting, work, plan, step)
    return DistributedResult(
        solver="DistributedModel",
        subject=_subject(setting),
        basis=setting.basis,
        reason=reason,
        binding="memory capacity" if reason else max(parts, key=lambda name: parts[name]).replace("_", " "),
        breakdown=with_units(parts, "second"),
        diagnostics=(*_diagnostics(setting, plan), *(textbook_memory(setting) if reason else ())),
        coefficients=coefficients_used(setting),
        facts=run_facts(setting.workload, device, setting.stack, fleet.accelerators),
        step_latency_total=with_unit(seconds, "second"),
        throughput=with_unit(setting.batch_size / seconds, "count/second"),
        tokens_per_second=with_unit(tokens / seconds, "count/second"),
        tokens_per_second_per_accelerator=with_unit(tokens / seconds / fleet.accelerators, "count/second"),
        mfu=mfu,
        mfu_full_attention=work.training_flops_full_attention * tokens / machine_flops,
        scaling_efficiency=mfu / (1.0 if setting.efficiency is None else setting.efficiency),
        flops_per_accelerator=with_unit(achieved, "flop/second"),
        memory_per_accelerator=with_unit(needed_B, "byte"),
        memory_free=with_unit(max(usable_memory_B(device.memory_capacity_B) - needed_B, 0.0), "byte"),
        memory=with_units(sizes, "byte"),
        plan=plan_summary(plan),
        **drawn(AcceleratorLoad.of(device, activity, float(fleet.accelerators), fleet.accelerators * seconds, "joule")),
    )


def _subject(setting: TrainingSetting) -> str:
    fleet = setting.fleet
    return f"{setting.workload.name} on {fleet.accelerators} x {fleet.node.accelerator.name}, batch {setting.batch_size}"


def textbook_memory(setting: TrainingSetting) -> tuple[str, ...]:
    """What a reader should know of memory that no stack was asked of: a plan that does not fit may fit on one."""
    if setting.stack is not None:
        return ()
    formats = setting.formats
    bytes_each = formats.weight_B + formats.gradient_B + formats.optimizer_B
    return (f"memory is the textbook's, {bytes_each:g} bytes a parameter and what a layer keeps: a stack has its own",)


def _diagnostics(setting: TrainingSetting, plan: Plan) -> tuple[str, ...]:
    notes = []
    model = setting.workload
    tokens = int(plan.micro_batch_tokens * plan.cp)
    if tokens < setting.seq_len:
        notes.append(
            f"a micro-batch is {tokens} tokens, a part of the {setting.seq_len}-token sequence: it needs "
            "a schedule that carries attention across micro-batches"
        )
    notes += beyond_context(model, setting.seq_len)
    if isinstance(model, CNNWorkload) and model.activations is None:
        notes.append(f"activation memory is not counted: {model.name} does not say how many it keeps")
    if plan.tp > setting.fleet.node.accelerators_per_node:
        notes.append(f"tensor parallelism of {int(plan.tp)} crosses nodes of {setting.fleet.node.accelerators_per_node}")
    if setting.stack is None and plan.cp > 1:
        notes.append(
            f"without a stack kernels are as fast however finely cp_size = {int(plan.cp)} cuts them: it costs its ring alone"
        )
    layers = getattr(model, "layers", 1)
    if layers % (plan.pp * plan.virtual_stages):
        notes.append(f"{layers} layers do not divide over {int(plan.pp)} stages: the fullest has {-(-layers // int(plan.pp))}")
    return tuple(notes)
