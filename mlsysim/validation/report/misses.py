"""Cases outside their band: those in their own 90 % interval, and those outside both, each with a reason of its kind."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from mlsysim.calibration import devices, gemm
from mlsysim.core.spec import Spec, spec_of
from mlsysim.core.toml import tables_of, toml_file
from mlsysim.validation.anchors.schema import Key, Text
from mlsysim.validation.report.report import Table, percent
from mlsysim.validation.report.statistics import Row

FILE = "miss_kinds.toml"
# The kind of a case for which alone a person has written a reason.
OWN = "its own"
# The three ways in which a prediction may stand to its figure.
IN_BAND, COVERED, MISS = "in band", "covered miss", "miss"
# What of a row, beside its plan's arguments, a kind may ask about.
_COLUMNS = ("role", "family", "metric", "kind", "basis", "accelerator", "stack", "model")


class Kind(Spec):
    """A kind of misses: the ``reason``, and which cases are of it.

    Each of ``facts`` must be there and match one of its patterns; ``at_least`` and ``at_most`` limit numbers of the plan.
    """

    id: Key
    reason: Text
    facts: dict[str, tuple[Text, ...]] = Field(default_factory=dict)
    at_least: dict[str, float] = Field(default_factory=dict)
    at_most: dict[str, float] = Field(default_factory=dict)

    def holds(self, facts: Mapping[str, str]) -> bool:
        """Tell whether a case with these facts is of this kind."""
        if not {*self.facts, *self.at_least, *self.at_most} <= facts.keys():
            return False
        matches = all(any(fnmatchcase(facts[name], one) for one in patterns) for name, patterns in self.facts.items())
        above = all(_number(facts[name]) >= limit for name, limit in self.at_least.items())
        return matches and above and all(_number(facts[name]) <= limit for name, limit in self.at_most.items())


def _number(text: str) -> float:
    """Read a number of a plan; what is none, such as a batch for each model, is within no limit."""
    try:
        return float(text)
    except ValueError:
        return math.nan


class Reason(NamedTuple):
    """Why a case misses, or would: the name of its kind, and the reason in words."""

    kind: str
    text: str


@functools.cache
def kinds() -> tuple[Kind, ...]:
    """The kinds, in the order in which they are tried; the last one holds for every case."""
    path = Path(__file__).with_name(FILE)
    return tuple(spec_of(Kind, entry, f"{FILE}: {entry.get('id')}") for entry in tables_of(toml_file(path), "kind", FILE))


def standing(row: Row) -> str:
    """Tell how the prediction of a case stands to its figure: in the band, only in its own interval, or outside both.

    Example:
        >>> row = {"in_band": False, "expected_low": 80.0, "expected_high": 120.0, "measured": 110.0}
        >>> standing(row), standing({**row, "measured": 130.0}), standing({**row, "in_band": True})
        ('covered miss', 'miss', 'in band')
    """
    low, high, measured = row["expected_low"], row["expected_high"], row["measured"]
    if row["in_band"]:
        return IN_BAND
    covered = low is not None and high is not None and not isinstance(measured, str) and low <= measured <= high
    return COVERED if covered else MISS


def reasons(rows: Sequence[Row]) -> dict[tuple[str, str], Reason]:
    """Find the reason of each case that lies outside its band and its interval.

    Returns:
        The reasons, by the file and the id of the case.
    """
    written = Counter(row["known_miss"] for row in rows)
    by_id = {}
    for row in rows:
        if standing(row) == MISS:
            alone = row["known_miss"] and written[row["known_miss"]] == 1
            kind = kind_of(row)
            by_id[str(row["file"]), str(row["id"])] = Reason(OWN, row["known_miss"]) if alone else Reason(kind.id, kind.reason)
    return by_id


def kind_of(row: Row) -> Kind:
    """Find the first kind whose facts a case has."""
    facts = {name: str(row[name]) for name in _COLUMNS}
    facts |= dict(part.split("=", 1) for part in str(row["plan"]).split(", ") if "=" in part)
    facts["kernels"] = _kernels(facts["accelerator"])
    return next(kind for kind in kinds() if kind.holds(facts))


@functools.cache
def _kernels(accelerator: str) -> str:
    """Tell whether products of an accelerator were measured, or those of a relative stand for them; "" without either."""
    if accelerator not in devices.measured_hardware():
        return ""
    kernels = devices.kernels_of(devices.measured_device(accelerator))
    return "measured" if kernels in gemm.measured_devices() else "relative"


def by_kind(rows: Sequence[Row]) -> Table:
    """A line for each kind: how many misses are of it, and how large a part of all such cases."""
    counts = Counter(reason.kind for reason in reasons(rows).values())
    of_all = Counter(kind_of(row).id for row in rows if row["role"] in ("calibration", "validation")) if counts else Counter()
    told = {kind.id: kind.reason for kind in kinds()} | {OWN: "a person has written a reason for this case alone"}
    body = [
        (kind, str(count), percent(count / of_all[kind]) if of_all[kind] else "-", told[kind])
        for kind, count in counts.most_common()
    ]
    return Table(("Kind", "Misses", "Of such cases", "Reason"), body)


def by_source(rows: Sequence[Row]) -> Table:
    """A line for the misses of each source, kind and remark of a person: how many, and how far off."""
    groups: dict[tuple[str, str, str], list[float | None]] = {}
    by_id = reasons(rows)
    for row in rows:
        reason = by_id.get((str(row["file"]), str(row["id"])))
        if reason is not None:
            groups.setdefault((str(row["source"]), reason.kind, str(row["known_miss"])), []).append(row["error"])
    body = [
        (source, kind, str(len(errors)), _range([error for error in errors if error is not None]), remark)
        for (source, kind, remark), errors in sorted(groups.items())
    ]
    return Table(("Source", "Kind", "Misses", "Errors", "A person's remark on these and others"), body, left=2)


def _range(errors: Sequence[float]) -> str:
    ends = [percent(end, signed=True) for end in (min(errors), max(errors))] if errors else ["-"]
    return " to ".join(dict.fromkeys(ends))
