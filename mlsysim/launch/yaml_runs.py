"""NanoTron's and llm-foundry's YAML as training runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlsysim.core.checks import looked_up, whole_number
from mlsysim.core.errors import InputError, MissingArgumentError, NotModelledError
from mlsysim.launch.documents import Table, yaml_table
from mlsysim.launch.hf_config import model_from_config
from mlsysim.launch.training_run import Run, refuse_offload, train_facts
from mlsysim.models.types import TransformerWorkload

_HALF = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_AMP = {"amp_bf16": "bf16", "amp_fp16": "fp16", "amp_fp8": "fp8", "fp32": "fp32", "bf16": "bf16"}
_REFERENCE = re.compile(r"\$\{(?:variables\.)?(\w+)\}")


def yaml_run(text: str, run: Run) -> None:
    """Fills ``run``, its framework too, with what a YAML file of NanoTron or llm-foundry says.

    Raises:
        NotModelledError: a feature that is not modelled, by its key.
        InputError: it is a file of neither, or a value is none that its key takes.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("yaml")
        >>> yaml_run("a: 1", Run("nanotron", "run.yaml"))
        Traceback (most recent call last):
        mlsysim.core.errors.InputError: run.yaml = ['a']: expected parallelism and tokens (NanoTron), or \
global_train_batch_size and model (llm-foundry)
    """
    document = yaml_table(text, run.name)
    if "parallelism" in document and "tokens" in document:
        run.framework = "nanotron"
        _nanotron(document, run)
    elif "model" in document and ("global_train_batch_size" in document or "device_train_batch_size" in document):
        run.framework = "llm-foundry"
        _llm_foundry(Table(_without_references(document), run.name), run)
    else:
        expected = "parallelism and tokens (NanoTron), or global_train_batch_size and model (llm-foundry)"
        for other in train_facts()["others"]:
            if document.keys() >= set(other["keys"]):
                instead = (
                    "by Megatron's options (--tensor-model-parallel-size 8 ...)"
                    if other["megatron"]
                    else "by options or a table"
                )
                raise NotModelledError(
                    run.name, f"YAML of {other['name']}", f"{expected}; state a run of {other['name']} {instead}"
                )
        raise InputError(run.name, list(document)[:5], expected)


def _nanotron(document: Table, run: Run) -> None:
    read = ("parallelism", "tokens", "model", "optimizer")
    split, tokens, model, optimizer = map(document.inner, read)
    known = (*run.facts["ignored"], *read)
    run.unknown += [str(key)[:80] for key in document if key not in known]
    run.ignored += [key for key in run.facts["ignored"] if key in document]
    if run.workload is None:
        config = model.inner("model_config")
        multiple = model.whole("make_vocab_size_divisible_by", 1)
        run.workload = model_from_config(
            {"model_type": "llama", **{key: config[key] for key in config if key != "is_llama_config"}}
        )
        if multiple > 1:
            run.assumed.append(f"a vocabulary padded to a multiple of {multiple} x tp: it is counted as it is")
    dp, tp, pp, cp = (split.whole(key, 1) for key in ("dp", "tp", "pp", "context_parallel_size"))
    world = dp * tp * pp * cp
    if run.accelerators not in (None, world):
        raise InputError("accelerators", run.accelerators, f"dp x tp x pp x cp = {world}, as {run.name} says")
    run.accelerators = world
    micro = tokens.whole("micro_batch_size")
    count = tokens.whole("batch_accumulation_per_replica")
    precision = looked_up(f"{run.name}: model.dtype", model.get("dtype", "bfloat16"), _HALF)
    engine = looked_up(f"{run.name}: pp_engine", split.get("pp_engine", "afab"), {"1f1b": None, "afab": "gpipe"})
    run.arguments |= {
        "batch_size": micro * count * dp,
        "seq_len": tokens.whole("sequence_length"),
        "precision": precision,
        "gradient_precision": "fp32" if optimizer.get("accumulate_grad_in_fp32") else precision,
        "tp_size": tp,
        "pp_size": pp,
        "cp_size": cp,
        "microbatch_count": count,
        "zero_stage": whole_number(f"{run.name}: optimizer.zero_stage", optimizer.get("zero_stage", 0), 0, 1),
        "sequence_parallel": split.get("tp_mode") == "REDUCE_SCATTER" and tp > 1,
        "recompute": "full" if split.get("recompute_layer") else "none",
    }
    if engine is not None and pp > 1:
        run.arguments["schedule"] = engine
    if split.get("tp_linear_async_communication"):
        run.assumed.append("asynchronous tensor parallelism: it hides as much as on the stack's measured runs")
    ep = split.whole("expert_parallel_size", 1)
    if run.model().moe is not None:
        run.arguments |= {"ep_size": ep}
    run.assumed.append("NanoTron: the stack megatron-core stands for it")


def _without_references(document: Mapping[str, Any]) -> dict[str, Any]:
    """The file with what its ``${variables.name}`` stand for, one level deep."""
    variables = document.get("variables")
    known = {**document, **(variables if isinstance(variables, dict) else {})}

    def put_in(value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict) and depth < 20:
            return {key: put_in(one, depth + 1) for key, one in value.items()}
        if isinstance(value, str) and (named := _REFERENCE.fullmatch(value)) and named[1] in known:
            told = known[named[1]]
            inside = _REFERENCE.fullmatch(told) if isinstance(told, str) else None
            return known.get(inside[1]) if inside else told
        return value

    return {key: put_in(value) for key, value in document.items() if key != "variables"}


def _llm_foundry(document: Table, run: Run) -> None:
    fsdp, model = document.inner("fsdp_config"), document.inner("model")
    if run.workload is None:
        run.workload = _mpt(model, run)
    if document.get("tp_config"):
        raise NotModelledError(f"{run.name}: tp_config", document.get("tp_config"), "none: FSDP alone is read of llm-foundry")
    for key in ("cpu_offload", "activation_cpu_offload"):
        refuse_offload(f"{run.name}: fsdp_config.{key}", fsdp.get(key))
    dp = run.counted()
    batch = document.get("global_train_batch_size") or document.whole("device_train_batch_size") * dp
    batch = whole_number(f"{run.name}: global_train_batch_size", batch)
    micro = document.get("device_train_microbatch_size", "auto")
    if micro == "auto":
        raise MissingArgumentError("device_train_microbatch_size", micro, "a number: the file leaves it to the memory")
    strategy = fsdp.get("sharding_strategy", "FULL_SHARD") if fsdp else "NO_SHARD"
    mixed = fsdp.get("mixed_precision", "DEFAULT")
    if mixed == "PURE":
        run.arguments["stack"] = "pytorch-fsdp-pure"
    elif mixed != "DEFAULT":
        run.assumed.append(f"mixed precision {str(mixed)[:20]}: gathered in bf16 and reduced in fp32, as DEFAULT is")
    attention = model.inner("attn_config").get("attn_impl", "flash")
    run.arguments |= {
        "batch_size": batch,
        "seq_len": document.whole("max_seq_len"),
        "precision": looked_up(f"{run.name}: precision", document.get("precision", "amp_bf16"), _AMP),
        "gradient_precision": "fp32",
        "microbatch_count": run.micro_batches(batch, whole_number(f"{run.name}: device_train_microbatch_size", micro), dp),
        "zero_stage": looked_up(f"{run.name}: fsdp_config.sharding_strategy", strategy, run.facts["strategies"]),
        "recompute": "full" if fsdp.get("activation_checkpointing") else "none",
        "attention": "unfused" if attention == "torch" else "flash",
        "compiled": bool(document.get("compile_config")),
    }
    if fsdp.get("activation_checkpointing") and fsdp.get("activation_checkpointing_reentrant") is False:
        run.assumed.append("checkpoints that are not entered anew keep a layer's last product: it is counted as repeated")


def _mpt(model: Table, run: Run) -> TransformerWorkload:
    if model.get("name") != "mpt_causal_lm":
        raise MissingArgumentError("workload", model.get("name"), f"a model: {run.name} names none that it describes itself")
    attention = model.inner("attn_config")
    hidden, heads = model.whole("d_model"), model.whole("n_heads")
    config = {"model_type": "mpt", "d_model": hidden, "n_heads": heads, "n_layers": model.get("n_layers")}
    config |= {"expansion_ratio": model.get("expansion_ratio", 4), "vocab_size": model.get("vocab_size")}
    config |= {
        "attn_config": {key: attention[key] for key in ("kv_n_heads",) if key in attention},
        "max_seq_len": model.get("max_seq_len"),
    }
    return run.as_registered(model_from_config(config))
