"""Files with a random error each are answered, or told in one line: a few of them here, the thousands by ``-m exhaustive``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mutated_files
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="files are read apart in forked processes")


@pytest.mark.parametrize("kind", mutated_files.HERE)
def test_a_few_files_with_an_error(kind):
    told = []
    assert mutated_files.faults(9, seed=11, kinds=(kind,), report=told.append) == 0, told


@pytest.mark.exhaustive
def test_three_thousand_files_with_an_error():
    """In a process that has read none of the package's data: what it reads of a changed file is kept for good."""
    script = Path(mutated_files.__file__)
    done = subprocess.run(
        [sys.executable, script, "--count", "3000", "--seed", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
