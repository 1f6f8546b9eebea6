"""The base of all results: its basis, whether the plan can run, a readable card, and an export."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pint

from mlsysim.calibration.evidence import FITTED_BASES, MeasuredRun, RunFacts, quantity_of, was_measured
from mlsysim.calibration.operations.power import AcceleratorLoad
from mlsysim.core.errors import InfeasibleError, UnknownNameError, UnsoundError
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.models.types import TransformerWorkload, Workload
from mlsysim.solvers.card import as_html, as_text, card_of
from mlsysim.solvers.frame import framed
from mlsysim.solvers.interval import Interval, interval_about, nearest_to
from mlsysim.solvers.shown import shown

if TYPE_CHECKING:
    import pandas as pd

BASES = ("bound", "efficiency", "calibrated", "transferred", "law", "identity")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A solver's answer. Quantities carry units; fractions are plain floats.

    Attributes:
        solver: name of the solver.
        subject: the question in a few words: the workload and what it runs on.
        basis: what the numbers rest on: ``bound`` (physics and datasheets), ``efficiency`` (a number that the caller
            owns), ``calibrated`` (fitted coefficients of a stack and an accelerator that were measured), ``transferred``
            (fitted coefficients of a relative, because the stack or the accelerator was not), ``law`` (a published empirical
            law) or ``identity`` (arithmetic on what the caller states).
        feasible: whether it can run at all: there is no ``reason`` against it. When not, that says why with the bytes, and the
            other numbers say what would hold if it could.
        reason: why it is infeasible, else empty.
        binding: what limits the result.
        breakdown: named parts that sum to the main quantity; empty where it has none.
        diagnostics: what a reader should know of the input.
        coefficients: names of the fitted coefficients that it rests on (calibrated basis).
        facts: what a calibrated run is of, by which measured runs like it are found.
        load: what it asks of its accelerators, by which ``PowerModel`` finds their power; None where that is not known.
        interval: where nine in ten measurements of ``INTERVAL_OF`` are expected; None where nothing was fitted or measured.
        scope: the measured runs that the interval rests on.
        nearest: the three published runs that are most like this one, with their errors.
    """

    HEADLINE: ClassVar[tuple[str, ...]] = ()
    # Fields that a search for the highest load finds, and that ``solve(request_rate=...)`` judges without one.
    JUDGED: ClassVar[tuple[str, ...]] = ()
    # The field whose interval is the result's, and the solver whose measured runs tell how wide it is ("": this one).
    INTERVAL_OF: ClassVar[str] = ""
    MEASURED_AS: ClassVar[str] = ""
    # What counts of a field are of, where the field's name does not say it; "breakdown": those of its parts.
    COUNTED: ClassVar[Mapping[str, str]] = {}
    # The field that has the rows of ``to_frame``; without one the result is a row itself.
    ROWS_OF: ClassVar[str] = ""
    # Whether other times and rates have intervals too: not where they are tails of a queue, which multiplies an error.
    INTERVALS_OF_ALL: ClassVar[bool] = True

    solver: str
    subject: str
    basis: str
    feasible: bool = field(init=False)
    reason: str = ""
    binding: str
    breakdown: Mapping[str, Quantity] = field(default_factory=dict)
    diagnostics: tuple[str, ...] = ()
    coefficients: tuple[str, ...] = ()
    facts: RunFacts | None = field(default=None, repr=False)
    load: AcceleratorLoad | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "feasible", not self.reason)
        for name, value in _unsound(vars(self)):
            raise UnsoundError(f"{name} would be {shown(value)} (of {self.solver})")
        if self.basis == "calibrated" and self.facts is not None:
            object.__setattr__(self, "basis", fitted_basis(self.measured_as, self.facts))

    @property
    def measured_as(self) -> str:
        """The solver whose measured runs tell how far off this result may be."""
        return self.MEASURED_AS or self.solver

    @cached_property
    def interval(self) -> Interval | None:
        """Where nine in ten measurements of ``INTERVAL_OF`` are expected; None where nothing was fitted or measured."""
        return self.interval_of(self.INTERVAL_OF) if self.INTERVAL_OF else None

    @property
    def scope(self) -> str:
        """The measured runs that the interval rests on, in words."""
        return f"none: {self.basis}" if self.interval is None else self.interval.scope

    @cached_property
    def nearest(self) -> tuple[MeasuredRun, ...]:
        """The three published runs that are most like this one, of as many sources as there are."""
        if self.interval is None or self.facts is None:
            return ()
        return nearest_to(self.measured_as, quantity_of(self.INTERVAL_OF), self.facts)

    def interval_of(self, name: str) -> Interval | None:
        """Where nine in ten measurements of a field are expected.

        Args:
            name: a field that is a time, a rate or a utilisation.

        Returns:
            The interval; None where nothing was fitted, nothing like it was measured, or the field is a tail of a queue.

        Raises:
            UnknownNameError: the result has no such field.
        """
        if name not in {part.name for part in fields(self)}:
            raise UnknownNameError.among("name", name, [part.name for part in fields(self)])
        if self.basis not in FITTED_BASES or self.facts is None or not (self.INTERVALS_OF_ALL or name == self.INTERVAL_OF):
            return None
        return interval_about(self.measured_as, name, getattr(self, name), self.facts)

    def taken(self, *names: str) -> dict[str, Any]:
        """Give fields by name, as an answer takes them over that stands on this one.

        Args:
            names: the fields.
        """
        return {name: getattr(self, name) for name in names}

    def require_feasible(self) -> Self:
        """This result, or ``InfeasibleError`` with the reason."""
        if not self.feasible:
            raise InfeasibleError(f"{self.subject}: {self.reason}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values; a quantity becomes ``{"value": ..., "unit": ...}``."""
        plain = {part.name: _plain(getattr(self, part.name)) for part in fields(self) if part.name not in _UNPRINTED}
        return plain | ({} if self.interval is None else {"interval": self.interval.to_dict()})

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        return as_text(card_of(self))

    def _repr_html_(self) -> str:
        """The card as a notebook shows it."""
        return as_html(card_of(self))

    def to_frame(self) -> pd.DataFrame:
        """Fields as a table of pandas: a row for each plan of a ranking, where there is one, else a single row.

        Quantities are numbers in base units, with the unit in the column's name.

        Raises:
            MLSysError: pandas is not installed.
        """
        return framed([self.to_dict()] if not self.ROWS_OF else [_plain(row) for row in getattr(self, self.ROWS_OF)])


@dataclass(frozen=True, kw_only=True)
class SampledResult(Result):
    """An answer about samples that pass through a model.

    Attributes:
        throughput: samples (sequences, images) a second of all accelerators.
        mfu: share of the peak that the model's arithmetic reaches.
    """

    COUNTED: ClassVar[Mapping[str, str]] = {"throughput": "samples"}

    throughput: Quantity
    mfu: float


@dataclass(frozen=True, kw_only=True)
class DrawnResult(Result):
    """An answer about accelerators that compute.

    Attributes:
        power: of one accelerator, mean; None of a bound, and where it is not known.
        energy: of all accelerators, for what the answer counts; hosts and the building are not in it (``PowerModel``).
    """

    power: Quantity | None = None
    energy: Quantity | None = None


# By these others find what is like a result; they say nothing of it.
_UNPRINTED = ("facts", "load")
# The most that a figure may be: shares of the peak, for nothing is faster. The last digits are lost in sums.
_MOST = dict.fromkeys(("mfu", "hfu", "prefill_mfu"), 1 + 1e-9)
_LARGEST = sys.float_info.max
# The least, where it is not 0: by how much one plan is slower than another.
_LEAST = {"slower": -1.0}
# Figures by name that may be negative: a faster rate makes a time less.
_SIGNED = ("elasticities",)


def _unsound(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Figures that are no finite number, negative, or above what they may be; results within were looked at when made."""
    for name, value in figures.items():
        kind = type(value)
        if kind is Quantity:
            number = value._magnitude
        elif kind is float or kind is int:
            number = value
        elif kind is dict:
            if name not in _SIGNED:
                yield from _unsound(value)
            continue
        elif kind is tuple:
            if value and type(value[0]) is not str:
                for part in value:
                    yield from _unsound(part if type(part) is dict else {name: part})
            continue
        else:
            continue
        if not (0 <= number <= _LARGEST) or name in _MOST:
            least, most = _LEAST.get(name, 0.0), _MOST.get(name, _LARGEST)
            if not least <= number <= most:
                yield name, value


def run_facts(workload: Workload, accelerator: HardwareNode, stack: object, accelerators: float) -> RunFacts:
    """What a run is of; ``stack`` is the name of a stack or engine, an object that has one, or None."""
    named = "" if stack is None else str(getattr(stack, "file", "") or getattr(stack, "name", stack))
    return RunFacts(workload.name, workload.kind, accelerator.name, named, float(accelerators))


def beyond_context(workload: Workload, tokens: float) -> tuple[str, ...]:
    """Note a sequence that is longer than its model was made for.

    Example:
        >>> from mlsysim.models.registry import Models
        >>> beyond_context(Models.Language.Llama3_8B, 9000), beyond_context(Models.Language.Llama3_8B, 8192)
        (('seq_len 9000 is beyond the 8192 that Llama-3-8B was made for',), ())
    """
    most = workload.max_seq_len if isinstance(workload, TransformerWorkload) else None
    if most is None or tokens <= most:
        return ()
    return (f"seq_len {tokens:.0f} is beyond the {most} that {workload.name} was made for",)


def drawn(load: AcceleratorLoad | None) -> dict[str, Any]:
    """The fields ``load``, ``power`` and ``energy`` of a result: power of one accelerator, energy of all for a unit of work."""
    if load is None:
        return {}
    watts = load.accelerator.drawn_W(load.activity)
    energy = with_unit(watts * load.accelerator_s, load.unit)
    return {"load": load, "power": with_unit(watts, "watt"), "energy": energy}


def fitted_basis(solver: str, facts: RunFacts) -> str:
    """Return "calibrated" where the stack and the accelerator have measurements of their own, else "transferred".

    Example:
        >>> fitted_basis("DistributedModel", RunFacts("GPT", "dense", "H100 SXM5 80GB", "no such stack", 8))
        'transferred'
    """
    return "calibrated" if was_measured(solver, facts) else "transferred"


def _plain(value: Any) -> Any:
    if isinstance(value, pint.Quantity):
        return {"value": float(value.magnitude), "unit": str(value.units)}
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    return value
