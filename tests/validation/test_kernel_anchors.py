"""Kernel tables as anchors: gates as data, pooled statistics, and the report of a run."""

from __future__ import annotations

import importlib
import importlib.metadata
import json

import pytest
from repository import KERNELS

from mlsysim.calibration.stacks import fitted_names
from mlsysim.core.errors import DataError
from mlsysim.validation.kernels import checks as kernels
from mlsysim.validation.report import export, report, statistics
from mlsysim.validation.report.findings import Findings

GATES = (KERNELS / "gates.toml").read_text("utf-8")
MODULE = """
from pathlib import Path

from mlsysim.validation.suite.kernel_tests import test_kernel_gate, test_kernel_table

ANCHORS = Path(__file__).parent
"""
installed = pytest.mark.skipif(
    not [point for point in importlib.metadata.entry_points(group="pytest11") if point.value == "mlsysim.validation.plugin"],
    reason="the package is not installed: pip install -e .",
)


def linked(folder, gates=GATES):
    """The repository's tables in ``folder``, with other gates."""
    folder.mkdir(parents=True)
    for path in KERNELS.iterdir():
        if path.name != kernels.GATES_FILE:
            (folder / path.name).symlink_to(path)
    (folder / kernels.GATES_FILE).write_text(gates, encoding="utf-8")
    return folder


def parts_of(folder):
    """Both roles of every table in ``folder``, none of whose files may be malformed."""
    found = kernels.sound(folder)
    if found.malformed:
        raise found.malformed[0]
    return found.parts


def checks_of(folder):
    """Every gate's every statistic with the rows that it judges."""
    return [(check, one) for one in parts_of(folder) for check in one.checks]


def part(name, role, errors, coefficients=("a",), gates=()):
    """What a test hands over of one table."""
    row = {"file": "f.csv", "id": f"{name}-{role}", "family": "kernels: gemm", "role": role}
    return row | {"coefficients": list(coefficients), "errors": errors, "gates": list(gates)}


def test_every_row_of_every_table_is_judged():
    lines = sum(len(path.read_text("utf-8").splitlines()) - 1 for path in KERNELS.glob("*.csv"))
    assert sum(len(one.rows) for one in parts_of(KERNELS)) == lines > 12000


def test_errors_are_pooled_over_rows_not_averaged_over_tables():
    rows = [part("x", "validation", [0.1, 0.1, 0.1, -0.1]), part("y", "validation", [-0.9], ["a", "b"])]
    (summary,) = statistics.kernels_by_family(rows)
    assert (summary.tables, summary.cases, summary.coefficients) == (2, 5, 2)
    assert summary.median == pytest.approx(0.1)
    assert summary.bias == pytest.approx((0.3 - 0.1 - 0.9) / 5)
    assert summary.p90 == pytest.approx(statistics.quantile([0.1] * 4 + [0.9], 0.9))
    assert [table.family for table in statistics.kernels_by_table(rows)] == ["x", "y"]


def test_the_last_line_counts_everything_once():
    case = {"family": "f", "role": "validation", "coefficients": ("a", "c"), "error": 0.1, "hand_picked": ()}
    rows = [{**case, "role": role} for role in ("validation", "calibration", "exact", "paper")]
    tables = [part("x", "calibration", [0.0] * 2000), part("x", "validation", [0.0] * 3, ["a", "b"])]
    line = statistics.total(rows, tables)
    assert line.startswith("3 coefficients, 2,005 measurements (2,001 calibration, 4 validation; 2,003 are kernel times)")
    assert "1 exact and 1 paper" in line
    assert "kernel" not in statistics.total(rows, [])
    assert report.lines(Findings(kernels=tables))[-1] == statistics.total([], tables)


def test_training_and_kernels_name_a_coefficient_alike():
    used = fitted_names("megatron-2021", "a100_sxm", "bfloat16")
    known = {name for one in parts_of(KERNELS) for name in one.table.coefficients}
    assert {name for name in used if not name.startswith(("stack.", "clock.", "shared."))} <= known


def test_exports_carry_families_tables_and_gates_that_do_not_hold():
    gate = {"id": "x-all-median", "found": 0.2, "limit": 0.1, "held": False, "known_gap": "reason why"}
    rows = [part("x", "validation", [0.2, -0.2], gates=[gate])]
    document = json.loads(export.as_json(Findings(kernels=rows)))
    assert document["kernels"][0]["median"] == pytest.approx(0.2)
    assert document["kernel_tables"][0]["family"] == "x"
    assert document["kernel_gates"] == [gate]
    text = export.as_markdown(Findings(kernels=rows))
    assert "| `x-all-median` | 20.0 % | 10.0 % | reason why |" in text
    assert "Errors by source" not in text
    assert "0 of 1 hold, 1 known gap" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("median = 0.07", "meadian = 0.07", "did you mean 'median'"),
        ("median = 0.07", "", "limit on median, p90 or both"),
        ("known_gaps.median]\ngemm-b300", "known_gaps.p90]\ngemm-b300", "known_gaps"),
        ("gemm-gb200-bfloat16", "gemm-gb20-bfloat16", "did you mean 'gemm-gb200-bfloat16'"),
        ('family = "collectives: pcie"', 'family = "collectives: usb"', "no table of 'collectives: usb'"),
        ('tables = "gemm-*-bfloat16"', 'tables = "gemm-*-bf16"', "no table of 'kernels: gemm' is called"),
        ('[[gate]]\nid = "all"\nfamily = "collectives: multi-node"', "[[gat]]", "nothing else"),
        ('family = "collectives: multi-node"', 'family = "collectives: pcie"', "no gate for collectives-multinode"),
        ("median = 0.07", "median = ", "Invalid value"),
    ],
)
def test_malformed_gates_are_named(tmp_path, old, new, message):
    assert old in GATES
    folder = linked(tmp_path / "kernels", GATES.replace(old, new, 1) if "usb" not in new else GATES.replace(old, new))
    with pytest.raises(DataError, match=r"gates\.toml") as caught:
        parts_of(folder)
    assert message in str(caught.value)


def test_a_gate_that_chooses_no_row_is_an_error(tmp_path):
    folder = linked(tmp_path / "kernels", GATES.replace("{ m = 1024 }", "{ m = 1e12 }"))
    check, one = next((check, one) for check, one in checks_of(folder) if check.gate.at_least.get("m"))
    with pytest.raises(DataError, match="no validation row"):
        check.found(one)


def test_no_folder_has_no_tables(tmp_path):
    assert parts_of(tmp_path) == ()


@pytest.fixture
def tree(pytester, few_plugins, imported_once):
    """A repository with the kernels alone; called with other gates."""

    def make(gates=GATES):
        folder = linked(pytester.path / "anchors" / "kernels", gates)
        (folder.parent / "test_tables.py").write_text(MODULE, encoding="utf-8")

    return make


@installed
def test_a_run_reports_what_it_selected(pytester, tree, strict):
    tree()
    only = ("-k", "kernel_table and gemm-h100_sxm-bfloat16", "--anchors-summary=full")
    result = pytester.runpytest("anchors", *only, "--junitxml=j.xml", "--anchor-report=r.json", *strict)
    result.assert_outcomes(passed=2, deselected=len(parts_of(KERNELS)) + len(checks_of(KERNELS)) - 2)
    result.stdout.fnmatch_lines(
        [
            "Kernels *role *tables *times*gates",
            "kernels: gemm *calibration *1 *135 * 10 *-",
            "kernels: gemm *validation *1 * 10 *2 of 2 hold",
            "10 coefficients, * measurements (135 calibration, * are kernel times); *",
        ]
    )
    document = json.loads((pytester.path / "r.json").read_text("utf-8"))
    assert [row["role"] for row in document["kernel_tables"]] == ["calibration", "validation"]
    assert "mlsysim_kernels" in (pytester.path / "j.xml").read_text("utf-8")


@installed
def test_records_survive_the_way_from_a_worker(pytester, tree, request):
    """What pytest-xdist sends is what a report reads; test_plugin.py starts workers."""
    execnet = pytest.importorskip("execnet")
    tree()
    config, records = request.config, []
    for result in pytester.inline_run("anchors", "-k", "pcie or b300").getreports("pytest_runtest_logreport"):
        sent = execnet.dumps(config.hook.pytest_report_to_serializable(config=config, report=result))
        arrived = config.hook.pytest_report_from_serializable(config=config, data=execnet.loads(sent))
        assert [tuple(record) for record in arrived.user_properties] == result.user_properties
        records += result.user_properties
    assert {name for name, _ in records} == {"mlsysim_kernels"}


@installed
def test_a_gate_that_does_not_hold_is_red(pytester, tree):
    tree(GATES.replace("median = 0.07\n", "median = 0.001\n", 1))
    result = pytester.runpytest("anchors", "-k", "gemm-h100_sxm-bfloat16-all")
    result.assert_outcomes(failed=1, deselected=len(parts_of(KERNELS)) + len(checks_of(KERNELS)) - 1)
    result.stdout.fnmatch_lines(["gemm-h100_sxm-bfloat16-all-median: median of * % is above the gate of 0.1 %: *"])


@installed
def test_a_known_gap_that_is_closed_turns_red(pytester, tree):
    tree(GATES.replace("median = 0.045", "median = 0.3"))
    result = pytester.runpytest("anchors", "-k", "gemm-gb200-bfloat16-from")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    told = "*XPASS(strict)*known gap: no pattern left*; once it passes, delete known_gaps.*.* of gate * in gates.toml*"
    result.stdout.fnmatch_lines([told])


@installed
def test_malformed_gates_are_one_failing_test(pytester, tree):
    tree(GATES.replace("median = 0.07", "meadian = 0.07", 1))
    result = pytester.runpytest("anchors", "-k", "gemm-l40s-bfloat16")
    result.assert_outcomes(passed=2, failed=1, deselected=len(parts_of(KERNELS)) - 2 + 1)
    result.stdout.fnmatch_lines(["*gates.toml*meadian*did you mean 'median'*"])


@installed
def test_residuals_that_the_fit_has_not_written_are_red(pytester, tree):
    tree()
    path = pytester.path / "anchors" / "kernels" / "gemm_h100_sxm.csv"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.unlink()
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    result = pytester.runpytest("anchors", "-k", "kernel_table and gemm-h100_sxm")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*gemm-h100_sxm-*rows*written*: run python -m mlsysim.fitting"])
