"""What activities draw on an accelerator, fitted to the watts of ``anchors/energy`` on the steps that the solvers predict.

Chips of which only the energy of whole training runs is known have their mean power, fitted to ``anchors/sustainability``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlsysim.calibration.device_entries import DEVICES, device_entries
from mlsysim.calibration.evidence import POWER as QUANTITY
from mlsysim.calibration.operations.power import POOLED, SECTION, TRAINED, power_device
from mlsysim.calibration.store import coefficients
from mlsysim.core.units import in_unit, with_unit
from mlsysim.fitting.calibration import Calibration, Entry, Place, Runs, cases
from mlsysim.physics.operations.power import Activity, PowerCoefficients, capped_share, demand_share
from mlsysim.physics.records import stacked
from mlsysim.validation.anchors.anchor import Anchor
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.anchors.runner import result_of
from mlsysim.validation.kernels.errors import Times

# A model is swept over many loads: it counts as so many rows at most.
_ROWS_OF_A_MODEL = 6.0


def _watts(activity: Activity, tdp_W: Times, entries: Mapping[str, Entry]) -> Times:
    entry = entries["device"]
    drawn = coefficients(PowerCoefficients, {"cache": entry["memory"], **entry})
    return np.asarray(tdp_W * capped_share(demand_share(activity, drawn)))


def _runs(device: str, anchors: Sequence[Anchor]) -> Runs:
    results = [result_of(anchor) for anchor in anchors]
    return Runs(
        on={"device": device},
        measured=np.array([anchor.case.value or 0.0 for anchor in anchors]),
        sources=[f"{device} {result.facts.model}" for result in results],
        predict=functools.partial(
            _watts,
            stacked(result.load.activity for result in results),
            np.array([result.load.accelerator.tdp_W for result in results]),
        ),
    )


def gathered(root: Path, role: str) -> list[Runs]:
    """The watts of ``role`` under ``root``: those of each accelerator, and all of them together."""
    measured = [anchor for anchor in cases(root, ("energy",), role) if anchor.case.metric == QUANTITY]
    groups: dict[str, list[Anchor]] = {}
    for anchor in measured:
        groups.setdefault(power_device(result_of(anchor).facts.accelerator).name, []).append(anchor)
    return [*(_runs(device, anchors) for device, anchors in groups.items() if device != POOLED), _runs(POOLED, measured)]


POWER = Calibration(
    name="power",
    pull=0.05,
    files={"device": Place(DEVICES, within=(SECTION,))},
    gathered=gathered,
    rows_at_full_weight=_ROWS_OF_A_MODEL,
)


def _chips_W(watts: Times, entries: Mapping[str, Entry]) -> Times:
    return np.full(len(watts), float(entries["device"]["watts"]))


def trained_runs(root: Path, role: str) -> list[Runs]:
    """Mean power of a chip in the training runs of ``role`` whose meters were read, from their energy, hours and PUE."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for path in anchor_files(root):
        if path.parent.name == "sustainability":
            for anchor in load(path):
                # Where the power is stated, the case is arithmetic.
                if anchor.case.role == role and "accelerator_power" not in anchor.case.solve:
                    result, fleet = result_of(anchor), call_of(anchor).inputs[0]
                    joules = in_unit(with_unit(anchor.case.value or 0.0, anchor.case.unit), "joule")
                    watts = joules / result.pue / in_unit(result.duration, "second") / fleet.accelerators
                    groups.setdefault(fleet.node.accelerator.name, []).append((watts, anchor.source.key))
    entries = device_entries(TRAINED)
    runs = []
    for device, entry in entries.items():
        measured = [row for name in entry["hardware"] for row in groups.get(name, ())]
        if measured:
            watts = np.array([row[0] for row in measured])
            told = functools.partial(_chips_W, watts)
            runs.append(Runs({"device": device}, watts, [row[1] for row in measured], told))
    return runs


TRAINED_WATTS = Calibration(
    name="trained",
    files={"device": Place(DEVICES, within=(TRAINED,))},
    gathered=trained_runs,
)
