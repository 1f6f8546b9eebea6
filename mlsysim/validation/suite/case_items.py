"""One test item a case, lighter than a ``pytest.Function``: a case needs no fixtures, and there are thousands of cases.

A packaged test whose function is marked ``each_case`` is collected as such items, under the node ids that a parametrised
function would have. What an item costs pytest beside its test falls to a third; marks, ``-k``, ``::`` and xdist work as always.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load_all


class CaseItem(pytest.Item):
    """A packaged test on one case."""

    def __init__(self, *, test: FunctionType, anchor: Anchor, place: tuple[str, int | None], **rest: Any) -> None:
        super().__init__(**rest)
        self.obj, self.anchor = test, anchor
        self.funcargs: dict[str, Any] = {}  # pytest-benchmark 5.0 looks here for a fixture of its own
        self._place = place

    def runtest(self) -> None:
        """Judges the case; what the test records of it goes into the item's properties first."""
        records = self.obj.__dict__.get("records")
        if records is not None:
            self.user_properties.append(records(self.anchor))
        self.obj(self.anchor)

    @functools.cached_property
    def location(self) -> tuple[str, int | None, str]:
        """File, line and name of the test; pytest would look the file up again for each case."""
        return (*self._place, self.name)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """File, line and name of the test."""
        return self.path, self._place[1], self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """The message alone, where the test failed with one; the trace of everything else."""
        if isinstance(excinfo.value, pytest.fail.Exception) and not excinfo.value.pytrace:
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)


def case_items(module: pytest.Module, name: str, test: FunctionType, place: Path) -> list[CaseItem]:
    """An item for each case of the anchor file, or the tree of them, at ``place`` that the test is for.

    Raises:
        DataError: a file is malformed.
    """
    applies_to: Callable[[Anchor], bool] = getattr(test, "applies_to", lambda anchor: True)
    marks_for: Callable[[Anchor], Iterable[pytest.MarkDecorator]] = getattr(test, "marks_for", lambda anchor: ())
    files = [place] if place.is_file() else anchor_files(place)
    code = test.__code__
    at = (os.path.relpath(code.co_filename, module.config.rootpath), code.co_firstlineno - 1)
    items = []
    for anchor in load_all(files):
        if applies_to(anchor):
            item = CaseItem.from_parent(module, name=f"{name}[{anchor.id}]", test=test, anchor=anchor, place=at)
            for mark in marks_for(anchor):
                item.add_marker(mark)
            items.append(item)
    return items
