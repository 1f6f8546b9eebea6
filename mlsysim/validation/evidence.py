"""Everything that a whole run of a tree of anchors would find, and the pages that it would write; solved once a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlsysim.validation import accuracy, export, kernels, leave_one_out, loading, targets
from mlsysim.validation.comparison import compare


def rows(root: Path) -> list[dict[str, Any]]:
    """The comparison of every case, in the order of files and ids."""
    anchors = [anchor for path in loading.anchor_files(root) for anchor in sorted(loading.load(path), key=lambda one: one.id)]
    return [compare(anchor).as_row() for anchor in anchors]


def kernel_rows(root: Path) -> list[dict[str, Any]]:
    """The errors of every table of kernels."""
    parts = kernels.parts(root / loading.KERNEL_TABLES)
    return sorted((part.as_row() for part in parts), key=lambda row: (str(row["file"]), str(row["id"])))


def page(root: Path, name: str) -> str:
    """The text of ``anchors.md`` or ``accuracy.md``."""
    return _PAGES[name](root)


def _accuracy(root: Path) -> str:
    found, entries = rows(root), leave_one_out.read(root)
    judged = sorted((check.as_row(found, entries) for check in targets.checks(root)), key=lambda row: str(row["id"]))
    left_out = [{"id": name, **entries[name]} for name in sorted(entries)]
    return accuracy.as_markdown(found, kernel_rows(root), judged, left_out)


_PAGES: dict[str, Callable[[Path], str]] = {
    "anchors.md": lambda root: export.as_markdown(rows(root), (), kernel_rows(root)),
    "accuracy.md": _accuracy,
}
