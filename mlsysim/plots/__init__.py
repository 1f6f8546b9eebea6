"""Pictures of answers; each function returns a matplotlib figure. They need matplotlib (the ``plot`` extra).

Example:
    >>> from mlsysim import plots
    >>> sorted(plots.__all__)
    ['pareto', 'parity', 'roofline', 'save', 'scaling', 'waterfall']
"""

from __future__ import annotations

from mlsysim.plots.figure import save
from mlsysim.plots.pareto import pareto
from mlsysim.plots.parity import parity
from mlsysim.plots.roofline import roofline
from mlsysim.plots.scaling import scaling
from mlsysim.plots.waterfall import waterfall

__all__ = ["pareto", "parity", "roofline", "save", "scaling", "waterfall"]
