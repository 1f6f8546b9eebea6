"""A training plan as files that frameworks read: ``export_training``; ``training_launch`` reads each of them back."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from mlsysim.calibration.names import stack_called
from mlsysim.core.checks import instance, looked_up, mapping
from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.core.options import with_defaults
from mlsysim.launch.known_models import like_registered
from mlsysim.launch.training_run import TrainingLaunch, train_facts
from mlsysim.lowering.options import StepOptions
from mlsysim.lowering.training_plan import micro_batches
from mlsysim.models.types import TransformerWorkload

# What the best plan of a search calls its parts, and the keyword of ``DistributedModel.solve`` that each is.
_PLAN = {"tp": "tp_size", "pp": "pp_size", "cp": "cp_size", "ep": "ep_size", "micro_batches": "microbatch_count"}
# The end of a line whose command goes on.
_MORE = " \\"
# Parts that follow from the others.
_DERIVED = ("dp", "dp_size", "micro_batch_tokens", "batch_size")


def planned_training(
    workload: TransformerWorkload, accelerators: int, plan: Mapping[str, Any], *, batch_size: int, **stated: Any
) -> TrainingLaunch:
    """A plan that a search found, as a training run that can be answered and exported.

    Args:
        workload: what is trained.
        accelerators: of the run.
        plan: ``best_config`` of ``ParallelismOptimizer``, or keywords of ``DistributedModel.solve``.
        batch_size: sequences of a step.
        **stated: keywords of ``DistributedModel.solve`` that the plan leaves out, such as ``seq_len`` and ``stack``.

    Raises:
        UnknownNameError: a part of the plan that no keyword is.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> plan = {"tp": 2, "pp": 1, "dp": 4, "micro_batches": 32, "zero_stage": 1, "recompute": "none"}
        >>> stated = dict(seq_len=8192, precision="bf16", stack="megatron-core")
        >>> launch = planned_training(Models.Language.Llama3_8B, 8, plan, batch_size=128, **stated)
        >>> launch.arguments["tp_size"], launch.arguments["microbatch_count"]
        (2, 32)
    """
    known = with_defaults(StepOptions, {})
    arguments: dict[str, Any] = {"batch_size": batch_size}
    for name, value in mapping("plan", plan, "parts of a plan by their names").items():
        key = _PLAN.get(name, name)
        if key not in known and key not in _DERIVED:
            raise UnknownNameError.among("plan", name, (*_PLAN, *known))
        if key in known:
            arguments[key] = value
    arguments |= stated
    framework = str(arguments.get("stack") or "megatron-core")
    return TrainingLaunch(framework, workload, accelerators, None, arguments)


def export_training(launch: TrainingLaunch, target: str) -> str:
    r"""A training run as a file of a framework, which ``training_launch`` reads back as the same plan.

    Args:
        launch: from ``planned_training`` or ``training_launch``.
        target: "megatron" (arguments), "slurm" (a batch file with these), "torchtitan" (TOML) or "deepspeed" (JSON).

    Raises:
        InputError: the framework has no such plan, by the part that it lacks.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> plan = {"tp_size": 2, "microbatch_count": 32, "recompute": "selective"}
        >>> launch = planned_training(Models.Language.Llama3_8B, 8, plan, batch_size=128, seq_len=8192)
        >>> print(export_training(launch, "megatron").splitlines()[0])
        --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 \
        >>> export_training(launch, "nemo")
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: target = 'nemo': expected one of megatron, torchtitan, deepspeed, slurm
    """
    write = looked_up("target", target, _TARGETS)
    instance("launch", launch, TrainingLaunch, "what planned_training or training_launch gives")
    return write(launch, with_defaults(StepOptions, {k: v for k, v in launch.arguments.items() if k != "batch_size"}))


def _split(launch: TrainingLaunch, asked: Mapping[str, Any]) -> tuple[int, int, int, int, int, int]:
    """TP, PP, CP, data-parallel ranks, micro-batches, and sequences of a micro-batch."""
    tp, pp, cp = asked["tp_size"], asked["pp_size"], asked["cp_size"]
    if launch.accelerators % (tp * pp * cp):
        raise InconsistentError("accelerators", launch.accelerators, f"a multiple of tp x pp x cp = {tp} x {pp} x {cp}")
    dp = launch.accelerators // (tp * pp * cp)
    batch = launch.arguments["batch_size"]
    local, rest = divmod(batch, dp)
    count = micro_batches(max(local, 1), asked["microbatch_count"], asked["micro_batch"])
    if rest or local % count or not local:
        raise InconsistentError(
            "microbatch_count", count, f"a number that divides {batch} sequences over dp = {dp}: no part of one"
        )
    return tp, pp, cp, dp, count, local // count


def _megatron(launch: TrainingLaunch, asked: Mapping[str, Any]) -> str:
    tp, pp, cp, dp, _, micro = _split(launch, asked)
    if asked["schedule"] == "gpipe":
        raise InputError("schedule", "gpipe", "1f1b or interleaved: Megatron-LM has no other")
    if asked["lora_rank"]:
        raise InputError("lora_rank", asked["lora_rank"], "none: Megatron-LM's own arguments have no adapters")
    lines = [*_sizes(launch.workload), _words("--seq-length", asked["seq_len"] or 4096)]
    lines.append(
        _words("--tensor-model-parallel-size", tp, "--pipeline-model-parallel-size", pp, "--context-parallel-size", cp)
    )
    if asked["virtual_stages"] > 1:
        lines.append(_words("--num-virtual-stages-per-pipeline-rank", asked["virtual_stages"]))
    if asked["sequence_parallel"] is not False and tp > 1:
        lines.append("--sequence-parallel")
    if launch.workload.moe is not None:
        expert_tp = asked["expert_tp_size"] or tp
        lines.append(_words("--expert-model-parallel-size", asked["ep_size"], "--expert-tensor-parallel-size", expert_tp))
    lines.append(_words("--micro-batch-size", micro, "--global-batch-size", launch.arguments["batch_size"]))
    lines += [*_sharding(asked, dp), *_formats(asked), *_RECOMPUTED[asked["recompute"] or "none"]]
    if asked["stack"] == "megatron-core":
        lines.append("--cross-entropy-loss-fusion")
    if asked["attention"] != "flash":
        lines.append(_words("--attention-backend", "unfused"))
    return f"{_MORE}\n".join(lines)


def _words(*words: object) -> str:
    return " ".join(shlex.quote(str(word)) for word in words)


def _sizes(model: TransformerWorkload) -> list[str]:
    """Megatron's options of a model's sizes."""
    if model.sliding_window is not None:
        raise InputError("workload", model.name, "a model without windows: Megatron-LM's arguments have none here")
    lines: list[tuple[object, ...]] = [
        (
            *("--num-layers", model.layers, "--hidden-size", model.hidden_dim),
            *("--ffn-hidden-size", model.ffn_width, "--num-attention-heads", model.heads),
        ),
        ("--max-position-embeddings", model.max_seq_len or model.positions or 4096, "--vocab-size", model.vocab_size),
        ("--position-embedding-type", "learned_absolute" if model.positions else "rope"),
    ]
    if model.mla is None:
        groups = ("--group-query-attention", "--num-query-groups", model.kv_head_count, "--kv-channels", model.head_width)
        lines.append(groups)
    else:
        latent = model.mla
        ranks = ("--multi-latent-attention", "--kv-lora-rank", latent.kv_lora_rank, "--qk-head-dim", latent.nope_head_dim)
        lines.append((*ranks, *(("--q-lora-rank", latent.q_lora_rank) if latent.q_lora_rank else ())))
        lines.append(("--qk-pos-emb-head-dim", latent.rope_head_dim, "--v-head-dim", latent.v_head_dim))
    switches = {
        "--swiglu": model.ffn_matrices == 3,
        "--disable-bias-linear": not model.bias,
        "--add-qkv-bias": model.qkv_bias,
        "--untie-embeddings-and-output-weights": not model.tied_embeddings,
    }
    lines.append(tuple(option for option, on in switches.items() if on))
    if model.prediction_layers:
        lines.append(("--mtp-num-layers", model.prediction_layers))
    if (moe := model.moe) is not None:
        lines.append(("--num-experts", moe.experts, "--moe-router-topk", moe.experts_per_token))
        lines.append(("--moe-ffn-hidden-size", moe.ffn_hidden, "--moe-grouped-gemm"))
        if moe.shared_width:
            lines.append(("--moe-shared-expert-intermediate-size", moe.shared_width))
        if moe.first_dense_layers:
            lines.append(("--moe-layer-freq", f"([0]*{moe.first_dense_layers}+[1]*{model.layers - moe.first_dense_layers})"))
        elif moe.every > 1:
            pattern = [int((number + 1) % moe.every == 0) for number in range(model.layers)]
            lines.append(("--moe-layer-freq", str(pattern).replace(" ", "")))
    return [_words(*line) for line in lines if line]


def _sharding(asked: Mapping[str, Any], dp: int) -> list[str]:
    stage = asked["zero_stage"]
    lines = []
    if stage == 1:
        lines.append("--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather")
    elif stage > 1:
        strategy = "optim_grads" if stage == 2 else "optim_grads_params"
        lines.append(_words("--use-megatron-fsdp", "--data-parallel-sharding-strategy", strategy))
    if asked["shard_size"] and asked["shard_size"] < dp:
        lines.append(_words("--num-distributed-optimizer-instances", dp // asked["shard_size"]))
    return lines


def _formats(asked: Mapping[str, Any]) -> list[str]:
    precision, gradients = asked["precision"], asked["gradient_precision"]
    lines = {"fp32": [], "fp16": ["--fp16"], "fp8": ["--bf16 --fp8-format hybrid"], "fp4": ["--bf16 --fp4-format e2m1"]}.get(
        precision, ["--bf16"]
    )
    if precision == "fp16" and gradients == "fp32":
        return [*lines, "--accumulate-allreduce-grads-in-fp32"]
    # Where nobody says, a stack has its framework's own default, and plans without one 16 bits.
    narrow = gradients == "bf16" or (gradients is None and asked["stack"] is None)
    return [*lines, "--grad-reduce-in-bf16"] if narrow and precision not in ("fp32", "fp16") else [*lines]


_RECOMPUTED = {
    "none": [],
    "selective": ["--recompute-granularity selective"],
    "full": ["--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"],
}


def _slurm(launch: TrainingLaunch, asked: Mapping[str, Any]) -> str:
    """A batch file that starts the arguments on nodes of eight, or of as many as the launch says."""
    per_node = min(launch.accelerators, launch.per_node or 8)
    nodes, rest = divmod(launch.accelerators, per_node)
    if rest:
        raise InconsistentError("accelerators", launch.accelerators, f"a multiple of the {per_node} of a node")
    arguments = "\n".join(f"  {line.removesuffix(_MORE)}" for line in _megatron(launch, asked).splitlines())
    return (
        f"#!/bin/bash\n#SBATCH --nodes={nodes}\n#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node={per_node}\n"
        "HEAD=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)\n"
        f"ARGS=(\n{arguments}\n)\n"
        f"srun torchrun --nnodes $SLURM_NNODES --nproc_per_node {per_node} --rdzv_backend c10d --rdzv_endpoint $HEAD:29500 \\\n"
        '  pretrain_gpt.py "${ARGS[@]}"'
    )


def _torchtitan(launch: TrainingLaunch, asked: Mapping[str, Any]) -> str:
    tp, pp, cp, dp, count, micro = _split(launch, asked)
    name, flavor = _flavor(launch.workload)
    batch = launch.arguments["batch_size"]
    precision = asked["precision"]
    if precision not in ("bf16", "fp8"):
        raise InputError("precision", precision, "bf16 or fp8 of torchtitan")
    copies, shards, reshard = _fsdp(asked, dp, pp)
    lines = ["[model]", f'name = "{name}"', f'flavor = "{flavor}"']
    lines += ['converters = ["quantize.linear.float8"]'] if precision == "fp8" else []
    lines += ["", "[training]", f"local_batch_size = {micro * count if pp > 1 else micro}", f"global_batch_size = {batch}"]
    lines += [f"seq_len = {asked['seq_len'] or 4096}", "", "[parallelism]"]
    lines += [f"data_parallel_replicate_degree = {copies}", f"data_parallel_shard_degree = {shards}"]
    lines += [f'fsdp_reshard_after_forward = "{reshard}"', f"tensor_parallel_degree = {tp}", f"context_parallel_degree = {cp}"]
    lines += ["enable_async_tensor_parallel = true"] if asked["async_tp"] else []
    lines += [f"pipeline_parallel_degree = {pp}", *_pipeline(launch.workload, asked, pp, micro)]
    if launch.workload.moe is not None:
        lines += [
            f"expert_parallel_degree = {asked['ep_size']}",
            f"expert_tensor_parallel_degree = {asked['expert_tp_size'] or tp}",
        ]
    lines += ["", "[activation_checkpoint]", f'mode = "{asked["recompute"] or "none"}"']
    if asked["recompute"] == "selective":
        option = "op" if stack_called(str(asked["stack"])) == "torchtitan-products" else "2"
        lines.append(f'selective_ac_option = "{option}"')
    lines += ["", "[compile]", f"enable = {str(bool(asked['compiled'])).lower()}"]
    return "\n".join(lines)


def _flavor(model: TransformerWorkload) -> tuple[str, str]:
    symbol, _ = like_registered(model)
    for name, flavors in train_facts()["torchtitan"]["flavors"].items():
        for flavor, listed in flavors.items():
            if listed == symbol:
                return name, flavor
    raise InputError("workload", model.name, "a model of torchtitan, such as Models.Language.Llama3_8B")


def _fsdp(asked: Mapping[str, Any], dp: int, pp: int) -> tuple[int, int, str]:
    """Replicas, shards, and when weights are sharded again, of a ZeRO stage."""
    stage, shards = asked["zero_stage"], asked["shard_size"] or dp
    if stage == 0:
        return dp, 1, "default"
    if stage == 3:
        return dp // shards, shards, "always"
    if (stage == 1) != (pp > 1):
        kept = "3 or 1 beside a pipeline" if pp > 1 else "3, 2 or 0 without a pipeline"
        raise InputError("zero_stage", stage, f"{kept}: FSDP of torchtitan has no other")
    return dp // shards, shards, "never"


def _pipeline(model: TransformerWorkload, asked: Mapping[str, Any], pp: int, micro: int) -> list[str]:
    chunks = asked["virtual_stages"]
    if pp == 1:
        return []
    schedule = "GPipe" if asked["schedule"] == "gpipe" else "Interleaved1F1B" if chunks > 1 else "1F1B"
    lines = [f'pipeline_parallel_schedule = "{schedule}"', f"pipeline_parallel_microbatch_size = {micro}"]
    if chunks > 1:
        # Embedding and head count as a layer each.
        each = -(-(model.layers + 2) // (pp * chunks))
        if -(-(model.layers + 2) // each) // pp != chunks:
            raise InputError(
                "virtual_stages", chunks, f"chunks into which {model.layers} layers and two divide over {pp} stages"
            )
        lines.append(f"pipeline_parallel_layers_per_stage = {each}")
    return lines


def _deepspeed(launch: TrainingLaunch, asked: Mapping[str, Any]) -> str:
    """DeepSpeed's JSON, which says neither the model nor the length nor the ranks."""
    tp, pp, cp, _, count, micro = _split(launch, asked)
    if pp * cp * tp > 1 or launch.workload.moe is not None:
        raise InputError(
            "plan", f"tp {tp}, pp {pp}, cp {cp}", "data parallelism of a dense model: the rest is no part of the JSON"
        )
    precision, gradients = asked["precision"], asked["gradient_precision"]
    if precision not in ("bf16", "fp16", "fp32"):
        raise InputError("precision", precision, "bf16, fp16 or fp32 of DeepSpeed")
    document: dict[str, Any] = {
        "train_batch_size": launch.arguments["batch_size"],
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": count,
        "zero_optimization": {"stage": asked["zero_stage"]},
    }
    if precision != "fp32":
        document[precision] = {"enabled": True}
        document["data_types"] = {"grad_accum_dtype": gradients or precision}
    return json.dumps(document, indent=2)


_TARGETS: dict[str, Callable[[TrainingLaunch, Mapping[str, Any]], str]] = {
    "megatron": _megatron,
    "torchtitan": _torchtitan,
    "deepspeed": _deepspeed,
    "slurm": _slurm,
}
