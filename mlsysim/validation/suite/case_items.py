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

from mlsysim.core.errors import DataError
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.comparison import relative
from mlsysim.validation.anchors.loading import anchor_files, load_sound
from mlsysim.validation.anchors.record_keys import USER_SUFFIX


class BareItem(pytest.Item):
    """A test that asks for no fixtures."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.funcargs: dict[str, Any] = {}  # pytest-benchmark 5.0 looks here for a fixture of its own

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The file, and the name of the test."""
        return self.path, None, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """The message alone, where the test failed with one or a file is wrong; the trace of everything else."""
        told = isinstance(excinfo.value, pytest.fail.Exception) and not excinfo.value.pytrace
        if told or isinstance(excinfo.value, DataError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)


class CaseItem(BareItem):
    """A packaged test on one case."""

    def __init__(self, *, test: FunctionType, anchor: Anchor, place: tuple[str, int | None], **rest: Any) -> None:
        super().__init__(**rest)
        self.obj, self.anchor = test, anchor
        self._place = place

    def runtest(self) -> None:
        """Judges the case; what the test records of it goes into the item's properties first."""
        records = self.obj.__dict__.get("records")
        if records is not None:
            self.user_properties.append(records(self.anchor))
        try:
            self.obj(self.anchor)
        except DataError:
            if records is None and self.anchor.path.name.endswith(USER_SUFFIX):
                pytest.skip("the solver refuses the case: its test_in_band says why")
            raise

    @functools.cached_property
    def location(self) -> tuple[str, int | None, str]:
        """File, line and name of the test; pytest would look the file up again for each case."""
        return (*self._place, self.name)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """File, line and name of the test."""
        return self.path, self._place[1], self.name


class MalformedItem(BareItem):
    """A file that cannot be read: one test, which fails with what is wrong, while the others' cases are tested."""

    def __init__(self, *, error: DataError, **rest: Any) -> None:
        super().__init__(**rest)
        self.error = error

    def runtest(self) -> None:
        """Fails."""
        pytest.fail(str(self.error), pytrace=False)


def malformed_item(module: pytest.Collector, error: DataError) -> MalformedItem:
    """The failing test of a file that cannot be read, named after the file."""
    file = Path(str(error).partition(": ")[0])
    return MalformedItem.from_parent(module, name=f"test_file_is_sound[{relative(file)}]", error=error)


def case_items(module: pytest.Module, name: str, test: FunctionType, place: Path) -> tuple[list[CaseItem], list[DataError]]:
    """An item for each case of the anchor file, or the tree of them, at ``place`` that the test is for.

    Returns:
        The items, and what is wrong with malformed files, whose cases are left out.
    """
    applies_to: Callable[[Anchor], bool] = getattr(test, "applies_to", lambda anchor: True)
    marks_for: Callable[[Anchor], Iterable[pytest.MarkDecorator]] = getattr(test, "marks_for", lambda anchor: ())
    files = [place] if place.is_file() else anchor_files(place)
    code = test.__code__
    at = (os.path.relpath(code.co_filename, module.config.rootpath), code.co_firstlineno - 1)
    items = []
    anchors, malformed = load_sound(files)
    for anchor in anchors:
        if applies_to(anchor):
            item = CaseItem.from_parent(module, name=f"{name}[{anchor.id}]", test=test, anchor=anchor, place=at)
            for mark in marks_for(anchor):
                item.add_marker(mark)
            items.append(item)
    return items, malformed
