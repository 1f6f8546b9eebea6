"""The pytest plugin as a user meets it: their own anchor files, options, exit codes, reports."""

import re
import subprocess
import sys

import pytest
from own_cluster import HEAD, INSTALLED, case

import mlsysim
from mlsysim.validation.plugin import AnchorModule

pytestmark = INSTALLED
# A bandwidth in watts.
CHIP = """[case.hardware]
release_year = 2026
compute = { peak_flops = "1 PFLOP/s" }
memory = { capacity = "80 GiB", bandwidth = "3 TW" }
"""


def report_section(result):
    """The lines of our report: from its heading to the next one."""
    lines = result.outlines
    start = next(number for number, line in enumerate(lines) if "mlsysim anchors" in line)
    end = next((number for number in range(start + 1, len(lines)) if re.match(r"(=|-){5,}", lines[number])), len(lines))
    return lines[start + 1 : end]


def test_an_installed_package_needs_no_option(pytester, anchors, monkeypatch):
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")  # which would be imported anew
    anchors(case("good"))
    pytester.runpytest("my_cluster.anchor.toml").assert_outcomes(passed=4)


def test_file_named_as_a_path_is_checked(pytester, anchors):
    anchors(case("good"))
    result = pytester.runpytest("my_cluster.anchor.toml", "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*my_cluster.anchor.toml::test_in_band[[]my-cluster-good[]] PASSED*"])
    result.stdout.fnmatch_lines(
        ["my-cluster-good: measured * ms, predicted * ms, +0.0 %, in band; limited by compute", "1 my_cluster run: half *"]
    )


def test_option_adds_files_to_a_run_of_other_tests(pytester, anchors):
    anchors(case("good"), name="elsewhere/deep/my_cluster.anchor.toml")
    pytester.makepyfile(test_own="def test_own(): pass")
    result = pytester.runpytest("test_own.py", "--anchors=elsewhere", "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_own.py::test_own PASSED*"])
    result.stdout.fnmatch_lines(["*test_in_band[[]my-cluster-good[]] PASSED*"])


OWN = """
import pytest

@pytest.fixture(scope="module")
def own():
    yield

def test_own(own):
    pass
"""


def test_cases_stand_between_other_tests(pytester, anchors):
    path = anchors(case("good"))
    pytester.runpytest(path, "--snapshot-update").assert_outcomes(passed=5)
    pytester.makepyfile(test_first=OWN, test_last=OWN)
    result = pytester.runpytest("test_first.py", path, "test_last.py", "-v")
    result.assert_outcomes(passed=7)
    order = ["test_first.py::*", "*::test_in_band*", "*::test_snapshot*", "*::test_responds*", "test_last.py::*"]
    result.stdout.fnmatch_lines(order)


@pytest.mark.parametrize("marker", ["skip(reason='no')", "skipif(True, reason='no')"])
def test_a_case_that_is_marked_is_skipped(pytester, anchors, marker):
    pytester.makeconftest(f"""
import pytest
def pytest_collection_modifyitems(items):
    for item in items:
        if "in_band" in item.name:
            item.add_marker(pytest.mark.{marker})
""")
    anchors(case("good"))
    pytester.runpytest("my_cluster.anchor.toml").assert_outcomes(passed=3, skipped=1)


@pytest.mark.parametrize("arguments", [["--anchors=."], ["my_cluster.anchor.toml", "--anchors=my_cluster.anchor.toml"]])
def test_file_that_is_reached_twice_runs_once(pytester, anchors, arguments):
    anchors(case("good"))
    result = pytester.runpytest(*arguments)
    result.assert_outcomes(passed=4)  # feasible, in band, bound, response: no snapshot is kept


def test_a_walk_through_a_directory_leaves_anchor_files_alone(pytester, anchors):
    anchors(case("bad", 2.0))
    pytester.makepyfile(test_own="def test_own(): pass")
    result = pytester.runpytest(".")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*mlsysim anchors*")


@pytest.mark.parametrize("given", ["absent", "test_own.py", "empty"])
def test_option_that_names_no_anchors_is_a_usage_error(pytester, given):
    pytester.makepyfile(test_own="def test_own(): pass")
    pytester.mkdir("empty")
    result = pytester.runpytest(f"--anchors={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--anchors={given}:*"])


def test_miss_fails_and_names_both_numbers_and_the_source(pytester, anchors):
    anchors(case("bad", 2.0))
    result = pytester.runpytest("my_cluster.anchor.toml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["my-cluster-bad: predicted * ms, measured * ms (band * to * ms), -50.0 %; My cluster*, run 1"])


def test_known_miss_is_expected_but_counts(pytester, anchors):
    anchors(case("slow", 2.0, 'known_miss = "the data loader"'), case("good"))
    result = pytester.runpytest("my_cluster.anchor.toml")
    assert result.ret == 0
    result.assert_outcomes(passed=7, xfailed=1)
    result.stdout.fnmatch_lines(
        ["my_cluster     2  25.0 %  45.0 % * 1 * 0  1", "2 my_cluster runs: half within 25.0 %; 1 known miss"]
    )


def test_known_miss_that_passes_turns_red(pytester, anchors):
    anchors(case("healed", 1.0, 'known_miss = "the data loader"'))
    result = pytester.runpytest("my_cluster.anchor.toml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*XPASS(strict)*the data loader; once it passes, delete known_miss of case 'healed' in my_cluster.anchor.toml*"]
    )


def test_known_miss_does_not_hide_a_solver_that_fails(pytester, anchors):
    anchors(case("broken", 2.0, 'known_miss = "the data loader"').replace("batch_size = 256", "batch_size = 0"))
    result = pytester.runpytest("my_cluster.anchor.toml", "-k", "in_band")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*my_cluster.anchor.toml: case 'broken': batch_size = 0*"])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (case("x", 1, "tolerence = 0.1"), "*my_cluster.anchor.toml: case 'x': *tolerence*did you mean 'tolerance'*"),
        (case("x", 1, 'unit = "furlong"'), "*my_cluster.anchor.toml: case 'x': *furlong*"),
        (case("x") + case("x"), "*my_cluster.anchor.toml: case 'x': *twice*"),
        (case("x", 1, 'unit = "ms"\nunit = "s"'), "*my_cluster.anchor.toml: case 'x': *overwrite*line*"),
        (case("x").replace("batch_size", "batchsize"), "*case 'x': *batchsize*did you mean 'batch_size'*"),
        (case("x", 1, 'hardware = "Hardware.Cloud.H1000"'), "*case 'x': *H1000*did you mean 'H100'*"),
        (case("x", 1, 'evidence = "recalled"'), "*case 'x': evidence = 'recalled'*"),
        (case("x", 1, "tolerance = 0.6"), "*case 'x': tolerance = 0.6: *<= 0.5*"),
        (case("x", 1, "factors = { overhead = 2.0 }"), "*case 'x': factors =*only role*"),
        (case("x", 1, CHIP), "*case 'x': *bandwidth*3 TW*"),
    ],
    ids=[
        *("unknown-key", "unknown-unit", "duplicate-id", "duplicate-key", "unknown-argument", "unknown-hardware"),
        *("recalled", "wide-band", "fudge-factor", "wrong-dimension"),
    ],
)
def test_malformed_file_is_one_failing_test_that_names_file_and_case(pytester, anchors, broken, message):
    anchors(broken)
    result = pytester.runpytest("my_cluster.anchor.toml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_unknown_key_beside_the_tables_names_the_near_one(pytester, anchors):
    anchors(case("x"), head="[default]\n" + HEAD)
    result = pytester.runpytest("my_cluster.anchor.toml")
    result.stdout.fnmatch_lines(["*no key 'default'*did you mean 'defaults'?"])


def test_workers_give_the_same_report(pytester, anchors):
    pytest.importorskip("xdist")
    anchors(case("good"), case("slow", 2.0, 'known_miss = "the data loader"'), case("bad", 3.0))
    alone = pytester.runpytest("my_cluster.anchor.toml")
    spread = pytester.runpytest("my_cluster.anchor.toml", "-n", "1")  # what travels is what travels from several
    assert spread.ret == alone.ret == 1
    assert report_section(spread) == report_section(alone) != []


def test_selection_reports_only_what_ran(pytester, anchors):
    anchors(case("one"), case("two"))
    result = pytester.runpytest("my_cluster.anchor.toml", "-k", "one and in_band")
    result.assert_outcomes(passed=1, deselected=7)
    result.stdout.fnmatch_lines(["filtered: 1 my_cluster run: *"])


def test_single_case_can_be_named(pytester, anchors):
    anchors(case("one"), case("two"))
    result = pytester.runpytest("my_cluster.anchor.toml::test_in_band[my-cluster-two]")
    result.assert_outcomes(passed=1)


def test_infeasible_plan_must_be_stated(pytester, anchors):
    head = (
        HEAD.replace("SingleNodeModel", "ServingModel")
        .replace('"latency"', '"itl"')
        .replace("Vision.ResNet50", "Language.Llama2_70B")
    )
    unstated = '\n[[case]]\nid = "x"\nvalue = 41\ntolerance = 0.5\nsolve = { seq_len = 1024 }\n'
    anchors(unstated, head=head)
    result = pytester.runpytest("my_cluster.anchor.toml", "-k", "feasible")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["my-cluster-x: infeasible: *GB*"])
    anchors(unstated + "expect_feasible = false\n", head=head)
    pytester.runpytest("my_cluster.anchor.toml", "-k", "feasible").assert_outcomes(passed=1)


def test_stated_infeasibility_must_hold(pytester, anchors):
    anchors(case("x", 1, "expect_feasible = false"))
    result = pytester.runpytest("my_cluster.anchor.toml", "-k", "feasible")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the solver finds that it fits*"])


def test_bound_that_is_slower_than_the_measurement_is_red_even_as_known_miss(pytester, anchors):
    anchors(case("beaten", 0.5, 'known_miss = "magic"'))
    result = pytester.runpytest("my_cluster.anchor.toml")
    result.assert_outcomes(passed=2, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["my-cluster-beaten: the bound * ms is worse than the measured * ms*"])


class DeafModel:
    """Predicts the same whatever the hardware: the original tool's anchor 3."""

    def solve(self, workload, hardware, *, batch_size):
        return mlsysim.SingleNodeModel().solve(workload, mlsysim.Hardware.Cloud.A100, batch_size=batch_size)


def test_prediction_that_does_not_respond_to_the_hardware_is_none(pytester, anchors, monkeypatch):
    monkeypatch.setattr(mlsysim, "DeafModel", DeafModel, raising=False)
    anchors(case("x"), head=HEAD.replace("SingleNodeModel", "DeafModel"))
    result = pytester.runpytest_inprocess("my_cluster.anchor.toml")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["my-cluster-x: latency moves by +0.0 % when the hardware is 10 % faster"])


def test_pytest_has_the_private_name_we_build_on():
    assert "_getobj" in vars(pytest.Module)
    assert AnchorModule._getobj is not pytest.Module._getobj


def test_plugin_costs_a_run_without_anchors_nothing():
    heavy = ("numpy", "pint", "pydantic", "syrupy.session", "mlsysim.core", "mlsysim.solvers")
    code = f"import sys, mlsysim.validation.plugin; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
