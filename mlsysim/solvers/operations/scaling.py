"""Spending of a training budget, and the loss that it buys: ``ScalingModel``."""

from __future__ import annotations

from dataclasses import dataclass

from mlsysim.calibration.intervals import LEVEL
from mlsysim.calibration.operations.scaling_laws import DataSetLaw, Law, Spread, data_set_law, repeats_half_life, scaling_law
from mlsysim.core.checks import needed, positive_quantity, real_number, strict_keywords
from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.physics.operations.scaling import (
    INFERENCE_FLOP,
    TRAINING_FLOP,
    ParametricLaw,
    compute_optimal_parameters,
    effective_amount,
)
from mlsysim.solvers.interval import Interval
from mlsysim.solvers.result import Result

FLOPS_PER_PARAMETER_TOKEN = TRAINING_FLOP
RULE = "20 tokens a parameter"


@dataclass(frozen=True, kw_only=True)
class ScalingResult(Result):
    """A compute-optimal model, and what is asked of a run beside it. Tokens are those of training unless they say otherwise.

    Attributes:
        optimal_parameters: of the compute-optimal model; of the one that takes least over its life where it is to give answers.
        optimal_tokens: its tokens.
        compute_budget: FLOP that are spent on training.
        law: the law that splits the budget.
        tokens_per_parameter: of the run where one was given, else of the optimum.
        parameters, tokens: of the run where one was given.
        overtraining: FLOP of the run over the least that reach the same loss.
        dataset: what it was trained on and what the loss is measured on.
        loss: nats a token, of the run where one was given, else of the optimum.
        effective_tokens: what the run's tokens are worth in tokens that do not repeat.
        lifetime_compute: FLOP of the training and of all answers of the optimum.
        lifetime_saving: share of these that the optimum saves beside the compute-optimal model of the same loss.
    """

    HEADLINE = (
        *("optimal_parameters", "optimal_tokens", "compute_budget", "loss", "overtraining"),
        *("effective_tokens", "lifetime_compute", "lifetime_saving"),
    )
    INTERVAL_OF = "loss"

    optimal_parameters: Quantity
    optimal_tokens: Quantity
    compute_budget: Quantity
    law: str = RULE
    tokens_per_parameter: float = 0.0
    parameters: Quantity | None = None
    tokens: Quantity | None = None
    overtraining: float | None = None
    dataset: str = ""
    loss: float | None = None
    effective_tokens: Quantity | None = None
    lifetime_compute: Quantity | None = None
    lifetime_saving: float | None = None
    spread: Spread | None = None

    def interval_of(self, name: str) -> Interval | None:
        """Where nine in ten measurements of the loss are expected, wider beyond what the law was fitted to; else None."""
        if name != "loss" or self.loss is None or self.spread is None:
            return super().interval_of(name)
        known = self.spread
        scope = f"losses on {self.dataset}"
        if known.times > 1:
            scope = f"no runs of this size on {self.dataset} ({known.times:.3g} times beyond the fitted ones)"
        low, high = self.loss / (1 + known.p90), self.loss * (1 + known.p90)
        return Interval(low, high, LEVEL, scope, known.runs, known.median, known.p90, "")


class ScalingModel:
    """Compute-optimal parameters and tokens of a budget, and the loss of runs on data sets that were measured.

    Without a ``law`` the split is Chinchilla's rule of thumb: C = 6 N D with D = 20 N, within about 10 % of the fits of
    Hoffmann et al. 2022 from 1e19 to 1e25 FLOP. The laws disagree above 1e24 FLOP by up to three times in parameters: never
    mix them. A loss is answered for a named data set alone, because its level belongs to the data and the tokenizer.
    """

    @strict_keywords
    def solve(
        self,
        *,
        compute_budget: Quantity | str | None = None,
        tokens_per_parameter: float = 20.0,
        law: str | None = None,
        parameters: Quantity | str | None = None,
        tokens: Quantity | str | None = None,
        dataset: str | None = None,
        measured_on: str | None = None,
        unique_tokens: Quantity | str | None = None,
        inference_tokens: Quantity | str | None = None,
    ) -> ScalingResult:
        """The optimum of a budget, or of the budget of a run.

        Args:
            compute_budget: FLOP of training. Beside a run: those that were really spent, where 6 N D is not what was counted.
            tokens_per_parameter: of the rule of thumb, where no ``law`` is named.
            law: "chinchilla-1", "chinchilla-2" or "chinchilla-3" (Hoffmann's three approaches as their tables print them),
                "hoffmann" or "besiroglu" (parametric), or "llama-3".
            parameters: of a run, as "8e9 count"; needs ``tokens``.
            tokens: of a run.
            dataset: what the model is trained on, for its loss: "C4", "RedPajama", "RefinedWeb", "Pile" or "MassiveText".
            measured_on: what its loss is measured on; by default the first that is known.
            unique_tokens: of the run's tokens, those that do not repeat.
            inference_tokens: tokens of all answers over the model's life; needs a parametric law.

        Returns:
            The optimum, and the run beside it.

        Raises:
            UnitError: the budget is not in FLOP, or a count in something else.
            InputError: an argument is out of range, or the budget is too small for one parameter.
            InconsistentError: arguments contradict each other, or a law cannot answer.
            UnknownNameError: no such law or data set; the message has near names.

        Example:
            >>> best = ScalingModel().solve(compute_budget="5.76e23 flop")
            >>> f"{best.optimal_parameters.to('Gcount').magnitude:.1f}, {best.optimal_tokens.to('Tcount').magnitude:.2f}"
            '69.3, 1.39'
            >>> run = ScalingModel().solve(parameters="1e9 count", tokens="100e9 count", dataset="RedPajama", law="besiroglu")
            >>> f"{run.loss:.1f}, {run.overtraining:.1f}"
            '2.6, 1.2'
        """
        run = _run(parameters, tokens)
        spent = None if compute_budget is None else positive_quantity("compute_budget", compute_budget, "flop")
        of_run = None if run is None else TRAINING_FLOP * run[0] * run[1]
        budget = needed("compute_budget", spent or of_run, "FLOP, or a run's parameters and tokens")
        chosen = None if law is None else scaling_law(law)
        ratio = real_number("tokens_per_parameter", tokens_per_parameter, 0.0, above=True)
        best = (chosen.split if chosen else _Rule(ratio)).optimum(budget)
        if min(best) < 1 if chosen else best[0] < 1:
            least = f"at least {FLOPS_PER_PARAMETER_TOKEN * ratio:g} flop" if chosen is None else "more"
            raise InputError("compute_budget", compute_budget, f"{least}: one parameter")
        answers = 0.0 if inference_tokens is None else positive_quantity("inference_tokens", inference_tokens, "count")
        notes: list[str] = []
        lifetime, saving = None, None
        if answers:
            best, lifetime, saving = _over_life(chosen, run or best, answers)
        parametric = chosen.split if chosen is not None and isinstance(chosen.split, ParametricLaw) else None
        effective = _effective(run, unique_tokens, notes)
        of_data = _data_law(dataset, measured_on, parametric, effective)
        asked = (run[0], effective or run[1]) if run else best
        known = of_data if of_data is None else of_data.spread(*asked)
        if of_data is not None:
            notes.append(f"the law of loss counts {of_data.counts} ({of_data.source})")
        return ScalingResult(
            solver="ScalingModel",
            subject=_subject(run, budget, ratio, chosen),
            basis="law",
            binding="compute budget",
            diagnostics=tuple(notes),
            coefficients=(*(chosen.fitted if chosen else ()), *(of_data.fitted if of_data else ())),
            optimal_parameters=with_unit(best[0], "count"),
            optimal_tokens=with_unit(best[1], "count"),
            compute_budget=with_unit(budget, "flop"),
            law=f"{ratio:g} tokens a parameter" if chosen is None else chosen.name,
            tokens_per_parameter=run[1] / run[0] if run else best[1] / best[0],
            parameters=with_unit(run[0], "count") if run else None,
            tokens=with_unit(run[1], "count") if run else None,
            overtraining=parametric.overtraining(*run) if parametric and run else None,
            dataset="" if of_data is None else of_data.called,
            loss=None if of_data is None else of_data.loss(*asked, budget),
            effective_tokens=None if effective is None else with_unit(effective, "count"),
            lifetime_compute=None if lifetime is None else with_unit(lifetime, "flop"),
            lifetime_saving=saving,
            spread=known,
        )


@dataclass(frozen=True, slots=True)
class _Rule:
    """The rule of thumb: so many tokens a parameter at every budget."""

    ratio: float

    def optimum(self, budget_flops: float) -> tuple[float, float]:
        """Parameters and tokens with 6 N D = C."""
        parameters = float(compute_optimal_parameters(budget_flops, self.ratio, FLOPS_PER_PARAMETER_TOKEN))
        return parameters, self.ratio * parameters


def _run(parameters: Quantity | str | None, tokens: Quantity | str | None) -> tuple[float, float] | None:
    """Parameters and tokens of the run that is asked about, or None."""
    if parameters is None and tokens is None:
        return None
    for name, value in (("parameters", parameters), ("tokens", tokens)):
        needed(name, value, "a count beside the other: a run has parameters and tokens")
    size, length = positive_quantity("parameters", parameters, "count"), positive_quantity("tokens", tokens, "count")
    for name, value, number in (("parameters", parameters, size), ("tokens", tokens, length)):
        if number < 1:
            raise InputError(name, value, "at least 1 count")
    return size, length


def _over_life(chosen: Law | None, run: tuple[float, float], answers: float) -> tuple[tuple[float, float], float, float]:
    """The model that takes least over its life for the loss of ``run``, its FLOP, and the share that it saves."""
    law = None if chosen is None else chosen.split
    if not isinstance(law, ParametricLaw):
        expected = 'a parametric law beside inference_tokens: "hoffmann" or "besiroglu"'
        raise InconsistentError("law", None if chosen is None else chosen.name, expected)
    left = float(law.reducible(*run))
    best = law.lifetime_optimum(left, answers)
    usual = law.optimum(law.budget_to(left))
    least, beside = ((TRAINING_FLOP * size * length + INFERENCE_FLOP * size * answers) for size, length in (best, usual))
    return best, least, max(0.0, 1 - least / beside)


def _effective(run: tuple[float, float] | None, unique_tokens: Quantity | str | None, notes: list[str]) -> float | None:
    """What the run's tokens are worth in new ones; None where none repeat."""
    if unique_tokens is None:
        return None
    unique = positive_quantity("unique_tokens", unique_tokens, "count")
    if run is None:
        raise InconsistentError(
            "unique_tokens", unique_tokens, "parameters and tokens beside it: those of the run that repeats"
        )
    if unique < 1:
        raise InputError("unique_tokens", unique_tokens, "at least 1 count")
    if unique >= run[1]:
        return run[1]
    half_life, source = repeats_half_life()
    notes.append(f"repeated tokens count for less by {source}")
    return float(effective_amount(unique, run[1], half_life))


def _data_law(
    dataset: str | None, measured_on: str | None, parametric: ParametricLaw | None, effective: float | None
) -> DataSetLaw | None:
    """The law of the loss on the data set that was named; of several that are known, the one that splits the budget."""
    if dataset is None:
        if measured_on is not None:
            raise InconsistentError("measured_on", measured_on, "a dataset beside it")
        return None
    law = data_set_law(dataset, measured_on).by(parametric)
    if effective is not None and law.form is None:
        raise InconsistentError("unique_tokens", effective, f"nothing on {law.trained_on}: its law of loss knows compute alone")
    return law


def _subject(run: tuple[float, float] | None, budget: float, ratio: float, chosen: Law | None) -> str:
    split = f"at {ratio:g} tokens a parameter" if chosen is None else f"by the law {chosen.name}"
    if run is None:
        return f"a budget of {budget:.4g} FLOP {split}"
    return f"{run[0] / 1e9:.4g} G parameters trained on {run[1] / 1e9:.4g} G tokens, {split}"
