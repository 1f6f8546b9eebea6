"""Rows of tables of ResNet-50 and BERT training (DeepLearningExamples, MLPerf) as bounds: no kernels of them are calibrated."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mlsysim.core.errors import InputError, UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.solvers.distributed import DistributedModel, DistributedResult
from mlsysim.solvers.single_node import SingleNodeModel, SingleNodeResult
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, Node

_POWER_LIMIT = re.compile(r"\s*\(\d+\s*w\)$")


@dataclass(frozen=True, slots=True)
class BoundRun:
    """A row's answer.

    Attributes:
        samples_per_s: of all accelerators together.
        result: of the whole fleet where the network is known, else of one accelerator.
    """

    samples_per_s: float
    result: DistributedResult | SingleNodeResult


def bound_run(cells: Mapping[str, str]) -> BoundRun:
    """The bound of the run that a row describes: of its fleet, or of one accelerator times their number.

    Raises:
        InputError: a cell that is needed is empty or unknown, or a row that is no training run.

    Example:
        >>> run = bound_run({"benchmark": "resnet", "accelerator": "NVIDIA A100-SXM4-80GB (400W)", "n_accel": "8",
        ...                  "accel_per_node": "8", "global_batch_seqs": "3264"})
        >>> run.result.basis, 80e3 < run.samples_per_s < 102e3
        ('bound', True)
    """
    if (task := _text(cells, "task")) not in ("", "train"):
        raise InputError("task", task, "train: only training rows are predicted")
    accelerator, entry = _accelerator(cells)
    count = _whole(cells, "n_accel")
    model_name = _text(cells, "benchmark") or _text(cells, "model")
    workload, seq_len = _workload(cells, model_name)
    precision = _named("precision", _text(cells, "precision"))
    batch = _batch(cells, count)
    node = _node(entry, cells, count)
    if node is None:
        if batch % count:
            raise InputError("global_batch_seqs", batch, f"a multiple of the {count} accelerators")
        lone = SingleNodeModel().solve(
            workload, accelerator, batch_size=batch // count, precision=precision, is_training=True, seq_len=seq_len
        )
        return BoundRun(count * float(lone.throughput.m_as("count/second")), lone)
    fleet = Fleet(name=f"{count} x {accelerator.name}", node=node, count=count // node.accelerators_per_node)
    step = DistributedModel().solve(
        workload,
        fleet,
        batch_size=batch,
        seq_len=seq_len,
        precision=precision,
        zero_stage=0,
        microbatch_count=_whole(cells, "grad_accum", 1),
    )
    return BoundRun(float(step.throughput.m_as("count/second")), step)


@functools.cache
def _names(file: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads((resources.files("mlsysim.solvers") / "data" / file).read_text("utf-8"))


def _named(column: str, text: str) -> str:
    known = {name: value for name, value in _names("bound_names.toml")[column].items() if name != "source"}
    if text not in known:
        raise UnknownNameError.among(column, text, [name for name in known if name])
    return str(known[text])


def _text(cells: Mapping[str, str], column: str) -> str:
    return cells.get(column, "").strip().lower()


def _whole(cells: Mapping[str, str], column: str, default: int | None = None) -> int:
    text = _text(cells, column)
    if not text and default is not None:
        return default
    try:
        number = float(text)
        whole = int(number)
    except (ValueError, OverflowError):
        raise InputError(column, text, "a whole number >= 1" if text else "a number: the row leaves it out") from None
    if whole != number or whole < 1:
        raise InputError(column, text, "a whole number >= 1")
    return whole


def _accelerator(cells: Mapping[str, str]) -> tuple[HardwareNode, str]:
    """The accelerator and its name in the registry; names are those of both tables of names."""
    text = _POWER_LIMIT.sub("", _text(cells, "accelerator"))
    if not text:
        raise InputError("accelerator", "", "a name: the row leaves it out")
    known = _names("table_names.toml")["accelerator"] | _names("bound_names.toml")["accelerator"]
    entry = str(known.get(text, text))
    return Hardware.get(entry), entry


def _node(entry: str, cells: Mapping[str, str], count: int) -> Node | None:
    """The node that the accelerator usually sits in, as wide as the row says; None for a lone one or an unknown node."""
    name = _names("table_names.toml")["node"].get(entry)
    if name is None or count == 1:
        return None
    usual = Systems.Nodes.get(name)
    per_node = min(count, _whole(cells, "accel_per_node", usual.accelerators_per_node))
    if count % per_node:
        raise InputError("n_accel", count, f"a multiple of the {per_node} accelerators of a node")
    if per_node == usual.accelerators_per_node:
        return usual
    return usual.model_copy(update={"accelerators_per_node": per_node})


def _workload(cells: Mapping[str, str], name: str) -> tuple[Workload, int | None]:
    """The model and tokens of a sample (None for images)."""
    workload: Workload = Models.get(_named("model", name))
    if not isinstance(workload, TransformerWorkload):
        return workload, None
    fixed = _names("bound_names.toml")["seq_len"].get(name)
    return workload, _whole(cells, "seq_len", None if fixed is None else int(fixed))


def _batch(cells: Mapping[str, str], count: int) -> int:
    """Samples of a step, all accelerators together."""
    if _text(cells, "batch_per_accel"):
        return count * _whole(cells, "batch_per_accel")
    return _whole(cells, "global_batch_seqs" if "global_batch_seqs" in cells else "batch_per_accel")
