"""Fits of a few bounded coefficients to measured times, and how good they are.

The error is the logarithm of predicted over measured, so that a microsecond and a second count alike, with a soft L1
loss, so that single bad measurements do not pull. A coefficient that ends at its bound names missing physics: the fit
reports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mlsysim.core.errors import MLSysError
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

_AT_BOUND = 1e-3  # of the range
_SCALE = 0.05  # residuals beyond 5 % count linearly
_STEP = 1e-7  # of a range: between rounding and curvature
_NOTHING = 1e-6  # of the upper bound: what is nearer to a lower bound of 0 is 0


@dataclass(frozen=True)
class Coefficient:
    """A coefficient to fit: where to start, and the physically meaningful range.

    ``log`` fits its logarithm, for those that range over decades. ``prior`` is where it is pulled to: its start, if None.
    """

    start: float
    low: float
    high: float
    log: bool = False
    prior: float | None = None

    @property
    def pulled_to(self) -> float:
        """Its prior, within the range.

        Example:
            >>> Coefficient(0.9, 0.4, 1.2, prior=1.5).pulled_to, Coefficient(0.9, 0.4, 1.2).pulled_to
            (1.2, 0.9)
        """
        return self.start if self.prior is None else min(max(self.prior, self.low), self.high)

    def written(self, value: float, digits: int = 4) -> float:
        """``value`` as a TOML keeps it: what changes beyond ``digits`` with the version of SciPy is noise.

        Example:
            >>> Coefficient(120.0, 0.0, 2000.0).written(1.9e-13), Coefficient(0.75, 0.1, 1.1).written(0.81304)
            (0.0, 0.813)
        """
        if self.low == 0 and abs(value) < _NOTHING * self.high:
            return 0.0
        return float(f"{value:.{digits}g}")


@dataclass(frozen=True)
class Fit:
    """Fitted values, the error on the fitted rows, and which coefficients ended at a bound."""

    values: dict[str, float]
    statistics: ErrorStatistics
    at_bound: tuple[str, ...]


def fit(
    predict: Callable[[Mapping[str, float]], Times],
    measured_s: Times,
    coefficients: Mapping[str, Coefficient],
    weights: Times | float = 1.0,
    pull: float = 0.0,
    tolerance: float = 1e-8,
    varied: Callable[[Mapping[str, float], Mapping[str, float]], Times] | None = None,
) -> Fit:
    """The coefficients with which ``predict`` comes nearest to ``measured_s``; ``weights`` multiply the rows' errors.

    ``pull`` is the error that a coefficient costs when it is a whole range away from its prior: a small one leaves one that no
    row identifies there, and moves no other. ``tolerance``: the search ends when a step lowers the sum by less than this share.
    ``varied``, for predictions that are cheap together: from values and what each changes to, a column of predictions a change.

    Raises:
        MLSysError: SciPy is missing (the ``fit`` extra has it).

    Example:
        >>> x = np.array([1.0, 2.0, 4.0, 8.0])
        >>> found = fit(lambda c: c["a"] * x, 3 * x, {"a": Coefficient(1.0, 0.1, 10.0)})
        >>> round(found.values["a"], 3), found.at_bound
        (3.0, ())
        >>> fit(lambda c: 3 * x + 0 * c["a"], 2 * x, {"a": Coefficient(1.0, 0.1, 10.0)}, pull=0.03).values["a"]
        1.0
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MLSysError("calibration needs SciPy: pip install 'mlsysim-anchors[fit]'") from None
    names = list(coefficients)
    forward = [np.log if coefficients[name].log else float for name in names]
    low, start, high, prior = (
        np.array([change(getattr(coefficients[name], end)) for name, change in zip(names, forward, strict=True)])
        for end in ("low", "start", "high", "pulled_to")
    )

    def unpacked(x: Times) -> dict[str, float]:
        return {name: float(np.exp(v) if coefficients[name].log else v) for name, v in zip(names, x, strict=True)}

    def residuals(x: Times) -> Times:
        missed = weights * np.log(predict(unpacked(x)) / measured_s)
        return np.concatenate([missed, pull * (x - prior) / (high - low)]) if pull else missed

    def slopes(x: Times) -> Times:
        """Of the residuals, by steps towards the middle of the ranges."""
        assert varied is not None
        steps = np.where(x < (low + high) / 2, _STEP, -_STEP) * (high - low)
        columns = varied(unpacked(x), unpacked(x + steps))
        missed = np.broadcast_to(weights, measured_s.shape)[:, None] * np.log(columns / predict(unpacked(x))[:, None]) / steps
        return np.concatenate([missed, np.diag(pull / (high - low))]) if pull else missed

    options = {"loss": "soft_l1", "f_scale": _SCALE, "x_scale": high - low, "ftol": tolerance}
    jacobian = "2-point" if varied is None else slopes
    solution = least_squares(residuals, start, jac=jacobian, bounds=(low, high), **options)
    values = unpacked(solution.x)
    near = np.minimum(solution.x - low, high - solution.x) < _AT_BOUND * (high - low)
    at_bound = tuple(name for name, hit in zip(names, near, strict=True) if hit)
    return Fit(values, ErrorStatistics.of(predict(values), measured_s), at_bound)
