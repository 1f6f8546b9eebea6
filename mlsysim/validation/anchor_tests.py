"""The tests that every case must pass: ``anchors/test_anchors.py`` imports them, users' own files run them as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlsysim.validation.comparison import PAPER_MATCH, compare, relative
from mlsysim.validation.loading import Anchor
from mlsysim.validation.names import MOVE, ROW
from mlsysim.validation.report import percent, shown
from mlsysim.validation.runner import FASTER, bound_of, hardware_response, predict, time_exponent

# A fifth of the rise in speed: what moves less hangs on something else than the hardware.
LEAST_RESPONSE = (FASTER - 1) / 5


def test_feasible_as_stated(anchor: Anchor) -> None:
    """The plan runs, or the case says that it does not."""
    prediction = predict(anchor)
    if prediction.feasible == anchor.case.expect_feasible:
        return
    if prediction.feasible:
        pytest.fail(f"{anchor.id}: expect_feasible = false, but the solver finds that it fits", pytrace=False)
    pytest.fail(f"{anchor.id}: infeasible: {prediction.reason}", pytrace=False)


def test_in_band(anchor: Anchor, request: pytest.FixtureRequest) -> None:
    """The prediction lies in the figure's band, and reproduces the paper's number where the case is the paper's."""
    found = compare(anchor)
    request.node.user_properties.append((ROW, json.dumps(found.as_row())))
    if not found.in_band:
        off = "" if found.error is None else f", {percent(found.error, signed=True)}"
        band = "" if found.low is None else f" (band {shown(found.low)} to {shown(found.high, found.unit)})"
        figures = f"predicted {shown(found.predicted, found.unit)}, measured {shown(found.measured, found.unit)}"
        pytest.fail(f"{anchor.id}: {figures}{band}{off}; {found.citation}, {found.locator}", pytrace=False)
    if found.matches_paper is False:
        pytest.fail(
            f"{anchor.id}: predicted {shown(found.predicted, found.unit)}, the paper prints {shown(found.paper)} "
            f"(more than {PAPER_MATCH:.0%} away)",
            pytrace=False,
        )


def test_bound_is_not_beaten(anchor: Anchor) -> None:
    """No measurement is faster than the speed of light: a bound that is, has a wrong count in it, known miss or not."""
    found, bound = compare(anchor), bound_of(anchor)
    if bound is None or found.low is None or found.high is None:
        return
    exponent = time_exponent(anchor, found.metric)
    better = anchor.case.better or ("lower" if exponent > 0 else "higher" if exponent < 0 else None)
    if (better == "lower" and bound > found.high) or (better == "higher" and bound < found.low):
        pytest.fail(
            f"{anchor.id}: the bound {shown(bound, found.unit)} is worse than the measured "
            f"{shown(found.measured, found.unit)} ({found.citation}, {found.locator})",
            pytrace=False,
        )


def test_snapshot(anchor: Anchor, request: pytest.FixtureRequest) -> None:
    """The prediction is what it was."""
    pytest.importorskip("syrupy", reason="snapshots need syrupy: pip install mlsysim-anchors[test]")
    from mlsysim.validation import snapshots

    update = request.config.getoption("update_snapshots", False)
    if update and hasattr(request.config, "workerinput"):
        pytest.fail("--snapshot-update writes one file from many tests: run it without -n", pytrace=False)
    now, before = snapshots.contents(anchor), snapshots.read(anchor.snapshot_path).get(anchor.id)
    if now != before and update:
        was = before["predicted"] if before else None
        move = {"file": relative(anchor.path), "id": anchor.id, "before": was, "after": now["predicted"]}
        request.node.user_properties.append((MOVE, json.dumps(move)))
    snapshot: Any = request.getfixturevalue("snapshot")
    if snapshot.use_extension(snapshots.AnchorSnapshotExtension) != now:
        pytest.fail(_difference(anchor, before, now), pytrace=False)


def test_responds_to_hardware(anchor: Anchor) -> None:
    """Hardware that is 10 % faster changes the prediction, and for the better."""
    change = hardware_response(anchor)
    name = anchor.case.response_metric or anchor.case.metric
    if abs(change) < LEAST_RESPONSE:
        moved = percent(change, signed=True)
        pytest.fail(f"{anchor.id}: {name} moves by {moved} when the hardware is 10 % faster", pytrace=False)
    exponent = time_exponent(anchor, name)
    if exponent * change > 0:
        pytest.fail(f"{anchor.id}: faster hardware makes {name} worse: {percent(change, signed=True)}", pytrace=False)


def _difference(anchor: Anchor, before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    if before is None:
        return f"{anchor.id}: no snapshot in {anchor.snapshot_path}; record it with --snapshot-update"
    old, new = ({**kept, **kept.get("breakdown", {})} for kept in (before, now))
    names = [name for name in {**old, **new} if name != "breakdown" and old.get(name) != new.get(name)]
    changes = "\n".join(f"  {name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names)
    head = f"{anchor.id}: differs from its snapshot in {anchor.snapshot_path}"
    return f"{head}\n{changes}\nrecord an intended change with --snapshot-update"


def _known_miss(anchor: Anchor) -> tuple[pytest.MarkDecorator, ...]:
    return _strict_xfail(anchor.case.known_miss)


def _known_infeasible(anchor: Anchor) -> tuple[pytest.MarkDecorator, ...]:
    return _strict_xfail(anchor.case.known_infeasible)


def _strict_xfail(reason: str) -> tuple[pytest.MarkDecorator, ...]:
    """Strict: a known miss that starts to pass turns red. Only a missed figure counts, not a solver that fails."""
    return (pytest.mark.xfail(reason=reason, strict=True, raises=pytest.fail.Exception),) if reason else ()


def test_run_holds(anchor: Anchor) -> None:
    """One of thousands of runs: feasible, not faster than its bound, moved by hardware. One test: each costs pytest time."""
    test_feasible_as_stated(anchor)
    test_bound_is_not_beaten(anchor)
    if _responds(anchor):
        test_responds_to_hardware(anchor)


def _is_one_of_many(anchor: Anchor) -> bool:
    return bool(anchor.case.run) and anchor.case.outcome is None and not anchor.case.known_infeasible


def _responds(anchor: Anchor) -> bool:
    """Whether a plan fits in memory does not hang on the speed of the hardware."""
    return anchor.case.responds and anchor.case.outcome is None


# Read by the plugin when it makes one test a case.
test_in_band.marks_for = _known_miss  # type: ignore[attr-defined]
test_run_holds.applies_to = _is_one_of_many  # type: ignore[attr-defined]
test_feasible_as_stated.marks_for = _known_infeasible  # type: ignore[attr-defined]
# Of an outcome, whether it fits is the figure itself.
test_feasible_as_stated.applies_to = (  # type: ignore[attr-defined]
    lambda anchor: anchor.case.outcome is None and not _is_one_of_many(anchor)
)
test_bound_is_not_beaten.applies_to = lambda anchor: not _is_one_of_many(anchor)  # type: ignore[attr-defined]
test_responds_to_hardware.applies_to = (  # type: ignore[attr-defined]
    lambda anchor: _responds(anchor) and not _is_one_of_many(anchor)
)
