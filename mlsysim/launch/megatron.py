"""A Megatron-LM or Megatron-Bridge argument list, alone or in a shell script, as a training run."""

from __future__ import annotations

import re

from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InconsistentError, InputError, MissingArgumentError, NotModelledError
from mlsysim.launch.megatron_model import stated_model
from mlsysim.launch.options import Stated, read_options
from mlsysim.launch.shell import read_script
from mlsysim.launch.shell_words import MARK, Script
from mlsysim.launch.training_run import Run, refuse_offload, registered, train_facts
from mlsysim.models.types import TransformerWorkload

_PROGRAM = re.compile(r"\.py$")
_BATCH_FILE = re.compile(r"^#SBATCH\s+(--[\w-]+)[= ]\s*(\S+)", re.MULTILINE)
# What a job sees of Slurm's options.
_OF_SLURM = {
    "--nodes": ("SLURM_NNODES", "SLURM_JOB_NUM_NODES"),
    "--ntasks": ("SLURM_NTASKS",),
    "--gpus-per-node": ("SLURM_GPUS_PER_NODE", "SLURM_GPUS_ON_NODE"),
    "--ntasks-per-node": ("SLURM_NTASKS_PER_NODE",),
}
_MARKS = ("--num-layers", "--tensor-model-parallel-size", "--micro-batch-size", "--model-parallel-size", "-tp")
_OF_A_RECIPE = {
    "tp": "--tensor-model-parallel-size",
    "pp": "--pipeline-model-parallel-size",
    "micro": "--micro-batch-size",
    "batch": "--global-batch-size",
}
_FORMATS = {"bf16": "bf16", "fp8_cs": "fp8", "fp8_mx": "fp8", "fp8_sc": "fp8", "fp8_ds": "fp8", "nvfp4": "fp4"}
_STRATEGIES = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
_RECOMPUTED = {"full": "full", "selective": "selective", "none": "none"}


def megatron_run(text: str, run: Run) -> None:
    """Fills ``run`` with what a shell script, or an argument list alone, says.

    Raises:
        NotModelledError: a feature that is not modelled, by its option.
        InputError: an option's value is none that it takes, or options contradict each other.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> run = Run("megatron", "arguments", Models.Language.Llama3_8B, 8)
        >>> text = "--tensor-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 64 --seq-length 8192 --bf16"
        >>> megatron_run(text, run)
        >>> run.arguments["tp_size"], run.arguments["microbatch_count"], run.arguments["gradient_precision"]
        (2, 16, 'fp32')
    """
    script = read_script(text, run.name, _slurm(text))
    before, words = _command(script, run.name)
    stated = _read(words)
    run.assumed += stated.assumed
    run.ignored += stated.ignored
    run.unknown += [*stated.unknown, *(word.replace(MARK, "")[:80] for word in stated.others if "=" in word)]
    run.assumed += [f"line {line}: every side of a branch of the script was read" for line in script.branches]
    _count(before, stated, run)
    _refuse(stated)
    _whole_plan(stated)
    tp, pp, cp = (stated.get(name, 1) for name in ("tp", "pp", "cp"))
    if run.workload is None:
        run.workload = _model(stated, tp, run)
    dp = run.ranks(tp, pp, cp)
    micro = stated.get("micro", 1)
    batch = stated.get("batch") or micro * dp
    if stated.get("ramp"):
        run.assumed.append(f"the batch grows to {batch}: the last, largest one is counted")
    model = run.workload
    run.arguments |= {
        "batch_size": batch,
        "seq_len": _length(stated, run),
        "precision": _precision(stated),
        "gradient_precision": _gradients(stated),
        "tp_size": tp,
        "pp_size": pp,
        "cp_size": cp,
        "virtual_stages": _virtual_stages(stated, model.layers, pp, run),
        "microbatch_count": run.micro_batches(batch, micro, dp),
        "zero_stage": _zero_stage(stated),
        "sequence_parallel": bool(stated.get("sequence_parallel")) and tp > 1,
        "recompute": _recompute(stated, model.layers, pp, run),
        "attention": _attention(stated),
    }
    if stated.get("fused_loss"):
        run.arguments["stack"] = "megatron-core"
    copies = stated.get("replicas") or 1
    if copies > 1:
        if dp % copies:
            raise InconsistentError("num-distributed-optimizer-instances", copies, f"a divisor of dp = {dp}")
        run.arguments["shard_size"] = dp // copies
    if model.moe is not None:
        run.arguments |= {"ep_size": stated.get("ep", 1), "expert_tp_size": stated.get("expert_tp") or tp}
        if stated.get("capacity") is not None:
            run.arguments["stack"] = "megatron-core-tokendrop"


def is_megatron(text: str) -> bool:
    """Whether a text has options of Megatron's.

    Example:
        >>> is_megatron("pretrain_gpt.py --num-layers 2"), is_megatron("[training]")
        (True, False)
    """
    return any(re.search(rf"(?<![\w-]){mark}(?![\w-])", text.replace("_", "-")) for mark in _MARKS)


def _slurm(text: str) -> dict[str, str]:
    """Variables that Slurm sets, from the options at the top of a batch file."""
    variables: dict[str, str] = {}
    for option, value in _BATCH_FILE.findall(text):
        number = re.search(r"\d+$", value)
        if number and len(number[0]) < 9:
            variables |= dict.fromkeys(_OF_SLURM.get(option, ()), number[0])
    return variables


def _command(script: Script, name: str) -> tuple[list[str], list[str]]:
    """The words before and after the program of the command that has Megatron's options."""
    for command in script.commands:
        words = list(command.words)
        if any(word.partition("=")[0].replace("_", "-") in _MARKS for word in words):
            place = next((number for number, word in enumerate(words) if _PROGRAM.search(word)), None)
            if place is not None:
                return words[:place], words[place + 1 :]
            begun = next(number for number, word in enumerate(words) if word.startswith("--"))
            return [], words[begun if not words[0].startswith("-") else 0 :]
    raise InputError(name, "", "a command with Megatron's options, such as --num-layers")


def _read(words: list[str]) -> Stated:
    """Options of Megatron, and overrides of Megatron-Bridge (``model.seq_length=8192``) as the options that they are."""
    plain: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and not key.startswith("-") and re.fullmatch(r"(cfg\.)?(model|train|ddp|optimizer|dataset)\.\w+", key):
            option = "--" + key.rsplit(".", 1)[1].replace("_", "-")
            plain += (
                [option] if value.lower() == "true" else [] if value.lower() in ("false", "none", "null") else [option, value]
            )
        else:
            plain.append(word)
    return read_options(plain, train_facts()["megatron"])


def _count(before: list[str], stated: Stated, run: Run) -> None:
    """The accelerators that the launcher starts, unless the caller says how many there are."""
    told = read_options(before, train_facts()["launcher"]).values
    nodes, each, ranks = (_number(told.get(name)) for name in ("nodes", "per_node", "ranks"))
    run.per_node = each
    launched = stated.get("accelerators") or (nodes or 1) * each if each else stated.get("accelerators") or ranks
    if run.accelerators is None:
        run.accelerators = launched
    elif launched is not None and launched != run.accelerators and (nodes or not each):
        run.assumed.append(f"{run.accelerators} accelerators, not the {launched} that the file starts")
    if run.accelerators is not None and run.accelerators < 1:
        raise InputError("accelerators", run.accelerators, "a whole number >= 1")


def _number(word: object) -> int | None:
    """A whole number, or None for what a launcher finds out itself."""
    return int(word) if isinstance(word, str) and word.isdecimal() and len(word) < 9 and int(word) > 0 else None


def _refuse(stated: Stated) -> None:
    refuse_offload("--optimizer-cpu-offload", stated.get("offloaded"))
    refuse_offload("--fine-grained-activation-offloading", stated.get("activations_off"))
    pattern = str(stated.get("hybrid") or "")
    if "M" in pattern:
        raise NotModelledError("--hybrid-override-pattern", pattern, "attention in every layer: M is a Mamba layer")


def _whole_plan(stated: Stated) -> None:
    """Refuses a recipe's name beside a part of its plan: what it states stands in the recipe, which is not read."""
    if stated.get("recipe"):
        for name, option in _OF_A_RECIPE.items():
            if stated.get(name) is None:
                expected = f"its value on the line: recipe {str(stated.get('recipe'))[:40]} states it, and recipes are not read"
                raise MissingArgumentError(option, None, expected)


def _model(stated: Stated, tp: int, run: Run) -> TransformerWorkload:
    """The model that a recipe names, or that the sizes describe: the registry's where it has the same layers."""
    recipe = stated.get("recipe")
    if recipe and not stated.get("layers"):
        run.assumed.append(f"recipe {str(recipe)[:60]}: recomputation and the like are those of the line")
        named = registered(str(recipe))
        if named is not None:
            return named
    return run.as_registered(stated_model(stated, tp, run.name, run.assumed))


def _length(stated: Stated, run: Run) -> int:
    length = stated.get("length") or (stated.get("positions") if stated.get("layers") else None)
    if not length:
        raise InputError(f"{run.name}: --seq-length", None, "the tokens of a sequence")
    return int(length)


def _precision(stated: Stated) -> str:
    if stated.get("compute_dtype"):
        return str(looked_up("--compute-dtype", stated.get("compute_dtype"), _FORMATS))
    if stated.get("fp4"):
        return "fp4"
    if stated.get("fp8"):
        return "fp8"
    return "bf16" if stated.get("bf16") else "fp16" if stated.get("fp16") else "fp32"


def _gradients(stated: Stated) -> str:
    """Megatron sums bf16 gradients in fp32 unless told otherwise, and fp16 ones in their own format."""
    if stated.get("gradients_fp32"):
        return "fp32"
    if stated.get("gradients_bf16"):
        return "bf16"
    return "fp16" if stated.get("fp16") else "fp32"


def _zero_stage(stated: Stated) -> int:
    if stated.get("fsdp"):
        return int(looked_up("--data-parallel-sharding-strategy", stated.get("sharding") or "optim_grads_params", _STRATEGIES))
    if stated.get("fsdp2"):
        return 2 if stated.get("no_reshard") else 3
    return 1 if stated.get("distributed_optimizer") else 0


def _virtual_stages(stated: Stated, layers: int, pp: int, run: Run) -> int:
    """Model chunks a stage: stated, or from the layers of a chunk, or from a layout of stages."""
    if pp == 1:
        return 1
    if stated.get("chunk_layers"):
        return max(1, -(-layers // (pp * int(stated.get("chunk_layers")))))
    if stated.get("layout"):
        run.assumed.append("the layout of stages: layers are dealt out as evenly as they go")
        stages = _stages(str(stated.get("layout")))
        return max(1, stages // pp) if stages else 1
    return max(1, int(stated.get("chunks") or 1))


def _stages(layout: str) -> int:
    """Stages of a layout such as ``Et*3|(tt|)*30|L``; 0 where it cannot be read."""
    if len(layout) > 1000:
        return 0
    for _ in range(20):
        group = re.search(r"\(([^()]*)\)(?:\*(\d{1,4}))?|(\|)\*(\d{1,4})", layout)
        if group is None:
            break
        inside, times = (group[1] or "", group[2]) if group[3] is None else ("|", group[4])
        layout = layout[: group.start()] + inside.replace("*", "") * int(times or 1) + layout[group.end() :]
        if len(layout) > 100_000:
            return 0
    return layout.count("|") + 1


def _recompute(stated: Stated, layers: int, pp: int, run: Run) -> str:
    granularity = stated.get("granularity")
    if stated.get("checkpointed"):
        return "full"
    if granularity is None:
        return "selective" if stated.get("recompute_activations") else "none"
    mode = str(looked_up("--recompute-granularity", granularity, _RECOMPUTED))
    count = stated.get("recomputed_layers")
    if mode == "full" and stated.get("method") == "block" and count is not None and count * pp < layers:
        run.assumed.append(f"{count} layers of each stage are recomputed: all are counted")
    wider = [name for name in str(stated.get("modules") or "").split() if name != "core_attn"]
    if mode == "selective" and wider:
        run.assumed.append(f"recompute modules {' '.join(wider)[:60]}: attention's core, activations and norms are counted")
    return mode


def _attention(stated: Stated) -> str:
    named = str(stated.get("attention") or "auto")
    if named in ("unfused", "local"):
        return "unfused"
    return "fused-softmax" if stated.get("implementation") == "local" and not stated.get("flash") else "flash"
