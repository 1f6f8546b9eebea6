"""A shipped stack or serving engine, calibrated to a user's runs: few coefficients, each pulled to its shipped value.

A coefficient's prior has a width: how far it may be from its shipped value on another cluster, before any run of it. What
belongs to a cluster (links, network, clock, host) may be far, what belongs to the software (what it overlaps) is not. Widths
are chosen. The standard error of a run's logarithm begins as ``NOISE`` and is then what the fit leaves; with it runs and priors
together are a normal posterior at the fit's end (by its Jacobian). A coefficient that keeps nearly all of its prior's width
there is not identified. Fits without a run take the standard error of the fit with all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlsysim.calibration.intervals import LEVEL, conformal_quantile
from mlsysim.calibration.own import STACK, WIDEST, OwnErrors
from mlsysim.calibration.stacks import usual_entry
from mlsysim.calibration.store import resolved
from mlsysim.core.errors import DataError
from mlsysim.fitting import engines, training
from mlsysim.fitting.bounded import Coefficient
from mlsysim.fitting.calibration import Calibration, Entry, Key, Runs, Tables, lineage, ranges
from mlsysim.fitting.own.priors import priors
from mlsysim.fitting.own.runs import OwnRun, together
from mlsysim.fitting.search import fitted, predicted
from mlsysim.fitting.toml_text import toml_tables
from mlsysim.physics.serving.deployment import EngineCoefficients
from mlsysim.physics.training.step_inputs import StackCoefficients
from mlsysim.validation.kernels.errors import Times

# The standard error of a run's logarithm before any is looked at: repeated runs differ by some percent (tolerances of anchors).
NOISE = 0.03
LEAST_NOISE, MOST_NOISE = 0.003, 0.1
_NOISE_STEPS = 3
# A coefficient whose posterior is at least this wide, over its prior, was not placed by the runs.
UNPLACED = 0.9
FEWEST = 3
# No interval is narrower than runs of one recipe differ.
NARROWEST = 0.02
# Fits without a part of the runs, at most.
FOLDS = 24
_ENTRY = "own"
_STEP = 1e-4  # of a range, for the Jacobian


@dataclass(frozen=True)
class Placed:
    """A coefficient after the fit.

    Attributes:
        part: its name.
        shipped, value: before and after.
        width: standard deviation of the value after the fit; of a coefficient whose logarithm is fitted, of that.
        posterior: that width over the prior's.
        at_bound: whether it ended at an end of its range.
        placed_by: which run would place it.
    """

    part: str
    shipped: float
    value: float
    width: float
    posterior: float
    at_bound: bool
    placed_by: str

    @property
    def identified(self) -> bool:
        """Whether the runs say anything of it."""
        return self.posterior < UNPLACED


@dataclass(frozen=True)
class OwnCalibration:
    """The outcome: coefficients, and the errors of each run as shipped and by a fit without it.

    Attributes:
        kind, like: what was calibrated, and the shipped stack or engine that it began from.
        runs: the runs.
        placed: the coefficients.
        shipped, left_out: predicted / measured of each run: of the shipped one, and of a fit that was not given the run.
    """

    kind: str
    like: str
    runs: Sequence[OwnRun]
    placed: Sequence[Placed]
    shipped: Times
    left_out: Times

    @property
    def errors(self) -> dict[str, OwnErrors]:
        """What is measured, and how far off the runs are that a fit was not given."""
        found: dict[str, list[float]] = {}
        for run, ratio in zip(self.runs, self.left_out, strict=True):
            found.setdefault(run.quantity, []).append(float(ratio))
        return {quantity: errors_of(ratios) for quantity, ratios in found.items() if len(ratios) >= FEWEST}

    def text(self) -> str:
        """The file that ``stack="..."`` takes."""
        years = [run.year for run in self.runs if run.year is not None]
        entry: dict[str, Any] = {"like": self.like, "called": self.runs[0].called or self.like}
        entry |= {"year": int(max(years))} if years else {}
        entry["accelerators"] = sorted({run.accelerator for run in self.runs})
        entry["source"] = f"{len(self.runs)} figures, calibrated by mlsysim"
        entry |= {one.part: one.value for one in self.placed}
        rounded = ((name, vars(one)) for name, one in self.errors.items())
        errors = {name: {key: float(f"{value:.4g}") for key, value in told.items()} for name, told in rounded}
        head = "Written by mlsysim calibrate. errors: of figures that fits without them predict; log_width: half an interval."
        return toml_tables({self.kind: entry, "errors": errors}, head)


def errors_of(ratios: Sequence[float]) -> OwnErrors:
    """Summarise predicted / measured of runs that were left out; their interval is the wider the fewer they are.

    It is the largest of ``NARROWEST``, of the conformal quantile and of the prediction interval of a normal error of unknown
    width (Student's distribution), which is what few runs can tell.

    Example:
        >>> few, more = errors_of([1.02, 0.98, 1.02]), errors_of([1.02, 0.98] * 10)
        >>> 0.05 < few.log_width < 0.06, more.log_width < 0.04, round(few.median, 3)
        (True, True, 0.02)
    """
    from scipy.stats import t as student

    logs = sorted(abs(math.log(ratio)) for ratio in ratios)
    count, root = len(logs), math.sqrt(sum(error * error for error in logs) / len(logs))
    wide = float(student.ppf((1 + LEVEL) / 2, count)) * root * math.sqrt(1 + 1 / count)
    shares = sorted(abs(ratio - 1) for ratio in ratios)
    return OwnErrors(
        min(max(wide, conformal_quantile(logs), NARROWEST), WIDEST), count, shares[count // 2], conformal_quantile(shares)
    )


def calibrated(runs: Sequence[OwnRun]) -> OwnCalibration:
    """Calibrate the stack or engine of some runs to these, and predict each by a fit without it.

    Raises:
        DataError: they are fewer.
        MLSysError: SciPy is missing (the ``fit`` extra has it).
    """
    keys = list(dict.fromkeys(run.key for run in runs))
    if len(keys) < FEWEST:
        raise DataError(f"{len(keys)} runs: expected at least {FEWEST}: fewer say nothing of how far off a prediction is")
    kind, like = runs[0].kind, runs[0].software
    shipped = _tables(kind, like)
    family, before = _family(kind, shipped), _ratios(runs, shipped)
    tables = shipped
    for _ in range(_NOISE_STEPS):
        tables, at_bound = _fit(family, runs, tables)
        widths = _posterior(family, runs, tables)
        noise = _noise(list(_ratios(runs, tables).values()), list(widths.values()))
        family = replace(family, pull=noise)
    folds = [{key for place, key in enumerate(keys) if place % FOLDS == fold} for fold in range(min(FOLDS, len(keys)))]
    left_out: dict[str, float] = {}
    for fold in folds:
        without, _ = _fit(family, [run for run in runs if run.key not in fold], tables)
        left_out |= _ratios([run for run in runs if run.key in fold], without)
    known = priors(kind)
    placed = [
        Placed(
            part=key.part,
            shipped=_value(shipped, key),
            value=float(tables[kind][_ENTRY][key.part]),
            width=widths[key] * known[key.part].width,
            posterior=widths[key],
            at_bound=at_bound.get(key, False),
            placed_by=known[key.part].placed_by,
        )
        for key in family.fitted_keys(shipped)
    ]
    order = [run.id for run in runs]
    return OwnCalibration(kind, like, runs, placed, *(np.array([by[id] for id in order]) for by in (before, left_out)))


def _tables(kind: str, like: str) -> Tables:
    """The shipped entries, with one more that is like the shipped stack and states all that is fitted of it."""
    base = (training.TRAINING if kind == STACK else engines.ENGINES).tables()
    entries = base[kind]
    forebears = [entries[name] for name in lineage(entries, like)]
    fitted_parts = {part for entry in forebears for part in (*entry.get("fit", ()), *entry.get("usual", ()))}
    parts = [part for part, prior in priors(kind).items() if prior.of_cluster or part in fitted_parts]
    known = usual_entry(like) if kind == STACK else resolved(entries, like)
    defaults: Any = StackCoefficients() if kind == STACK else EngineCoefficients()
    entries[_ENTRY] = {**{part: float(known.get(part, getattr(defaults, part))) for part in parts}, "like": like, "fit": parts}
    return base


def _family(kind: str, shipped: Tables) -> Calibration:
    family = training.TRAINING if kind == STACK else engines.ENGINES
    known_ranges = ranges("training") if kind == STACK else ranges("engines", "engine")

    def range_of(key: Key, entry: Entry) -> Coefficient:
        known, prior = known_ranges[key.part], _value(shipped, key)
        low, high = min(known.low, prior), max(known.high, prior)
        whole = math.log(high / low) if known.log else high - low
        return Coefficient(prior, low, high, known.log, prior, whole / priors(kind)[key.part].width)

    def fits(of: str, entry: Entry) -> Sequence[str]:
        return entry["fit"] if of == kind and entry is not None and entry.get("own") else ()

    shipped[kind][_ENTRY]["own"] = True
    return replace(family, ranged=range_of, fits=fits, pull=NOISE, rows_at_full_weight=None, starts=())


def _value(tables: Tables, key: Key) -> float:
    return float(tables[key.kind][key.entry][key.part])


def _noise(ratios: Sequence[float], widths: Sequence[float]) -> float:
    """The standard error of a run's logarithm by what a fit leaves, which takes as many degrees of freedom as it has placed."""
    free = len(ratios) - sum(1 - width * width for width in widths)
    left = sum(math.log(ratio) ** 2 for ratio in ratios)
    return min(max(math.sqrt(left / max(free, 1.0)), LEAST_NOISE), MOST_NOISE)


def _own(runs: Sequence[OwnRun]) -> list[Runs]:
    """The runs of the entry that is fitted; those of models with experts decide everything else too."""
    kind = runs[0].kind
    return [replace(run, on={**run.on, kind: _ENTRY}, stage=0, decides=lambda key: True) for run in together(runs)]


def _fit(family: Calibration, runs: Sequence[OwnRun], begun_at: Tables) -> tuple[Tables, dict[Key, bool]]:
    tables = {kind: {name: dict(entry) for name, entry in entries.items()} for kind, entries in begun_at.items()}
    at_bound = fitted(family, _own(runs), tables, tolerance=1e-6, begin=("written",))
    return tables, at_bound


def _ratios(runs: Sequence[OwnRun], tables: Tables) -> dict[str, float]:
    """Predicted over measured of each run, by its id."""
    ratios: dict[str, float] = {}
    for group in _own(runs):
        ratios |= dict(zip(group.sources, predicted([group], tables) / group.measured, strict=True))
    return {name: float(ratio) for name, ratio in ratios.items()}


def _posterior(family: Calibration, runs: Sequence[OwnRun], tables: Tables) -> Mapping[Key, float]:
    """The width of each coefficient after the fit, over that of its prior."""
    groups, keys = _own(runs), family.fitted_keys(tables)
    plain, columns, widths = np.log(predicted(groups, tables)), [], []
    for key in keys:
        known, entry = family.range_of(key, tables[key.kind][key.entry]), tables[key.kind][key.entry]
        value = float(entry[key.part])
        whole = math.log(known.high / known.low) if known.log else known.high - known.low
        step = _STEP * whole * (1 if value < (known.low + known.high) / 2 else -1)
        entry[key.part] = value * math.exp(step) if known.log else value + step
        columns.append((np.log(predicted(groups, tables)) - plain) / step)
        entry[key.part] = value
        widths.append(whole / known.stiffness)
    scaled = np.stack(columns, axis=-1) * np.array(widths) / family.pull
    spread = np.linalg.inv(scaled.T @ scaled + np.eye(len(keys)))
    return {key: float(math.sqrt(spread[place, place])) for place, key in enumerate(keys)}
