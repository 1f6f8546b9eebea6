"""How long solves and searches take: apart, so that timing a few cases collects no others."""

from pathlib import Path

from mlsysim.validation.suite.suite_tests import test_time_of_a_solve, test_time_of_a_whole_search

ANCHORS = Path(__file__).parent

__all__ = ["test_time_of_a_solve", "test_time_of_a_whole_search"]
