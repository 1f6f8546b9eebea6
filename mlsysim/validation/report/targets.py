"""Aims for chosen rows of the report, in ``anchors/targets.toml``: each is a test, and a line of the accuracy page.

An aim that is missed says so in ``known_gaps``: a strict xfail, which turns red when the aim is met.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from mlsysim.core.errors import InconsistentError, UnknownNameError
from mlsysim.core.spec import Spec, spec_of
from mlsysim.core.toml import only_keys, tables_of
from mlsysim.validation.anchors.anchor import Gap
from mlsysim.validation.anchors.loading import written
from mlsysim.validation.anchors.schema import Key, Text
from mlsysim.validation.report.left_out import HeldOut
from mlsysim.validation.report.statistics import Row, Summary, covered, kernels_by_family, quantile, summarise

FILE = "targets.toml"
T = TypeVar("T", bound=Spec)
Limit = Annotated[float | None, Field(gt=0, lt=1)]
# Every source of left_out.toml that is predicted without itself.
SOURCES = "sources"
Patterns = tuple[Text, ...]
# Whether a measure's limit is the least or the largest accepted value.
AT_LEAST = ("balanced_accuracy", "covered")
MEASURES = ("median", "mean", "p90", "bias", "balanced_accuracy", "false_oom", "covered")


class Rows(Spec):
    """A choice of rows: each field that is given must match one of its patterns."""

    family: Patterns = ()
    source: Patterns = ()
    id: Patterns = ()
    model: Patterns = ()
    kind: Patterns = ()
    stack: Patterns = ()
    accelerator: Patterns = ()
    metric: Patterns = ()
    role: Patterns = ("validation",)

    def choose(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that match."""
        chosen = list(rows)
        for name in Rows.model_fields:
            if patterns := getattr(self, name):
                matches = {text: any(fnmatchcase(str(text), one) for one in patterns) for text in {row[name] for row in chosen}}
                chosen = [row for row in chosen if matches[row[name]]]
        return chosen


class Target(Spec):
    """Limits, as fractions, on the errors of ``rows``, of ``kernels`` or of an entry of what was left out of a fit.

    ``kernels`` is a family of kernel tables, whose validation rows are pooled. ``left_out`` names an entry of ``left_out.toml``
    or ``serving_left_out.toml``: "sources" is the median over the entries of single sources; "devices", "engines" and "models"
    are all serving cases, each predicted without its own. ``bias`` is the size of the mean signed error,
    ``balanced_accuracy`` a least, ``false_oom`` a largest share; ``covered`` is the least share of the rows that lie in the
    90 % interval of their prediction.
    """

    id: Key
    title: Text
    rows: Rows | None = None
    kernels: str = ""
    left_out: str = ""
    median: Limit = None
    mean: Limit = None
    p90: Limit = None
    bias: Limit = None
    balanced_accuracy: Limit = None
    false_oom: Limit = None
    covered: Limit = None
    known_gaps: dict[str, Text] = Field(default_factory=dict)

    @property
    def limits(self) -> dict[str, float]:
        """The measures that have a limit, with it."""
        return {name: getattr(self, name) for name in MEASURES if getattr(self, name) is not None}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if [self.rows is not None, bool(self.kernels), bool(self.left_out)].count(True) != 1:
            raise InconsistentError("rows", self.rows, "one of rows, kernels and left_out")
        if not self.limits:
            raise InconsistentError("median", None, f"a limit on one of {', '.join(MEASURES)}")
        if self.kernels and set(self.limits) - {"median", "mean", "p90", "bias"}:
            raise InconsistentError("kernels", self.kernels, "limits on median, mean, p90 and bias only")
        for name in self.known_gaps:
            if name not in self.limits:
                raise UnknownNameError.among("known_gaps", name, self.limits)
        return self


class Group(Spec):
    """Cases to predict without some sources, beside each source without itself."""

    id: Key
    without: Patterns
    cases: Patterns


@dataclass(frozen=True, eq=False)
class TargetCheck:
    """One measure of one target."""

    target: Target
    measure: str

    def as_row(
        self, rows: Sequence[Row], left_out: Mapping[str, Mapping[str, Any]], kernels: Sequence[Row] = ()
    ) -> dict[str, Any]:
        """The measured value and whether it keeps the limit, as a row; a measure that no row has is missed."""
        if self.target.rows is not None:
            chosen = self.target.rows.choose(rows)
            cases, value = len(chosen), _measured(self.measure, chosen)
        elif self.target.kernels:
            pooled = [
                one for one in kernels_by_family(kernels) if (one.family, one.role) == (self.target.kernels, "validation")
            ]
            cases, value = sum(one.cases for one in pooled), getattr(pooled[0], self.measure) if pooled else None
        else:
            errors = [entry["errors"] for name, entry in left_out.items() if _names(self.target.left_out, name, entry)]
            cases, value = sum(entry["points"] for entry in errors), quantile([entry[self.measure] for entry in errors], 0.5)
        least = self.measure in AT_LEAST
        held = value is not None and (value >= self.limit if least else abs(value) <= self.limit)
        return {
            "file": FILE,
            "id": self.id,
            "title": self.target.title,
            "measure": self.measure,
            "cases": cases,
            "found": value,
            "limit": self.limit,
            "at_least": least,
            "held": held,
            "known_gap": self.gap.reason,
        }

    @property
    def id(self) -> str:
        """The check's name, such as ``vtrain-multi-mean``."""
        return f"{self.target.id}-{self.measure.replace('_', '-')}"

    @property
    def limit(self) -> float:
        """The largest, or least, accepted value."""
        return self.target.limits[self.measure]

    @property
    def gap(self) -> Gap:
        """The reason why the aim is missed."""
        place = f"known_gaps.{self.measure} of target {self.target.id!r} in {FILE}"
        return Gap(self.target.known_gaps.get(self.measure, ""), place)


def _names(wanted: str, name: str, entry: Mapping[str, Any]) -> bool:
    return entry.get("without") == [name] if wanted == SOURCES else name == wanted


def _measured(measure: str, rows: Sequence[Row]) -> float | None:
    if measure == "covered":
        return covered(rows)
    summary: Summary = summarise("", "", rows)
    if measure != "false_oom":
        value: float | None = getattr(summary, measure)
        return value
    fits = [row for row in rows if row["measured"] == "fits"]
    return sum(not row["in_band"] for row in fits) / len(fits) if fits else None


def checks(root: Path) -> list[TargetCheck]:
    """The checks of every measure of every target under ``root``; none without the file."""
    return [TargetCheck(target, measure) for target in _built(root, Target, "target") for measure in target.limits]


def held_out_groups(root: Path) -> list[HeldOut]:
    """The groups that are predicted without some sources, beside each source without itself."""
    return [HeldOut(group.id, group.without, group.cases) for group in _built(root, Group, "held_out")]


def _built(root: Path, kind: type[T], key: str) -> list[T]:
    path = root / FILE
    document = written(path)
    only_keys(document, ("target", "held_out"), str(path))
    tables = tables_of(document, key, str(path))
    return [spec_of(kind, table, f"{path}: {table.get('id', 'an entry without id')}") for table in tables]
