"""The checked input of a distributed training step, and its lowering to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.calibration.stacks import stack as known_stack
from mlsysim.calibration.stacks import stack_names
from mlsysim.core.checks import boolean, fraction, instance, one_of, real_number, whole_number
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.precision import bytes_per_element, precision_name
from mlsysim.models.types import CNNWorkload, TransformerWorkload, Workload
from mlsysim.physics.layer.work import RECOMPUTE_MODES
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import INTERLEAVED, ONE_F_ONE_B, SCHEDULES, Plan
from mlsysim.physics.training.memory import TEXTBOOK, MemoryTerms
from mlsysim.physics.training.step import Overlap
from mlsysim.systems.types import Fleet

DEFAULT_SEQ_LEN = 4096
ADAM_STATES_B = 8.0  # two fp32 moments
MASTER_WEIGHT_B = 4.0
# Attention kernels a caller can name: flash is FlashAttention-2 or the vendor's own.
ATTENTION_KERNELS = ("flash", "flash-1", "unfused", "fused-softmax")
# Of these, they store the scores: plain, or with scale, mask and softmax in one kernel.
SCORES_STORED = ("unfused", "fused-softmax")
GRADIENT_PRECISIONS = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True)
class TrainingFormats:
    """Bytes a parameter: weights and gradients in their formats; Adam's states, and fp32 master weights beside 16-bit ones."""

    weight_B: float
    gradient_B: float
    optimizer_B: float


def training_formats(precision: str, gradient_precision: str | None, frozen: bool = False) -> TrainingFormats:
    """Formats of mixed-precision training: 16-bit weights and gradients unless said, whatever the matrix products use.

    Frozen weights, which no update needs more precisely, are kept as the products take them.

    Example:
        >>> training_formats("fp8", None)
        TrainingFormats(weight_B=2.0, gradient_B=2.0, optimizer_B=12.0)
    """
    full = precision in ("fp32", "tf32", "fp64")
    weight_B = bytes_per_element(precision) if full else 2.0
    gradient_B = weight_B
    if frozen:
        weight_B = bytes_per_element(precision)
    if gradient_precision is not None:
        gradient_B = bytes_per_element(one_of("gradient_precision", gradient_precision, GRADIENT_PRECISIONS))
    return TrainingFormats(weight_B, gradient_B, ADAM_STATES_B + (0.0 if full else MASTER_WEIGHT_B))


def lone_plan(tokens: float, precision: str, recompute: float) -> Plan:
    """One accelerator, one micro-batch."""
    formats = training_formats(precision, None)
    return Plan(
        tp=1.0,
        pp=1.0,
        dp=1.0,
        ep=1.0,
        virtual_stages=1.0,
        micro_batches=1.0,
        micro_batch_tokens=tokens,
        zero_stage=0.0,
        sequence_parallel=0.0,
        recompute=recompute,
        schedule=ONE_F_ONE_B,
        weight_B=formats.weight_B,
        gradient_B=formats.gradient_B,
        optimizer_B=formats.optimizer_B,
    )


@dataclass(frozen=True, slots=True)
class TrainingSetting:
    """What all plans of one question share, checked.

    ``recompute`` is None where the cheapest mode that fits is to be chosen.
    """

    workload: Workload
    fleet: Fleet
    batch_size: int
    seq_len: int
    precision: str
    efficiency: float | None
    zero_stage: int
    recompute: int | None
    formats: TrainingFormats
    overlap: Overlap
    straggler_factor: float
    congestion_factor: float
    stack: str | None
    attention: str
    lora_rank: int
    routing_imbalance: float

    @property
    def basis(self) -> str:
        """``calibrated`` with a stack, ``efficiency`` where the caller owns one, else ``bound``."""
        if self.stack is not None:
            return "calibrated"
        return "bound" if self.efficiency is None else "efficiency"

    @property
    def peak_flops_per_s(self) -> float:
        """Peak of one accelerator."""
        return self.fleet.node.accelerator.rate_flops_per_s(self.precision)

    @property
    def memory_terms(self) -> MemoryTerms:
        """What the stack adds to the textbook's memory; nothing without one."""
        return TEXTBOOK if self.stack is None else known_stack(self.stack).memory_terms(self.attention, self.precision)

    def machine(self) -> Machine:
        """What a rank runs on, at the caller's efficiency; the slowest rank sets the pace."""
        node = self.fleet.node
        share = 1.0 if self.efficiency is None else self.efficiency
        return Machine(
            rate_flops_per_s=self.peak_flops_per_s * share / self.straggler_factor,
            memory_Bps=node.accelerator.memory_bandwidth_Bps / self.straggler_factor,
            intra_Bps=node.intra_bandwidth_Bps,
            inter_Bps=self.fleet.inter_bandwidth_Bps / self.congestion_factor,
            per_node=float(node.accelerators_per_node),
            oversubscription=self.fleet.oversubscription_ratio,
        )


def check_setting(
    workload: object,
    fleet: object,
    *,
    batch_size: object,
    seq_len: object = None,
    precision: object = "bf16",
    efficiency: object = None,
    zero_stage: object = 1,
    recompute: object = None,
    gradient_precision: str | None = None,
    overlap_comm: object = True,
    overlap_efficiency: object = None,
    straggler_factor: object = 1.0,
    congestion_factor: object = 1.0,
    stack: object = None,
    attention: object = "flash",
    lora_rank: object = None,
    routing_imbalance: object = None,
) -> TrainingSetting:
    """The setting, or an ``InputError`` that names the argument."""
    model = instance("workload", workload, Workload, "a workload such as Models.Language.Llama3_70B")
    system = instance("fleet", fleet, Fleet, "a Fleet")
    length = 1
    if isinstance(model, TransformerWorkload):
        length = whole_number("seq_len", DEFAULT_SEQ_LEN if seq_len is None else seq_len)
    elif seq_len is not None:
        raise InputError("seq_len", seq_len, f"nothing: {model.name} has no sequence")
    fmt = precision_name("precision", precision)
    system.node.accelerator.rate_flops_per_s(fmt)
    share = None if efficiency is None else fraction("efficiency", efficiency)
    stage = whole_number("zero_stage", zero_stage, minimum=0)
    if stage > 3:
        raise InputError("zero_stage", zero_stage, "0, 1, 2 or 3")
    mode = None if recompute is None else RECOMPUTE_MODES.index(one_of("recompute", recompute, RECOMPUTE_MODES))
    return TrainingSetting(
        workload=model,
        fleet=system,
        batch_size=whole_number("batch_size", batch_size),
        seq_len=length,
        precision=fmt,
        efficiency=share,
        zero_stage=stage,
        recompute=0 if isinstance(model, CNNWorkload) else mode,
        formats=training_formats(fmt, gradient_precision, frozen=lora_rank is not None),
        overlap=_overlap(overlap_comm, overlap_efficiency, share is None),
        stack=_stack(stack, share, overlap_comm, overlap_efficiency),
        attention=one_of("attention", attention, ATTENTION_KERNELS),
        lora_rank=_lora_rank(model, lora_rank),
        routing_imbalance=_routing_imbalance(model, routing_imbalance, stack),
        straggler_factor=real_number("straggler_factor", straggler_factor, 1.0),
        congestion_factor=real_number("congestion_factor", congestion_factor, 1.0),
    )


def _stack(stack: object, efficiency: float | None, overlap_comm: object, overlap_efficiency: object) -> str | None:
    if stack is None:
        return None
    name = one_of("stack", stack, stack_names())
    if efficiency is not None:
        raise InconsistentError("efficiency", efficiency, "nothing beside stack: calibrated kernels have their own")
    if overlap_comm is not True or overlap_efficiency is not None:
        raise InconsistentError("overlap_efficiency", overlap_efficiency, "nothing beside stack: the stack says what hides")
    return name


def _lora_rank(model: Workload, lora_rank: object) -> int:
    if lora_rank is None:
        return 0
    rank = whole_number("lora_rank", lora_rank)
    if not isinstance(model, TransformerWorkload) or rank > model.hidden_dim:
        raise InconsistentError("lora_rank", rank, f"nothing for {model.name}, or a rank up to the width of its layers")
    return rank


def _routing_imbalance(model: Workload, routing_imbalance: object, stack: object) -> float:
    if routing_imbalance is None:
        return 1.0
    if stack is None:
        raise InconsistentError("routing_imbalance", routing_imbalance, "nothing without stack: only calibrated steps have it")
    if not isinstance(model, TransformerWorkload) or model.moe is None:
        raise InconsistentError("routing_imbalance", routing_imbalance, f"nothing: {model.name} has no experts")
    factor = real_number("routing_imbalance", routing_imbalance, 1.0)
    if factor > model.moe.experts:
        raise InconsistentError("routing_imbalance", factor, f"at most the {model.moe.experts} experts: all tokens to one")
    return factor


def _overlap(overlap_comm: object, overlap_efficiency: object, is_bound: bool) -> Overlap:
    if not boolean("overlap_comm", overlap_comm):
        if overlap_efficiency is not None:
            raise InconsistentError("overlap_efficiency", overlap_efficiency, "nothing beside overlap_comm=False")
        return Overlap.of_all(0.0)
    if overlap_efficiency is None:
        return Overlap.of_all(1.0, whole_step=is_bound)
    return Overlap.of_all(real_number("overlap_efficiency", overlap_efficiency, 0.0, 1.0), whole_step=True)


def check_plan(
    setting: TrainingSetting,
    *,
    tp_size: object = 1,
    pp_size: object = 1,
    dp_size: object = None,
    ep_size: object = 1,
    cp_size: object = 1,
    expert_tp_size: object = None,
    virtual_stages: object = 1,
    microbatch_count: object = None,
    schedule: object = None,
    sequence_parallel: object = None,
    shard_size: object = None,
) -> Plan:
    """One plan of scalars (recompute still to be chosen), or an ``InputError`` that names the argument."""
    ranks = setting.fleet.accelerators
    tp, pp = _model_parallel(setting.workload, ranks, tp_size, pp_size)
    cp = _context_parallel(setting, ranks // (tp * pp), cp_size)
    dp = ranks // (tp * pp * cp)
    if dp_size is not None and whole_number("dp_size", dp_size) != dp:
        shared = f" x cp_size {cp}" if cp > 1 else ""
        raise InconsistentError("dp_size", dp_size, f"{dp}: {ranks} accelerators / (tp_size {tp} x pp_size {pp}{shared})")
    ep, expert_tp = _expert_parallel(setting.workload, ep_size, expert_tp_size, tp, cp * dp)
    shards = dp if shard_size is None else whole_number("shard_size", shard_size)
    if dp % shards:
        raise InconsistentError("shard_size", shards, f"a divisor of the {dp} data-parallel ranks")
    local, rest = divmod(setting.batch_size, dp)
    if rest or not local:
        raise InconsistentError("batch_size", setting.batch_size, f"a multiple of the {dp} data-parallel ranks")
    count = local if microbatch_count is None else whole_number("microbatch_count", microbatch_count)
    if local % count and count % local:
        expected = f"a divisor or a multiple of the {local} sequences of a data-parallel rank"
        raise InconsistentError("microbatch_count", count, expected)
    split = tp > 1 if sequence_parallel is None else boolean("sequence_parallel", sequence_parallel)
    tokens = local * setting.seq_len / count / cp
    parts = tp if split else 1
    if tokens < parts or tokens != int(tokens):
        expected = f"one that leaves a whole number of tokens, at least {parts} (one a sequence part), not {tokens:g}"
        raise InconsistentError("microbatch_count", count, expected)
    chunks, kind = _schedule(setting.workload, schedule, virtual_stages, pp, count)
    formats = setting.formats
    return Plan(
        tp=float(tp),
        pp=float(pp),
        dp=float(dp),
        ep=float(ep),
        virtual_stages=float(chunks),
        micro_batches=float(count),
        micro_batch_tokens=float(tokens),
        zero_stage=float(setting.zero_stage),
        sequence_parallel=float(split and tp > 1),
        recompute=float(setting.recompute or 0),
        schedule=float(kind),
        weight_B=formats.weight_B,
        gradient_B=formats.gradient_B,
        optimizer_B=formats.optimizer_B,
        cp=float(cp),
        expert_tp=float(expert_tp),
        shard_copies=float(dp // shards),
    )


def _context_parallel(setting: TrainingSetting, ranks: int, cp_size: object) -> int:
    cp = whole_number("cp_size", cp_size)
    if cp == 1:
        return cp
    if not isinstance(setting.workload, TransformerWorkload):
        raise InconsistentError("cp_size", cp, f"1: {setting.workload.name} has no sequence")
    if setting.seq_len % cp:
        raise InconsistentError("cp_size", cp, f"a divisor of the {setting.seq_len} tokens of a sequence")
    if ranks % cp:
        raise InconsistentError("cp_size", cp, f"a divisor of the {ranks} ranks that tp_size and pp_size leave")
    return cp


def _model_parallel(workload: Workload, ranks: int, tp_size: object, pp_size: object) -> tuple[int, int]:
    tp, pp = whole_number("tp_size", tp_size), whole_number("pp_size", pp_size)
    if not isinstance(workload, TransformerWorkload):
        for name, size in (("tp_size", tp), ("pp_size", pp)):
            if size > 1:
                raise InconsistentError(name, size, f"1: {workload.name} has no layers to split")
        return tp, pp
    if workload.heads % tp:
        raise InconsistentError("tp_size", tp, f"a divisor of the {workload.heads} heads of {workload.name}")
    if pp > workload.layers:
        raise InconsistentError("pp_size", pp, f"at most the {workload.layers} layers of {workload.name}")
    if ranks % (tp * pp):
        name, size = ("pp_size", pp) if ranks % tp == 0 else ("tp_size", tp)
        raise InconsistentError(name, size, f"one with which tp_size x pp_size = {tp} x {pp} divides the {ranks} accelerators")
    return tp, pp


def _expert_parallel(workload: Workload, ep_size: object, expert_tp_size: object, tp: int, replicas: int) -> tuple[int, int]:
    """EP and the experts' own TP (0: that of the other layers)."""
    ep = whole_number("ep_size", ep_size)
    split = 0 if expert_tp_size is None else whole_number("expert_tp_size", expert_tp_size)
    moe = workload.moe if isinstance(workload, TransformerWorkload) else None
    if moe is None:
        for name, size in (("ep_size", ep), ("expert_tp_size", split)):
            if size > 1:
                raise InconsistentError(name, size, f"1: {workload.name} has no experts")
        return 1, 0
    if split and (tp * replicas) % split:
        raise InconsistentError("expert_tp_size", split, f"a divisor of the {tp * replicas} ranks of a stage")
    left = tp * replicas // (split or tp)
    if moe.experts % ep or left % ep:
        among = f"dp {left}" if not split else f"the {left} ranks of a stage that expert_tp_size {split} leaves"
        raise InconsistentError("ep_size", ep, f"a divisor of the {moe.experts} experts and of {among}")
    return ep, split


def _schedule(workload: Workload, schedule: object, virtual_stages: object, pp: int, count: int) -> tuple[int, int]:
    chunks = whole_number("virtual_stages", virtual_stages)
    default = "interleaved" if chunks > 1 else "1f1b"
    kind = SCHEDULES.index(one_of("schedule", default if schedule is None else schedule, SCHEDULES))
    if (kind == INTERLEAVED) != (chunks > 1):
        raise InconsistentError("virtual_stages", chunks, "more than 1 with schedule='interleaved', 1 with the others")
    if chunks == 1:
        return 1, kind if pp > 1 else ONE_F_ONE_B
    layers = workload.layers if isinstance(workload, TransformerWorkload) else 1
    # The embedding and the output head may each stand in for a layer (126 layers of Llama 3 405B on 16 x 8 chunks).
    if pp == 1 or pp * chunks > layers + 2:
        most = (layers + 2) // pp if pp > 1 else 1
        raise InconsistentError("virtual_stages", chunks, f"1 to {most} for {layers} layers on {pp} stages")
    if count % pp:
        raise InconsistentError("microbatch_count", count, f"a multiple of pp_size {pp}, as interleaving needs")
    return chunks, kind
