"""Statistics of the errors, by family and role. Standard library only, so that the plugin stays light."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

Row = Mapping[str, Any]
S = TypeVar("S")


class AsRow:
    """A dataclass of plain values."""

    __slots__ = ()

    def as_row(self) -> dict[str, Any]:
        """The values by their names."""
        return asdict(cast("Any", self))


@dataclass(frozen=True)
class Summary(AsRow):
    """The errors of one family's cases in one role. Errors are fractions; a choice has none and counts only in band.

    ``balanced_accuracy`` is of outcomes: the mean of the shares of fitting and of OOM plans that are recognised.
    ``bias`` is the mean signed error; ``coefficients`` counts the distinct fitted numbers that the predictions used,
    ``hand_picked`` the numbers chosen for single cases.
    """

    family: str
    role: str
    bases: str
    cases: int
    median: float | None
    mean: float | None
    p90: float | None
    bias: float | None
    balanced_accuracy: float | None
    in_band: int
    known_misses: int
    infeasible: int
    coefficients: int
    hand_picked: int


def summarise(family: str, role: str, rows: Sequence[Row]) -> Summary:
    """Summarise ``rows``, known misses included."""
    errors = [float(row["error"]) for row in rows if row["error"] is not None]
    return Summary(
        family=family,
        role=role,
        bases=", ".join(sorted({row["basis"] for row in rows})),
        cases=len(rows),
        **pooled(errors),
        balanced_accuracy=balanced_accuracy(rows),
        in_band=sum(bool(row["in_band"]) for row in rows),
        known_misses=sum(bool(row["known_miss"]) for row in rows),
        infeasible=sum(not row["feasible"] for row in rows),
        coefficients=distinct_coefficients(rows),
        hand_picked=sum(len(row["hand_picked"]) for row in rows),
    )


def pooled(errors: Sequence[float]) -> dict[str, float | None]:
    """The median, mean and p90 of the sizes of errors, and their ``bias``, the mean of the signed error; None without errors.

    Example:
        >>> pooled([0.1, -0.3])["median"]
        0.2
    """
    sizes = [abs(error) for error in errors]
    mean, bias = (sum(values) / len(errors) if errors else None for values in (sizes, errors))
    return {"median": quantile(sizes, 0.5), "mean": mean, "p90": quantile(sizes, 0.9), "bias": bias}


def covered(rows: Iterable[Row]) -> float | None:
    """The share of rows that lie in the interval of their prediction, of those that have one; None without any."""
    held = [row["expected_low"] <= row["measured"] <= row["expected_high"] for row in rows if row["expected_low"] is not None]
    return sum(held) / len(held) if held else None


def balanced_accuracy(rows: Iterable[Row]) -> float | None:
    """Mean over "fits" and "OOM" of the share that is predicted so; None unless both were measured.

    Example:
        >>> found = [("fits", True), ("fits", True), ("OOM", True), ("OOM", False)]
        >>> balanced_accuracy({"measured": outcome, "in_band": hit} for outcome, hit in found)
        0.75
    """
    hits: dict[str, list[bool]] = {"fits": [], "OOM": []}
    for row in rows:
        if row["measured"] in hits:
            hits[row["measured"]].append(bool(row["in_band"]))
    if not all(hits.values()):
        return None
    return sum(sum(outcomes) / len(outcomes) for outcomes in hits.values()) / len(hits)


def by_family_and_role(rows: Iterable[Row]) -> list[Summary]:
    """One summary for each family and role, in alphabetical order."""
    return _by_role(rows, lambda row: str(row["family"]), summarise)


def _by_role(rows: Iterable[Row], name_of: Callable[[Row], str], summary_of: Callable[[str, str, Sequence[Row]], S]) -> list[S]:
    """A summary of the rows of each name and role."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((name_of(row), row["role"]), []).append(row)
    return [summary_of(name, role, groups[name, role]) for name, role in sorted(groups)]


@dataclass(frozen=True)
class KernelSummary(AsRow):
    """The errors of one family's kernel measurements in one role, pooled over its tables. Errors are fractions.

    ``gates`` counts the limits on single tables, ``held`` those that hold, ``known_gaps`` those that are known not to.
    """

    family: str
    role: str
    tables: int
    cases: int
    median: float | None
    mean: float | None
    p90: float | None
    bias: float | None
    gates: int
    held: int
    known_gaps: int
    coefficients: int


def kernels_by_family(kernels: Iterable[Row]) -> list[KernelSummary]:
    """One summary for each family and role, in the order of the tables' families."""
    return _by_role(kernels, lambda row: str(row["family"]), _summarise_kernels)


def kernels_by_table(kernels: Iterable[Row]) -> list[KernelSummary]:
    """One summary for each table and role; its ``family`` is the table."""
    return _by_role(kernels, lambda row: str(row["id"]).removesuffix(f"-{row['role']}"), _summarise_kernels)


def _summarise_kernels(name: str, role: str, rows: Sequence[Row]) -> KernelSummary:
    errors = [float(error) for row in rows for error in row["errors"]]
    gates = [gate for row in rows for gate in row["gates"]]
    return KernelSummary(
        family=name,
        role=role,
        tables=len(rows),
        cases=len(errors),
        **pooled(errors),
        gates=len(gates),
        held=sum(bool(gate["held"]) for gate in gates),
        known_gaps=sum(bool(gate["known_gap"]) for gate in gates),
        coefficients=distinct_coefficients(rows),
    )


def distinct_coefficients(*groups: Iterable[Row]) -> int:
    """The number of fitted numbers that the predictions used, each counted once."""
    return len({name for rows in groups for row in rows for name in row["coefficients"]})


def total(rows: Sequence[Row], kernels: Sequence[Row]) -> str:
    """The last line of a report: how much was fitted and measured, over everything that ran."""
    count = {role: sum(row["role"] == role for row in rows) for role in ("calibration", "validation", "exact", "paper")}
    times = {role: sum(len(row["errors"]) for row in kernels if row["role"] == role) for role in ("calibration", "validation")}
    roles = ", ".join(f"{count[role] + number:,} {role}" for role, number in times.items())
    measured = count["calibration"] + count["validation"] + sum(times.values())
    kind = f"; {sum(times.values()):,} are kernel times" if kernels else ""
    beside = f"beside them {count['exact']} exact and {count['paper']} paper cases"
    head = f"{distinct_coefficients(rows, kernels)} coefficients, {measured:,} measurements ({roles}{kind})"
    return f"{head}; {beside}; known misses count in every number"


def quantile(values: Sequence[float], fraction: float) -> float | None:
    """The quantile by linear interpolation between the sorted values; None without values.

    Example:
        >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
        2.5
    """
    if not values:
        return None
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
