"""Many serving questions answered at once: those of one engine on one accelerator at one set of formats share their passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlsysim.core.errors import MLSysError
from mlsysim.core.spec import Spec
from mlsysim.lowering.prefix_cache import PrefixedDeployment
from mlsysim.physics.records import stacked, unstacked
from mlsysim.physics.serving.schedule import EnginePasses, Passes, Served
from mlsysim.solvers.serving.replica import ServingReplica, scheduled
from mlsysim.solvers.serving.serving import ServingResult, checked_question, serving_result


def serve_together(questions: Sequence[tuple[Sequence[Spec], Mapping[str, Any]]]) -> list[ServingResult | MLSysError]:
    """What ``ServingModel.solve`` answers to each question, faster than one by one.

    Returns:
        A result for each question, or the error that ``solve`` would raise.

    Example:
        >>> from mlsysim import Hardware, Models
        >>> inputs = (Models.Language.Llama3_8B, Hardware.Cloud.H100)
        >>> loads = [dict(input_len=1024, output_len=256, batch_size=size, stack="vllm-2025") for size in (16, 0)]
        >>> run, error = serve_together([(inputs, load) for load in loads])
        >>> run.basis, str(error)
        ('calibrated', 'batch_size = 0: expected a whole number >= 1')
    """
    checked = [_checked_or_error(inputs, arguments) for inputs, arguments in questions]
    served = _scheduled_together([question[0] for question in checked if not isinstance(question, MLSysError)])
    answers = iter(served)
    return [
        question if isinstance(question, MLSysError) else serving_result(question[0], next(answers), after_first=question[1])
        for question in checked
    ]


def _checked_or_error(inputs: Sequence[Spec], arguments: Mapping[str, Any]) -> tuple[ServingReplica, bool] | MLSysError:
    """The replica that a question is about, and whether its ``tpot`` excludes the first token."""
    try:
        return checked_question(inputs, arguments)
    except MLSysError as error:
        return error


def _scheduled_together(replicas: Sequence[ServingReplica]) -> list[Served]:
    """What the schedule of each replica comes to; those that share kernels and a schedule are computed as arrays."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, replica in enumerate(replicas):
        groups.setdefault(_shared(replica, place), []).append(place)
    answers: dict[int, Served] = {}
    for places in groups.values():
        alike = [replicas[place] for place in places]
        deployment = alike[0].deployment
        if len(alike) == 1:
            served = [scheduled(deployment, alike[0].passes, alike[0].load)]
        else:
            load = stacked(replica.load for replica in alike)
            # Dense models have experts of no width, and the other way round: their products take no time.
            with np.errstate(divide="ignore", invalid="ignore"):
                served = unstacked(scheduled(deployment, _stacked_passes([one.passes for one in alike]), load), len(alike))
        answers.update(zip(places, served, strict=True))
    return [answers[place] for place in range(len(replicas))]


def _shared(replica: ServingReplica, place: int) -> tuple[object, ...]:
    """What replicas have in common whose passes can be computed as arrays; others are alone with their place."""
    passes, prefixed = replica.passes, False
    if isinstance(passes, PrefixedDeployment):
        passes, prefixed = passes.whole, True
    if not isinstance(passes, EnginePasses):
        return ("alone", place)
    deployment = replica.deployment
    return prefixed, id(passes.kernels), id(passes.engine), deployment.workload.causal, deployment.schedule


def _stacked_passes(passes: Sequence[Passes]) -> Passes:
    """Passes of several models, plans and prompts on the same kernels as passes of arrays."""
    first = passes[0]
    if isinstance(first, PrefixedDeployment):
        prefixed = [each for each in passes if isinstance(each, PrefixedDeployment)]
        hit = np.array([each.hit for each in prefixed])
        return PrefixedDeployment(stacked_engine([each.whole for each in prefixed]), hit)
    return stacked_engine(passes)


def stacked_engine(passes: Sequence[object]) -> EnginePasses:
    """Passes of one engine on the same kernels as passes of arrays."""
    rows = [each for each in passes if isinstance(each, EnginePasses)]
    shape, shards = (stacked(getattr(each, part) for each in rows) for part in ("shape", "shards"))
    padding, step_tokens, graph_tokens = (
        np.array([getattr(each, part) for each in rows], float) for part in ("padding", "step_tokens", "graph_tokens")
    )
    return replace(rows[0], shape=shape, shards=shards, padding=padding, step_tokens=step_tokens, graph_tokens=graph_tokens)
