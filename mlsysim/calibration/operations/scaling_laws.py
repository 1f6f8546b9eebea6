"""Scaling laws, and the loss of runs on named data sets, as ``data/scaling_laws.toml`` states them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from mlsysim.calibration.store import coefficients
from mlsysim.core.errors import UnknownNameError
from mlsysim.core.names import folded
from mlsysim.core.toml import packaged_toml, reads
from mlsysim.physics.operations.scaling import TRAINING_FLOP, OvertrainingLaw, ParametricLaw, compute_law_loss

FILE = "scaling_laws.toml"
LAW, DATASET, WITHIN, BEYOND = "law", "dataset", "within", "beyond"
PARAMETRIC, OVERTRAINING, COMPUTE = "parametric", "overtraining", "compute"


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Parameters and tokens of a compute-optimal model as powers of the budget.

    Attributes:
        parameters: those at ``at_flops``.
        exponent: the power of the budget that they grow with.
        at_flops: a budget.
        tokens: the tokens at ``at_flops``; 0 where they follow from C = 6 N D.
        tokens_exponent: the power that these grow with.
    """

    parameters: float
    exponent: float
    at_flops: float
    tokens: float = 0.0
    tokens_exponent: float = 0.0

    def optimum(self, budget_flops: float) -> tuple[float, float]:
        """Parameters and tokens of the compute-optimal model.

        Example:
            >>> PowerLaw(70e9, 0.5, 5.88e23).optimum(5.88e23)
            (70000000000.0, 1400000000000.0)
        """
        times = budget_flops / self.at_flops
        parameters = self.parameters * times**self.exponent
        if self.tokens:
            return parameters, self.tokens * times**self.tokens_exponent
        return parameters, budget_flops / (TRAINING_FLOP * parameters)


@dataclass(frozen=True, slots=True)
class Law:
    """A law of how a budget is split.

    Attributes:
        name: its name in the file.
        split: the law itself.
        source: where it was published.
        fitted: names of its fitted coefficients.
    """

    name: str
    split: PowerLaw | ParametricLaw
    source: str
    fitted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """How far off the losses are that a law gives: errors of runs that it was not fitted to.

    Attributes:
        runs: how many there are.
        median, p90: what half and nine in ten of them stay within, as fractions.
        times: how far beyond the fitted runs the question lies, in parameters or tokens; 1 within them.
    """

    runs: int
    median: float
    p90: float
    times: float


@dataclass(frozen=True, slots=True)
class DataSetLaw:
    """The law of the loss of runs on a named data set.

    Attributes:
        name: its name in the file.
        trained_on, measured_on: the data sets, as a person calls them.
        counts: which parameters it counts.
        form: the law of parameters and tokens, or None where it is one of compute alone.
        of_compute: E, the budget and the exponent of a law of compute.
        parameters, tokens: from the least to the most of the runs that it was fitted to.
        runs, median, p90: the errors of runs within these that it was not fitted to.
        source: where it was published.
        fitted: names of its fitted coefficients.
    """

    name: str
    trained_on: str
    measured_on: str
    counts: str
    form: ParametricLaw | OvertrainingLaw | None
    of_compute: tuple[float, float, float]
    parameters: tuple[float, float]
    tokens: tuple[float, float]
    runs: int
    median: float
    p90: float
    source: str
    fitted: tuple[str, ...]

    @property
    def called(self) -> str:
        """What it was trained on, and what the loss is measured on where that is something else."""
        return self.trained_on if self.measured_on == self.trained_on else f"{self.trained_on}, measured on {self.measured_on}"

    def by(self, law: object) -> DataSetLaw:
        """Take the loss from ``law`` where both are parametric: then it is another law of the same runs."""
        both = isinstance(self.form, ParametricLaw) and isinstance(law, ParametricLaw)
        return replace(self, form=law) if both else self  # type: ignore[arg-type]

    def loss(self, parameters: float, tokens: float, budget_flops: float) -> float:
        """Nats a token of a run.

        Args:
            parameters: of the model, as the law counts them.
            tokens: of the training.
            budget_flops: its FLOP, which a law of compute alone hangs on.
        """
        if self.form is None:
            return float(compute_law_loss(budget_flops, *self.of_compute))
        return float(self.form.loss(parameters, tokens))

    def spread(self, parameters: float, tokens: float) -> Spread:
        """How far off the loss of a run may be: as measured, and the more the further it lies beyond what was fitted."""
        pairs = ((parameters, self.parameters), (tokens, self.tokens))
        times = max(1.0, *(max(low / value, value / high) for value, (low, high) in pairs))
        if times == 1:
            return Spread(self.runs, self.median, self.p90, times)
        further = _errors(BEYOND)
        steps = max(1.0, math.log(times) / math.log(further["times"]))
        return Spread(int(further["runs"]), self.median + steps * further["median"], self.p90 + steps * further["p90"], times)


@reads("calibration", FILE)
def _errors(of: str) -> dict[str, float]:
    """How far off losses are that lie within, or beyond, what the fitted laws were fitted to."""
    return {name: float(value) for name, value in packaged_toml("calibration", FILE)[of].items() if name != "source"}


@reads("calibration", FILE)
def repeats_half_life() -> tuple[float, str]:
    """The repeats of a token after which more of them are worth little, and where that was published."""
    entry = packaged_toml("calibration", FILE)["repeats"]
    return float(entry["half_life"]), str(entry["source"])


@reads("calibration", FILE)
def _laws() -> dict[str, str]:
    """The names of the laws that split a budget, after each spelling."""
    entries = packaged_toml("calibration", FILE)[LAW]
    return {folded(called): name for name, entry in entries.items() for called in (name, *entry.get("names", ()))}


def scaling_law(name: str) -> Law:
    """The law called ``name``, in any spelling.

    Raises:
        UnknownNameError: there is none of this name.

    Example:
        >>> scaling_law("Besiroglu").split.alpha, scaling_law("approach1").name
        (0.3478, 'chinchilla-1')
    """
    called = _laws()
    known = called.get(folded(name)) if isinstance(name, str) else None
    if known is None:
        raise UnknownNameError.among("law", name, dict.fromkeys(called.values()))
    return _law(known)


@reads("calibration", FILE)
def _law(name: str) -> Law:
    entry = packaged_toml("calibration", FILE)[LAW][name]
    kind: Any = ParametricLaw if entry["kind"] == PARAMETRIC else PowerLaw
    return Law(name, coefficients(kind, entry), str(entry["source"]), _fitted(LAW, name, entry))


def _fitted(kind: str, name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"scaling_{kind}.{name}.{part}" for part in entry.get("fit", ()))


@reads("calibration", FILE)
def _called() -> dict[str, dict[str, str]]:
    """The entries by what was trained on, and there by what was measured on, in every spelling; the first is the default."""
    called: dict[str, dict[str, str]] = {}
    for key, entry in packaged_toml("calibration", FILE)[DATASET].items():
        for trained in (entry["trained_on"], *entry["names"]):
            for measured in (entry["measured_on"], *entry.get("measured_names", ())):
                called.setdefault(folded(trained), {})[folded(measured)] = key
    return called


def data_sets() -> list[str]:
    """The data sets that a law of loss is known for, as people call them."""
    return list(dict.fromkeys(entry["trained_on"] for entry in packaged_toml("calibration", FILE)[DATASET].values()))


def data_set_law(trained_on: str, measured_on: str | None = None) -> DataSetLaw:
    """The law of the loss of runs on a data set.

    Raises:
        UnknownNameError: no law is known for the data set, or none for what it is measured on.

    Example:
        >>> data_set_law("RedPajama").measured_on, data_set_law("rpj", "open_lm_val").measured_on
        ('C4 validation', 'OpenLM validation')
    """
    called = _called()
    known = called.get(folded(trained_on)) if isinstance(trained_on, str) else None
    if known is None:
        raise UnknownNameError.among("dataset", trained_on, data_sets())
    if measured_on is None:
        return _data_set(next(iter(known.values())))
    key = known.get(folded(measured_on)) if isinstance(measured_on, str) else None
    if key is None:
        raise UnknownNameError.among(
            "measured_on", measured_on, dict.fromkeys(_data_set(one).measured_on for one in known.values())
        )
    return _data_set(key)


@reads("calibration", FILE)
def _data_set(key: str) -> DataSetLaw:
    entry = packaged_toml("calibration", FILE)[DATASET][key]
    form, of_compute = entry["form"], (0.0, 0.0, 0.0)
    law: ParametricLaw | OvertrainingLaw | None = None
    if form == COMPUTE:
        of_compute = (float(entry["E"]), float(entry["scale_flops"]), float(entry["exponent"]))
    elif form == OVERTRAINING:
        law = coefficients(OvertrainingLaw, entry)
    else:
        split = _law(entry["law"]).split
        law = split if isinstance(split, ParametricLaw) else None
    errors = _errors(WITHIN) if "fit" in entry else entry
    return DataSetLaw(
        name=key,
        form=law,
        of_compute=of_compute,
        fitted=_fitted(DATASET, key, entry),
        parameters=(float(entry["parameters"][0]), float(entry["parameters"][1])),
        tokens=(float(entry["tokens"][0]), float(entry["tokens"][1])),
        runs=int(errors["runs"]),
        median=float(errors["median"]),
        p90=float(errors["p90"]),
        **{part: str(entry[part]) for part in ("trained_on", "measured_on", "counts", "source")},
    )
