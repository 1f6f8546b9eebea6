"""Rows of a table of serving measurements as questions for ``ServingModel``: the columns of published measurement tables."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from mlsysim.calibration.engines import engine
from mlsysim.calibration.names import engine_called, unknown
from mlsysim.calibration.own import ENGINE, is_own, own_stack
from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InputError
from mlsysim.core.toml import reads
from mlsysim.core.units import in_unit
from mlsysim.lowering.options import Formats
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.serving.serving import ServingResult
from mlsysim.systems.fleets import usual_nodes
from mlsysim.tables.cells import cell_text, flag_cell, number_cell, software_cell, whole_cell
from mlsysim.tables.facts import facts
from mlsysim.tables.names import named_accelerator, named_format, named_model, registered_model
from mlsysim.tables.question import Question
from mlsysim.tables.stated_models import stated_workload

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
    "power_w_per_accel": ("power", "watt"),
    "j_per_output_token": ("energy", "joule/count"),
}
# The column of the number format of the KV cache, and all columns of formats.
CACHE_COLUMN = "kv_precision"
FORMAT_COLUMNS = ("weight_precision", CACHE_COLUMN)
_facts = functools.partial(facts, "serving.toml")
_STARTED_WITH = ("max_num_batched_tokens", "max_num_seqs", "draft_len")
_NOTED_MICRO_BATCH = re.compile(r"\bub (\d+)\b")
# A closed loop's requests all start at once; in the steady state that is long ago.
_SCHEDULES = {"static": "static", "closed-loop": "continuous", "steady": "continuous", "offline": "offline"}


@reads("tables", "serving.toml", kept=False)
def serving_question(row: Mapping[str, str]) -> Question:
    """The question that ``row`` asks; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a schedule that is not modelled.
    """
    metric = cell_text(row, "metric")
    looked_up("metric", metric, METRICS)
    user_stack = own_stack(written, ENGINE) if is_own(written := software_cell(row, "engine")) else None
    if user_stack is not None:  # facts about the engine are those of the one that its runs name
        row = {**row, "engine": user_stack.called}
    stack = _stack(row) if user_stack is None else engine(user_stack.file).name
    mode = cell_text(row, "mode") or "static"
    if mode not in _SCHEDULES:
        raise InputError("mode", mode, f"one of {', '.join(_SCHEDULES)}: no other load is modelled")
    pp, workload = whole_cell(row, "pp", 1), _workload(row)
    torus = engine(stack).has.torus
    # A slice shares every layer: where nobody says otherwise, all of its chips.
    tp = whole_cell(row, "tp", whole_cell(row, "n_accel", 1) // pp if torus else 1)
    experts = _expert_arguments(row, workload, tp)
    tp = experts.pop("tp_size", tp)
    accelerators = whole_cell(row, "n_accel", tp * pp)
    if accelerators % (tp * pp):
        raise InputError("n_accel", accelerators, f"a multiple of tp x pp = {tp} x {pp}")
    replicas = accelerators // (tp * pp)
    accelerator, harness = named_accelerator(row), _harness(row)
    hardware = accelerator if tp * pp == 1 else usual_nodes(accelerator, tp * pp)
    known = _facts()
    weights = _weights(row, workload, stack)
    cache = cell_text(row, CACHE_COLUMN) or _cache(cell_text(row, "engine"), weights)
    prompt, output = _tokens(row, "input_len"), _tokens(row, "output_len")
    batch = whole_cell(row, "batch_or_concurrency", 1)
    if not cell_text(row, "tp") and replicas > 1:
        # A system whose plan nobody states: the batch is that of all copies of the model.
        batch = max(1, batch // replicas)
    arguments: dict[str, Any] = {
        "input_len": max(1, prompt or 0),
        "output_len": output or None,
        "batch_size": batch,
        **Formats(weights, cache=named_format(CACHE_COLUMN, cache, known["precision"])).arguments(),
        "tp_size": tp,
        "pp_size": pp,
        "replicas": replicas,
        "schedule": _SCHEDULES[mode],
        "stack": stack,
        "stream_interval": whole_cell(row, "stream_interval", 1),
        "offload": cell_text(row, "offload") or None,
        "tpot_excludes_first_token": output is None or not output or flag_cell(row, "tpot_excludes_first_token", True),
        **{name: number_cell(row, name) for name in ("output_cv", "prefix_hit") if cell_text(row, name)},
        **_started_with(row, harness),
    }
    if stack in known["weight_only"]["stacks"]:
        arguments |= Formats(known["weight_only"]["arithmetic"].get(weights, weights), weights).arguments()
    if torus:
        # Such an engine chooses how attention is divided.
        arguments["attention_dp"] = True
    if mode == "closed-loop":
        arguments |= {
            "rounds": known["closed_loop"]["rounds"],
            "batch_wait_iters": _held_back(row, harness, tp),
            "recv_interval": _looks_after(row, harness),
        }
    if mode == "offline":
        arguments = _offline(cell_text(row, "engine"), prompt, output, replicas) | arguments
    if tp > 1 and workload.moe is not None and stack in known["attention_dp"]["stacks"]:
        arguments["attention_dp"] = True
    arguments |= experts
    if not workload.causal:
        part = known["encoder"].get(cell_text(row, "engine"), known["encoder"].get(stack, {"stack": stack, "mean_length": 1.0}))
        arguments["stack"] = known["encoder_modes"].get(cell_text(row, "weight_precision"), part["stack"])
        arguments["padded_len"] = arguments["input_len"]
        arguments["input_len"] = max(1, round(arguments["input_len"] * part["mean_length"]))
        arguments |= Formats(cache="fp16").arguments()
    elif user_stack is not None:
        arguments["stack"] = user_stack.file
    generation = bool(output) and any(word in cell_text(row, "source") for word in known["phases_apart"]["sources"])
    return Question(workload, hardware, arguments, metric, generation)


def _expert_arguments(row: Mapping[str, str], workload: TransformerWorkload, tp: int) -> dict[str, Any]:
    """How a row divides a model with experts, where its cells say so.

    ``dp`` ranks or groups attend for sequences of their own, each of ``tp`` ranks; with those of vLLM they are ``tp`` x ``dp``
    ranks, with SGLang's, which counts all in ``tp``, no more than the accelerators allow. ``ep`` of them share the experts.
    """
    if workload.moe is None:
        return {}
    ep, groups = (max(1, whole_cell(row, column, 1, least=0)) for column in ("ep", "dp"))
    ranks = tp * groups if tp * groups <= whole_cell(row, "n_accel", tp * groups) else tp
    arguments: dict[str, Any] = {"ep_size": ep} if ep > 1 else {}
    if groups > 1:
        arguments |= {"tp_size": ranks, "attention_dp": groups}
    return arguments


def serving_figure(result: ServingResult, metric: str, *, generation: bool = False) -> float:
    """``metric`` of a result, in the unit that its name says; of the ``generation`` of its tokens alone, where it has one."""
    name, unit = METRICS[metric]
    if generation and name == "request_latency":
        return in_unit(result.request_latency, unit) - in_unit(result.ttft, unit) + in_unit(result.token_gap, unit)
    if generation and name == "prefill_mfu":  # a token's arithmetic is what it is in the prompt, but for its keys
        generated_per_s = result.batch / in_unit(result.token_gap, "second")
        return 100 * result.prefill_mfu * generated_per_s / in_unit(result.prompt_tokens_per_second, "count/second")
    value = getattr(result, name)
    if value is None:
        raise InputError("accelerator", result.subject, f"one whose TDP is known, without drafts: its {name} is not")
    return 100 * value if isinstance(value, float) else in_unit(value, unit)


def noted_limits(notes: str) -> dict[str, str]:
    """The cell ``max_num_batched_tokens`` that a row's notes make up for: llama.cpp's micro-batch, and nothing else is read.

    Example:
        >>> noted_limits("[BS1] pp2048 ub 2048"), noted_limits("club 7")
        ({'max_num_batched_tokens': '2048'}, {})
    """
    said = _NOTED_MICRO_BATCH.search(notes)
    return {"max_num_batched_tokens": said.group(1)} if said else {}


def figure_of(question: Question) -> Callable[[ServingResult, str], float]:
    """How the figures of a question's row are read from its result."""
    return functools.partial(serving_figure, generation=question.generation)


def _tokens(row: Mapping[str, str], column: str) -> int | None:
    """Tokens of a prompt or an output: none is a number here, an empty cell is not."""
    return whole_cell(row, column, least=0) if cell_text(row, column) else None


def _offline(engine: str, prompt: int | None, output: int | None, replicas: int) -> dict[str, Any]:
    """What an engine's offline benchmark sends, and the most sequences that it builds the engine for, where these are known."""
    count = (_of_engine(engine, _facts()["offline_requests"]) or {}).get(f"{prompt}+{output}")
    most = _of_engine(engine, _facts()["offline_sequences"])
    return {"requests": max(1, int(count) // replicas) if count else None, **({"max_num_seqs": most} if most else {})}


def _of_engine(engine: str, known: Mapping[str, Any]) -> Any:
    """What is known of the first name that the engine's cell begins with; None where it begins with none of them."""
    return next((fact for name, fact in known.items() if engine.startswith(name)), None)


def _cache(engine: str, weights: str) -> str:
    """The cache's format where a row leaves it out: the engine's own default, else by that of the weights."""
    return str(_of_engine(engine, _facts()["engine_cache"]) or _facts()["cache"].get(weights, "fp16"))


def _harness(row: Mapping[str, str]) -> str:
    """What the row says that its figures were measured through, else what its source measures through; empty: as its engine."""
    source, released = cell_text(row, "source"), any(char.isdigit() for char in cell_text(row, "engine"))
    through = (named for word, named in _facts()["harness_of_source"].items() if word in source)
    named = next(through, {"released": "", "other": ""})
    return cell_text(row, "harness") or str(named["released" if released else "other"])


def _started_with(row: Mapping[str, str], harness: str) -> dict[str, Any]:
    """Limits and drafts that the row's engine was started with, and what it was reached through."""
    started: dict[str, Any] = {name: whole_cell(row, name) for name in _STARTED_WITH if cell_text(row, name)}
    if started.get("draft_len"):
        started["acceptance"] = number_cell(row, "acceptance")
        if named := row.get("draft_model"):
            started["draft"] = Models.Language.get(named)
    return {**started, "harness_name": harness} if harness else started


def _held_back(row: Mapping[str, str], harness: str, tp: int) -> int:
    """Steps that the row's engine holds prompts back, as it says, or as its harness's scripts have it."""
    if cell_text(row, "batch_wait_iters"):
        return whole_cell(row, "batch_wait_iters", least=0)
    known = _facts()["batch_wait"].get(harness)
    if known is None or cell_text(row, "engine") != known["engine"] or tp >= known["tp_below"]:
        return 0
    tokens = f"{whole_cell(row, 'input_len')}+{whole_cell(row, 'output_len', 0, least=0)}"
    return int(known["steps"]) if tokens == known["tokens"] else 0


def _looks_after(row: Mapping[str, str], harness: str) -> int:
    """Decode steps between the scheduler's looks at what arrived, as the row says, or as its harness's scripts have it."""
    if cell_text(row, "recv_interval"):
        return whole_cell(row, "recv_interval")
    known = _facts()["recv_interval"].get(harness)
    if known is None or not cell_text(row, "engine").startswith(known["engine"]):
        return 1
    device, model = cell_text(row, "accelerator").split("-")[0], cell_text(row, "model")
    if device not in known["accelerators"] or known["model"] not in model:
        return 1
    return int(known["steps"][whole_cell(row, "batch_or_concurrency") >= known["most_from"]])


def _weights(row: Mapping[str, str], workload: TransformerWorkload, stack: str) -> str:
    """The weights' format; one of the width in which they are published means these: nobody quantises them again.

    A width alone means what the engine's own scripts store.
    """
    told = Models.weight_format(row.get("model") or "")
    named = named_format("weight_precision", cell_text(row, "weight_precision") or told, _facts()["precision"])
    published = workload.weight_format or told
    return published if published == f"{named}_block" else str(_facts()["stored"].get(stack, {}).get(named, named))


def _stack(row: Mapping[str, str]) -> str:
    """The engine's stack, of the era of the row's year; the generic one for an engine that no name fits."""
    return engine_called(cell_text(row, "engine"), number_cell(row, "year", 9999.0)) or str(unknown()["stack"])


def _workload(row: Mapping[str, str]) -> TransformerWorkload:
    """The registry's model of this name, unless the row's columns are of another; else one of these."""
    model = registered_model(row.get("model") or "")
    if model is not None and all(whole_cell(row, column, size) == size for column, size in _sizes(model)):
        return model
    if (named := named_model(row)) is not None:
        return named
    encoder = cell_text(row, "model").startswith(tuple(_facts()["encoder_models"]["prefixes"]))
    built = stated_workload(row)
    return _encoder(built) if encoder else built


def _sizes(model: TransformerWorkload) -> list[tuple[str, int]]:
    """Columns that a model's rows have, each with what it is there; latent heads have several widths."""
    sizes = [("layers", model.layers), ("hidden", model.hidden_dim), ("heads", model.heads)]
    return sizes if model.mla is not None else [*sizes, ("head_dim", model.head_width)]


@functools.lru_cache(maxsize=256)
def _encoder(model: TransformerWorkload) -> TransformerWorkload:
    return model.model_copy(update={"causal": False})
