"""Harnesses that put queries before an engine, read from ``served.toml``."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

from mlsysim.calibration.stacks import resolved
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.toml import packaged_toml

FILE = "served.toml"


@dataclass(frozen=True, slots=True)
class Harness:
    """Costs that a harness adds to an engine's passes; at most six of these are fitted to one.

    Attributes:
        copied_share: time of copies from the host that passes of other batches do not hide, over that of all copies.
        integer_share: rate of an encoder with sequences as they arrive over that of batches sorted by length, 8-bit integers.
        float_share: that rate in other number formats.
        query_s: time of a query, whatever its size: hands it over, launches, collects the answer; adds to latency.
        request_s: accelerator's time of each sample.
        lone_clock: share of the datasheet's rate while queries come one at a time: no limit of power holds it down.
    """

    copied_share: float
    integer_share: float
    float_share: float
    query_s: float
    request_s: float
    lone_clock: float


COEFFICIENTS = tuple(part.name for part in fields(Harness))


@functools.cache
def served_tables() -> dict[str, dict[str, Any]]:
    """Give the TOML's entries."""
    return packaged_toml("calibration", FILE)


@functools.cache
def harness(name: str) -> Harness:
    """The harness called ``name``.

    Raises:
        UnknownNameError: no such harness; the message lists them.

    Example:
        >>> harness("triton").request_s > harness("lwis").request_s
        True
    """
    tables = served_tables()
    if name not in tables:
        raise UnknownNameError.among("harness", name, tables)
    return harness_of(tables, name)


def harness_of(tables: dict[str, dict[str, Any]], name: str) -> Harness:
    """The harness called ``name`` in ``tables``."""
    entry = resolved(tables, name)
    return Harness(**{part: float(entry[part]) for part in COEFFICIENTS})


def harness_fitted_names(name: str) -> tuple[str, ...]:
    """Names of the fitted coefficients; one taken from the entry that it is like keeps that entry's name.

    Example:
        >>> harness_fitted_names("triton")[-1]
        'harness.triton.request_s'
    """
    entry = served_tables()[name]
    inherited = harness_fitted_names(entry["like"]) if "like" in entry else ()
    kept = [known for known in inherited if known.rpartition(".")[2] not in entry]
    return (*kept, *(f"harness.{name}.{part}" for part in entry.get("fit", ())))
