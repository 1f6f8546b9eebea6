"""A user's own stack or serving engine: a file of ``mlsysim calibrate``, which names the shipped one that it is like."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsysim.core.errors import DataError
from mlsysim.core.toml import only_keys, reading, table_of, toml_file

SUFFIX = ".toml"
STACK, ENGINE = "stack", "engine"
KINDS = (STACK, ENGINE)
# What coefficients can be at all, by the endings of their names; all others are shares.
_ENDS = {"_hidden": (0.0, 1.0), "_s": (0.0, 1.0), "_B": (0.0, 1e3), "_Bps": (1e6, 1e15), "_share": (0.01, 10.0)}
# e^3 is twentyfold: no interval is wider.
WIDEST = 3.0
_ABOUT = ("like", "called", "year", "accelerators", "source", "fit")


@dataclass(frozen=True)
class OwnErrors:
    """How far off a user's runs are where each is predicted by a fit without itself.

    Attributes:
        log_width: half the width of the 90 % interval, as a natural logarithm.
        runs: how many runs.
        median, p90: of |predicted / measured - 1|.
    """

    log_width: float
    runs: int
    median: float
    p90: float


@dataclass(frozen=True, eq=False)
class OwnStack:
    """A stack or an engine that was calibrated to a user's runs; compared by identity, so that what it means can be kept by it.

    Attributes:
        file: the path by which it is named.
        kind: ``STACK`` or ``ENGINE``.
        like: the shipped stack or engine that it has everything else from.
        called, year: what tables of its runs call it, and the year of these.
        accelerators: those that its runs ran on.
        values: its coefficients.
        errors: by what is measured, "whole" or "first token".
    """

    file: str
    kind: str
    like: str
    called: str
    year: float | None
    accelerators: tuple[str, ...]
    values: Mapping[str, float]
    errors: Mapping[str, OwnErrors]

    @property
    def solver(self) -> str:
        """The solver whose predictions its errors are of."""
        return {STACK: "DistributedModel", ENGINE: "ServingModel"}[self.kind]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its coefficients, as results list them."""
        return tuple(f"{self.kind}.{self.file}.{part}" for part in self.values)


def is_own(name: object) -> bool:
    """Tell whether a name of a stack or an engine is the path of a user's file.

    Example:
        >>> is_own("my-stack.toml"), is_own("megatron-core")
        (True, False)
    """
    return isinstance(name, str) and name.endswith(SUFFIX)


def own_stack(file: str, kind: str | None = None) -> OwnStack:
    """Read a user's stack or engine, once unless the file changes; ``kind`` is what it has to be, if not either.

    Raises:
        DataError: there is no such file, it is none that ``mlsysim calibrate`` wrote, or is of the other kind.
    """
    path = Path(file)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise DataError.unread(file, error) from None
    calibrated = _read(file, str(path.absolute()), status.st_mtime_ns, status.st_size)
    if kind is not None and calibrated.kind != kind:
        told = {STACK: "a stack of training", ENGINE: "a serving engine"}
        raise DataError(f"{file}: it is {told[calibrated.kind]}, not {told[kind]}")
    return calibrated


@functools.lru_cache(maxsize=64)
def _read(file: str, place: str, changed_ns: int, size: int) -> OwnStack:
    document = toml_file(Path(place), file)
    only_keys(document, (*KINDS, "errors"), file)
    kinds = [kind for kind in KINDS if kind in document]
    if len(kinds) != 1:
        raise DataError(f"{file}: expected one of [stack] and [engine], as mlsysim calibrate writes it")
    kind = kinds[0]
    with reading(f"{file}: [{kind}]"):
        entry = table_of(document[kind], f"{file}: [{kind}]")
        values = {part: _number(part, value) for part, value in entry.items() if part not in _ABOUT}
        told = table_of(document["errors"], f"{file}: [errors]")
        errors = {name: _errors(table_of(part, f"{file}: [errors]: {name}")) for name, part in told.items()}
        return OwnStack(
            file=file,
            kind=kind,
            like=str(entry["like"]),
            called=str(entry["called"]),
            year=None if entry.get("year") is None else _number("year", entry["year"]),
            accelerators=tuple(map(str, entry["accelerators"])),
            values=values,
            errors=errors,
        )


def known_parts(own: OwnStack, known: Collection[str]) -> dict[str, Any]:
    """Return the coefficients of a user's stack or engine.

    Raises:
        DataError: it has another, or one that no stack could have; the message has the nearest that there is, or the range.
    """
    only_keys(dict(own.values), tuple(known), f"{own.file}: [{own.kind}]")
    for part, value in own.values.items():
        low, high = next((ends for ending, ends in _ENDS.items() if part.endswith(ending)), _ENDS["_share"])
        if not low <= value <= high:
            raise DataError(f"{own.file}: [{own.kind}]: {part} = {value:g}: expected a number from {low:g} to {high:g}")
    return dict(own.values)


def _errors(part: Mapping[str, Any]) -> OwnErrors:
    log_width, runs, median, p90 = (_number(name, part[name]) for name in ("log_width", "runs", "median", "p90"))
    if log_width > WIDEST:
        raise DataError(f"log_width = {log_width:g}: expected a number up to {WIDEST:g}")
    return OwnErrors(log_width, int(runs), median, p90)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise DataError(f"{name} = {value!r}: expected a number")
    return float(value)
