"""The picture of the README: what was predicted over what was measured, for every validation case of a whole run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlsysim.plots.parity import parity, parity_title
from mlsysim.validation.report.statistics import Row

FILE = "parity.png"
_DOTS_PER_INCH = 110
_TITLE = b"tEXtTitle\x00"


def title(rows: Sequence[Row]) -> str:
    """What stands above the picture of these rows; it needs no matplotlib."""
    return parity_title(_judged(rows))


def title_in(path: Path) -> str:
    """What stands above a picture that was written; empty where there is none."""
    content = path.read_bytes() if path.exists() else b""
    place = content.find(_TITLE)
    if place < 0:
        return ""
    length = int.from_bytes(content[place - 4 : place], "big")
    return content[place + len(_TITLE) : place + 4 + length].decode("latin-1")


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the picture.

    Raises:
        MLSysError: matplotlib is missing.
    """
    figure = parity(_judged(rows), by="family")
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Title": title(rows), "Software": None})


def _judged(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["role"] == "validation" and row["error"] is not None]
