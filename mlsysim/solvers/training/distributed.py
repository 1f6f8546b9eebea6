"""One training step of a fleet: ``DistributedModel``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mlsysim.calibration.memory import usable_memory_B
from mlsysim.core.checks import strict_keywords
from mlsysim.core.units import Quantity, with_unit
from mlsysim.lowering.feasibility import over_budget
from mlsysim.lowering.training_kernels import coefficients_used, step_time
from mlsysim.lowering.training_setting import TrainingSetting, check_plan, check_setting
from mlsysim.lowering.work import training_work
from mlsysim.models.types import CNNWorkload, TransformerWorkload, Workload
from mlsysim.physics.layer.work import FULL, NONE, RECOMPUTE_MODES, SELECTIVE, LayeredWork
from mlsysim.physics.numeric import Num, somewhere, where
from mlsysim.physics.plan import SCHEDULES, Plan
from mlsysim.physics.training.memory import MEMORY_PARTS, MemoryUse, choose, training_memory
from mlsysim.physics.training.step import STEP_PARTS, StepTime
from mlsysim.solvers.result import Result
from mlsysim.systems.types import Fleet


@dataclass(frozen=True, kw_only=True)
class DistributedResult(Result):
    """One optimizer step.

    ``mfu`` counts model FLOP (causal attention once, no recomputation) over peak x time; ``mfu_full_attention`` counts
    attention without the causal discount, as PaLM's and most published MFU do. ``scaling_efficiency`` is MFU over the
    caller's efficiency (over 1 for the bound). ``throughput`` counts samples, ``tokens_per_second`` tokens.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ("step_latency_total", "tokens_per_second", "mfu", "memory_per_accelerator", "plan")

    step_latency_total: Quantity
    throughput: Quantity
    tokens_per_second: Quantity
    tokens_per_second_per_accelerator: Quantity
    mfu: float
    mfu_full_attention: float
    scaling_efficiency: float
    flops_per_accelerator: Quantity
    memory_per_accelerator: Quantity
    memory: dict[str, Quantity]
    plan: dict[str, Any]


class DistributedModel:
    """Training step time, MFU and memory of a parallel plan, from physics.

    Compute is divided over TP and PP; collectives hide under compute as far as they fit, or by the caller's
    ``overlap_efficiency``; the pipeline adds its bubble; memory is that of the fullest rank.
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
        tp_size: int = 1,
        pp_size: int = 1,
        dp_size: int | None = None,
        ep_size: int = 1,
        cp_size: int = 1,
        expert_tp_size: int | None = None,
        virtual_stages: int = 1,
        microbatch_count: int | None = None,
        schedule: str | None = None,
        zero_stage: int = 1,
        sequence_parallel: bool | None = None,
        shard_size: int | None = None,
        recompute: str | None = None,
        gradient_precision: str | None = None,
        overlap_comm: bool = True,
        overlap_efficiency: float | None = None,
        straggler_factor: float = 1.0,
        congestion_factor: float = 1.0,
        stack: str | None = None,
        attention: str = "flash",
        lora_rank: int | None = None,
        routing_imbalance: float | None = None,
    ) -> DistributedResult:
        """One step of ``workload`` on ``fleet``.

        Args:
            workload: a transformer, or a network of known FLOP a sample (data parallelism only).
            fleet: nodes and the fabric between them.
            batch_size: samples (sequences) in a step, all ranks together.
            seq_len: tokens of a sequence (4096).
            precision: of the matrix products.
            efficiency: share of peak that the caller owns; without it the result is the bound.
            tp_size: tensor-parallel ranks.
            pp_size: pipeline stages.
            dp_size: data-parallel ranks: what TP, PP and CP leave; giving it only checks it.
            ep_size: expert-parallel ranks, out of the ranks of a stage that the experts' own TP leaves.
            cp_size: context-parallel ranks, which share each sequence and pass keys and values around a ring.
            expert_tp_size: ranks that share one expert's matrices; by default as many as tp_size.
            virtual_stages: model chunks a stage (interleaved schedule).
            microbatch_count: micro-batches a step (one sequence each); more than sequences cuts sequences in parts.
            schedule: gpipe, 1f1b, interleaved.
            zero_stage: 0 to 3 (1).
            sequence_parallel: split norms and residuals over TP; by default whenever tp_size > 1.
            shard_size: data-parallel ranks that ZeRO shards over (hybrid sharding: replicas of such groups); by default all.
            recompute: none, selective (attention core, activation functions, norms) or full; by default the cheapest
                that fits, and none where nothing fits.
            gradient_precision: bf16, fp16 or fp32; 16-bit by default.
            overlap_comm: whether collectives may hide under compute.
            overlap_efficiency: the share of every collective that hides; by default what fits under the compute that can
                hide it.
            straggler_factor: how much slower the slowest rank is (>= 1).
            congestion_factor: how much slower the fabric is than its rate (>= 1).
            stack: a software stack such as "megatron-2021": time from calibrated kernels instead of an efficiency, and
                memory with what the stack keeps beyond the textbook.
            attention: flash, flash-1 (FlashAttention-1), unfused (scores are stored) or fused-softmax (the same, with scale,
                mask and softmax in one kernel); calibrated basis only.
            lora_rank: train low-rank adapters of the attention products alone, all weights frozen.
            routing_imbalance: tokens of the busiest expert-parallel rank over the mean (1.0: balanced); calibrated basis only.

        Raises:
            InputError: an argument out of range, or two that contradict each other.

        Example:
            >>> from mlsysim.models.registry import Models
            >>> from mlsysim.systems.registry import Systems
            >>> fleet = Fleet(name="64 H100", node=Systems.Nodes.DGX_H100, count=8)
            >>> step = DistributedModel().solve(
            ...     Models.Language.Llama3_8B, fleet, batch_size=128, seq_len=8192, tp_size=2, efficiency=0.5
            ... )
            >>> step.feasible, step.plan["dp"], 0.4 < step.mfu <= 0.5
            (True, 32, True)
        """
        setting = check_setting(
            workload,
            fleet,
            batch_size=batch_size,
            seq_len=seq_len,
            precision=precision,
            efficiency=efficiency,
            zero_stage=zero_stage,
            recompute=recompute,
            gradient_precision=gradient_precision,
            overlap_comm=overlap_comm,
            overlap_efficiency=overlap_efficiency,
            straggler_factor=straggler_factor,
            congestion_factor=congestion_factor,
            stack=stack,
            attention=attention,
            lora_rank=lora_rank,
            routing_imbalance=routing_imbalance,
        )
        plan = check_plan(
            setting,
            tp_size=tp_size,
            pp_size=pp_size,
            dp_size=dp_size,
            ep_size=ep_size,
            cp_size=cp_size,
            expert_tp_size=expert_tp_size,
            virtual_stages=virtual_stages,
            microbatch_count=microbatch_count,
            schedule=schedule,
            sequence_parallel=sequence_parallel,
            shard_size=shard_size,
        )
        work = training_work(setting.workload, setting.seq_len, setting.lora_rank)
        plan, memory = with_recompute(work, plan, setting)
        step = step_time(work, plan, setting)
        return distributed_result(setting, work, plan, memory, step)


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
        memory = choose(mended == 1.0, other, memory)
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
    parts = {part.removesuffix("_s"): float(getattr(step, part)) for part in STEP_PARTS}
    sizes = {part.removesuffix("_B"): float(getattr(memory, part)) for part in MEMORY_PARTS}
    seconds, needed_B = sum(parts.values()), sum(sizes.values())
    fleet, tokens = setting.fleet, setting.batch_size * setting.seq_len
    reason = over_budget(needed_B, fleet.node.accelerator, "each", sizes)
    machine_flops = setting.peak_flops_per_s * fleet.accelerators * seconds
    mfu = work.training_flops * tokens / machine_flops
    achieved = work.training_flops * tokens / fleet.accelerators / seconds
    return DistributedResult(
        solver="DistributedModel",
        subject=f"{setting.workload.name} on {fleet.accelerators} x {fleet.node.accelerator.name}, batch {setting.batch_size}",
        basis=setting.basis,
        feasible=not reason,
        reason=reason,
        binding="memory capacity" if reason else max(parts, key=lambda name: parts[name]).replace("_", " "),
        breakdown={name: with_unit(part, "second") for name, part in parts.items()},
        diagnostics=_diagnostics(setting, plan),
        coefficients=coefficients_used(setting),
        step_latency_total=with_unit(seconds, "second"),
        throughput=with_unit(setting.batch_size / seconds, "count/second"),
        tokens_per_second=with_unit(tokens / seconds, "count/second"),
        tokens_per_second_per_accelerator=with_unit(tokens / seconds / fleet.accelerators, "count/second"),
        mfu=mfu,
        mfu_full_attention=work.training_flops_full_attention * tokens / machine_flops,
        scaling_efficiency=mfu / (1.0 if setting.efficiency is None else setting.efficiency),
        flops_per_accelerator=with_unit(achieved, "flop/second"),
        memory_per_accelerator=with_unit(needed_B, "byte"),
        memory={name: with_unit(size, "byte") for name, size in sizes.items()},
        plan=plan_summary(plan),
    )


def _diagnostics(setting: TrainingSetting, plan: Plan) -> tuple[str, ...]:
    notes = []
    model = setting.workload
    tokens = int(plan.micro_batch_tokens * plan.cp)
    if tokens < setting.seq_len:
        notes.append(
            f"a micro-batch is {tokens} tokens, a part of the {setting.seq_len}-token sequence: it needs "
            "a schedule that carries attention across micro-batches"
        )
    if isinstance(model, TransformerWorkload) and model.max_seq_len is not None and setting.seq_len > model.max_seq_len:
        notes.append(f"seq_len {setting.seq_len} is beyond the {model.max_seq_len} that {model.name} was made for")
    if isinstance(model, CNNWorkload) and model.activations is None:
        notes.append(f"activation memory is not counted: {model.name} does not say how many it keeps")
    if plan.tp > setting.fleet.node.accelerators_per_node:
        notes.append(f"tensor parallelism of {int(plan.tp)} crosses nodes of {setting.fleet.node.accelerators_per_node}")
    layers = getattr(model, "layers", 1)
    if layers % (plan.pp * plan.virtual_stages):
        notes.append(f"{layers} layers do not divide over {int(plan.pp)} stages: the fullest has {-(-layers // int(plan.pp))}")
    return tuple(notes)
