"""What it would take: ``SynthesisSolver``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import one_of, real_number
from mlsysim.core.errors import InfeasibleError, InputError, MLSysError
from mlsysim.core.units import Quantity, magnitude, time_power, with_unit
from mlsysim.solvers.analysis.levers import (
    COUNT,
    LEVERS,
    MEMORY,
    Question,
    metric_of,
    plain_value,
    solver_called,
    specs,
)
from mlsysim.solvers.result import Result
from mlsysim.solvers.shown import shown

# How much more or less of a lever is looked at, as a factor, and how finely.
_MOST, _BISECTIONS = 1e4, 60
_CLOSE = 1e-9
_MOST_NODES_TRIED = 400


@dataclass(frozen=True, kw_only=True)
class SynthesisResult(Result):
    """The least of a lever with which a limit holds.

    Attributes:
        lever: what was varied.
        needed: how much of it the limit needs.
        now: how much of it there is.
        factor: the one over the other.
        metric: the field that has the limit; "" where the deployment has to fit.
        reached: what that field is then, by solving again.
        limit: the limit.
        answer: the solver's result with what is needed.
    """

    HEADLINE = ("needed", "now", "factor", "reached", "limit")

    lever: str
    needed: Quantity
    now: Quantity
    factor: float
    metric: str
    reached: Quantity | float | None
    limit: Quantity | float | None
    answer: Result


class SynthesisSolver:
    """The rate, the memory or the number of nodes that a limit needs: halving on a solver that more of it never makes worse.

    The answer is solved forward once more, so that what it says is what the solver says.
    """

    def solve(
        self, solver: object, *inputs: object, lever: str, metric: str | None = None, limit: object = None, **arguments: Any
    ) -> SynthesisResult:
        """Find how much of a lever it takes.

        Args:
            solver: a solver, or the name of one ("ServingModel", "DistributedModel", "SingleNodeModel", ...).
            *inputs: its workload and its machine.
            lever: "arithmetic", "memory bandwidth", "links", "network", "host link", "memory capacity" or "nodes".
            metric: the field that is limited; by default the result's main one.
            limit: the most of a time, the least of a rate or a share; left out with "memory capacity", which is to fit.
            **arguments: the solver's own.

        Raises:
            InputError: as the solver raises; or no such lever, field or limit.
            InfeasibleError: no amount of the lever is enough; the message says what remains.

        Example:
            >>> from mlsysim import Hardware, Models
            >>> inputs = (Models.Language.Llama3_8B, Hardware.Cloud.H100)
            >>> found = SynthesisSolver().solve(
            ...     "ServingModel", *inputs, lever="memory bandwidth", limit="2.5 ms", input_len=1024
            ... )
            >>> f"{found.needed.m_as('TB/s'):.2f} TB/s for {found.reached.m_as('ms'):.3f} ms"
            '6.06 TB/s for 2.500 ms'
        """
        varied = one_of("lever", lever, LEVERS)
        question = Question(solver_called(solver), specs(inputs), arguments)
        now = question.value(varied)
        if now is None:
            raise InputError("lever", lever, f"one that the machine has: it lists no {varied}")
        first = question.answer()
        if limit is None and (varied != MEMORY or metric is not None):
            raise InputError("limit", None, "the most of a time, or the least of a rate or a share")
        field = "" if limit is None else metric_of(first, metric)
        wanted = _Limit(first, field, limit)
        factor = _nodes(question, wanted, now) if varied == COUNT else _least(question, wanted, varied)
        answer: Result = question.solver.solve(*question.scaled(varied, factor), **question.arguments)
        return SynthesisResult(
            solver="SynthesisSolver",
            subject=f"{varied} for {wanted} of {first.subject}",
            basis="identity" if answer.basis == "bound" else answer.basis,
            binding=varied,
            diagnostics=_notes(factor, now, answer),
            coefficients=answer.coefficients,
            lever=varied,
            needed=with_unit(float(now.magnitude) * factor, str(now.units)),
            now=now,
            factor=factor,
            metric=field,
            reached=getattr(answer, field) if field else None,
            limit=wanted.shown,
            answer=answer,
        )


class _Limit:
    """A limit on a field, or that a deployment fits."""

    def __init__(self, result: Result, field: str, limit: object) -> None:
        self.field = field
        self.shown: Quantity | float | None = None
        if not field:
            return
        value = getattr(result, field)
        power = time_power(getattr(result, field))
        self.at_most = power == 1
        if isinstance(value, (int, float)):
            self.limit: float = real_number("limit", limit, 0.0, above=True)
            self.shown = self.limit
        else:
            unit = str(value.units)
            self.limit = magnitude("limit", limit, unit)
            if self.limit <= 0:
                raise InputError("limit", limit, f"a quantity > 0 {unit}")
            self.shown = with_unit(self.limit, unit)

    def holds(self, result: Result | MLSysError) -> bool:
        """Whether a deployment runs and keeps the limit."""
        if isinstance(result, MLSysError) or not result.feasible:
            return False
        if not self.field:
            return True
        value = plain_value(result, self.field)
        return value <= self.limit * (1 + _CLOSE) if self.at_most else value >= self.limit * (1 - _CLOSE)

    def __str__(self) -> str:
        if not self.field:
            return "a fit"
        return f"{self.field.replace('_', ' ')} {'<=' if self.at_most else '>='} {shown(self.shown)}"


def _notes(factor: float, now: Quantity, answer: Result) -> tuple[str, ...]:
    enough = () if factor > 1 else (f"what there is would do: {shown(now)}",)
    return (*enough, *(("of the bound: a real run needs more",) if answer.basis == "bound" else ()))


def _least(question: Question, wanted: _Limit, lever: str) -> float:
    """The least factor with which the limit holds: halving between the logarithms of what fails and what does."""
    least, most = question.answers([question.scaled(lever, factor) for factor in (1 / _MOST, _MOST)])
    if isinstance(most, MLSysError):
        raise most
    if not wanted.holds(most):
        at_best = f"{wanted.field} is {shown(getattr(most, wanted.field))} then" if most.feasible else most.reason
        raise InfeasibleError(f"{wanted}: {_MOST:g} times the {lever} is not enough: {at_best}, {most.binding} binds")
    if wanted.holds(least):
        return 1 / _MOST
    low, high = 1 / _MOST, _MOST
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        (answer,) = question.answers([question.scaled(lever, middle)])
        low, high = (low, middle) if wanted.holds(answer) else (middle, high)
        if high / low < 1 + _CLOSE:
            break
    return high


def _nodes(question: Question, wanted: _Limit, now: Quantity) -> float:
    """The fewest nodes with which the limit holds, of those that the plan divides."""
    count = float(now.magnitude)
    most = 1
    while most < _MOST_NODES_TRIED and not wanted.holds(_answer(question, most / count)):
        most *= 2
    for nodes in range(most // 2 + 1, min(most, _MOST_NODES_TRIED) + 1):
        if wanted.holds(_answer(question, nodes / count)):
            return nodes / count
    raise InfeasibleError(f"{wanted}: no number of nodes up to {_MOST_NODES_TRIED} that the plan divides is enough")


def _answer(question: Question, factor: float) -> Result | MLSysError:
    try:
        (answer,) = question.answers([question.scaled(COUNT, factor)])
    except MLSysError as error:
        return error
    return answer
