"""Number formats: their names, their widths with scales, and what is computed in them, as ``formats.toml`` has them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Container
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import one_of
from mlsysim.core.errors import UnknownNameError, nearest_names
from mlsysim.core.names import Names, Reading
from mlsysim.core.toml import packaged_toml

# What weights are multiplied in where they are unpacked: the usual arithmetic of the accelerator's 16-bit rate.
UNPACKED = "fp16"


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A format that numbers are stored in, and how weights that are stored so are multiplied.

    Attributes:
        name: the format's name here.
        bytes: width of a stored element with its part of the scales.
        arithmetic: the format whose rate its products run at, on accelerators that list a rate for ``native``.
        native: the rate that tells such accelerators; on others its weights are unpacked and multiplied in 16 bits.
        cache: the format of a KV cache beside such weights, where nobody says.
        kernel: the measured matrix products that run natively; empty where none were measured.
    """

    name: str
    bytes: float
    arithmetic: str
    native: str
    cache: str
    kernel: str

    def arithmetic_on(self, rates: Container[str]) -> str:
        """The format that an accelerator with these ``rates`` multiplies such weights in.

        Example:
            >>> number_format("nvfp4").arithmetic_on({"fp16", "fp8", "fp4"}), number_format("nvfp4").arithmetic_on({"fp16"})
            ('fp4', 'fp16')
        """
        return self.arithmetic if self.bytes >= number_format(UNPACKED).bytes or self.native in rates else UNPACKED


@functools.cache
def number_format(name: str) -> NumberFormat:
    """The format that ``formats.toml`` calls ``name``.

    Example:
        >>> number_format("mxfp4").bytes, number_format("mxfp4").arithmetic, number_format("awq").arithmetic
        (0.53125, 'fp8', 'fp16')
    """
    entry = _entries()[name]
    arithmetic = str(entry.get("arithmetic", name))
    return NumberFormat(
        name=name,
        bytes=float(entry["bits"]) / 8,
        arithmetic=arithmetic,
        native=str(entry.get("native", arithmetic)),
        cache=str(entry.get("cache", arithmetic)),
        kernel=str(entry.get("kernel", "")),
    )


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    return {name: entry for name, entry in packaged_toml("core", "formats.toml").items() if name not in ("defaults", "reading")}


BYTES_PER_ELEMENT: dict[str, float] = {name: number_format(name).bytes for name in _entries()}


def precision_name(name: str, value: object) -> str:
    """The number format that a spelling means.

    Raises:
        UnknownNameError: no format is spelt so.

    Example:
        >>> precision_name("precision", "BF16"), precision_name("precision", "bfloat16")
        ('bf16', 'bf16')
    """
    names = _names().find(value) if isinstance(value, str) else ()
    if len(names) != 1:
        listed = [entry for entry in BYTES_PER_ELEMENT if number_format(entry).arithmetic == entry]
        near = next(iter(nearest_names(value, BYTES_PER_ELEMENT)), None)
        raise UnknownNameError(name, value, f"one of {', '.join(listed)} or a format of weights such as awq or nvfp4", near)
    return names[0]


def one_format(name: str, value: object, known: Collection[str]) -> str:
    """The one of ``known`` formats that a spelling means.

    Raises:
        UnknownNameError: it means none of them.

    Example:
        >>> one_format("gradient_precision", "float32", ("bf16", "fp32"))
        'fp32'
        >>> one_format("gradient_precision", "int8", ("bf16", "fp32"))
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: gradient_precision = 'int8': expected one of bf16, fp32
    """
    names = () if value in known or not isinstance(value, str) else _names().find(value)
    return one_of(name, names[0] if len(names) == 1 and names[0] in known else value, known)


@functools.cache
def _names() -> Names:
    reading = Reading.of(packaged_toml("core", "formats.toml")["reading"])
    return Names({name: (name, *entry.get("spellings", ())) for name, entry in _entries().items()}, reading)


def bytes_per_element(precision: str) -> float:
    """Width of one element in bytes, with its part of the scales.

    Example:
        >>> bytes_per_element("fp4")
        0.5
    """
    return BYTES_PER_ELEMENT[precision]
