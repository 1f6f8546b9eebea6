"""Number formats: their names and their widths in bytes."""

from __future__ import annotations

from mlsysim.core.checks import one_of

BYTES_PER_ELEMENT = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp6": 0.75,
    "fp4": 0.5,
    "int4": 0.5,
    # Stored weights with their scales: one of 8 bits for 16 elements (nvfp4), of 16 bits for 128 (awq, gptq) or for 32
    # (GGUF q4_0, q8_0), of several widths by the matrix (q4_k_m: the mean of the published file of Llama-3-8B).
    "fp8_block": 1.0,
    "nvfp4": 0.5625,
    "awq": 0.53,
    "gptq": 0.53,
    "q4_0": 0.5625,
    "q4_k_m": 0.61,
    "q8_0": 1.0625,
}


def precision_name(name: str, value: object) -> str:
    """The number format's name in lower case.

    Example:
        >>> precision_name("precision", "BF16")
        'bf16'
    """
    return one_of(name, value, BYTES_PER_ELEMENT)


def bytes_per_element(precision: str) -> float:
    """Width of one element in bytes.

    Example:
        >>> bytes_per_element("fp4")
        0.5
    """
    return BYTES_PER_ELEMENT[precision]
