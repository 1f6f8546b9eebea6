"""Every table of measured kernels under ``kernels/``, against the calibrated physics: ``pytest anchors/``."""

from pathlib import Path

from mlsysim.validation.suite.kernel_tests import test_kernel_gate, test_kernel_table

ANCHORS = Path(__file__).parent

__all__ = ["test_kernel_gate", "test_kernel_table"]
