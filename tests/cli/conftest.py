"""Fixtures of the tests of commands."""

from __future__ import annotations

import functools
import importlib
import shutil

import pytest
from repository import ROOT, TESTS

from mlsysim.cli.exits import HOLDS
from mlsysim.cli.main import main
from mlsysim.solvers.serving.capacity import CapacityPlanner


@pytest.fixture(scope="module", autouse=True)
def planned_once():
    """Each fleet for a load is searched once: one question is answered in a table, in JSON, in markdown and as a launch."""
    solve, answers = CapacityPlanner.solve, {}

    @functools.wraps(solve)
    def kept(planner, *asked, **options):
        question = repr((asked, sorted(options.items())))
        if question not in answers:
            answers[question] = solve(planner, *asked, **options)
        return answers[question]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CapacityPlanner, "solve", kept)
        yield


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
