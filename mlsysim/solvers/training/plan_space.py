"""Every legal way to split a training step: TP x PP x VPP x DP x CP x EP x micro-batch x recompute x ZeRO x SP x schedule."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysim.lowering.training_setting import TrainingSetting
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.layer.work import RECOMPUTE_MODES
from mlsysim.physics.numeric import Floats
from mlsysim.physics.plan import GPIPE, INTERLEAVED, ONE_F_ONE_B, SCHEDULES, Plan

# TP, PP, CP and DP ranks.
Split = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Choices:
    """Values that a search may choose of each dimension; None is all that is legal.

    Attributes:
        tp, pp, cp, dp, ep: ranks.
        virtual_stages, micro_batch: model chunks a stage; sequences of a micro-batch.
        sequence_parallel: None is wherever TP is; else the values to try beside tp > 1.
        recompute: modes; None is the cheapest that fits, which counts as one plan.
        zero_stage, schedule: values.
        max_tp: most TP ranks (None: as many as heads).
        expert_tp: ranks that share one expert's matrices (0: as many as TP).
        shard: data-parallel ranks that ZeRO shards over, where DP is a multiple of them (0: all).
        idle: whether accelerators may be left unused.
    """

    tp: tuple[int, ...] | None = None
    pp: tuple[int, ...] | None = None
    cp: tuple[int, ...] | None = None
    dp: tuple[int, ...] | None = None
    ep: tuple[int, ...] | None = None
    virtual_stages: tuple[int, ...] | None = None
    micro_batch: tuple[int, ...] | None = None
    sequence_parallel: tuple[bool, ...] | None = (False, True)
    recompute: tuple[int, ...] | None = tuple(range(len(RECOMPUTE_MODES)))
    zero_stage: tuple[int, ...] = (0, 1, 2, 3)
    schedule: tuple[int, ...] = tuple(range(len(SCHEDULES)))
    max_tp: int | None = None
    expert_tp: int = 0
    shard: int = 0
    idle: bool = False


@functools.lru_cache(maxsize=256)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, smallest first; cached, for splits ask for those of one batch again and again, with a million to try.

    Example:
        >>> divisors(24)
        (1, 2, 3, 4, 6, 8, 12, 24)
    """
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return (*small, *(number // d for d in reversed(small) if d * d != number))


def splits(setting: TrainingSetting, choices: Choices) -> list[Split]:
    """Every legal TP x PP x CP x DP.

    TP divides the heads, fills a part of a node or several, and has a token for each rank; a stage has at least one layer; CP
    cuts the sequence in 2 cp equal parts (each rank computes an early and a late one); DP divides the batch. Their product is
    the fleet or, where accelerators may idle, whole nodes of it.
    """
    fleet, model = setting.fleet, setting.workload
    ranks, per_node = fleet.accelerators, fleet.node.accelerators_per_node
    heads, layers, seq_len = _shape(setting)
    context = _context_parts(seq_len) if isinstance(model, TransformerWorkload) else [1]
    rows = []
    for tp in _allowed(divisors(heads), choices.tp):
        if tp > min(choices.max_tp or tp, setting.seq_len) or (per_node % tp and tp % per_node):
            continue
        for pp in _allowed(range(1, min(layers, ranks // tp) + 1), choices.pp):
            for cp in _allowed(context[: bisect.bisect_right(context, ranks // (tp * pp))], choices.cp):
                for dp in _data_parallel(setting.batch_size, ranks, per_node, tp * pp * cp, choices):
                    rows.append((tp, pp, cp, dp))
    return rows


def _shape(setting: TrainingSetting) -> tuple[int, int, int]:
    model = setting.workload
    if isinstance(model, TransformerWorkload):
        return model.heads, model.layers, setting.seq_len
    return 1, 1, 1


def _allowed(values: Sequence[int], chosen: tuple[int, ...] | None) -> Sequence[int]:
    return values if chosen is None else [value for value in chosen if value in values]


def _context_parts(seq_len: int) -> list[int]:
    return [1] + [cp for cp in divisors(seq_len // 2) if cp > 1 and seq_len % (2 * cp) == 0]


def _data_parallel(batch: int, ranks: int, per_node: int, others: int, choices: Choices) -> Sequence[int]:
    if others > ranks:
        return ()
    if not choices.idle:
        if ranks % others or batch % (ranks // others):
            return ()
        return _allowed([ranks // others], choices.dp)
    whole = [dp for dp in divisors(batch) if others * dp <= ranks and (others * dp % per_node == 0 or others * dp < per_node)]
    return _allowed(whole, choices.dp)


def size(setting: TrainingSetting, choices: Choices) -> int:
    """Plans before legality: every factorization of the fleet into the ranks that may be chosen, times every other choice."""
    ranked = [sizes for sizes in (choices.tp, choices.pp, choices.cp, choices.dp) if sizes is None or len(sizes) > 1]
    layers = _shape(setting)[1]
    others = (
        len(divisors(_experts(setting))) if choices.ep is None else len(choices.ep),
        layers if choices.virtual_stages is None else len(choices.virtual_stages),
        len(divisors(setting.batch_size)) if choices.micro_batch is None else len(choices.micro_batch),
        len(choices.sequence_parallel or (True,)),
        len(choices.recompute or (0,)),
        len(choices.zero_stage),
        len(choices.schedule),
    )
    return _factorizations(setting.fleet.accelerators, len(ranked)) * math.prod(others)


def _factorizations(number: int, factors: int) -> int:
    """Ordered products of ``factors`` whole numbers that make ``number``."""
    count, rest, prime = 1, number, 2
    while rest > 1:
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        count *= math.comb(power + factors - 1, max(factors - 1, 0)) if power else 1
        prime += 1
        if prime * prime > rest > 1:
            prime = rest
    return count


@dataclass(frozen=True, slots=True)
class Block:
    """Plans of a few splits: a row for each but its recompute mode and ZeRO stage, which have an axis of their own.

    So that what does not depend on them, such as every kernel of a layer, is computed once for all of them.

    Attributes:
        plan: fields of shape (rows, 1, 1), (modes, 1) or (stages,).
        legal: (rows, modes or 1, stages).
    """

    plan: Plan
    legal: npt.NDArray[np.bool_]

    def kept(self, rows: npt.NDArray[np.bool_]) -> Block:
        """The rows that are marked."""
        changed = {field.name: _kept(getattr(self.plan, field.name), rows) for field in fields(Plan)}
        return Block(replace(self.plan, **changed), self.legal[rows])


def _kept(values: Any, rows: npt.NDArray[np.bool_]) -> Any:
    return values[rows] if np.ndim(values) == 3 else values


def blocks(setting: TrainingSetting, choices: Choices, parts: Sequence[Split], size: int) -> Iterator[Block]:
    """The plans of ``parts`` in blocks of at most ``size`` rows: memory stays bounded however large the space is."""
    columns = rows(setting, choices, parts)
    for start in range(0, columns.shape[1], size):
        yield block(setting, choices, columns[:, start : start + size])


def tasks(setting: TrainingSetting, choices: Choices, parts: Sequence[Split], size: int) -> list[list[Split]]:
    """``parts`` in their order as lists of at most ``size`` rows, or of one split that has more by itself."""
    lists: list[list[Split]] = []
    room = 0
    for part in parts:
        count = math.prod(len(values) for values in _free(setting, choices, part))
        if not lists or count > room:
            lists.append([])
            room = size
        lists[-1].append(part)
        room -= count
    return lists


ROWS = ("tp", "pp", "cp", "dp", "ep", "virtual_stages", "schedule", "micro_batch", "sequence_parallel")


def rows(setting: TrainingSetting, choices: Choices, parts: Sequence[Split]) -> Floats:
    """The legal plans of ``parts``, but for their recompute modes and ZeRO stages: a row for each of ``ROWS``."""
    columns = np.concatenate([_combined(part, *_free(setting, choices, part)) for part in parts], axis=1)
    row = dict(zip(ROWS, columns, strict=True))
    # Interleaving takes micro-batches in rounds of PP; sequence parallelism leaves each rank a token.
    micro_batches = setting.batch_size / row["dp"] / row["micro_batch"]
    tokens = row["micro_batch"] * setting.seq_len / row["cp"]
    in_rounds = (row["schedule"] != INTERLEAVED) | (micro_batches % row["pp"] == 0)
    legal: Floats = columns[:, in_rounds & ((row["sequence_parallel"] == 0) | (tokens >= row["tp"]))]
    return legal


def _free(setting: TrainingSetting, choices: Choices, part: Split) -> tuple[Sequence[Any], ...]:
    """Values that may be combined with ``part``: EP, schedules with their chunks, micro-batches, sequence parallelism."""
    tp, pp, cp, dp = part
    shared = choices.expert_tp or tp
    experts = [ep for ep in _allowed(divisors(_experts(setting)), choices.ep) if tp * cp * dp % (shared * ep) == 0]
    along = (True,) if choices.sequence_parallel is None else choices.sequence_parallel
    local = setting.batch_size // dp
    sizes = _allowed([size for size in divisors(setting.batch_size) if local % size == 0], choices.micro_batch)
    return experts, _schedules(setting, choices, pp), sizes, along if tp > 1 else (False,)


def _combined(
    part: Split, experts: Sequence[int], timing: Sequence[tuple[int, int]], sizes: Sequence[int], along: Sequence[bool]
) -> Floats:
    """Every combination: a row for each of ``ROWS``. Schedules change slowest, then micro-batches, EP, sequence parallelism."""
    every = np.empty((len(ROWS), len(timing), len(sizes), len(experts), len(along)))
    row = dict(zip(ROWS, every, strict=True))
    for name, ranks in zip(ROWS, part, strict=False):
        row[name][...] = ranks
    schedules = np.array(timing).reshape(-1, 2)
    row["schedule"][...] = schedules[:, 0, None, None, None]
    row["virtual_stages"][...] = schedules[:, 1, None, None, None]
    row["micro_batch"][...] = np.array(sizes)[:, None, None]
    row["ep"][...] = np.array(experts)[:, None]
    row["sequence_parallel"][...] = along
    return every.reshape(len(ROWS), -1)


def _experts(setting: TrainingSetting) -> int:
    model = setting.workload
    return model.moe.experts if isinstance(model, TransformerWorkload) and model.moe is not None else 1


def _schedules(setting: TrainingSetting, choices: Choices, pp: int) -> list[tuple[int, int]]:
    """Schedules of ``pp`` stages with their chunks; interleaving cuts the layers, with or without the ends, in equal chunks."""
    layers = _shape(setting)[1]
    if pp == 1:
        chosen = choices.virtual_stages is None or 1 in choices.virtual_stages
        return [(ONE_F_ONE_B, 1)] if chosen and ONE_F_ONE_B in choices.schedule else []
    chunks = _allowed([v for v in range(1, layers // pp + 1) if v == 1 or _equal(layers, pp * v)], choices.virtual_stages)
    plain = [(kind, 1) for kind in (GPIPE, ONE_F_ONE_B) if kind in choices.schedule and 1 in chunks]
    return plain + [(INTERLEAVED, v) for v in chunks if v > 1 and INTERLEAVED in choices.schedule]


def _equal(layers: int, parts: int) -> bool:
    """True if the layers divide, by themselves or with embedding and head counted as layers (as Megatron can)."""
    return layers % parts == 0 or (layers + 2) % parts == 0


def block(setting: TrainingSetting, choices: Choices, columns: Floats) -> Block:
    """The plans of ``columns`` (a row for each of ``ROWS``) with every recompute mode and ZeRO stage."""
    row = {name: column[:, None, None] for name, column in zip(ROWS, columns, strict=True)}
    stages = np.array(choices.zero_stage, dtype=float)
    local = setting.batch_size / row["dp"]
    formats, shard = setting.formats, choices.shard
    recompute: Any = 0.0 if choices.recompute is None else np.array(choices.recompute, dtype=float)[:, None]
    plan = Plan(
        tp=row["tp"],
        pp=row["pp"],
        dp=row["dp"],
        ep=row["ep"],
        virtual_stages=row["virtual_stages"],
        micro_batches=local / row["micro_batch"],
        micro_batch_tokens=row["micro_batch"] * setting.seq_len / row["cp"],
        zero_stage=stages,
        sequence_parallel=row["sequence_parallel"],
        recompute=recompute,
        schedule=row["schedule"],
        weight_B=formats.weight_B,
        gradient_B=formats.gradient_B,
        optimizer_B=formats.optimizer_B,
        cp=row["cp"],
        expert_tp=float(choices.expert_tp),
        shard_copies=np.where(row["dp"] % shard == 0, row["dp"] / shard, 1.0) if shard else np.ones_like(row["dp"]),
    )
    # Without data parallelism all ZeRO stages are one: the lowest.
    alone = (row["dp"] * row["cp"] == 1) & (stages > stages.min())
    modes = 1 if choices.recompute is None else len(choices.recompute)
    return Block(plan, np.broadcast_to(~alone, (columns.shape[1], modes, stages.size)))
