"""The command line beside ``predict``: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import importlib
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from mlsysim.cli.commands import ALONE, COMMANDS
from mlsysim.cli.exits import BAD_INPUT, FAULT, HOLDS, INFEASIBLE
from mlsysim.cli.main import WITH_TYPER, main
from mlsysim.core.errors import InfeasibleError


@pytest.fixture(params=["typer", "rich"])
def without_typer(request, monkeypatch):
    """A machine that lacks what the extra brings."""
    monkeypatch.setitem(sys.modules, request.param, None)


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


EXAMPLES = [example for command in COMMANDS for example in command.examples]
# A fit takes seconds: one is enough.
WITH_OUTPUT = [command for command in COMMANDS if command.name not in (ALONE, "calibrate")]
# Seconds of CPU that a command may take, and what importing numpy, pint and pydantic takes where that was measured: on a slower
# machine it may take as many times as long.
LIMITS_S = {"train": 1.2, "serve": 1.2, "why": 1.2, "trust": 1.2, "list": 1.2, "plan": 3.0, "capacity": 3.0}
IMPORTS, IMPORTS_S = "import numpy, pint, pydantic", 0.35


def words_of(example):
    return shlex.split(example)[1:]


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


CAPACITY = "capacity Qwen/Qwen3-8B --on H200,H100 --rate 20 --prompt 100 --output 30"


@pytest.mark.usefixtures("typer")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", ""),
        ("lst", "did you mean 'list'?"),
        ("list hardwar", "did you mean 'hardware'?"),
        ("list hardware h1oo", "none of hardware has 'h1oo' in its name; did you mean 'H100'"),
        ("list", "Missing argument"),
        ("anchor", "Missing command"),
        ("trust Llama-3-70B --on H100 --stack vllm", "--stack = 'vllm': expected a training stack, not an engine that serves"),
        ("trust Llama-3-70B --on H100 --engine torchtitan", "expected a serving engine, not a stack that trains"),
        ("trust Llama-3-70B --on H1000", "--on = 'H1000': no machine is called 'H1000'; did you mean 'H100'"),
        ("trust Llama-3-70BB --on H100", "did you mean 'Llama3_70B'"),
        ("trust Llama-3-70B --on H100 --stack megatron-cor", "did you mean 'megatron-core'"),
        ("trust Llama-3-70B --on H100 --engine vlm", "did you mean 'vllm-0.13', 'vllm-2025'"),
        ("trust Llama-3-70B --on H100 --engine vllm --stack megatron-core", "nothing beside --stack"),
        ("trust Llama-3-70B --onn H100", "--on"),
        ("serve Qwen/Qwen3-32B --on H100 --bacth 3", "--batch"),
        ("serve Qwen/Qwen3-32B --on H100", "--prompt is missing: a whole number"),
        ("serve Qwen/Qwen3-32B --on H100 --prompt 10 --tp 3", "--tp = 3: expected a divisor of the 64 heads"),
        ("serve Qwen/Qwen3-32B --on H100 --prompt 10 --precision fp61", "--precision = 'fp61'"),
        ("serve Qwen/Qwen3-32B --on H100 --prompt 10 --engine vlm", "did you mean 'vllm-0.13', 'vllm-2025'"),
        ("serve Qwen/Qwen3-32B --on H100 --prompt 10 --engine vllm --bound", "--bound = 'bound'"),
        ("serve ResNet50 --on H100 --prompt 10", "MODEL = 'ResNet50': expected a transformer"),
        ("serve Qwen/Qwen3-Next-80B-A3B-Instruct --on H100 --prompt 10", "linear attention"),
        ("serve Qwen/Qwen3-32B --on '' --prompt 10", "--on = ''"),
        ("train Llama-3-70B --on '8 x H100' --batch 7", "--batch = 7: expected a multiple of the 8 data-parallel ranks"),
        ("train Llama-3-70B --on '64 x H100' --batch 64 --tp 16 --pp 3", "--tp x --pp = 16 x 3"),
        ("train Llama-3-70B --on '64 x H100' --batch many", "--batch = 'many': expected a whole number"),
        ("serve Qwen/Qwen3-32B --on H100 --prompt=2.5", "--prompt = '2.5': expected a whole number"),
        ("serve Qwen/Qwen3-32B --on H100 --prompt 5 --efficiency much", "--efficiency = 'much': expected a number"),
        ("plan GPT-3 --on 'DGX H100' --batch 64 --tokens few", "--tokens = 'few'"),
        ("plan Llama-3-70B --on '64 x H100' --batch 64 --price -3", "--price = '-3 USD/hour': expected a quantity > 0"),
        ("plan Llama-3-70B --on '64 x H100' --batch 64 --margin 5", "--margin = 5.0: expected a share"),
        (f"{CAPACITY} --rate '20 tokens/s'", "--rate = '20 tokens/s': expected requests a time"),
        (f"{CAPACITY} --rate -5", "--rate = '-5 count/second': expected a quantity > 0"),
        ("plan Llama-3-70B --on '64 x H100' --batch 64 --tp 3,5", "fixed dimensions"),
        ("plan Llama-3-70B --on '64 x H100' --batch 64 --tp few", "--tp = 'few': expected whole numbers"),
        ("plan Llama-3-70B --on '64 x H100' --batch 64 --tokens many", "--tokens = 'many'"),
        (f"{CAPACITY} --price B200=2", "--price = 'B200=2': expected a price of 'H200' or 'H100', which --on names"),
        (f"{CAPACITY} --price 2", "--price = '2': expected a price of 'H200' or 'H100'"),
        (f"{CAPACITY} --ttft 2", "--ttft = '2': expected a quantity in second"),
        ("why Llama-3-8B --on H100 --batch 1 --against '--foo 2'", "--foo"),
        ("why --on H100 --batch 1", "MODEL is missing: a name"),
        ("train Llama-3-8B --on H100", "--batch is missing"),
        ("train Llama-3-8B --batch 8", "--on"),
        ("serve --on H100", 'MODEL is missing: a model, or --from "vllm serve ..."'),
        ("serve --on H100 --from 'ls -l' --prompt 10 --output 10", "vllm serve"),
        ("serve --on H100 --from 'vllm serve Qwen/Qwen3-32B' --prompt 10", "--output is missing"),
        ("serve nothing.json --on H100 --prompt 10", "nothing.json"),
        ("predict", "TABLE.csv is missing: a table, or --example training"),
        ("predict --example trainig", "did you mean 'training'?"),
        ("predict runs.csv --json --markdown", "one of --json and --markdown"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_what_is_near(capsys, line, told):
    code = main(shlex.split(line))
    printed = capsys.readouterr()
    assert code == (BAD_INPUT if line else HOLDS)
    assert told in printed.err
    assert printed.err.count("\n") <= 8


@pytest.mark.usefixtures("typer")
def test_every_argument_that_solvers_share_is_an_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    from mlsysim.cli.options import flag_of
    from mlsysim.core.options import options
    from mlsysim.lowering.options import ServingOptions, StepOptions

    for command, kind, other in (
        ("train", StepOptions, {}),
        ("serve", ServingOptions, {"stack": "--engine", "seq_len": "--prompt"}),
    ):
        main([command, "--help"])
        printed = capsys.readouterr().out.split()
        missing = [name for name in options(kind) if (other.get(name) or flag_of(name)) not in printed]
        assert not missing


@pytest.mark.usefixtures("typer")
def test_a_fault_is_one_line_unless_a_traceback_is_asked_for(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("what nobody foresaw")

    monkeypatch.setattr("mlsysim.cli.predict.main", fail)
    assert main(["predict", "runs.csv"]) == FAULT
    assert "RuntimeError: what nobody foresaw" in capsys.readouterr().err
    monkeypatch.setenv("MLSYSIM_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main(["predict", "runs.csv"])


def cpu_s(*command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.usefixtures("typer")
@pytest.mark.parametrize("name", LIMITS_S)
def test_a_command_answers_within_its_limit(name, request):
    if request.config.getoption("benchmark_disable", default=False):
        pytest.skip("nothing is timed where workers share the cores")
    words = next(words_of(command.examples[0]) for command in COMMANDS if command.name == name)

    def kept():
        """Whether the command keeps its limit; where it does not, a machine that is slower just now has more time."""
        taken, limit = cpu_s("-m", "mlsysim", *words), LIMITS_S[name]
        return taken < limit or taken < limit * cpu_s("-c", IMPORTS) / IMPORTS_S

    assert any(kept() for _ in range(4))


@pytest.mark.usefixtures("typer")
@pytest.mark.parametrize(
    ("words", "completed"),
    [("mlsysim ca", "calibrate\ncapacity"), ("mlsysim list h", "hardware"), ("mlsysim serve --kv", "--kv-precision")],
)
def test_a_shell_completes_commands_options_and_words(monkeypatch, capsys, words, completed):
    monkeypatch.setenv("_MLSYSIM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert main([]) == HOLDS
    assert sorted(capsys.readouterr().out.split()) == completed.split()


@pytest.mark.usefixtures("typer")
def test_work_that_takes_long_is_told_on_a_terminal_alone(monkeypatch, capsys):
    import time

    from mlsysim.cli import output

    monkeypatch.setattr(output, "PATIENCE_S", 0.01)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with output.at_work("solving"):
            time.sleep(0.1)
        assert ("solving" in capsys.readouterr().err) is terminal


@pytest.mark.usefixtures("typer")
def test_a_reader_that_has_seen_enough_ends_it_quietly():
    line = f"{shlex.quote(sys.executable)} -m mlsysim list models | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", line], check=False, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (HOLDS, "")
    assert done.stdout.count("\n") == 1
