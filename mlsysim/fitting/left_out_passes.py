"""Models that one accelerator holds whole, in training and read offline, without an accelerator.

Engines, stacks and the other accelerators are fitted again to the calibration cases that are left. One that was left out takes
what accelerators without an entry take, that of its nearest sibling; where it has none nobody predicts it, and it is left away.
So are rows of a stack that no other row decides: they are without their stack, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlsysim.calibration.devices import entry_of
from mlsysim.core.errors import UnknownNameError
from mlsysim.fitting.calibration import CALIBRATION, Calibration, Runs
from mlsysim.fitting.data_parallel import DATA_PARALLEL
from mlsysim.fitting.inference import INFERENCE
from mlsysim.fitting.search import fitted, identified, measured, predicted

# A search from where the fit to all cases ended needs few steps.
_TOLERANCE = 1e-3
# What an entry states of itself, and no sibling passes on; and what is said about it.
_OWN = ("hardware", "kernels")
_ABOUT = ("like", "fit", "source", "calibration", "at_bound")


def errors(root: Path) -> Iterator[tuple[str, list[float]]]:
    """ln(predicted / measured) of the cases of each accelerator, in both roles, by fits without it.

    Args:
        root: the folder of anchors.

    Yields:
        The name of the accelerator's entry, and the errors; those of training and of reading offline apart.
    """
    for family in (DATA_PARALLEL, INFERENCE):
        given = family.gathered(root, CALIBRATION)
        judged = [*given, *family.gathered(root, "validation")]
        for name in sorted({run.on["device"] for run in given}):
            logs = _without(name, family, given, judged)
            if logs:
                yield name, logs


def _without(name: str, family: Calibration, given: list[Runs], judged: list[Runs]) -> list[float]:
    """The errors of an accelerator's cases; none where no sibling stands for it."""
    tables = family.tables()
    own, others = tables["device"][name], {other: entry for other, entry in tables["device"].items() if other != name}
    left = [run for run in given if run.on["device"] != name]
    fitted(family, left, tables, None, _TOLERANCE, begin=("written",))
    try:
        _, sibling = entry_of(others, own["hardware"][0])
    except UnknownNameError:
        return []
    passed_on = {part: value for part, value in sibling.items() if part not in (*_OWN, *_ABOUT)}
    tables["device"][name] = {part: own[part] for part in _OWN if part in own} | passed_on
    known = identified(family, left, tables)
    unknown = {key.entry for key in family.fitted_keys(tables) if key.kind == "stack" and key not in known}
    runs = [run for run in judged if run.on["device"] == name and run.on["stack"] not in unknown]
    if not runs:
        return []
    logs: list[float] = np.log(predicted(runs, tables) / measured(runs)).tolist()
    return logs
