"""Solves the cases of a source together: a table of hundreds of runs takes a few calls of the physics, not thousands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlsysim.core.errors import MLSysError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.solvers.serving.together import serve_together
from mlsysim.solvers.training.together import train_together
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import Call

# From a case to what is asked of its solver: as the case states it, on faster hardware, or without a stack.
Question = Callable[[Anchor], Call]
_TOGETHER: Mapping[str, Callable[[Sequence[Any]], Sequence[Any]]] = {
    "DistributedModel": train_together,
    "ServingModel": serve_together,
}


def solved(anchor: Anchor, question: Question) -> Any:
    """The solver's result for a case, found at most once a process.

    A run of a table is solved with all other runs of its table.

    Raises:
        DataError: the solver refuses the case's inputs.
    """
    if anchor.case.run and anchor.source.solver in _TOGETHER:
        answer = _solved_table(anchor.siblings, question)[anchor]
    else:
        answer = _solved_alone(anchor, question)
    if isinstance(answer, MLSysError):
        raise anchor.error(answer) from answer
    return answer


@identity_cache(2**16)
def _solved_alone(anchor: Anchor, question: Question) -> Any:
    try:
        return question(anchor).result()
    except MLSysError as error:
        return error


@identity_cache()
def _solved_table(siblings: Sequence[Anchor], question: Question) -> dict[Anchor, Any]:
    """The answers to the runs among the cases of a source; an error where the solver refuses a run."""
    runs = [anchor for anchor in siblings if anchor.case.run]
    calls = [question(anchor) for anchor in runs]
    answers = _TOGETHER[runs[0].source.solver]([(call.inputs, call.keywords) for call in calls])
    return dict(zip(runs, answers, strict=True))
