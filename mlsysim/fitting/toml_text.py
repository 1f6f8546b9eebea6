"""Fitted values as TOML text: plain tables that a person can read and a diff can show."""

from __future__ import annotations

import json
import re
import tomllib
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
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


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
        lines += ["", f"[{toml_key(name)}]", *(f"{toml_key(key)} = {toml_value(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"


def amended(text: str, entries: Mapping[tuple[str, ...], Mapping[str, Any]]) -> str:
    r"""A TOML text whose entries have other parts; a part that an entry does not have is added at its end.

    Example:
        >>> text = "# Clocks.\n[a]  # known\nx = 1\n\n[b.c]\ny = 2\n"
        >>> print(amended(text, {("a",): {"x": 3, "z": 4}, ("b", "c"): {"y": 2}}), end="")
        # Clocks.
        [a]  # known
        x = 3
        z = 4
        <BLANKLINE>
        [b.c]
        y = 2
    """
    lines: list[str] = []
    left: dict[str, Any] = {}

    def closed() -> None:
        """Adds what the entry that ends here did not have, before the blank lines that follow it."""
        place = len(lines)
        while place and not lines[place - 1].strip():
            place -= 1
        lines[place:place] = [f"{part} = {toml_value(value)}" for part, value in left.items()]
        left.clear()

    for line in text.splitlines():
        if line.startswith("["):
            closed()
            left |= entries.get(_path(line), {})
        part = line.partition("=")[0].strip()
        if part in left and "=" in line:
            value = left.pop(part)
            lines.append(line if _stands(line, part, value) else f"{part} = {toml_value(value)}")
        else:
            lines.append(line)
    closed()
    return "\n".join(lines) + "\n"


def _path(header: str) -> tuple[str, ...]:
    """The names in the header of a table.

    Example:
        >>> _path('[harness."llama.cpp"]')
        ('harness', 'llama.cpp')
    """
    names = []
    table: Any = tomllib.loads(header)
    while table:
        (name,) = table
        names.append(name)
        table = table[name]
    return tuple(names)


def _stands(line: str, part: str, value: Any) -> bool:
    """True if a line states ``value`` already, however it is written."""
    return bool(tomllib.loads(line)[part] == value)
