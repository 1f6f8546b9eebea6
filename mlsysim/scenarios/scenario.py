"""``Scenario``: a workload on a system at a place, with limits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mlsysim.core.checks import instance, listed, mapping, needed, positive_quantity, strict_keywords
from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.core.units import in_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.registry import Models
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.scenarios.changes import OF_A_PLAN
from mlsysim.scenarios.figures import Figure, figures
from mlsysim.scenarios.limits import Limit
from mlsysim.scenarios.place import Place
from mlsysim.scenarios.scorecard import Scorecard, scorecard
from mlsysim.solvers.recommended import Recommended, recommended_engine, recommended_stack
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.solvers.serving.tail_latency import TailLatencyModel
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.solvers.training.parallelism import ParallelismOptimizer
from mlsysim.systems.fleet_text import machine_called
from mlsysim.systems.fleets import as_fleet
from mlsysim.systems.types import Fleet, Node

KEYS = ("name", "model", "on", "train", "serve", "place", "limits")
# What a whole run does when it fails: arguments of ``time_to_train``.
_FAILING = ("checkpoint_time", "checkpoint_interval", "restart_time", "fleet_class", "node_mtbf")
_OWN = {"train": ("tokens", "basis", *_FAILING), "serve": ("basis",)}


class Scenario:
    """One question: can it run, how fast, what does it cost, and are the limits kept.

    Attributes:
        name: what it is called.
        workload: the model.
        system: what it runs on.
        kind: "train" or "serve".
        arguments: of ``DistributedModel``, or of ``ServingModel`` or ``TailLatencyModel`` (with a request rate).
        tokens: of a whole training run; None where only a step is asked about.
        failing: how such a run survives failures: arguments of ``time_to_train``; empty where none are counted.
        place: where it stands.
        limits: what is to hold.
    """

    @strict_keywords
    def __init__(
        self,
        *,
        model: Workload | str | Mapping[str, Any],
        on: HardwareNode | Node | Fleet | str,
        train: Mapping[str, Any] | None = None,
        serve: Mapping[str, Any] | None = None,
        place: Mapping[str, Any] | None = None,
        limits: Sequence[str] = (),
        name: str = "",
    ) -> None:
        """Check what is stated; names are read as everywhere, and the solver says what else is wrong when it is asked.

        Args:
            model: a workload, its name, or a table of its fields.
            on: an accelerator, a node or a fleet, or a line such as "64 x DGX H100".
            train: keywords of ``DistributedModel.solve``; without a plan the best is searched. ``tokens`` of the whole run, and
                with ``checkpoint_time`` those of ``time_to_train``: then days and money are with failures.
            serve: keywords of ``ServingModel.solve``; with ``request_rate`` those of ``TailLatencyModel.solve``.
            place: ``grid``, ``pue``, and ``price`` of an accelerator.
            limits: what is to hold, such as "mfu > 0.4" or "ttft_p99 < 2 s".
            name: what it is called; by default the model's and the system's names.

        Raises:
            InputError: a value or a key is wrong.

        Example:
            >>> scenario = Scenario(
            ...     model="Llama-3-8B", on="8 x H100", train={"batch_size": 64, "seq_len": 8192, "tokens": "1e12 count"},
            ...     place={"price": "2.5 USD/hour"}, limits=["mfu > 0.4", "days < 500"],
            ... )
            >>> card = scenario.scorecard()
            >>> card.feasible, card.holds, [verdict.holds for verdict in card.verdicts]
            (True, True, [True, True])
        """
        if (train is None) == (serve is None):
            raise InconsistentError("train", train, "one of train and serve")
        self.kind = "serve" if train is None else "train"
        self.workload = _workload(model)
        self.system = _system(on)
        options = dict(mapping(self.kind, serve if train is None else train, "a table of arguments"))
        for option in options:
            if option not in _accepted(self.kind):
                raise UnknownNameError.among(self.kind, option, sorted(_accepted(self.kind)))
        self.basis = options.pop("basis", None)
        tokens = options.pop("tokens", None)
        self.tokens = None if tokens is None else positive_quantity("tokens", tokens, "count")
        self.failing = {name: options.pop(name) for name in _FAILING if name in options} if self.kind == "train" else {}
        if self.failing and (self.tokens is None or "checkpoint_time" not in self.failing):
            name = next(iter(self.failing))
            raise InconsistentError(name, self.failing[name], "tokens and checkpoint_time beside it: a whole run fails")
        self.arguments: Mapping[str, Any] = options
        self.place = Place.of({} if place is None else mapping("place", place, "a table of a grid, a PUE and a price"))
        texts = listed("limits", limits, str, 'limits such as "mfu > 0.4"') if limits else []
        self.limits = tuple(map(Limit.of, texts))
        self.name = instance("name", name, str, "a text") or f"{self.workload.name} on {self.system.name}"

    def with_changes(self, system: Any = None, **arguments: Any) -> Scenario:
        """Return the scenario on another system, or with other arguments."""
        other = object.__new__(Scenario)
        other.__dict__.update({name: value for name, value in vars(self).items() if name not in _ANSWERS})
        other.system = self.system if system is None else system
        other.arguments = {**self.arguments, **arguments}
        return other

    @functools.cached_property
    def answer(self) -> Result:
        """What the solver says: of a step, of a deployment, or of the search where nobody states a plan."""
        return self._trained() if self.kind == "train" else self._served()

    @functools.cached_property
    def figures(self) -> dict[str, Figure]:
        """Every figure by the name that limits call it."""
        served = None
        if self.kind == "serve" and self._rate is not None:
            rate = getattr(self.answer, "arrival_rate", None)
            per_s = 0.0 if rate is None else in_unit(rate, "count/second")
            served = per_s * float(self.arguments.get("output_len") or 0) or None
        return figures(self.answer, self.system, self.place, self.tokens, served, self.failing)

    def scorecard(self) -> Scorecard:
        """Return the scorecard: what it comes to, whether the limits hold, and the three changes that would help most."""
        return scorecard(self)

    @property
    def _rate(self) -> Any:
        return self.arguments.get("request_rate", self.arguments.get("arrival_rate"))

    @functools.cached_property
    def _recommended(self) -> Recommended:
        """The stack or the engine that is taken where nobody names one."""
        if self.kind == "train":
            return recommended_stack(self.workload, as_fleet(self.system), self.arguments, self.basis)
        return recommended_engine(self.workload, self.system, self.arguments, self.basis)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen because nobody stated it."""
        return self._recommended.notes

    def _trained(self) -> Result:
        fleet, asked = as_fleet(self.system), self._recommended.added_to(self.arguments)
        batch = needed("batch_size", asked.pop("batch_size", None), "sequences of a step")
        if any(asked.get(name) is not None for name in OF_A_PLAN) or not isinstance(self.workload, TransformerWorkload):
            return DistributedModel().solve(self.workload, fleet, batch_size=batch, **asked)
        known = inspect.signature(ParallelismOptimizer.solve).parameters
        searched = {name: value for name, value in asked.items() if name in known}
        search = ParallelismOptimizer().solve(self.workload, fleet, batch_size=batch, **searched)
        return search if search.best is None else search.best

    def _served(self) -> Result:
        asked = self._recommended.added_to(self.arguments)
        solver: Any = ServingModel() if self._rate is None else TailLatencyModel()
        if self._rate is not None:
            asked["arrival_rate"] = asked.pop("request_rate", asked.get("arrival_rate"))
        result: Result = solver.solve(self.workload, self.system, **asked)
        return result


_ANSWERS = ("answer", "figures", "_recommended")


@functools.cache
def _accepted(kind: str) -> frozenset[str]:
    solvers: tuple[Any, ...] = (DistributedModel,) if kind == "train" else (ServingModel, TailLatencyModel)
    named = {name for solver in solvers for name in inspect.signature(solver.solve).parameters}
    return frozenset((named | set(_OWN[kind]) | ({"request_rate"} if kind == "serve" else set())) - _INPUTS)


_INPUTS = {"self", "workload", "hardware", "fleet", "service_time", "service_rate", "servers", "distribution", "service_cv2"}


def _workload(model: object) -> Workload:
    if isinstance(model, Workload):
        return model
    if isinstance(model, Mapping):
        fields = {"name": "the scenario's", **model}
        if "parameters" in fields:
            return TransformerWorkload(**fields)
        needed("model", fields.get("ffn_hidden"), "a name, or a table with parameters or ffn_hidden")
        return TransformerWorkload.of_architecture(**fields)
    if not isinstance(model, str):
        raise InputError("model", model, "a workload, its name or a table of its fields")
    known = Models.find(model)
    if known is None:
        raise UnknownNameError.among("model", model, Models.nearest(model) or [entry.name for entry in Models])
    return known


def _system(on: object) -> HardwareNode | Node | Fleet:
    if isinstance(on, (HardwareNode, Node, Fleet)):
        return on
    if not isinstance(on, str):
        raise InputError("on", on, 'an accelerator, a node or a fleet, such as "64 x DGX H100"')
    return machine_called(on, "on")
