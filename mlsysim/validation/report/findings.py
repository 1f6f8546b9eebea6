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
        targets: aims, with what was ``found`` today and ``before``.
        moves: what each prediction that differs from its snapshot was, and is, where these were updated.
        searches, solves: those that were timed, by their plans or their solver and seconds.
        left_out, serving_left_out: what was predicted without a part of the fits' rows, in training and in serving.
        recalled: runs of which something is quoted from memory.
        verdict: the last line of the terminal's report.
    """

    rows: Sequence[Row] = ()
    kernels: Sequence[Row] = ()
    targets: Sequence[Row] = ()
    moves: Sequence[Row] = ()
    searches: Sequence[Row] = ()
    solves: Sequence[Row] = ()
    left_out: Sequence[Row] = ()
    serving_left_out: Sequence[Row] = ()
    recalled: Sequence[Row] = ()
    verdict: str = ""
