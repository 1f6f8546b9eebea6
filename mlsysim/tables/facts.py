"""What the files of this room say, read once: rows are many."""

from __future__ import annotations

import functools
from typing import Any

from mlsysim.core.toml import packaged_toml


@functools.cache
def facts(file: str) -> dict[str, Any]:
    """The document of a file; it is shared, and nobody changes it."""
    return packaged_toml("tables", file)


@functools.cache
def section(file: str, name: str) -> dict[str, Any]:
    """A table of a file, without its source.

    Example:
        >>> "source" in facts("mlperf_llm.toml")["limits"], "source" in section("mlperf_llm.toml", "limits")
        (True, False)
    """
    return {key: value for key, value in facts(file)[name].items() if key != "source"}
