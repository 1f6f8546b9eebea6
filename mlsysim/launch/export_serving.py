"""A deployment as command lines that start it: ``export_serving``; ``serving_launch`` reads each line back as the same plan."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

from mlsysim.core.checks import instance, looked_up, mapping
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.precision import UNPACKED, number_format
from mlsysim.core.toml import file_text
from mlsysim.launch.serve import ServingLaunch, serving_facts
from mlsysim.lowering.options import FORMATS, Formats
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload

_SIXTEEN = ("fp16", "bf16")
_MANIFEST = "deployment.yaml"
_TRANSFER = {
    role: f'{{"kv_connector": "NixlConnector", "kv_role": "{kv_role}"}}'
    for role, kv_role in (("prefill", "kv_producer"), ("decode", "kv_consumer"))
}


def planned_serving(
    workload: TransformerWorkload, plan: Mapping[str, Any], *, model: str | None = None, **stated: Any
) -> ServingLaunch:
    """A deployment that a search found, as one that can be answered and exported.

    Where prompts have accelerators of their own, it is the pool that decodes, with the other one as ``prefill``.

    Args:
        workload: what is served.
        plan: ``best_config`` of ``CapacityPlanner``, or keywords of ``ServingModel.solve``.
        model: what the engine's command line calls the model; by default the workload's name.
        **stated: keywords of ``ServingModel.solve`` beside the plan, such as the format of its cache.

    Raises:
        UnknownNameError: a part of the plan that no keyword is.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> plan = {"stack": "vllm-2025", "tp": 2, "pp": 1, "ep": 1, "attention_dp": 1, "batch": 64, "replicas": 3}
        >>> launch = planned_serving(Models.Language.Qwen3_32B, plan, model="Qwen/Qwen3-32B")
        >>> launch.accelerators, launch.arguments["max_num_seqs"]
        (6, 64)
    """
    parts = dict(mapping("plan", plan, "parts of a deployment by their names"))
    for name in parts:
        if _PLAN.get(name, name) not in _KEYWORDS and name not in _TOLD:
            raise UnknownNameError.among("plan", name, (*_PLAN, *_KEYWORDS))
    if not parts.get("disaggregated"):
        return _pool(workload, parts, model, stated, "")
    first = {name: parts[f"prefill_{name}"] for name in _OF_A_POOL if f"prefill_{name}" in parts}
    prefill = _pool(workload, {**parts, "batch": None, "attention_dp": 1, **first}, model, stated, "prefill")
    return replace(_pool(workload, parts, model, stated, "decode"), prefill=prefill)


def _pool(
    workload: TransformerWorkload, parts: Mapping[str, Any], model: str | None, stated: Mapping[str, Any], role: str
) -> ServingLaunch:
    """The launch of all accelerators, or of those of one pool."""
    named = {_PLAN.get(name, name): value for name, value in parts.items()}
    arguments: dict[str, Any] = {"stack": "vllm-2025", "tp_size": 1, "pp_size": 1, "replicas": 1}
    arguments |= {name: value for name, value in named.items() if name in _KEYWORDS and value is not None}
    for name in ("ep_size", "attention_dp"):
        if arguments.get(name) in (1, False):
            del arguments[name]
    if "batch_size" in arguments:
        arguments["max_num_seqs"] = max(1, -(-arguments.pop("batch_size") // _groups(arguments)))
    arguments |= stated
    count = arguments["tp_size"] * arguments["pp_size"] * arguments["replicas"]
    stack = str(arguments["stack"])
    return ServingLaunch(stack, stack, model or workload.name, workload, count, arguments, role=role)


_PLAN = {"tp": "tp_size", "pp": "pp_size", "ep": "ep_size", "batch": "batch_size"}
_KEYWORDS = (
    *("stack", FORMATS["arithmetic"], FORMATS["cache"]),
    *("tp_size", "pp_size", "ep_size", "attention_dp", "replicas", "batch_size"),
    *("max_num_seqs", "max_num_batched_tokens", "memory_share"),
    *("redundant_experts", "two_batch_overlap", "stream_interval", "page_size"),
)
_OF_A_POOL = ("tp", "pp", "ep", "attention_dp", "replicas")
# Parts of a found deployment that no line states, or that are of its other pool.
_TOLD = ("hardware", "disaggregated", "accelerators", *(f"prefill_{name}" for name in _OF_A_POOL))


def export_serving(launch: ServingLaunch, target: str | None = None) -> str:
    """A deployment as the command line that starts it, or as a manifest of Kubernetes.

    Copies of the model are of the line where the engine's own data parallelism makes them; ``trtllm`` starts one. Pools of
    prompts and of decodes have a line each, the prompts' first.

    Args:
        launch: from ``planned_serving`` or ``serving_launch``.
        target: "vllm", "sglang", "trtllm", or "kubernetes" (a Deployment of vLLM); by default the engine of the launch.

    Raises:
        InputError: the engine has no such plan, by the part that it lacks.

    Example:
        >>> from mlsysim.launch.serve import serving_launch
        >>> launch = serving_launch("vllm serve Qwen/Qwen3-32B -tp 2 --max-num-seqs 64")
        >>> export_serving(launch, "sglang").split(" --kv")[0]
        'python -m sglang.launch_server --model-path Qwen/Qwen3-32B --tp-size 2 --max-running-requests 64'
    """
    instance("launch", launch, ServingLaunch, "what planned_serving or serving_launch gives")
    named = target or _target_of(launch)
    write = looked_up("target", named, _TARGETS)
    if launch.arguments.get("offload") or launch.arguments.get("draft_len"):
        part = "offload" if launch.arguments.get("offload") else "draft_len"
        raise InputError(part, launch.arguments[part], "nothing: it is not written on command lines")
    line = write(launch, launch.arguments)
    if launch.prefill is None:
        return line
    apart = "\n---\n" if named == "kubernetes" else "\n"
    return f"{export_serving(launch.prefill, named)}{apart}{line}"


def _groups(asked: Mapping[str, Any]) -> int:
    groups = asked.get("attention_dp", 1)
    return int(asked["tp_size"]) if groups is True else int(groups or 1)


def _line(begun: str, options: Mapping[str, object]) -> str:
    """A command with those of the options that are neither None nor False."""
    words = [begun]
    for option, value in options.items():
        if value is True:
            words.append(option)
        elif value not in (None, False):
            words.append(f"{option} {shlex.quote(str(value))}")
    return " ".join(words)


def _quantization(launch: ServingLaunch, asked: Mapping[str, Any]) -> str | None:
    """The format that the engine must be told, where the model's name does not say it and it is none of its own."""
    precision = asked.get("precision")
    published = launch.workload.weight_format or launch.workload.expert_format
    if (
        precision in (None, UNPACKED, *_SIXTEEN)
        or precision == published
        or (precision or "").removesuffix("_block") == published
    ):
        return None
    if number_format(str(precision)).arithmetic == UNPACKED:
        return str(precision)
    return {"int8": "w8a8_int8", "nvfp4": "modelopt_fp4"}.get(str(precision), str(precision))


def _cache(asked: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    cache = Formats.of(asked).cache
    return None if cache in (None, *_SIXTEEN) else names.get(str(cache), str(cache))


def _vllm(launch: ServingLaunch, asked: Mapping[str, Any]) -> str:
    groups, moe, ep = _groups(asked), launch.workload.moe is not None, asked.get("ep_size", 1)
    tp, copies = asked["tp_size"], asked["replicas"]
    if moe and copies > 1:
        raise InputError(
            "replicas", copies, "1: data-parallel ranks of vLLM share the experts of a model; start a line for each"
        )
    if ep not in (1, tp):
        raise InputError("ep_size", ep, f"1 or all {tp} ranks with vLLM")
    if groups > 1 and not moe:
        raise InputError("attention_dp", groups, "1 of a dense model: data-parallel ranks of vLLM are copies of it (replicas)")
    redundant = asked.get("redundant_experts")
    dtype = asked.get("precision") if asked.get("precision") in _SIXTEEN else None
    options = {
        "--tensor-parallel-size": tp // groups,
        "--pipeline-parallel-size": asked["pp_size"] if asked["pp_size"] > 1 else None,
        "--data-parallel-size": groups if groups > 1 else copies if copies > 1 else None,
        "--enable-expert-parallel": ep > 1,
        "--enable-dbo": bool(asked.get("two_batch_overlap")),
        "--eplb-config": f'{{"num_redundant_experts": {redundant}}}' if redundant is not None and ep > 1 else None,
        "--max-num-seqs": asked.get("max_num_seqs"),
        "--max-num-batched-tokens": asked.get("max_num_batched_tokens"),
        "--max-model-len": launch.max_model_len,
        "--gpu-memory-utilization": asked.get("memory_share"),
        "--quantization": _quantization(launch, asked),
        "--dtype": {"fp16": "half", "bf16": "bfloat16"}.get(str(dtype)),
        "--kv-cache-dtype": _cache(asked, {}),
        "--block-size": _block(launch, asked),
        "--stream-interval": _above_one(asked.get("stream_interval")),
        "--no-enable-prefix-caching": launch.prefix_caching is False,
        "--kv-transfer-config": _TRANSFER.get(launch.role),
    }
    return _line(f"vllm serve {shlex.quote(launch.model)}", options)


def _sglang(launch: ServingLaunch, asked: Mapping[str, Any]) -> str:
    groups, copies, ep = _groups(asked), asked["replicas"], asked.get("ep_size", 1)
    if groups > 1 and copies > 1:
        raise InputError("replicas", copies, "1 beside attention_dp: SGLang's dp is one of the two")
    most, budget = asked.get("max_num_seqs"), asked.get("max_num_batched_tokens")
    options = {
        "--tp-size": asked["tp_size"],
        "--pp-size": asked["pp_size"] if asked["pp_size"] > 1 else None,
        "--dp-size": max(groups, copies) if max(groups, copies) > 1 else None,
        "--enable-dp-attention": groups > 1,
        "--ep-size": ep if ep > 1 else None,
        "--ep-num-redundant-experts": asked.get("redundant_experts") if ep > 1 else None,
        "--enable-two-batch-overlap": bool(asked.get("two_batch_overlap")),
        "--max-running-requests": most * max(groups, copies) if most else None,
        "--chunked-prefill-size": budget * groups if budget else None,
        "--context-length": launch.max_model_len,
        "--mem-fraction-static": asked.get("memory_share"),
        "--quantization": _quantization(launch, asked),
        "--kv-cache-dtype": _cache(asked, {"fp8": "fp8_e4m3"}),
        "--page-size": _block(launch, asked),
        "--stream-interval": _above_one(asked.get("stream_interval")),
        "--disable-radix-cache": launch.prefix_caching is False,
        "--disaggregation-mode": launch.role or None,
    }
    return _line(f"python -m sglang.launch_server --model-path {shlex.quote(launch.model)}", options)


def _trtllm(launch: ServingLaunch, asked: Mapping[str, Any]) -> str:
    groups, ep = _groups(asked), asked.get("ep_size", 1)
    if asked["replicas"] > 1:
        raise InputError("replicas", asked["replicas"], "1: a line of TensorRT-LLM starts one copy")
    if groups not in (1, asked["tp_size"]):
        raise InputError("attention_dp", groups, f"1 or all {asked['tp_size']} ranks with TensorRT-LLM")
    in_a_file = {"memory_share": asked.get("memory_share"), "page_size": _block(launch, asked)}
    in_a_file["stream_interval"] = _above_one(asked.get("stream_interval"))
    for part, value in in_a_file.items():
        if value is not None:
            raise InputError(part, value, "the engine's own: TensorRT-LLM's line has no option for it")
    told = _quantization(launch, asked)
    if told is not None and told != Models.weight_format(launch.model):
        raise InputError(
            "precision", told, "the checkpoint's own: TensorRT-LLM's line has none, so give a quantised one as model"
        )
    options = {
        "--tp_size": asked["tp_size"],
        "--pp_size": asked["pp_size"],
        "--ep_size": ep if ep > 1 else None,
        "--enable_attention_dp": groups > 1,
        "--max_batch_size": asked.get("max_num_seqs"),
        "--max_num_tokens": asked.get("max_num_batched_tokens"),
        "--max_seq_len": launch.max_model_len,
        "--kv_cache_dtype": _cache(asked, {}),
        "--server_role": {"prefill": "context", "decode": "generation"}.get(launch.role),
    }
    return _line(f"trtllm-serve {shlex.quote(launch.model)}", options)


def _block(launch: ServingLaunch, asked: Mapping[str, Any]) -> object:
    """Tokens of a block of the cache, where they are others than those of the launch's own engine."""
    size = asked.get("page_size")
    return None if size == serving_facts()[_target_of(launch)]["block"] else size


def _target_of(launch: ServingLaunch) -> str:
    """The target that starts the launch's own engine; vLLM for an engine that none starts."""
    return next((name for name in _TARGETS if launch.stack.startswith(_STACKS.get(name, name))), "vllm")


def _above_one(value: object) -> object:
    return value if isinstance(value, int) and value > 1 else None


def _kubernetes(launch: ServingLaunch, asked: Mapping[str, Any]) -> str:
    """A Deployment with a pod for each copy of the model, whose accelerators are those of one node."""
    one = {**asked, "replicas": 1}
    words = shlex.split(_vllm(launch, one))
    called = f"{launch.model.rsplit('/', 1)[-1]}-{launch.role}".lower()
    name = "".join(char if char.isalnum() else "-" for char in called).strip("-")
    command = "\n".join(f"            - {_quoted(word)}" for word in words)
    count = one["tp_size"] * one["pp_size"]
    manifest = file_text(resources.files("mlsysim.launch") / "data" / _MANIFEST, f"mlsysim/launch/data/{_MANIFEST}")
    return manifest.rstrip("\n").format(name=name, replicas=asked["replicas"], command=command, count=count)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


_STACKS = {"trtllm": "tensorrt-llm"}
_TARGETS: dict[str, Callable[[ServingLaunch, Mapping[str, Any]], str]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "kubernetes": _kubernetes,
}
