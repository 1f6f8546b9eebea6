"""From an anchor to a prediction in the anchor's unit, solved once a process; and how it moves when the hardware does."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pint

from mlsysim.calibration.evidence import ENERGY, FITTED_BASES, POWER, quantity_of
from mlsysim.calibration.operations.power import power_names
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.spec import Spec
from mlsysim.core.units import Quantity, in_unit, time_power, with_unit
from mlsysim.lowering.options import STACK_OPTIONS
from mlsysim.tables.token import chosen_names
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import Call, call_of
from mlsysim.validation.anchors.schema import Macro
from mlsysim.validation.anchors.solving import solved

Plain = float | str

# How much faster the hardware is made for the response check.
FASTER = 1.1
# A fifth of the rise in speed: what moves less hangs on something else than the hardware.
LEAST_RESPONSE = (FASTER - 1) / 5


@dataclass(frozen=True)
class Prediction:
    """A solver's answer to a case, in plain numbers and text: it crosses process borders and goes into reports.

    ``unfactored`` is the solver's own answer, before the paper's factors.
    """

    predicted: Plain
    unfactored: Plain
    basis: str
    feasible: bool
    reason: str
    coefficients: tuple[str, ...]


def result_of(anchor: Anchor) -> Any:
    """The solver's result, solved at most once a process, together with those of the other cases of its source.

    Raises:
        DataError: the solver refuses the case's inputs.
    """
    return solved(anchor, call_of)


@functools.cache
def predict(anchor: Anchor) -> Prediction:
    """The prediction for ``anchor``."""
    case, result = anchor.case, result_of(anchor)
    unfactored: Plain
    predicted: Plain
    if case.outcome is not None:
        unfactored = predicted = "fits" if result.feasible else "OOM"
    elif case.choice is None:
        value = number(anchor, attribute(anchor, result, case.metric), case.metric, case.unit)
        unfactored, predicted = value, value * math.prod(case.factors.values())
    else:
        plan = {name: plain(attribute(anchor, result, f"{case.metric}.{name}")) for name in case.choice}
        unfactored = predicted = plan_text(plan)
    return Prediction(
        predicted=predicted,
        unfactored=unfactored,
        basis=str(result.basis),
        feasible=bool(result.feasible),
        reason=str(result.reason or ""),
        coefficients=(*_coefficients(case.metric, result), *chosen_names(case.run)),
    )


def _coefficients(metric: str, result: Any) -> tuple[str, ...]:
    """The names of the fitted coefficients behind a metric: those of power only where it is one."""
    names = tuple(str(name) for name in getattr(result, "coefficients", None) or ())
    drawn = quantity_of(metric) in (POWER, ENERGY) and getattr(result, "facts", None)
    return (*names, *power_names(result.facts.accelerator)) if drawn else names


def hardware_response(anchor: Anchor) -> float:
    """Relative change of the case's ``response_metric`` when every peak rate and bandwidth rises by 10 %.

    Of a load that the solver can judge it is ``LEAST_RESPONSE`` where the faster hardware takes so much more.
    """
    name, result = anchor.case.response_metric or anchor.case.metric, result_of(anchor)
    if name in result.JUDGED and _takes(_on_faster_hardware(anchor), (1 + LEAST_RESPONSE) * result.requests_per_second):
        return LEAST_RESPONSE
    quicker = solved(anchor, _on_faster_hardware)
    before = attribute(anchor, result, name)
    after = attribute(anchor, quicker, name)
    unit = str(before.units) if isinstance(before, pint.Quantity) else ""
    return number(anchor, after, name, unit) / number(anchor, before, name, unit) - 1


def bound_of(anchor: Anchor) -> float | None:
    """The case's metric at the speed of light; None where it has no such limit, as power, or the prediction rests on none.

    A calibrated run is solved once more without its stack; recomputation that the source does not state counts as none. Of a
    load that the solver can judge it is the lower end of the case's band where that load is taken.
    """
    if anchor.case.choice is not None or anchor.case.outcome is not None or quantity_of(anchor.case.metric) in (POWER, ENERGY):
        return None
    name, result = anchor.case.metric, result_of(anchor)
    if result.basis in FITTED_BASES:
        if name in result.JUDGED and anchor.case.band is not None:
            low, predicted = anchor.case.band[0], number(anchor, attribute(anchor, result, name), name, anchor.case.unit)
            if _takes(_without_stack(anchor), low / predicted * result.requests_per_second):
                return low
        result = solved(anchor, _without_stack)
    if result.basis != "bound":
        return None
    return number(anchor, attribute(anchor, result, name), name, anchor.case.unit)


def _takes(call: Call, load: Quantity) -> bool:
    """Whether the solver finds that so many requests a time are taken: one question where the highest load needs a search."""
    return bool(call.solve(*call.inputs, **call.keywords, request_rate=load).feasible)


def _on_faster_hardware(anchor: Anchor) -> Call:
    call = call_of(anchor)
    return Call(call.solve, tuple(faster(spec) for spec in call.inputs), call.keywords)


# Arguments that a bound has nothing of.
_OF_A_STACK = ("stack", "attention", "compiled", "async_tp", "capacity_factor", *STACK_OPTIONS)


def _without_stack(anchor: Anchor) -> Call:
    call = call_of(anchor)
    asked = {name: value for name, value in call.keywords.items() if name not in _OF_A_STACK}
    if "basis" in inspect.signature(call.solve).parameters:
        asked["basis"] = "bound"
    if anchor.source.solver == "DistributedModel":
        asked["recompute"] = asked.get("recompute") or "none"
    return Call(call.solve, call.inputs, asked)


def time_exponent(anchor: Anchor, metric: str) -> float:
    """The power of time in a metric: 1 for a time, -1 for a rate, 0 for what is neither."""
    return time_power(attribute(anchor, result_of(anchor), metric))


def step_exponent(anchor: Anchor, metric: str) -> float:
    """The power of the step's time in a metric, as ``time_exponent``; a utilisation falls as the time grows."""
    return -1.0 if metric.startswith("mfu") else time_exponent(anchor, metric)


def faster(spec: Any, factor: float = FASTER) -> Any:
    """``spec`` with every rate of arithmetic and of bytes multiplied, all the way down; what is no rate stays as it is."""
    if isinstance(spec, pint.Quantity):
        powers = spec.dimensionality
        rate = powers.get("[time]") == -1 and (powers.get("[operations]") == 1 or powers.get("[information]") == 1)
        return spec * factor if rate else spec
    if isinstance(spec, dict):
        quicker = {name: faster(value, factor) for name, value in spec.items()}
        return quicker if any(quicker[name] is not value for name, value in spec.items()) else spec
    return _faster_spec(spec, factor) if isinstance(spec, Spec) else spec


# Cases of a source share their fleets: each is rebuilt once.
@identity_cache()
def _faster_spec(spec: Spec, factor: float) -> Spec:
    old = {name: getattr(spec, name) for name in spec.model_fields_set}
    new = {name: faster(value, factor) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name]}
    return spec.model_copy(update=changed) if changed else spec


def macro_text(anchor: Anchor, macro: Macro, derived: Mapping[str, Plain]) -> str:
    """A LaTeX macro's body: one of the ``derived`` values, or an attribute of the result."""
    if macro.of in derived:
        value = derived[macro.of]
    else:
        figure = attribute(anchor, result_of(anchor), macro.of)
        value = number(anchor, figure, macro.of, macro.unit) if isinstance(figure, (pint.Quantity, float, int)) else str(figure)
    if isinstance(value, str):
        return value
    return f"{value:.{macro.digits or 0}f}"


def number(anchor: Anchor, value: object, metric: str, unit: str) -> float:
    """``value`` in ``unit``; a number without one is dimensionless."""
    if isinstance(value, bool) or not isinstance(value, (pint.Quantity, float, int)):
        raise anchor.error(f"metric {metric!r} is {value!r}, not a number")
    if not unit and not isinstance(value, pint.Quantity):
        return float(value)
    quantity = value if isinstance(value, pint.Quantity) else with_unit(float(value), "")
    try:
        return in_unit(quantity, unit)
    except pint.DimensionalityError:
        raise anchor.error(f"unit = {unit!r}: {metric} is in {quantity.units:~}") from None


def attribute(anchor: Anchor, result: Any, path: str) -> Any:
    """An attribute of the result by a dotted path; a dictionary's keys count as attributes."""
    value = result
    for name in path.split("."):
        keys = isinstance(value, Mapping)
        if name not in value if keys else name.startswith("_") or not hasattr(value, name):
            known = list(value) if keys else [public for public in dir(value) if not public.startswith("_")]
            raise anchor.error(UnknownNameError.among("metric", path, known, shown=40)) from None
        value = value[name] if keys else getattr(value, name)
    return value


def plan_text(plan: Mapping[str, object]) -> str:
    """A plan as the paper prints it.

    Example:
        >>> plan_text({"tp": 8, "pp": 4, "dp": 512})
        'TP=8,PP=4,DP=512'
    """
    return ",".join(f"{name.upper()}={value}" for name, value in plan.items())


def plain(value: Any) -> Any:
    """Scalars of numpy as Python numbers: pytest-xdist cannot send the others."""
    return value.item() if hasattr(value, "item") else value


def breakdown(result: Any) -> dict[str, Plain | bool | int]:
    """All scalars of ``result.to_dict()``: nested ones under dotted names, quantities with their unit in the name."""
    scalars: dict[str, Plain | bool | int] = {}

    def add(name: str, value: Any) -> None:
        value = plain(value)
        if isinstance(value, Mapping):
            if set(value) == {"value", "unit"}:
                add(f"{name} [{value['unit']}]" if value["unit"] not in ("", "dimensionless") else name, value["value"])
                return
            for inner_name, inner in value.items():
                add(f"{name}.{inner_name}" if name else str(inner_name), inner)
        elif isinstance(value, (bool, int, float, str)) and name not in _ABOUT:
            scalars[name] = value

    add("", result.to_dict())
    return scalars


# What to_dict() says about the question and what a prediction holds already.
_ABOUT = ("solver", "subject", "basis", "feasible", "reason")
