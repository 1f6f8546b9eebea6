"""Fitted values as TOML text: plain tables that a person can read and a diff can show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlsysim.calibration

# Where fitted values are kept.
DATA = Path(mlsysim.calibration.__file__).parent / "data"


def toml_key(name: str) -> str:
    """A key as TOML writes it: quoted where it would read as several, or as none.

    Example:
        >>> toml_key("h100_sxm"), toml_key("tensorrt-llm-1.0")
        ('h100_sxm', '"tensorrt-llm-1.0"')
    """
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def toml_value(value: Any) -> str:
    """A value as TOML writes it.

    Example:
        >>> toml_value({"points": 3, "names": ["a", "b"], "fitted": True})
        '{ points = 3, names = ["a", "b"], fitted = true }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(key)} = {toml_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def toml_tables(tables: Mapping[str, Mapping[str, Any]], header: str) -> str:
    """One table a name, under a comment of one or more lines.

    Example:
        >>> print(toml_tables({"a100": {"clock": 0.9}}, "Clocks."), end="")
        # Clocks.
        <BLANKLINE>
        [a100]
        clock = 0.9
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    for name, entry in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"


def write_tables(file: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes a file of fitted values anew, under the comment that it has."""
    path = DATA / file
    header = "\n".join(line[2:] for line in path.read_text("utf-8").splitlines() if line.startswith("# "))
    path.write_text(toml_tables(tables, header), encoding="utf-8")
