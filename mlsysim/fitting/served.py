"""Harnesses that put queries before an engine, fitted to ``anchors/inference_load``.

Engines and clocks are those of the forward pass alone, fitted before.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlsysim.calibration.harnesses import FILE, QUERIES, Harness, query_harness
from mlsysim.calibration.store import coefficients
from mlsysim.core.units import Q_
from mlsysim.fitting.calibration import Calibration, Entry, Place, Runs, cases
from mlsysim.lowering.batches import BATCHES, Batches, engine_batches, loaded, lone_s
from mlsysim.lowering.data_parallel import Samples
from mlsysim.systems.types import Fleet
from mlsysim.tables.served import served_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.kernels.errors import Times


def _seconds(batches: Batches, limit_s: float | None, share: float, size_spread: float, entries: Mapping[str, Entry]) -> Times:
    """Seconds of a sample on one accelerator under the load that meets ``limit_s``, or of a query that comes alone."""
    front = coefficients(Harness, entries["harness"])
    load = None if limit_s is None else loaded(batches, front, limit_s, share, size_spread)
    return np.array([float(lone_s(batches, front)[0]) if load is None else 1 / load.load_per_s])


def _run(anchor: Anchor) -> Runs:
    question = served_question(anchor.case.run)
    stated, hardware = question.arguments, question.hardware
    accelerator, count = (hardware.node.accelerator, hardware.accelerators) if isinstance(hardware, Fleet) else (hardware, 1)
    limit = stated.get("latency_limit")
    seq_len = stated.get("seq_len", 1)
    batches = engine_batches(
        question.workload,
        accelerator,
        stated["stack"],
        BATCHES if limit else (float(stated.get("query_size", 1)),),
        Samples(stated["precision"], seq_len, stated.get("mean_tokens", seq_len), 0.0),
        lone_clock=None if limit else query_harness(stated["harness_name"]).lone_clock,
    )
    limit_s = float(Q_(limit).m_as("second")) if limit else None
    value = anchor.case.value or 0.0
    return Runs(
        on={"harness": stated["harness_name"]},
        measured=np.array([count / value if limit else value / 1e3]),
        sources=(anchor.source.key,),
        predict=functools.partial(_seconds, batches, limit_s, stated.get("percentile", 0.99), stated.get("token_spread", 0.0)),
    )


def gathered(root: Path, role: str) -> list[Runs]:
    """The cases of ``role`` under ``root``, each on its own."""
    return [_run(anchor) for anchor in cases(root, ("inference_load",), role)]


SERVED = Calibration(
    name="served",
    files={"harness": Place(FILE, around=(QUERIES,))},
    gathered=gathered,
)
