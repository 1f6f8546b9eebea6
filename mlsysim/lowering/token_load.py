"""From what is asked of a language model's server to its layouts and the load of each, for a solve and the fit alike."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Unpack

from mlsysim.calibration.loaded import LoadHarness, Tables, harness, harness_of, loaded_engine
from mlsysim.core.checks import fraction, positive_quantity, real_number, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.core.options import with_defaults
from mlsysim.lowering.arrivals import Limits, Paces, highest_arrivals, paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.options import FormatOptions, LoadOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.systems.types import Fleet, Node

_LIMITS = ("max_ttft", "max_tpot", "max_latency")
_TP_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class LoadQuestion:
    """The arguments of ``TokenServerModel.solve``, checked: every layout of the model, and what is asked of each."""

    settings: tuple[Deployment, ...]
    accelerators: int
    limits: Limits | None
    beams: int
    spread: float
    front: LoadHarness | None


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One way to lay the model out, and the requests a second that it takes of all accelerators."""

    setting: Deployment
    pace: Paces
    rate_per_s: float


def load_question(
    workload: object,
    hardware: object,
    *,
    accelerators: object,
    output_len: Any,
    **options: Unpack[LoadOptions],
) -> LoadQuestion:
    """The arguments, checked.

    Raises:
        InputError: one is out of range, or two contradict each other.
    """
    asked = with_defaults(LoadOptions, dict(options))
    formats: FormatOptions = with_defaults(FormatOptions, dict(options))  # type: ignore[assignment]
    count, share = whole_number("accelerators", accelerators), fraction("percentile", asked["percentile"])
    limits_s = [inf if asked[name] is None else positive_quantity(name, asked[name], "second") for name in _LIMITS]
    return LoadQuestion(
        settings=tuple(
            Deployment.of(
                workload,
                hardware,
                **formats,
                output_len=output_len,
                schedule="continuous",
                tp_size=tp,
                replicas=count // tp,
                attention_dp=apart,
            )
            for tp, apart in _layouts(workload, hardware, count, asked["tp_sizes"])
        ),
        accelerators=count,
        limits=Limits(share, *limits_s) if min(limits_s) < inf else None,
        beams=whole_number("beams", asked["beams"]),
        spread=real_number("output_spread", asked["output_spread"], 0.0),
        front=None if asked["harness_name"] is None else harness(asked["harness_name"]),
    )


def _layouts(workload: object, hardware: object, count: int, tp_sizes: Sequence[int] | None) -> list[tuple[int, bool]]:
    """Tensor parallelism, and whether attention is divided by sequences, as engines do with experts."""
    if not isinstance(workload, TransformerWorkload):
        return [(1, False)]
    node = hardware.node if isinstance(hardware, Fleet) else hardware
    most = node.accelerators_per_node if isinstance(node, Node) else 1
    sizes = tp_sizes or [size for size in _TP_SIZES if size <= most]
    possible = [size for size in sizes if count % size == 0 and workload.heads % size == 0]
    if not possible:
        raise InconsistentError("tp_sizes", list(sizes), f"a divisor of {count} accelerators and {workload.heads} heads")
    apart = (False, True) if workload.moe is not None else (False,)
    return [(size, split) for size, split in itertools.product(possible, apart) if size > 1 or not split]


def best_plan(question: LoadQuestion, tables: Tables | None = None) -> LoadPlan:
    """The layout that takes the highest load of those that fit; a fit brings ``tables`` of its own.

    No load within limits is above the capacity: layouts whose capacity is below what another takes are not searched.
    """
    found = [(setting, _pace(setting, question, tables)) for setting in question.settings]
    found.sort(key=lambda each: (not each[1].reason, each[0].replicas * each[1].best_per_s), reverse=True)
    best: LoadPlan | None = None
    for setting, pace in found:
        beaten = best is not None and (bool(pace.reason) or setting.replicas * pace.best_per_s <= best.rate_per_s)
        if not beaten:
            plan = LoadPlan(setting, pace, setting.replicas * _taken_per_s(setting, pace, question))
            best = plan if best is None or plan.rate_per_s > best.rate_per_s else best
    if best is None:
        raise InconsistentError("tp_sizes", [], "at least one layout")
    return best


def _taken_per_s(setting: Deployment, pace: Paces, question: LoadQuestion) -> float:
    if question.limits is None:
        return pace.best_per_s
    return highest_arrivals(pace, question.limits, setting.output, question.spread**2)


def _pace(setting: Deployment, question: LoadQuestion, tables: Tables | None) -> Paces:
    loaded = setting
    if setting.stack is not None:
        front = question.front
        if front is not None and tables is not None:
            front = harness_of(tables, front.name)
        loaded = replace(setting, stack=loaded_engine(setting.stack, setting.accelerator.name, front, tables))
    return paces(loaded, None, question.beams)
