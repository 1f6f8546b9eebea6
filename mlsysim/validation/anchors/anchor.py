"""One anchor: a case with its source, and where its file and its snapshots stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mlsysim.core.errors import DataError
from mlsysim.validation.anchors.record_keys import USER_SUFFIX
from mlsysim.validation.anchors.schema import Case, Source


@dataclass(frozen=True, eq=False)
class Anchor:
    """One case with its source and the file it stands in; compared by identity, so that results can be kept by it.

    ``siblings`` are all cases of the file, this one among them: they are solved together.
    """

    path: Path
    family: str
    source: Source
    case: Case
    siblings: list[Anchor] = field(default_factory=list, repr=False)

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
    """``snapshots/`` beside a user's file; the repository's own are in ``snapshots/<family>/`` beside ``anchors/``."""
    if path.name.endswith(USER_SUFFIX):
        return path.parent / "snapshots" / f"{stem(path)}.json"
    return path.parents[2] / "snapshots" / path.parent.name / f"{stem(path)}.json"
