"""Tests of a whole tree of anchors: the families' gates, orphaned snapshots, the time of a solve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlsysim.validation import loading
from mlsysim.validation.comparison import compare
from mlsysim.validation.inputs import call_of
from mlsysim.validation.report import percent
from mlsysim.validation.runner import result_of
from mlsysim.validation.statistics import summarise


def test_family_gate(anchor_root: Path, family: str) -> None:
    """The family's validation cases, known misses included, stay within its gate."""
    gate = loading.load_gate(anchor_root / family)
    assert gate is not None
    files = loading.anchor_files(anchor_root)
    rows = [compare(anchor).as_row() for path in files for anchor in loading.load(path) if path.parent.name == family]
    summary = summarise(family, "validation", [row for row in rows if row["role"] == "validation"])
    accuracy = summary.balanced_accuracy
    if gate.balanced_accuracy is not None and (accuracy is None or accuracy < gate.balanced_accuracy):
        below = f"balanced accuracy of {percent(accuracy)} is below the gate of {percent(gate.balanced_accuracy)}"
        pytest.fail(f"{family}: {below}: {gate.reason}", pytrace=False)
    found = {"median": summary.median, "p90": summary.p90, "bias": None if summary.bias is None else abs(summary.bias)}
    for name, error in found.items():
        limit = getattr(gate, name)
        if limit is None:
            continue
        if error is None:
            pytest.fail(f"{family}: has a gate but no validation case with a number", pytrace=False)
        if error > limit:
            above = f"{name} of {percent(error)} is above the gate of {percent(limit)}"
            pytest.fail(f"{family}: {above}: {gate.reason}", pytrace=False)


def test_no_orphan_snapshots(anchor_root: Path, request: pytest.FixtureRequest) -> None:
    """Every file of snapshots belongs to a source; ``--snapshot-update`` removes the others."""
    pytest.importorskip("syrupy", reason="snapshots need syrupy: pip install mlsysim-anchors[test]")
    expected = {loading.snapshot_path(path) for path in loading.anchor_files(anchor_root)}
    orphans = [path for path in sorted((anchor_root.parent / "snapshots").rglob("*.json")) if path not in expected]
    if request.config.getoption("update_snapshots", False):
        for path in orphans:
            path.unlink()
    elif orphans:
        named = ", ".join(str(path) for path in orphans)
        pytest.fail(f"snapshots without a case (remove them with --snapshot-update): {named}", pytrace=False)


def test_time_of_a_solve(timed: loading.Anchor, request: pytest.FixtureRequest) -> None:
    """A solve takes well under a millisecond, a search evaluates plans at a stated rate; building inputs is not timed."""
    pytest.importorskip("pytest_benchmark", reason="timing needs pytest-benchmark: pip install mlsysim-anchors[test]")
    benchmark: Any = request.getfixturevalue("benchmark")
    searched = getattr(result_of(timed), "total_searched", None)
    call = call_of(timed)
    if searched is None:
        benchmark.pedantic(call.result, rounds=20, iterations=10, warmup_rounds=1)
        limit_s = float(request.config.getini("mlsysim_solve_budget_ms")) / 1e3
    else:
        benchmark.pedantic(call.result, rounds=3, iterations=1)
        set_up_ms, rate = (float(request.config.getini(f"mlsysim_search_{name}")) for name in ("budget_ms", "rate"))
        limit_s = set_up_ms / 1e3 + searched / rate
    if benchmark.stats is None:  # pytest-benchmark is switched off under xdist
        return
    # The best round is the machine's own time: a median would fail where another process takes the core.
    best_s = float(benchmark.stats.stats.min)
    benchmark.extra_info["plans_per_second"] = searched / best_s if searched else None
    if best_s > limit_s:
        times = f"{1e3 * best_s:.3g} ms at best, the limit is {1e3 * limit_s:.3g} ms"
        pytest.fail(f"{timed.source.solver} takes {times}", pytrace=False)
