"""What a row of a table asks of a solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlsysim.hardware.types import HardwareNode
from mlsysim.models.types import Workload
from mlsysim.systems.types import Fleet


@dataclass(frozen=True)
class Question:
    """A row, ready to be solved.

    Attributes:
        workload: the model.
        hardware: what it runs on.
        arguments: keywords of the solver's ``solve``.
        metric: what the row measures, where its table says so.
        generation: a time, or a share of the peak, is that of the tokens generated alone.
    """

    workload: Workload
    hardware: HardwareNode | Fleet
    arguments: dict[str, Any]
    metric: str = ""
    generation: bool = False

    def answered_by(self, solver: Any) -> Any:
        """The result of a solver's class."""
        return solver().solve(self.workload, self.hardware, **self.arguments)
