"""Memory that stacks keep, chosen by layouts that fit or ran out of it (``anchors/memory``).

Outcomes have no slope, so every value of a grid is tried; of those that tell as many layouts apart as the best does, the one
with the least waste is taken: a plan called infeasible is never tried. An entry of ``stacks.toml`` names the terms in
``memory_fit``. What a search leaves free (``memory.toml``) is the least with which hardly a layout called feasible failed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysim.calibration.memory import usable_memory_B
from mlsysim.calibration.stacks import stack
from mlsysim.core.toml import packaged_toml
from mlsysim.fitting.calibration import CALIBRATION, Key, Place
from mlsysim.fitting.written import Refit
from mlsysim.physics.layer.work import LayeredWork
from mlsysim.physics.plan import Plan
from mlsysim.physics.records import stacked
from mlsysim.physics.training.memory import MemoryTerms, training_memory
from mlsysim.tables.training_steps import prepared_row
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.loading import anchor_files, load

STACKS = Place("stacks.toml")
MEMORY_FILE, MARGIN = "memory.toml", "plan_margin"
# Values tried of each term, from what is needed to what no allocator wastes.
GRID = {"fragmentation": np.arange(1.0, 1.3001, 0.01), "logit_B": np.arange(2.0, 30.01, 1.0)}

# Of layouts that are predicted to fit with the margin, the share that may run out of memory; and the margins that are tried.
MOST_LOST = 0.01
MARGINS = np.arange(0.0, 0.301, 0.01)


@dataclass(frozen=True)
class Layouts:
    """Layouts of one stack with one attention kernel, as arrays."""

    stack: str
    terms: MemoryTerms
    work: LayeredWork
    plan: Plan
    usable_B: float
    ran: npt.NDArray[np.bool_]

    def fits(self, values: Mapping[str, Any], margin: Any = 0.0) -> npt.NDArray[np.bool_]:
        """Which of them these terms call feasible; terms, or margins, of a column each give a row each."""
        used = training_memory(self.work, self.plan, replace(self.terms, **values))
        return np.asarray(used.total_B <= (1 - margin) * self.usable_B)


def memory_anchors(root: Path, role: str) -> list[Anchor]:
    """The layouts of ``role``."""
    files = [path for path in anchor_files(root) if path.parent.name == "memory"]
    return [anchor for path in files for anchor in load(path) if anchor.case.outcome and anchor.case.role == role]


def layouts(anchors: Iterable[Anchor]) -> list[Layouts]:
    """``anchors``, grouped by what they keep."""
    groups: dict[tuple[str, str, float], list[tuple[Any, ...]]] = {}
    for anchor in anchors:
        run = prepared_row(tuple(anchor.case.run.items()))
        usable_B = usable_memory_B(run.setting.fleet.node.accelerator.memory_capacity_B)
        group = (run.asked.arguments["stack"], run.setting.attention, usable_B)
        groups.setdefault(group, []).append((run.work, run.plan, anchor.case.outcome == "fits"))
    alike = []
    for (name, attention, usable_B), rows in groups.items():
        works, plans, ran = zip(*rows, strict=True)
        terms = stack(name).memory_terms(attention)
        alike.append(Layouts(name, terms, stacked(works), stacked(plans), usable_B, np.array(ran)))
    return alike


def balanced_accuracy(groups: Iterable[Layouts], values: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Mean of the shares of fitting and of failing layouts that are recognised; one for each row, where terms are columns."""
    judged = [(group.fits(values), group.ran) for group in groups]
    fits, ran = (np.concatenate(part, axis=-1) for part in zip(*judged, strict=True))
    return np.asarray((fits[..., ran].mean(axis=-1) + (~fits[..., ~ran]).mean(axis=-1)) / 2)


def best_terms(groups: list[Layouts], names: Iterable[str]) -> dict[str, float]:
    """The first of the grid points that tell most layouts apart: the least of the first term, then of the next."""
    names = list(names)
    points = np.array(list(itertools.product(*(GRID[name] for name in names))))
    scores = balanced_accuracy(groups, {name: points[:, place, np.newaxis] for place, name in enumerate(names)})
    first = int(np.argmax(scores > scores.max() - 1e-9))
    return {name: float(f"{value:.4g}") for name, value in zip(names, points[first], strict=True)}


def least_margin(groups: Iterable[Layouts], values: Mapping[str, Mapping[str, float]]) -> float:
    """The least of ``MARGINS`` with which at most ``MOST_LOST`` of the layouts called feasible ran out of memory."""
    margins = MARGINS[:, np.newaxis]
    judged = [(group.fits(values.get(group.stack, {}), margins), np.atleast_1d(group.ran)) for group in groups]
    fits, ran = (np.concatenate(part, axis=-1) for part in zip(*judged, strict=True))
    lost = (fits & ~ran).sum(axis=-1) / np.maximum(fits.sum(axis=-1), 1)
    kept = np.flatnonzero(lost <= MOST_LOST)
    return float(f"{MARGINS[kept[0] if kept.size else -1]:.4g}")


def refit_memory(root: Path) -> Refit:
    """Chooses the terms that entries name, for them and those like them, by the calibration layouts under ``root``."""
    stacks, groups = STACKS.entries(), layouts(memory_anchors(root, CALIBRATION))
    values: dict[Key, tuple[float | None, float]] = {}
    changes: dict[tuple[str, ...], dict[str, Any]] = {}
    chosen: dict[str, dict[str, float]] = {}
    for name, entry in stacks.items():
        if "memory_fit" not in entry:
            continue
        family = [name, *(other for other, own in stacks.items() if own.get("like") == name)]
        terms = best_terms([group for group in groups if group.stack in family], entry["memory_fit"])
        chosen |= dict.fromkeys(family, terms)
        for member in family:
            if "memory" in stacks[member]:
                before = stacks[member]["memory"]
                values |= {Key("memory", member, term): (before.get(term), value) for term, value in terms.items()}
                changes[STACKS.path(member)] = {"memory": before | terms}
    margin = least_margin(groups, chosen)
    values[Key(MEMORY_FILE, MARGIN, "share")] = (packaged_toml("calibration", MEMORY_FILE)[MARGIN]["share"], margin)
    moved = [key for key, (old, new) in values.items() if old != new]
    return Refit("memory", values, moved, {STACKS.file: changes, MEMORY_FILE: {(MARGIN,): {"share": margin}}})
