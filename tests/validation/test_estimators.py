"""Other estimators on the same cases: what they are told, what is written of them, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from repository import ROOT

from mlsysim.core.errors import InputError
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.anchors.estimators import HalfOfPeak, estimator, estimator_case, naive_error
from mlsysim.validation.anchors.loading import load
from mlsysim.validation.anchors.runner import result_of

TRAINING, SERVING = (ROOT / "mlsysim" / "cli" / "data" / f"{kind}.anchor.toml" for kind in ("training", "serving"))
THEIRS = """
class Twice:
    def predict(self, case):
        return case.of_step_time(2.0)

class Odd:
    def predict(self, case):
        return {"ttft": "soon", "token_gap": 1 / 0} if case.metric == "token_gap" else "soon"
"""


def test_a_case_says_what_runs_on_what_and_nothing_of_what_was_measured():
    anchor = load(TRAINING)[0]
    case = estimator_case(anchor)
    assert (case.model, case.layers, case.hidden, case.experts) == ("Llama-3-70B", 80, 8192, 0)
    assert (case.accelerators, case.accelerators_per_node, case.link_Bps, case.network_Bps) == (64, 8, 450e9, 50e9)
    assert (case.precision, case.peak_flops_per_s, case.arguments["tp_size"]) == ("fp8", 1978.9e12, 4)
    assert anchor.case.value not in vars(case).values()
    assert case.model_flops == pytest.approx(6 * 70.6e9 * 128 * 8192, rel=0.1)


def test_a_step_time_becomes_the_metric():
    anchor = load(TRAINING)[0]
    step_s = result_of(anchor).step_latency_total.m_as("second")
    case = estimator_case(anchor)
    assert case.of_step_time(step_s) == pytest.approx(compare(anchor).predicted)
    assert case.of_step_time(2 * step_s) == pytest.approx(compare(anchor).predicted / 2)
    assert case.of_step_time(1.0) == pytest.approx(128 * 8192 / 64)
    assert estimator_case(load(SERVING)[0]).of_step_time(1.0) is None


def test_half_of_peak_is_model_flop_over_half_of_peak():
    anchor = load(TRAINING)[0]
    case = estimator_case(anchor)
    by_hand = 128 * 8192 / 64 / (case.model_flops / (0.5 * 1978.9e12 * 64))
    assert HalfOfPeak().predict(case) == pytest.approx(by_hand)
    assert naive_error(anchor) == pytest.approx(by_hand / 1524 - 1)
    assert naive_error(load(SERVING)[0]) is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("half-of-peek", "did you mean 'half-of-peak'"),
        ("no.such:thing", "No module named"),
        ("math:pi", "an object with predict"),
        ("math:tau2", "has no attribute"),
    ],
)
def test_what_is_no_estimator_is_refused(name, told):
    with pytest.raises(InputError, match=told):
        estimator(name)


@pytest.mark.usefixtures("imported_once", "few_plugins")
def test_a_run_shows_both_on_the_same_rows(pytester):
    pytester.syspathinsert()
    pytester.path.joinpath("theirs.py").write_text(THEIRS, "utf-8")
    for path in (TRAINING, SERVING):
        pytester.path.joinpath(path.name).write_text(path.read_text("utf-8"), "utf-8")
    options = ("--estimator=theirs:Twice", "--estimator=theirs:Odd", "--anchor-report=out.json", "--anchor-report=out.md")
    result = pytester.runpytest("-q", "-k", "in_band", "--anchors=.", *options)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["theirs:Twice *training* 2 *%*%*%*%*0", "theirs:Odd predicts none of 4 cases of *"])
    written = json.loads(pytester.path.joinpath("out.json").read_text("utf-8"))
    (training,) = (one for one in written["estimators"] if one["cases"])
    assert training["ours"]["median"] < training["its"]["median"]
    by_id = {case["id"]: case["estimates"] for case in written["cases"]}
    assert by_id["my-training-llama3-70b-64-gpus"]["theirs:Twice"]["predicted"] == pytest.approx(128 * 8192 / 64 / 2)
    reasons = [by_id[name]["theirs:Odd"]["reason"] for name in sorted(by_id) if name.startswith("my-serving")]
    assert sorted(reasons) == ["ZeroDivisionError: division by zero", "predict returned 'soon': expected a number or None"]
    assert "## Beside other estimators" in pytester.path.joinpath("out.md").read_text("utf-8")
    assert "theirs" not in pytester.runpytest("-q", "-k", "in_band", "--anchors=.").stdout.str()
    assert pytester.runpytest("--estimator=theirs:None", "--anchors=.").ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("module", "name", "needs"), [("calculon", "Calculon", "calculon"), ("aiconfigurator", "AIConfigurator", "aiconfigurator")]
)
def test_an_example_says_what_to_install(monkeypatch, module, name, needs):
    monkeypatch.setitem(sys.modules, needs, None)
    file = ROOT / "examples" / f"estimate_with_{module}.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with pytest.raises(ImportError, match="pip install"):
        getattr(example, name)()
