"""Statistics of the errors of predicted kernel times, which fits write and gates judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ErrorStatistics:
    """Relative errors in percent of ``points`` predictions."""

    points: int
    median: float
    mean: float
    p90: float
    bias: float

    @classmethod
    def of(cls, predicted: Times, measured: Times) -> ErrorStatistics:
        """Statistics of |predicted / measured - 1|; the bias is the median of the signed error.

        Example:
            >>> ErrorStatistics.of(np.array([1.1, 0.9]), np.array([1.0, 1.0])).median
            10.0
        """
        signed = 100 * (predicted / measured - 1)
        size = np.abs(signed)
        rounded = [round(float(x), 2) for x in (np.median(size), np.mean(size), np.quantile(size, 0.9), np.median(signed))]
        return cls(len(size), *rounded)
