"""Engines and clocks under the highest load that they take, fitted to ``anchors/token_load``.

Engines and kernels are those of a batch, fitted before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlsysim.calibration.device_entries import DEVICES
from mlsysim.calibration.harnesses import FILE, device_of, loaded_tables
from mlsysim.fitting.calibration import Calibration, Entry, Place, Runs, cases
from mlsysim.lowering.token_load import LoadQuestion, best_plan, limit_per_s, load_question
from mlsysim.tables.token import token_question
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.kernels.errors import Times


@dataclass(eq=False)
class _Run:
    """A case as the fit asks it again and again; ``found_per_s`` is its last answer, near which the next is looked for."""

    question: LoadQuestion
    on: Mapping[str, str]
    found_per_s: float | None = None

    def requests_per_s(self, entries: Mapping[str, Entry]) -> Times:
        """The highest load, with what the entries state themselves: they have all that they take from another."""
        stated = {
            kind: {self.on[kind]: {part: value for part, value in entry.items() if part != "like"}}
            for kind, entry in entries.items()
        }
        self.found_per_s = limit_per_s(self.question, {"device": {}, **stated}, self.found_per_s)
        return np.array([self.found_per_s])


def _run(anchor: Anchor) -> Runs:
    asked = token_question(anchor.case.run)
    question = load_question(asked.workload, asked.hardware, **asked.arguments)
    # The layout that was best with the coefficients that are written.
    question = replace(question, settings=(best_plan(question).setting,))
    device = device_of(loaded_tables(), question.settings[0].accelerator.name)
    on = {"harness": question.front.name if question.front else ""} | ({"device": device} if device else {})
    tokens = 1 if anchor.source.metric == "requests_per_second" else asked.arguments["output_len"]
    return Runs(
        on=on,
        measured=np.array([(anchor.case.value or 0.0) / tokens]),
        sources=(anchor.source.key,),
        predict=_Run(question, on).requests_per_s,
    )


def gathered(root: Path, role: str) -> list[Runs]:
    """The cases of ``role`` under ``root``, each on its own."""
    return [_run(anchor) for anchor in cases(root, ("token_load",), role)]


LOADED = Calibration(
    name="loaded",
    pull=0.03,
    files={"harness": Place(FILE, around=("harness",)), "device": Place(DEVICES, within=("loaded",))},
    gathered=gathered,
)
