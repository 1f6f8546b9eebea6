"""Rows of a table of training runs as questions for ``DistributedModel``: the columns of published measurement tables."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.models.parameters import total_parameters
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.accelerator_names import accelerator_entry
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, NetworkFabric, Node

METRICS = ("step_time_s", "tokens_per_s_per_accel", "tflops_per_accel", "mfu_pct", "hfu_pct")


# Counts of parameters nearer than this are of one architecture; nominal ones ("16B") are seldom further off.
_CLOSE = 0.04
_HEAD_WIDTHS = (128, 256)


@dataclass(frozen=True)
class TrainingQuestion:
    """One row, ready to be solved.

    Attributes:
        workload, fleet, arguments: of ``DistributedModel.solve``.
        metric: what the row measures, one of ``METRICS``.
        flops: what its TFLOP/s and MFU count: ``causal``, ``full`` or ``hardware``.
    """

    workload: TransformerWorkload
    fleet: Fleet
    arguments: dict[str, Any]
    metric: str
    flops: str


def question(row: Mapping[str, str]) -> TrainingQuestion:
    """The question that ``row`` asks; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a feature that is not modelled.
    """
    fleet = _fleet(row)
    workload = _workload(row)
    tp, pp, cp = (_whole(row, name, 1) for name in ("tp", "pp", "cp"))
    if cp > 1:
        raise InputError("cp", cp, "1: context parallelism is not modelled")
    if fleet.accelerators % (tp * pp):
        raise InputError("n_accel", fleet.accelerators, f"a multiple of tp x pp = {tp} x {pp}")
    dp = fleet.accelerators // (tp * pp)
    framework = _framework(row)
    batch, micro_batch = _batches(row, framework, fleet.accelerators, dp)
    if batch % (dp * micro_batch):
        raise InputError("global_batch_seqs", batch, f"a multiple of dp x micro_batch = {dp} x {micro_batch}")
    zero_stage = _zero_stage(row, framework)
    virtual_stages = _whole(row, "vpp", 1)
    arguments = {
        "batch_size": batch,
        "seq_len": _whole(row, "seq_len"),
        "precision": _precision(row),
        "tp_size": tp,
        "pp_size": pp,
        "virtual_stages": virtual_stages,
        "microbatch_count": batch // (dp * micro_batch),
        "zero_stage": zero_stage,
        "shard_size": _shard_size(row, framework, fleet, tp, dp) if zero_stage else None,
        "sequence_parallel": {"yes": tp > 1, "no": False}.get(_text(row, "sequence_parallel")),
        "recompute": _text(row, "recompute") or framework.get("recompute"),
        "attention": _attention(row),
        "stack": _names()["variant"].get(_text(row, "variant")) or str(framework["stack"]),
    }
    metric = _text(row, "metric")
    if metric not in METRICS:
        raise UnknownNameError.among("metric", metric, METRICS)
    return TrainingQuestion(workload, fleet, arguments, metric, framework["flops"])


@functools.cache
def _names() -> dict[str, Any]:
    return tomllib.loads((resources.files("mlsysim.solvers") / "data" / "table_names.toml").read_text("utf-8"))


def _text(row: Mapping[str, str], column: str) -> str:
    return (row.get(column) or "").strip().lower()


def _number(row: Mapping[str, str], column: str, default: float | None = None) -> float:
    text = _text(row, column)
    if not text:
        if default is None:
            raise InputError(column, "", "a number: the row leaves it out")
        return default
    try:
        number = float(text)
    except ValueError:
        raise InputError(column, text, "a number") from None
    if not (math.isfinite(number) and number > 0):
        raise InputError(column, text, "a number > 0")
    return number


def _whole(row: Mapping[str, str], column: str, default: int | None = None) -> int:
    number = _number(row, column, default)
    if number != int(number):
        raise InputError(column, number, "a whole number")
    return int(number)


def _fleet(row: Mapping[str, str]) -> Fleet:
    entry = accelerator_entry(_text(row, "accelerator"))
    usual = _usual_node(entry)
    count = _whole(row, "n_accel")
    domain = _names()["domain"].get(entry)
    given = _whole(row, "accel_per_node", domain or usual.accelerators_per_node)
    # A table prints the tray or the host as the node; more than that is a part of the domain, such as a slice of a torus.
    per_node = min(count, given if domain is None or given > usual.accelerators_per_node else domain)
    while count % per_node:  # a domain that the job does not fill evenly: the largest equal parts
        per_node -= 1
    intra_GBps = _number(row, "intra_bw_GBps", usual.intra_bandwidth_Bps / 1e9)
    default = 25.0 if usual.network_bw is None else float(usual.network_bw.m_as("GB/s"))
    return _built_fleet(entry, count, per_node, intra_GBps, _number(row, "inter_bw_GBps_per_accel", default))


@functools.lru_cache(maxsize=4096)
def _built_fleet(entry: str, count: int, per_node: int, intra_GBps: float, inter_GBps: float) -> Fleet:
    """Building checked types takes longer than solving them: rows with the same cells share the object."""
    hardware = Hardware.get(entry)
    node = Node(
        name=_usual_node(entry).name,
        accelerator=hardware,
        accelerators_per_node=per_node,
        intra_node_bw=f"{2 * intra_GBps} GB/s",
    )
    fabric = NetworkFabric(name="network", bandwidth=f"{inter_GBps} GB/s")
    return Fleet(name=f"{count} x {hardware.name}", node=node, count=count // per_node, fabric=fabric)


@functools.cache
def _usual_node(entry: str) -> Node:
    """The node that an accelerator usually sits in; without one eight on the links that its datasheet has."""
    named = _names()["node"].get(entry)
    if named is not None:
        return Systems.Nodes.get(named)
    hardware = Hardware.get(entry)
    link = hardware.interconnect_bw if hardware.interconnect_bw is not None else hardware.host_link_bw
    if link is None:
        raise InputError("accelerator", hardware.name, "one whose node, link or host link is known")
    return Node(name=hardware.name, accelerator=hardware, accelerators_per_node=8, intra_node_bw=2 * link)


def _workload(row: Mapping[str, str]) -> TransformerWorkload:
    if _text(row, "experts"):
        raise InputError("experts", _text(row, "experts"), "none: experts are not calibrated")
    hidden, heads = _whole(row, "hidden"), _whole(row, "heads")
    return _built_workload(
        row.get("model") or "model",
        _whole(row, "layers"),
        hidden,
        heads,
        _whole(row, "kv_heads", heads),
        _whole(row, "ffn_hidden", 4 * hidden),
        _whole(row, "vocab", 51200),
        _number(row, "params_b") if _text(row, "params_b") else 0.0,
    )


@functools.lru_cache(maxsize=4096)
def _built_workload(
    name: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, published_billions: float
) -> TransformerWorkload:
    """Gated or not, tied or not: tables do not say, the published count does; without one it is a plain GPT."""
    fields: dict[str, Any] = {
        "name": name,
        "architecture": "Transformer",
        "layers": layers,
        "hidden_dim": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "ffn_hidden": ffn,
        "vocab_size": vocab,
    }
    kinds = [{"ffn_matrices": matrices, "tied_embeddings": tied} for matrices in (2, 3) for tied in (True, False)]

    def miss(kind: dict[str, Any]) -> float:
        uncounted = TransformerWorkload.model_construct(**fields, **kind)
        return abs(total_parameters(uncounted, ffn) / (published_billions * 1e9) - 1)

    kind = min(kinds, key=miss) if published_billions else kinds[0]
    if published_billions and miss(kind) > _CLOSE:
        # Heads are usually hidden / heads wide. Where no such model has the published count, one of usual width may.
        wider = min((other | {"head_dim": width} for other in kinds for width in _HEAD_WIDTHS), key=miss)
        kind = wider if miss(wider) < _CLOSE / 2 else kind
    return TransformerWorkload.of_architecture(**fields, **kind)


def _framework(row: Mapping[str, str]) -> dict[str, Any]:
    """The framework's entry; an older run of the same name may have had another stack, or counted other FLOP."""
    names = _names()
    text = _text(row, "framework")
    # Releases of one framework share an entry: the longest name that the cell begins with, else that it has in it.
    known = [name for name in names["framework"] if text.startswith(name)] or [
        name for name in names["framework"] if name in text
    ]
    found: dict[str, Any] = names["framework"][max(known, key=len)] if known else names["unknown"]
    if _text(row, "year"):
        for era in sorted(found.get("until", ()), key=lambda era: era["year"]):
            if _number(row, "year") <= era["year"]:
                return {**found, **era}
    return found


def _batches(row: Mapping[str, str], framework: Mapping[str, Any], accelerators: int, dp: int) -> tuple[int, int]:
    """Sequences of a step, and of one micro-batch of one data-parallel rank.

    Some frameworks count the micro-batch by accelerator, not by data-parallel rank, and accumulate no gradients: without a
    micro-batch theirs is the whole batch, and without a batch it is what all accelerators have.
    """
    if not framework.get("batch_by_accelerator"):
        return _whole(row, "global_batch_seqs"), _whole(row, "micro_batch", 1)
    if not _text(row, "global_batch_seqs"):
        batch = accelerators * _whole(row, "micro_batch")
        return batch, max(1, batch // dp)
    batch = _whole(row, "global_batch_seqs")
    if batch % dp:
        raise InputError("global_batch_seqs", batch, f"a multiple of dp = {dp}")
    each = _number(row, "micro_batch", batch / accelerators) * accelerators / dp
    if each != int(each):
        raise InputError("micro_batch", each, "a whole number of sequences a data-parallel rank: no sequence is split")
    return batch, int(each)


def _shard_size(row: Mapping[str, str], framework: Mapping[str, Any], fleet: Fleet, tp: int, dp: int) -> int | None:
    """Data-parallel ranks that hold all shards together: those of a node or slice in hybrid sharding, else all."""
    if "hsdp" not in _text(row, "sharding") and not framework.get("shards_in_domain"):
        return None
    shards = max(1, fleet.node.accelerators_per_node // tp)
    return shards if shards < dp and dp % shards == 0 else None


def _precision(row: Mapping[str, str]) -> str:
    text = _text(row, "precision") or "bf16"
    named = [precision for precision in ("fp8", "int8", "fp4", "bf16", "fp16", "fp32") if precision in text]
    if not named:
        raise InputError("precision", text, "fp4, fp8, int8, bf16, fp16 or fp32")
    return min(named, key=text.index)


def _zero_stage(row: Mapping[str, str], framework: Mapping[str, Any]) -> int:
    text = _text(row, "sharding") or framework.get("sharding", "")
    if "offload" in text:
        raise InputError("sharding", text, "no offloading: it is not modelled")
    for stage in (3, 2, 1):
        if f"zero{stage}" in text:
            return stage
    return 3 if "fsdp" in text or "hsdp" in text else 0 if text == "none" else 1


def _attention(row: Mapping[str, str]) -> str:
    text = _text(row, "flash_attention")
    if text == "no":
        return str(_names()["stored_scores"].get(_text(row, "variant"), "unfused"))
    return "flash-1" if "v1" in text or "attentionv1" in _text(row, "variant") else "flash"
