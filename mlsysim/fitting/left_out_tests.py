"""Tests that what a study wrote of what was left out of a fit is what today's physics gives; ``anchors/`` imports them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mlsysim.calibration.evidence import FITTED_BASES, NAMES_FILE, RUNS_FILE, is_known_key, measured_runs
from mlsysim.fitting import left_out_serving, left_out_training
from mlsysim.fitting.calibration import CALIBRATION
from mlsysim.validation.anchors.record_keys import LEFT_OUT, SERVING_LEFT_OUT
from mlsysim.validation.report.left_out import SERVING_FILE, TRAINING_FILE, read
from mlsysim.validation.report.statistics import Row

# Errors are written with four digits, and versions of Python add up differently.
_ROUNDING = 2e-4
_COMMAND = "run python -m mlsysim.fitting refresh"


def test_left_out(anchor_root: Path, left_out: str, request: pytest.FixtureRequest) -> None:
    """Today's physics gives what was written of a source that was left out of the fit, with those coefficients."""
    entry = read(anchor_root, TRAINING_FILE)[left_out]
    request.node.user_properties.append((LEFT_OUT, json.dumps({"file": TRAINING_FILE, "id": left_out, **entry})))
    moved = left_out_training.stale(left_out, entry, left_out_training.anchors_of(anchor_root))
    if moved:
        pytest.fail(f"{left_out}: {moved}: {_COMMAND}", pytrace=False)


def test_every_source_is_left_out_once(anchor_root: Path) -> None:
    """No training source that is fitted to is missing from what is predicted without itself; what is there exists.

    A source without calibration rows may wait for the next refresh: no fit is given any of it.
    """
    wanted = {held.id: held for held in left_out_training.every(anchor_root)}
    fitted_to = left_out_training.calibration_sources(left_out_training.anchors_of(anchor_root))
    written = read(anchor_root, TRAINING_FILE)
    missing = {name for name, held in wanted.items() if fitted_to & set(held.without)} - set(written)
    differ = sorted(missing | set(written) - set(wanted))
    if differ:
        pytest.fail(f"{TRAINING_FILE}: {', '.join(differ)}: {_COMMAND}", pytrace=False)


def test_serving_left_out(anchor_root: Path, request: pytest.FixtureRequest) -> None:
    """Today's physics gives what was written of serving without a device, an engine or a model; none is missing."""
    entries, cases = read(anchor_root, SERVING_FILE), left_out_serving.cases_of(anchor_root)
    for name, entry in entries.items():
        record = {"file": SERVING_FILE, "id": name, **entry}
        request.node.user_properties.append((SERVING_LEFT_OUT, json.dumps(record)))
    wanted = {left_out_serving.entry_id(*one) for one in left_out_serving.every(cases)}
    differ = sorted(wanted.symmetric_difference(name for name, entry in entries.items() if "without" in entry))
    moved = f"entries differ: {', '.join(differ)}" if differ else left_out_serving.stale(entries, cases)
    if moved:
        pytest.fail(f"{SERVING_FILE}: {moved}: {_COMMAND}", pytrace=False)


def test_evidence(anchor_rows: tuple[Row, ...]) -> None:
    """The errors that intervals rest on are those of today's predictions; a case that is not among them may wait."""
    now = {
        (row["source"], row["id"]): math.log(row["predicted"] / row["measured"])
        for row in anchor_rows
        if row["role"] == "validation" and row["error"] is not None and row["basis"] in FITTED_BASES
    }
    moved = [
        f"{run.source}/{run.id} {run.error} -> {now.get((run.source, run.id), math.nan):.4f}"
        for run in measured_runs()
        if not abs(now.get((run.source, run.id), math.inf) - run.error) <= _ROUNDING
    ]
    given = {
        row["source"]
        for row in anchor_rows
        if row["role"] == CALIBRATION and row["basis"] in FITTED_BASES and row["error"] is not None
    }
    unnamed = sorted(key for key in given if not is_known_key(key))
    if unnamed:
        pytest.fail(f"{NAMES_FILE}: {', '.join(unnamed)}: fits were given their runs, and no word names them", pytrace=False)
    if moved:
        pytest.fail(f"{RUNS_FILE}: {len(moved)} of {len(measured_runs())} moved, as {moved[0]}: {_COMMAND}", pytrace=False)
