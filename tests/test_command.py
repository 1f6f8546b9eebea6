"""The command line beside ``predict``: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import importlib
import sys

import pytest

from mlsysim.cli.exits import BAD_INPUT, HOLDS, INFEASIBLE
from mlsysim.cli.main import WITH_TYPER, main
from mlsysim.core.errors import InfeasibleError


@pytest.fixture
def without_typer(monkeypatch):
    """A machine that has no typer."""
    monkeypatch.setitem(sys.modules, "typer", None)


@pytest.fixture
def typer():
    pytest.importorskip("typer", reason="commands need typer: pip install 'mlsysim-anchors[cli]'")
    for name in ("mlsysim.cli.app", "typer.rich_utils"):  # what a pytest within a test imports first, that one forgets again
        importlib.import_module(name)


@pytest.mark.usefixtures("typer", "imported_once", "few_plugins")
@pytest.mark.parametrize("kind", ["training", "serving"])
def test_a_new_file_of_anchors_runs_as_it_is(pytester, capsys, kind):
    assert main(["anchor", "new", kind]) == HOLDS
    printed = capsys.readouterr().out
    path = pytester.path / "mine.anchor.toml"
    assert main(["anchor", "new", kind, "-o", str(path)]) == HOLDS
    assert path.read_text("utf-8") == printed
    assert main(["anchor", "new", kind, "-o", str(path)]) == BAD_INPUT, "what somebody has filled in is not written over"
    result = pytester.runpytest("-q", "-k", "in_band", str(path))
    result.assert_outcomes(passed=2)
    path.write_text(printed.replace("batch_size", "batchsize"), "utf-8")
    assert pytester.runpytest("-q", str(path)).ret != 0


@pytest.mark.usefixtures("typer")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["anchor", "new", "training", "-o", "mine.toml"],
            "mlsysim anchor: output = 'mine.toml': expected a name that ends in",
        ),
        (["anchor", "new", "trainign"], "training"),
        (["anchr"], "anchor"),
        (["predict", "none.csv"], "mlsysim predict: none.csv: cannot be read"),
    ],
)
def test_bad_input_has_its_exit_code(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(words) == BAD_INPUT
    assert told in capsys.readouterr().err


@pytest.mark.usefixtures("typer")
def test_what_cannot_run_has_its_exit_code(monkeypatch, capsys):
    def refuse(*_):
        raise InfeasibleError("Llama on one GPU: 140 GB")

    monkeypatch.setattr("mlsysim.cli.predict.main", refuse)
    assert main(["predict", "runs.csv"]) == INFEASIBLE
    assert capsys.readouterr().err == "mlsysim predict: Llama on one GPU: 140 GB\n"


@pytest.mark.usefixtures("without_typer")
def test_without_typer_predict_runs_and_others_say_what_to_install(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n", "utf-8")
    assert main(["predict", str(tmp_path / "runs.csv")]) == BAD_INPUT
    assert "columns" in capsys.readouterr().err
    for name in WITH_TYPER:
        assert main([name, "new"]) == BAD_INPUT
        assert capsys.readouterr().err == f"mlsysim {name}: it needs typer: pip install 'mlsysim-anchors[cli]'\n"
