"""A test suite on a machine that lacks what some of its tests need: they are skipped, and say what to install."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from repository import ROOT, TESTS

RUN = """
import sys, pytest
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(name)
    def pytest_configure(self):
        sys.meta_path.insert(0, self)  # before pytest's own finder, which rewrites plug-ins
absent = Absent()
sys.meta_path.insert(0, absent)
sys.exit(pytest.main({options!r}, plugins=[absent]))
"""
NEEDED_BY = {"hypothesis": "solvers/serving/test_closed_loop.py", "scipy": "calibration/test_collectives_kernels.py"}


def test_a_test_that_needs_it_is_skipped_with_a_reason():
    modules = [str(TESTS / module) for module in NEEDED_BY.values()]
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-k", "fit or closed_loop", *modules]
    code = RUN.format(packages=set(NEEDED_BY), options=options)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment
    )
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if "SKIPPED" in line]
    for package in NEEDED_BY:
        assert any(package in line for line in skipped), done.stdout
