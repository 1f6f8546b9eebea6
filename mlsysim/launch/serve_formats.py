"""The model that a server's command line names, and the number formats that it states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlsysim.core.errors import NotModelledError, UnknownNameError
from mlsysim.core.precision import number_format, precision_name
from mlsysim.launch.documents import is_file
from mlsysim.launch.hf_config import read_config
from mlsysim.launch.options import Stated
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload

_SIXTEEN = {"half": "fp16", "float16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "fp16": "fp16"}
_DEFAULTS = ("", "auto", "none", "null")


def served_model(called: str) -> tuple[TransformerWorkload, tuple[str, ...]]:
    """The model of that name in the registry, or that of the configuration at that path; and what was assumed of it.

    Args:
        called: an id such as Hugging Face has, a name of the registry, or the path of a ``config.json`` or of its folder.

    Raises:
        NotModelledError: its layers are of a kind that is not modelled.
        UnknownNameError: neither; the message has near names.

    Example:
        >>> served_model("meta-llama/Llama-3.3-70B-Instruct")[0].name
        'Llama-3.3-70B'
    """
    # What stands for an accelerated file of weights after a colon: ggml-org/model:Q4_K_M.
    plain = called.rsplit(":", 1)[0] if ":" in called.rsplit("/", 1)[-1] else called
    path = Path(plain)
    if (path.suffix == ".json" and is_file(plain)) or is_file(path / "config.json"):
        reading = read_config(path)
        known = f"{path}: the architecture of the registry's {reading.registered}" if reading.registered else f"{path}: read"
        return reading.model, (known, *reading.assumed)
    reason = Models.not_modelled(plain)
    if reason:
        raise NotModelledError("model", called, reason)
    model = Models.Language.find(plain)
    if model is None:
        error = UnknownNameError.among("model", called, Models.Language.names())
        expected = error.expected + ", or the path of its config.json"
        raise UnknownNameError("model", called, expected, next(iter(Models.Language.nearest(plain)), None))
    return model, ()


def stated_formats(
    stated: Stated, called: str, model: TransformerWorkload, facts: Mapping[str, Any], arguments: dict[str, Any]
) -> None:
    """Adds the number formats of arithmetic, weights and cache to the arguments of a deployment.

    Args:
        stated: the options.
        called: the model's name, which may say its format.
        model: the model, which has a format of its own where it is published in one.
        facts: ``serve_options.toml``.
        arguments: of ``ServingModel.solve``; formats are added where the model's own do not hold.

    Raises:
        UnknownNameError: no format is spelt so.

    Example:
        >>> arguments: dict[str, str] = {}
        >>> facts = {"quantization": {"awq_marlin": "awq"}, "cache": {"auto": ""}}
        >>> qwen = Models.Language.Qwen2_5_32B
        >>> stated_formats(Stated({"quantization": "awq_marlin", "dtype": "half"}), "Qwen2.5-32B-AWQ", qwen, facts, arguments)
        >>> arguments
        {'precision': 'awq', 'kv_precision': 'fp16'}
    """
    written = _format_of_name(called)
    option = str(stated.get("quantization") or "").lower()
    if option not in _DEFAULTS:
        told = facts["quantization"].get(option)
        if told is None:
            told = precision_name("quantization", option)
        # An option that names the checkpoint's own method says no more than the checkpoint does.
        written = (
            told if told and not (written and number_format(written).arithmetic == number_format(told).arithmetic) else written
        )
    dtype = str(stated.get("dtype") or "").lower()
    own = model.weight_format or model.expert_format
    if written and own not in (written, f"{written}_block"):
        arguments["precision"] = written
    elif not own and dtype not in _DEFAULTS:
        arguments["precision"] = _SIXTEEN.get(dtype) or precision_name("dtype", dtype)
    cache = str(stated.get("cache") or "").lower()
    told = facts["cache"].get(cache, cache)
    arguments["kv_precision"] = precision_name("kv_cache_dtype", told) if told else _SIXTEEN.get(dtype, "bf16")


def _format_of_name(called: str) -> str:
    """The format that a checkpoint's name says; one after a colon is the file's (GGUF)."""
    last = called.rsplit("/", 1)[-1]
    if ":" in last:
        return precision_name("model", last.rsplit(":", 1)[1].lower())
    return Models.weight_format(called)
