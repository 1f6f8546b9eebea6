"""Rows of a table of serving measurements as questions for ``ServingModel``: the columns of published measurement tables."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlsysim.calibration.engines import engine
from mlsysim.core.checks import instance
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.toml import packaged_toml
from mlsysim.core.units import in_unit, with_unit
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.serving.serving import ServingResult
from mlsysim.systems.types import Fleet, NetworkFabric, Node
from mlsysim.tables.accelerator_names import accelerator_entry
from mlsysim.tables.model_names import named_model
from mlsysim.tables.training import _built_workload, _number, _text, _whole

# What a metric of the tables is called on a result, and the unit that its name says. itl_ms is the mean time between tokens;
# whether tpot_ms is the same, or a whole request over its tokens, tpot_excludes_first_token says (yes unless it says no).
METRICS = {
    "ttft_ms": ("ttft", "ms"),
    "itl_ms": ("token_gap", "ms"),
    "tpot_ms": ("tpot", "ms"),
    "request_latency_ms": ("request_latency", "ms"),
    "output_tokens_per_s": ("tokens_per_second", "count/second"),
    "total_tokens_per_s": ("prompt_tokens_per_second", "count/second"),
    "samples_per_s": ("requests_per_second", "count/second"),
    "mfu_pct": ("prefill_mfu", "percent"),
}
_SCHEDULES = {"static": "static", "closed-loop": "continuous", "offline": "offline"}
_DEFAULT_VOCABULARY = 51200


@dataclass(frozen=True)
class ServingQuestion:
    """One row, ready to be solved: of ``ServingModel.solve``; ``metric`` is one of ``METRICS``."""

    workload: TransformerWorkload
    hardware: HardwareNode | Fleet
    arguments: dict[str, Any]
    metric: str


def serving_question(row: Mapping[str, str]) -> ServingQuestion:
    """The question that ``row`` asks; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a schedule that is not modelled.
    """
    metric = _text(row, "metric")
    if metric not in METRICS:
        raise UnknownNameError.among("metric", metric, METRICS)
    stack = _stack(row)
    mode = _text(row, "mode") or "static"
    if mode not in _SCHEDULES:
        raise InputError("mode", mode, f"one of {', '.join(_SCHEDULES)}: no other load is modelled")
    pp = _whole(row, "pp", 1)
    torus = engine(stack).has.torus
    # A slice shares every layer: where nobody says otherwise, all of its chips.
    tp = _whole(row, "tp", _whole(row, "n_accel", 1) // pp if torus else 1)
    accelerators = _whole(row, "n_accel", tp * pp)
    if accelerators % (tp * pp):
        raise InputError("n_accel", accelerators, f"a multiple of tp x pp = {tp} x {pp}")
    replicas = accelerators // (tp * pp)
    hardware = _hardware(row, tp * pp)
    weights = _precision(_text(row, "weight_precision"))
    names = _names()
    cache = _text(row, "kv_precision") or _cache(_text(row, "engine"), weights)
    prompt, output = _tokens(row, "input_len"), _tokens(row, "output_len")
    batch = _whole(row, "batch_or_concurrency", 1)
    if not _text(row, "tp") and replicas > 1:
        # A system whose plan nobody states: the batch is that of all copies of the model.
        batch = max(1, batch // replicas)
    arguments: dict[str, Any] = {
        "seq_len": max(1, prompt or 0),
        "output_len": output or None,
        "batch_size": batch,
        "precision": weights,
        "kv_precision": _precision(cache),
        "tp_size": tp,
        "pp_size": pp,
        "replicas": replicas,
        "schedule": _SCHEDULES[mode],
        "stack": stack,
        "stream_interval": _whole(row, "stream_interval", 1),
        "offload": _text(row, "offload") or None,
        "tpot_excludes_first_token": output is None or not output or _truth(row, "tpot_excludes_first_token"),
    }
    if stack in names["weight_only"]["stacks"]:
        arguments |= {"weight_precision": weights, "precision": names["weight_only"]["arithmetic"].get(weights, weights)}
    if torus:
        # Such an engine chooses how attention is divided.
        arguments["attention_dp"] = True
    if mode == "closed-loop":
        arguments["rounds"] = names["closed_loop"]["rounds"]
    if mode == "offline":
        arguments["requests"] = _requests(_text(row, "engine"), prompt, output, replicas)
    workload = _workload(row)
    if tp > 1 and workload.moe is not None and stack in names["attention_dp"]["stacks"]:
        arguments["attention_dp"] = True
    if not workload.causal:
        part = names["encoder"].get(_text(row, "engine"), names["encoder"].get(stack, {"stack": stack, "mean_length": 1.0}))
        arguments["stack"] = names["encoder_modes"].get(_text(row, "weight_precision"), part["stack"])
        arguments["padded_len"] = arguments["seq_len"]
        arguments["seq_len"] = max(1, round(arguments["seq_len"] * part["mean_length"]))
        arguments["kv_precision"] = "fp16"
    return ServingQuestion(workload, hardware, arguments, metric)


def serving_figure(result: ServingResult, metric: str) -> float:
    """``metric`` of a result, in the unit that its name says."""
    name, unit = METRICS[metric]
    value = getattr(result, name)
    return 100 * value if isinstance(value, float) else in_unit(value, unit)


@functools.cache
def _names() -> dict[str, Any]:
    return packaged_toml("tables", "serving_names.toml")


def _tokens(row: Mapping[str, str], column: str) -> int | None:
    """Tokens of a prompt or an output: none is a number here, an empty cell is not."""
    text = _text(row, column)
    if not text:
        return None
    return 0 if float(text) == 0 else _whole(row, column)


def _requests(engine: str, prompt: int | None, output: int | None, replicas: int) -> int | None:
    """How many requests a published offline benchmark sends, where its page says it."""
    for name, counts in _names()["offline_requests"].items():
        if engine.startswith(name) and (count := counts.get(f"{prompt}+{output}")):
            return max(1, int(count) // replicas)
    return None


def _cache(engine: str, weights: str) -> str:
    """The cache's format where a row leaves it out: the engine's own default, else by that of the weights."""
    own = [str(cache) for name, cache in _names()["engine_cache"].items() if engine.startswith(name)]
    return own[0] if own else str(_names()["cache"].get(weights, "fp16"))


def _truth(row: Mapping[str, str], column: str) -> bool:
    """A cell that says yes, or nothing, or no."""
    text = _text(row, column)
    if text not in _TRUTHS:
        raise InputError(column, text, "yes or no")
    return _TRUTHS[text]


_TRUTHS = {"": True, "yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def _precision(text: str) -> str:
    names = _names()["precision"]
    if not text:
        raise InputError("weight_precision", "", "a number format: the row leaves it out")
    return str(names.get(text, text))


def _stack(row: Mapping[str, str]) -> str:
    """The engine's stack: the longest name that the cell begins with; of one name, the era of the row's year.

    An engine that no name fits has the generic stack.
    """
    text, engines = _text(row, "engine"), _names()["engine"]
    known = [name for name in engines if text.startswith(name)]
    if not known:
        return str(_names()["unknown"]["stack"])
    found = engines[max(known, key=len)]
    if isinstance(found, str):
        return found
    year = _number(row, "year", 9999.0)
    return str(next((era["stack"] for era in found if year <= era["until"]), found[-1]["stack"]))


def _hardware(row: Mapping[str, str], ranks: int) -> HardwareNode | Fleet:
    name = _text(row, "accelerator")
    known = _names()["accelerator"]
    entry = known.get(name) or known.get(_bare(name)) or accelerator_entry(name)
    return built_hardware(entry if isinstance(entry, str) else tuple(sorted(entry.items())), ranks)


def _bare(name: str) -> str:
    """A card's name without its maker, its series and its memory: "NVIDIA GeForce RTX 4090 24GB" is a "4090"."""
    return _MEMORY.sub("", _MAKER.sub("", name)).strip()


_MAKER = re.compile(r"^(nvidia\s+)?(tesla\s+|geforce\s+)?(rtx\s+)?")
_MEMORY = re.compile(r"[\s-]*\d+\s*gi?b.*$")


@functools.lru_cache(maxsize=1024)
def built_hardware(entry: str | tuple[tuple[str, Any], ...], ranks: int) -> HardwareNode | Fleet:
    """Building checked types takes longer than solving them: rows with the same cells share the object."""
    device = Hardware.get(entry) if isinstance(entry, str) else _variant(dict(entry))
    if ranks == 1:
        return device
    names = _names()
    per_node = int(names["node"].get("accelerators", 8))
    link_Bps = device.interconnect_bandwidth_Bps or names["node"]["host_link_GBps"] * 1e9
    node = Node(
        name=f"{per_node} x {device.name}",
        accelerator=device,
        accelerators_per_node=per_node,
        intra_node_bw=f"{2 * link_Bps / 1e9} GB/s",
    )
    count = -(-ranks // per_node)
    fabric = NetworkFabric(name="network", bandwidth=f"{names['node']['network_GBps']} GB/s")
    return Fleet(name=f"{count} x {node.name}", node=node, count=count, fabric=fabric)


_MEMORIES = (
    ("memory_GBps", "bandwidth", "GB/s"),
    ("memory_GiB", "capacity", "GiB"),
    ("cache_MiB", "l2_capacity", "MiB"),
)


def _variant(entry: dict[str, Any]) -> HardwareNode:
    """A registry entry with another number of cores, another memory or cache: what vendors sell under one name."""
    base: HardwareNode = Hardware.get(entry["like"])
    listed = base.compute.multiprocessors or 1
    cores = int(entry.get("cores", listed))
    scale = cores / listed
    compute = base.compute.model_copy(
        update={
            "multiprocessors": cores,
            "peak_flops": base.compute.peak_flops * scale,
            "fp16_sum_flops": None if base.compute.fp16_sum_flops is None else base.compute.fp16_sum_flops * scale,
            "precision_flops": {name: rate * scale for name, rate in base.compute.precision_flops.items()},
        }
    )
    changed = {field: with_unit(float(entry[key]), unit) for key, field, unit in _MEMORIES if key in entry}
    memory = base.memory.model_copy(update=changed)
    return base.model_copy(update={"name": entry.get("name", base.name), "compute": compute, "memory": memory})


def _workload(row: Mapping[str, str]) -> TransformerWorkload:
    """The registry's model of this name, else one of the row's columns."""
    name = _text(row, "model")
    known: str | None = _names()["model"].get(name)
    if known is not None:
        return instance("model", Models.get(known), TransformerWorkload, "a transformer")
    if (named := named_model(row)) is not None:
        return named
    encoder = name.startswith(tuple(_names()["encoder_models"]["prefixes"]))
    heads, hidden = _whole(row, "heads"), _whole(row, "hidden")
    built = _built_workload(
        row.get("model") or "model",
        _whole(row, "layers"),
        hidden,
        heads,
        _whole(row, "kv_heads", heads),
        _whole(row, "ffn_hidden", 4 * hidden),
        _whole(row, "vocab", _DEFAULT_VOCABULARY),
        _number(row, "params_b") if _text(row, "params_b") else 0.0,
    )
    return _encoder(built) if encoder else built


@functools.lru_cache(maxsize=256)
def _encoder(model: TransformerWorkload) -> TransformerWorkload:
    return model.model_copy(update={"causal": False})
