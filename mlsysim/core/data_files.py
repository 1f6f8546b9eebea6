"""Reading data files: the one place where the package parses TOML."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mlsysim.core.errors import DataError


@functools.cache
def packaged(room: str, file: str) -> dict[str, Any]:
    """Returns a TOML file of the package; it is parsed once, so the caller must not change it.

    Args:
        room: the dotted name of the package below ``mlsysim`` that the file stands in.
        file: its path below that package.

    Raises:
        DataError: the file is malformed.

    Example:
        >>> packaged("hardware", "data/cloud.toml")["t4"]["name"]
        'Tesla T4'
    """
    return read_toml(resources.files(f"mlsysim.{room}").joinpath(file), f"mlsysim/{room.replace('.', '/')}/{file}")


def read_toml(file: Path | Traversable, name: str | None = None) -> dict[str, Any]:
    """Returns the tables of a TOML file.

    Args:
        file: where it stands.
        name: what errors call it (default: its path).

    Raises:
        DataError: the file cannot be read or is malformed; the message names it.

    Example:
        >>> read_toml(Path("no such file"))
        Traceback (most recent call last):
        mlsysim.core.errors.DataError: no such file: cannot be read: [Errno 2] No such file or directory: 'no such file'
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{file if name is None else name}: cannot be read: {error}") from error
