"""Scaling laws of language models: loss, and how to split a compute budget between parameters and tokens.

Sources: Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022; Gadre et al., "Language models scale reliably
with over-training", 2024; Muennighoff et al., "Scaling Data-Constrained Language Models", 2023; Sardana et al., "Beyond
Chinchilla-Optimal: Accounting for Inference in Language Model Scaling Laws", 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlsysim.physics.numeric import Num, exp, sqrt

# Two forward, four backward; an answer takes the forward ones.
TRAINING_FLOP = 6.0
INFERENCE_FLOP = 2.0
# Halvings of a range of parameters: its ends then agree to the last digits.
_HALVINGS = 52


def compute_optimal_parameters(
    budget_flops: Num, tokens_per_parameter: Num = 20.0, flops_per_parameter_token: Num = TRAINING_FLOP
) -> Num:
    """The number of parameters N* = sqrt(C / (6 r)), from C = 6 N D and D = r N; the rule of thumb is r = 20.

    Example:
        >>> round(float(compute_optimal_parameters(5.76e23)) / 1e9, 1)
        69.3
    """
    return sqrt(budget_flops / (flops_per_parameter_token * tokens_per_parameter))


@dataclass(frozen=True, slots=True)
class ParametricLaw:
    """The law L = E + A / N^alpha + B / D^beta of a model of N parameters after D tokens (Hoffmann et al., equation 2).

    Example:
        >>> law = ParametricLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
        >>> round(law.loss(70e9, 1.4e12), 3)
        1.937
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def reducible(self, parameters: Num, tokens: Num) -> Num:
        """What a larger model, or more tokens, could still take off the loss: A / N^alpha + B / D^beta."""
        return self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    def loss(self, parameters: Num, tokens: Num) -> Num:
        """Nats a token after ``tokens``."""
        return self.E + self.reducible(parameters, tokens)

    def optimum(self, budget_flops: float) -> tuple[float, float]:
        """Parameters and tokens of least loss with 6 N D = C: N = G (C/6)^(beta / (alpha + beta)) (equation 4).

        Example:
            >>> N, D = ParametricLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28).optimum(5.76e23)
            >>> round(N / 1e9, 1), round(6 * N * D / 5.76e23, 9)
            (32.2, 1.0)
        """
        both = self.alpha + self.beta
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = scale * (budget_flops / TRAINING_FLOP) ** (self.beta / both)
        return parameters, budget_flops / (TRAINING_FLOP * parameters)

    def tokens_to(self, reducible: float, parameters: float) -> float:
        """Tokens after which no more than ``reducible`` is left of a model's loss: infinite where there always is more.

        Example:
            >>> law = ParametricLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
            >>> round(law.tokens_to(law.reducible(70e9, 1.4e12), 70e9) / 1e12, 6)
            1.4
        """
        left = reducible - self.A * parameters**-self.alpha
        return float((self.B / left) ** (1 / self.beta)) if left > 0 else math.inf

    def budget_to(self, reducible: float) -> float:
        """The least FLOP after which no more than ``reducible`` is left of the loss.

        Along the optima A N^-alpha and B D^-beta stand in the ratio beta : alpha, and their sum falls as
        C^(-alpha beta / (alpha + beta)).

        Example:
            >>> law = ParametricLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
            >>> round(law.budget_to(law.reducible(*law.optimum(1e23))) / 1e23, 9)
            1.0
        """
        return float((self.reducible(*self.optimum(1.0)) / reducible) ** (1 / self.alpha + 1 / self.beta))

    def overtraining(self, parameters: float, tokens: float) -> float:
        """FLOP of a run over the least that reach the same loss: 1 at the optimum, whatever E is.

        Example:
            >>> law = ParametricLaw(E=1.82, A=482.0, B=2085.4, alpha=0.348, beta=0.366)
            >>> round(law.overtraining(*law.optimum(1e22)), 6), round(law.overtraining(8e9, 15e12), 1)
            (1.0, 5.5)
        """
        return TRAINING_FLOP * parameters * tokens / self.budget_to(float(self.reducible(parameters, tokens)))

    def lifetime_optimum(self, reducible: float, inference_tokens: float) -> tuple[float, float]:
        """Parameters and tokens of a loss that make 6 N D + 2 N D_inference least (Sardana et al., equation 3).

        At the least, 6 D (1 - alpha A N^-alpha / (beta B D^-beta)) + 2 D_inference = 0; the left side rises with N.

        Example:
            >>> law = ParametricLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
            >>> left = law.reducible(*law.optimum(1e23))
            >>> round(law.lifetime_optimum(left, 0.0)[0] / law.optimum(1e23)[0], 6)
            1.0
            >>> law.lifetime_optimum(left, 1e13)[0] < law.lifetime_optimum(left, 1e12)[0]
            True
        """
        # Without any answers the model is as large as for training alone; no tokens bring a smaller one than `least` there.
        most, _ = self.optimum(self.budget_to(reducible))
        least = (self.A / reducible) ** (1 / self.alpha)
        low, high = math.log(least), math.log(most)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            of_parameters = self.A * math.exp(-self.alpha * middle)
            of_tokens = reducible - of_parameters
            if of_tokens <= 0:
                low = middle
                continue
            tokens = (self.B / of_tokens) ** (1 / self.beta)
            slope = 1 - self.alpha * of_parameters / (self.beta * of_tokens)
            low, high = (
                (middle, high) if TRAINING_FLOP * tokens * slope + INFERENCE_FLOP * inference_tokens < 0 else (low, middle)
            )
        parameters = math.exp(high)
        return parameters, self.tokens_to(reducible, parameters)


@dataclass(frozen=True, slots=True)
class OvertrainingLaw:
    """The law L = E + (a M^h + b M^-h) C^-k of a run of C = 6 N D FLOP at M = D / N tokens a parameter (Gadre et al., eq. 4).

    ``a`` and ``b`` are of C in units of 1e18 FLOP and of M in units of 20.

    Example:
        >>> law = OvertrainingLaw(E=1.5, a=1.0, b=1.0, h=0.16, k=0.12)
        >>> round(law.loss(1e9, 20e9), 3)
        2.626
    """

    E: float
    a: float
    b: float
    h: float
    k: float

    def loss(self, parameters: Num, tokens: Num) -> Num:
        """Nats a token after ``tokens``."""
        ratio = tokens / parameters / 20.0
        compute = TRAINING_FLOP * parameters * tokens / 1e18
        return self.E + (self.a * ratio**self.h + self.b * ratio**-self.h) * compute**-self.k


def compute_law_loss(budget_flops: Num, E: Num, scale_flops: Num, exponent: Num) -> Num:
    """Loss of compute-optimal models, L = E + (C / C0)^-a (Dey et al., "Cerebras-GPT", 2023).

    Example:
        >>> round(float(compute_law_loss(2.3e22, 0.5066, 5.984e22, 0.0737)), 3)
        1.58
    """
    return E + (budget_flops / scale_flops) ** -exponent


def effective_amount(unique: Num, total: Num, half_life: Num) -> Num:
    """What an amount that repeats is worth in new ones: U + U R* (1 - exp(-R / R*)), R repeats beyond the first (Muennighoff).

    Of tokens, U are the unique ones and R* is R_D*; of parameters, U are as many as the unique tokens are optimal for.

    Example:
        >>> round(effective_amount(1e9, 4e9, 15.39) / 1e9, 2), round(effective_amount(1e9, 1e9, 15.39) / 1e9, 2)
        (3.73, 1.0)
    """
    repeats = total / unique - 1
    return unique + unique * half_life * (1 - exp(-repeats / half_life))
