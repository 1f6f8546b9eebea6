"""Snapshots as readable numbers: one JSON file a source, keyed by case id, six significant digits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from syrupy.data import Snapshot, SnapshotCollection, SnapshotCollections
from syrupy.extensions.base import AbstractSyrupyExtension
from syrupy.location import PyTestLocation

from mlsysim.core.toml import file_text, reading, table_of
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.runner import breakdown, predict, result_of

# What stays the same across Python, numpy and pint versions.
SIGNIFICANT_DIGITS = 6


def text_of(snapshots: Mapping[str, Any]) -> str:
    """The text of a snapshot file."""
    return json.dumps(dict(sorted(snapshots.items())), indent=2, ensure_ascii=False) + "\n"


def contents(anchor: Anchor) -> dict[str, Any]:
    """The record kept of a prediction, without its parts if it is one of many runs of a table, so that files stay readable."""
    prediction = predict(anchor)
    kept = {
        "predicted": rounded(prediction.predicted),
        "unit": anchor.case.unit,
        "basis": prediction.basis,
        "feasible": prediction.feasible,
    }
    if anchor.case.run:
        return kept
    return kept | {"breakdown": {name: rounded(value) for name, value in sorted(breakdown(result_of(anchor)).items())}}


def rounded(value: Any) -> Any:
    """Floats to six significant digits; whole ones as integers, so that 8.0 and 8 are one text.

    Example:
        >>> rounded(0.123456789), rounded(8.0), rounded("bound")
        (0.123457, 8, 'bound')
    """
    if not isinstance(value, float):
        return value
    short = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def read(path: Path) -> dict[str, Any]:
    """The snapshots of one source by case id; none if there is no file.

    Raises:
        DataError: the file is no JSON object of snapshots.
    """
    if not path.exists():
        return {}
    with reading(str(path)):
        snapshots = json.loads(file_text(path, str(path)))
        return {case: table_of(kept, f"{path}: {case!r}") for case, kept in table_of(snapshots, str(path)).items()}


class AnchorSnapshotExtension(AbstractSyrupyExtension):
    """The cases of a source are one snapshot, in the file that ``Anchor.snapshot_path`` names."""

    file_extension = "json"

    def serialize(self, data: Any, **_: Any) -> str:
        """The file's text, which is compared."""
        return text_of(data)

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        """The folder of the source's file."""
        anchor = _anchor(test_location)
        return str(anchor.snapshot_path.parent) if anchor else super().dirname(test_location=test_location)

    @classmethod
    def get_file_basename(cls, *, test_location: PyTestLocation, index: Any) -> str:
        """The name of the test's source, which its snapshot file bears."""
        anchor = _anchor(test_location)
        return anchor.snapshot_path.stem if anchor else test_location.basename

    @classmethod
    def matches_test_location(cls, *, test_location: PyTestLocation, snapshot_location: str) -> bool:
        """True if the test's source keeps its snapshots there."""
        anchor = _anchor(test_location)
        return anchor is not None and Path(snapshot_location) == anchor.snapshot_path

    def discover_snapshots(self, **_: Any) -> SnapshotCollections:
        """Nothing: a user's folder may hold other JSON files, which syrupy would delete as unused on an update.

        Orphans in the repository's own folder are found by ``suite_tests.test_no_orphan_snapshots``.
        """
        return SnapshotCollections()

    def read_snapshot_collection(self, *, snapshot_location: str) -> SnapshotCollection:
        """The file as a collection of one."""
        collection = SnapshotCollection(location=snapshot_location)
        collection.add(Snapshot(name=Path(snapshot_location).stem))
        return collection

    def read_snapshot_data_from_location(self, *, snapshot_location: str, snapshot_name: str, session_id: str) -> str | None:
        """The snapshot of one case, as text."""
        path = Path(snapshot_location)
        return path.read_text(encoding="utf-8") if path.exists() else None

    @classmethod
    def write_snapshot(cls, *, snapshot_location: str, snapshots: list[tuple[Any, PyTestLocation, Any]], **_: Any) -> None:
        """Writes the queued snapshot of one file.

        Overridden because syrupy before 7 warns of a location that does not bear the test module's name.
        """
        path = Path(snapshot_location)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(snapshots[-1][0]), encoding="utf-8")

    @classmethod
    def write_snapshot_collection(cls, *, snapshot_collection: SnapshotCollection, **_: Any) -> None:
        """Nothing is left to write: ``write_snapshot`` has."""

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        """Drops the file of a source that is gone."""
        Path(snapshot_location).unlink(missing_ok=True)


def _anchor(test_location: PyTestLocation) -> Anchor | None:
    """A case of the test's source; None where it has none, or where syrupy has rebuilt the test from a worker's report."""
    callspec = getattr(test_location.item, "callspec", None)
    cases = callspec.params.get("cases") if callspec is not None else None
    return cases[0] if isinstance(cases, Sequence) and cases else None  # of no cases pytest makes a value of its own
