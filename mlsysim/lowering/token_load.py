"""From what is asked of a language model's server to its layouts and the load of each, for a solve and the fit alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Unpack

from mlsysim.calibration.harnesses import LoadHarness, Tables, harness, harness_of, loaded_engine
from mlsysim.core.checks import instance, listed, percentile_share, positive_quantity, real_number, whole_number
from mlsysim.core.errors import InconsistentError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.options import with_defaults
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.arrivals import ALMOST, Limits, Paces, highest_load, paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.options import FormatOptions, LoadOptions
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.queues.finite_run import Answers, Batch, completed_per_s, run_per_s
from mlsysim.physics.queues.open_loop import OpenLoop
from mlsysim.systems.types import Fleet, Node

_LIMITS = ("max_ttft", "max_tpot", "max_latency")
_TP_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class LoadQuestion:
    """The arguments of ``TokenServerModel.solve``, checked: every layout of the model, and what is asked of each.

    ``run_s`` and ``requests``: least time in which requests wait or arrive, and their least number; None where it has no end.
    """

    settings: tuple[Deployment, ...]
    accelerators: int
    limits: Limits | None
    beams: int
    spread: float
    front: LoadHarness | None
    run_s: float | None = None
    requests: int = 1


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One way to lay the model out, and the load of all its copies together.

    ``held`` says whether they take it within the limits; ``seen`` is what its requests see, if that is known.
    """

    setting: Deployment
    pace: Paces
    rate_per_s: float
    held: bool
    seen: OpenLoop | None = None


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
    count, share = whole_number("accelerators", accelerators), percentile_share("percentile", asked["percentile"])
    front = asked["harness_name"]
    limits_s = [inf if asked[name] is None else positive_quantity(name, asked[name], "second") for name in _LIMITS]
    ends = asked["run_time"] is not None or asked["requests"] is not None
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
                ep_size=ep,
            )
            for tp, apart, ep in _layouts(workload, hardware, count, asked["tp_sizes"])
        ),
        accelerators=count,
        limits=Limits(share, *limits_s) if min(limits_s) < inf else None,
        beams=whole_number("beams", asked["beams"]),
        spread=real_number("output_spread", asked["output_spread"], 0.0),
        front=None if front is None else harness(instance("harness_name", front, str, "the name of a harness")),
        run_s=None if not ends else positive_quantity("run_time", asked["run_time"] or "1e-9 s", "second"),
        requests=1 if asked["requests"] is None else whole_number("requests", asked["requests"]),
    )


def _layouts(workload: object, hardware: object, count: int, tp_sizes: Sequence[int] | None) -> list[tuple[int, bool, int]]:
    """Tensor parallelism, whether attention is divided by sequences, as engines do with experts, and parts of these."""
    if not isinstance(workload, TransformerWorkload):
        return [(1, False, 1)]
    node = hardware.node if isinstance(hardware, Fleet) else hardware
    most = node.accelerators_per_node if isinstance(node, Node) else 1
    sizes = [size for size in _TP_SIZES if size <= most]
    if tp_sizes is not None:
        sizes = [whole_number("tp_sizes", size) for size in listed("tp_sizes", tp_sizes, object, "whole numbers")]
    possible = [size for size in sizes if count % size == 0 and workload.heads % size == 0]
    if not possible:
        raise InconsistentError("tp_sizes", list(sizes), f"a divisor of {count} accelerators and {workload.heads} heads")
    layouts = [(size, False, 1) for size in possible]
    if workload.moe is not None:
        # Where ranks attend for sequences of their own, experts are cut by width or, where there are enough, dealt out.
        apart = [size for size in possible if size > 1]
        layouts += [(size, True, ep) for size in apart for ep in (1, size) if ep <= workload.moe.experts]
    return layouts


def best_plan(question: LoadQuestion) -> LoadPlan:
    """The layout that takes the highest load of those that fit.

    No load within limits is above the capacity: layouts whose capacity is below what another takes are not searched.
    """
    best: LoadPlan | None = None
    for layout in _layouts_by_most(question, None, with_all_places=question.limits is not None):
        if best is None or (not layout.pace.reason and layout.rate_per_s > best.rate_per_s):
            plan = _highest(layout, question, 0.0 if best is None else best.rate_per_s)
            best = plan if best is None or plan.rate_per_s > best.rate_per_s else best
    if best is None:
        raise InconsistentError("tp_sizes", [], "at least one layout")
    return best


def limit_per_s(question: LoadQuestion, tables: Tables, guess_per_s: float | None = None) -> float:
    """Requests a second at which the question's one layout reaches the limits, for a fit, which brings ``tables`` of its own.

    It lies between the highest load that a solve finds and the next, and moves smoothly with the tables.
    """
    (layout,) = _layouts_by_most(question, tables, with_all_places=question.limits is not None)
    if question.limits is None:
        return layout.rate_per_s
    setting, guess_per_s = layout.setting, None if guess_per_s is None else guess_per_s / layout.setting.replicas
    highest = highest_load(layout.pace, question.limits, setting.output, question.spread**2, guess_per_s=guess_per_s)
    share = completed_share(layout.pace, setting, question, highest.limit_per_s, highest.seen)
    return setting.replicas * highest.limit_per_s * share


def plan_at(question: LoadQuestion, rate_per_s: float) -> LoadPlan:
    """The first layout that takes ``rate_per_s`` within the limits, those with the highest capacity first; else the first."""
    layouts = _layouts_by_most(question, None, with_all_places=True)
    plans = (_at(layout, question, rate_per_s) for layout in layouts)
    return next((plan for plan in plans if plan.held), replace(layouts[0], rate_per_s=rate_per_s, held=False))


def _layouts_by_most(question: LoadQuestion, tables: Tables | None, with_all_places: bool) -> list[LoadPlan]:
    """Every layout at the most that it could take whatever the limits; those that fit first, and of them the quickest.

    ``with_all_places``: what it takes with all places taken, which is near its best and found more quickly.
    """
    layouts = []
    for setting in question.settings:
        pace = _pace(setting, question, tables)
        most_per_s = pace.capacity_per_s if with_all_places else unlimited_per_s(setting, pace, question)
        layouts.append(LoadPlan(setting, pace, setting.replicas * most_per_s, held=not pace.reason))
    return sorted(layouts, key=lambda plan: (plan.held, plan.rate_per_s), reverse=True)


def unlimited_per_s(setting: Deployment, pace: Paces, question: LoadQuestion) -> float:
    """Requests a second of one copy whose requests all wait from the start, with the best number of places taken."""
    if question.run_s is None:
        return pace.best_per_s
    best = int(pace.completions_per_s.argmax()) + 1
    answers = Answers(setting.output, question.spread)
    return run_per_s(_batch(pace, best), answers, question.run_s, question.requests / setting.replicas)


def completed_share(
    pace: Paces, setting: Deployment, question: LoadQuestion, arrival_per_s: float, seen: OpenLoop | None
) -> float:
    """Requests that a run completes in a second over those that arrive at one copy: less than 1 where the run ends.

    ``seen``: what its requests see, if that is known.
    """
    if question.run_s is None or question.limits is None or arrival_per_s <= 0:
        return 1.0
    seen = seen or pace.under(min(arrival_per_s, ALMOST * pace.capacity_per_s), question.spread**2)
    in_flight = min(arrival_per_s * (seen.wait_mean_s() + seen.after_wait_mean_s(setting.output - 1)), float(pace.step_s.size))
    answers, requests = Answers(setting.output, question.spread), question.requests / setting.replicas
    completed = completed_per_s(_batch(pace, pace.step_s.size), answers, arrival_per_s, in_flight, question.run_s, requests)
    return completed / arrival_per_s


def _batch(pace: Paces, places: int) -> Batch:
    return Batch(*(times_s[:places] for times_s in (pace.step_s, pace.aged_s, pace.joined_s)))


def _highest(layout: LoadPlan, question: LoadQuestion, enough_per_s: float) -> LoadPlan:
    """The layout at its highest load, or at none if that is no more than ``enough_per_s``."""
    if question.limits is None:
        return layout
    setting, cv2 = layout.setting, question.spread**2
    highest = highest_load(layout.pace, question.limits, setting.output, cv2, enough_per_s / setting.replicas)
    return replace(layout, rate_per_s=setting.replicas * highest.arrival_per_s, seen=highest.seen)


def _at(layout: LoadPlan, question: LoadQuestion, rate_per_s: float) -> LoadPlan:
    """The layout at a load, and whether it takes it."""
    setting, pace = layout.setting, layout.pace
    each_per_s = rate_per_s / setting.replicas
    if not layout.held or question.limits is None:
        enough = question.run_s is None and each_per_s <= pace.capacity_per_s
        held = layout.held and (enough or each_per_s <= unlimited_per_s(setting, pace, question))
        return LoadPlan(setting, pace, rate_per_s, held)
    if each_per_s > pace.capacity_per_s * ALMOST:
        return LoadPlan(setting, pace, rate_per_s, held=False)
    seen = pace.under(each_per_s, question.spread**2)
    return LoadPlan(setting, pace, rate_per_s, question.limits.kept(seen, setting.output), seen)


def _pace(setting: Deployment, question: LoadQuestion, tables: Tables | None) -> Paces:
    loaded = setting
    if setting.stack is not None:
        front = question.front
        if front is not None and tables is not None:
            front = harness_of(tables, front.name)
        loaded = replace(setting, stack=loaded_engine(setting.stack, setting.accelerator.name, front, tables))
    # All but the number of copies: systems of several sizes have the same replicas, under several limits.
    parts = {part.name: getattr(loaded, part.name) for part in fields(loaded)} | {"replicas": 1}
    return replica_paces(parts.pop("workload"), parts.pop("accelerator"), parts.pop("draft"), question.beams, **parts)


@identity_cache(most=512, objects=3)
def replica_paces(
    workload: TransformerWorkload, accelerator: HardwareNode, draft: TransformerWorkload | None, /, beams: int, **parts: Any
) -> Paces:
    """The speed of one copy of a deployment; ``parts`` are its other fields."""
    return paces(Deployment(workload=workload, accelerator=accelerator, draft=draft, **parts), None, beams)
