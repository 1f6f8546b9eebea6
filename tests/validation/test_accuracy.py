"""Aims and the page of errors."""

from __future__ import annotations

import pytest
from repository import ANCHOR_TREE

from mlsysim.core.errors import DataError
from mlsysim.validation.anchors import recalled
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.anchors.loading import load
from mlsysim.validation.report import accuracy, targets
from mlsysim.validation.report.findings import Findings
from mlsysim.validation.report.report import percent

LEFT_OUT = {
    "a": {"without": ["a"], "cases": ["a/*"], "errors": {"points": 4, "median": 0.02, "mean": 0.03, "p90": 0.1, "bias": 0.0}},
    "b": {"without": ["b"], "cases": ["b/*"], "errors": {"points": 6, "median": 0.06, "mean": 0.08, "p90": 0.2, "bias": 0.1}},
    "both": {
        "without": ["a", "b"],
        "cases": ["a/*"],
        "errors": {"points": 4, "median": 0.5, "mean": 0.5, "p90": 0.5, "bias": 0.5},
    },
}


def row(name, error, **other):
    """A line of the report, as far as aims and the page read it."""
    known = {"id": name, "family": "training", "source": "s", "role": "validation", "model": "m", "kind": "dense", "stack": "t"}
    known |= {"accelerator": "A100", "metric": "step_latency_total", "error": error, "naive": None, "measured": 1.0}
    known |= {
        "in_band": True,
        "known_miss": "",
        "feasible": True,
        "basis": "calibrated",
        "coefficients": ["c"],
        "hand_picked": [],
    }
    return known | other


@pytest.fixture
def written(tmp_path):
    """Writes a targets.toml and returns its checks."""

    def write(text):
        (tmp_path / targets.FILE).write_text(text, encoding="utf-8")
        return targets.checks(tmp_path)

    return write


def test_an_aim_judges_the_rows_that_it_names(written):
    (check,) = written('[[target]]\nid = "x"\ntitle = "x"\nrows = { source = ["s*"], kind = ["dense"] }\nmedian = 0.1\n')
    rows = [
        row("1", 0.05),
        row("2", -0.15),
        row("3", 0.9, kind="moe"),
        row("4", 0.9, role="calibration"),
        row("5", 0.9, source="u"),
    ]
    found = check.as_row(rows, {})
    assert (check.id, found["cases"], found["held"]) == ("x-median", 2, True)
    assert found["found"] == pytest.approx(0.1)
    assert not check.as_row([*rows, row("6", 0.3)], {})["held"]


def test_an_aim_without_rows_is_missed(written):
    (check,) = written('[[target]]\nid = "x"\ntitle = "x"\nrows = { source = ["none"] }\nmean = 0.1\n')
    found = check.as_row([row("1", 0.0)], {})
    assert (found["found"], found["held"], found["cases"]) == (None, False, 0)


def test_bias_counts_in_both_directions_and_outcomes_by_their_kind(written):
    text = (
        '[[target]]\nid = "x"\ntitle = "x"\nrows = { family = ["*"] }\nbias = 0.1\nbalanced_accuracy = 0.7\nfalse_oom = 0.2\n'
    )
    checks = {check.measure: check for check in written(text)}
    outcomes = [("fits", True)] * 3 + [("fits", False)] + [("OOM", True)]
    rows = [row(str(number), None, measured=said, in_band=hit) for number, (said, hit) in enumerate(outcomes)]
    assert not checks["bias"].as_row([row("1", -0.2)], {})["held"]
    assert checks["balanced_accuracy"].as_row(rows, {})["found"] == pytest.approx(0.875)
    assert checks["balanced_accuracy"].as_row(rows, {})["held"]
    assert checks["false_oom"].as_row(rows, {})["found"] == pytest.approx(0.25)
    assert not checks["false_oom"].as_row(rows, {})["held"]


def test_sources_left_out_are_judged_by_the_median_of_their_medians(written):
    alone, group = written(
        '[[target]]\nid = "x"\ntitle = "x"\nleft_out = "sources"\nmedian = 0.05\n'
        '[[target]]\nid = "y"\ntitle = "y"\nleft_out = "both"\nmean = 0.05\n'
    )
    assert alone.as_row([], LEFT_OUT)["found"] == pytest.approx(0.04)
    assert alone.as_row([], LEFT_OUT)["cases"] == 10
    assert group.as_row([], LEFT_OUT)["found"] == pytest.approx(0.5)


def test_kernels_are_judged_over_the_pooled_rows_of_their_family(written):
    (check,) = written('[[target]]\nid = "x"\ntitle = "x"\nkernels = "kernels: gemm"\nmedian = 0.1\n')
    tables = [{"id": "a-validation", "family": "kernels: gemm", "role": "validation", "errors": [0.1, -0.3]}]
    tables += [{"id": "b-validation", "family": "kernels: gemm", "role": "validation", "errors": [0.05]}]
    tables += [{"id": "b-calibration", "family": "kernels: gemm", "role": "calibration", "errors": [0.9, 0.9]}]
    found = check.as_row([], {}, [table | {"gates": [], "coefficients": []} for table in tables])
    assert (found["cases"], found["found"], found["held"]) == (3, pytest.approx(0.1), True)
    assert not check.as_row([], {}, [])["held"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[target]]\nid = "x"\ntitle = "x"\nmedian = 0.1\n', "one of rows, kernels and left_out"),
        ('[[target]]\nid = "x"\ntitle = "x"\nleft_out = "y"\n', "a limit on one of median"),
        ('[[target]]\nid = "x"\ntitle = "x"\nleft_out = "y"\nmeadian = 0.1\n', "did you mean 'median'"),
        ('[[target]]\nid = "x"\ntitle = "x"\nrows = { sorce = ["s"] }\nmedian = 0.1\n', "sorce"),
        ('[[target]]\nid = "x"\ntitle = "x"\nleft_out = "y"\nmedian = 0.1\nknown_gaps = { p90 = "?" }\n', "known_gaps"),
        ("[[targt]]\n", "did you mean 'target'"),
        ("[[target]\n", "line 1"),
    ],
)
def test_malformed_aims_are_named(written, text, message):
    with pytest.raises(DataError, match=r"targets\.toml") as caught:
        written(text)
    assert message in str(caught.value)


def test_the_naive_baseline_is_half_of_peak():
    """Model FLOP, counted here once more: causal attention once, no recomputation."""
    anchor = next(anchor for anchor in load(ANCHOR_TREE / "training" / "narayanan2021.toml") if anchor.case.id == "gpt-145.6b")
    found = compare(anchor)
    layers, hidden, seq, vocab, batch, gpus = 80, 12288, 2048, 51200, 2304, 1536
    matmul = 72 * layers * hidden**2 + 6 * vocab * hidden
    attention = 12 * layers * hidden * seq / 2
    seconds = batch * seq * (matmul + attention) / (0.5 * 312e12 * gpus)
    assert found.naive == pytest.approx(seconds / anchor.case.value - 1, abs=0.01)
    assert found.kind == "dense"
    assert found.stack == "megatron-2021"
    assert found.accelerator == "A100 SXM4 80GB"


def test_the_page_says_what_is_missed_and_what_was_left_out():
    rows = [row("x", 0.5, naive=-0.3, known_miss="too | slow"), row("y", 0.1, role="calibration")]
    aim = {"id": "x-mean", "title": "all", "measure": "mean", "cases": 1, "found": 0.5, "limit": 0.1, "at_least": False}
    aims = [aim | {"held": False, "known_gap": "a reason"}]
    left_out = [{"id": name, **entry} for name, entry in LEFT_OUT.items()]
    text = accuracy.as_markdown(Findings(rows, targets=aims, left_out=left_out))
    assert "| all | mean | 1 | 50.00 % | <= 10.0 % | **missed**: a reason |" in text
    assert "| training | 1 / 1 | 10.0 % / 50.0 % |" in text
    assert "| s | 1 | 50.0 % | 50.0 % | 50.0 % | 30.0 % | 30.0 % | 30.0 % |" in text
    assert "Median of the 2 sources' medians: 4.00 %." in text
    assert "| a/* without a, b | 4 |" in text
    assert r"| `x` | +50.0 % | t on A100 | too \| slow |" in text
    assert accuracy.as_markdown(Findings()).count("##") == 0


def test_runs_that_are_partly_recalled_stand_beside_what_is_predicted(tmp_path):
    assert recalled.rows(tmp_path) == []
    runs = recalled.rows(ANCHOR_TREE)
    text = accuracy.as_markdown(Findings(recalled=runs))
    assert text.count("##") == 1
    for run in runs:
        error = percent(run["predicted"] / run["value"] - 1, signed=True)
        assert f"| `{run['id']}` | {run['metric']} | {run['value']:,.0f} | {run['predicted']:,.0f} | {error} |" in text
