"""One anchor: a case with its source, and where its file and its snapshots stand."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from mlsysim.core.errors import DataError
from mlsysim.validation.anchors.record_keys import PACKAGE, USER_SUFFIX
from mlsysim.validation.anchors.schema import Case, Source


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a check is known to fail, "" where it should hold; and where that is written: key, entry and file."""

    reason: str
    place: str


@dataclass(frozen=True, eq=False)
class Anchor:
    """One case with its source and the file it stands in; compared by identity, so that results can be kept by it.

    ``siblings`` are all cases of the file, this one among them: they are solved together. ``written_in`` is the file in which
    the case itself stands: ``path``, or the table that it names.
    """

    path: Path
    family: str
    source: Source
    case: Case
    siblings: list[Anchor] = field(default_factory=list, repr=False)
    written_in: Path | None = None

    @property
    def id(self) -> str:
        """Readable and unique: the source's key and the case's id."""
        return f"{self.source.key}-{self.case.id}"

    @property
    def snapshot_path(self) -> Path:
        """The file of this source's snapshots."""
        return snapshot_path(self.path)

    def error(self, problem: object) -> DataError:
        """``problem`` as an error that names this file and case."""
        return DataError(f"{self.path}: case {self.case.id!r}: {problem}")


def stem(path: Path) -> str:
    """The file's name without ".anchor.toml" or ".toml"."""
    return path.name.removesuffix(USER_SUFFIX).removesuffix(".toml")


def snapshot_path(path: Path) -> Path:
    """The snapshots of a file: beside a user's own; of the repository's, in a folder a family."""
    if path.name.endswith(USER_SUFFIX):
        return path.parent / "snapshots" / f"{stem(path)}.json"
    return snapshot_root(path.parents[1]) / path.parent.name / f"{stem(path)}.json"


@functools.cache
def snapshot_root(root: Path) -> Path:
    """The folder of the snapshots of a tree of anchors: beside it in the repository, in it where a wheel has brought both."""
    inside = root / "snapshots"
    return inside if inside.is_dir() else root.parent / "snapshots"


def is_installed(root: Path) -> bool:
    """Whether a tree of anchors is the package that a wheel has brought, which is not written to."""
    return root.name == PACKAGE
