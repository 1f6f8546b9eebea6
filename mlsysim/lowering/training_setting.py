"""The checked input of a distributed training step, and its lowering to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, Unpack

from mlsysim.calibration.devices import slowest_clock
from mlsysim.calibration.names import stack_called
from mlsysim.calibration.stacks import stack as known_stack
from mlsysim.calibration.stacks import stack_names
from mlsysim.core.checks import boolean, fraction, instance, one_of, real_number, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.core.options import with_defaults
from mlsysim.core.precision import bytes_per_element, one_format, precision_name
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.options import TrainingOptions
from mlsysim.models.adapters import adapters_of
from mlsysim.models.types import CNNWorkload, TransformerWorkload, Workload
from mlsysim.physics.layer.adapters import Adapters
from mlsysim.physics.layer.work import RECOMPUTE_MODES
from mlsysim.physics.machine import Machine
from mlsysim.physics.plan import ONE_F_ONE_B, Plan
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


def training_formats(
    precision: str, gradient_precision: str | None, frozen: bool = False, accumulated: str = ""
) -> TrainingFormats:
    """Formats of mixed-precision training: 16-bit weights and gradients unless said, whatever the matrix products use.

    Frozen weights, which no update needs more precisely, are kept as the products take them. A stack may accumulate gradients
    in another format than its 16-bit weights; with fp16 it does not, whose loss is scaled.

    Example:
        >>> training_formats("fp8", None)
        TrainingFormats(weight_B=2.0, gradient_B=2.0, optimizer_B=12.0)
    """
    full = precision in ("fp32", "tf32", "fp64")
    weight_B = bytes_per_element(precision) if full else 2.0
    gradient_B = bytes_per_element(accumulated) if accumulated and not full and precision != "fp16" else weight_B
    if frozen:
        weight_B = bytes_per_element(precision)
    if gradient_precision is not None:
        gradient_B = bytes_per_element(one_format("gradient_precision", gradient_precision, GRADIENT_PRECISIONS))
    return TrainingFormats(weight_B, gradient_B, ADAM_STATES_B + (0.0 if full else MASTER_WEIGHT_B))


def sample_tokens(workload: Workload, seq_len: object) -> int:
    """Tokens of a sample: those of a transformer's sequence, 4096 unless stated; a network without sequences has one.

    Raises:
        InputError: no whole number, or one stated of a network without sequences.
    """
    if isinstance(workload, TransformerWorkload):
        return whole_number("seq_len", DEFAULT_SEQ_LEN if seq_len is None else seq_len)
    if seq_len is not None:
        raise InputError("seq_len", seq_len, f"nothing: {workload.name} has no sequence")
    return 1


def filled_tokens(workload: Workload, seq_len: object, mean_tokens: object) -> tuple[int, float]:
    """Tokens of a sample, and those of them that are no padding, mean over samples: all unless stated."""
    tokens = sample_tokens(workload, seq_len)
    return tokens, real_number("mean_tokens", tokens if mean_tokens is None else mean_tokens, 1, tokens)


def lone_accelerators(workload: object, hardware: object) -> tuple[HardwareNode, int]:
    """The accelerator of ``hardware``, each of which holds the whole workload, and their number.

    Raises:
        InputError: the workload is none, or the hardware is neither an accelerator nor a fleet.
    """
    instance("workload", workload, Workload, "a workload such as Models.Vision.ResNet50")
    if isinstance(hardware, Fleet):
        return hardware.node.accelerator, hardware.accelerators
    return instance("hardware", hardware, HardwareNode, "an accelerator such as Hardware.Cloud.H100, or a Fleet of them"), 1


def lone_plan(tokens: float, precision: str, recompute: float) -> Plan:
    """The plan of one accelerator with one micro-batch."""
    one = dict.fromkeys(("tp", "pp", "dp", "ep", "virtual_stages", "micro_batches", "cp", "shard_copies"), 1.0)
    bytes_each = asdict(training_formats(precision, None))
    unsplit = {"expert_tp": 0.0, "zero_stage": 0.0, "sequence_parallel": 0.0, "schedule": float(ONE_F_ONE_B)}
    return Plan(**one, **unsplit, **bytes_each, micro_batch_tokens=tokens, recompute=recompute)


@dataclass(frozen=True, slots=True)
class TrainingSetting:
    """Checked arguments that all plans of one question share.

    Attributes:
        workload: what is trained.
        fleet: what it is trained on.
        batch_size: samples of a step.
        seq_len: tokens of a sample.
        precision: number format of the matrix products.
        efficiency: share of peak that the caller owns.
        zero_stage: 0 to 3.
        recompute: an index of ``RECOMPUTE_MODES``; None where the cheapest mode that fits is to be chosen.
        formats: bytes of weights, gradients and optimizer states.
        overlap: what of the collectives hides.
        straggler_factor: how much slower the slowest rank is.
        congestion_factor: how much slower the fabric is than its rate.
        stack: name of the software stack, on the calibrated basis.
        attention: one of ``ATTENTION_KERNELS``.
        expert_tp: ranks that share one expert's matrices; 0 for as many as share the other layers.
        shards: data-parallel ranks that ZeRO shards over; 0 for all.
        adapters: low-rank adapters that are trained alone; none where all weights are trained.
        routing_imbalance: tokens of the busiest expert-parallel rank over the mean.
        capacity_factor: places of an expert over its mean number of tokens; 0 where it takes all that choose it.
        eager: whether each operation between products runs by itself.
        async_tp: whether tensor-parallel collectives run in parts beside the products.
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
    expert_tp: int
    shards: int
    adapters: Adapters
    routing_imbalance: float
    capacity_factor: float
    eager: bool
    async_tp: bool

    @classmethod
    @strict_keywords
    def of(
        cls, workload: object, fleet: object, *, batch_size: object, zero_stage: object, **options: Unpack[TrainingOptions]
    ) -> Self:
        """The setting that the arguments of ``DistributedModel.solve`` describe.

        Raises:
            InputError: one is out of range, or two contradict each other.
        """
        asked: dict[str, Any] = with_defaults(TrainingOptions, dict(options))
        model = instance("workload", workload, Workload, "a workload such as Models.Language.Llama3_70B")
        system = instance("fleet", fleet, Fleet, "a Fleet")
        length = sample_tokens(model, asked["seq_len"])
        fmt = precision_name("precision", asked["precision"])
        system.node.accelerator.rate_flops_per_s(fmt)
        share = None if asked["efficiency"] is None else fraction("efficiency", asked["efficiency"])
        stage = whole_number("zero_stage", zero_stage, minimum=0)
        if stage > 3:
            raise InputError("zero_stage", zero_stage, "0, 1, 2 or 3")
        mode = asked["recompute"]
        mode = None if mode is None else RECOMPUTE_MODES.index(one_of("recompute", mode, RECOMPUTE_MODES))
        overlap_comm, overlap_efficiency = asked["overlap_comm"], asked["overlap_efficiency"]
        expert_tp, shards = asked["expert_tp_size"], asked["shard_size"]
        stack = _stack(asked["stack"], share, overlap_comm, overlap_efficiency)
        known = None if stack is None else known_stack(stack)
        accumulated, adapters = ("", "") if known is None else (known.gradients, known.adapters)
        return cls(
            workload=model,
            fleet=system,
            batch_size=whole_number("batch_size", batch_size),
            seq_len=length,
            precision=fmt,
            efficiency=share,
            zero_stage=stage,
            recompute=0 if isinstance(model, CNNWorkload) else mode,
            formats=training_formats(fmt, asked["gradient_precision"], asked["lora_rank"] is not None, accumulated),
            overlap=_overlap(overlap_comm, overlap_efficiency, share is None),
            stack=stack,
            attention=one_of("attention", asked["attention"], ATTENTION_KERNELS),
            expert_tp=0 if expert_tp is None else whole_number("expert_tp_size", expert_tp),
            shards=0 if shards is None else whole_number("shard_size", shards),
            adapters=adapters_of(model, asked["lora_rank"], asked["lora_targets"], adapters),
            routing_imbalance=_of_mean_tokens("routing_imbalance", asked["routing_imbalance"], model, stack, least=1.0) or 1.0,
            capacity_factor=_capacity_factor(model, asked),
            eager=_eager(asked["compiled"], None if known is None else known.eager, asked["stack"]),
            async_tp=_async_tp(asked["async_tp"], asked["stack"]),
            straggler_factor=real_number("straggler_factor", asked["straggler_factor"], 1.0),
            congestion_factor=real_number("congestion_factor", asked["congestion_factor"], 1.0),
        )

    @property
    def basis(self) -> str:
        """``calibrated`` with a stack, ``efficiency`` where the caller owns one, else ``bound``."""
        if self.stack is not None:
            return "calibrated"
        return "bound" if self.efficiency is None else "efficiency"

    @property
    def peak_flops_per_s(self) -> float:
        """Peak rate of one accelerator, in FLOP/s."""
        return self.fleet.node.accelerator.rate_flops_per_s(self.precision)

    @property
    def memory_terms(self) -> MemoryTerms:
        """Memory that the stack adds to the textbook's; none without a stack."""
        return TEXTBOOK if self.stack is None else known_stack(self.stack).memory_terms(self.attention, self.precision)

    def machine(self) -> Machine:
        """The machine that a rank runs on, at the caller's efficiency; the slowest rank sets the pace."""
        node, count = self.fleet.node, self.fleet.accelerators
        share = 1.0 if self.efficiency is None else self.efficiency
        return Machine(
            rate_flops_per_s=self.peak_flops_per_s * share / self.straggler_factor,
            memory_Bps=node.accelerator.memory_bandwidth_Bps / self.straggler_factor,
            intra_Bps=node.intra_bandwidth_Bps,
            inter_Bps=self.fleet.inter_bandwidth_Bps / self.congestion_factor,
            per_node=float(node.accelerators_per_node),
            oversubscription=self.fleet.oversubscription_ratio,
            slowest_clock=1.0 if self.stack is None else slowest_clock(node.accelerator.name, count),
        )


def _stack(stack: object, efficiency: float | None, overlap_comm: object, overlap_efficiency: object) -> str | None:
    if stack is None:
        return None
    name = stack_called(stack) if isinstance(stack, str) else None
    if name is None:
        raise UnknownNameError.among("stack", stack, stack_names())
    if efficiency is not None:
        raise InconsistentError("efficiency", efficiency, "nothing beside stack: calibrated kernels have their own")
    if overlap_comm is not True or overlap_efficiency is not None:
        raise InconsistentError("overlap_efficiency", overlap_efficiency, "nothing beside stack: the stack says what hides")
    return name


def _capacity_factor(model: Workload, asked: Mapping[str, Any]) -> float:
    factor = _of_mean_tokens("capacity_factor", asked["capacity_factor"], model, asked["stack"])
    if factor and asked["routing_imbalance"] is not None:
        expected = "nothing beside capacity_factor: experts of a fixed capacity all compute as much"
        raise InconsistentError("routing_imbalance", asked["routing_imbalance"], expected)
    return factor


def _of_mean_tokens(name: str, value: object, model: Workload, stack: object, least: float = 0.0) -> float:
    """Tokens of an expert or a rank over the mean; 0 where nothing is said."""
    if value is None:
        return 0.0
    if stack is None:
        raise InconsistentError(name, value, "nothing without stack: only calibrated steps have it")
    if not isinstance(model, TransformerWorkload) or model.moe is None:
        raise InconsistentError(name, value, f"nothing: {model.name} has no experts")
    factor = real_number(name, value, least, above=least == 0.0)
    if factor > model.moe.experts:
        raise InconsistentError(name, factor, f"at most the {model.moe.experts} experts: all tokens to one")
    return factor


def _eager(compiled: object, usual: bool | None, stack: object) -> bool:
    if compiled is None:
        return bool(usual)
    if usual is None:
        raise InconsistentError(
            "compiled", compiled, f"nothing with stack {stack!r}: only PyTorch's own kernels are compiled or not"
        )
    return not boolean("compiled", compiled)


def _async_tp(async_tp: object, stack: object) -> bool:
    if boolean("async_tp", async_tp) and stack is None:
        raise InconsistentError("async_tp", async_tp, "nothing without stack: only calibrated steps have it")
    return bool(async_tp)


def _overlap(overlap_comm: object, overlap_efficiency: object, is_bound: bool) -> Overlap:
    if not boolean("overlap_comm", overlap_comm):
        if overlap_efficiency is not None:
            raise InconsistentError("overlap_efficiency", overlap_efficiency, "nothing beside overlap_comm=False")
        return Overlap.of_all(0.0)
    if overlap_efficiency is None:
        return Overlap.of_all(1.0, whole_step=is_bound)
    return Overlap.of_all(real_number("overlap_efficiency", overlap_efficiency, 0.0, 1.0), whole_step=True)
