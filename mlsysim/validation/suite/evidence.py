"""Everything that a whole run of a tree of anchors would find, and the pages that it would write; found once a process."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from mlsysim.validation.anchors import loading, recalled
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.kernels import checks as kernels
from mlsysim.validation.report import accuracy, export, judgement, left_out, targets
from mlsysim.validation.report.findings import Findings


def rows(root: Path) -> tuple[dict[str, Any], ...]:
    """The comparison of every case of the sound files, in the order of files and ids."""
    return _compared(tuple(loading.load_sound(loading.anchor_files(root)).anchors))


@functools.lru_cache(maxsize=4)
def _compared(anchors: tuple[Anchor, ...]) -> tuple[dict[str, Any], ...]:
    """Files that change give other anchors, and so other rows."""
    return tuple(compare(anchor).as_row() for anchor in sorted(anchors, key=lambda one: (one.path, one.id)))


@functools.lru_cache(maxsize=1)
def rows_as_kept(root: Path) -> tuple[dict[str, Any], ...]:
    """The comparison of every case with what its snapshot says was predicted; a case without one as it is now."""
    from mlsysim.validation.anchors import snapshots  # needs syrupy, as the update does that asks for this

    kept: dict[str, Any] = {}
    for path in loading.anchor_files(root):
        kept |= snapshots.read(loading.load(path)[0].snapshot_path)
    return tuple(judgement.as_it_was(row, kept[row["id"]]["predicted"]) if row["id"] in kept else row for row in rows(root))


def kernel_rows(root: Path) -> tuple[dict[str, Any], ...]:
    """The errors of every sound table of kernels."""
    return _judged(kernels.sound(root / loading.KERNEL_TABLES).parts)


@functools.lru_cache(maxsize=4)
def _judged(parts: tuple[kernels.KernelPart, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(sorted((part.as_row() for part in parts), key=lambda row: (str(row["file"]), str(row["id"]))))


def page(root: Path, name: str) -> str:
    """The text of ``anchors.md`` or ``accuracy.md``."""
    return _accuracy(root) if name == "accuracy.md" else export.as_markdown(Findings(rows(root), kernel_rows(root)))


def _accuracy(root: Path) -> str:
    cases, tables, entries = rows(root), kernel_rows(root), left_out.read_all(root)
    judged = sorted((check.as_row(cases, entries, tables) for check in targets.checks(root)), key=lambda row: str(row["id"]))
    studies = [left_out.read(root, file) for file in (left_out.TRAINING_FILE, left_out.SERVING_FILE)]
    training, serving = ([{"id": name, **entries[name]} for name in sorted(entries)] for entries in studies)
    recalled_rows = recalled.rows(root)
    return accuracy.as_markdown(
        Findings(cases, tables, judged, left_out=training, serving_left_out=serving, recalled=recalled_rows)
    )


_NUMBER = re.compile(r"(-?\d[\d,]*\.?\d*)")


def reads_the_same(old: str, new: str) -> bool:
    """True if two lines differ in no more than the last digit of numbers, since versions of Python add up differently.

    Example:
        >>> reads_the_same("bias | -2.4 %", "bias | -2.3 %"), reads_the_same("bias | -2.4 %", "bias | -2.2 %")
        (True, False)
    """
    if old == new:
        return True
    before, after = _NUMBER.split(old), _NUMBER.split(new)
    return len(before) == len(after) and all(
        one == other or (place % 2 == 1 and _one_digit_apart(one, other))
        for place, (one, other) in enumerate(zip(before, after, strict=True))
    )


def _one_digit_apart(one: str, other: str) -> bool:
    decimals = [len(text.partition(".")[2]) for text in (one, other)]
    if decimals[0] != decimals[1] or not decimals[0]:
        return False
    first, second = (float(text.replace(",", "")) for text in (one, other))
    return abs(first - second) < 1.5 * 10.0 ** -decimals[0]
