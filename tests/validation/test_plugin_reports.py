"""What the pytest plugin writes as a user meets it: reports as files, and snapshots."""

import json
import sys

import pytest
from own_cluster import INSTALLED, case, latency_ms

from mlsysim.validation.report import export, judgement

pytestmark = INSTALLED


def test_junit_carries_each_row(pytester, anchors, strict):
    anchors(case("good"))
    # pytest warns when record_property meets this format; the rows must not depend on it.
    pytester.runpytest("my_cluster.anchor.toml", "--junitxml=junit.xml", "-o", "junit_family=xunit2", *strict)
    text = (pytester.path / "junit.xml").read_text(encoding="utf-8")
    assert 'property name="mlsysim_anchor"' in text
    assert "my-cluster-good" in text


def test_reports_are_written(pytester, anchors):
    anchors(case("good"), case("slow", 2.0, 'known_miss = "the data loader"'))
    names = ["out/report.json", "report.md", "report.tex"]
    result = pytester.runpytest("my_cluster.anchor.toml", *(f"--anchor-report={name}" for name in names))
    assert result.ret == 0
    document = json.loads((pytester.path / "out/report.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in document["cases"]] == ["my-cluster-good", "my-cluster-slow"]
    assert document["cases"][1]["error"] == pytest.approx(-0.5)
    assert document["families"][0]["median"] == pytest.approx(0.25)
    assert document["sources"]["my-cluster"]["file"] == "my_cluster.anchor.toml"
    assert document["verdict"] in result.stdout.str()
    assert "| `my-cluster-good` |" in (pytester.path / "report.md").read_text(encoding="utf-8")


def test_the_judgement_of_an_update_is_in_every_format(pytester, anchors):
    anchors(case("good"))
    pytester.runpytest("my_cluster.anchor.toml", "--snapshot-update")
    anchors(case("good").replace("batch_size = 256", "batch_size = 512"))
    names = ["report.json", "report.md"]
    result = pytester.runpytest("my_cluster.anchor.toml", "--snapshot-update", *(f"--anchor-report={name}" for name in names))
    told = "1 prediction moved: 0 came nearer to what was measured, 1 went away"
    result.stdout.fnmatch_lines([told])
    document = json.loads((pytester.path / "report.json").read_text(encoding="utf-8"))
    assert [(one["id"], one["error_before"]) for one in document["judgement"]["largest"]] == [
        ("my-cluster-good", pytest.approx(0.0, abs=1e-5))
    ]
    assert told in (pytester.path / "report.md").read_text(encoding="utf-8").partition(judgement.MOVED)[2]


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--anchor-report=report.png", "a picture needs matplotlib: *"),
        ("--anchor-report=report.html", "a page with plots needs vl-convert-python: *"),
        ("--anchor-report=my_cluster.anchor.toml/report.md", "cannot be written: *"),
        ("--anchor-report=folder.md", "cannot be written: *"),
        ("--anchor-report=report.docx", "expected a file ending in .json, *"),
        ("--accuracy-report=folder.md", "cannot be written: *"),
        ("--accuracy-report=report.json", "expected a file ending in .md"),
        (f"--accuracy-report={'x' * 300}.md", "cannot be written: *"),
    ],
)
def test_report_that_cannot_be_written_is_refused_before_the_run(pytester, anchors, monkeypatch, option, reason):
    anchors(case("good"))
    pytester.mkdir("folder.md")
    for module in ("matplotlib", "vl_convert"):
        monkeypatch.setitem(sys.modules, module, None)
    result = pytester.runpytest("my_cluster.anchor.toml", "--anchor-report=sound.md", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{option}: {reason}"])
    assert not (pytester.path / "sound.md").exists()


def test_report_that_fails_takes_no_other_with_it(pytester, anchors, monkeypatch):
    def full(path, *_):
        raise OSError(28, f"no space for {path.suffix}")

    anchors(case("good"))
    monkeypatch.setitem(export._FORMATS, ".json", full)
    result = pytester.runpytest("my_cluster.anchor.toml", "--anchor-report=first.json", "--anchor-report=second.md")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["not written: first.json: *", "written: second.md"])
    assert (pytester.path / "second.md").exists()


def test_snapshot_is_recorded_compared_and_updated(pytester, anchors):
    path = anchors(case("good"))
    kept = pytester.path / "snapshots" / "my_cluster.json"

    recorded = pytester.runpytest(path, "--snapshot-update")
    assert recorded.ret == 0
    before = json.loads(kept.read_text(encoding="utf-8"))
    assert before["my-cluster-good"]["predicted"] == pytest.approx(latency_ms(256), rel=1e-5)
    assert before["my-cluster-good"]["unit"] == "ms"

    pytester.runpytest(path).assert_outcomes(passed=5)

    anchors(case("good").replace("batch_size = 256", "batch_size = 257"))
    changed = pytester.runpytest(path, "-k", "snapshot or in_band")
    assert changed.ret == pytest.ExitCode.TESTS_FAILED
    changed.stdout.fnmatch_lines(["1 difference from *my_cluster.json", "my-cluster-good: differs*", "*predicted: * -> *"])

    updated = pytester.runpytest(path, "--snapshot-update")
    assert updated.ret == 0
    updated.stdout.fnmatch_lines(
        ["1 prediction moved: 0 came nearer*, 1 went away", "Largest moves *", "my-cluster-good *+0.0 % -> +0.4 %"]
    )
    pytester.runpytest(path).assert_outcomes(passed=5)


def test_update_leaves_the_users_other_files_alone(pytester, anchors):
    path = anchors(case("good"))
    other = pytester.path / "snapshots" / "other.json"
    other.parent.mkdir()
    other.write_text("[1, 2]", encoding="utf-8")
    assert pytester.runpytest(path, "--snapshot-update").ret == 0
    assert other.read_text(encoding="utf-8") == "[1, 2]"
