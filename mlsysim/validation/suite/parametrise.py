"""Cases of each packaged test: every case or source, family with a gate, solver's slowest case, and kernel table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from mlsysim.core.errors import DataError, MissingEntryError
from mlsysim.validation.anchors import layouts, loading
from mlsysim.validation.anchors.anchor import Anchor, Gap
from mlsysim.validation.anchors.times import timed_cases
from mlsysim.validation.kernels import checks as kernels
from mlsysim.validation.report import left_out, targets


class Check(Protocol):
    """What has a name and may be known to fail."""

    @property
    def id(self) -> str:
        """The name."""

    @property
    def gap(self) -> Gap:
        """Why it fails."""


def by_name(metafunc: pytest.Metafunc, name: str, place: Path) -> list[DataError]:
    """Parametrises the argument ``name`` from the anchor file, or the tree of them, at ``place``.

    A test function may carry ``applies_to`` (which anchors it is for) and ``marks_for`` (what marks each gets).

    Returns:
        What is wrong with malformed files, whose cases are left out.
    """
    params: list[Any] = []
    if name.startswith("kernel"):
        parts = kernels.sound(place / loading.KERNEL_TABLES)
        if name == "kernel_table":
            params = [pytest.param(part, id=part.id) for part in parts.parts]
        else:
            params = [_param((check, part), check) for part in parts.parts for check in part.checks]
        metafunc.parametrize(name, params)
        return parts.malformed
    anchors, malformed = loading.load_sound([place] if place.is_file() else loading.anchor_files(place))
    try:
        params = _params(metafunc.function, name, place, anchors, malformed)
    except DataError as error:
        if not (malformed and isinstance(error, MissingEntryError)):  # the case may stand in a file that was left out
            malformed = [*malformed, error]
    metafunc.parametrize(name, params)
    return malformed


def _params(
    function: Callable[..., None], name: str, place: Path, anchors: Sequence[Anchor], malformed: list[DataError]
) -> list[Any]:
    if name == "target":
        return [_param(check, check) for check in targets.checks(place)]
    if name == "layout":
        return [_param(check, check) for check in layouts.checks(place)]
    if name == "timed_search":
        return [pytest.param(search, id=search.id) for search in layouts.timed_searches(place)]
    if name == "left_out":
        return [pytest.param(entry, id=entry) for entry in left_out.read(place, left_out.TRAINING_FILE)]
    if name == "family":
        return _gated(place, malformed)
    applies_to = getattr(function, "applies_to", lambda anchor: True)
    chosen = [anchor for anchor in anchors if applies_to(anchor)]
    if name == "timed":
        return [pytest.param(anchor, id=solver) for solver, anchor in sorted(timed_cases(place, chosen).items())]
    if name == "cases":
        by_file: dict[Path, list[Anchor]] = {}
        for anchor in chosen:
            by_file.setdefault(anchor.path, []).append(anchor)
        return [pytest.param(tuple(cases), id=cases[0].source.key) for cases in by_file.values()]
    marks_for = getattr(function, "marks_for", lambda anchor: ())
    return [pytest.param(anchor, id=anchor.id, marks=marks_for(anchor)) for anchor in chosen]


def _gated(place: Path, malformed: list[DataError]) -> list[str]:
    """The families with a gate that can be read."""
    gated = []
    for folder in sorted({path.parent for path in loading.anchor_files(place)}):
        try:
            if loading.load_gate(folder) is not None:
                gated.append(folder.name)
        except DataError as error:
            malformed.append(error)
    return gated


def _param(value: object, check: Check) -> Any:
    """One check; a known gap is a strict xfail, which says what to delete once it passes."""
    told = f"known gap: {check.gap.reason}; once it passes, delete {check.gap.place}"
    gap = pytest.mark.xfail(reason=told, strict=True, raises=pytest.fail.Exception)
    return pytest.param(value, id=check.id, marks=(gap,) if check.gap.reason else ())
