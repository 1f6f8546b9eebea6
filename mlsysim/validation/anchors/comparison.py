"""A prediction beside the published figure: one plain record a case, which tests judge and reports print."""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mlsysim.calibration.evidence import FITTED_BASES, quantity_of
from mlsysim.calibration.intervals import spread
from mlsysim.tables.assumed import assumed_of
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.estimators import naive_error
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.anchors.record_keys import USER_SUFFIX
from mlsysim.validation.anchors.runner import Plain, macro_text, number, plan_text, predict, result_of

# "Match?" in the paper's report: within 5 % of the number that the paper prints.
PAPER_MATCH = 0.05


@dataclass(frozen=True)
class Comparison:
    """Everything that a report says of one case, as JSON knows it.

    ``error`` is predicted / measured - 1; of a range, to its nearer edge and 0 inside; None for a choice
    or an outcome. ``expected_low`` and ``expected_high`` are the ends of the prediction's 90 % interval, where it has one.
    ``binding`` is what limits the result; ``nearest`` the published runs that are most like a user's own, with their errors.
    ``naive`` is the error of half of peak: model FLOP / (0.5 x peak x accelerators), where the prediction is of a training
    step. ``kind`` is ``dense``, ``moe`` or the workload's architecture, ``plan`` how the solver was asked to run it.
    """

    id: str
    family: str
    file: str
    source: str
    citation: str
    url: str
    locator: str
    title: str
    role: str
    evidence: str
    solver: str
    model: str
    kind: str
    accelerator: str
    stack: str
    plan: str
    metric: str
    unit: str
    basis: str
    predicted: Plain
    measured: Plain
    low: float | None
    high: float | None
    error: float | None
    expected_low: float | None
    expected_high: float | None
    naive: float | None
    in_band: bool
    binding: str
    nearest: tuple[str, ...]
    feasible: bool
    expect_feasible: bool
    reason: str
    known_miss: str
    coefficients: tuple[str, ...]
    hand_picked: tuple[str, ...]
    corrects: str
    paper: Plain | None
    reported: Plain | None
    primary: str
    row: int | None
    matches_paper: bool | None
    macros: dict[str, str]

    def as_row(self) -> dict[str, Any]:
        """The comparison as a dictionary of plain values."""
        return {name: getattr(self, name) for name in _COLUMNS}  # asdict copies every value: ten times the time


_COLUMNS = tuple(part.name for part in fields(Comparison))


def relative(path: Path) -> str:
    """``path`` as seen from where pytest runs: a report that travels names no folder of one machine."""
    return _relative(path, os.getcwd())  # noqa: PTH109 (asked for each case, and much faster than a path)


@functools.cache
def _relative(path: Path, here: str) -> str:
    """The cases of a source share their path."""
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


# What a comparison has of its case as it is.
_OF_CASE = (
    *("locator", "role", "evidence", "metric", "unit", "known_miss"),
    *("hand_picked", "corrects", "paper", "reported", "primary", "row"),
)


@functools.cache
def compare(anchor: Anchor) -> Comparison:
    """The comparison of ``anchor``'s prediction with its figure."""
    case, source, prediction = anchor.case, anchor.source, predict(anchor)
    low, high = case.band if case.band is not None else (None, None)
    predicted = prediction.predicted
    error: float | None = None
    if isinstance(predicted, float) and low is not None and high is not None:
        error = _relative_error(predicted, case.value, low, high)
        in_band = low <= predicted <= high
    else:
        in_band = predicted == _measured(anchor)
    expected = _expected(anchor, predicted) if prediction.basis in FITTED_BASES else _expected_of_law(anchor)
    derived: dict[str, Plain] = {
        "predicted": predicted,
        "unfactored": prediction.unfactored,
        "error": 100 * abs(error) if error is not None else "",
        "in_band": "yes" if in_band else "no",
    }
    copied: dict[str, Any] = {name: getattr(case, name) for name in _OF_CASE} | _asked(anchor)
    return Comparison(
        id=anchor.id,
        family=anchor.family,
        file=relative(anchor.path),
        source=source.key,
        citation=source.citation,
        url=source.url,
        title=case.title or anchor.id,
        solver=source.solver,
        **copied,
        basis=prediction.basis,
        predicted=predicted,
        measured=_measured(anchor),
        low=low,
        high=high,
        error=error,
        expected_low=expected[0],
        expected_high=expected[1],
        naive=None if error is None else naive_error(anchor),
        in_band=in_band,
        binding=str(result_of(anchor).binding),
        nearest=_nearest(anchor) if anchor.path.name.endswith(USER_SUFFIX) else (),
        feasible=prediction.feasible,
        expect_feasible=case.feasible,
        reason=prediction.reason,
        coefficients=prediction.coefficients,
        matches_paper=None if case.paper is None else matches(predicted, case.paper),
        macros={name: macro_text(anchor, macro, derived) for name, macro in case.macros.items()},
    )


def _expected(anchor: Anchor, predicted: Plain) -> tuple[float | None, float | None]:
    """The ends of the 90 % interval about a prediction of the solver's own."""
    facts = result_of(anchor).facts
    if not isinstance(predicted, float) or facts is None or anchor.case.factors:
        return None, None
    interval = spread(anchor.source.solver, quantity_of(anchor.case.metric), facts, assumed=assumed(anchor))
    return interval.about(predicted) if interval is not None else (None, None)


def _expected_of_law(anchor: Anchor) -> tuple[float | None, float | None]:
    """The ends of the interval that a result states of its own accord, beside a law and not the errors of measured runs."""
    result, case = result_of(anchor), anchor.case
    interval = result.interval_of(case.metric) if case.metric in {part.name for part in fields(result)} else None
    if interval is None or case.factors:
        return None, None
    low, high = (number(anchor, end, case.metric, case.unit) for end in (interval.low, interval.high))
    return low, high


def assumed(anchor: Anchor) -> dict[str, str]:
    """The columns that a case of a table of runs leaves out though they matter, and what stands for each."""
    call = call_of(anchor)
    return assumed_of(anchor.source.solver, anchor.case.run, call.inputs[-1] if call.inputs else None, call.keywords)


def _nearest(anchor: Anchor) -> tuple[str, ...]:
    """The published runs that are most like a user's own, with their errors."""
    return tuple(f"{run.id} {100 * math.expm1(run.error):+.1f} % ({run.citation})" for run in result_of(anchor).nearest)


def matches(predicted: Plain, paper: Plain) -> bool:
    """The paper's own test: within 5 % of a number, equal to a text.

    Example:
        >>> matches(37487.0, 37500), matches("TP=8,PP=4", "TP=8,PP=8")
        (True, False)
    """
    if isinstance(predicted, str) or isinstance(paper, str):
        return str(predicted) == str(paper)
    return abs(predicted - paper) < PAPER_MATCH * max(abs(paper), 1.0)


def _asked(anchor: Anchor) -> dict[str, str]:
    """The model, its kind, the accelerator, the software stack and the plan, by which rows are chosen; "" for none."""
    call = call_of(anchor)
    workload, machine = call.workload, call.machine
    node = getattr(machine, "node", machine)
    keywords = {"accelerators": getattr(machine, "accelerators", None), **call.keywords}
    plan = [
        f"{name}={value}" for name, value in keywords.items() if name != "stack" and value is not None and value is not False
    ]
    return {
        "model": "" if workload is None else workload.name,
        "kind": "" if workload is None else workload.kind,
        "accelerator": str(getattr(getattr(node, "accelerator", node), "name", "")),
        "stack": str(call.keywords.get("stack") or anchor.source.stack),
        "plan": ", ".join(plan),
    }


def _relative_error(predicted: float, value: float | None, low: float, high: float) -> float:
    if value is not None:
        return predicted / value - 1
    if low <= predicted <= high:
        return 0.0
    return predicted / (low if predicted < low else high) - 1


def _measured(anchor: Anchor) -> Plain:
    case = anchor.case
    if case.outcome is not None:
        return case.outcome
    if case.choice is not None:
        return plan_text(case.choice)
    return f"{case.range[0]:g}-{case.range[1]:g}" if case.range is not None else float(case.value or 0.0)
