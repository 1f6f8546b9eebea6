"""Training that forgets whom it saw: ``ResponsibleEngineeringModel``, through the library dp-accounting (extra ``privacy``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import one_of, real_number, strict_keywords, whole_number
from mlsysim.core.errors import InconsistentError, InputError, MissingExtraError
from mlsysim.solvers.result import Result

CONVERSIONS = ("classic", "improved")
# The orders at which TensorFlow Privacy's tutorials took the minimum (compute_dp_sgd_privacy.py).
_ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *map(float, range(12, 64)))
_LEAST_NOISE, _MOST_NOISE, _MOST_STEPS, _MOST_EPSILON = 0.2, 1e4, 10**8, 1e4
_BISECTIONS = 30


@dataclass(frozen=True, kw_only=True)
class ResponsibleEngineeringResult(Result):
    """What DP-SGD guarantees.

    Attributes:
        epsilon: the privacy loss that holds but with probability ``delta``.
        noise_multiplier: standard deviation of the noise over the clipping norm.
        steps: optimizer steps.
        sampling_rate: chance that an example is in a batch.
        delta: as stated.
        accountant: what adds up the steps: "rdp", Renyi's divergence.
        conversion: how Renyi's divergence becomes epsilon.
    """

    HEADLINE = ("epsilon", "noise_multiplier", "delta", "steps", "accountant", "conversion")

    epsilon: float
    noise_multiplier: float
    steps: int
    sampling_rate: float
    delta: float
    accountant: str
    conversion: str


class ResponsibleEngineeringModel:
    """Epsilon of DP-SGD by its noise, or the noise that an epsilon needs: Gaussian noise on Poisson-sampled batches.

    Accountants differ by a third on the same run, so that the result names its own and the conversion. The classic conversion
    of Renyi's divergence is epsilon = min over a of rdp(a) + ln(1 / delta) / (a - 1), which figures up to 2020 used; the
    improved one is Canonne, Kamath and Steinke's. What per-example gradients cost in time is not in it.
    Sources: Abadi et al. 2016; Mironov 2017, proposition 3; Mironov, Talwar, Zhang 2019; Canonne et al. 2020.
    """

    @strict_keywords
    def solve(
        self,
        *,
        examples: int,
        batch_size: int,
        noise_multiplier: float | None = None,
        epsilon: float | None = None,
        delta: float = 1e-5,
        epochs: float | None = None,
        steps: int | None = None,
        conversion: str = "improved",
    ) -> ResponsibleEngineeringResult:
        """Account for a run.

        Args:
            examples: of the data set.
            batch_size: mean examples of a batch.
            noise_multiplier: standard deviation of the noise over the clipping norm; in place of ``epsilon``.
            epsilon: the privacy loss to reach; in place of ``noise_multiplier``.
            delta: chance that the loss is larger.
            epochs: passes over the data; in place of ``steps``.
            steps: optimizer steps.
            conversion: "classic" or "improved", of Renyi's divergence to epsilon.

        Raises:
            InputError: a number out of range, or neither or both of noise and epsilon, or of epochs and steps.
            MissingExtraError: the library is not installed.

        Example:
            >>> run = ResponsibleEngineeringModel().solve(
            ...     examples=60000, batch_size=256, noise_multiplier=1.12, epochs=60, conversion="classic"
            ... )  # doctest: +SKIP
            >>> round(run.epsilon, 2)  # doctest: +SKIP
            2.92
        """
        number = whole_number("examples", examples)
        batch = whole_number("batch_size", batch_size)
        if batch > number:
            raise InconsistentError("batch_size", batch, f"at most the {number} examples")
        chance = real_number("delta", delta, 0.0, 0.5, above=True)
        converted = one_of("conversion", conversion, CONVERSIONS)
        if (noise_multiplier is None) == (epsilon is None):
            raise InconsistentError("noise_multiplier", noise_multiplier, "a noise or an epsilon, and not both")
        if (epochs is None) == (steps is None):
            raise InconsistentError("epochs", epochs, "epochs or steps, and not both")
        rate = batch / number
        run_length = _steps(epochs, steps, number, batch)
        noise = (
            None if noise_multiplier is None else real_number("noise_multiplier", noise_multiplier, _LEAST_NOISE, _MOST_NOISE)
        )
        loss = None if epsilon is None else real_number("epsilon", epsilon, 0.0, _MOST_EPSILON, above=True)
        spent = _accountant(converted, rate, run_length, chance)
        if noise is None:
            noise = _noise(spent, loss or 0.0)
        return ResponsibleEngineeringResult(
            solver="ResponsibleEngineeringModel",
            subject=f"DP-SGD of {run_length} steps of {batch} of {number} examples",
            basis="identity",
            binding="noise",
            diagnostics=("an accountant of privacy loss distributions gives some per cent less",),
            epsilon=float(spent(noise)),
            noise_multiplier=noise,
            steps=run_length,
            sampling_rate=rate,
            delta=chance,
            accountant="rdp",
            conversion=converted,
        )


def _steps(epochs: object, steps: object, examples: int, batch: int) -> int:
    if steps is not None:
        return whole_number("steps", steps, maximum=_MOST_STEPS)
    passes = real_number("epochs", epochs, 0.0, above=True)
    count = int(passes * examples / batch) if passes * examples / batch <= _MOST_STEPS else _MOST_STEPS + 1
    if not 1 <= count <= _MOST_STEPS:
        raise InputError("epochs", epochs, f"passes that make 1 to {_MOST_STEPS:.0e} steps")
    return count


def _accountant(conversion: str, rate: float, steps: int, delta: float) -> Callable[[float], float]:
    """Returns what says which epsilon a noise gives."""
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError:
        raise MissingExtraError("ResponsibleEngineeringModel", "dp-accounting", "privacy") from None

    def spent(noise: float) -> float:
        event: Any = dp_accounting.GaussianDpEvent(noise)
        sampled = event if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, event)
        if conversion == "improved":
            return float(rdp.RdpAccountant(_ORDERS).compose(sampled, steps).get_epsilon(delta))
        return min(
            _classic(float(rdp.RdpAccountant([order]).compose(sampled, steps).get_epsilon(delta)), order, delta)
            for order in _ORDERS
        )

    return spent


def _classic(improved: float, order: float, delta: float) -> float:
    """The classic epsilon of one order from the improved one, whose conversion is undone first: rdp + ln(1/delta)/(a - 1).

    Example:
        >>> round(_classic(1.0 + math.log1p(-1 / 5) - math.log(1e-5 * 5) / 4, 5.0, 1e-5) - math.log(1e5) / 4, 12)
        1.0
    """
    divergence = max(0.0, improved - math.log1p(-1 / order) + math.log(delta * order) / (order - 1))
    return divergence - math.log(delta) / (order - 1)


def _noise(spent: Callable[[float], float], epsilon: float) -> float:
    """The least noise with which ``epsilon`` is kept: halving between the logarithms of the ends."""
    low, high = _LEAST_NOISE, _MOST_NOISE
    if spent(high) > epsilon:
        raise InputError("epsilon", epsilon, f"one that a noise of {_MOST_NOISE:g} reaches: at least {spent(high):.3g}")
    if spent(low) <= epsilon:
        return low
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spent(middle) > epsilon else (low, middle)
    return high
