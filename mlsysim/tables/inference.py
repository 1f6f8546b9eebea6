"""Rows of inference tables as questions for ``SingleNodeModel``.

MLPerf Inference (ResNet-50 and BERT, offline, on NVIDIA's devices), and ResNet-50 and BERT of DeepLearningExamples, whose
frameworks run batches of one and more.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

from mlsysim.calibration.data_parallel import INFERRED, pass_hardware
from mlsysim.calibration.siblings import line_of
from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.core.toml import reads
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.slices import Slicing, slicing
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload
from mlsysim.systems.fleets import usual_fleet
from mlsysim.systems.types import Fleet
from mlsysim.tables.cells import Cells, cell_text, whole_cell
from mlsysim.tables.data_parallel import named_framework
from mlsysim.tables.facts import section
from mlsysim.tables.names import accelerator_id, named_accelerator, named_format
from mlsysim.tables.question import Question

names_of = functools.partial(section, "mlperf_inference.toml")
_ROUND = re.compile(r"v?(\d+\.\d+)")
_LINE = re.compile(r"(\S+?):L(\d+) @(\w+)")
_EIGHT_BITS_SUFFICE = 99.5


def is_inference(cells: Cells) -> bool:
    """True if a row has a scenario, as those of MLPerf Inference do, or asks for inference."""
    return "scenario" in cells or cell_text(cells, "task") == "infer"


@reads("tables", "mlperf_inference.toml", kept=False)
def inference_question(cells: Cells) -> Question:
    """The question that a row asks; reads neither its value nor its notes.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a system that is not calibrated.
    """
    return _offline(cells) if "scenario" in cells else _framework_run(cells)


def _framework_run(cells: Cells) -> Question:
    """A batch of images in a framework, or in TensorRT from within it."""
    accelerator = named_accelerator(cells)
    pass_hardware(INFERRED, accelerator.name)
    count = whole_cell(cells, "n_accel")
    model = cell_text(cells, "model")
    written = cell_text(cells, "precision")
    told = f"{cell_text(cells, 'framework')} {cell_text(cells, 'locator')} {written}"
    framework = "tensorrt" if "-trt" in told or "tensorrt" in told else named_framework(cells)
    framework = "tensorrt" if written == "int8" else framework
    if (registered := names_of("model").get(model.partition(" ")[0])) is None:
        raise UnknownNameError.among("model", model, names_of("model"))
    workload = Models.get(registered)
    encoder = isinstance(workload, TransformerWorkload)
    stacks = names_of("encoder_framework" if encoder else "framework")
    arguments: dict[str, Any] = {
        "precision": named_format("precision", written, names_of("format")),
        "stack": looked_up("framework", framework, stacks),
        "batch_size": count * whole_cell(cells, "batch_per_accel"),
    }
    if encoder:
        arguments["seq_len"] = whole_cell(cells, "seq_len") if cell_text(cells, "seq_len") else _printed_length(cells)
    return Question(workload, accelerator if count == 1 else _system(accelerator, count), arguments)


def _printed_length(cells: Cells) -> int:
    """Tokens of a sequence, which the tables of BERT print in a column that a row leaves out: by the line that it cites."""
    text = cells.get("locator", "").strip()
    match, known = _LINE.match(text), names_of("printed_lengths")
    if match is None:
        raise InputError("locator", text, "the file, line and revision of a published table: it says the length of sequences")
    file, line, revision = match[1].partition("/")[0].lower(), int(match[2]), match[3]
    blocks = known["blocks"].get(f"{file}@{revision}", {})
    batch = whole_cell(cells, "batch_per_accel")
    row = known["batches"].index(batch) if batch in known["batches"] else 0
    for length, first_lines in blocks.items():
        if line - row in first_lines:
            return int(length)
    raise InputError("locator", text, "a line of a table whose lengths are listed: the row does not say that of its sequences")


def _offline(cells: Cells) -> Question:
    if (scenario := cell_text(cells, "scenario")) != "offline":
        raise InputError("scenario", scenario, "offline: queries that arrive are a question for BatchServerModel")
    asked = submitted(cells)
    hardware = asked.hardware
    accelerator, count = (hardware.node.accelerator, hardware.accelerators) if isinstance(hardware, Fleet) else (hardware, 1)
    # A slice takes a batch as much smaller as its memory.
    whole = Hardware.get(_accelerator(cells)[0]).memory_capacity_B
    each = max(1, int(names_of("batch")[submitted_model(cells)] * accelerator.memory_capacity_B / whole))
    arguments = asked.arguments | {"batch_size": count * each}
    if isinstance(asked.workload, TransformerWorkload):
        arguments["mean_tokens"] = names_of("squad")["mean_tokens"]
    return Question(asked.workload, asked.hardware, arguments)


def _benchmark(cells: Cells) -> dict[str, Any]:
    return dict(looked_up("benchmark", cell_text(cells, "benchmark"), names_of("benchmark")))


def submitted_model(cells: Cells) -> str:
    """The registry's name of the model of a row of MLPerf Inference.

    Example:
        >>> submitted_model({"benchmark": "bert-99.9"})
        'BERT_Large'
    """
    return str(_benchmark(cells)["model"])


@reads("tables", "mlperf_inference.toml", kept=False)
def submitted(cells: Cells) -> Question:
    """Read what all scenarios of a row of MLPerf Inference share: model, system, number format, engine and length.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a system that is not calibrated.
    """
    benchmark = _benchmark(cells)
    entry, cut = _accelerator(cells)
    accelerator, count = named_accelerator(cells), whole_cell(cells, "n_accel")
    if cut is not None:
        # One slice is one of the system's: submissions leave the others idle, or to other benchmarks.
        count = count * cut.slices if cut.slices > 1 else 1
    kernels = pass_hardware(INFERRED, accelerator.name).kernels
    release = round_number(cells)
    workload = Models.get(benchmark["model"])
    arguments: dict[str, Any] = {
        "precision": _precision((entry, *line_of(kernels)), release, benchmark["target"]),
        "stack": _stack(cells, release, benchmark["model"]),
    }
    if isinstance(workload, TransformerWorkload):
        arguments["seq_len"] = names_of("squad")["seq_len"]
    return Question(workload, accelerator if count == 1 else _system(accelerator, count), arguments)


def _system(accelerator: HardwareNode, count: int) -> Fleet:
    """Accelerators that never talk to each other: one system, whatever its nodes."""
    return usual_fleet(accelerator, count, per_node=count)


def _accelerator(cells: Cells) -> tuple[str, Slicing | None]:
    """The whole accelerator's id in the registry, and how it is cut."""
    whole, cut = slicing(cell_text(cells, "accelerator"))
    return accelerator_id({"accelerator": whole}), cut


def round_number(cells: Cells) -> float:
    """The round of MLPerf Inference as a number.

    Raises:
        InputError: it is none.

    Example:
        >>> round_number({"round": "v4.1"})
        4.1
    """
    text = cell_text(cells, "round")
    match = _ROUND.fullmatch(text)
    if match is None:
        raise InputError("round", text, 'a round of MLPerf Inference such as "v4.1": its year is that of the engine')
    return float(match[1])


def _precision(relatives: Sequence[str], release: float, target: float) -> str:
    """The format of a submission by its target; what nobody says of an accelerator is that of the nearest of ``relatives``."""
    if target < _EIGHT_BITS_SUFFICE:
        return "int8"
    since = names_of("precision")["fp8_from"]
    known = (since[name] for relative in relatives if (name := relative.partition("_")[0]) in since)
    return "fp8" if release >= next(known, math.inf) else "fp16"


def _stack(cells: Cells, release: float, model: str) -> str:
    stacks = names_of("stack")
    if "maxq" in cell_text(cells, "system"):
        return str(stacks["limited"])
    for since, name in reversed(names_of("boxes").get(model, ())):
        if release >= since:
            return str(name)
    return str(stacks["newer" if release >= stacks["newer_from"] else "older"])
