"""What was predicted without itself, as the two studies have written it beside the anchors: read here, written by the fits."""

from __future__ import annotations

import functools
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
        """Whether ``anchor`` is one of its cases."""
        return any(fnmatchcase(f"{anchor.source.key}/{anchor.case.id}", pattern) for pattern in self.cases)


def read(root: Path, file: str) -> dict[str, dict[str, Any]]:
    """The entries that ``file`` under ``root`` has; none without the file. They are shared: nobody changes them."""
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
