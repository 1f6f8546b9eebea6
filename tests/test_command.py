"""The command line beside ``predict``: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlsysim.calibration.evidence import measured_runs
from mlsysim.calibration.intervals import conformal_quantile
from mlsysim.cli.commands import ALONE, COMMANDS
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


RUNS = """\
model,accelerator,n_accel,seq_len,global_batch_seqs,micro_batch,tp,framework,metric,value
Llama-3.1-8B,H100,8,8192,128,1,1,Megatron-LM,step_time_s,14
Llama-3.1-8B,H100,8,8192,128,1,2,Megatron-LM,step_time_s,15
Llama-3.1-8B,H100,16,8192,128,1,1,Megatron-LM,step_time_s,7
"""
EXAMPLES = [example for command in COMMANDS for example in command.examples]
# A fit takes seconds: one is enough.
WITH_OUTPUT = [command for command in COMMANDS if command.name not in (ALONE, "calibrate")]
# Seconds of CPU that a command may take, and what importing numpy, pint and pydantic takes where that was measured: on a slower
# machine it may take as many times as long.
LIMITS_S = {"trust": 1.2, "list": 1.2}
IMPORTS, IMPORTS_S = "import numpy, pint, pydantic", 0.35


def words_of(example):
    return shlex.split(example)[1:]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs.csv").write_text(RUNS, "utf-8")


@pytest.mark.usefixtures("typer", "runs")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_shows_the_examples_of_a_command(capsys, command):
    if command.name == ALONE:
        with pytest.raises(SystemExit):
            importlib.import_module("mlsysim.cli.predict").main(["--help"])
    else:
        assert main([*command.name.split(), "--help"]) == HOLDS
    printed = " ".join(capsys.readouterr().out.split())
    for example in command.examples:
        assert example in printed


@pytest.mark.usefixtures("typer", "runs")
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(capsys, example):
    if "calibrate" in example:
        pytest.importorskip("scipy")
    assert main(words_of(example)) == HOLDS
    assert capsys.readouterr().out or Path(words_of(example)[-1]).exists()


@pytest.mark.usefixtures("typer", "runs")
@pytest.mark.parametrize("command", WITH_OUTPUT, ids=lambda command: command.name)
def test_an_answer_is_one_document_of_json_or_markdown(capsys, command):
    words = words_of(command.examples[0])
    assert main([*words, "--json"]) == HOLDS
    assert json.loads(capsys.readouterr().out)["command"] == command.name
    assert main([*words, "--markdown"]) == HOLDS
    assert capsys.readouterr().out.startswith(("# ", "```"))
    assert main([*words, "--json", "--markdown"]) == BAD_INPUT
    assert "one of --json and --markdown" in capsys.readouterr().err


@pytest.mark.usefixtures("typer")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", ""),
        ("lst", "did you mean 'list'?"),
        ("list hardwar", "did you mean 'hardware'?"),
        ("list hardware h1oo", "did you mean 'H100'"),
        ("list", "Missing argument"),
        ("anchor", "Missing command"),
        ("trust Llama-3-70B --on H1000", "--on = 'H1000': no machine is called 'H1000'; did you mean 'H100'"),
        ("trust Llama-3-70BB --on H100", "did you mean 'Llama3_70B'"),
        ("trust Llama-3-70B --on H100 --stack megatron-cor", "did you mean 'megatron-core'"),
        ("trust Llama-3-70B --on H100 --engine vlm", "did you mean 'vllm-2025'"),
        ("trust Llama-3-70B --on H100 --engine vllm --stack megatron-core", "nothing beside --stack"),
        ("trust Llama-3-70B --onn H100", "--on"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_what_is_near(capsys, line, told):
    code = main(shlex.split(line))
    printed = capsys.readouterr()
    assert code == (BAD_INPUT if line else HOLDS)
    assert told in printed.err
    assert printed.err.count("\n") <= 8


@pytest.mark.usefixtures("typer")
def test_trust_counts_the_runs_of_a_stack(capsys):
    assert main(shlex.split("trust Llama-3-70B --on H100 --stack Megatron-LM --json")) == HOLDS
    told = json.loads(capsys.readouterr().out)
    runs = [
        run
        for run in measured_runs()
        if (run.solver, run.facts.stack, run.facts.kind) == ("DistributedModel", "megatron-core", "dense")
    ]
    (dense,) = (one for one in told["measured"] if one["shared"] == {"stack": "megatron-core", "kind": "dense"})
    assert dense["figures"] == len(runs)
    assert dense["p90_error"] == pytest.approx(conformal_quantile([abs(math.expm1(abs(run.error))) for run in runs]))
    assert {one["stack"] for one in told["nearest"]} == {"megatron-core"}
    assert 0.5 < dense["in_interval"] <= 1


@pytest.mark.usefixtures("typer")
def test_a_list_holds_what_the_registry_does_and_a_word_narrows_it(capsys):
    assert main(["list", "hardware", "--json"]) == HOLDS
    every = json.loads(capsys.readouterr().out)["entries"]
    assert main(["list", "hardware", "h100-SXM", "--json"]) == HOLDS
    few = json.loads(capsys.readouterr().out)["entries"]
    assert 1 <= len(few) < len(every)
    assert all(one in every for one in few)
    assert next(one for one in every if one["name"] == "H100")["memory GiB"] == 80


def cpu_s(*command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@functools.cache
def slower():
    """How many times as slow as the machine that the limits are for this one is, at least 1."""
    return max(1.0, min(cpu_s("-c", IMPORTS) for _ in range(2)) / IMPORTS_S)


@pytest.mark.usefixtures("typer")
@pytest.mark.parametrize("name", LIMITS_S)
def test_a_command_answers_within_its_limit(name):
    words = next(words_of(command.examples[0]) for command in COMMANDS if command.name == name)
    tries = (cpu_s("-m", "mlsysim", *words) for _ in range(3))
    assert any(taken_s < slower() * LIMITS_S[name] for taken_s in tries)


@pytest.mark.usefixtures("typer")
def test_a_reader_that_has_seen_enough_ends_it_quietly():
    line = f"{shlex.quote(sys.executable)} -m mlsysim list models | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(["sh", "-c", line], check=False, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (HOLDS, "")
    assert done.stdout.count("\n") == 1
