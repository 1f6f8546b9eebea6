"""What of a machine can be varied: its rates, its memory and its size; and the solvers that are asked of each variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pint

from mlsysim.core.checks import one_of
from mlsysim.core.errors import InputError, MLSysError, UnknownNameError
from mlsysim.core.spec import Spec
from mlsysim.core.units import Quantity, time_power, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.continuous_batching import ContinuousBatchingModel
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.serving.together import serve_together
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.single_node import SingleNodeModel
from mlsysim.solvers.training.together import train_together
from mlsysim.systems.types import Fleet, Node, accelerator_of

_BY_NAME: dict[str, type[Any]] = {
    solver.__name__: solver for solver in (ContinuousBatchingModel, DistributedModel, ServingModel, SingleNodeModel)
}
# Rates of a datasheet, and the unit of each; ``faster`` multiplies them.
RATES = {
    "arithmetic": "flop/second",
    "memory bandwidth": "byte/second",
    "links": "byte/second",
    "network": "byte/second",
    "host link": "byte/second",
}
# What is no rate, and is only asked how much of it is needed.
MEMORY, COUNT = "memory capacity", "nodes"
LEVERS = (*RATES, MEMORY, COUNT)


def solver_called(solver: object) -> Any:
    """Return the solver that a caller names: one of ``_BY_NAME`` by its name, or any class or object with ``solve``.

    Raises:
        InputError: it is none.

    Example:
        >>> solver_called("ServingModel").__class__.__name__
        'ServingModel'
        >>> solver_called("ServingModle")
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: solver = 'ServingModle': expected one of ContinuousBatchingModel, \
DistributedModel, ServingModel, SingleNodeModel; did you mean 'ServingModel'?
    """
    if isinstance(solver, str):
        return _BY_NAME[one_of("solver", solver, _BY_NAME)]()
    made = solver() if isinstance(solver, type) else solver
    if not hasattr(made, "solve"):
        raise InputError("solver", type(solver).__name__, "a solver or the name of one")
    return made


@dataclass(frozen=True)
class Question:
    """A call of a solver, whose machine can be varied.

    Attributes:
        solver: what is asked.
        inputs: workload and machine, in the solver's order.
        arguments: its keyword arguments.
    """

    solver: Any
    inputs: tuple[Any, ...]
    arguments: Mapping[str, Any]

    def answer(self) -> Result:
        """What the solver says of the machine as it is."""
        result: Result = self.solver.solve(*self.inputs, **self.arguments)
        return result

    def answers(self, machines: Sequence[tuple[Any, ...]]) -> list[Result | MLSysError]:
        """What the solver says of variants of the inputs, in one call where it computes many together."""
        together: Any = {DistributedModel: train_together, ServingModel: serve_together}.get(type(self.solver))
        if together is not None:
            answered: list[Result | MLSysError] = together([(inputs, self.arguments) for inputs in machines])
            return answered
        return [self.solver.solve(*inputs, **self.arguments) for inputs in machines]

    def value(self, lever: str) -> Quantity | None:
        """How much of a lever the machine has; None of what it has none of."""
        for spec in self.inputs:
            amount = _VALUES[lever](spec) if isinstance(spec, (HardwareNode, Node, Fleet)) else None
            if amount is not None:
                return amount
        return None

    def scaled(self, lever: str, factor: float) -> tuple[Any, ...]:
        """The inputs with ``factor`` times as much of a lever; nodes are rounded."""
        return tuple(
            varied(spec, lever, factor) if isinstance(spec, (HardwareNode, Node, Fleet)) else spec for spec in self.inputs
        )


def varied(machine: HardwareNode | Node | Fleet, lever: str, factor: float) -> HardwareNode | Node | Fleet:
    """Return an accelerator, a node or a fleet with ``factor`` times as much of a lever.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> varied(Hardware.Cloud.H100, "memory capacity", 2.0).memory.capacity.m_as("GiB")
        160.0
    """
    if isinstance(machine, HardwareNode):
        return _accelerator(machine, lever, factor)
    if isinstance(machine, Node):
        if lever == "network":
            return machine if machine.network_bw is None else _with(machine, network_bw=machine.network_bw * factor)
        node = _with(machine, accelerator=_accelerator(machine.accelerator, lever, factor))
        return _with(node, intra_node_bw=machine.intra_node_bw * factor) if lever == "links" else node
    if lever == COUNT:
        return _with(machine, count=max(1, round(machine.count * factor)))
    fleet = _with(machine, node=varied(machine.node, lever, factor))
    if lever == "network" and machine.fabric is not None:
        fabric = machine.fabric
        fleet = _with(fleet, fabric=_with(fabric, bandwidth=fabric.bandwidth * factor))
    return fleet


S = TypeVar("S", bound=Spec)


def _with(spec: S, **changes: Any) -> S:
    return spec.model_copy(update=changes)


def _accelerator(device: HardwareNode, lever: str, factor: float) -> HardwareNode:
    if lever == "arithmetic":
        core = device.compute
        rates: dict[str, Any] = {name: rate * factor for name, rate in core.precision_flops.items()}
        summed: Any = None if core.fp16_sum_flops is None else core.fp16_sum_flops * factor
        faster = _with(core, peak_flops=core.peak_flops * factor, precision_flops=rates, fp16_sum_flops=summed)
        return _with(device, compute=faster)
    if lever == "memory bandwidth":
        return _with(device, memory=_with(device.memory, bandwidth=device.memory.bandwidth * factor))
    if lever == MEMORY:
        return _with(device, memory=_with(device.memory, capacity=device.memory.capacity * factor))
    field = {"links": "interconnect_bw", "host link": "host_link_bw"}.get(lever)
    rate = None if field is None else getattr(device, field)
    return device if field is None or rate is None else _with(device, **{field: rate * factor})


def _links(machine: HardwareNode | Node | Fleet) -> Quantity | None:
    node = machine.node if isinstance(machine, Fleet) else machine
    return with_unit(node.intra_bandwidth_Bps, "byte/second") if isinstance(node, Node) else node.interconnect_bw


def _network(machine: HardwareNode | Node | Fleet) -> Quantity | None:
    if isinstance(machine, Fleet):
        return with_unit(machine.inter_bandwidth_Bps, "byte/second") if machine.count > 1 else None
    return machine.network_bw if isinstance(machine, Node) else None


# How much of each lever a machine has.
_VALUES: dict[str, Callable[[Any], Quantity | None]] = {
    "arithmetic": lambda machine: accelerator_of(machine).compute.peak_flops,
    "memory bandwidth": lambda machine: accelerator_of(machine).memory.bandwidth,
    "links": _links,
    "network": _network,
    "host link": lambda machine: accelerator_of(machine).host_link_bw,
    MEMORY: lambda machine: accelerator_of(machine).memory.capacity,
    COUNT: lambda machine: with_unit(float(machine.count), "count") if isinstance(machine, Fleet) else None,
}


def metric_of(result: Result, metric: object) -> str:
    """Return the field that is asked about: the one named, else the result's main one.

    Raises:
        InputError: the result has no such field, or it is no number.
    """
    known = [name for name, value in vars(result).items() if _is_number(value)]
    if metric is None:
        timed = [name for name in result.HEADLINE if name in known and time_power(getattr(result, name))]
        return result.INTERVAL_OF or next(iter(timed or known))
    if not isinstance(metric, str) or metric not in known:
        raise UnknownNameError.among("metric", metric, known)
    return metric


def plain_value(result: Result, metric: str) -> float:
    """Return a field's number, in the unit that it comes in."""
    value = getattr(result, metric)
    return float(value.magnitude if isinstance(value, pint.Quantity) else value)


def _is_number(value: object) -> bool:
    return isinstance(value, (pint.Quantity, int, float)) and not isinstance(value, bool)


def specs(inputs: Sequence[object]) -> tuple[Any, ...]:
    """Return the inputs of a solver, of which one is a machine.

    Raises:
        InputError: none is.
    """
    if not any(isinstance(spec, (HardwareNode, Node, Fleet)) for spec in inputs):
        shown = [getattr(spec, "name", type(spec).__name__) for spec in inputs]
        raise InputError("inputs", shown, "a workload and an accelerator, a node or a fleet")
    return tuple(spec for spec in inputs if isinstance(spec, Spec))
