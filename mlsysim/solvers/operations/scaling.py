"""Spending of a training budget: ``ScalingModel``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlsysim.core.checks import positive_quantity, real_number, strict_keywords
from mlsysim.core.errors import InputError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.physics.operations.scaling import compute_optimal_parameters
from mlsysim.solvers.result import Result

FLOPS_PER_PARAMETER_TOKEN = 6.0  # two forward, four backward


@dataclass(frozen=True, kw_only=True)
class ScalingResult(Result):
    """The compute-optimal model. ``optimal_tokens`` counts training tokens."""

    HEADLINE: ClassVar[tuple[str, ...]] = ("optimal_parameters", "optimal_tokens", "compute_budget")

    optimal_parameters: Quantity
    optimal_tokens: Quantity
    compute_budget: Quantity


class ScalingModel:
    """Compute-optimal parameters and tokens for a budget, by Chinchilla's rule of thumb.

    Source: Hoffmann et al. 2022; C = 6 N D with D = 20 N. Within about 10 % of their fits from 1e19 to 1e25 FLOP.
    """

    @strict_keywords
    def solve(self, *, compute_budget: Quantity | str, tokens_per_parameter: float = 20.0) -> ScalingResult:
        """The optimum of ``compute_budget`` (FLOP).

        Raises:
            UnitError: the budget is not in FLOP.
            InputError: it is not positive, or too small for one parameter.

        Example:
            >>> best = ScalingModel().solve(compute_budget="5.76e23 flop")
            >>> f"{best.optimal_parameters.to('Gcount').magnitude:.1f}, {best.optimal_tokens.to('Tcount').magnitude:.2f}"
            '69.3, 1.39'
        """
        budget = positive_quantity("compute_budget", compute_budget, "flop")
        ratio = real_number("tokens_per_parameter", tokens_per_parameter, 0.0, above=True)
        parameters = float(compute_optimal_parameters(budget, ratio, FLOPS_PER_PARAMETER_TOKEN))
        if parameters < 1:
            least = FLOPS_PER_PARAMETER_TOKEN * ratio
            raise InputError("compute_budget", compute_budget, f"at least {least:g} flop: one parameter")
        return ScalingResult(
            solver="ScalingModel",
            subject=f"a budget of {budget:.4g} FLOP at {ratio:g} tokens a parameter",
            basis="law",
            binding="compute budget",
            breakdown={},
            optimal_parameters=with_unit(parameters, "count"),
            optimal_tokens=with_unit(ratio * parameters, "count"),
            compute_budget=with_unit(budget, "flop"),
        )
