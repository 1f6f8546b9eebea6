"""Bytes of weights of which some are zeros.

Sources: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, section 3 (n of m: the places of the kept values);
Han et al., "Deep Compression", ICLR 2016, section 2.
"""

from __future__ import annotations

import math


def masked_B(elements: float, element_B: float, sparsity: float) -> float:
    """Bytes of the values that remain, and of a mask with a bit for each place.

    Example:
        >>> masked_B(800.0, 2.0, 0.5)
        900.0
    """
    return elements * ((1 - sparsity) * element_B + 1 / 8)


def structured_B(elements: float, element_B: float, kept: int, of: int) -> float:
    """Bytes of ``kept`` values in each ``of``, and of the place of each: ceil(log2(m)) bits.

    Example:
        >>> structured_B(800.0, 2.0, 2, 4)
        900.0
    """
    return elements * kept / of * (element_B + math.ceil(math.log2(of)) / 8)
