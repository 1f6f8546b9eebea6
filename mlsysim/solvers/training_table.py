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
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.parameters import total_parameters
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.distributed import DistributedModel, DistributedResult
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, NetworkFabric, Node

METRICS = ("step_time_s", "tokens_per_s_per_accel", "tflops_per_accel", "mfu_pct", "hfu_pct")


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
    batch, micro_batch = _whole(row, "global_batch_seqs"), _whole(row, "micro_batch", 1)
    if batch % (dp * micro_batch):
        raise InputError("global_batch_seqs", batch, f"a multiple of dp x micro_batch = {dp} x {micro_batch}")
    microbatch_count = batch // (dp * micro_batch)
    arguments = {
        "batch_size": batch,
        "seq_len": _whole(row, "seq_len"),
        "precision": _precision(row),
        "tp_size": tp,
        "pp_size": pp,
        "virtual_stages": _virtual_stages(row, framework, workload.layers, pp, microbatch_count),
        "microbatch_count": microbatch_count,
        "zero_stage": _zero_stage(row),
        "sequence_parallel": {"yes": tp > 1, "no": False}.get(_text(row, "sequence_parallel")),
        "recompute": _text(row, "recompute") or None,
        "attention": _attention(row),
        "stack": _names()["variant"].get(_text(row, "variant")) or _stack_of_year(framework, row),
    }
    metric = _text(row, "metric")
    if metric not in METRICS:
        raise UnknownNameError.among("metric", metric, METRICS)
    if framework.get("tuned_micro_batch") and not _text(row, "micro_batch"):
        arguments["microbatch_count"] = _fastest_count(workload, fleet, arguments, batch // dp)
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


def _accelerator(name: str) -> HardwareNode:
    return Hardware.get(_names()["accelerator"].get(name, name))


def _fleet(row: Mapping[str, str]) -> Fleet:
    name = _text(row, "accelerator")
    usual = _usual_node(name)
    count = _whole(row, "n_accel")
    domain = _names()["domain"].get(_names()["accelerator"].get(name, ""))
    per_node = min(count, domain or _whole(row, "accel_per_node", usual.accelerators_per_node))
    while count % per_node:  # a domain that the job does not fill evenly: the largest equal parts
        per_node -= 1
    intra_GBps = _number(row, "intra_bw_GBps", usual.intra_bandwidth_Bps / 1e9)
    default = 25.0 if usual.network_bw is None else float(usual.network_bw.m_as("GB/s"))
    return _built_fleet(name, count, per_node, intra_GBps, _number(row, "inter_bw_GBps_per_accel", default))


@functools.lru_cache(maxsize=4096)
def _built_fleet(accelerator: str, count: int, per_node: int, intra_GBps: float, inter_GBps: float) -> Fleet:
    """Building checked types takes longer than solving them: rows with the same cells share the object."""
    hardware = _accelerator(accelerator)
    node = Node(
        name=_usual_node(accelerator).name,
        accelerator=hardware,
        accelerators_per_node=per_node,
        intra_node_bw=f"{2 * intra_GBps} GB/s",
    )
    fabric = NetworkFabric(name="network", bandwidth=f"{inter_GBps} GB/s")
    return Fleet(name=f"{count} x {hardware.name}", node=node, count=count // per_node, fabric=fabric)


def _usual_node(accelerator: str) -> Node:
    names = _names()
    entry = names["accelerator"].get(accelerator, accelerator)
    if entry not in names["node"]:
        raise UnknownNameError.among("accelerator", accelerator, names["node"])
    return Systems.Nodes.get(names["node"][entry])


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
    return TransformerWorkload.of_architecture(**fields, **kind)


def _framework(row: Mapping[str, str]) -> dict[str, Any]:
    names = _names()
    text = _text(row, "framework")
    # Releases of one framework share an entry: the longest name that the cell begins with.
    known = [name for name in names["framework"] if text.startswith(name)]
    found: dict[str, Any] = names["framework"][max(known, key=len)] if known else names["unknown"]
    return found


def _stack_of_year(framework: Mapping[str, Any], row: Mapping[str, str]) -> str:
    """The framework's stack; an older run of the same name may have had another."""
    until = framework.get("until")
    if until is not None and _text(row, "year") and _number(row, "year") <= until["year"]:
        return str(until["stack"])
    return str(framework["stack"])


def _virtual_stages(row: Mapping[str, str], framework: Mapping[str, Any], layers: int, pp: int, count: int) -> int:
    """As the row says; else one layer a chunk where the framework's recipes interleave and the plan allows it."""
    unstated = not _text(row, "vpp") and framework.get("interleaved") and pp > 1
    return layers // pp if unstated and layers % pp == 0 and count % pp == 0 else _whole(row, "vpp", 1)


def _fastest_count(workload: TransformerWorkload, fleet: Fleet, arguments: Mapping[str, Any], sequences: int) -> int:
    """Micro-batches of a rank's ``sequences``: of those of 1, 2, 4, ... sequences that fit, the fastest."""
    steps: dict[int, DistributedResult] = {}
    for size in (2**power for power in range(sequences.bit_length())):
        if sequences % size == 0:
            plan = {**arguments, "microbatch_count": sequences // size}
            steps[sequences // size] = DistributedModel().solve(workload, fleet, **plan)
    fitting = {count: step for count, step in steps.items() if step.feasible} or {sequences: steps[sequences]}
    return min(fitting, key=lambda count: float(fitting[count].step_latency_total.m))


def _precision(row: Mapping[str, str]) -> str:
    text = _text(row, "precision") or "bf16"
    for precision in ("fp8", "fp4", "bf16", "fp16", "fp32"):
        if precision in text:
            return precision
    raise InputError("precision", text, "fp4, fp8, bf16, fp16 or fp32")


def _zero_stage(row: Mapping[str, str]) -> int:
    text = _text(row, "sharding")
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
