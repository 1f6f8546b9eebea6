"""A test suite on a machine that lacks what some of its tests need: they are skipped, and say what to install."""

from __future__ import annotations

import os
import sys

import pytest
from forked import forked, without
from repository import ROOT, TESTS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a suite without packages runs in a fork of this one")
NEEDED_BY = {"hypothesis": "solvers/serving/test_closed_loop.py", "scipy": "calibration/test_collectives_kernels.py"}
# What the fork imports anew, beside what it lacks: it would have kept what it took from there.
OURS = ("mlsysim", "conftest", "repository")


class Absent:
    """Finds none of some packages."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in NEEDED_BY:
            raise ModuleNotFoundError(name)

    def pytest_configure(self):
        sys.meta_path.insert(0, self)  # before pytest's own finder, which rewrites plug-ins


def run_without(options):
    """A run of pytest on a machine that lacks the packages."""
    without(*NEEDED_BY, *OURS)
    absent = Absent()
    sys.meta_path.insert(0, absent)
    sys.exit(pytest.main(options, plugins=[absent]))


def test_a_test_that_needs_it_is_skipped_with_a_reason(tmp_path):
    modules = [str(TESTS / module) for module in NEEDED_BY.values()]
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-k", "fit or closed_loop", *modules]
    done = forked(lambda: run_without(["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *options]), tmp_path)
    assert done.code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if "SKIPPED" in line]
    for package in NEEDED_BY:
        assert any(package in line for line in skipped), done.stdout
