"""The one reader of TOML files: those that the package carries, and those of users."""

from __future__ import annotations

import functools
import pickle
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any


def packaged_toml(room: str, file: str) -> dict[str, Any]:
    """The document ``data/file`` of a room of the package, a copy for each caller; parsed once a process unless it changes.

    Example:
        >>> sorted(packaged_toml("models", "diffusion.toml"))[:1]
        ['sd15_unet']
    """
    document: dict[str, Any] = pickle.loads(_parsed((resources.files(f"mlsysim.{room}") / "data" / file).read_text("utf-8")))
    return document


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> bytes:
    """The parsed text, pickled: a copy takes a tenth of a parse, and fits ask for their files again and again."""
    return pickle.dumps(tomllib.loads(text))


def toml_file(path: Path) -> dict[str, Any]:
    """The document at ``path``.

    Raises:
        tomllib.TOMLDecodeError: it is no TOML.
        OSError: it cannot be read.
    """
    return tomllib.loads(path.read_text("utf-8"))
