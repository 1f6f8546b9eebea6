"""From a case's names and tables to the call of a solver: built once, and checked before anything is solved."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlsysim.core.checks import looked_up
from mlsysim.core.errors import InputError, MLSysError, UnknownArgumentError, UnknownNameError, nearest
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import HardwareNode
from mlsysim.infra.registry import Infra
from mlsysim.infra.types import Grid
from mlsysim.models import types as workload_types
from mlsysim.models.registry import Models
from mlsysim.models.types import Workload
from mlsysim.solvers.training.distributed import DistributedModel
from mlsysim.systems.registry import Systems
from mlsysim.systems.types import Fleet, NetworkFabric, Node
from mlsysim.tables.data_parallel import replica_question
from mlsysim.tables.inference import inference_question, is_inference
from mlsysim.tables.open_loop import open_loop_question
from mlsysim.tables.question import Question
from mlsysim.tables.served import served_question
from mlsysim.tables.serving import serving_question
from mlsysim.tables.token import token_question
from mlsysim.tables.training import question
from mlsysim.validation.anchors.anchor import Anchor


@dataclass(frozen=True)
class Call:
    """A solver's ``solve`` and its arguments.

    ``inputs`` are the workload and the hardware or fleet, in this order, or the result of a run that is asked about.
    """

    solve: Callable[..., Any]
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def workload(self) -> Workload | None:
        """The workload, where one is asked about."""
        return next((spec for spec in self.inputs if isinstance(spec, Workload)), None)

    @property
    def machine(self) -> Any:
        """The hardware or the fleet; of a run that is asked about, its result; None where there is none."""
        return next((spec for spec in self.inputs if not isinstance(spec, Workload)), None)

    def result(self) -> Any:
        """What the solver answers."""
        return self.solve(*self.inputs, **self.keywords)


@functools.cache
def call_of(anchor: Anchor) -> Call:
    """The call that ``anchor`` describes.

    Raises:
        DataError: a name, table or argument is wrong; the message has file and case.
    """
    try:
        return _built(anchor)
    except MLSysError as error:
        raise anchor.error(error) from None


def _built(anchor: Anchor) -> Call:
    case = anchor.case
    solve = _solver(anchor.source.solver)().solve
    if case.run:
        inputs, arguments = _asked(anchor.source.solver, case.run)
        keywords = {**arguments, **case.solve}
        _check_arguments(anchor.source.solver, inputs, keywords)
        return Call(solve, inputs, keywords)
    stated = {kind: getattr(case, kind) for kind in ("workload", "hardware", "node", "fleet")}
    described = [(kind, stated[kind]) for kind in stated if stated[kind] is not None]
    if _DRAFT in case.solve:
        described.insert(1, ("workload", case.solve[_DRAFT]))
    inputs = tuple(build(kind, description, anchor.id) for kind, description in described)
    keywords = {name: _argument(name, value, anchor.id) for name, value in case.solve.items() if name != _DRAFT}
    _check_arguments(anchor.source.solver, inputs, keywords)
    return Call(solve, inputs, keywords)


# A second workload, between the first and the hardware.
_DRAFT = "draft"


def _asked(solver: str, run: dict[str, str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs and arguments that the cells of a table of runs give ``solver``."""
    if solver in _QUESTIONS:
        asked = _QUESTIONS[solver](run)
        return (asked.workload, asked.hardware), asked.arguments
    trained = question(run)
    if solver == "PowerModel":  # it asks about the result of a run
        return (DistributedModel().solve(trained.workload, trained.fleet, **trained.arguments),), {}
    return (trained.workload, trained.fleet), trained.arguments


def _small_model_question(run: dict[str, str]) -> Question:
    return inference_question(run) if is_inference(run) else replica_question(run)


# What reads a row for a solver; those of others are training runs.
_QUESTIONS: dict[str, Callable[[dict[str, str]], Question]] = {
    "SingleNodeModel": _small_model_question,
    "BatchServerModel": served_question,
    "TokenServerModel": token_question,
    "ServingModel": serving_question,
    "TailLatencyModel": open_loop_question,
}


def _solver(name: str) -> type[Any]:
    """The class of this name."""
    import mlsysim

    solver: Any = getattr(mlsysim, name, None)
    if not hasattr(solver, "solve"):
        names = getattr(mlsysim, "__all__", dir(mlsysim))
        raise UnknownNameError.among("solver", name, [known for known in names if hasattr(getattr(mlsysim, known), "solve")])
    return solver  # type: ignore[no-any-return]


@functools.cache
def _signature(solver: str) -> inspect.Signature:
    """The signature of a solver's ``solve``, cached: the cases of a tree ask for few solvers."""
    return inspect.signature(_solver(solver)().solve)


@functools.cache
def _asked_for(solver: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names of a solver's positional arguments, and of the keywords that it cannot do without."""
    arguments = _signature(solver).parameters.values()
    keywords = [argument for argument in arguments if argument.kind is argument.KEYWORD_ONLY]
    positional = frozenset(argument.name for argument in arguments if argument.kind is argument.POSITIONAL_OR_KEYWORD)
    return positional, frozenset(argument.name for argument in keywords if argument.default is argument.empty)


def _check_arguments(solver: str, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    signature, called = _signature(solver), f"{solver}.solve"
    for name in keywords:
        if name not in signature.parameters:
            raise UnknownArgumentError.of(called, name, signature.parameters)
    positional, needed = _asked_for(solver)
    if len(inputs) == len(positional) and needed <= keywords.keys() and not positional & keywords.keys():
        return  # the rule, and much faster than to bind them
    try:
        signature.bind(*inputs, **keywords)
    except TypeError as error:
        raise InputError("solve", sorted(keywords), f"the arguments of {called}{signature} ({error})") from None


def _argument(name: str, value: Any, anchor: str) -> Any:
    """An argument of solve(): a table or a registry path is built, everything else is the solver's to judge."""
    named = isinstance(value, str) and value.partition(".")[0] in _ROOTS
    return build(name, value, anchor) if named or isinstance(value, dict) else value


def build(kind: str, description: object, name: str) -> Any:
    """A workload, accelerator, node, fabric, fleet or grid: by its registry name, or from a table of its fields."""
    if isinstance(description, str):
        return _registered(kind, description)
    if not isinstance(description, dict):
        raise InputError(kind, description, "a name in the registry or a table")
    try:
        text = json.dumps(description, sort_keys=True)
    except TypeError:  # TOML has dates
        raise InputError(kind, description, "a table of texts, numbers, lists and tables") from None
    return _from_table(kind, text, name)


@functools.lru_cache(maxsize=4096)
def _from_table(kind: str, description: str, name: str) -> Any:
    """Cached by content: the cases of a source share most of their tables."""
    fields = {"name": name, **json.loads(description)}
    for part in _PARTS.get(kind, ()):
        if part in fields:
            fields[part] = build(_PARTS[kind][part], fields[part], name)
    make = _type_of(kind, fields)
    try:
        return make(**fields)
    except UnknownArgumentError:
        raise
    except InputError as error:
        raise InputError(f"{kind}.{error.argument}", error.value, error.expected, error.suggestion) from None


def _type_of(kind: str, fields: dict[str, Any]) -> Callable[..., Any]:
    """The class that a table of this kind describes; a workload says it by ``architecture``."""
    if kind == "workload":
        by_architecture = {
            candidate.model_fields["architecture"].default: candidate
            for candidate in vars(workload_types).values()
            if inspect.isclass(candidate) and issubclass(candidate, Workload) and candidate is not Workload
        }
        architecture = fields.get("architecture", workload_types.TransformerWorkload.model_fields["architecture"].default)
        return looked_up("architecture", architecture, by_architecture)
    if kind not in _TYPES:
        raise InputError(kind, fields, "no table: this argument takes a plain value")
    return _TYPES[kind]


_TYPES: dict[str, Callable[..., Any]] = {
    "hardware": HardwareNode,
    "node": Node,
    "fabric": NetworkFabric,
    "fleet": Fleet,
    "grid": Grid,
}
# The parts of a table that are themselves a name or a table, and their kinds.
_PARTS: dict[str, dict[str, str]] = {"node": {"accelerator": "hardware"}, "fleet": {"node": "node", "fabric": "fabric"}}
# The registries, by which a path such as "Infra.Grids.US_Average_2020" begins, and the one that a kind of name is of.
_ROOTS: dict[str, Any] = {"Hardware": Hardware, "Models": Models, "Systems": Systems, "Infra": Infra}
_HOMES: dict[str, Any] = {
    "workload": Models,
    "hardware": Hardware,
    "node": Systems.Nodes,
    "fabric": Systems.Fabrics,
    "grid": Infra.Grids,
}


def _registered(kind: str, name: str) -> Any:
    """A registry entry by id ("llama2_70b"), symbol ("Llama2_70B") or path ("Models.Language.Llama2_70B")."""
    if kind not in _HOMES:
        raise InputError(kind, name, "a table: the registry has no entries of this kind")
    root, *path = name.split(".")
    if root not in _ROOTS:  # no path: names may have a dot of their own
        if path and nearest(root, _ROOTS):
            raise UnknownNameError.among(kind, name, _ROOTS)
        return _HOMES[kind].get(name)
    if not path:
        raise UnknownNameError.among(kind, name, _HOMES)
    *groups, entry = path
    place = _ROOTS[root]
    for group in groups:
        known = [label for label in vars(place) if not label.startswith("_")]
        if group not in known:
            listed = ", ".join(f"{root}.{label}" for label in known)
            raise UnknownNameError(kind, name, f"one of {listed}", nearest(group, known))
        place = getattr(place, group)
    return place.get(entry)
