"""Serving without a device, an engine, a model or a source.

Engines and devices are fitted again to the calibration cases that are left, and every case that was left out is predicted,
calibration cases too: none was fitted. Shares of a device that no figure places are the median of its peers'; of an engine
without figures, what it states stays, as what it takes from one with figures that it is like, and the rest is its peers'.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mlsysim.calibration.devices import queried_clock
from mlsysim.calibration.engines import COEFFICIENTS, engine_device
from mlsysim.calibration.gemm import measured_devices
from mlsysim.calibration.harnesses import CLIENT
from mlsysim.calibration.store import resolved
from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting.bounded import fit
from mlsysim.fitting.calibration import CALIBRATION, Entry, Key, Runs, Tables, cases, ranges
from mlsysim.fitting.engines import ENGINES, FIRST_TOKEN, PULL, figure_of, grouped, runs_of
from mlsysim.fitting.search import components, fitted, identified, measured, predicted
from mlsysim.physics.serving.deployment import EngineCoefficients
from mlsysim.systems.types import accelerator_of
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.kernels.errors import Times
from mlsysim.validation.report.left_out import differences, summary

HEADER = """\
Serving predicted without a device, an engine, a model or a source, written by python -m mlsysim.fitting refresh
without: what the fit was given no figure of; engines, devices, clients: coefficients that its cases use, fitted to the others.
sources: whose cases are predicted. errors: of |predicted / measured - 1| of decode steps and whole batches, in both roles, as
fractions; first_token: those of prompts; bias is the mean of the signed error. devices, engines, models, serving sources: the
cases of all entries of that kind together."""
# What can be left out, and what all entries of that kind together are called.
KINDS = {"device": "devices", "engine": "engines", "model": "models", "source": "serving sources"}
# Signed errors of decode steps and whole batches, and of prompts.
Signed = tuple[list[float], list[float]]
# Recomputed errors may differ from the written ones by their rounding.
_ROUNDING = 0.0003
_DEFAULTS = EngineCoefficients()
# A search from where the fit to all cases ended needs few steps.
_TOLERANCE = 1e-3
_ENGINE_ROWS = 40.0
# Peers that have no median.
_PAIR = 2
# Shares of a device that are 1 where nobody states them; links, and products of an engine's own, have no such rate.
_OF_KERNELS = ("compute_share", "memory_share", "attention_share")


@dataclass(frozen=True, eq=False)
class ServingCase:
    """A case, and what can be left out of a fit with it: ``device`` and ``engine`` are entries of the calibration files."""

    anchor: Anchor
    device: str
    engine: str
    model: str
    source: str


@functools.lru_cache(maxsize=4)
def cases_of(root: Path) -> tuple[ServingCase, ...]:
    """All serving cases under ``root`` that have an engine, of both roles."""
    return tuple(_case(anchor) for role in (CALIBRATION, "validation") for anchor in cases(root, ("serving",), role))


def _case(anchor: Anchor) -> ServingCase:
    call = call_of(anchor)
    workload, hardware = call.inputs
    device = engine_device(accelerator_of(hardware).name).name
    return ServingCase(anchor, device, call.keywords["stack"], workload.name, anchor.source.key)


def every(known: Iterable[ServingCase]) -> list[tuple[str, str]]:
    """Each device, engine, model and source of the calibration cases: nothing is fitted to the others."""
    fitted_to = [case for case in known if case.anchor.case.role == CALIBRATION]
    return [(kind, name) for kind in KINDS for name in sorted({getattr(case, kind) for case in fitted_to})]


def fitted_sources(engine: str, known: Iterable[ServingCase]) -> set[str]:
    """The sources of an engine's calibration cases."""
    return {case.source for case in known if case.engine == engine and case.anchor.case.role == CALIBRATION}


def entry_id(kind: str, name: str) -> str:
    """The name of an entry, as in "device b200_sxm"."""
    return f"{kind} {name}"


def left_out(kind: str, name: str, known: Sequence[ServingCase]) -> dict[str, Any]:
    """An entry of ``serving_left_out.toml``: reads no figure of what is left out but to state the errors.

    Raises:
        UnknownNameError: no case has it.
    """
    chosen = _chosen(kind, name, known)
    usable = [case for case in known if case.anchor.case.role == CALIBRATION]
    tables = ENGINES.tables()
    before, runs = _runs(usable), _runs(case for case in usable if getattr(case, kind) != name)
    gone = identified(ENGINES, _runs(case for case in usable if getattr(case, kind) == name), tables)
    keys = {key for _, part in components(ENGINES, before, tables) if part & gone for key in part}
    for key in keys - identified(ENGINES, runs, tables):
        # What a fit to all found is not its business.
        tables[key.kind][key.entry][key.part] = ranges("engines", key.kind)[key.part].start
    fitted(ENGINES, runs, tables, keys, _TOLERANCE, begin=("written",))
    to_prior(runs, tables, keys)
    used = _runs(chosen)
    entry: dict[str, Any] = {
        "kind": kind,
        "without": name,
        "engines": {engine: _engine(tables, engine) for engine in sorted({run.on["engine"] for run in used})},
        "devices": {device: _shares(tables, device) for device in sorted({run.on["device"] for run in used})},
        "clients": {name: tables[CLIENT][name]["request_s"] for name in sorted({run.on[CLIENT] for run in used})},
        "sources": sorted({case.anchor.source.key for case in chosen}),
    }
    return entry | _judged(*_errors(entry, used))


def to_prior(runs: Sequence[Runs], tables: Tables, keys: Collection[Key]) -> None:
    """Gives what of ``keys`` no figure of ``runs`` places its prior: devices first, since engines are fitted on them."""
    unknown = set(keys) - identified(ENGINES, runs, tables)
    for key in sorted(unknown):
        if key.kind == "device":
            tables["device"][key.entry][key.part] = _share_of_peers(tables["device"], key, unknown)
    seen = {run.on["engine"] for run in runs}
    for name in sorted({key.entry for key in keys if key.kind == "engine"} - seen):
        entry = tables["engine"][name]
        peers = [run for run in runs if run.on["engine"] in entry.get("peers", ())]
        if peers:
            stated = {part for part in entry if part not in entry["fit"]}
            parts = entry["fit"] if entry.get("like") in seen else COEFFICIENTS
            entry.update(_shared_engine(peers, tables, [part for part in parts if part not in stated]))


def _share_of_peers(devices: Mapping[str, Entry], key: Key, unknown: Collection[Key]) -> float:
    """The median of its peers' shares, as far as figures place them; a peer that states none of its kernels' has theirs, 1.

    What a power limit leaves of its clock was seen with other models: it stands for the share of a sibling's kernels.
    """
    if key.part == "compute_share" and key.entry not in measured_devices():
        clock = min(map(queried_clock, resolved(devices, key.entry).get("hardware", ())), default=1.0)
        if clock < 1:
            return clock
    peers = [peer for peer in devices[key.entry].get("peers", ()) if key._replace(entry=peer) not in unknown]
    shares = [resolved(devices, peer).get(key.part, 1.0 if key.part in _OF_KERNELS else None) for peer in peers]
    return float(median([share for share in shares if share is not None] or [ranges("engines", "device")[key.part].start]))


def _shared_engine(runs: Sequence[Runs], tables: Tables, parts: Collection[str]) -> dict[str, float]:
    """Return ``parts`` as a peer of the engines of ``runs`` has them; what none of these engines fits is the mean of theirs.

    Of three or more a part is the median of those that fit it, which an odd one does not move. Two have no middle: of fewer it
    is what one engine would have that served all ``runs``, in all else as each is. Calibration rows of engines left out chose.
    """
    names = sorted({run.on["engine"] for run in runs})
    each = {name: _engine(tables, name) for name in names}
    mean = {part: sum(one[part] for one in each.values()) / len(each) for part in parts}
    fitting = {part: [name for name in names if part in tables["engine"][name].get("fit", ())] for part in parts}
    shared = [part for part, fitted_of in fitting.items() if fitted_of]
    if len(names) > _PAIR:
        return {**mean, **{part: float(median(each[name][part] for name in fitting[part])) for part in shared}}
    start = {part: ranges("engines", "engine")[part].begun_at(mean[part]) for part in shared}
    rows = {name: sum(len(run.measured) for run in runs if run.on["engine"] == name) for name in names}
    weights = [np.full(len(run.measured), min(1.0, (_ENGINE_ROWS / rows[run.on["engine"]]) ** 0.5)) for run in runs]

    def predict(values: Mapping[str, float]) -> Times:
        trial = {name: {**tables["engine"][name], **values} for name in names}
        return predicted(runs, {**tables, "engine": {**tables["engine"], **trial}})

    return {**mean, **fit(predict, measured(runs), start, np.concatenate(weights), PULL, _TOLERANCE).values}


def _engine(tables: Tables, name: str) -> dict[str, float]:
    """All coefficients of an engine, its own and those that it takes from another."""
    entry = resolved(tables["engine"], name)
    return {part: float(f"{entry.get(part, getattr(_DEFAULTS, part)):.4g}") for part in COEFFICIENTS}


def _shares(tables: Tables, name: str) -> dict[str, float]:
    entry = resolved(tables["device"], name)
    return {part: float(f"{entry[part]:.4g}") for part in ranges("engines", "device") if part in entry}


def _runs(known: Iterable[ServingCase]) -> list[Runs]:
    return runs_of(case.anchor for case in known)


def _chosen(kind: str, name: str, known: Iterable[ServingCase]) -> list[ServingCase]:
    usable = list(known)
    chosen = [case for case in usable if getattr(case, kind) == name]
    if not chosen:
        raise UnknownNameError.among(kind, name, sorted({getattr(case, kind) for case in usable}))
    return chosen


def _errors(entry: Mapping[str, Any], runs: Sequence[Runs]) -> Signed:
    """Signed errors of ``runs`` with the coefficients of ``entry``: of decode steps and whole batches, and of prompts."""
    tables = ENGINES.tables()
    for name, coefficients in entry["engines"].items():
        tables["engine"][name].update(coefficients)
    for name, shares in entry["devices"].items():
        tables["device"][name].update(shares)
    for name, request_s in entry.get("clients", {}).items():
        tables[CLIENT][name]["request_s"] = request_s
    signed = (predicted(runs, tables) / measured(runs) - 1).tolist()
    pairs = list(zip(signed, (metric in FIRST_TOKEN for run in runs for metric in run.metrics), strict=True))
    return [error for error, first in pairs if not first], [error for error, first in pairs if first]


def _judged(tokens: Sequence[float], first: Sequence[float]) -> dict[str, Any]:
    return {"errors": summary(tokens), "first_token": summary(first)}


def errors(written: Iterable[Mapping[str, Any]], known: Sequence[ServingCase]) -> dict[str, Signed]:
    """Today's errors of what each entry left out, with its coefficients, over the sources that it was written with."""
    listed = list(written)
    sources = {source for entry in listed for source in entry["sources"]}
    usable = [case for case in known if case.anchor.source.key in sources]
    figures = {case: figure_of(case.anchor) for case in usable}
    whole, by_entry = grouped(figures.values()), {}
    for entry in listed:
        kind, name = entry["kind"], entry["without"]
        runs = (
            grouped(figures[case] for case in _chosen(kind, name, usable))
            if kind in ("model", "source")
            else [run for run in whole if run.on[kind] == name]
        )
        by_entry[entry_id(kind, name)] = _errors(entry, runs)
    return by_entry


def pooled(by_entry: Mapping[str, Signed]) -> dict[str, dict[str, Any]]:
    """For each kind, the errors of all its entries' cases together."""
    return {name: {"kind": kind, **_judged(*_together(by_entry, kind))} for kind, name in KINDS.items()}


def _together(by_entry: Mapping[str, Signed], kind: str) -> Signed:
    pairs = [pair for name, pair in by_entry.items() if name.startswith(entry_id(kind, ""))]
    return [error for tokens, _ in pairs for error in tokens], [error for _, first in pairs for error in first]


def stale(written: Mapping[str, Mapping[str, Any]], known: Sequence[ServingCase]) -> str:
    """Say how today's errors differ from the written ones, the written coefficients kept; "" if they do not."""
    today = errors([entry for entry in written.values() if "without" in entry], known)
    now = pooled(today) | {name: _judged(*pair) for name, pair in today.items()}
    moved = [
        f"{name}: {group} {told}"
        for name, judged in now.items()
        for group in ("errors", "first_token")
        if (told := differences(written.get(name, {}).get(group, {}), judged[group], _ROUNDING))
    ]
    return ", ".join(moved)


def entries(root: Path, done: Callable[[str], None] = lambda name: None) -> dict[str, dict[str, Any]]:
    """The entries of ``serving_left_out.toml``: a fit for each device, engine, model and source that is left out.

    Args:
        root: the folder of anchors.
        done: is told what was fitted, one after the other.
    """
    known, studied = cases_of(root), {}
    for kind, name in every(known):
        studied[entry_id(kind, name)] = left_out(kind, name, known)
        done(entry_id(kind, name))
    return pooled(errors(studied.values(), known)) | studied
