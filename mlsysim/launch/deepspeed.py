"""A DeepSpeed JSON as a training run; the caller gives the model, the sequence length and the accelerators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlsysim.core.checks import needed, whole_number
from mlsysim.core.errors import InconsistentError, MissingArgumentError, NotModelledError
from mlsysim.launch.documents import json_table
from mlsysim.launch.training_run import Run

_BATCH, _MICRO, _STEPS = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
_READ = (_BATCH, _MICRO, _STEPS, "bf16", "bfloat16", "fp16", "data_types", "zero_optimization", "tensor_parallel")
_OF_ZERO = ("stage", "offload_optimizer", "offload_param")
_FP32 = ("fp32", "fp16", "bf16")


def deepspeed_run(text: str, run: Run, seq_len: int | None) -> None:
    """Fills ``run`` with what a DeepSpeed JSON says; the caller says ``seq_len``, which the file does not.

    Raises:
        NotModelledError: a feature that is not modelled, by its key.
        InputError: a value is none that its key takes, or values contradict each other.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> run = Run("deepspeed", "ds.json", Models.Language.Llama2_13B, 16)
        >>> text = '{"train_batch_size": 128, "train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 3}}'
        >>> deepspeed_run(text, run, 4096)
        >>> run.arguments["microbatch_count"], run.arguments["zero_stage"]
        (2, 3)
    """
    document = json_table(text, run.name)
    zero = document.inner("zero_optimization")
    _told(document, zero, run)
    run.model("a DeepSpeed file says none")
    tp = max(1, whole_number(f"{run.name}: autotp_size", document.inner("tensor_parallel").get("autotp_size", 1), 0))
    numbers = {key: _stated(document, key, run) for key in (_BATCH, _MICRO, _STEPS)}
    dp = _ranks(numbers, tp, run)
    count, batch = _batches(numbers, dp)
    stage = whole_number(f"{run.name}: zero_optimization.stage", zero.get("stage", 0), 0, 3)
    seq_len = needed("seq_len", seq_len, "the tokens of a sequence: a DeepSpeed file does not say them")
    formats = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16"}
    half = next((told for key, told in formats.items() if document.inner(key).get("enabled") is True), "fp32")
    kept = document.inner("data_types").get("grad_accum_dtype")
    run.arguments |= {
        "batch_size": batch,
        "seq_len": seq_len,
        "precision": half,
        "gradient_precision": kept if kept in _FP32 else half if half != "fp32" else None,
        "tp_size": tp,
        "microbatch_count": count,
        "zero_stage": stage,
    }
    run.assumed.append("DeepSpeed's measured runs are of 2021 and 2022: a newer release may be faster")


def _told(document: Mapping[str, Any], zero: Mapping[str, Any], run: Run) -> None:
    """Refuses what is not modelled, and notes what is not described here."""
    facts = run.facts
    flat = [(key, value) for key, value in document.items() if key != "zero_optimization"]
    flat += [(f"zero_optimization.{key}", value) for key, value in zero.items()]
    for key, value in flat:
        off = value in (None, False, 0, 1) or (isinstance(value, dict) and value.get("device", "none") in ("none", None))
        if key in facts["refused"]:
            if not off:
                raise NotModelledError(f"{run.name}: {key}", value, f"none: {facts['refused'][key]}")
        elif key in facts["assumed"]:
            run.assumed.append(f"{key}: {facts['assumed'][key]}")
        elif key in facts["ignored"]:
            run.ignored.append(key)
        elif key not in _READ and key.removeprefix("zero_optimization.") not in _OF_ZERO:
            run.unknown.append(str(key)[:80])


def _stated(document: Mapping[str, Any], key: str, run: Run) -> int | None:
    """A number, or None where it is absent or left to the trainer ("auto")."""
    value = document.get(key)
    return None if value in (None, "auto") else whole_number(f"{run.name}: {key}", value)


def _ranks(numbers: Mapping[str, int | None], tp: int, run: Run) -> int:
    """Data-parallel ranks: of the accelerators, else of the three numbers of the batch."""
    batch, micro, steps = (numbers[key] for key in (_BATCH, _MICRO, _STEPS))
    if run.accelerators is None and batch and micro and steps and batch % (micro * steps) == 0:
        run.accelerators = batch // (micro * steps) * tp
        run.assumed.append(f"{run.accelerators} accelerators: {batch} sequences / ({micro} x {steps}) a rank")
    return run.ranks(tp, 1)


def _batches(numbers: Mapping[str, int | None], dp: int) -> tuple[int, int]:
    """Micro-batches of a step, and its sequences: two of the file's three numbers suffice."""
    batch, micro, steps = (numbers[key] for key in (_BATCH, _MICRO, _STEPS))
    if micro is None and batch is None:
        raise MissingArgumentError(_BATCH, None, f"a number, or {_MICRO}")
    if batch is None:
        batch = (micro or 1) * (steps or 1) * dp
    if micro is None:
        micro = max(1, batch // (dp * (steps or 1)))
    if batch % (micro * dp) or (steps is not None and micro * dp * steps != batch):
        each = f"{_MICRO} x {_STEPS} x ranks = {micro} x {steps or 'any'} x {dp}"
        raise InconsistentError(_BATCH, batch, each)
    return batch // (micro * dp), batch
