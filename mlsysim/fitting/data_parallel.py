"""Stacks and clocks of data-parallel training, fitted to runs of ResNet-50 and BERT (``anchors/cnn`` and ``anchors/bert``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlsysim.calibration.data_parallel import COEFFICIENTS, TRAINED, replica_stack
from mlsysim.calibration.device_entries import DEVICES
from mlsysim.fitting.calibration import Calibration, Entry, Place, Runs, cases
from mlsysim.lowering.data_parallel import (
    Kernels,
    ReplicaWork,
    Samples,
    replica_kernels,
    replica_plan,
    replica_work,
    stack_step,
)
from mlsysim.physics.records import stacked
from mlsysim.physics.training.data_parallel import ReplicaCoefficients, ReplicaPlan
from mlsysim.systems.types import accelerator_of
from mlsysim.tables.data_parallel import replica_question
from mlsysim.validation.kernels.errors import Times


def _steps(
    work: ReplicaWork, plan: ReplicaPlan, kernels: Kernels, clock: float, precision: str, entries: Mapping[str, Entry]
) -> Times:
    own, device = entries["stack"], entries["device"]
    coefficients = ReplicaCoefficients(**{part: float(own[part]) for part in COEFFICIENTS if part in own})
    shared = replace(kernels, format_share=device.get(f"{precision}_share", 1.0))
    return np.asarray(stack_step(work, plan, shared, coefficients, device.get("clock", clock)).total_s, dtype=float)


def gathered(root: Path, role: str) -> list[Runs]:
    """The runs of ``role`` under ``root``: each group of one stack on one accelerator at one precision."""
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for anchor in cases(root, ("cnn", "bert"), role):
        question = replica_question(anchor.case.run)
        stated, workload, hardware = question.arguments, question.workload, question.hardware
        accelerator = accelerator_of(hardware)
        stack = replica_stack(stated["stack"])
        plan = replica_plan(workload, hardware, stated["microbatch_count"], stack)
        seq_len = stated.get("seq_len", 1)
        tokens, masked = stated.get("mean_tokens", seq_len), stated.get("masked_share", 0.0)
        samples = Samples(stated["precision"], seq_len, tokens, masked)
        work = replica_work(workload, stated["batch_size"] / (plan.replicas * plan.micro_batches), samples, stack)
        row = (work, plan, stated["batch_size"] / (anchor.case.value or 0.0), anchor.source.key, accelerator)
        groups.setdefault((stack.name, accelerator.name, stated["precision"], workload.name), []).append(row)
    return [_together(stack, precision, rows) for (stack, _, precision, _), rows in groups.items()]


def _together(stack: str, precision: str, rows: list[tuple[Any, ...]]) -> Runs:
    works, plans, measured, sources, accelerators = zip(*rows, strict=True)
    kernels, hardware = replica_kernels(accelerators[0], precision, replica_stack(stack))
    shape = None if works[0].shape is None else stacked([work.shape for work in works])
    batches, tokens = (np.array([getattr(work, name) for work in works]) for name in ("batch", "tokens"))
    work = ReplicaWork(works[0].network, shape, batches, tokens, works[0].transposed)
    return Runs(
        on={"stack": stack, "device": hardware.name},
        measured=np.array(measured),
        sources=sources,
        predict=functools.partial(_steps, work, stacked(plans), kernels, hardware.clock, precision),
    )


def pass_calibration(
    name: str,
    section: str,
    runs_of: Callable[[Path, str], list[Runs]],
    **options: Any,
) -> Calibration:
    """The family of the stacks of models that one accelerator holds whole, and of the devices that run them."""
    return Calibration(
        name=name,
        files={"stack": Place(f"{section}.toml", around=("stack",)), "device": Place(DEVICES, within=(section,))},
        gathered=runs_of,
        **options,
    )


DATA_PARALLEL = pass_calibration("data-parallel", TRAINED, gathered, rows_at_full_weight=40.0)
