"""A user's own table of runs, and what a user's file of anchors need not say."""

from __future__ import annotations

import pytest

from mlsysim.core.errors import DataError
from mlsysim.tables.predict import predict_table
from mlsysim.validation.anchors.loading import load
from mlsysim.validation.anchors.runs import predicted_runs

pytestmark = pytest.mark.usefixtures("imported_once", "few_plugins")

RUN = {
    **{"model": "Llama-3.1-8B", "accelerator": "H100-SXM-80GB", "n_accel": "1", "engine": "vLLM 0.15", "mode": "closed-loop"},
    **{"weight_precision": "fp16", "input_len": "1024", "output_len": "256", "batch_or_concurrency": "16", "metric": "itl_ms"},
}
ANCHOR = """
[source]
key = "mine"
citation = "My cluster"
year = 2026
solver = "SingleNodeModel"
metric = "latency"
definition = "one forward batch"
unit = "ms"
tolerance = 0.05

[[case]]
id = "{id}"
role = "validation"
evidence = "stated"
value = 6.7
workload = "Models.Vision.ResNet50"
hardware = "Hardware.Cloud.A100"
solve = {{ batch_size = {batch_size} }}
"""


def table(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join(",".join(map(str, line)) for line in lines) + "\n"


def test_a_table_is_held_against_its_intervals(pytester):
    (predicted,) = predict_table([RUN])
    inside, outside = RUN | {"value": f"{predicted['predicted']:.4f}"}, RUN | {"value": f"{predicted['high'] * 1.5:.4f}"}
    rows = [inside | {"id": "good"}, outside, RUN | {"value": "", "id": "empty"}, inside | {"model": "no such", "id": "odd"}]
    pytester.path.joinpath("runs.csv").write_text(table(rows), encoding="utf-8")
    result = pytester.runpytest("--anchors=runs.csv")
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(["good: measured *, predicted * (* to *), ?0.0 %"])
    result.stdout.fnmatch_lines(["line 3: measured *, predicted *, -*, OUTSIDE"])
    result.stdout.fnmatch_lines(["odd: layers = *no registered model*"])
    result.stdout.fnmatch_lines(["2 runs: half within *, 1 in their 90 % interval"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "no column 'value'"),
        ("a,value\n1,2\n", "columns = 'a, value'"),
        ("a,value\n1\n", "line 2"),
        ("", "empty"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, text, told):
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as refused:
        predicted_runs(path)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_users_file_needs_no_address_no_place_and_no_reason(tmp_path):
    path = tmp_path / "mine.anchor.toml"
    path.write_text(ANCHOR.format(id="a", batch_size=256), encoding="utf-8")
    (anchor,) = load(path)
    assert (anchor.source.url, anchor.case.locator) == ("unpublished", "own measurement")
    plain = tmp_path / "mine.toml"
    plain.write_text(ANCHOR.format(id="a", batch_size=256), encoding="utf-8")
    with pytest.raises(DataError, match="url"):
        load(plain)


def test_a_case_that_is_refused_fails_once(pytester):
    text = ANCHOR.format(id="a", batch_size=256).replace("batch_size = 256", 'batch_size = 256, precision = "fp4"')
    pytester.path.joinpath("mine.anchor.toml").write_text(text, encoding="utf-8")
    result = pytester.runpytest("mine.anchor.toml")
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 1
    result.stdout.no_fnmatch_line("*Traceback*")
