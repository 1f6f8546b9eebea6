"""Writes what intervals of predictions rest on: errors of validation runs, and of runs predicted without what they are of.

No fit reads these files.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from mlsysim.calibration.devices import entry_of
from mlsysim.calibration.evidence import (
    ASSUMED_FILE,
    ENERGY,
    FIRST_TOKEN,
    FITTED_BASES,
    LEFT_OUT_FILE,
    POWER,
    RUNS_FILE,
    SOURCES_FILE,
    WHOLE,
    RunFacts,
    quantity_of,
)
from mlsysim.calibration.intervals import conformal_quantile
from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting import left_out_serving, left_out_training
from mlsysim.fitting.calibration import CALIBRATION, Calibration, Runs
from mlsysim.fitting.data_parallel import DATA_PARALLEL
from mlsysim.fitting.inference import INFERENCE
from mlsysim.fitting.search import fitted, identified, measured, predicted
from mlsysim.fitting.toml_text import DATA
from mlsysim.tables.assumed import FACTS
from mlsysim.tables.predict import predicted_rows
from mlsysim.validation.anchors import loading
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.comparison import assumed, compare
from mlsysim.validation.anchors.runner import result_of
from mlsysim.validation.report.left_out import SERVING_FILE, TRAINING_FILE, read

FILES = (RUNS_FILE, LEFT_OUT_FILE, SOURCES_FILE, ASSUMED_FILE)
_RUN_COLUMNS = (
    *("id", "run", "source", "solver", "quantity", "model", "kind", "accelerator", "stack", "accelerators", "error", "assumed"),
    "fitted",
)
_ASSUMED_COLUMNS = ("solver", "quantity", "fact", "runs", "stated", "missing")
# Runs that state a fact, below which nothing is said of what it costs to leave it out.
_FEWEST = 30
# Solvers that serve language models with engines.
_SERVERS = ("ServingModel", "TailLatencyModel")
# A search from where the fit to all cases ended needs few steps.
_TOLERANCE = 1e-3
# What an accelerator's entry states of itself, and no sibling passes on; and what is said about it.
_OWN = ("hardware", "kernels")
_ABOUT = ("like", "fit", "source", "calibration", "at_bound")
# The study that an entry of serving without a thing of a kind belongs to.
_STUDY_OF = {"device": "device", "engine": "stack", "model": "model", "source": "source"}


def texts(root: Path) -> dict[str, str]:
    """The text of each file, for the anchors under ``root``."""
    anchors = [anchor for path in loading.anchor_files(root) for anchor in loading.load(path)]
    runs = list(_runs(anchors))
    left = [*_training(root), *_serving(root), *_never_fitted(anchors), *_passes(root)]
    published = {anchor.source.key: anchor.source for anchor in anchors}
    keys = sorted({row[2] for row in runs if row[2]})
    sources = [(key, published[key].citation, published[key].url) for key in keys]
    return {
        RUNS_FILE: _csv(_RUN_COLUMNS, runs),
        LEFT_OUT_FILE: _csv(("study", "name", "solver", "quantity", "errors"), left),
        SOURCES_FILE: _csv(("key", "citation", "url"), sources),
        ASSUMED_FILE: _csv(_ASSUMED_COLUMNS, assumed_rows(anchors)),
    }


def write(root: Path) -> list[str]:
    """Writes the files that would read otherwise now; their names."""
    changed = []
    for file, text in texts(root).items():
        path = DATA / file
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def _runs(anchors: Iterable[Anchor]) -> Iterator[tuple[str, ...]]:
    """A row for each validation run, then one for each set of facts that only calibration runs have."""
    judged: list[tuple[Anchor, tuple[str, RunFacts]]] = []
    given: list[tuple[Anchor, tuple[str, RunFacts]]] = []
    for anchor in sorted(anchors, key=lambda one: (one.source.key, one.id)):
        if anchor.case.role not in (CALIBRATION, "validation") or not isinstance(anchor.case.value, float | int):
            continue
        result, solver = result_of(anchor), anchor.source.solver
        if result.basis not in FITTED_BASES or result.facts is None or quantity_of(anchor.case.metric) in (POWER, ENERGY):
            continue
        (given if anchor.case.role == CALIBRATION else judged).append((anchor, (solver, result.facts)))
    fitted_to = dict.fromkeys(of for _, of in given)
    for anchor, (solver, facts) in judged:
        quantity = quantity_of(anchor.case.metric)
        left = " ".join(assumed(anchor))
        mark = "yes" if (solver, facts) in fitted_to else ""
        error = f"{_log_error(anchor):.4f}"
        yield (anchor.id, _run(anchor), anchor.source.key, solver, quantity, *_cells(facts), error, left, mark)
    seen = {of for _, of in judged}
    for solver, facts in (of for of in fitted_to if of not in seen):
        yield ("", "", "", solver, "", *_cells(facts), "", "", "yes")


def _log_error(anchor: Anchor) -> float:
    comparison = compare(anchor)
    return math.log(float(comparison.predicted) / float(comparison.measured))


def assumed_rows(anchors: Iterable[Anchor]) -> list[tuple[str, ...]]:
    """A row for each fact of training and serving: how far off the validation runs are that state it, with it and without.

    A run without a fact is its row without the cell, predicted again.
    """
    groups: dict[tuple[str, str], list[Anchor]] = {}
    for anchor in sorted(anchors, key=lambda one: one.id):
        if anchor.case.role == "validation" and anchor.case.run and isinstance(anchor.case.value, float | int):
            groups.setdefault((anchor.source.solver, quantity_of(anchor.case.metric)), []).append(anchor)
    return [
        (solver, quantity, *told)
        for (solver, quantity), group in sorted(groups.items())
        for told in _without_each(FACTS.get(solver, ()), group)
    ]


def _without_each(facts: Iterable[str], anchors: Sequence[Anchor]) -> Iterator[tuple[str, str, str, str]]:
    """For each fact that enough runs state: how many do, and how far off they are with it and without."""
    columns = dict.fromkeys(name for anchor in anchors for name in anchor.case.run)
    rows = [dict.fromkeys(columns, "") | dict(anchor.case.run) for anchor in anchors]
    stated = [(fact, place) for fact in facts for place, row in enumerate(rows) if row.get(fact, "").strip()]
    if not stated:
        return
    whole = [row["predicted"] for row in predicted_rows(rows)]
    pairs: dict[str, list[tuple[float, float]]] = {fact: [] for fact, _ in stated}
    left_out = predicted_rows(rows[place] | {fact: ""} for fact, place in stated)
    for (fact, place), without in zip(stated, left_out, strict=True):
        if f"{fact}=" in without["assumed"] and whole[place] and without["predicted"]:
            error = _log_error(anchors[place])
            pairs[fact].append((abs(error), abs(error + math.log(without["predicted"] / whole[place]))))
    for fact, found in pairs.items():
        if len(found) >= _FEWEST:
            with_it, missing = (conformal_quantile([pair[place] for pair in found]) for place in (0, 1))
            yield fact, str(len(found)), f"{with_it:.3f}", f"{missing:.3f}"


def _run(anchor: Anchor) -> str:
    """A text that all figures of one run share: of its cells, or of the case where it has none."""
    cells = sorted((name, str(value)) for name, value in anchor.case.run.items() if name != "metric")
    return f"{crc32(repr(cells or anchor.id).encode()):08x}"


def _cells(facts: RunFacts) -> tuple[str, ...]:
    return (facts.model, facts.kind, facts.accelerator, facts.stack, f"{facts.accelerators:g}")


def _training(root: Path) -> Iterator[tuple[str, ...]]:
    """Sources of training runs without themselves: rows of a stack that others ran, too, and of one that nobody else did."""
    anchors = left_out_training.anchors_of(root)
    for name, entry in read(root, TRAINING_FILE).items():
        if entry["without"] != [name]:  # a group of sources, for an aim
            continue
        by_stack = left_out_training.log_errors(name, entry, anchors)
        others = left_out_training.fitted_stacks(anchors, name)
        for study, alike in (("source", others), ("stack", by_stack.keys() - others)):
            errors = [error for stack in sorted(by_stack.keys() & alike) for error in by_stack[stack]]
            if errors:
                yield (study, name, "DistributedModel", WHOLE, _sizes(errors))


def _serving(root: Path) -> Iterator[tuple[str, ...]]:
    """Devices, engines and models without themselves, and sources, as far as others ran their engines, too."""
    known = left_out_serving.cases_of(root)
    shared = [case for case in known if left_out_serving.fitted_sources(case.engine, known) - {case.source}]
    written = [entry for entry in read(root, SERVING_FILE).values() if "without" in entry]
    named = {left_out_serving.entry_id(entry["kind"], entry["without"]): entry for entry in written}
    of_shared = {case.source for case in shared}
    sources = [entry for entry in written if entry["kind"] == "source" and entry["without"] in of_shared]
    by_name = left_out_serving.errors([entry for entry in written if entry["kind"] != "source"], known)
    for name, (tokens, first) in (by_name | left_out_serving.errors(sources, shared)).items():
        for quantity, signed in ((WHOLE, tokens), (FIRST_TOKEN, first)):
            if signed:
                study = _STUDY_OF[named[name]["kind"]]
                yield (study, named[name]["without"], "ServingModel", quantity, _sizes(map(math.log1p, signed)))


def _never_fitted(anchors: Iterable[Anchor]) -> Iterator[tuple[str, ...]]:
    """Sources of serving that no fit was given any row of, as they are predicted: left out without a study."""
    fitted_sources: set[str] = set()
    fitted_stacks: set[str] = set()
    errors: dict[tuple[str, str, str, str], list[float]] = {}
    for anchor in sorted(anchors, key=lambda one: one.id):
        result, solver = result_of(anchor), anchor.source.solver
        if solver not in _SERVERS or result.facts is None or not isinstance(anchor.case.value, float | int):
            continue
        quantity = quantity_of(anchor.case.metric)
        if anchor.case.role == CALIBRATION:
            fitted_sources.add(anchor.source.key)
            fitted_stacks.add(result.facts.stack)
        elif anchor.case.role == "validation" and result.basis in FITTED_BASES and quantity in (WHOLE, FIRST_TOKEN):
            errors.setdefault((anchor.source.key, result.facts.stack, solver, quantity), []).append(_log_error(anchor))
    together: dict[tuple[str, str, str, str], list[float]] = {}
    for (source, stack, solver, quantity), logs in errors.items():
        if source not in fitted_sources:
            study = "source" if stack in fitted_stacks else "stack"
            together.setdefault((study, source, solver, quantity), []).extend(logs)
    for key, logs in sorted(together.items()):
        yield (*key, _sizes(logs))


def _passes(root: Path) -> Iterator[tuple[str, ...]]:
    """Models that one accelerator holds whole, in training and read offline, without each accelerator.

    Stacks and the other accelerators are fitted again to the calibration cases that are left; all cases of the accelerator are
    then predicted. It takes what accelerators without an entry take, that of its nearest sibling; where it has none nobody
    predicts it, and it is left away. So are rows of a stack that no other row decides: they are without their stack, too.
    """
    for family in (DATA_PARALLEL, INFERENCE):
        given = family.gathered(root, CALIBRATION)
        judged = [*given, *family.gathered(root, "validation")]
        for name in sorted({run.on["device"] for run in given}):
            logs = _without_device(name, family, given, judged)
            if logs:
                yield ("device", name, "SingleNodeModel", WHOLE, _sizes(logs))


def _without_device(name: str, family: Calibration, given: list[Runs], judged: list[Runs]) -> list[float]:
    """The errors of an accelerator's cases; none where no sibling stands for it."""
    tables = family.tables()
    entry, others = tables["device"][name], {other: values for other, values in tables["device"].items() if other != name}
    left = [run for run in given if run.on["device"] != name]
    fitted(family, left, tables, None, _TOLERANCE, begin=("written",))
    try:
        _, sibling = entry_of(others, entry["hardware"][0])
    except UnknownNameError:
        return []
    passed_on = {part: value for part, value in sibling.items() if part not in (*_OWN, *_ABOUT)}
    tables["device"][name] = {part: entry[part] for part in _OWN if part in entry} | passed_on
    known = identified(family, left, tables)
    unknown = {key.entry for key in family.fitted_keys(tables) if key.kind == "stack" and key not in known}
    runs = [run for run in judged if run.on["device"] == name and run.on["stack"] not in unknown]
    if not runs:
        return []
    logs: list[float] = np.log(predicted(runs, tables) / measured(runs)).tolist()
    return logs


def _sizes(errors: Iterable[float]) -> str:
    return " ".join(f"{size:.3f}" for size in sorted(map(abs, errors)))


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()
