"""Each training source predicted without itself.

Stacks and sustained clocks are fitted again to the calibration cases of all other sources. What no row identifies then stands
at its prior, the median over the others that state it: the coefficients of a stack that nobody else runs, the clock of a device
that nobody else has. Then every row of the source is predicted, calibration rows too: none was fitted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mlsysim.calibration.store import resolved
from mlsysim.core.errors import DataError
from mlsysim.fitting.calibration import CALIBRATION, Runs, Tables, cases, lineage
from mlsysim.fitting.search import fitted, identified, measured, predicted
from mlsysim.fitting.training import TRAINING, runs_of
from mlsysim.physics.training.step_inputs import StackCoefficients
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.report.left_out import TRAINING_FILE, HeldOut, differences, summary
from mlsysim.validation.report.targets import held_out_groups

HEADER = """\
Training sources predicted without themselves, written by python -m mlsysim.fitting refresh
without: the sources whose rows the fit was not given; cases: what is predicted, in both roles; stacks, clocks, shared: the
coefficients that these cases use, fitted to the other sources or, where no other row identifies them, the median of the others.
errors: of |predicted / measured - 1|, as fractions; bias is the mean of the signed error."""
# Recomputed errors may differ from the written ones by their rounding.
_ROUNDING = 0.0002
_DEFAULTS = {part.name: part.default for part in fields(StackCoefficients)}


@functools.lru_cache(maxsize=4)
def anchors_of(root: Path) -> tuple[Anchor, ...]:
    """All training cases under ``root`` that have a stack, of both roles."""
    return tuple(anchor for role in (CALIBRATION, "validation") for anchor in cases(root, ("training",), role))


def calibration_sources(anchors: Iterable[Anchor]) -> set[str]:
    """The sources that have calibration cases: leaving out another changes no fit."""
    return {anchor.source.key for anchor in anchors if anchor.case.role == CALIBRATION}


def every(root: Path) -> list[HeldOut]:
    """Each source with runs under ``root``, and the groups that its targets name."""
    each = [HeldOut(key, (key,), (f"{key}/*",)) for key in sorted({anchor.source.key for anchor in anchors_of(root)})]
    return [*each, *held_out_groups(root)]


def fitted_without(sources: Collection[str], anchors: Iterable[Anchor]) -> Tables:
    """The calibration fitted to the calibration cases of all but some sources; it reads no figure of these.

    A search begins at the ranges' own starts: what a fit to all sources found is none of its business.
    """
    left = [anchor for anchor in anchors if anchor.case.role == CALIBRATION and anchor.source.key not in sources]
    runs, tables = runs_of(left), TRAINING.tables()
    fitted(TRAINING, runs, tables, begin=("range",))
    to_prior(runs, tables)
    return tables


def to_prior(runs: Sequence[Runs], tables: Tables) -> None:
    """Puts what ``runs`` do not identify at the median of what they do; what all share, in the middle of its range."""
    known = identified(TRAINING, runs, tables)
    clocks = [tables[key.kind][key.entry][key.part] for key in known if key.kind == "device"]
    others = [resolved(tables["stack"], name) for name in sorted({run.on["stack"] for run in runs})]
    for key in TRAINING.fitted_keys(tables):
        if key not in known:
            entry = tables[key.kind][key.entry]
            if key.kind == "stack":
                stated = [other[key.part] for other in others if key.part in other]
                entry[key.part] = median(stated or [_DEFAULTS[key.part]])
            else:
                entry[key.part] = median(clocks) if key.kind == "device" else TRAINING.range_of(key, entry).start


def left_out(held: HeldOut, tables: Tables, anchors: Sequence[Anchor]) -> dict[str, Any]:
    """An entry of ``left_out.toml``: what was fitted without some sources, and how far off it predicts the cases."""
    chosen = _chosen(held, anchors)
    entry: dict[str, Any] = {
        "without": list(held.without),
        "cases": list(held.cases),
        "clocks": {name: tables["device"][name]["clock"] for name in sorted({run.on["device"] for run in chosen})},
        "shared": {name: own["value"] for name, own in tables["shared"].items() if own["basis"] == "fitted"},
        "stacks": {name: _fit_of(tables, name) for name in sorted({run.on["stack"] for run in chosen})},
    }
    return entry | {"errors": errors(entry, chosen)}


def errors(entry: Mapping[str, Any], runs: Sequence[Runs]) -> dict[str, Any]:
    """Errors of ``runs`` with the coefficients of ``entry``."""
    return summary((predicted(runs, _tables(entry)) / measured(runs) - 1).tolist())


def log_errors(name: str, entry: Mapping[str, Any], anchors: Sequence[Anchor]) -> dict[str, list[float]]:
    """ln(predicted / measured) of the cases of an entry, with its coefficients, by the stack that they ran."""
    by_stack: dict[str, list[float]] = {}
    for run in _chosen(HeldOut(name, tuple(entry["without"]), tuple(entry["cases"])), anchors):
        logs = np.log(predicted([run], _tables(entry)) / measured([run])).tolist()
        by_stack.setdefault(run.on["stack"], []).extend(logs)
    return by_stack


def fitted_stacks(anchors: Iterable[Anchor], without: str) -> set[str]:
    """The stacks that calibration cases of sources other than one ran."""
    left = [anchor for anchor in anchors if anchor.case.role == CALIBRATION and anchor.source.key != without]
    return {run.on["stack"] for run in runs_of(left)}


def _tables(entry: Mapping[str, Any]) -> Tables:
    """The calibration with the coefficients of ``entry``."""
    tables = TRAINING.tables()
    for name, clock in entry["clocks"].items():
        tables["device"][name]["clock"] = clock
    for name, value in entry["shared"].items():
        tables["shared"][name]["value"] = value
    for name, fit in entry["stacks"].items():
        tables["stack"][name].update(fit)
    return tables


def stale(name: str, entry: Mapping[str, Any], anchors: Sequence[Anchor]) -> str:
    """Say how today's errors differ from the written ones, the written coefficients kept; "" if they do not."""
    now = errors(entry, _chosen(HeldOut(name, tuple(entry["without"]), tuple(entry["cases"])), anchors))
    return differences(entry["errors"], now, _ROUNDING)


def entries(root: Path, done: Callable[[str], None] = lambda name: None) -> dict[str, dict[str, Any]]:
    """The entries of ``left_out.toml``: a fit for each set of sources with calibration rows that is left out.

    Args:
        root: the folder of anchors.
        done: is told what was fitted, one after the other.
    """
    anchors = anchors_of(root)
    calibrated = calibration_sources(anchors)
    held_out = every(root)
    without = list(dict.fromkeys(tuple(sorted(calibrated & set(held.without))) for held in held_out))
    tables = {}
    with ProcessPoolExecutor() as pool:  # a fit takes tens of seconds, and each is on its own
        for sources, own in zip(without, pool.map(functools.partial(fitted_without, anchors=anchors), without), strict=True):
            tables[sources] = own
            done(", ".join(sources) or "sources without calibration rows")
    return {held.id: left_out(held, tables[tuple(sorted(calibrated & set(held.without)))], anchors) for held in held_out}


def _chosen(held: HeldOut, anchors: Iterable[Anchor]) -> list[Runs]:
    chosen = [anchor for anchor in anchors if held.chooses(anchor)]
    if not chosen:
        raise DataError(f"{TRAINING_FILE}: {held.id!r}: no training case is called {', '.join(held.cases)}")
    return runs_of(chosen)


def _fit_of(tables: Tables, name: str) -> dict[str, float]:
    """What a fit may have changed of a stack, or of one that it is like."""
    stacks = tables["stack"]
    parts = [part for one in lineage(stacks, name) for part in stacks[one].get("fit", [])]
    whole = resolved(stacks, name)
    return {part: float(f"{whole[part]:.4g}") for part in parts}
