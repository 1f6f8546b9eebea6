"""Predictions of what was left out of a fit, written by the two studies beside the anchors and read here."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mlsysim.core.toml import toml_file
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.report.statistics import quantile

TRAINING_FILE = "left_out.toml"
SERVING_FILE = "serving_left_out.toml"


@dataclass(frozen=True)
class HeldOut:
    """Sources to leave out of the fit, and the cases (patterns of "source/case") to predict then."""

    id: str
    without: tuple[str, ...]
    cases: tuple[str, ...]

    def chooses(self, anchor: Anchor) -> bool:
        """True if ``anchor`` is one of the cases to predict."""
        return any(fnmatchcase(f"{anchor.source.key}/{anchor.case.id}", pattern) for pattern in self.cases)


def read(root: Path, file: str) -> dict[str, dict[str, Any]]:
    """The entries of ``file`` under ``root``; none without the file. They are shared: nobody changes them."""
    path = root / file
    if not path.exists():
        return {}
    status = path.stat()
    return _parsed(path, (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=8)
def _parsed(path: Path, state: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """The document, parsed once a process unless the file changes: each aim asks for it."""
    return toml_file(path)


def read_all(root: Path) -> dict[str, dict[str, Any]]:
    """The entries of both studies: training sources, and the devices, engines and models of serving."""
    return read(root, TRAINING_FILE) | read(root, SERVING_FILE)


def summary(signed: Sequence[float]) -> dict[str, Any]:
    """Summarise errors as they are written; the bias is the mean of the signed error.

    Example:
        >>> summary([0.1, -0.3])
        {'points': 2, 'median': 0.2, 'mean': 0.2, 'p90': 0.28, 'bias': -0.1}
        >>> summary([])
        {'points': 0}
    """
    if not signed:
        return {"points": 0}
    sizes = [abs(error) for error in signed]
    figures = {"median": quantile(sizes, 0.5), "mean": sum(sizes) / len(sizes), "p90": quantile(sizes, 0.9)}
    figures["bias"] = sum(signed) / len(signed)
    return {"points": len(sizes)} | {name: round(float(value or 0.0), 4) for name, value in figures.items()}


def differences(written: Mapping[str, Any], now: Mapping[str, Any], rounding: float) -> str:
    """Name the figures of a summary that differ from the written ones by more than their ``rounding``; "" if none do.

    Example:
        >>> differences({"points": 2, "median": 0.2}, {"points": 2, "median": 0.2002}, 0.0003)
        ''
        >>> differences({"points": 2, "median": 0.2}, {"points": 2, "median": 0.21}, 0.0003)
        'median 0.2 -> 0.21'
    """
    moved = [part for part in now if part not in written or abs(now[part] - written[part]) > rounding]
    return ", ".join(f"{part} {written.get(part)} -> {now[part]}" for part in moved)
