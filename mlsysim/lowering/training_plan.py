"""The checked plan of a training step: how it is split over its accelerators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from mlsysim.calibration.stacks import stack as known_stack
from mlsysim.core.checks import boolean, one_of, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.core.options import with_defaults
from mlsysim.lowering.options import PlanOptions, StepOptions
from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.physics.plan import INTERLEAVED, ONE_F_ONE_B, SCHEDULES, Plan


def training_step(
    workload: object, fleet: object, *, batch_size: object, **options: Unpack[StepOptions]
) -> tuple[TrainingSetting, Plan]:
    """The setting and the plan that the arguments of ``DistributedModel.solve`` describe, checked.

    Raises:
        InputError: one is out of range, or two contradict each other.
    """
    stated = by_long_names(options)
    asked = with_defaults(PlanOptions, stated)
    shared: Any = {name: value for name, value in stated.items() if name not in asked}
    setting = TrainingSetting.of(workload, fleet, batch_size=batch_size, zero_stage=asked["zero_stage"], **shared)
    return setting, _plan(setting, asked)


# Short names of a plan's sizes, as results print them.
_SHORT = {"tp": "tp_size", "pp": "pp_size", "dp": "dp_size", "cp": "cp_size", "ep": "ep_size"} | {
    "micro_batches": "microbatch_count"
}


def by_long_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a plan, each under the name by which it is read.

    Raises:
        InconsistentError: both names of an argument are there, with two values.

    Example:
        >>> by_long_names({"tp": 4, "seq_len": 8192})
        {'seq_len': 8192, 'tp_size': 4}
    """
    stated = dict(options)
    for short, name in _SHORT.items():
        size = stated.pop(short, None)
        if size is None:
            continue
        if stated.get(name) not in (None, size):
            raise InconsistentError(short, size, f"{stated[name]}, as {name} says: both name the same argument")
        stated[name] = size
    return stated


def _plan(setting: TrainingSetting, asked: Mapping[str, Any]) -> Plan:
    """Check one plan of scalars (recompute still to be chosen), or raise an ``InputError`` that names the argument."""
    ranks = setting.fleet.accelerators
    tp, pp = _model_parallel(setting.workload, ranks, asked["tp_size"], asked["pp_size"])
    cp = _context_parallel(setting, ranks // (tp * pp), asked["cp_size"])
    dp = ranks // (tp * pp * cp)
    dp_size, sequence_parallel = asked["dp_size"], asked["sequence_parallel"]
    if dp_size is not None and whole_number("dp_size", dp_size) != dp:
        shared = f" x cp_size {cp}" if cp > 1 else ""
        raise InconsistentError("dp_size", dp_size, f"{dp}: {ranks} accelerators / (tp_size {tp} x pp_size {pp}{shared})")
    ep, expert_tp = _expert_parallel(setting, asked["ep_size"], tp, cp * dp)
    shards = setting.shards or dp
    if dp % shards:
        raise InconsistentError("shard_size", shards, f"a divisor of the {dp} data-parallel ranks")
    local, rest = divmod(setting.batch_size, dp)
    if rest or not local:
        raise InconsistentError("batch_size", setting.batch_size, f"a multiple of the {dp} data-parallel ranks")
    count = micro_batches(local, asked["microbatch_count"], asked["micro_batch"])
    if local % count and count % local:
        expected = f"a divisor or a multiple of the {local} sequences of a data-parallel rank"
        raise InconsistentError("microbatch_count", count, expected)
    usual = tp > 1 and (setting.stack is None or known_stack(setting.stack).sequence_parallel)
    split = usual if sequence_parallel is None else boolean("sequence_parallel", sequence_parallel)
    tokens = local * setting.seq_len / count / cp
    parts = tp if split else 1
    if tokens < parts or tokens != int(tokens):
        expected = f"one that leaves a whole number of tokens, at least {parts} (one a sequence part), not {tokens:g}"
        raise InconsistentError("microbatch_count", count, expected)
    told = asked["micro_batch_tokens"]
    if told is not None and whole_number("micro_batch_tokens", told) != tokens:
        raise InconsistentError("micro_batch_tokens", told, f"{tokens:g}: {local} sequences in {count} micro-batches")
    chunks, kind = _schedule(setting.workload, asked["schedule"], asked["virtual_stages"], pp, count)
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


def micro_batches(sequences: int, microbatch_count: object, micro_batch: object) -> int:
    """Return the micro-batches that a replica's sequences are split into, by number or size: of one sequence unless said.

    Args:
        sequences: of one data-parallel rank.
        microbatch_count: how many micro-batches are asked for; None where that is open.
        micro_batch: sequences of one that are asked for; None where that is open.

    Raises:
        InconsistentError: the size divides no rank's sequences, or is that of another number.

    Example:
        >>> micro_batches(8, None, 2), micro_batches(8, 4, None), micro_batches(8, None, None)
        (4, 4, 8)
    """
    if micro_batch is None:
        return sequences if microbatch_count is None else whole_number("microbatch_count", microbatch_count)
    size = whole_number("micro_batch", micro_batch)
    if sequences % size:
        raise InconsistentError("micro_batch", size, f"a divisor of the {sequences} sequences of a data-parallel rank")
    if microbatch_count not in (None, sequences // size):
        expected = f"{sequences // size}: {sequences} sequences of a data-parallel rank in micro-batches of {size}"
        raise InconsistentError("microbatch_count", microbatch_count, expected)
    return sequences // size


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


def _expert_parallel(setting: TrainingSetting, ep_size: object, tp: int, replicas: int) -> tuple[int, int]:
    """Check EP and the experts' own TP (0: that of the other layers)."""
    ep = whole_number("ep_size", ep_size)
    workload, split = setting.workload, setting.expert_tp
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
