"""Engines and clocks of the forward pass alone, fitted to ``anchors/inference`` and ``anchors/inference_frameworks``.

Of ``anchors/retinanet`` what is read offline says what the selection of boxes costs, and of nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.data_parallel import INFERRED
from mlsysim.calibration.inference import FILE, InferenceCoefficients, inference_stack
from mlsysim.calibration.store import coefficients, tables
from mlsysim.fitting.calibration import Entry, Runs, cases
from mlsysim.fitting.data_parallel import pass_calibration
from mlsysim.lowering.data_parallel import Kernels, ReplicaWork, Samples
from mlsysim.lowering.forward import forward_time, inference_kernels, inference_work
from mlsysim.solvers.training.single_node import SingleNodeModel
from mlsysim.systems.types import Fleet, accelerator_of
from mlsysim.tables.inference import inference_question
from mlsysim.validation.kernels.errors import Times

# Runs that select boxes; they decide what that moves, and nothing of the engines and devices that others are fitted to.
_BOXES = "retinanet"


def _batches(
    work: ReplicaWork, kernels: Kernels, clock: float, precision: str, count: int, entries: Mapping[str, Entry]
) -> Times:
    """Seconds of a batch, as often as it was measured: the same engine, batch and precision in several systems."""
    own, device = entries["stack"], entries["device"]
    engine = coefficients(InferenceCoefficients, own)
    shared = replace(kernels, format_share=device.get(f"{precision}_share", kernels.format_share))
    batch = forward_time(work, shared, engine, device.get("clock", clock), device.get("traffic", 1.0))
    return np.full(count, float(sum(batch)))


def gathered(root: Path, role: str) -> list[Runs]:
    """The runs of ``role`` under ``root``: each group asks the same of one accelerator."""
    groups: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for anchor in cases(root, ("inference", "inference_frameworks", _BOXES), role):
        if anchor.source.solver != SingleNodeModel.__name__:
            continue
        question = inference_question(anchor.case.run)
        stated, hardware = question.arguments, question.hardware
        accelerator = accelerator_of(hardware)
        each = stated["batch_size"] / (hardware.accelerators if isinstance(hardware, Fleet) else 1)
        seq_len = stated.get("seq_len", 1)
        tokens = stated.get("mean_tokens", seq_len)
        group = (
            stated["stack"],
            accelerator.name,
            stated["precision"],
            question.workload.name,
            each,
            seq_len,
            tokens,
            anchor.family == _BOXES,
        )
        row = (question.workload, accelerator, stated["batch_size"] / (anchor.case.value or 0.0), anchor.source.key)
        groups.setdefault(group, []).append(row)
    return [_together(group, rows) for group, rows in groups.items()]


def _together(group: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> Runs:
    stack, _, precision, _, each, seq_len, tokens, boxes = group
    workloads, accelerators, measured, sources = zip(*rows, strict=True)
    kernels, hardware = inference_kernels(accelerators[0], precision)
    work = inference_work(workloads[0], each, Samples(precision, seq_len, tokens, 0.0), inference_stack(stack))
    last = bool(tables(FILE)["stack"][stack].get("fitted_last"))
    return Runs(
        on={"stack": stack, "device": hardware.name},
        measured=np.array(measured),
        sources=sources,
        predict=functools.partial(_batches, work, kernels, hardware.clock, precision, len(measured)),
        stage=int(last or boxes),
        # Stacks that are fitted last say nothing of the devices, and boxes nothing but what selecting them moves.
        decides=(lambda key: key.part == "score_B") if boxes else (lambda key: not last or key.kind == "stack"),
    )


INFERENCE = pass_calibration("inference", INFERRED, gathered, pull=0.005)
