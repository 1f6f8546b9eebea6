"""Number formats: their names and their widths in bytes, as ``formats.toml`` has them."""

from __future__ import annotations

import functools

from mlsysim.core.errors import UnknownNameError
from mlsysim.core.names import Names
from mlsysim.core.toml import packaged_toml

BYTES_PER_ELEMENT: dict[str, float] = {
    name: entry["bytes"] for name, entry in packaged_toml("core", "formats.toml").items() if name != "defaults"
}


def precision_name(name: str, value: object) -> str:
    """The number format that a spelling means.

    Args:
        name: the argument, for errors.
        value: what was given for it.

    Raises:
        UnknownNameError: no format is spelt so.

    Example:
        >>> precision_name("precision", "BF16"), precision_name("precision", "bfloat16")
        ('bf16', 'bf16')
    """
    found = _names().find(value) if isinstance(value, str) else ()
    if len(found) != 1:
        raise UnknownNameError.among(name, value, BYTES_PER_ELEMENT)
    return found[0]


@functools.cache
def _names() -> Names:
    entries = packaged_toml("core", "formats.toml")
    return Names({format: (format, *entries[format].get("spellings", ())) for format in BYTES_PER_ELEMENT})


def bytes_per_element(precision: str) -> float:
    """Width of one element in bytes.

    Example:
        >>> bytes_per_element("fp4")
        0.5
    """
    return BYTES_PER_ELEMENT[precision]
