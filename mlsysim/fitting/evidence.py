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
from mlsysim.fitting import left_out_serving, left_out_training
from mlsysim.fitting.calibration import CALIBRATION
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
)
_ASSUMED_COLUMNS = ("solver", "quantity", "fact", "runs", "stated", "missing")
# Runs that state a fact, below which nothing is said of what it costs to leave it out.
_FEWEST = 30
# The study that an entry of serving without a thing of a kind belongs to.
_STUDY_OF = {"device": "device", "engine": "stack", "model": "model", "source": "source"}


def texts(root: Path) -> dict[str, str]:
    """The text of each file, for the anchors under ``root``."""
    anchors = [anchor for path in loading.anchor_files(root) for anchor in loading.load(path)]
    runs = list(_runs(anchors))
    published = {anchor.source.key: anchor.source for anchor in anchors}
    keys = sorted({row[2] for row in runs if row[2]})
    sources = [(key, published[key].citation, published[key].url) for key in keys]
    return {
        RUNS_FILE: _csv(_RUN_COLUMNS, runs),
        LEFT_OUT_FILE: _csv(("study", "name", "solver", "quantity", "errors"), [*_training(root), *_serving(root)]),
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
    seen: set[tuple[str, RunFacts]] = set()
    fitted = []
    for anchor in sorted(anchors, key=lambda one: (one.source.key, one.id)):
        if anchor.case.role not in (CALIBRATION, "validation") or not isinstance(anchor.case.value, float | int):
            continue
        result, solver = result_of(anchor), anchor.source.solver
        if result.basis not in FITTED_BASES or result.facts is None or quantity_of(anchor.case.metric) in (POWER, ENERGY):
            continue
        if anchor.case.role == CALIBRATION:
            fitted.append((solver, result.facts))
            continue
        comparison = compare(anchor)
        error = math.log(float(comparison.predicted) / float(comparison.measured))
        seen.add((solver, result.facts))
        quantity = quantity_of(anchor.case.metric)
        left = " ".join(assumed(anchor))
        yield (anchor.id, _run(anchor), anchor.source.key, solver, quantity, *_cells(result.facts), f"{error:.4f}", left)
    for solver, facts in dict.fromkeys(fitted):
        if (solver, facts) not in seen:
            yield ("", "", "", solver, "", *_cells(facts), "", "")


def assumed_rows(anchors: Iterable[Anchor]) -> list[tuple[str, ...]]:
    """A row for each fact of training and serving: how far off the validation runs are that state it, with it and without.

    A run without a fact is its row without the cell, predicted again.
    """
    groups: dict[tuple[str, str], list[Anchor]] = {}
    for anchor in sorted(anchors, key=lambda one: one.id):
        if anchor.case.role == "validation" and anchor.case.run and isinstance(anchor.case.value, float | int):
            groups.setdefault((anchor.source.solver, quantity_of(anchor.case.metric)), []).append(anchor)
    return [
        (solver, quantity, fact, *told)
        for (solver, quantity), group in sorted(groups.items())
        for fact in FACTS.get(solver, ())
        if (told := _without(fact, group)) is not None
    ]


def _without(fact: str, anchors: Sequence[Anchor]) -> tuple[str, str, str] | None:
    stating = [anchor for anchor in anchors if anchor.case.run.get(fact, "").strip()]
    columns = dict.fromkeys(name for anchor in stating for name in anchor.case.run)
    rows = [dict.fromkeys(columns, "") | dict(anchor.case.run) for anchor in stating]
    both = zip(stating, predicted_rows(rows), predicted_rows([row | {fact: ""} for row in rows]), strict=True)
    pairs = []
    for anchor, whole, without in both:
        if f"{fact}=" in without["assumed"] and whole["predicted"] and without["predicted"]:
            error = math.log(float(compare(anchor).predicted) / float(compare(anchor).measured))
            pairs.append((abs(error), abs(error + math.log(without["predicted"] / whole["predicted"]))))
    if len(pairs) < _FEWEST:
        return None
    stated, missing = (conformal_quantile([pair[place] for pair in pairs]) for place in (0, 1))
    return str(len(pairs)), f"{stated:.3f}", f"{missing:.3f}"


def _run(anchor: Anchor) -> str:
    """A text that all figures of one run share: of its cells, or of the case where it has none."""
    cells = sorted((name, str(value)) for name, value in anchor.case.run.items() if name != "metric")
    return f"{crc32(repr(cells or anchor.id).encode()):08x}"


def _cells(facts: RunFacts) -> tuple[str, ...]:
    return (facts.model, facts.kind, facts.accelerator, facts.stack, f"{facts.accelerators:g}")


def _training(root: Path) -> Iterator[tuple[str, ...]]:
    """Sources of training runs without themselves, whether others ran their stacks or nobody else did."""
    anchors = left_out_training.anchors_of(root)
    for name, entry in read(root, TRAINING_FILE).items():
        if entry["without"] == [name]:  # the others are groups of sources, for an aim
            yield ("source", name, "DistributedModel", WHOLE, _sizes(left_out_training.log_errors(name, entry, anchors)))


def _serving(root: Path) -> Iterator[tuple[str, ...]]:
    known = left_out_serving.cases_of(root)
    entries = {name: entry for name, entry in read(root, SERVING_FILE).items() if "without" in entry}
    for name, (tokens, first) in left_out_serving.errors(entries.values(), known).items():
        kind = entries[name]["kind"]
        for quantity, signed in ((WHOLE, tokens), (FIRST_TOKEN, first)):
            if signed:
                yield (_STUDY_OF[kind], entries[name]["without"], "ServingModel", quantity, _sizes(map(math.log1p, signed)))


def _sizes(errors: Iterable[float]) -> str:
    return " ".join(f"{size:.3f}" for size in sorted(map(abs, errors)))


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()
