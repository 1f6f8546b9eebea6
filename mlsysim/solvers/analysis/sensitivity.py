"""What an answer hangs on: ``SensitivitySolver``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlsysim.core.errors import MLSysError
from mlsysim.core.units import time_power
from mlsysim.solvers.analysis.levers import RATES, Question, metric_of, plain_value, solver_called, specs
from mlsysim.solvers.result import Result

# Half of the step in the logarithm of a rate: the difference is exact to its square, and a float has digits enough.
_STEP = 1e-3
_KINK = 0.05


@dataclass(frozen=True, kw_only=True)
class SensitivityResult(Result):
    """By how many per cent an answer changes for one per cent of each rate.

    Attributes:
        metric: the field that is asked about.
        elasticities: d ln(metric) / d ln(rate) of each rate of the machine: below 0 where a faster one shortens a time.
        fixed: the share that no rate of the datasheet changes: overheads of the stack, launches, latencies; None of what is
            neither a time nor a rate.
        answer: the solver's own result.
    """

    HEADLINE = ("metric", "elasticities", "fixed")

    metric: str
    elasticities: dict[str, float]
    fixed: float | None
    answer: Result


class SensitivitySolver:
    """Elasticities of a solver's answer, by differences on both sides, all variants in one call of the solver.

    A time is homogeneous: where every rate doubles and every overhead halves, it halves. So the elasticities of all rates of a
    time sum to -1 and those of its overheads to what is missing there, which is ``fixed``.
    """

    def solve(self, solver: object, *inputs: object, metric: str | None = None, **arguments: Any) -> SensitivityResult:
        """Ask a solver about its machine and about the same machine with each rate a little changed.

        Args:
            solver: a solver, or the name of one ("ServingModel", "DistributedModel", "SingleNodeModel", ...).
            *inputs: its workload and its machine.
            metric: the field to ask about; by default the result's main one.
            **arguments: the solver's own.

        Raises:
            InputError: as the solver raises; or no such solver or field.
            InfeasibleError: the deployment cannot run: there is nothing to be faster.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> inputs = (Models.Language.Llama3_8B, Hardware.Cloud.H100)
            >>> found = SensitivitySolver().solve("ServingModel", *inputs, input_len=1024)
            >>> {name: round(value, 3) for name, value in found.elasticities.items() if abs(value) > 1e-6}, found.binding
            ({'memory bandwidth': -1.0}, 'memory bandwidth')
        """
        question = Question(solver_called(solver), specs(inputs), arguments)
        answer = question.answer().require_feasible()
        field = metric_of(answer, metric)
        rates = [rate for rate in RATES if question.value(rate) is not None]
        factors = (math.exp(_STEP), math.exp(-_STEP))
        varied = question.answers([question.scaled(rate, factor) for rate in rates for factor in factors])
        values = [plain_value(_sound(result), field) for result in varied]
        now = plain_value(answer, field)
        elasticities, bent = {}, []
        for place, rate in enumerate(rates):
            up, down = values[2 * place : 2 * place + 2]
            elasticities[rate] = math.log(up / down) / (2 * _STEP) + 0.0 if up != down else 0.0
            sides = (math.log(up / now) / _STEP, math.log(now / down) / _STEP)
            if abs(sides[0] - sides[1]) > _KINK:
                bent.append(f"{rate} is at a balance: {sides[0]:+.2f} with more, {sides[1]:+.2f} with less of it")
        power = time_power(getattr(answer, field))
        fixed = 1 + power * sum(elasticities.values()) if abs(power) == 1 else None
        largest = max(elasticities, key=lambda rate: abs(elasticities[rate]))
        rests = fixed is not None and fixed > abs(elasticities[largest])
        return SensitivityResult(
            solver="SensitivitySolver",
            subject=f"{field.replace('_', ' ')} of {answer.subject}",
            basis=answer.basis,
            binding="what no rate changes" if rests else largest,
            diagnostics=tuple(bent),
            coefficients=answer.coefficients,
            metric=field,
            elasticities=elasticities,
            fixed=None if fixed is None else max(0.0, fixed),
            answer=answer,
        )


def _sound(result: Result | MLSysError) -> Result:
    if isinstance(result, MLSysError):
        raise result
    return result
