"""Parts of a fit: entries of files, measured runs, and what the runs decide of the entries.

A family of fits is a ``Calibration``: which files hold its entries, within which ranges their coefficients lie, and how its
cases become ``Runs``. The search, and the check that a written value is still what a fit finds, are the same for all families:
``search`` and ``written``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlsysim.calibration.device_entries import DEVICES, device_entries, device_file
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.fitting.bounded import Coefficient
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import Times

Entry = Mapping[str, Any]
# Entries as their files state them: by kind ("stack", "device") and name.
Tables = dict[str, dict[str, dict[str, Any]]]
# Stands for every entry of a kind, each of which has one "value": what all stacks and devices share.
EVERY = "*"
CALIBRATION = "calibration"


class Place(NamedTuple):
    """The place of a kind's entries: tables of ``file`` called ``[around.NAME.within]``; ``DEVICES`` is a folder of files."""

    file: str
    around: tuple[str, ...] = ()
    within: tuple[str, ...] = ()

    def entries(self) -> dict[str, dict[str, Any]]:
        """The entries as the file states them, each a copy."""
        if self.file == DEVICES:
            return {name: dict(entry) for name, entry in device_entries(*self.within).items()}
        tables: Any = packaged_toml("calibration", self.file)
        for name in self.around:
            tables = tables[name]
        copies = {}
        for name, entry in tables.items():
            for part in self.within:
                entry = entry.get(part) if isinstance(entry, dict) else None  # noqa: PLW2901
            if isinstance(entry, dict) and name != "defaults":
                copies[name] = dict(entry)
        return copies

    def path(self, name: str) -> tuple[str, ...]:
        """Names of the tables down to the entry ``name``.

        Example:
            >>> Place("gemm.toml", within=("fp8",)).path("h100_sxm")
            ('h100_sxm', 'fp8')
        """
        return (*self.around, name, *self.within)

    def file_of(self, name: str) -> str:
        """The file that has the entry ``name``."""
        return device_file(name) if self.file == DEVICES else self.file


@reads("fitting", "ranges.toml")
def ranges(family: str, kind: str = "") -> Mapping[str, Coefficient]:
    """The ranges of a family's coefficients; ``kind`` of entries matters where kinds of the family have tables of their own.

    Example:
        >>> ranges("engines", "client")["request_s"]
        Coefficient(start=0.005, low=0.0, high=0.3, log=False, prior=None, stiffness=1.0)
    """
    table = packaged_toml("fitting", "ranges.toml")[family]
    return {name: Coefficient(**parts) for name, parts in table.get(kind, table).items()}


class Key(NamedTuple):
    """A fitted coefficient: the kind of its entry, the entry's name, and the part of it."""

    kind: str
    entry: str
    part: str

    def __str__(self) -> str:
        return f"{self.kind} {self.entry} {self.part}"


@dataclass(eq=False)
class Runs:
    """Measurements that hang on the same entries, and are predicted together.

    Attributes:
        on: the entry of each kind that the prediction hangs on (``EVERY``: all entries of the kind).
        measured: what was measured, one figure a row.
        sources: the source of each row; ``Calibration.rows_at_full_weight`` counts by it.
        predict: the figures of all rows, from the entries of ``on`` with what they take from those that they are like.
        together: a kind whose coefficients ``predict`` takes as columns, to predict many choices in one call ("": none).
        stage: rows of a later stage are fitted after those of earlier ones, whose coefficients they leave as they are.
        decides: whether the rows say anything of a coefficient that they hang on.
        judges: the kinds of entries beside which the errors are written (none named: all of ``on``).
        metrics: what each row measures, where runs mix several.
        parts: rows whose errors are also written on their own, by the ending of the name that they are written under.
    """

    on: Mapping[str, str]
    measured: Times
    sources: Sequence[str]
    predict: Callable[[Mapping[str, Entry]], Times]
    together: str = ""
    stage: int = 0
    decides: Callable[[Key], bool] = lambda key: True
    judges: Sequence[str] = ()
    metrics: Sequence[str] = ()
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """A family of coefficients that are fitted together.

    Attributes:
        name: what ``python -m mlsysim.fitting NAME`` calls it.
        files: where the entries of each kind stand.
        gathered: the runs of a role ("calibration" or "validation") under the folder of anchors.
        fits: names of the parts of an entry that are fitted.
        ranged: the range of a coefficient, from its key and its entry, where ``ranges`` does not say it by the family's name.
        pull: error that a coefficient costs a whole range away from its prior: one that no row identifies stays there.
        rows_at_full_weight: a source counts as at most so many rows (None: every row counts alike).
        error_weight: how many times as large errors count, where measurements are known better than to a few per cent.
        starts: other values to begin from, beside the written ones, where a search can end in a dip.
        digits: of the values that are written.
        written_roles: the roles whose errors are written beside the coefficients.
    """

    name: str
    files: Mapping[str, Place]
    gathered: Callable[[Path, str], list[Runs]]
    fits: Callable[[str, Entry], Sequence[str]] = lambda kind, entry: entry.get("fit", ())
    ranged: Callable[[Key, Entry], Coefficient] | None = None
    pull: float = 0.0
    rows_at_full_weight: float | None = None
    error_weight: float = 1.0
    starts: Sequence[Mapping[str, float]] = ()
    digits: int = 4
    written_roles: Sequence[str] = (CALIBRATION,)

    def tables(self) -> Tables:
        """The entries as their files state them; a change to them changes no file."""
        return {kind: place.entries() for kind, place in self.files.items()}

    def fitted_keys(self, tables: Tables) -> list[Key]:
        """The coefficients that are fitted, in the order of their files."""
        return [
            Key(kind, name, part)
            for kind, entries in tables.items()
            for name, entry in entries.items()
            for part in self.fits(kind, entry)
        ]

    def range_of(self, key: Key, entry: Entry) -> Coefficient:
        """The range of a coefficient."""
        return ranges(self.name, key.kind)[key.part] if self.ranged is None else self.ranged(key, entry)

    def start_of(self, tables: Tables, key: Key) -> Coefficient:
        """The range of ``key``, with a search that begins at the written value and is pulled to the range's own start."""
        entry = tables[key.kind][key.entry]
        return self.range_of(key, entry).begun_at(entry.get(key.part))

    def weights(self, runs: Sequence[Runs]) -> list[Times]:
        """Factors by which the errors of the rows of each of ``runs`` are multiplied."""
        most = self.rows_at_full_weight
        if most is None:
            return [np.full(len(run.measured), self.error_weight) for run in runs]
        sources = [source for run in runs for source in run.sources]
        count = {source: sources.count(source) for source in set(sources)}
        return [
            self.error_weight * np.array([min(1.0, (most / count[source]) ** 0.5) for source in run.sources]) for run in runs
        ]


def lineage(entries: Mapping[str, Entry], name: str) -> list[str]:
    """An entry and those that it takes coefficients from.

    Example:
        >>> lineage({"a": {}, "b": {"like": "a"}}, "b")
        ['b', 'a']
    """
    parent = entries[name].get("like")
    return [name, *lineage(entries, parent)] if parent else [name]


def cases(root: Path, folders: Sequence[str], role: str) -> list[Anchor]:
    """The cases of ``role`` in some folders of anchors that come from tables of measurements."""
    files = [path for path in anchor_files(root) if path.parent.name in folders]
    return [anchor for path in files for anchor in load(path) if anchor.case.run and anchor.case.role == role]
