"""Scaling laws, fitted to the tables of ``anchors/scaling`` and the losses of ``anchors/scaling_loss``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlsysim.calibration.operations.scaling_laws import DATASET, FILE, LAW, PowerLaw, data_set_law
from mlsysim.calibration.store import coefficients
from mlsysim.core.units import Q_
from mlsysim.fitting.calibration import CALIBRATION, Calibration, Entry, Place, Runs, Tables
from mlsysim.fitting.search import fitted, measured, predicted
from mlsysim.physics.operations.scaling import OvertrainingLaw
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.kernels.errors import ErrorStatistics, Times

VALIDATION = "validation"
FILES = {LAW: Place(FILE, around=(LAW,)), DATASET: Place(FILE, around=(DATASET,))}
FOLDERS = ("scaling", "scaling_loss")
# Losses are known to a thousandth: an error counts as ten times as large, so that what is beyond half a per cent pulls less.
ERROR_WEIGHT = 10.0
# Runs below this size are fitted, and those above predicted, to see how far off a law is beyond its runs.
SMALL = 0.5e9


def _asked(anchor: Anchor, name: str) -> float:
    return float(Q_(str(anchor.case.solve[name])).m_as("flop" if name == "compute_budget" else "count"))


def _law_parameters(budgets: Sequence[float], entries: Mapping[str, Entry]) -> Times:
    """Parameters in units of the tables."""
    law = coefficients(PowerLaw, entries[LAW])
    return np.array([law.optimum(budget)[0] for budget in budgets]) / 1e9


def _losses(sizes: Times, tokens: Times, entries: Mapping[str, Entry]) -> Times:
    return np.asarray(coefficients(OvertrainingLaw, entries[DATASET]).loss(sizes, tokens))


def gathered(kind: str, root: Path, role: str, chosen: Callable[[Anchor], bool] = lambda anchor: True) -> list[Runs]:
    """The cases of ``role`` under ``root`` that decide a fitted law: those of one law, or of one data set, together."""
    groups: dict[tuple[str, str], list[Anchor]] = {}
    for path in anchor_files(root):
        for anchor in load(path) if path.parent.name in FOLDERS else ():
            place = _place(anchor)
            if anchor.case.role == role and place[0] == kind and place in _fitted() and chosen(anchor):
                groups.setdefault(place, []).append(anchor)
    return [_runs(*place, anchors) for place, anchors in groups.items()]


@functools.cache
def _fitted() -> frozenset[tuple[str, str]]:
    return frozenset((kind, name) for kind, place in FILES.items() for name, entry in place.entries().items() if "fit" in entry)


def _place(anchor: Anchor) -> tuple[str, str]:
    """The entry that a case hangs on: a data set's, or a law's."""
    asked = anchor.case.solve
    if "dataset" in asked:
        return DATASET, data_set_law(asked["dataset"], asked.get("measured_on")).name
    return LAW, str(asked.get("law", ""))


def _runs(kind: str, name: str, anchors: Sequence[Anchor]) -> Runs:
    predict: Callable[[Mapping[str, Entry]], Times]
    if kind == LAW:
        predict = functools.partial(_law_parameters, [_asked(anchor, "compute_budget") for anchor in anchors])
    else:
        sizes, tokens = (np.array([_asked(anchor, part) for anchor in anchors]) for part in ("parameters", "tokens"))
        predict = functools.partial(_losses, sizes, tokens)
    values = np.array([anchor.case.value or 0.0 for anchor in anchors])
    return Runs(on={kind: name}, measured=values, sources=[anchor.source.key for anchor in anchors], predict=predict)


SCALING = Calibration(
    name="scaling",
    files={LAW: FILES[LAW]},
    gathered=functools.partial(gathered, LAW),
)
LOSSES = Calibration(
    name="losses",
    files={DATASET: FILES[DATASET]},
    gathered=functools.partial(gathered, DATASET),
    pull=0.003,
    error_weight=ERROR_WEIGHT,
)


def within(root: Path) -> ErrorStatistics:
    """How far off losses are that lie within what their laws were fitted to: of validation rows, as the laws are written."""
    return _errors(gathered(DATASET, root, VALIDATION, _inside), LOSSES.tables())


def beyond(root: Path) -> ErrorStatistics:
    """How far off losses of larger models are by laws that were fitted to the smaller ones: of calibration rows."""
    tables = LOSSES.tables()
    fitted(LOSSES, gathered(DATASET, root, CALIBRATION, lambda anchor: not _large(anchor)), tables)
    return _errors(gathered(DATASET, root, CALIBRATION, _large), tables)


def _large(anchor: Anchor) -> bool:
    return _asked(anchor, "parameters") > SMALL


def _inside(anchor: Anchor) -> bool:
    law = data_set_law(anchor.case.solve["dataset"], anchor.case.solve.get("measured_on"))
    return law.spread(_asked(anchor, "parameters"), _asked(anchor, "tokens")).times == 1


def _errors(runs: Sequence[Runs], tables: Tables) -> ErrorStatistics:
    return ErrorStatistics.of(predicted(runs, tables), measured(runs))
