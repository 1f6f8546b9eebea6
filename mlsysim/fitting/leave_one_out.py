"""Each training source predicted without itself: ``python -m mlsysim.fitting.leave_one_out anchors -o FILE``.

Stacks and sustained clocks are fitted again to the calibration cases of all other sources. What no row identifies then stands
at its prior, the median over the others that state it: the coefficients of a stack that nobody else runs, the clock of a device
that nobody else has. Then every row of the source is predicted, calibration rows too: none was fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from mlsysim.calibration.stacks import resolved
from mlsysim.core.errors import DataError
from mlsysim.fitting.stacks import (
    Calibration,
    Runs,
    all_stated,
    fitted,
    gathered,
    identified,
    lineage,
    measured,
    predicted,
    training_anchors,
)
from mlsysim.fitting.toml_text import toml_tables
from mlsysim.physics.training.step_inputs import StackCoefficients
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.report.left_out import TRAINING_FILE as FILE
from mlsysim.validation.report.left_out import HeldOut
from mlsysim.validation.report.report import percent
from mlsysim.validation.report.statistics import quantile
from mlsysim.validation.report.targets import held_out_groups

COMMAND = "python -m mlsysim.fitting.leave_one_out anchors -o anchors/left_out.toml"
HEADER = f"""\
Training sources predicted without themselves, written by {COMMAND}
without: the sources whose rows the fit was not given; cases: what is predicted, in both roles; stacks, clocks, shared: the
coefficients that these cases use, fitted to the other sources or, where no other row identifies them, the median of the others.
errors: of |predicted / measured - 1|, as fractions; bias is the mean of the signed error."""
_DEFAULTS = {part.name: part.default for part in fields(StackCoefficients)}
# Recomputed errors may differ from the written ones by their rounding.
_ROUNDING = 0.0002


def runs_of(root: Path) -> list[Anchor]:
    """All training cases under ``root`` that have a stack, of both roles."""
    return [anchor for role in ("calibration", "validation") for anchor in training_anchors(root, role)]


def each_source(anchors: Iterable[Anchor]) -> list[HeldOut]:
    """Every source alone."""
    return [HeldOut(key, (key,), (f"{key}/*",)) for key in sorted({anchor.source.key for anchor in anchors})]


def every(root: Path) -> list[HeldOut]:
    """Each source with runs under ``root``, and the groups that its targets name."""
    return [*each_source(runs_of(root)), *held_out_groups(root)]


def left_out(held: HeldOut, anchors: Sequence[Anchor]) -> dict[str, Any]:
    """The entry of ``left_out.toml``: reads no figure of the sources that are left out but to state the errors."""
    runs = gathered(anchor for anchor in anchors if anchor.case.role == "calibration" and anchor.source.key not in held.without)
    tables = all_stated()
    for shared in tables["shared"].values():
        if shared["basis"] == "fitted":
            shared["value"] = (shared["low"] + shared["high"]) / 2  # what a fit to all sources found is none of our business
    fitted(runs, tables)
    to_prior(runs, tables)
    chosen = _chosen(held, anchors)
    entry: dict[str, Any] = {
        "without": list(held.without),
        "cases": list(held.cases),
        "clocks": {name: tables["devices"][name]["clock"] for name in sorted({run.device for run in chosen})},
        "shared": {name: own["value"] for name, own in tables["shared"].items() if own["basis"] == "fitted"},
        "stacks": {name: _fit_of(tables["stacks"], name) for name in sorted({run.stack for run in chosen})},
    }
    return entry | {"errors": errors(entry, chosen)}


def to_prior(runs: Sequence[Runs], tables: Calibration) -> None:
    """Puts what ``runs`` do not identify at the median of what they do."""
    known, devices, stacks = identified(runs, tables), tables["devices"], tables["stacks"]
    clocks = [entry["clock"] for name, entry in devices.items() if f"{name} clock" in known]
    for name, entry in devices.items():
        if entry["fitted"] and f"{name} clock" not in known:
            entry["clock"] = median(clocks)
    others = [resolved(stacks, name) for name in sorted({run.stack for run in runs})]
    for name, entry in stacks.items():
        for part in entry.get("fit", []):
            if f"{name} {part}" not in known:
                entry[part] = median([other[part] for other in others if part in other] or [_DEFAULTS[part]])


def errors(entry: Mapping[str, Any], runs: Sequence[Runs]) -> dict[str, Any]:
    """Errors of ``runs`` with the coefficients of ``entry``."""
    tables = all_stated()
    for name, clock in entry["clocks"].items():
        tables["devices"][name]["clock"] = clock
    for name, value in entry["shared"].items():
        tables["shared"][name]["value"] = value
    for name, fit in entry["stacks"].items():
        tables["stacks"][name].update(fit)
    signed = (predicted(runs, tables, {}) / measured(runs) - 1).tolist()
    sizes = [abs(error) for error in signed]
    found = {"median": quantile(sizes, 0.5), "mean": sum(sizes) / len(sizes), "p90": quantile(sizes, 0.9)}
    found["bias"] = sum(signed) / len(signed)
    return {"points": len(sizes)} | {name: round(float(value or 0.0), 4) for name, value in found.items()}


def stale(name: str, entry: Mapping[str, Any], anchors: Sequence[Anchor]) -> str:
    """How today's errors differ from the written ones, the written coefficients kept; "" if they do not."""
    now = errors(entry, _chosen(HeldOut(name, tuple(entry["without"]), tuple(entry["cases"])), anchors))
    written = entry["errors"]
    moved = [part for part in now if abs(now[part] - written[part]) > _ROUNDING]
    return ", ".join(f"{part} {written[part]} -> {now[part]}" for part in moved)


def _chosen(held: HeldOut, anchors: Iterable[Anchor]) -> list[Runs]:
    chosen = [anchor for anchor in anchors if held.chooses(anchor)]
    if not chosen:
        raise DataError(f"{FILE}: {held.id!r}: no training case is called {', '.join(held.cases)}")
    return gathered(chosen)


def _fit_of(stacks: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float]:
    """What a fit may have changed of a stack, or of one that it is like."""
    parts = [part for one in lineage(stacks, name) for part in stacks[one].get("fit", [])]
    whole = resolved(stacks, name)
    return {part: float(f"{whole[part]:.4g}") for part in parts}


def _entry_of(root: Path, held: HeldOut) -> dict[str, Any]:
    return left_out(held, runs_of(root))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fits once a source, and once a group that the targets name, and writes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("anchors", type=Path, help="the folder of anchors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the TOML file to write")
    given = parser.parse_args(arguments)
    held_out, entries = every(given.anchors), {}
    with ProcessPoolExecutor() as pool:  # a fit takes tens of seconds, and each is on its own
        for held, entry in zip(held_out, pool.map(partial(_entry_of, given.anchors), held_out), strict=True):
            entries[held.id] = entry
            found = entry["errors"]
            print(f"{held.id:24} {found['points']:5} rows, median {percent(found['median'])}, mean {percent(found['mean'])}")
    given.output.write_text(toml_tables(entries, HEADER), encoding="utf-8")


if __name__ == "__main__":
    main()
