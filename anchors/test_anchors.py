"""Every anchor under this folder, against the solvers: ``pytest anchors/``."""

from pathlib import Path

from mlsysim.fitting.left_out_tests import (
    test_every_source_is_left_out_once,
    test_evidence,
    test_left_out,
    test_serving_left_out,
)
from mlsysim.validation.suite.anchor_tests import (
    test_bound_is_not_beaten,
    test_feasible_as_stated,
    test_in_band,
    test_responds_to_hardware,
    test_runs_hold,
    test_snapshot,
)
from mlsysim.validation.suite.suite_tests import (
    test_coefficients_have_a_source,
    test_family_gate,
    test_intervals_hold_what_they_say,
    test_layout,
    test_no_orphan_snapshots,
    test_page_is_current,
    test_picture_is_current,
    test_target,
)

ANCHORS = Path(__file__).parent

__all__ = [
    "test_bound_is_not_beaten",
    "test_coefficients_have_a_source",
    "test_every_source_is_left_out_once",
    "test_evidence",
    "test_family_gate",
    "test_feasible_as_stated",
    "test_in_band",
    "test_intervals_hold_what_they_say",
    "test_layout",
    "test_left_out",
    "test_no_orphan_snapshots",
    "test_page_is_current",
    "test_picture_is_current",
    "test_responds_to_hardware",
    "test_runs_hold",
    "test_serving_left_out",
    "test_snapshot",
    "test_target",
]
