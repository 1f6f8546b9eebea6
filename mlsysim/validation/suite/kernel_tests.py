"""The tests of measured kernels: ``anchors/test_kernels.py`` imports them. A table is judged as a whole, not row by row."""

from __future__ import annotations

import json

import pytest

from mlsysim.validation.anchors.record_keys import KERNELS
from mlsysim.validation.kernels.checks import KernelCheck, KernelPart
from mlsysim.validation.report.report import percent


def test_kernel_table(kernel_table: KernelPart, request: pytest.FixtureRequest) -> None:
    """Every row can be predicted, and the errors are those that the fit has written beside its coefficients."""
    request.node.user_properties.append((KERNELS, json.dumps(kernel_table.as_row(), separators=(",", ":"))))
    stale = kernel_table.stale_residuals()
    if stale:
        pytest.fail(f"{kernel_table.id}: {stale}: run python -m mlsysim.fitting", pytrace=False)


def test_kernel_gate(kernel_gate: tuple[KernelCheck, KernelPart]) -> None:
    """The error of a table's validation rows stays within its gate."""
    check, part = kernel_gate
    error = check.found(part)
    if error > check.limit:
        above = f"{check.statistic} of {percent(error)} is above the gate of {percent(check.limit)}"
        pytest.fail(f"{check.id}: {above}: {check.gate.reason}", pytrace=False)
