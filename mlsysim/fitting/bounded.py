"""Fits of a few bounded coefficients to measured figures.

The error is the logarithm of predicted over measured, so that a microsecond and a second count alike, with a soft L1
loss, so that single bad measurements do not pull. A coefficient that ends at its bound names missing physics: the fit
reports it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from mlsysim.core.errors import MLSysError
from mlsysim.validation.kernels.errors import Times

K = TypeVar("K", bound=Hashable)
_THREADS = "OPENBLAS_NUM_THREADS"
_AT_BOUND = 1e-3  # of the range
_SCALE = 0.05  # residuals beyond 5 % count linearly
_STEP = 1e-7  # of a range: between rounding and curvature
_NOTHING = 1e-6  # of the upper bound: what is nearer to a lower bound of 0 is 0
_INSIDE = 1e-4  # of the range: a search has to begin this far off the bounds


@dataclass(frozen=True)
class Coefficient:
    """A coefficient to fit: where to start, and the physically meaningful range.

    Attributes:
        start: where the search begins.
        low, high: the ends of the range.
        log: its logarithm is fitted, as of those that range over decades.
        prior: where it is pulled to (None: to its start).
        stiffness: how many times as strongly as others it is pulled there.
    """

    start: float
    low: float
    high: float
    log: bool = False
    prior: float | None = None
    stiffness: float = 1.0

    @property
    def pulled_to(self) -> float:
        """The prior, within the range.

        Example:
            >>> Coefficient(0.9, 0.4, 1.2, prior=1.5).pulled_to, Coefficient(0.9, 0.4, 1.2).pulled_to
            (1.2, 0.9)
        """
        return self.start if self.prior is None else min(max(self.prior, self.low), self.high)

    def begun_at(self, value: float | None) -> Coefficient:
        """Give the coefficient a search that begins at ``value``, off the bounds; it is pulled where it was before.

        Example:
            >>> Coefficient(0.9, 0.0, 1.0).begun_at(1.0)
            Coefficient(start=0.9999, low=0.0, high=1.0, log=False, prior=0.9, stiffness=1.0)
        """
        if value is None:
            return self
        edge = _INSIDE * (self.high - self.low)
        inside = min(max(float(value), 1.1 * self.low if self.log else self.low + edge), self.high - edge)
        return replace(self, start=inside, prior=self.pulled_to)

    def written(self, value: float, digits: int = 4) -> float:
        """A value as a TOML keeps it: what changes beyond ``digits`` with the version of SciPy is noise.

        Example:
            >>> Coefficient(120.0, 0.0, 2000.0).written(1.9e-13), Coefficient(0.75, 0.1, 1.1).written(0.81304)
            (0.0, 0.813)
        """
        if self.low == 0 and abs(value) < _NOTHING * self.high:
            return 0.0
        return float(f"{value:.{digits}g}")


@dataclass(frozen=True)
class Fit(Generic[K]):
    """The outcome of a search.

    Attributes:
        values: the fitted coefficients.
        at_bound: those that ended at an end of their range.
        cost: the sum of the errors, and of what the pull to the priors costs.
    """

    values: dict[K, float]
    at_bound: tuple[K, ...]
    cost: float


def fit(
    predict: Callable[[Mapping[K, float]], Times],
    measured: Times,
    coefficients: Mapping[K, Coefficient],
    weights: Times | float = 1.0,
    pull: float = 0.0,
    tolerance: float = 1e-8,
    varied: Callable[[Mapping[K, float], Mapping[K, float]], Times] | None = None,
) -> Fit[K]:
    """Finds the coefficients with which ``predict`` comes nearest to ``measured``.

    Args:
        predict: figures from values of all coefficients.
        measured: the figures that were measured, all above 0.
        coefficients: what is fitted, within which range.
        weights: what the errors of the rows are multiplied by.
        pull: the error that a coefficient costs when it is a whole range away from its prior: a small one leaves one that no
            row identifies there, and moves no other.
        tolerance: the search ends when a step lowers the sum of the errors by less than this share.
        varied: predictions with all values but for one, from the values and what each changes to: a column a change.

    Returns:
        The values, which of them ended at a bound, and the sum of the errors.

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
    least_squares = _solver()
    names = list(coefficients)
    forward = [np.log if coefficients[name].log else float for name in names]
    low, start, high, prior = (
        np.array([change(getattr(coefficients[name], end)) for name, change in zip(names, forward, strict=True)])
        for end in ("low", "start", "high", "pulled_to")
    )

    pulls = pull * np.array([coefficients[name].stiffness for name in names])

    def unpacked(x: Times) -> dict[K, float]:
        return {name: float(np.exp(v) if coefficients[name].log else v) for name, v in zip(names, x, strict=True)}

    def residuals(x: Times) -> Times:
        missed = weights * np.log(predict(unpacked(x)) / measured)
        return np.concatenate([missed, pulls * (x - prior) / (high - low)]) if pull else missed

    def slopes(x: Times) -> Times:
        """How the residuals move, by steps towards the middle of the ranges."""
        steps = np.where(x < (low + high) / 2, _STEP, -_STEP) * (high - low)
        values, changed = unpacked(x), unpacked(x + steps)
        if varied is None:
            columns = np.stack([predict({**values, name: changed[name]}) for name in names], axis=-1)
        else:
            columns = varied(values, changed)
        missed = np.broadcast_to(weights, measured.shape)[:, None] * np.log(columns / predict(values)[:, None]) / steps
        return np.concatenate([missed, np.diag(pulls / (high - low))]) if pull else missed

    options = {"loss": "soft_l1", "f_scale": _SCALE, "x_scale": high - low, "ftol": tolerance}
    solution = least_squares(residuals, start, jac=slopes, bounds=(low, high), **options)
    near = np.minimum(solution.x - low, high - solution.x) < _AT_BOUND * (high - low)
    at_bound = tuple(name for name, hit in zip(names, near, strict=True) if hit)
    return Fit(unpacked(solution.x), at_bound, float(solution.cost))


def _solver() -> Callable[..., Any]:
    """SciPy's least squares, whose linear algebra computes on one thread unless the environment says otherwise.

    For a fit of a hundred coefficients its threads wait for each other seventy times as long as one of them computes. The
    library reads the variable when it is loaded, which is here.
    """
    limited = _THREADS not in os.environ
    if limited:
        os.environ[_THREADS] = "1"
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MLSysError("fits need SciPy: pip install 'mlsysim-anchors[fit]'") from None
    finally:
        if limited:
            del os.environ[_THREADS]
    return least_squares  # type: ignore[no-any-return]
