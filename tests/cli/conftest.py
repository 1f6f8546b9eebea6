"""Fixtures of the tests of commands."""

from __future__ import annotations

import importlib
import shutil

import pytest
from repository import ROOT, TESTS

from mlsysim.cli.exits import HOLDS
from mlsysim.cli.main import main


@pytest.fixture(scope="module", autouse=True)
def _asked_once(asked_once):
    """One question is answered in a table, in JSON, in Markdown and as a launch."""


@pytest.fixture
def typer():
    pytest.importorskip("typer", reason="commands need typer: pip install 'mlsysim-anchors[cli]'")
    for name in ("mlsysim.cli.app", "typer.rich_utils"):  # what a pytest within a test imports first, that one forgets again
        importlib.import_module(name)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a table of runs, a launch file and a scenario."""
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--example", "training", "-o", "runs.csv"]) == HOLDS
    shutil.copy(TESTS / "data" / "launch" / "megatron_llama3_8b.sh", "run.sh")
    shutil.copy(ROOT / "examples" / "scenario.toml", "scenario.toml")
