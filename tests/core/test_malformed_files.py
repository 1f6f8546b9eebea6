"""Malformed files of every kind: one line names the file, the place in it and the reason, and the other files are read."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from pathlib import Path

import pytest
from repository import KERNELS

import mlsysim
from mlsysim.calibration import engines
from mlsysim.cli.main import main
from mlsysim.core.errors import DataError, InputError
from mlsysim.core.toml import packaged_toml
from mlsysim.hardware.registry import HardwareRegistry
from mlsysim.validation.anchors import loading, snapshots
from mlsysim.validation.anchors.layouts import checks as layout_checks
from mlsysim.validation.anchors.times import times
from mlsysim.validation.kernels.tables import KernelTable
from mlsysim.validation.report import targets

HEAD = """\
[source]
key = "s"
citation = "c"
url = "u"
year = 2022
solver = "ScalingModel"
metric = "optimal_parameters"
definition = "d"
unit = "Gcount"
locator = "l"
tolerance = 0.1
tolerance_reason = "r"
"""
DEFAULTS = """
[defaults]
role = "validation"
evidence = "seen"
responds = false
responds_not = "a law"
"""
CASE = """
[[case]]
id = "x"
value = 67.0
solve = { compute_budget = "5.76e23 flop" }
"""
GOOD = HEAD + DEFAULTS + CASE
CHIP = """
[chip]
group = "Cloud"
name = "Chip"
release_year = 2026
compute.peak_flops = "1 TFLOP/s"
memory = { capacity = "8 GiB", bandwidth = "100 GB/s" }
source = "our lab book"
"""
RUNS = "id,value,solve.compute_budget\na,67,5.76e23 flop\nb,67,5.76e23 flop\n"
TIMES = "role,dtype,m,n,k,measured_s\nvalidation,bfloat16,1,2,3,0.1\ncalibration,bfloat16,1,2,3,0.1\n"
ROWS = "id,accelerator,n_accel,model,seq_len,global_batch_seqs,metric\na,H100,8,Llama-3-8B,2048,8,step_time_s\n"

# What no reader of TOML takes, and what is said of it.
NO_TOML = {
    "not UTF-8": (lambda text: text.encode() + b"note = '\xff'\n", r"line \d+: cannot be read: byte 0xff is not UTF-8"),
    "a long integer": (lambda text: text + "note = " + "1" * 4301, r"more than 4300 digits \(at line \d+\)"),
    "deep brackets": (lambda text: text + "note = " + "[" * 2000 + "]" * 2000, r"nested too deeply \(at line \d+\)"),
    "a key twice": (lambda text: text + "note = 1\nnote = 2\n", r"overwrite a value \(at line \d+"),
    "cut": (lambda text: text + "note = ", "Invalid value"),
    "a NUL": (lambda text: text + "note = '\0'", r"'\\x00' \(at line \d+"),
    "absent": (None, "No such file"),
    "a folder": ("", "it is a folder"),
}
NO_CSV = {
    "not UTF-8": (lambda text: text.encode() + b"\xff\n", "line 4: no CSV in UTF-8"),
    "a cell too many": (
        lambda text: text + text.splitlines()[-1] + ",1\n",
        r"line 4 \(.*\) has \d+ cells, the table \d+ columns",
    ),
    "a cell too few": (lambda text: text + "lonely\n", r"line 4 \('lonely'\) has 1 cell, the table \d+ columns"),
    "a huge cell": (lambda text: text + "x" * 2**17 + "y\n", r"line 4: no CSV: field larger than field limit \(131072\)"),
    "a NUL": (lambda text: text.replace("\n", "\0\n", 1), r"line 1, column '.*': a NUL character"),
    "an open quote": (lambda text: text + '"a,b\n', "line 4: no CSV: unexpected end of data"),
    "a column twice": (lambda text: text.replace("\n", ",id,id\n", 1), "line 1: a column name is there twice: 'id'"),
    "empty": (lambda text: "", "empty: expected a line of column names"),
    "absent": (None, "No such file"),
    "a folder": ("", "it is a folder"),
}


@pytest.fixture(scope="module")
def registry():
    """One that is given malformed files alone, of which it takes nothing."""
    return HardwareRegistry()


def put(path, text, change):
    """Writes a file that is malformed in this way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if change == "":
        path.mkdir()
    elif change is not None:
        content = change(text)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def told(call, name, message):
    """The one line of the error, which names the file."""
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert name in line
    assert re.search(message, line), line
    assert "\n" not in line
    assert caught.value.__cause__ is None
    return line


def load_anchors(path, text=GOOD):
    path.write_text(text, encoding="utf-8")
    return loading.load(path)


@pytest.mark.parametrize(("change", "message"), NO_TOML.values(), ids=NO_TOML)
def test_a_file_that_is_no_toml(tmp_path, registry, change, message):
    anchors = put(tmp_path / "a.anchor.toml", GOOD, change)
    told(lambda: loading.load(anchors), "a.anchor.toml", message)
    chips = put(tmp_path / "chips.toml", CHIP, change)
    told(lambda: registry.load(chips), "chips.toml", message)
    for file, read in ((targets.FILE, targets.checks), ("layouts.toml", layout_checks), ("times.toml", times)):
        if change is not None:
            put(tmp_path / file, "", change)
            told(lambda read=read: read(tmp_path), file, message)


@pytest.mark.parametrize(("change", "message"), NO_CSV.values(), ids=NO_CSV)
def test_a_table_that_is_no_csv(tmp_path, capsys, change, message):
    (tmp_path / "a.anchor.toml").write_text(HEAD + 'table = "runs.csv"\n' + DEFAULTS, encoding="utf-8")
    put(tmp_path / "runs.csv", RUNS, change)
    told(lambda: loading.load(tmp_path / "a.anchor.toml"), "runs.csv", message)
    times_table = put(tmp_path / "gemm.csv", TIMES.replace("dtype", "id") if "twice" in message else TIMES, change)
    told(lambda: KernelTable.read(times_table), "gemm.csv", message)
    rows = put(tmp_path / "rows.csv", ROWS + ROWS.splitlines()[-1] + "\n", change)
    assert main(["predict", str(rows)]) == 2
    line = capsys.readouterr().err
    assert re.fullmatch(rf"mlsysim predict: \S*rows\.csv: .*{message}.*\n", line), line


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["unix", "windows"])
def test_marks_and_line_ends_of_editors_are_read(tmp_path, mark, ending):
    def written(name, text):
        path = tmp_path / name
        path.write_bytes((mark + text.replace("\n", ending)).encode())
        return path

    written("runs.csv", RUNS)
    assert len(loading.load(written("a.anchor.toml", HEAD + 'table = "runs.csv"\n' + DEFAULTS + CASE))) == 3
    assert HardwareRegistry().load(written("chips.toml", CHIP)) == ["chip"]
    assert len(KernelTable.read(written("gemm.csv", TIMES))) == 2
    assert main(["predict", str(written("rows.csv", ROWS)), "-o", str(tmp_path / "out.csv")]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults = 3\n" + HEAD + CASE, r"\[defaults\]: expected a table, got 3"),
        ("case = [1]\n" + HEAD, r"\[\[case\]\] number 1: expected a table, got 1"),
        ("case = 1\n" + HEAD, r"case = 1: expected \[\[case\]\] tables"),
        ("case = []\n" + HEAD, r"expected at least one \[\[case\]\]"),
        ("source = 3\n" + CASE, r"\[source\]: expected a table, got 3"),
        ("", r"\[source\]: expected a table, got None"),
        (HEAD + "self = 1\n" + CASE, r"\[source\]: Source\(\) takes no argument 'self'"),
        (GOOD.replace('"s"', "[1]"), r"\[source\]: Source.key = \[1\]"),
        (GOOD.replace('id = "x"', "id = 3"), "case 3: Case.id = 3"),
        (GOOD + CASE, "case 'x': this id stands twice"),
        (GOOD + "run = 3\n", "case 'x': Case.run = 3"),
        (GOOD.replace("Scaling", "Distributed").replace('{ compute_budget = "5.76e23 flop" }', "{}"), "case 'x': solve = "),
        (GOOD + 'workload = { made = 1979-05-27 }\nhardware = ""\n', "case 'x': "),
        (GOOD + 'corrects = "another"\n', "case 'x': corrects = 'another'"),
        *((HEAD + f"table = {table}\n" + DEFAULTS + CASE, r"\[source\]: table = .*beside or below this file") for table in (
            *("3", '"."', '""', '"/etc/passwd"', '"../other.csv"', '"below/../../other.csv"', '"link.csv"', '"nul\\u0000"'),
            '["runs.csv"]',
        )),
    ],
)  # fmt: skip
def test_an_anchor_file_of_the_wrong_shape(tmp_path, text, message):
    (tmp_path / "other.csv").write_text(RUNS, encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.csv").symlink_to(tmp_path / "other.csv")
    path = folder / "a.anchor.toml"
    path.write_text(text, encoding="utf-8")
    told(lambda: loading.load_all([path]), "a.anchor.toml", message)


def test_a_table_lies_beside_its_anchors_or_below(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "runs.csv").write_text(RUNS, encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(tmp_path / "below" / "runs.csv")
    for table in ("below/runs.csv", "./below/../below/runs.csv", "link.csv", str(tmp_path / "below" / "runs.csv")):
        text = HEAD + f"table = {json.dumps(table)}\n" + DEFAULTS
        assert len(load_anchors(tmp_path / "a.anchor.toml", text)) == 2


def test_a_cell_that_is_no_number_of_pythons_is_text():
    for text in ("1" * 4301, "[" * 2000, "1e400"):
        read = loading._cell(text)
        assert read in (text, float("inf"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults = 3\n" + CHIP, r"\[defaults\]: expected a table, got 3"),
        (CHIP.replace('"Cloud"', '["Cloud"]'), r"entry \[chip\]: group = \['Cloud'\]: expected one of"),
        (CHIP.replace('"Chip"', '["Chip"]'), r"entry \[chip\]: HardwareNode.name = \['Chip'\]"),
        (CHIP + 'aliases = [["a"]]\n', r"entry \[chip\]: name \['a'\]"),
        (CHIP + "provenance = 1\n", r"entry \[chip\]: .*provenance"),
        (CHIP + "like = 3\n", r"entry \[chip\]: "),
        (CHIP + 'like = "chip"\n', r"entry \[chip\]: "),
    ],
)
def test_a_registry_file_of_the_wrong_shape(tmp_path, registry, text, message):
    path = tmp_path / "chips.toml"
    path.write_text(text, encoding="utf-8")
    told(lambda: registry.load(path), "chips.toml", message)


@pytest.mark.parametrize("path", [None, 3, b"chips.toml", ["chips.toml"]])
def test_a_registry_loads_a_path(registry, path):
    with pytest.raises(InputError, match=r"path = .*: expected the path of a TOML file"):
        registry.load(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("test,bfloat16,1,2,3,0.1", "line 4: role = 'test': expected calibration or validation"),
        ("validation,bfloat16,1,2,3,0", "line 4: measured_s = '0': expected a number > 0"),
        ("validation,bfloat16,1,2,3,inf", "line 4: measured_s = 'inf': expected a number > 0"),
        ("validation,bfloat16,many,2,3,0.1", "line 4: m = 'many': expected a number > 0"),
        ("validation,bfloat16,,2,3,0.1", "line 4: m = '': expected a number > 0"),
        ("validation,bfloat16,nan,2,3,0.1", "line 4: m = 'nan': expected a number > 0"),
    ],
)
def test_a_kernel_table_of_the_wrong_shape(tmp_path, row, message):
    path = tmp_path / "gemm.csv"
    path.write_text(f"{TIMES}{row}\n", encoding="utf-8")
    told(lambda: KernelTable.read(path), "gemm.csv", message)


def test_a_snapshot_file_that_is_none(tmp_path):
    path = tmp_path / "kept.json"
    for text, message in (("{", "Expecting"), ("[1]", r"expected a table, got \[1\]"), ('{"x": 1}', "'x': expected a table")):
        path.write_text(text, encoding="utf-8")
        told(lambda: snapshots.read(path), "kept.json", message)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.anchor.toml"
    path.write_text(GOOD, encoding="utf-8")
    path.chmod(0)
    told(lambda: loading.load(path), "a.anchor.toml", "Permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes of this kind")
def test_a_pipe_is_no_file_to_wait_for(tmp_path):
    os.mkfifo(tmp_path / "a.anchor.toml")
    told(lambda: loading.load(tmp_path / "a.anchor.toml"), "a.anchor.toml", "no ordinary file")
    (tmp_path / "b.anchor.toml").write_text(HEAD + 'table = "a.anchor.toml"\n' + DEFAULTS, encoding="utf-8")
    told(lambda: loading.load(tmp_path / "b.anchor.toml"), "a.anchor.toml", "no ordinary file")


def test_a_key_that_is_missing_is_told_by_its_place(monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda path: b'[a.kernels]\nlike = "b"\n')
    told(
        lambda: packaged_toml("models", "names.toml")["a"]["kernels"]["hardware"],
        "names.toml",
        "a.kernels.*'hardware': it has to",
    )


def test_a_file_of_the_package_is_named_by_its_room(monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"[a]\nb = [1, nan]\n")
    told(lambda: packaged_toml("models", "names.toml"), "mlsysim/models/data/names.toml", r"a\.b\.1 = nan: expected a number")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tensorrt-llm"', '"tensorrt-lm"', "engines.toml: no key 'tensorrt-lm'; did you mean 'tensorrt-llm'"),
        ("memory_use = 0.9", 'memory_use = "most"', "vllm-2025: could not convert string to float: 'most'"),
        ("memory_use = 0.9", "memory_use = [1]", "vllm-2025: .*float"),
        ("memory_use = 0.9", "memory_use = nan", r"vllm-2025.memory_use = nan: expected a number"),
    ],
)
def test_a_calibration_file_of_the_wrong_shape(monkeypatch, old, new, message):
    text = (Path(mlsysim.__file__).parent / "calibration" / "data" / "engines.toml").read_text("utf-8")
    start = text.index("[vllm-2025]")
    assert old in text[start:]
    monkeypatch.setattr(Path, "read_bytes", lambda path: (text[:start] + text[start:].replace(old, new, 1)).encode())
    monkeypatch.setattr(engines, "engine_tables", engines.engine_tables.__wrapped__)
    told(lambda: engines._shipped.__wrapped__("vllm-2025"), "mlsysim/calibration/data/engines.toml", message)  # not kept


MODULE = """
from pathlib import Path

from mlsysim.validation.suite.anchor_tests import test_in_band, test_runs_hold, test_snapshot
from mlsysim.validation.suite.kernel_tests import test_kernel_gate, test_kernel_table
from mlsysim.validation.suite.suite_tests import test_family_gate, test_layout, test_target, test_time_of_a_solve

ANCHORS = Path(__file__).parent
"""
installed = pytest.mark.skipif(
    not [point for point in importlib.metadata.entry_points(group="pytest11") if point.value == "mlsysim.validation.plugin"],
    reason="the package is not installed: pip install -e .",
)


@pytest.fixture
def tree(pytester, few_plugins, imported_once):
    """A repository of a sound anchor and of files by their name and text; returns a run of its tests."""

    def run(files, *arguments):
        for name, text in {"scaling/good.toml": GOOD.replace('key = "s"', 'key = "good"'), **files}.items():
            path = pytester.path / "anchors" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (pytester.path / "anchors" / "test_tree.py").write_text(MODULE, encoding="utf-8")
        return pytester.runpytest("anchors", *arguments)

    return run


BAD = {
    "scaling/bad.toml": GOOD.replace("67.0", "six"),
    "scaling/twice.toml": GOOD.replace('key = "s"', 'key = "good"'),
    "scaling/family.toml": "[gate]\nmedian = 'half'\n",
    "scaling/table.toml": HEAD + 'table = "/etc/passwd"\n' + DEFAULTS,
    "targets.toml": "target = 3\n",
    "layouts.toml": "sweep = 3\n",
    "times.toml": "yardstick_ms = 'one'\n",
}


@installed
def test_a_malformed_file_is_one_failing_test_and_the_others_are_tested(tree):
    result = tree(BAD, "-rfE")
    assert result.parseoutcomes()["failed"] == len(BAD) + 1  # the good one has no snapshot
    assert result.parseoutcomes()["passed"] == 1
    for name in BAD:
        assert (
            sum(f"test_file_is_sound[anchors/{name}]" in line for line in result.outlines) == 2
        )  # its heading and the summary
        assert sum(f"anchors/{name}: " in line for line in result.outlines) == 1
    result.stdout.no_fnmatch_line("*Traceback*")


@installed
def test_no_selection_hides_a_malformed_file(tree):
    result = tree({"scaling/bad.toml": GOOD.replace("67.0", "six")}, "-k", "in_band and good")
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    result.stdout.fnmatch_lines(["*anchors/scaling/bad.toml: case 'x': cannot be read: Invalid value (at line *"])


@installed
def test_a_malformed_kernel_table_leaves_the_others_to_be_judged(tree, pytester):
    folder = pytester.path / "anchors" / "kernels"
    folder.mkdir(parents=True)
    for path in KERNELS.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "gemm_l40s.csv").unlink()
    (folder / "gemm_l40s.csv").write_text(TIMES.replace("0.1", "soon"), encoding="utf-8")
    result = tree({}, "-k", "gemm-l40s or gemm-a100_sxm or in_band", "-rf")
    assert result.parseoutcomes()["failed"] == 1
    assert result.parseoutcomes()["passed"] > 4
    result.stdout.fnmatch_lines(["*gemm_l40s.csv: line 2: measured_s = 'soon': expected a number > 0"])
