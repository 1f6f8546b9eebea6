"""Every anchor under this folder, against the solvers: ``pytest anchors/``."""

from pathlib import Path

from mlsysim.validation.anchor_tests import (
    test_bound_is_not_beaten,
    test_feasible_as_stated,
    test_in_band,
    test_responds_to_hardware,
    test_runs_hold,
    test_snapshot,
)
from mlsysim.validation.suite_tests import test_family_gate, test_no_orphan_snapshots, test_time_of_a_solve

ANCHORS = Path(__file__).parent

__all__ = [
    "test_bound_is_not_beaten",
    "test_family_gate",
    "test_feasible_as_stated",
    "test_in_band",
    "test_no_orphan_snapshots",
    "test_responds_to_hardware",
    "test_runs_hold",
    "test_snapshot",
    "test_time_of_a_solve",
]
