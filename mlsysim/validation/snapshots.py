"""Snapshots as readable numbers: one JSON file a source, keyed by case id, six significant digits."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from syrupy.data import Snapshot, SnapshotCollection, SnapshotCollections
from syrupy.extensions.base import AbstractSyrupyExtension
from syrupy.location import PyTestLocation

from mlsysim.validation.loading import Anchor
from mlsysim.validation.runner import predict

# What stays the same across Python, numpy and pint versions.
SIGNIFICANT_DIGITS = 6
_TEST = "test_snapshot"


def contents(anchor: Anchor) -> dict[str, Any]:
    """What is kept of a prediction; of one among many runs of a table, without its parts, so that the file stays readable."""
    prediction = predict(anchor)
    kept = {
        "predicted": rounded(prediction.predicted),
        "unit": prediction.unit,
        "basis": prediction.basis,
        "feasible": prediction.feasible,
    }
    if anchor.case.run:
        return kept
    return kept | {"breakdown": {name: rounded(value) for name, value in sorted(prediction.breakdown.items())}}


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
    """The snapshots of one source by case id; none if there is no file."""
    return _read(path, path.stat().st_mtime_ns) if path.exists() else {}


@functools.lru_cache(maxsize=64)
def _read(path: Path, modified_ns: int) -> dict[str, Any]:
    """Once a change of the file: every case of a source asks for it."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, snapshots: dict[str, Any]) -> None:
    """Replaces the file; without snapshots it goes."""
    if not snapshots:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(snapshots.items())), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class AnchorSnapshotExtension(AbstractSyrupyExtension):
    """Stores all cases of a source in the file that ``Anchor.snapshot_path`` names."""

    file_extension = "json"

    def serialize(self, data: Any, **_: Any) -> str:
        """The JSON text that is compared."""
        return json.dumps(data, indent=2, ensure_ascii=False)

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        """The folder of the source's file."""
        anchor = _anchor(test_location)
        return str(anchor.snapshot_path.parent) if anchor else super().dirname(test_location=test_location)

    @classmethod
    def get_file_basename(cls, *, test_location: PyTestLocation, index: Any) -> str:
        """The source's name."""
        anchor = _anchor(test_location)
        return anchor.snapshot_path.stem if anchor else test_location.basename

    @classmethod
    def matches_test_location(cls, *, test_location: PyTestLocation, snapshot_location: str) -> bool:
        """Whether the test's anchor keeps its snapshots there."""
        anchor = _anchor(test_location)
        return anchor is not None and Path(snapshot_location) == anchor.snapshot_path

    def discover_snapshots(self, **_: Any) -> SnapshotCollections:
        """Nothing: a user's folder may hold other JSON files, which syrupy would delete as unused on an update.

        Orphans in the repository's own folder are found by ``suite_tests.test_no_orphan_snapshots``.
        """
        return SnapshotCollections()

    def read_snapshot_collection(self, *, snapshot_location: str) -> SnapshotCollection:
        """The file's snapshots, under the names of their tests."""
        collection = SnapshotCollection(location=snapshot_location)
        for case in read(Path(snapshot_location)):
            collection.add(Snapshot(name=f"{_TEST}[{case}]"))
        return collection

    def read_snapshot_data_from_location(self, *, snapshot_location: str, snapshot_name: str, session_id: str) -> str | None:
        """The text of one snapshot."""
        found = read(Path(snapshot_location)).get(case_id(snapshot_name))
        return None if found is None else self.serialize(found)

    @classmethod
    def write_snapshot(cls, *, snapshot_location: str, snapshots: list[tuple[Any, PyTestLocation, Any]], **_: Any) -> None:
        """Writes the queued snapshots of one file.

        Overridden because syrupy before 7 warns of a location that does not bear the test module's name.
        """
        collection = SnapshotCollection(location=snapshot_location)
        for data, test_location, index in snapshots:
            collection.add(Snapshot(name=cls.get_snapshot_name(test_location=test_location, index=index), data=data))
        cls.write_snapshot_collection(snapshot_collection=collection)

    @classmethod
    def write_snapshot_collection(cls, *, snapshot_collection: SnapshotCollection, **_: Any) -> None:
        """Lays the collection over what the file has."""
        path = Path(snapshot_collection.location)
        new = {case_id(snapshot.name): json.loads(str(snapshot.data)) for snapshot in snapshot_collection}
        write(path, read(path) | new)

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        """Drops snapshots whose cases are gone."""
        path = Path(snapshot_location)
        dropped = {case_id(name) for name in snapshot_names}
        write(path, {case: kept for case, kept in read(path).items() if case not in dropped})


def case_id(snapshot_name: str) -> str:
    """The text in the brackets of a test's name."""
    return snapshot_name.partition("[")[2].removesuffix("]")


def _anchor(test_location: PyTestLocation) -> Anchor | None:
    """The anchor of the test; None where syrupy has rebuilt the test from a worker's report."""
    callspec = getattr(test_location.item, "callspec", None)
    found = callspec.params.get("anchor") if callspec is not None else None
    return found if isinstance(found, Anchor) else None
