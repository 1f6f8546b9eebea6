"""All families of fits, in an order in which each finds what it stands on fitted before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mlsysim.fitting.data_parallel import DATA_PARALLEL
from mlsysim.fitting.engines import ENGINES
from mlsysim.fitting.inference import INFERENCE
from mlsysim.fitting.kernels import ATTENTIONS, COLLECTIVE, PEAKS, PRODUCTS
from mlsysim.fitting.loaded import LOADED
from mlsysim.fitting.memory import refit_memory
from mlsysim.fitting.operations.power import POWER, TRAINED_WATTS
from mlsysim.fitting.operations.scaling import LOSSES, SCALING
from mlsysim.fitting.served import SERVED
from mlsysim.fitting.training import TRAINING
from mlsysim.fitting.written import Refit, refit

CALIBRATIONS = (
    PRODUCTS,
    PEAKS,
    ATTENTIONS,
    COLLECTIVE,
    TRAINING,
    DATA_PARALLEL,
    INFERENCE,
    SERVED,
    ENGINES,
    LOADED,
    SCALING,
    LOSSES,
    POWER,
    TRAINED_WATTS,
)
# How each family is fitted to the calibration rows under a folder of anchors.
FAMILIES: Mapping[str, Callable[[Path], Refit]] = {
    **{calibration.name: partial(refit, calibration) for calibration in CALIBRATIONS},
    "memory": refit_memory,
}
