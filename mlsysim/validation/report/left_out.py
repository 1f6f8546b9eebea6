"""Predictions of what was left out of a fit, written by the two studies beside the anchors and read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import written
from mlsysim.validation.report.statistics import pooled

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
    return written(root / file)


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
    return {"points": len(signed)} | {name: round(float(value or 0.0), 4) for name, value in pooled(signed).items()}


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
