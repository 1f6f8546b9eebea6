"""Tests that what a study wrote of sources left out of a fit is what today's physics gives; ``anchors/`` imports them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlsysim.fitting import leave_one_out, leave_out_serving
from mlsysim.validation.anchors.record_keys import LEFT_OUT, SERVING_LEFT_OUT
from mlsysim.validation.report.left_out import SERVING_FILE, TRAINING_FILE, read


def test_left_out(anchor_root: Path, left_out: str, request: pytest.FixtureRequest) -> None:
    """What was written of a source that was left out of the fit is what today's physics gives with those coefficients."""
    entry = read(anchor_root, TRAINING_FILE)[left_out]
    request.node.user_properties.append((LEFT_OUT, json.dumps({"file": TRAINING_FILE, "id": left_out, **entry})))
    moved = leave_one_out.stale(left_out, entry, leave_one_out.runs_of(anchor_root))
    if moved:
        pytest.fail(f"{left_out}: {moved}: run {leave_one_out.COMMAND}", pytrace=False)


def test_every_source_is_left_out_once(anchor_root: Path) -> None:
    """No training source is missing from what is predicted without itself."""
    wanted = {held.id for held in leave_one_out.every(anchor_root)}
    differ = sorted(wanted.symmetric_difference(read(anchor_root, TRAINING_FILE)))
    if differ:
        pytest.fail(f"{TRAINING_FILE}: {', '.join(differ)}: run {leave_one_out.COMMAND}", pytrace=False)


def test_serving_left_out(anchor_root: Path, request: pytest.FixtureRequest) -> None:
    """What was written of serving without a device, an engine or a model is what today's physics gives; none is missing."""
    entries, cases = read(anchor_root, SERVING_FILE), leave_out_serving.cases_of(anchor_root)
    for name, entry in entries.items():
        record = {"file": SERVING_FILE, "id": name, **entry}
        request.node.user_properties.append((SERVING_LEFT_OUT, json.dumps(record)))
    wanted = {leave_out_serving.entry_id(*one) for one in leave_out_serving.every(cases)}
    differ = sorted(wanted.symmetric_difference(name for name, entry in entries.items() if "without" in entry))
    moved = f"entries differ: {', '.join(differ)}" if differ else leave_out_serving.stale(entries, cases)
    if moved:
        pytest.fail(f"{SERVING_FILE}: {moved}: run {leave_out_serving.COMMAND}", pytrace=False)
