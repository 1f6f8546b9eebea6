"""Serving without a device, an engine or a model: ``python -m mlsysim.fitting.leave_out_serving anchors -o FILE``.

Engines and devices are fitted again to the calibration cases that are left, and every case that was left out is predicted,
calibration cases too: none was fitted. Shares of a device that no figure places are the median of its peers'; an engine without
figures is the one engine that fits those of its peers together.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mlsysim.calibration.engines import COEFFICIENTS, engine_device
from mlsysim.calibration.stacks import resolved
from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting.bounded import fit
from mlsysim.fitting.engine_tables import Calibration
from mlsysim.fitting.engines import (
    DEVICE_RANGES,
    PULL,
    RANGES,
    RANGES_OF,
    Runs,
    fitted,
    gathered,
    keys_beside,
    keys_of,
    measured,
    predicted,
    serving_anchors,
    stated,
)
from mlsysim.fitting.toml_text import toml_tables
from mlsysim.physics.serving.deployment import EngineCoefficients
from mlsysim.systems.types import Fleet
from mlsysim.tables.serving import serving_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.kernels.errors import Times
from mlsysim.validation.report.report import percent
from mlsysim.validation.report.statistics import quantile

COMMAND = "python -m mlsysim.fitting.leave_out_serving anchors -o anchors/serving_left_out.toml"
HEADER = f"""\
Serving predicted without a device, an engine or a model, written by {COMMAND}
without: what the fit was given no figure of; engines, devices: the coefficients that its cases use, fitted to the others.
errors: of |predicted / measured - 1| of decode steps and whole batches, in both roles, as fractions; first_token: the same of
prompts; bias is the mean of the signed error. devices, engines, models: the cases of all entries of that kind together."""
KINDS = ("device", "engine", "model")
# Signed errors of decode steps and whole batches, and of prompts.
Signed = tuple[list[float], list[float]]
_FIRST_TOKEN = ("ttft", "prompt_tokens_per_second", "prefill_mfu")
_DEFAULTS = EngineCoefficients()
# Recomputed errors may differ from the written ones by their rounding.
_ROUNDING = 0.0003
# A search from where the fit to all cases ended needs few steps.
_TOLERANCE = 1e-3
_ENGINE_ROWS = 40.0
# Shares of a device that are 1 where nobody states them; links, and products of an engine's own, have no such rate.
_OF_KERNELS = ("compute_share", "memory_share", "attention_share")


@dataclass(frozen=True, eq=False)
class ServingCase:
    """A case, and what can be left out of a fit with it: ``device`` and ``engine`` are entries of the calibration files."""

    anchor: Anchor
    device: str
    engine: str
    model: str


@functools.lru_cache(maxsize=4)
def cases_of(root: Path) -> tuple[ServingCase, ...]:
    """All serving cases under ``root`` that have an engine, of both roles."""
    anchors = [anchor for role in ("calibration", "validation") for anchor in serving_anchors(root, role)]
    return tuple(_case(anchor) for anchor in anchors)


def _case(anchor: Anchor) -> ServingCase:
    asked = serving_question(anchor.case.run)
    accelerator = asked.hardware.node.accelerator if isinstance(asked.hardware, Fleet) else asked.hardware
    return ServingCase(anchor, engine_device(accelerator.name).name, asked.arguments["stack"], asked.workload.name)


def every(cases: Iterable[ServingCase]) -> list[tuple[str, str]]:
    """Each device, engine and model of the calibration cases: nothing is fitted to the others."""
    fitted_to = [case for case in cases if case.anchor.case.role == "calibration"]
    return [(kind, name) for kind in KINDS for name in sorted({getattr(case, kind) for case in fitted_to})]


def entry_id(kind: str, name: str) -> str:
    """As in "device b200_sxm"."""
    return f"{kind} {name}"


def left_out(kind: str, name: str, cases: Sequence[ServingCase]) -> dict[str, Any]:
    """The entry of ``serving_left_out.toml``: reads no figure of what is left out but to state the errors.

    Raises:
        UnknownNameError: no case has it.
    """
    chosen = _chosen(kind, name, cases)
    given = [case for case in cases if case.anchor.case.role == "calibration"]
    tables = stated()
    before, runs = _gathered(given), _gathered(case for case in given if getattr(case, kind) != name)
    gone = _gathered(case for case in given if getattr(case, kind) == name)
    keys = keys_beside(before, tables, keys_of(gone, tables))
    for key in keys - keys_of(runs, tables):
        what, entry, part = key.split(" ")
        tables[what][entry][part] = RANGES_OF[what][part].start  # what a fit to all cases found is none of our business
    fitted(runs, tables, keys, _TOLERANCE)
    to_prior(runs, tables, keys)
    used = _gathered(chosen)
    entry_of: dict[str, Any] = {
        "kind": kind,
        "without": name,
        "engines": {engine: _engine(tables, engine) for engine in sorted({run.stack for run in used})},
        "devices": {device: _shares(tables, device) for device in sorted({run.device for run in used})},
    }
    return entry_of | _judged(*_errors(entry_of, used))


def to_prior(runs: Sequence[Runs], tables: Calibration, keys: Collection[str]) -> None:
    """Gives what of ``keys`` no figure of ``runs`` places its prior: devices first, since engines are fitted on them."""
    unknown = set(keys) - keys_of(runs, tables)
    for key in sorted(unknown):
        kind, name, part = key.split(" ")
        if kind == "device":
            tables[kind][name][part] = _share_of_peers(tables["device"], name, part, unknown)
    seen = {run.stack for run in runs}
    for name in sorted({key.split(" ")[1] for key in keys if key.startswith("engine ")} - seen):
        peers = [run for run in runs if run.stack in tables["engine"][name].get("peers", ())]
        if peers:
            tables["engine"][name].update(_shared_engine(peers, tables))


def _share_of_peers(devices: Mapping[str, Mapping[str, Any]], name: str, part: str, unknown: Collection[str]) -> float:
    """The median of its peers' shares, as far as figures place them; a peer that states none of its kernels' has theirs, 1."""
    peers = [peer for peer in devices[name].get("peers", ()) if f"device {peer} {part}" not in unknown]
    shares = [resolved(devices, peer).get(part, 1.0 if part in _OF_KERNELS else None) for peer in peers]
    return float(median([share for share in shares if share is not None] or [DEVICE_RANGES[part].start]))


def _shared_engine(runs: list[Runs], tables: Calibration) -> dict[str, float]:
    """The coefficients of one engine that served all ``runs``; what none of their engines fits is the mean of theirs."""
    names = sorted({run.stack for run in runs})
    each = [_engine(tables, name) for name in names]
    mean = {part: sum(one[part] for one in each) / len(each) for part in COEFFICIENTS}
    free = {part: RANGES[part] for part in sorted({part for name in names for part in tables["engine"][name].get("fit", ())})}
    start = {part: replace(known, start=_inside(known, mean[part]), prior=known.start) for part, known in free.items()}
    rows = {name: sum(len(run.measured) for run in runs if run.stack == name) for name in names}
    weights = np.concatenate([np.full(len(run.measured), min(1.0, (_ENGINE_ROWS / rows[run.stack]) ** 0.5)) for run in runs])

    def predict(values: Mapping[str, float]) -> Times:
        trial = {name: {**tables["engine"][name], **mean, **values} for name in names}
        return predicted(runs, {"engine": {**tables["engine"], **trial}, "device": tables["device"]})

    found = fit(predict, measured(runs), start, weights, PULL, _TOLERANCE)
    return {**mean, **found.values}


def _inside(known: Any, value: float) -> float:
    """``value``, off the bounds of its range: a search has to start within."""
    edge = 0.02 * (known.high - known.low)
    return float(min(max(value, 1.1 * known.low if known.log else known.low + edge), known.high - edge))


def _engine(tables: Calibration, name: str) -> dict[str, float]:
    """All coefficients of an engine, its own and those that it takes from another."""
    entry = resolved(tables["engine"], name)
    return {part: float(f"{entry.get(part, getattr(_DEFAULTS, part)):.4g}") for part in COEFFICIENTS}


def _shares(tables: Calibration, name: str) -> dict[str, float]:
    entry = resolved(tables["device"], name)
    return {part: float(f"{entry[part]:.4g}") for part in DEVICE_RANGES if part in entry}


def _gathered(cases: Iterable[ServingCase]) -> list[Runs]:
    return gathered(case.anchor for case in cases)


def _chosen(kind: str, name: str, cases: Iterable[ServingCase]) -> list[ServingCase]:
    found = list(cases)
    chosen = [case for case in found if getattr(case, kind) == name]
    if not chosen:
        raise UnknownNameError.among(kind, name, sorted({getattr(case, kind) for case in found}))
    return chosen


def _errors(entry: Mapping[str, Any], runs: Sequence[Runs]) -> Signed:
    """Signed errors of ``runs`` with the coefficients of ``entry``: of decode steps and whole batches, and of prompts."""
    tables = stated()
    for name, coefficients in entry["engines"].items():
        tables["engine"][name].update(coefficients)
    for name, shares in entry["devices"].items():
        tables["device"][name].update(shares)
    signed = (predicted(runs, tables) / measured(runs) - 1).tolist()
    first = [metric in _FIRST_TOKEN for run in runs for metric in run.metrics]
    pairs = list(zip(signed, first, strict=True))
    return [error for error, is_first in pairs if not is_first], [error for error, is_first in pairs if is_first]


def _judged(tokens: Sequence[float], first: Sequence[float]) -> dict[str, Any]:
    return {"errors": _summary(tokens), "first_token": _summary(first)}


def _summary(signed: Sequence[float]) -> dict[str, float]:
    if not signed:
        return {"points": 0}
    sizes = [abs(error) for error in signed]
    found = {"median": quantile(sizes, 0.5), "mean": sum(sizes) / len(sizes), "p90": quantile(sizes, 0.9)}
    found["bias"] = sum(signed) / len(signed)
    return {"points": len(sizes)} | {name: round(float(value or 0.0), 4) for name, value in found.items()}


def errors(entries: Iterable[Mapping[str, Any]], cases: Sequence[ServingCase]) -> dict[str, Signed]:
    """Today's errors of what each of ``entries`` left out, with its coefficients."""
    whole = _gathered(cases)
    found = {}
    for entry in entries:
        kind, name = entry["kind"], entry["without"]
        chosen = _chosen(kind, name, cases)
        by = {"device": lambda run: run.device, "engine": lambda run: run.stack}.get(kind)
        runs = _gathered(chosen) if by is None else [run for run in whole if by(run) == name]
        found[entry_id(kind, name)] = _errors(entry, runs)
    return found


def pooled(found: Mapping[str, Signed]) -> dict[str, dict[str, Any]]:
    """Of each kind, the errors of all its entries' cases together."""
    return {f"{kind}s": {"kind": kind, **_judged(*_together(found, kind))} for kind in KINDS}


def _together(found: Mapping[str, Signed], kind: str) -> Signed:
    own = [pair for name, pair in found.items() if name.startswith(f"{kind} ")]
    return [error for tokens, _ in own for error in tokens], [error for _, first in own for error in first]


def stale(entries: Mapping[str, Mapping[str, Any]], cases: Sequence[ServingCase]) -> str:
    """How today's errors differ from the written ones, the written coefficients kept; "" if they do not."""
    found = errors([entry for entry in entries.values() if "without" in entry], cases)
    now = pooled(found) | {name: _judged(*pair) for name, pair in found.items()}
    moved = [_moved(name, entries.get(name, {}), judged) for name, judged in now.items()]
    return ", ".join(one for one in moved if one)


def _moved(name: str, written: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for group in ("errors", "first_token"):
        before = written.get(group, {})
        for part, value in now[group].items():
            if part not in before or abs(value - before[part]) > _ROUNDING:
                return f"{name}: {group} {part} {before.get(part)} -> {value}"
    return ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fits once a device, an engine and a model, and writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("anchors", type=Path, help="the folder of anchors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the TOML file to write")
    given = parser.parse_args(arguments)
    cases, entries = cases_of(given.anchors), {}
    for kind, name in every(cases):
        entry = entries[entry_id(kind, name)] = left_out(kind, name, cases)
        found = entry["errors"]
        told = f"median {percent(found['median'])}, p90 {percent(found['p90'])}" if found["points"] else ""
        print(f"{entry_id(kind, name):32} {found['points']:5} rows {told}", flush=True)
    together = pooled(errors(entries.values(), cases))
    for name, entry in together.items():
        print(f"{name:32} {entry['errors']['points']:5} rows median {percent(entry['errors']['median'], digits=2)}")
    quoted = {f'"{name}"': entry for name, entry in entries.items()}
    given.output.write_text(toml_tables(together | quoted, HEADER), encoding="utf-8")


if __name__ == "__main__":
    main()
