"""The one reader of TOML files: those that the package carries, and those of users."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any


def packaged_toml(room: str, file: str) -> dict[str, Any]:
    """The document ``data/file`` of a room of the package.

    Example:
        >>> sorted(packaged_toml("models", "diffusion.toml"))[:1]
        ['sd15_unet']
    """
    return tomllib.loads((resources.files(f"mlsysim.{room}") / "data" / file).read_text("utf-8"))


def toml_file(path: Path) -> dict[str, Any]:
    """The document at ``path``.

    Raises:
        tomllib.TOMLDecodeError: it is no TOML.
        OSError: it cannot be read.
    """
    return tomllib.loads(path.read_text("utf-8"))
