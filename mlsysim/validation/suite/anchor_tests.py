"""The tests that every case must pass: ``anchors/test_anchors.py`` imports them, users' own files run them as they are.

A test that takes ``anchor`` runs once a case (``case_items``), one that takes ``cases`` once a source.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mlsysim.core.errors import DataError
from mlsysim.validation.anchors import estimators
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.comparison import PAPER_MATCH, compare, relative
from mlsysim.validation.anchors.record_keys import MOVE, ROW
from mlsysim.validation.anchors.runner import LEAST_RESPONSE, bound_of, hardware_response, predict, time_exponent
from mlsysim.validation.report.report import percent, shown

# Differences from a snapshot that a failure shows.
SHOWN = 10


def test_feasible_as_stated(anchor: Anchor) -> None:
    """The plan runs, or the case says that it does not."""
    prediction = predict(anchor)
    if prediction.feasible == anchor.case.expect_feasible:
        return
    if prediction.feasible:
        pytest.fail(f"{anchor.id}: expect_feasible = false, but the solver finds that it fits", pytrace=False)
    pytest.fail(f"{anchor.id}: infeasible: {prediction.reason}", pytrace=False)


def test_in_band(anchor: Anchor) -> None:
    """The prediction lies in the figure's band, and reproduces the paper's number where the case is the paper's."""
    case = compare(anchor)
    if not case.in_band:
        off = "" if case.error is None else f", {percent(case.error, signed=True)}"
        band = "" if case.low is None else f" (band {shown(case.low)} to {shown(case.high, case.unit)})"
        figures = f"predicted {shown(case.predicted, case.unit)}, measured {shown(case.measured, case.unit)}"
        pytest.fail(f"{anchor.id}: {figures}{band}{off}; {case.citation}, {case.locator}", pytrace=False)
    if case.matches_paper is False:
        pytest.fail(
            f"{anchor.id}: predicted {shown(case.predicted, case.unit)}, the paper prints {shown(case.paper)} "
            f"(more than {PAPER_MATCH:.0%} away)",
            pytrace=False,
        )


def test_bound_is_not_beaten(anchor: Anchor) -> None:
    """No measurement is faster than the speed of light: a bound that is, has a wrong count in it, known miss or not."""
    case, bound = compare(anchor), bound_of(anchor)
    if bound is None or case.low is None or case.high is None:
        return
    exponent = time_exponent(anchor, case.metric)
    better = anchor.case.better or ("lower" if exponent > 0 else "higher" if exponent < 0 else None)
    if (better == "lower" and bound > case.high) or (better == "higher" and bound < case.low):
        pytest.fail(
            f"{anchor.id}: the bound {shown(bound, case.unit)} is worse than the measured "
            f"{shown(case.measured, case.unit)} ({case.citation}, {case.locator})",
            pytrace=False,
        )


def test_snapshot(cases: tuple[Anchor, ...], request: pytest.FixtureRequest) -> None:
    """The predictions of a source are what they were. One test a source: each test costs pytest time."""
    pytest.importorskip("syrupy", reason="snapshots need syrupy: pip install mlsysim-anchors[test]")
    if not request.config.pluginmanager.hasplugin("syrupy"):
        pytest.skip("snapshots need the plugin syrupy, which -p no:syrupy left out")
    from mlsysim.validation.anchors import snapshots

    update = request.config.getoption("update_snapshots", False)
    if update and hasattr(request.config, "workerinput"):
        pytest.fail("--snapshot-update writes one file from many tests: run it without -n", pytrace=False)
    path = cases[0].snapshot_path
    now = {anchor.id: snapshots.contents(anchor) for anchor in cases}
    try:
        before = snapshots.read(path)
    except DataError as error:
        pytest.fail(str(error), pytrace=False)
    if update:
        for anchor in cases:
            was, kept = before.get(anchor.id), now[anchor.id]
            if kept != was:
                move = {"id": anchor.id, "before": was["predicted"] if was else None, "after": kept["predicted"]}
                move["file"] = relative(anchor.path)
                request.node.user_properties.append((MOVE, json.dumps(move)))
    snapshot: Any = request.getfixturevalue("snapshot")
    if snapshot.use_extension(snapshots.AnchorSnapshotExtension) != now:
        pytest.fail(_differences(path, before, now), pytrace=False)


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


def _differences(path: Path, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Cases that have no snapshot, snapshots without a case, and how cases differ from theirs: those that moved most first."""
    differences = [f"{case}: no snapshot" for case in sorted(set(now) - set(before))]
    differences += [f"{case}: a snapshot without a case" for case in sorted(set(before) - set(now))]
    both = sorted(set(now).intersection(before), key=lambda case: (-_moved(before[case], now[case]), case))
    for case in both:
        old, new = ({**kept, **kept.get("breakdown", {})} for kept in (before[case], now[case]))
        names = [name for name in {**old, **new} if name != "breakdown" and old.get(name) != new.get(name)]
        changes = "".join(f"\n  {name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names)
        differences += [f"{case}: differs from its snapshot{changes}"] if names else []
    told = differences or ["the text is not what an update would write"]
    more = [f"and {len(told) - SHOWN} more, which moved less"] if len(told) > SHOWN else []
    count = f"{len(told)} differences" if len(told) > 1 else "1 difference"
    return "\n".join(
        [f"{count} from {relative(path)}", *told[:SHOWN], *more, "record an intended change with --snapshot-update"]
    )


def _moved(before: dict[str, Any], now: dict[str, Any]) -> float:
    """How far a prediction moved, as a share of what it was; a prediction that is no number moved farthest."""
    old, new = before.get("predicted"), now.get("predicted")
    if old == new:
        return 0.0
    if isinstance(old, (int, float)) and isinstance(new, (int, float)) and old:
        return abs(new / old - 1)
    return math.inf


def _row(anchor: Anchor) -> tuple[str, str]:
    """What a report says of the case, whether it passes or not."""
    row = compare(anchor).as_row()
    if estimators.ASKED:
        row["estimates"] = estimators.estimates(anchor)
    return ROW, json.dumps(row)


def _known_miss(anchor: Anchor) -> tuple[pytest.MarkDecorator, ...]:
    return _strict_xfail(anchor, "known_miss")


def _known_infeasible(anchor: Anchor) -> tuple[pytest.MarkDecorator, ...]:
    return _strict_xfail(anchor, "known_infeasible")


def _strict_xfail(anchor: Anchor, name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Strict: a known miss that starts to pass turns red, and says what to delete. A solver that fails is no known miss."""
    reason = getattr(anchor.case, name)
    if not reason:
        return ()
    place = f"{name} of case {anchor.case.id!r} in {relative(anchor.written_in or anchor.path)}"
    told = f"{reason}; once it passes, delete {place}"
    return (pytest.mark.xfail(reason=told, strict=True, raises=pytest.fail.Exception),)


def test_runs_hold(cases: tuple[Anchor, ...]) -> None:
    """The runs of a table are feasible, not faster than their bound, and move with the hardware; lists every one that fails."""
    failures = []
    for anchor in cases:
        for check in (test_feasible_as_stated, test_bound_is_not_beaten, test_responds_to_hardware):
            if check is test_responds_to_hardware and not anchor.case.responds:
                continue
            try:
                check(anchor)
            except (pytest.fail.Exception, DataError) as failure:
                failures.append(str(failure))
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


def _is_one_of_many(anchor: Anchor) -> bool:
    return bool(anchor.case.run) and anchor.case.outcome is None and not anchor.case.known_infeasible


def _is_alone(anchor: Anchor) -> bool:
    """True if the anchor has tests of its own; the figure of an outcome is whether it fits, and no speed changes it."""
    return anchor.case.outcome is None and not _is_one_of_many(anchor)


# Read by the plugin when it makes one test a case, or one a source of the cases that it is for.
test_feasible_as_stated.each_case = True  # type: ignore[attr-defined]
test_in_band.each_case = True  # type: ignore[attr-defined]
test_bound_is_not_beaten.each_case = True  # type: ignore[attr-defined]
test_responds_to_hardware.each_case = True  # type: ignore[attr-defined]
test_in_band.records = _row  # type: ignore[attr-defined]
test_in_band.marks_for = _known_miss  # type: ignore[attr-defined]
test_runs_hold.applies_to = _is_one_of_many  # type: ignore[attr-defined]
test_feasible_as_stated.marks_for = _known_infeasible  # type: ignore[attr-defined]
test_feasible_as_stated.applies_to = _is_alone  # type: ignore[attr-defined]
test_bound_is_not_beaten.applies_to = _is_alone  # type: ignore[attr-defined]
test_responds_to_hardware.applies_to = lambda anchor: _is_alone(anchor) and anchor.case.responds  # type: ignore[attr-defined]
