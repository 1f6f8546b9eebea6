"""The anchor file's schema. An unknown key is an error that names the nearest known one.

A file has one ``[source]``, optional ``[defaults]`` that every case inherits, and one ``[[case]]`` a published figure.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.provenance import Evidence
from mlsysim.core.spec import Spec
from mlsysim.core.units import Q_

Role = Literal["paper", "exact", "calibration", "validation"]
Outcome = Literal["fits", "OOM"]
Text = Annotated[str, Field(min_length=1)]
Key = Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]

# A band wider than this would accept a prediction that is wrong by half.
WIDEST_TOLERANCE = 0.5
# Arguments of solve() by which a caller sets the answer: an anchor that is to prove something leaves them alone.
KNOBS = ("efficiency", "overlap_efficiency", "congestion_factor", "straggler_factor")


@functools.cache
def _known_unit(unit: str) -> None:
    """Refuses an unknown unit; thousands of cases share a few."""
    Q_(1.0, unit)


class Macro(Spec):
    """One LaTeX macro: ``of`` is "predicted", "unfactored", "error" (in %), "in_band", or an attribute of the result."""

    of: Text
    unit: str = ""
    digits: int | None = Field(default=None, ge=0, le=12)


class Source(Spec):
    """The publication; what it says of metric, unit and tolerance holds for each case that says nothing else.

    ``requires`` is the library without which its solver has no answer: where that is not installed, its cases are left out.
    """

    key: Key
    citation: Text
    url: Text
    year: int = Field(ge=1900, le=2100)
    solver: Text
    family: Text | None = None
    stack: str = ""
    requires: str = ""
    locator: str = ""
    metric: str = ""
    definition: str = ""
    unit: str | None = None
    tolerance: float | None = None
    tolerance_reason: str = ""
    response_metric: str = ""
    better: Literal["higher", "lower"] | None = None


# What a case takes from its source unless it has its own.
INHERITED = ("locator", "metric", "definition", "unit", "tolerance", "tolerance_reason", "response_metric", "better")


class Case(Spec):
    """One published figure and the inputs that should reproduce it.

    The figure is a ``value`` with a ``tolerance``, a ``range``, a ``choice`` (a plan), or an ``outcome`` (whether a plan fits
    in memory). ``response_metric`` is what must move when the hardware gets faster, where ``metric`` itself is a ratio to the
    hardware's speed. ``run`` are the cells of a row of a table of runs (``mlsysim.tables``), in place of workload, fleet and
    solve. ``known_miss`` says why the figure is missed, ``known_infeasible`` why a plan that ran is called
    infeasible.
    """

    id: Key
    role: Role
    evidence: Evidence
    locator: Text
    metric: Text
    definition: Text
    unit: str
    tolerance: float | None = None
    tolerance_reason: str = ""
    response_metric: str = ""
    better: Literal["higher", "lower"] | None = None
    value: Number | None = None
    range: tuple[Number, Number] | None = None
    choice: dict[str, int | float | str] | None = None
    outcome: Outcome | None = None
    workload: str | dict[str, Any] | None = None
    hardware: str | dict[str, Any] | None = None
    node: str | dict[str, Any] | None = None
    fleet: str | dict[str, Any] | None = None
    run: dict[str, str] = Field(default_factory=dict)
    solve: dict[str, Any] = Field(default_factory=dict)
    expect_feasible: bool = True
    responds: bool = True
    responds_not: str = ""
    known_miss: str = ""
    known_infeasible: str = ""
    note: str = ""
    title: str = ""
    corrects: str = ""
    factors: dict[str, Number] = Field(default_factory=dict)
    paper: Number | str | None = None
    reported: Number | str | None = None
    primary: str = ""
    row: int | None = Field(default=None, ge=1)
    macros: dict[str, Macro] = Field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """True if the plan runs, by the outcome or by what the case expects."""
        return self.expect_feasible if self.outcome is None else self.outcome == "fits"

    @property
    def hand_picked(self) -> tuple[str, ...]:
        """The names of the numbers that were chosen for this case alone."""
        return (*(knob for knob in KNOBS if knob in self.solve), *self.factors)

    @property
    def band(self) -> tuple[float, float] | None:
        """Lowest and highest accepted prediction; None for a choice or an outcome."""
        if self.range is not None:
            return self.range
        if self.value is None or self.tolerance is None:
            return None
        reach = abs(self.value) * self.tolerance
        return self.value - reach, self.value + reach

    @model_validator(mode="after")
    def _one_figure(self) -> Self:
        stated = [name for name in ("value", "range", "choice", "outcome") if getattr(self, name) is not None]
        if len(stated) != 1:
            raise InconsistentError("value", stated, "exactly one of value, range, choice and outcome")
        if self.value == 0:
            raise InputError("value", self.value, "a number other than 0 (errors are relative)")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise InconsistentError("range", list(self.range), "[low, high] with low < high")
        if self.value is not None and self.tolerance is None:
            raise InputError("tolerance", None, "a value for a case with a value")
        if self.tolerance is not None:
            if not 0 < self.tolerance <= WIDEST_TOLERANCE:
                raise InputError("tolerance", self.tolerance, f"a fraction > 0 and <= {WIDEST_TOLERANCE}")
            if not self.tolerance_reason:
                raise InputError("tolerance_reason", None, "why the band is as wide as it is")
        if self.outcome is not None and (not self.expect_feasible or self.known_infeasible):
            expected = "neither expect_feasible nor known_infeasible beside it: it says itself whether the plan fits"
            raise InconsistentError("outcome", self.outcome, expected)
        if self.known_infeasible and not self.expect_feasible:
            raise InconsistentError("known_infeasible", self.known_infeasible, "nothing with expect_feasible = false")
        _known_unit(self.unit)
        return self

    @model_validator(mode="after")
    def _role_allows(self) -> Self:
        if self.role == "paper":
            if self.paper is None or self.reported is None:
                raise InputError("paper", self.paper, 'the numbers "paper" and "reported" with role = "paper"')
        else:
            for name in ("factors", "paper", "reported", "primary", "row", "macros"):
                if getattr(self, name) not in ({}, None, ""):
                    expected = f'nothing: only role = "paper" may have it, not {self.role!r}'
                    raise InconsistentError(name, getattr(self, name), expected)
        if self.role in ("calibration", "validation"):
            if self.evidence == "recalled":
                raise InconsistentError("evidence", self.evidence, f'"seen", "stated" or "computed" for role = {self.role!r}')
            if self.hand_picked:
                raise InconsistentError("solve", list(self.hand_picked), f"no hand-picked number for role = {self.role!r}")
        if self.responds == bool(self.responds_not):
            raise InconsistentError("responds_not", self.responds_not, "a reason with responds = false, and only then")
        if self.run and (self.workload is not None or self.fleet is not None):
            raise InconsistentError("run", sorted(self.run), "no workload and fleet beside it: the table's columns give both")
        machines = [name for name in ("hardware", "node", "fleet") if getattr(self, name) is not None]
        if len(machines) > 1:
            raise InconsistentError("hardware", machines, "one of hardware, node and fleet")
        return self


class Gate(Spec):
    """Limits that a family's validation cases must keep, as fractions.

    Of figures, all three of the largest errors (``bias`` is of the mean signed error); of outcomes, the least
    ``balanced_accuracy``: the mean of the shares of fitting and of OOM plans that are recognised.
    """

    median: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    p90: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    bias: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    balanced_accuracy: float | None = Field(default=None, gt=0.5, le=1)
    reason: Text

    @model_validator(mode="after")
    def _whole(self) -> Self:
        stated = [name for name in ("median", "p90", "bias") if getattr(self, name) is not None]
        if len(stated) not in (0, 3) or (not stated and self.balanced_accuracy is None):
            raise InconsistentError("gate", stated, "median, p90 and bias together, or balanced_accuracy, or all")
        return self
