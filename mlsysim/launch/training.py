"""A training run from its launch file, and what it comes to: ``training_launch`` and ``answer_training``.

``training_launch(source)`` takes a Megatron-LM or Megatron-Bridge argument list or script, a torchtitan TOML, a DeepSpeed JSON,
or YAML of NanoTron and llm-foundry, as text or by its path; ``answer_training(launch, hardware)`` answers about it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlsysim.core.checks import instance, whole_number
from mlsysim.core.errors import InputError
from mlsysim.hardware.types import HardwareNode
from mlsysim.launch.answers import with_assumed
from mlsysim.launch.deepspeed import deepspeed_run
from mlsysim.launch.documents import text_of
from mlsysim.launch.megatron import is_megatron, megatron_run
from mlsysim.launch.torchtitan import torchtitan_run
from mlsysim.launch.training_run import Run, TrainingLaunch
from mlsysim.launch.yaml_runs import yaml_run
from mlsysim.models.types import TransformerWorkload
from mlsysim.solvers.training.distributed import DistributedModel, DistributedResult
from mlsysim.systems.fleets import usual_fleet
from mlsysim.systems.types import Fleet

_TOML_TABLE = re.compile(r"^\s*\[[\w.\"-]+\]\s*(#.*)?$", re.MULTILINE)
_NAMED_FILE = re.compile(r"--\S+[= ](\S+\.(?:json|toml|ya?ml))\b")
_YAML_KEY = re.compile(r"^[\w-]+:(\s|$)", re.MULTILINE)


def training_launch(
    source: str | Path,
    *,
    workload: TransformerWorkload | None = None,
    accelerators: int | None = None,
    **stated: Any,
) -> TrainingLaunch:
    """The training run that a launch file describes.

    Args:
        source: the path of a file, or its text. Nothing of it is run.
        workload: the model, where the file names none, or another than it describes.
        accelerators: how many there are, where the file leaves it to its launcher.
        **stated: keywords of ``DistributedModel.solve``, such as ``seq_len``, that the file leaves out; they win.

    Raises:
        NotModelledError: a feature or a layer that is not modelled, by its option.
        MissingArgumentError: something that the file leaves to its surroundings, by the argument that says it.
        InputError: it is no launch file that is known here, or a value is none that its option takes.

    Example:
        >>> sizes = "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 "
        >>> sizes += "--group-query-attention --num-query-groups 8 --swiglu --disable-bias-linear "
        >>> sizes += "--untie-embeddings-and-output-weights "
        >>> sizes += "--position-embedding-type rope --vocab-size 128256 --seq-length 8192 "
        >>> plan = "--bf16 --tensor-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 128"
        >>> script = f"torchrun --nproc_per_node 8 pretrain_gpt.py {sizes}{plan}"
        >>> launch = training_launch(script)
        >>> launch.workload.name, launch.accelerators, launch.arguments["microbatch_count"], launch.arguments["stack"]
        ('Llama-3-8B', 8, 32, 'megatron-lm-2024')
    """
    if workload is not None:
        instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
    if accelerators is not None:
        whole_number("accelerators", accelerators)
    text, name = text_of(source, "launch file", line="launch text")
    run = Run("megatron", name, workload, accelerators)
    if text.lstrip().startswith("{"):
        run.framework = "deepspeed"
        deepspeed_run(text, run, stated.get("seq_len"))
    elif is_megatron(text):
        megatron_run(text, run)
    elif _TOML_TABLE.search(text):
        run.framework = "torchtitan"
        torchtitan_run(text, run)
    elif _YAML_KEY.search(text):
        yaml_run(text, run)
    else:
        expected = "Megatron's options, a torchtitan TOML, a DeepSpeed JSON, or YAML of NanoTron or llm-foundry"
        if file := _NAMED_FILE.search(text):
            expected += f"; the line names {file[1]}: give that file"
        raise InputError(name, text[:40], expected)
    return run.launch(stated)


def answer_training(launch: TrainingLaunch, hardware: HardwareNode | Fleet) -> DistributedResult:
    r"""What a training run comes to: whether it fits, the time of a step with its interval, and what was assumed.

    Args:
        launch: from ``training_launch``.
        hardware: an accelerator, of which as many as the run has sit in nodes as usual; or a fleet of as many.

    Raises:
        InputError: the fleet has another number of accelerators, or the plan is none.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> toml = '[model]\nname = "llama3"\nflavor = "8B"\n[training]\nlocal_batch_size = 1\nseq_len = 8192'
        >>> step = answer_training(training_launch(toml, accelerators=64), Hardware.Cloud.H100)
        >>> step.feasible, step.plan["dp"], 0.2 < step.mfu < 0.6
        (True, 64, True)
    """
    if isinstance(hardware, Fleet):
        if hardware.accelerators != launch.accelerators:
            raise InputError("hardware", hardware.name, f"a fleet of the run's {launch.accelerators} accelerators")
        fleet = hardware
    else:
        device = instance("hardware", hardware, HardwareNode, "an accelerator such as Hardware.Cloud.H100, or a Fleet")
        fleet = usual_fleet(device, launch.accelerators, launch.per_node)
    step = DistributedModel().solve(launch.workload, fleet, **launch.arguments)
    return with_assumed(step, launch.assumed, launch.unknown)
