"""Cases of each packaged test: every case or source, family with a gate, solver's slowest case, and kernel table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mlsysim.validation.anchors import layouts, loading
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.times import timed_cases
from mlsysim.validation.report import left_out, targets


def by_name(metafunc: pytest.Metafunc, name: str, place: Path) -> None:
    """Parametrises the argument ``name`` from the anchor file, or the tree of them, at ``place``.

    A test function may carry ``applies_to`` (which anchors it is for) and ``marks_for`` (what marks each gets).
    """
    if name.startswith("kernel"):
        _kernels(metafunc, name, place / loading.KERNEL_TABLES)
        return
    if name == "target":
        _known_gaps(metafunc, name, targets.checks(place))
        return
    if name == "layout":
        _known_gaps(metafunc, name, layouts.checks(place))
        return
    if name == "timed_search":
        metafunc.parametrize(name, [pytest.param(search, id=search.id) for search in layouts.timed_searches(place)])
        return
    if name == "left_out":
        metafunc.parametrize(name, [pytest.param(entry, id=entry) for entry in left_out.read(place, left_out.TRAINING_FILE)])
        return
    files = [place] if place.is_file() else loading.anchor_files(place)
    if name == "family":
        gated = {path.parent for path in files if loading.load_gate(path.parent) is not None}
        metafunc.parametrize(name, sorted(folder.name for folder in gated))
        return
    applies_to = getattr(metafunc.function, "applies_to", lambda anchor: True)
    anchors = [anchor for anchor in loading.load_all(files) if applies_to(anchor)]
    if name == "timed":
        chosen = timed_cases(place, anchors)
        metafunc.parametrize(name, [pytest.param(anchor, id=solver) for solver, anchor in sorted(chosen.items())])
    elif name == "cases":
        by_file: dict[Path, list[Anchor]] = {}
        for anchor in anchors:
            by_file.setdefault(anchor.path, []).append(anchor)
        metafunc.parametrize(name, [pytest.param(tuple(cases), id=cases[0].source.key) for cases in by_file.values()])
    else:
        marks_for = getattr(metafunc.function, "marks_for", lambda anchor: ())
        metafunc.parametrize(name, [pytest.param(anchor, id=anchor.id, marks=marks_for(anchor)) for anchor in anchors])


def _kernels(metafunc: pytest.Metafunc, name: str, place: Path) -> None:
    """Parametrise by each role of a table, or by each of its gates; a known gap is a strict xfail."""
    from mlsysim.validation.kernels import checks as kernels

    if name == "kernel_table":
        metafunc.parametrize(name, [pytest.param(part, id=part.id) for part in kernels.parts(place)])
        return
    params = []
    for check, part in kernels.checks(place):
        gap = pytest.mark.xfail(reason=f"known gap: {check.known_gap}", strict=True, raises=pytest.fail.Exception)
        params.append(pytest.param((check, part), id=check.id, marks=(gap,) if check.known_gap else ()))
    metafunc.parametrize(name, params)


def _known_gaps(metafunc: pytest.Metafunc, name: str, checks: Iterable[Any]) -> None:
    """Parametrise by each check; a known gap is a strict xfail."""
    params = []
    for check in checks:
        gap = pytest.mark.xfail(reason=f"known gap: {check.known_gap}", strict=True, raises=pytest.fail.Exception)
        params.append(pytest.param(check, id=check.id, marks=(gap,) if check.known_gap else ()))
    metafunc.parametrize(name, params)
