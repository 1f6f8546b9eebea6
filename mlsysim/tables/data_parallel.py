"""Rows of tables of ResNet-50 and BERT training (DeepLearningExamples, MLPerf) as questions for ``SingleNodeModel``.

A row says its stack by its benchmark or its framework; DeepLearningExamples, which files each framework's models in a folder
of its own, by the folder in ``locator``. The length of BERT's sequences, where no column has it, follows from the task that
the table's heading names and, in pre-training, from the batch that the recipe of the framework uses at each length.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from mlsysim.calibration.data_parallel import TRAINED, pass_hardware, replica_stack
from mlsysim.calibration.siblings import line_of
from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.toml import reads
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.systems.fleets import sharing, usual_fleet
from mlsysim.systems.types import Fleet
from mlsysim.tables.cells import Cells, cell_text, whole_cell
from mlsysim.tables.facts import facts, section
from mlsysim.tables.names import named_accelerator, named_format
from mlsysim.tables.question import Question

_facts = functools.partial(facts, "resnet_bert.toml")
_known = functools.partial(section, "resnet_bert.toml")
# "8x ConnectX-7 IB NDR 400Gb/s": cards and the rate of one.
_CARDS = re.compile(r"(\d+)\s*x\s+[^,;+]*?(\d+)\s*gb")


@reads("tables", "resnet_bert.toml", kept=False)
def replica_question(cells: Cells) -> Question:
    """The question that a row asks; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a run that is not calibrated.
    """
    if (task := cell_text(cells, "task")) not in ("", "train"):
        raise InputError("task", task, "train: only training rows are predicted")
    accelerator = _accelerator(cells)
    kernels = pass_hardware(TRAINED, accelerator.name).kernels  # what is not calibrated is refused by name
    count = whole_cell(cells, "n_accel")
    benchmark = cell_text(cells, "benchmark")
    workload: Workload = Models.get(_named("model", benchmark or cell_text(cells, "model")))
    framework = named_framework(cells)
    kind = "encoder" if isinstance(workload, TransformerWorkload) else "convolutional"
    stack = _stack(kind, "mlperf" if benchmark else framework, cells)
    accumulated = whole_cell(cells, "grad_accum", 1)
    batch = _batch(cells, count * accumulated, kind, framework)
    arguments: dict[str, Any] = {
        "precision": _precision(cells, stack, kernels),
        "is_training": True,
        "stack": stack,
        "batch_size": batch,
        "microbatch_count": accumulated,
    }
    if kind == "encoder":
        arguments |= _sequence(cells, benchmark, framework, accelerator, str(arguments["precision"]))
        if "grad_accum" not in cells and arguments["masked_share"]:
            accumulated = _accumulated(arguments["seq_len"], batch)
            arguments |= {"batch_size": batch * accumulated, "microbatch_count": accumulated}
    return Question(workload, _hardware(accelerator, cells, count), arguments)


def _named(column: str, text: str) -> str:
    known = _known(column)
    if text not in known:
        raise UnknownNameError.among(column, text, [name for name in known if name])
    return str(known[text])


def _accelerator(cells: Cells) -> HardwareNode:
    """The accelerator, if it is of a kind whose kernels are calibrated."""
    text = cell_text(cells, "accelerator")
    for kind in _known("uncalibrated")["accelerators"]:
        if text.startswith(kind):
            raise InputError("accelerator", text, "an NVIDIA GPU from V100 on: no kernels of other kinds are calibrated")
    return named_accelerator(cells)


def named_framework(cells: Cells) -> str:
    """The framework's own column; of DeepLearningExamples, the folder."""
    named = cell_text(cells, "framework")
    return named or cell_text(cells, "locator").partition("/")[0]


def _stack(kind: str, framework: str, cells: Cells) -> str:
    """The stack of a framework for networks of this kind, of its year where that is told; other frameworks are refused."""
    release = cell_text(cells, "framework")
    for foreign in _facts()["uncalibrated"]["frameworks"]:
        if foreign in release:
            raise InputError("framework", release, f"none of {foreign}: no stack of it is calibrated")
    older = _facts()["older_stack"].get(f"{framework} {kind}")
    if older is not None and cell_text(cells, "year") and whole_cell(cells, "year") <= older["until"]:
        return str(older["stack"])
    return str(looked_up("framework", framework, _facts()["stack"][kind]))


def _precision(cells: Cells, stack: str, kernels: str) -> str:
    text = cell_text(cells, "precision")
    meant = _known("precision")
    if text:
        return named_format("precision", text, meant)
    usual = replica_stack(stack).precisions
    return str(next((usual[relative] for relative in line_of(kernels) if relative in usual), meant[""]))


def _batch(cells: Cells, each: int, kind: str, framework: str) -> int:
    """Samples of a step, all accelerators together; a batch an accelerator is that of one of ``each`` micro-batches."""
    if cell_text(cells, "batch_per_accel"):
        return each * whole_cell(cells, "batch_per_accel")
    usual = _facts()["usual_batch"].get(f"{framework} {kind}")
    if usual is not None and "batch_per_accel" in cells:
        return each * int(usual)
    return whole_cell(cells, "global_batch_seqs" if "global_batch_seqs" in cells else "batch_per_accel")


def _sequence(
    cells: Cells, benchmark: str, framework: str, accelerator: HardwareNode, precision: str
) -> dict[str, float | int]:
    """Tokens of a sample, the mean of those that are no padding, and the share that the output head is trained on."""
    known = _facts()
    masked = float(known["masked"]["share"])
    if benchmark:
        fixed = known["mlperf_bert"]
        seq_len = whole_cell(cells, "seq_len", int(fixed["seq_len"]))
        return {"seq_len": seq_len, "mean_tokens": float(fixed["filled"]) * seq_len, "masked_share": masked}
    if "fine-tun" in cell_text(cells, "locator") or "squad" in cell_text(cells, "variant"):
        return {"seq_len": whole_cell(cells, "seq_len", int(known["fine_tuning"]["seq_len"])), "masked_share": 0.0}
    if cell_text(cells, "seq_len"):
        return _pretraining(whole_cell(cells, "seq_len"))
    wide = "full" if precision in ("tf32", "fp32") else "half"
    memory_GiB = round(accelerator.memory_capacity_B / 2**30)
    lengths = _recipe_lengths(framework, memory_GiB, wide, whole_cell(cells, "batch_per_accel"))
    if len(lengths) == 1:
        return _pretraining(lengths.pop())
    raise InputError("seq_len", "", "tokens of a sample: the row leaves it out, and its batch is that of no known recipe")


def _recipe_lengths(framework: str, memory_GiB: int, values: str, batch: int) -> set[int]:
    """Lengths at which the recipes of a framework (of all, where none is told) use this batch."""
    lengths = set()
    for recipe in _facts()["pretraining_batch"]:
        same = recipe["framework"] == framework or not framework
        if same and (recipe["memory_GiB"], recipe["values"]) == (memory_GiB, values):
            if batch <= recipe["largest_at_512"]:
                lengths.add(512)
            if batch >= recipe["least_at_128"]:
                lengths.add(128)
    return lengths


def _pretraining(seq_len: int) -> dict[str, float | int]:
    """Samples of the short phase are cut to be full, those of the long one are not."""
    known = _facts()
    long = seq_len > known["pretraining_step"]["short"]
    filled = float(known["mlperf_bert"]["filled"]) if long else 1.0
    return {"seq_len": seq_len, "mean_tokens": filled * seq_len, "masked_share": float(known["masked"]["share"])}


def _accumulated(seq_len: int, batch: int) -> int:
    """Micro-batches of a step of the recipe, where the table does not say."""
    recipe = _facts()["pretraining_step"]
    samples = float(recipe["samples_at_128" if seq_len <= recipe["short"] else "samples_at_512"])
    return max(1, round(samples / batch))


def _hardware(accelerator: HardwareNode, cells: Cells, count: int) -> HardwareNode | Fleet:
    """The fleet: the node that the accelerator usually sits in, as wide as the row says, on the network that it says."""
    if count == 1:
        return accelerator
    per_node = whole_cell(cells, "accel_per_node", 0) or None
    network_Bps = _network_Bps(cells, sharing(accelerator, count, per_node))
    return usual_fleet(accelerator, count, per_node, network_Bps=network_Bps or None)


def _network_Bps(cells: Cells, per_node: int) -> float:
    """Line rate of the network cards for each accelerator, one direction; 0 where the row does not say it in numbers."""
    text = cell_text(cells, "host_networking")
    computing = text[text.find("compute:") :] if "compute:" in text else text
    rates = [float(cards) * float(gigabits) for cards, gigabits in _CARDS.findall(computing)]
    return max(rates, default=0.0) * 1e9 / 8 / per_node
