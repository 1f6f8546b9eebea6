"""What a server's command line comes to as arguments of a deployment: the model, its formats, its division and its drafts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlsysim.core.checks import whole_number
from mlsysim.core.errors import InconsistentError, InputError, NotModelledError, UnknownNameError
from mlsysim.core.precision import number_format, precision_name
from mlsysim.launch.documents import is_file, json_table, text_of, yaml_table
from mlsysim.launch.hf_config import read_config
from mlsysim.launch.options import Stated, read_keys
from mlsysim.launch.shell_words import Script
from mlsysim.lowering.options import Formats
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload

_GGUF = re.compile(r"(.+?)[-.]((?:ud-)?i?q\d\w*|b?f16)(?:-\d{5}-of-\d{5})?\.gguf", re.IGNORECASE)
_SIXTEEN = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "fp16": "fp16"}
_DEFAULTS = ("", "auto", "none", "null")
# What deals experts out to ranks, of --moe-a2a-backend: expert parallelism over all of tp.
_NO_EXCHANGE = ("", "none")
_PLAIN = 16 / 8  # bytes of a weight that nobody quantised


def plan_of(engine: str, stated: Stated, model: TransformerWorkload, arguments: dict[str, Any], assumed: list[str]) -> None:
    """Adds the division over ranks, drafts and offloading of an engine's options to the arguments of a deployment.

    Limits of a rank replace those of all ranks in ``stated``, and what is simplified is added to ``assumed``.

    Raises:
        NotModelledError: a way to divide the work that is not modelled.
        InputError: the options contradict each other.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> arguments: dict[str, object] = {}
        >>> plan_of("vllm", Stated({"tp": 2, "dp": 4}), Models.Language.Llama3_8B, arguments, [])
        >>> arguments
        {'tp_size': 2, 'pp_size': 1, 'replicas': 4}
    """
    _refuse(stated)
    tp, pp, dp = (stated.get(name, 1) for name in ("tp", "pp", "dp"))
    arguments |= {"tp_size": tp, "pp_size": pp, "replicas": 1}
    _PLANS[engine](stated, model, tp, dp, arguments, assumed)
    if arguments.get("ep_size", 1) > 1:
        overlapped = bool(stated.get("two_batches"))
        if "attention_dp" in arguments:
            arguments["two_batch_overlap"] = overlapped
        elif overlapped:
            assumed.append("two micro-batches: not counted, for attention is shared by all ranks")
    _drafts(stated, arguments, assumed)
    _offloads(stated, model, arguments)
    if stated.get("memory_of_free") is not None:
        free = f"{stated.get('memory_of_free'):g} of what the weights leave free"
        assumed.append(f"{free} for the cache: the engine's own share of the whole is counted")


def merged_file(stated: Stated, table: Mapping[str, Any], script: Script, files: Mapping[str, str]) -> Stated:
    """The options of a line with those of the file that it names, which win over the line's.

    The file's text is among ``files``, or the script writes it itself, or it is there to be read.

    Raises:
        InputError: the file is nowhere to be read, or is no YAML.

    Example:
        >>> table = {"read": {"stream": {"names": [], "kind": "whole", "key": "stream_interval"}}}
        >>> merged_file(Stated({"file": "x.yaml"}), table, Script(), {"x.yaml": '{"stream_interval": 10}'}).values["stream"]
        10
    """
    named = stated.get("file")
    text = files.get(named) or script.documents.get(named)
    if text is None:
        try:
            text, _ = text_of(named, "config")
        except InputError as error:
            raise InputError("config", named, f"{error.expected}, or its text in files") from None
    document = json_table(text, named) if text.lstrip().startswith("{") and '"' in text else yaml_table(text, named)
    told = read_keys(document, table, named)
    both = {part: getattr(stated, part) + getattr(told, part) for part in ("assumed", "ignored", "unknown")}
    return Stated({**stated.values, **told.values}, stated.others, **both)


def _refuse(stated: Stated) -> None:
    """Refuses what no solver divides or computes so, by its name."""
    for name, option in (
        ("dcp", "decode context parallelism"),
        ("pcp", "prefill context parallelism"),
        ("cp", "context parallelism"),
    ):
        if (stated.get(name) or 1) > 1:
            raise NotModelledError(option, stated.get(name), "1: a prompt's tokens are not divided over ranks of a server")
    if (stated.get("beams") or 1) > 1:
        raise NotModelledError("max_beam_width", stated.get("beams"), "1: servers with beams are not modelled")
    if str(stated.get("backend") or "pytorch").lower() not in ("pytorch", "tensorrt", "trt"):
        raise NotModelledError("backend", stated.get("backend"), "pytorch or tensorrt")
    if stated.get("experts_off") or stated.get("all_experts_off") or stated.get("tensors"):
        cause = stated.get("experts_off") or stated.get("tensors") or True
        raise NotModelledError(
            "n-cpu-moe", cause, "all experts on the accelerator: those that the host computes are not modelled"
        )
    if stated.get("cache_off"):
        raise NotModelledError("no-kv-offload", True, "a cache on the accelerator: one in the host's memory is not modelled")


def _vllm(stated: Stated, model: TransformerWorkload, tp: int, dp: int, asked: dict[str, Any], assumed: list[str]) -> None:
    """Data-parallel ranks of vLLM share the experts of a model that has some; else they are copies."""
    spread = bool(stated.get("experts_split"))
    if model.moe is None:
        asked["replicas"] = dp
        if spread:
            assumed.append(f"expert parallelism changes nothing: {model.name} has no experts")
        return
    ranks = tp * dp
    asked["tp_size"] = ranks
    if dp > 1:
        asked["attention_dp"] = dp
    if spread and ranks > 1:
        asked["ep_size"] = ranks
        _redundant(asked, (stated.get("eplb") or {}).get("num_redundant_experts"), "eplb_config.num_redundant_experts")


def _sglang(stated: Stated, model: TransformerWorkload, tp: int, dp: int, asked: dict[str, Any], assumed: list[str]) -> None:
    """SGLang counts all ranks in tp where attention is data parallel; its limits are those of the whole instance."""
    if stated.get("attention_dp"):
        if tp % dp:
            raise InconsistentError("dp-size", dp, f"a divisor of tp-size = {tp} with --enable-dp-attention")
        if dp > 1:
            asked["attention_dp"] = dp
            if stated.get("step_tokens"):
                stated.values["step_tokens"] = max(1, stated.get("step_tokens") // dp)
    elif dp > 1:
        asked["replicas"] = dp
    exchange = str(stated.get("exchange") or "").lower()
    ep = tp if exchange not in _NO_EXCHANGE else stated.get("ep", 1)
    if ep > 1 and model.moe is not None:
        asked["ep_size"] = ep
        _redundant(asked, stated.get("redundant"), "ep-num-redundant-experts")
    if stated.get("most_in_all"):
        stated.values["most"] = max(1, stated.get("most_in_all") // dp)


def _trtllm(stated: Stated, model: TransformerWorkload, tp: int, dp: int, asked: dict[str, Any], assumed: list[str]) -> None:
    """TensorRT-LLM deals out experts to a part of tp; with attention data parallelism each rank has its own sequences."""
    if stated.get("attention_dp") and tp > 1:
        asked["attention_dp"] = True
    if (stated.get("ep") or 1) > 1 and model.moe is not None:
        asked["ep_size"] = stated.get("ep")


def _llama(stated: Stated, model: TransformerWorkload, tp: int, dp: int, asked: dict[str, Any], assumed: list[str]) -> None:
    """llama.cpp divides layers over the accelerators that the shares name, or each layer with a split by rows."""
    named = str(stated.get("shares") or "")
    count = len(named.split(",")) if named else 1
    if not named:
        assumed.append("one accelerator: the line names no --tensor-split")
    elif len(set(named.split(","))) > 1:
        assumed.append(f"shares {named[:40]} of the accelerators: they have equal ones")
    split = str(stated.get("split") or "layer").lower()
    asked |= {"tp_size": count, "pp_size": 1} if split in ("row", "tensor") else {"tp_size": 1, "pp_size": count}
    kept = str(stated.get("layers_on") or "all").lower()
    if kept.isdecimal() and len(kept) < 9 and int(kept) < model.layers:
        raise NotModelledError("n-gpu-layers", kept, f"all {model.layers}: layers that the host computes are not modelled")
    values = stated.get("cache_of_values")
    if values is not None and values != stated.get("cache"):
        assumed.append(f"values of the cache in {values}: all of it is counted in {stated.get('cache') or 'f16'}")
    if stated.get("length"):
        assumed.append("the context of -c is shared by all slots")
        stated.values["length"] = stated.get("length") // max(1, stated.get("most", 1))


_PLANS: dict[str, Callable[[Stated, TransformerWorkload, int, int, dict[str, Any], list[str]], None]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "llama": _llama,
}


def _redundant(arguments: dict[str, Any], copies: object, name: str) -> None:
    if copies is not None:
        arguments["redundant_experts"] = whole_number(name, copies, 0)


def _drafts(stated: Stated, arguments: dict[str, Any], assumed: list[str]) -> None:
    """Tokens drafted for each sequence, and the model that drafts them where it has a name."""
    table = stated.get("speculation") or {}
    length = table.get("num_speculative_tokens") or stated.get("draft_steps") or stated.get("draft_tokens_each")
    tree = (stated.get("draft_branches") or 1) > 1
    if tree and stated.get("draft_tokens"):
        length = stated.get("draft_tokens") - 1
        assumed.append(f"a tree of drafts: {length} tokens in a chain are counted")
    if length is None:
        if table or stated.get("drafts_by") or stated.get("draft_model"):
            raise InputError("speculation", None, "the number of drafted tokens: the line leaves it to the engine")
        return
    length = whole_number("num_speculative_tokens", length, 0, 1000)
    if not length:
        return
    arguments["draft_len"] = length
    named = table.get("model") or stated.get("draft_model")
    method = str(table.get("method") or stated.get("drafts_by") or "").lower()
    if named and not method.startswith(("eagle", "mtp", "medusa")):
        arguments["draft"] = served_model(str(named))[0]
    elif method.startswith(("ngram", "suffix")):
        raise NotModelledError("speculation", method, "drafts of a model or of a module: drafts from the prompt take no pass")
    elif not method.startswith("mtp"):
        assumed.append("the drafting module is taken to be one of the model's own layers with its output head")


def _offloads(stated: Stated, model: TransformerWorkload, arguments: dict[str, Any]) -> None:
    """The share of the weights that the host keeps, of a stated size for each accelerator."""
    gib = stated.get("offload_gib")
    if gib:
        stored = number_format(model.weight_format).bytes if model.weight_format else _PLAIN
        ranks = arguments["tp_size"] * arguments["pp_size"]
        arguments["offload"] = {"weights": min(1.0, gib * 2**30 * ranks / (model.parameter_count * stored))}


def _plain_name(called: str) -> tuple[str, str]:
    """A model's name without what says the format of a GGUF file, and that: after a colon, or at the end of the file's name."""
    last = called.rsplit("/", 1)[-1]
    if ":" in last:
        return called.rsplit(":", 1)[0], last.rsplit(":", 1)[1].lower()
    named = _GGUF.fullmatch(last)
    return (named[1], named[2].lower()) if named else (called, "")


def served_model(called: str) -> tuple[TransformerWorkload, tuple[str, ...]]:
    """The model of that name in the registry, or that of the configuration at that path; and what was assumed of it.

    Raises:
        NotModelledError: its layers are of a kind that is not modelled.
        UnknownNameError: neither; the message has near names.

    Example:
        >>> served_model("meta-llama/Llama-3.3-70B-Instruct")[0].name
        'Llama-3.3-70B'
    """
    plain, _ = _plain_name(called)
    path = Path(plain)
    if (path.suffix == ".json" and is_file(plain)) or is_file(path / "config.json"):
        reading = read_config(path)
        known = f"{path}: the architecture of the registry's {reading.registered}" if reading.registered else f"{path}: read"
        return reading.model, (known, *reading.assumed)
    # What is left out is known by how its name begins, as that of a model that is there may: Qwen3-8B, Qwen3.8.
    model = Models.Language.find(plain)
    if model is None:
        if reason := Models.not_modelled(plain):
            raise NotModelledError("model", called, reason)
        expected = f"one of {len(Models.Language)} names, or the path of its config.json"
        raise UnknownNameError("model", called, expected, next(iter(Models.Language.nearest(plain[:80])), None))
    return model, ()


def stated_formats(
    stated: Stated, called: str, model: TransformerWorkload, facts: Mapping[str, Any], arguments: dict[str, Any]
) -> None:
    """Adds the number formats of arithmetic, weights and cache to the arguments of a deployment.

    Those of the model's name and of the options are added where the formats that it is published in do not hold.

    Raises:
        UnknownNameError: no format is spelt so.

    Example:
        >>> arguments: dict[str, str] = {}
        >>> facts = {"quantization": {"awq_marlin": "awq"}, "cache": {"auto": ""}}
        >>> qwen = Models.Language.Qwen2_5_32B
        >>> stated_formats(Stated({"quantization": "awq_marlin", "dtype": "half"}), "Qwen2.5-32B-AWQ", qwen, facts, arguments)
        >>> Formats.of(arguments)
        Formats(arithmetic='awq', weights=None, cache='fp16')
    """
    written = _format_of_name(called)
    option = str(stated.get("quantization") or "").lower()
    if option not in _DEFAULTS:
        told = facts["quantization"].get(option)
        if told is None:
            told = precision_name("quantization", option)
        # An option that names the checkpoint's own method, or any of its maker's, says no more than the checkpoint does.
        if told and written and number_format(written).arithmetic != number_format(told).arithmetic and option != "modelopt":
            raise InconsistentError("quantization", option, f"{written}, as the model's name {called!r} says")
        written = written or told
    dtype = str(stated.get("dtype") or "").lower()
    published = model.weight_format or model.expert_format
    if written and published not in (written, f"{written}_block"):
        arguments["precision"] = written
    elif not published and dtype not in _DEFAULTS:
        arguments["precision"] = _SIXTEEN.get(dtype) or precision_name("dtype", dtype)
    cache = str(stated.get("cache") or "").lower()
    told = facts["cache"].get(cache, cache)
    cached = precision_name("kv_cache_dtype", told) if told else _SIXTEEN.get(dtype, "bf16")
    arguments |= Formats(cache=cached).arguments()


def _format_of_name(called: str) -> str:
    """The format that a checkpoint's name says; one after a colon is the file's (GGUF)."""
    _, told = _plain_name(called)
    return precision_name("model", told) if told else Models.weight_format(called)
