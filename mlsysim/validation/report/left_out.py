"""Predictions of what was left out of a fit, written by the two studies beside the anchors and read here."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mlsysim.core.toml import toml_file
from mlsysim.validation.anchors.anchor import Anchor

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
    """The entries of ``file`` under ``root``; none without the file."""
    path = root / file
    return toml_file(path) if path.exists() else {}


def read_all(root: Path) -> dict[str, dict[str, Any]]:
    """The entries of both studies: training sources, and the devices, engines and models of serving."""
    return read(root, TRAINING_FILE) | read(root, SERVING_FILE)
