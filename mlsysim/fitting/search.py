"""The search for the coefficients of a family that come nearest to what was measured.

Runs that share no fitted coefficient are fitted apart. To see how a coefficient moves the predictions, only the runs that hang
on it are predicted again, and those that can predict many choices in one call do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlsysim.calibration.store import resolved
from mlsysim.fitting.bounded import fit
from mlsysim.fitting.calibration import EVERY, Calibration, Entry, Key, Runs, Tables, lineage
from mlsysim.validation.kernels.errors import Times

# Predictions that are kept a group of runs: those of the step that was tried and of the one before.
_KEPT = 2
# A search begins where the entries stand and where the ranges say: the errors have dips, and neither is always in the best.
BEGINNINGS = ("written", "range")
# Another end counts where its errors are less by this share: between dips as deep as each other a written value stays.
_BETTER = 5e-3


def fitted(
    calibration: Calibration,
    runs: Sequence[Runs],
    tables: Tables,
    only: Collection[Key] | None = None,
    tolerance: float = 1e-8,
    begin: Sequence[str] = BEGINNINGS,
) -> dict[Key, bool]:
    """Fits ``tables`` to ``runs`` in place; what the runs do not decide stays.

    Args:
        calibration: the family.
        runs: what was measured.
        tables: the entries, which are changed.
        only: where given, coefficients that are fitted together with none of these stay as well.
        tolerance: the search ends when a step lowers the sum of the errors by less than this share.
        begin: where it begins; of several ends the one with the least errors counts.

    Returns:
        Whether each coefficient that was fitted ended at a bound of its range.
    """
    at_bound: dict[Key, bool] = {}
    for stage in sorted({run.stage for run in runs}):
        chosen = [run for run in runs if run.stage == stage]
        weights = dict(zip(map(id, chosen), calibration.weights(chosen), strict=True))
        for together, keys in components(calibration, chosen, tables, at_bound):
            if only is None or keys & set(only):
                weighed = np.concatenate([weights[id(run)] for run in together])
                at_bound |= _fit(calibration, together, tables, sorted(keys), weighed, tolerance, begin)
    return at_bound


def identified(calibration: Calibration, runs: Sequence[Runs], tables: Tables) -> set[Key]:
    """The coefficients that ``runs`` decide."""
    return {key for run in runs for key in _decided(run, tables, calibration.fitted_keys(tables))}


def components(
    calibration: Calibration, runs: Sequence[Runs], tables: Tables, known: Collection[Key] = ()
) -> list[tuple[list[Runs], set[Key]]]:
    """Groups of runs that share no fitted coefficient, with what they decide beside ``known``."""
    free = [key for key in calibration.fitted_keys(tables) if key not in known]
    groups: list[tuple[list[int], set[Key]]] = []
    for place, run in enumerate(runs):
        keys = _decided(run, tables, free)
        touching = [part for part in groups if part[1] & keys]
        groups = [part for part in groups if not part[1] & keys]
        places = [place, *(other for part in touching for other in part[0])]
        groups.append((places, keys.union(*(part[1] for part in touching))))
    return [([runs[place] for place in sorted(places)], keys) for places, keys in groups if keys]


def predicted(runs: Sequence[Runs], tables: Tables) -> Times:
    """Predictions of ``tables`` for all ``runs``, one after the other."""
    return np.concatenate([run.predict(entries_of(run, tables)) for run in runs])


def measured(runs: Sequence[Runs]) -> Times:
    """Measured figures of all ``runs``, one after the other."""
    return np.concatenate([run.measured for run in runs])


def entries_of(run: Runs, tables: Tables) -> dict[str, dict[str, Any]]:
    """The entries that ``run`` hangs on, with what each takes from those that it is like."""
    return {kind: _entry(tables[kind], name) for kind, name in run.on.items()}


def _entry(entries: Mapping[str, Entry], name: str) -> dict[str, Any]:
    if name == EVERY:
        return {own: entry["value"] for own, entry in entries.items()}
    return resolved(entries, name)


def _fit(
    calibration: Calibration,
    runs: Sequence[Runs],
    tables: Tables,
    keys: Sequence[Key],
    weights: Times,
    tolerance: float,
    begin: Sequence[str],
) -> dict[Key, bool]:
    placed = [_Placed.of(run, tables, keys) for run in runs]
    ranges = {key: calibration.start_of(tables, key) for key in keys}
    unwritten = {key: replace(known, start=known.pulled_to) for key, known in ranges.items()}
    others = [{key: known.begun_at(values.get(key.part)) for key, known in unwritten.items()} for values in calibration.starts]
    searches = {"written": [ranges], "range": [unwritten, *others]}

    def predict(values: Mapping[Key, float]) -> Times:
        return np.concatenate([one.predicted(values) for one in placed])

    def varied(values: Mapping[Key, float], changed: Mapping[Key, float]) -> Times:
        return np.concatenate([one.columns(values, changed) for one in placed])

    fits = [
        fit(predict, measured(runs), start, weights, calibration.pull, tolerance, varied)
        for start in (one for name in begin for one in searches[name])
    ]
    best = fits[0]
    for one in fits[1:]:
        best = one if one.cost < (1 - _BETTER) * best.cost else best
    for key, value in best.values.items():
        tables[key.kind][key.entry][key.part] = ranges[key].written(value, calibration.digits)
    return {key: key in best.at_bound for key in keys}


def _decided(run: Runs, tables: Tables, keys: Collection[Key]) -> set[Key]:
    return {key for key in _held_by(run, tables, keys) if run.decides(key)}


def _held_by(run: Runs, tables: Tables, keys: Collection[Key]) -> dict[Key, tuple[str, str]]:
    """Find the ``keys`` that a run hangs on, with the kind and the name under which its entries have them."""
    held = {}
    names = {kind: [] if name == EVERY else lineage(tables[kind], name) for kind, name in run.on.items()}
    for key in keys:
        if run.on.get(key.kind) == EVERY:
            held[key] = (key.kind, key.entry)
        elif key.entry in names.get(key.kind, ()):
            nearer = names[key.kind][: names[key.kind].index(key.entry)]
            if not any(key.part in tables[key.kind][name] for name in nearer):
                held[key] = (key.kind, key.part)
    return held


@dataclass(eq=False)
class _Placed:
    """Runs with their entries, and where in these what is fitted stands."""

    run: Runs
    entries: Mapping[str, Entry]
    held: Mapping[Key, tuple[str, str]]
    solved: dict[tuple[float, ...], Times] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Runs, tables: Tables, keys: Sequence[Key]) -> _Placed:
        return cls(run, entries_of(run, tables), _held_by(run, tables, keys))

    def predicted(self, values: Mapping[Key, float]) -> Times:
        """The runs' predictions with ``values``; kept, because most steps leave most groups as they were."""
        chosen = tuple(values[key] for key in self.held)
        if chosen not in self.solved:
            if len(self.solved) >= _KEPT:
                self.solved.pop(next(iter(self.solved)))
            self.solved[chosen] = self._predict(values)
        return self.solved[chosen]

    def columns(self, values: Mapping[Key, float], changed: Mapping[Key, float]) -> Times:
        """Predictions with ``values`` but for one that has ``changed``: a column for each."""
        plain = self.predicted(values)
        by_key = dict.fromkeys(changed, plain)
        together = [key for key in self.held if key.kind == self.run.together]
        if together:
            choices = {key: np.full((len(together), 1), values[key]) for key in together}
            for line, key in enumerate(together):
                choices[key][line] = changed[key]
            lines = np.broadcast_to(self._predict({**values, **choices}), (len(together), len(plain)))
            by_key |= dict(zip(together, lines, strict=True))
        for key in self.held:
            if key not in together:
                by_key[key] = self._predict({**values, key: changed[key]})
        return np.stack(list(by_key.values()), axis=-1)

    def _predict(self, values: Mapping[Key, Any]) -> Times:
        entries = {kind: dict(entry) for kind, entry in self.entries.items()}
        for key, (kind, part) in self.held.items():
            entries[kind][part] = values[key]
        return self.run.predict(entries)
