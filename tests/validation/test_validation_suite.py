"""The tests of a whole tree of anchors: gates, orphaned snapshots, time budgets. Each must be able to fail."""

import importlib
import importlib.metadata
import json
import shutil
import sys

import pytest
from repository import ANCHOR_TREE

from mlsysim.core.errors import MLSysError
from mlsysim.validation.report import export
from mlsysim.validation.report.findings import Findings

pytestmark = [
    pytest.mark.skipif(
        not [
            point for point in importlib.metadata.entry_points(group="pytest11") if point.value == "mlsysim.validation.plugin"
        ],
        reason="the package is not installed: pip install -e .",
    ),
    pytest.mark.usefixtures("imported_once"),
]

SOURCE = """
[source]
key = "law"
citation = "A paper"
url = "https://example.org"
year = 2022
locator = "Table 1"
solver = "ScalingModel"
metric = "optimal_parameters"
definition = "compute-optimal parameters"
unit = "Gcount"
tolerance = 0.3
tolerance_reason = "for the test"

[defaults]
role = "validation"
evidence = "seen"
responds = false
responds_not = "a law knows no hardware"
"""
# sqrt(C / 120) is 10.0e9 at 1.2e22 FLOP: figures of 10 and 8 are 0 % and 25 % off.
CASES = """
[[case]]
id = "right"
value = 10
solve = { compute_budget = "1.2e22 flop" }

[[case]]
id = "off"
value = 8
solve = { compute_budget = "1.2e22 flop" }
"""
MODULE = """
from pathlib import Path

from mlsysim.validation.suite.anchor_tests import test_in_band, test_snapshot
from mlsysim.validation.suite.suite_tests import test_family_gate, test_no_orphan_snapshots, test_time_of_a_solve

ANCHORS = Path(__file__).parent
"""


@pytest.fixture
def tree(pytester, few_plugins):
    """A repository of one family; returns its root. (The outer run has imported a module called test_anchors.)"""
    family = pytester.path / "anchors" / "scaling"
    family.mkdir(parents=True)
    (family / "law.toml").write_text(SOURCE + CASES, encoding="utf-8")
    (family.parent / "test_tree.py").write_text(MODULE, encoding="utf-8")
    return pytester.path


def write_gate(tree, **limits):
    """family.toml with these limits, the others wide."""
    gate = {"median": 1.0, "p90": 1.0, "bias": 1.0} | limits
    text = "[gate]\n" + "".join(f"{name} = {limit}\n" for name, limit in gate.items()) + 'reason = "for the test"\n'
    (tree / "anchors" / "scaling" / "family.toml").write_text(text, encoding="utf-8")


def test_gate_holds(pytester, tree):
    write_gate(tree)
    pytester.runpytest("anchors", "-k", "family_gate").assert_outcomes(passed=1, deselected=5)


@pytest.mark.parametrize(("name", "limit", "found"), [("median", 0.12, "12.5"), ("p90", 0.22, "22.5"), ("bias", 0.12, "12.5")])
def test_gate_fails_on_each_of_its_numbers(pytester, tree, name, limit, found):
    write_gate(tree, **{name: limit})
    result = pytester.runpytest("anchors", "-k", "family_gate")
    result.assert_outcomes(failed=1, deselected=5)
    result.stdout.fnmatch_lines([f"scaling: {name} of {found} % is above the gate of *: for the test"])


def test_gate_counts_known_misses_and_leaves_calibration_out(pytester, tree):
    path = tree / "anchors" / "scaling" / "law.toml"
    missed = CASES.replace("value = 8", 'value = 5\nknown_miss = "for the test"')
    path.write_text(SOURCE + missed, encoding="utf-8")
    write_gate(tree, median=0.4)
    pytester.runpytest("anchors", "-k", "family_gate").assert_outcomes(failed=1, deselected=5)
    path.write_text(SOURCE + missed.replace('id = "off"', 'id = "off"\nrole = "calibration"'), encoding="utf-8")
    pytester.runpytest("anchors", "-k", "family_gate").assert_outcomes(passed=1, deselected=5)


@pytest.mark.parametrize(("zero_stage", "accuracy"), [(0, 0.75), (1, 0.5)])
def test_gate_of_outcomes(pytester, tree, zero_stage, accuracy):
    """Two plans that fit and are said to, and two that ran out of memory, of which one, or none, is said to (ZeRO-0)."""
    head = SOURCE.replace("ScalingModel", "DistributedModel").replace("tolerance", "# tolerance").replace('"Gcount"', '""')
    head += 'workload = "llama2_7b"\nsolve = { batch_size = 8, recompute = "full" }\n'
    head += 'fleet = { name = "8", node = "dgx_h100", count = 1, fabric = { name = "f", bandwidth = "50 GB/s" } }\n'
    cases = [("fits", 1), ("fits", 3), ("OOM", 1), ("OOM", zero_stage)]
    tables = (
        f'\n[[case]]\nid = "case-{i}"\noutcome = "{outcome}"\nsolve = {{ zero_stage = {stage} }}\n'
        for i, (outcome, stage) in enumerate(cases)
    )
    (tree / "anchors" / "scaling" / "law.toml").write_text(head + "".join(tables), encoding="utf-8")
    gate = '[gate]\nbalanced_accuracy = 0.7\nreason = "for the test"\n'
    (tree / "anchors" / "scaling" / "family.toml").write_text(gate, encoding="utf-8")
    result = pytester.runpytest("anchors", "-k", "family_gate")
    result.assert_outcomes(passed=int(accuracy > 0.7), failed=int(accuracy < 0.7), deselected=7)
    if accuracy < 0.7:
        result.stdout.fnmatch_lines(["scaling: balanced accuracy of 50.0 % is below the gate of 70.0 %: for the test"])


def test_gate_that_is_malformed_is_one_failing_test(pytester, tree):
    write_gate(tree, meadian=0.1)
    result = pytester.runpytest("anchors", "-k", "in_band")
    result.assert_outcomes(failed=1, passed=2, deselected=4)
    result.stdout.fnmatch_lines(["*family.toml*meadian*did you mean 'median'*"])


@pytest.mark.usefixtures("timing")
def test_orphans_are_found_and_removed_by_an_update(pytester, tree):
    assert pytester.runpytest("anchors", "--snapshot-update").ret == 0
    kept = tree / "snapshots" / "scaling" / "law.json"
    assert set(json.loads(kept.read_text(encoding="utf-8"))) == {"law-right", "law-off"}
    assert pytester.runpytest("anchors").ret == 0

    stray = kept.with_name("stray.json")
    stray.write_text('{"gone-case": {}}', encoding="utf-8")
    path = tree / "anchors" / "scaling" / "law.toml"
    path.write_text(SOURCE + CASES.partition('[[case]]\nid = "off"')[0], encoding="utf-8")
    result = pytester.runpytest("anchors")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["law-off: a snapshot without a case", "snapshots without a case*stray.json"])

    assert pytester.runpytest("anchors", "--snapshot-update").ret == 0
    assert set(json.loads(kept.read_text(encoding="utf-8"))) == {"law-right"}
    assert not stray.exists()
    assert pytester.runpytest("anchors").ret == 0


@pytest.mark.usefixtures("timing")
def test_every_difference_of_a_source_is_told(pytester, tree):
    assert pytester.runpytest("anchors", "--snapshot-update").ret == 0
    path = tree / "anchors" / "scaling" / "law.toml"
    more = CASES.replace("1.2e22", "1.3e22").replace("value = 8", "value = 9")
    path.write_text(SOURCE + more + more.partition('[[case]]\nid = "off"')[0].replace("right", "new"), encoding="utf-8")
    result = pytester.runpytest("anchors", "-k", "test_snapshot")
    result.assert_outcomes(failed=1, deselected=6)
    lines = ["3 differences from *law.json", "law-new: no snapshot", "law-off: differs*", "*predicted: 10 -> 10.4083"]
    result.stdout.fnmatch_lines([*lines, "law-right: differs*", "record an intended change with --snapshot-update"])


def test_of_many_differences_those_that_moved_most_are_told(pytester, tree):
    path = tree / "anchors" / "scaling" / "law.toml"
    case = CASES.partition('[[case]]\nid = "off"')[0]

    def written(budget, of_the_eighth):
        cases = [case.replace("right", f"case{number}").replace("1.2e22", budget) for number in range(12)]
        cases[7] = cases[7].replace(budget, of_the_eighth)
        path.write_text(SOURCE + "".join(cases), encoding="utf-8")

    written("1.2e22", "1.2e22")
    assert pytester.runpytest("anchors", "-k", "test_snapshot", "--snapshot-update").ret == 0
    written("1.3e22", "2.4e22")
    result = pytester.runpytest("anchors", "-k", "test_snapshot")
    told = ["12 differences from *law.json", "law-case7: differs*", "*predicted: *", "law-case0: differs*"]
    result.stdout.fnmatch_lines([*told, "and 2 more, which moved less", "record an intended change with --snapshot-update"])


PAGES = "from mlsysim.validation.suite.suite_tests import test_page_is_current, test_target\n"
AIM = '[[target]]\nid = "law"\ntitle = "the law"\nrows = { source = ["law"] }\nmean = 0.13\n'


def test_pages_that_no_longer_say_what_a_run_finds_are_red(pytester, tree):
    (tree / "anchors" / "test_pages.py").write_text(MODULE + PAGES, encoding="utf-8")
    (tree / "anchors" / "test_tree.py").unlink()
    (tree / "anchors" / "targets.toml").write_text(AIM, encoding="utf-8")
    shutil.copy(ANCHOR_TREE / "recalled.toml", tree / "anchors")
    only = ("anchors", "-k", "in_band or is_current or test_target")
    absent = pytester.runpytest(*only)
    absent.assert_outcomes(passed=3, failed=2, deselected=4)
    absent.stdout.fnmatch_lines(["docs/accuracy.md is not what*pytest anchors --accuracy-report=docs/accuracy.md"])

    writing = ("--anchor-report=docs/anchors.md", "--accuracy-report=docs/accuracy.md")
    pytester.runpytest(*only, *writing).assert_outcomes(passed=5, deselected=4)
    pytester.runpytest(*only).assert_outcomes(passed=5, deselected=4)
    page = (tree / "docs" / "accuracy.md").read_text("utf-8")
    assert "| the law | mean | 2 | 12.50 % | <= 13.0 % | met |" in page
    assert "## Runs that are partly recalled" in page

    path = tree / "anchors" / "scaling" / "law.toml"
    path.write_text(SOURCE + CASES.replace("value = 8", "value = 9"), encoding="utf-8")
    pytester.runpytest(*only).assert_outcomes(passed=3, failed=2, deselected=4)


def test_an_aim_is_red_when_missed_unless_known_and_then_when_met(pytester, tree):
    module = MODULE + PAGES
    (tree / "anchors" / "test_tree.py").write_text(module, encoding="utf-8")
    gap = '[target.known_gaps]\nmean = "for the test"\n'
    for text, outcome in [
        (AIM, {"passed": 1}),
        (AIM.replace("0.13", "0.1"), {"failed": 1}),
        (AIM.replace("0.13", "0.1") + gap, {"xfailed": 1}),
        (AIM + gap, {"failed": 1}),
    ]:
        (tree / "anchors" / "targets.toml").write_text(text, encoding="utf-8")
        result = pytester.runpytest("anchors", "-k", "test_target")
        result.assert_outcomes(deselected=8, **outcome)
    result = pytester.runpytest("anchors", "-k", "test_target", "--accuracy-report=page.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_update_by_workers_is_refused(pytester, tree):
    pytester.makeconftest("def pytest_configure(config): config.workerinput = {}")  # as pytest-xdist does in its workers
    result = pytester.runpytest("anchors", "--snapshot-update", "-k", "test_snapshot")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*--snapshot-update writes one file from many tests: run it without -n*"])
    assert not (tree / "snapshots").exists()


@pytest.mark.usefixtures("timing")
def test_solve_over_its_time_budget_fails(pytester, tree, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # the inner run is no worker: it times
    assert pytester.runpytest("anchors", "-k", "time").ret == 0
    result = pytester.runpytest("anchors", "-k", "time", "-o", "mlsysim_solve_budget_ms=0.0001")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ScalingModel takes on law-* * ms at best, the limit is 0.0001 ms"])


@pytest.mark.usefixtures("timing")
def test_a_solve_that_is_slowed_for_a_while_is_timed_again(pytester, tree, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # the inner run is no worker: it times
    slow, taken_s = [1.0, 1e-9], []

    def best_s(work, rounds):
        taken_s.append(slow[min(len(taken_s), len(slow) - 1)])
        return taken_s[-1]

    monkeypatch.setattr("mlsysim.validation.anchors.times.yardstick_s", lambda: 1.0)
    monkeypatch.setattr("mlsysim.validation.anchors.times.best_s", best_s)
    assert pytester.runpytest("anchors", "-k", "time").ret == 0
    assert taken_s == slow


def test_report_as_a_picture_needs_the_plot_extra_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MLSysError, match=r"mlsysim-anchors\[plot\]"):
        export.write(tmp_path / "errors.png", Findings())


def test_report_as_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install mlsysim-anchors[plot]")
    rows = [{"source": "a", "role": "validation", "error": error} for error in (0.1, -0.2, 3.0, None)]
    export.write(tmp_path / "errors.png", Findings(rows))
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
