"""Other estimators on the same cases: ``pytest anchors/ --estimator=module:object``, and what they are asked.

A package registers one under the entry-point group ``mlsysim.estimators``; it is then called by its name there.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from mlsysim.core.errors import InputError, MLSysError, UnknownNameError
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.systems.types import Fleet, Node
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.anchors.runner import number, predict, result_of, step_exponent

GROUP = "mlsysim.estimators"
# The estimators of this run of pytest, by their names: the plugin adds what --estimator asks for.
ASKED: dict[str, Estimator] = {}
# The share of peak that a calculation on the back of an envelope uses.
NAIVE_MFU = 0.5


@dataclass(frozen=True)
class EstimatorCase:
    """What a case states of its run, in plain numbers; what was measured is not in it.

    Attributes:
        id: the case, by its source and its own name.
        family: the folder of its anchors ("training", "serving", ...), or the name of a user's file.
        source: key of the publication.
        solver: the solver that answers it here: "DistributedModel" of training steps, "ServingModel" of serving, ...
        metric: what is asked for: a field of that solver's result, such as "step_latency_total", "ttft", "tokens_per_second".
        unit: the unit in which it is asked for ("" for a fraction).
        model: name of the model.
        parameters, active_parameters: its parameters, and those that a token passes through.
        layers, hidden, heads, kv_heads, ffn_hidden, vocab: its layers, and their sizes (0 of what is no transformer).
        experts, experts_per_token: of its expert layers (0: it has none).
        accelerator: name of the accelerator.
        accelerators: how many run the case.
        accelerators_per_node: how many share a node.
        peak_flops_per_s: dense peak of one at ``precision`` (0 where its datasheet lists none).
        memory_B, memory_Bps: size and bandwidth of the memory of one.
        link_Bps, network_Bps: bandwidth of one within its node and between nodes, in one direction (inf where there is none).
        precision: number format of the matrix products.
        stack: the framework or the serving engine, by its name here ("" where there is none).
        arguments: all arguments of the solver, by their names: ``batch_size``, ``seq_len``, ``tp_size``, ``input_len``, ...
        cells: the cells of the table that the case comes from, by column; empty where it comes from none.
        model_flops: FLOP of a training step without recomputation (None of what is no training step).
        at_one_second: the metric of a step that takes a second, for ``of_step_time`` (None of what is no training step).
        time_power: 1 where the metric grows with the step's time, -1 where it falls.
    """

    id: str
    family: str
    source: str
    solver: str
    metric: str
    unit: str
    model: str
    parameters: float
    active_parameters: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn_hidden: int
    vocab: int
    experts: int
    experts_per_token: int
    accelerator: str
    accelerators: int
    accelerators_per_node: int
    peak_flops_per_s: float
    memory_B: float
    memory_Bps: float
    link_Bps: float
    network_Bps: float
    precision: str
    stack: str
    arguments: Mapping[str, Any]
    cells: Mapping[str, str]
    model_flops: float | None
    at_one_second: float | None
    time_power: float

    def of_step_time(self, seconds: float) -> float | None:
        """Convert the time of a training step to what is asked for, in its unit; None of what is no training step."""
        return None if self.at_one_second is None else self.at_one_second * seconds**self.time_power


class Estimator(Protocol):
    """Whatever predicts cases."""

    def predict(self, case: EstimatorCase) -> float | None:
        """Predict ``case.metric`` in ``case.unit``; None of a case that the estimator cannot tell."""


class HalfOfPeak:
    """The calculation on the back of an envelope: model FLOP over half of the accelerators' peak."""

    def predict(self, case: EstimatorCase) -> float | None:
        """Predict a training step; None of everything else."""
        if case.model_flops is None or not case.peak_flops_per_s:
            return None
        return case.of_step_time(case.model_flops / (NAIVE_MFU * case.peak_flops_per_s * case.accelerators))


_OURS: dict[str, type[Estimator]] = {"half-of-peak": HalfOfPeak}


def estimator(name: str) -> Estimator:
    """Return the estimator that a caller names: an entry point's or one of ours by its name, else ``module:object``.

    Args:
        name: of the estimator; a class is called without arguments.

    Raises:
        InputError: there is none, it cannot be imported, or it has no ``predict``.

    Example:
        >>> type(estimator("half-of-peak")).__name__
        'HalfOfPeak'
        >>> estimator("half-of-peek")
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: estimator = 'half-of-peek': expected module:object or a registered name, one of \
half-of-peak; did you mean 'half-of-peak'?
    """
    registered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in registered and name not in _OURS and ":" not in name:
        error = UnknownNameError.among("estimator", name, sorted({*_OURS, *registered}))
        raise UnknownNameError("estimator", name, f"module:object or a registered name, {error.expected}", error.suggestion)
    try:
        loaded: Any = _OURS.get(name) or (registered[name].load() if name in registered else pkgutil.resolve_name(name))
        made = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise InputError("estimator", name, f"what can be imported ({' '.join(str(error).split())})") from None
    if not callable(getattr(made, "predict", None)):
        raise InputError("estimator", name, "an object with predict(case), or its class")
    return made  # type: ignore[no-any-return]


def estimates(anchor: Anchor) -> dict[str, dict[str, Any]]:
    """Return what each of ``ASKED`` says of a case: what it ``predicted`` (None: nothing), the ``error``, and a ``reason``."""
    return {name: _estimate(anchor, asked) for name, asked in ASKED.items()}


def naive_error(anchor: Anchor) -> float | None:
    """Return the error of half of peak; None where the case is no training step with a measured value."""
    if not isinstance(getattr(result_of(anchor), "mfu", None), float):
        return None
    error = _estimate(anchor, HalfOfPeak())["error"]
    return None if error is None else float(error)


def _estimate(anchor: Anchor, asked: Estimator) -> dict[str, Any]:
    told: dict[str, Any] = {"predicted": None, "error": None, "reason": ""}
    if anchor.case.choice is not None or anchor.case.outcome is not None or anchor.case.factors:
        return told | {"reason": "the case is no figure, or is a paper's with factors of its own"}
    try:
        value: Any = asked.predict(estimator_case(anchor))
    except Exception as error:  # another's code ends no run of ours
        return told | {"reason": " ".join(f"{type(error).__name__}: {error}".split())}
    if value is None:
        return told | {"reason": "it cannot tell"}
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        return told | {"reason": f"predict returned {value!r}: expected a number or None"}
    measured = anchor.case.value
    return told | {"predicted": float(value), "error": float(value) / measured - 1 if measured else None}


@functools.cache
def estimator_case(anchor: Anchor) -> EstimatorCase:
    """Return what an estimator is told of a case.

    Raises:
        DataError: the solver refuses the case's inputs.
    """
    call = call_of(anchor)
    workload, machine = call.workload, call.machine
    node = machine.node if isinstance(machine, Fleet) else machine
    device: Any = node.accelerator if isinstance(node, Node) else node
    shards = math.prod(int(call.keywords.get(name) or 1) for name in ("tp_size", "pp_size", "replicas"))
    count = machine.accelerators if isinstance(machine, Fleet) else shards
    precision = str(call.keywords.get("precision") or _default_precision(call.solve))
    flops, at_one_second = _step(anchor, device, precision, count)
    power = step_exponent(anchor, anchor.case.metric)
    return EstimatorCase(
        id=anchor.id,
        family=anchor.family,
        source=anchor.source.key,
        solver=anchor.source.solver,
        metric=anchor.case.metric,
        unit=anchor.case.unit,
        **_of_model(workload),
        accelerator=str(getattr(device, "name", "")),
        accelerators=count,
        accelerators_per_node=node.accelerators_per_node if isinstance(node, Node) else 1,
        peak_flops_per_s=_peak(device, precision),
        memory_B=float(getattr(device, "memory_capacity_B", 0.0)),
        memory_Bps=float(getattr(device, "memory_bandwidth_Bps", 0.0)),
        link_Bps=node.intra_bandwidth_Bps if isinstance(node, Node) else math.inf,
        network_Bps=machine.inter_bandwidth_Bps if isinstance(machine, Fleet) else math.inf,
        precision=precision,
        stack=str(call.keywords.get("stack") or anchor.source.stack),
        arguments=dict(call.keywords),
        cells=dict(anchor.case.run),
        model_flops=flops,
        at_one_second=at_one_second if power else None,
        time_power=power,
    )


# What an estimator is told of a transformer's sizes, and what they are called on it.
_SIZES = {
    **{"layers": "layers", "hidden": "hidden_dim", "heads": "heads", "kv_heads": "kv_head_count"},
    **{"ffn_hidden": "ffn_width", "vocab": "vocab_size"},
}


def _of_model(workload: Workload | None) -> dict[str, Any]:
    transformer = workload if isinstance(workload, TransformerWorkload) else None
    parameters = 0.0 if workload is None else float(workload.parameter_count)
    told = {name: 0 if transformer is None else getattr(transformer, field) for name, field in _SIZES.items()}
    moe = None if transformer is None else transformer.moe
    return told | {
        "model": "" if workload is None else workload.name,
        "parameters": parameters,
        "active_parameters": parameters if transformer is None else transformer.active_parameters,
        "experts": 0 if moe is None else moe.experts,
        "experts_per_token": 0 if moe is None else moe.experts_per_token,
    }


@functools.cache
def _default_precision(solve: Callable[..., Any]) -> str:
    argument = inspect.signature(solve).parameters.get("precision")
    return str(argument.default) if argument is not None and argument.default else ""


def _peak(device: Any, precision: str) -> float:
    try:
        return float(device.rate_flops_per_s(precision))
    except (MLSysError, AttributeError):
        return 0.0


def _step(anchor: Anchor, device: Any, precision: str, count: int) -> tuple[float | None, float | None]:
    """The model FLOP of a training step, and the case's metric of one that takes a second, by what our own answer counts."""
    result = result_of(anchor)
    mfu, peak = getattr(result, "mfu", None), _peak(device, precision)
    seconds = getattr(result, "step_latency_total", None) or getattr(result, "latency", None)
    predicted = predict(anchor).predicted
    if not isinstance(mfu, float) or seconds is None or not peak or not isinstance(predicted, float):
        return None, None
    time_s = number(anchor, seconds, "step", "second")
    power = step_exponent(anchor, anchor.case.metric)
    return mfu * peak * count * time_s, predicted / time_s**power
