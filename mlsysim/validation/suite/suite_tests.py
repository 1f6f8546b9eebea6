"""Tests of a whole tree of anchors: gates, aims, sources left out of the fit, pages, orphaned snapshots, time of a solve."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from mlsysim.validation.anchors import layouts, loading, recalled
from mlsysim.validation.anchors.anchor import Anchor, is_installed, snapshot_path, snapshot_root
from mlsysim.validation.anchors.comparison import relative
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.anchors.record_keys import RECALLED, SEARCH, SOLVE, TARGET
from mlsysim.validation.anchors.times import against_limit, best_s, solve_anew, times
from mlsysim.validation.report import coefficients, coverage, judgement, left_out, picture
from mlsysim.validation.report.report import percent
from mlsysim.validation.report.statistics import Row, summarise
from mlsysim.validation.report.targets import TargetCheck
from mlsysim.validation.suite import evidence

# What 90 % intervals are to hold of figures that took no part in them: of all known runs, and of new sources.
_OF_ALL = (0.88, 0.93)
_OF_NEW_SOURCES = 0.8
_ROUND_S = 2e-3  # quicker solves are timed several at a time


def test_family_gate(anchor_root: Path, anchor_rows: tuple[Row, ...], family: str) -> None:
    """The family's validation cases, known misses included, stay within its gate."""
    gate = loading.load_gate(anchor_root / family)
    assert gate is not None
    chosen = [row for row in anchor_rows if row["family"] == family and row["role"] == "validation"]
    summary = summarise(family, "validation", chosen)
    accuracy = summary.balanced_accuracy
    if gate.balanced_accuracy is not None and (accuracy is None or accuracy < gate.balanced_accuracy):
        below = f"balanced accuracy of {percent(accuracy)} is below the gate of {percent(gate.balanced_accuracy)}"
        pytest.fail(f"{family}: {below}: {gate.reason}", pytrace=False)
    measured = {"median": summary.median, "p90": summary.p90, "bias": None if summary.bias is None else abs(summary.bias)}
    for name, error in measured.items():
        limit = getattr(gate, name)
        if limit is None:
            continue
        if error is None:
            pytest.fail(f"{family}: has a gate but no validation case with a number", pytrace=False)
        if error > limit:
            above = f"{name} of {percent(error)} is above the gate of {percent(limit)}"
            pytest.fail(f"{family}: {above}: {gate.reason}", pytrace=False)


def test_target(anchor_root: Path, anchor_rows: tuple[Row, ...], target: TargetCheck, request: pytest.FixtureRequest) -> None:
    """The rows that an aim is for meet it."""
    beside = left_out.read_all(anchor_root), evidence.kernel_rows(anchor_root)
    row = target.as_row(anchor_rows, *beside)
    if request.config.getoption("update_snapshots", False):
        row["before"] = target.as_row(evidence.rows_as_kept(anchor_root), *beside)["found"]
    request.node.user_properties.append((TARGET, json.dumps(row)))
    if not row["held"]:
        kept = (
            f"{target.measure} of {percent(row['found'])} over {row['cases']} cases"
            if row["cases"]
            else "there are no such cases"
        )
        pytest.fail(f"{target.id}: {target.target.title}: {kept}; the aim is {percent(target.limit)}", pytrace=False)


def test_intervals_hold_what_they_say(anchor_rows: tuple[Row, ...]) -> None:
    """Measurements that took no part in an interval lie in it as often as it says: of all, of each family, of new sources."""
    known = coverage.of_known({str(row["source"]): str(row["family"]) for row in anchor_rows})
    wrong = [f"{one.name}: {percent(one.covered)} of {one.figures}" for one in known[1:] if not one.holds]
    if not _OF_ALL[0] <= known[0].covered <= _OF_ALL[1]:
        wrong.append(f"all: {percent(known[0].covered)}, not between {percent(_OF_ALL[0])} and {percent(_OF_ALL[1])}")
    for one in coverage.of_unknown():
        if one.name.startswith("each source") and one.covered < _OF_NEW_SOURCES:
            wrong.append(f"{one.name}: {percent(one.covered)}, below {percent(_OF_NEW_SOURCES)}")
    if wrong:
        pytest.fail(f"in their intervals: {'; '.join(wrong)}", pytrace=False)


def test_coefficients_have_a_source(anchor_rows: tuple[Row, ...]) -> None:
    """Every number that a prediction rests on is found in a file, with its source: the page shows both."""
    names = {name for group in {tuple(row["coefficients"]) for row in anchor_rows} for name in group}
    missing = [one.name for one in coefficients.origins([{"coefficients": names}]) if not one.source]
    if missing:
        pytest.fail(f"no file or no source is known of {', '.join(missing)}: see report/coefficients.py", pytrace=False)


def test_layout(layout: layouts.Ranking | layouts.Choice) -> None:
    """Measured layouts come in their order, and a published plan is close to the best that the search finds."""
    missed = layout.missed()
    if missed:
        pytest.fail(f"{layout.id}: {missed}", pytrace=False)


def test_time_of_a_whole_search(timed_search: layouts.TimedSearch, anchor_root: Path, request: pytest.FixtureRequest) -> None:
    """The whole space is exhausted at a stated rate, counting only plans whose memory and step time were computed."""
    pytest.importorskip("pytest_benchmark", reason="timing needs pytest-benchmark: pip install mlsysim-anchors[test]")
    benchmark: Any = request.getfixturevalue("benchmark")
    result = benchmark.pedantic(timed_search.call, rounds=1, iterations=1)
    plans = result.total_evaluated
    if plans < timed_search.least_plans:
        pytest.fail(f"{plans} plans were evaluated, not {timed_search.least_plans}", pytrace=False)
    if benchmark.stats is None:  # pytest-benchmark is switched off under xdist
        return
    set_up_s = float(request.config.getini("mlsysim_search_budget_ms")) / 1e3
    limit_s, limits = min(timed_search.seconds, set_up_s + plans / timed_search.rate), times(anchor_root)
    taken_s, limit_s = against_limit(timed_search.call, 2, limit_s, limits.yardstick_ms)
    benchmark.extra_info["plans_per_second"] = plans / taken_s
    record = {"file": layouts.FILE, "id": timed_search.id, "plans": plans, "seconds": taken_s}
    request.node.user_properties.append((SEARCH, json.dumps(record)))
    if taken_s > limit_s:
        pytest.fail(f"{plans} plans take {taken_s:.3g} s at best, the limit is {limit_s:.3g} s", pytrace=False)


@pytest.mark.parametrize("page", ["anchors.md", "accuracy.md"])
def test_page_is_current(anchor_root: Path, page: str, request: pytest.FixtureRequest) -> None:
    """The pages that a run has written say what a run would write today."""
    if is_installed(anchor_root):
        pytest.skip("the pages are not among what is installed")
    if lacking := loading.not_installed(anchor_root):
        pytest.skip(f"the pages have cases of libraries that are not installed: {', '.join(sorted(set(lacking.values())))}")
    if page == "accuracy.md":  # what the page says of them is in no other test's hands
        records = [json.dumps({"file": recalled.FILE, **run}) for run in recalled.rows(anchor_root)]
        request.node.user_properties += [(RECALLED, record) for record in records]
    path = anchor_root.parent / "docs" / page
    asked = [*request.config.getoption("--anchor-report"), *request.config.getoption("--accuracy-report")]
    if path.resolve() in {Path(name).resolve() for name in asked}:
        return  # this run writes it
    now = evidence.page(anchor_root, page)
    written = path.read_text("utf-8").partition(f"\n{judgement.MOVED}\n")[0] if path.exists() else ""
    pairs = itertools.zip_longest(written.splitlines(), now.splitlines(), fillvalue="")
    moved = next(((old, new) for old, new in pairs if not evidence.reads_the_same(old, new)), None)
    if moved is not None:
        old, new = moved
        option = "anchor" if page == "anchors.md" else "accuracy"
        again = f"pytest {anchor_root.name} --{option}-report=docs/{page}"
        pytest.fail(f"docs/{page} is not what a run gives now; write it with {again}\n- {old}\n+ {new}", pytrace=False)


def test_picture_is_current(anchor_root: Path) -> None:
    """The README's picture says what a run would say above it today."""
    path = anchor_root.parent / "docs" / picture.FILE
    if is_installed(anchor_root) or not path.exists():
        pytest.skip("the picture is not among what is installed")
    old, new = picture.title_in(path), picture.title(evidence.rows(anchor_root))
    if not evidence.reads_the_same(old, new):
        again = "python -m mlsysim.fitting refresh"
        pytest.fail(f"docs/{path.name} is not what a run gives now; write it with {again}\n- {old}\n+ {new}", pytrace=False)


def test_no_orphan_snapshots(anchor_root: Path, request: pytest.FixtureRequest) -> None:
    """Every file of snapshots belongs to a source; ``--snapshot-update`` removes the others."""
    pytest.importorskip("syrupy", reason="snapshots need syrupy: pip install mlsysim-anchors[test]")
    expected = {snapshot_path(path) for path in loading.anchor_files(anchor_root)}
    orphans = [path for path in sorted(snapshot_root(anchor_root).rglob("*.json")) if path not in expected]
    if request.config.getoption("update_snapshots", False):
        for path in orphans:
            path.unlink()
    elif orphans:
        named = ", ".join(str(path) for path in orphans)
        pytest.fail(f"snapshots without a case (remove them with --snapshot-update): {named}", pytrace=False)


def test_time_of_a_solve(timed: Anchor, anchor_root: Path, request: pytest.FixtureRequest) -> None:
    """The slowest case of a solver is solved within its limit; building its inputs is not timed."""
    pytest.importorskip("pytest_benchmark", reason="timing needs pytest-benchmark: pip install mlsysim-anchors[test]")
    benchmark: Any = request.getfixturevalue("benchmark")
    solve, limits, solver = solve_anew(call_of(timed)), times(anchor_root), timed.source.solver
    quick = best_s(solve, rounds=1) < _ROUND_S
    # For the table of times and its comparison alone: what is judged below is timed by itself.
    benchmark.pedantic(solve, rounds=5 if quick else 1, iterations=10 if quick else 1)
    if benchmark.stats is None:  # pytest-benchmark is switched off under xdist
        return
    # What pytest-benchmark tells is time on the wall, which grows where another process takes the core.
    rounds = 100 if quick else 3
    if solver in limits.solver:
        allowed = 1e-3 * limits.solver[solver].limit_ms, limits.yardstick_ms
    else:
        allowed = float(request.config.getini("mlsysim_solve_budget_ms")) / 1e3, float("inf")
    taken_s, limit_s = against_limit(solve, rounds, *allowed)
    record = {"file": relative(timed.path), "id": timed.id, "solver": solver, "seconds": taken_s}
    request.node.user_properties.append((SOLVE, json.dumps(record)))
    if taken_s > limit_s:
        took = f"{1e3 * taken_s:.3g} ms at best, the limit is {1e3 * limit_s:.3g} ms"
        pytest.fail(f"{solver} takes on {timed.id} {took}", pytrace=False)


def test_time_of_a_capacity_plan(anchor_root: Path, request: pytest.FixtureRequest) -> None:
    """What ``CapacityPlanner`` asks of a plan, its speed with each number of requests in flight, comes at a stated rate."""
    limits = times(anchor_root)
    if limits.capacity is None:
        pytest.skip("no plans to time are stated")
    if request.config.getoption("benchmark_disable", default=False):
        pytest.skip("nothing is timed where workers share the cores")
    answered = limits.capacity.answered()
    taken_s, limit_s = against_limit(limits.capacity.answered, 5, answered / limits.capacity.rate, limits.yardstick_ms)
    if taken_s > limit_s:
        pytest.fail(f"{answered} configurations take {taken_s:.3g} s at best, the limit is {limit_s:.3g} s", pytrace=False)
