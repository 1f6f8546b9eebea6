"""``mlsysim predict``: files in and out, what is wrong in one line, and examples that are predicted near what was measured."""

import csv
import importlib
import io
import json
import os
import sys
import tomllib

import pytest
from forked import forked, module
from repository import ROOT
from test_predict import LAYOUTS, TRAINING, rows_of, run_of

from mlsysim.cli.main import main
from mlsysim.cli.predict import examples
from mlsysim.core.errors import InputError
from mlsysim.tables.predict import ADDED_COLUMNS, predict_table


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the command line in this process; returns its exit code and what it wrote to stdout and stderr."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_command_writes_to_stdout(tmp_path, command):
    path = tmp_path / "runs.csv"
    path.write_text(TRAINING, encoding="utf-8")
    code, written, told = command("predict", path)
    assert (code, told) == (0, "")
    rows = rows_of(written)
    assert list(rows[0]) == [*rows_of(TRAINING)[0], *ADDED_COLUMNS]
    assert [row["id"] for row in rows] == list("abcdef")
    assert rows[0]["predicted"] == f"{predict_table(rows_of(TRAINING))[0]['predicted']:.6g}"
    assert rows[0]["feasible"] == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the module runs in a fork of this process")
def test_the_module_reads_its_input_and_writes_to_its_output(tmp_path, command):
    piped = forked(module("mlsysim", "predict", "-"), tmp_path, stdin=TRAINING)
    assert piped == (0, command("predict", "-", stdin=TRAINING)[1], "")


def test_command_writes_a_file(tmp_path, command):
    path, output = tmp_path / "runs.csv", tmp_path / "predictions.csv"
    path.write_text("\ufeff" + LAYOUTS, encoding="utf-8")
    code, shown, told = command("predict", path, "-o", output)
    assert (code, shown, told) == (0, "", f"{output}: 3 of 5 rows predicted\n")
    written = output.read_text(encoding="utf-8")
    assert [row["predicted"] for row in rows_of(written)] == ["fits", "OOM", "fits", "", ""]
    assert command("predict", output)[1] == written  # its own output is a table too
    assert command("predict", output, "-o", output)[0] == 0
    assert output.read_text(encoding="utf-8") == written


@pytest.mark.parametrize("mark", [";", "\t"])
def test_cells_may_be_parted_as_spreadsheets_do(tmp_path, command, mark):
    rows = list(csv.reader(io.StringIO(TRAINING)))
    grouped = [[cell.replace("2048", "2,048") if place else cell for cell in row] for place, row in enumerate(rows)]
    path, plain = tmp_path / "runs.csv", tmp_path / "plain.csv"
    plain.write_text(TRAINING, encoding="utf-8")
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        file.write("  \n")
        csv.writer(file, delimiter=mark).writerows([[f" {name} " for name in grouped[0]], *grouped[1:]])
    told = [rows_of(command("predict", one)[1]) for one in (path, plain)]
    assert [[row[name] for name in ADDED_COLUMNS] for row in told[0]] == [
        [row[name] for name in ADDED_COLUMNS] for row in told[1]
    ]


def test_a_utilisation_is_expected_within_the_peak():
    (row,) = predict_table([run_of("mfu_pct", framework="Home-made")])
    assert row["predicted"] < row["high"] <= 100


@pytest.mark.parametrize(
    "content",
    [None, "", "apples,pears\n1,2\n", "id,id\n1,2\n", f"{LAYOUTS}a,b\n", b"\xff\xfe\x00"],
    ids=lambda text: str(text)[:20],
)
def test_command_says_in_one_line_what_is_wrong(tmp_path, capsys, content):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["predict", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("mlsysim predict: ")
    assert told.err.count("\n") == 1


def test_help_is_readable(command):
    assert "predict" in command("--help")[1]
    told = command("predict", "--help")[1]
    assert all(column in told for column in ADDED_COLUMNS)
    assert max(map(len, told.splitlines())) <= 80


def test_the_script_is_the_module():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, function = scripts["mlsysim"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("kind", examples())
def test_an_example_is_a_table_of_runs_that_are_predicted_near_what_was_measured(command, kind, tmp_path):
    path = tmp_path / "runs.csv"
    assert command("predict", "--example", kind, "-o", str(path))[0] == 0
    assert command("predict", "--example", kind)[1] == path.read_text("utf-8")
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    for row, predicted in zip(rows, predict_table(rows), strict=True):
        assert predicted["basis"] in ("calibrated", "transferred")
        if "outcome" in row:
            assert predicted["predicted"] == row["outcome"]
        else:
            assert predicted["low"] / 1.5 < float(row["value"]) < 1.5 * predicted["high"]
    code, _, told = command("predict", "--example", kind, "-o", str(path))
    assert (code, "not there yet" in told) == (2, True), "what somebody has filled in is not written over"


def test_rows_are_written_as_json_and_markdown_too(command, tmp_path):
    path = tmp_path / "runs.csv"
    command("predict", "--example", "serving", "-o", str(path))
    rows = list(csv.DictReader(io.StringIO(command("predict", str(path))[1])))
    document = json.loads(command("predict", str(path), "--json")[1])
    assert [f"{row['predicted']:.6g}" for row in document["rows"]] == [row["predicted"] for row in rows]
    lines = command("predict", str(path), "--markdown")[1].splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [row["id"] for row in rows]
    assert lines[0].count("|") == lines[1].count("|") == len(rows[0]) + 1


def test_a_wrong_column_is_named_with_the_right_one(command, tmp_path):
    with pytest.raises(InputError, match=r"accelerator in place of gpu, n_accel in place of num_gpus, and global_batch_seqs$"):
        predict_table([dict.fromkeys(("model", "gpu", "num_gpus", "seq_len", "framework", "metric"), "1")])
    with pytest.raises(InputError, match="accelerator in place of accelerater"):
        predict_table(
            [{{"accelerator": "accelerater"}.get(column, column): cell for column, cell in run_of("mfu_pct").items()}]
        )
    path = tmp_path / "runs.csv"
    path.write_text(
        "model,accelerator,n_accel,seq_len,global_batch_seqs,mbs,metric\nLlama-3-8B,H100,8,4096,8,1,mfu_pct\n", "utf-8"
    )
    code, _, told = command("predict", str(path))
    assert (code, told) == (0, f"{path}: the column 'mbs' is not read; call it 'micro_batch'\n")
    path.write_text(
        "model,accelerator,engine,mode,input_len,TP,batch_size,metric\nLlama-3-8B,H100,vllm,static,100,2,8,ttft_ms\n", "utf-8"
    )
    told = command("predict", str(path))[2].splitlines()
    meant = {"TP": "tp", "batch_size": "batch_or_concurrency"}
    assert told == [f"{path}: the column {name!r} is not read; call it {own!r}" for name, own in meant.items()]
