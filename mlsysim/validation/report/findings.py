"""What a run of anchors has found: everything that a report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlsysim.validation.report.statistics import Row


@dataclass(frozen=True)
class Findings:
    """Records of a run, as the tests hand them over.

    Attributes:
        rows: comparisons of cases, as dictionaries.
        kernels: errors of tables of kernels.
        targets: aims.
        moves: predictions that differ from their snapshots, where these were updated.
        verdict: the last line of the terminal's report.
    """

    rows: Sequence[Row] = ()
    kernels: Sequence[Row] = ()
    targets: Sequence[Row] = ()
    moves: Sequence[Row] = ()
    verdict: str = ""
