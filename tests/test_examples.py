"""The scripts in examples/ answer what they promise, in the words and with the numbers that a reader sees."""

from __future__ import annotations

import re
import runpy

import pytest
from repository import ROOT

pytestmark = pytest.mark.usefixtures("asked_once")
EXAMPLES = ROOT / "examples"
SCRIPTS = ("size_a_training_run", "pick_a_serving_fleet", "why_is_my_mfu_low", "does_it_fit", "check_and_calibrate")


@pytest.fixture
def printed(capsys):
    """Runs a script and returns the lines that it prints."""

    def run(name):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_every_script_has_a_test():
    answers = {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("estimate_with_")}
    assert answers == set(SCRIPTS)
    for name in SCRIPTS:
        assert (EXAMPLES / f"{name}.py").read_text("utf-8").count("\n") < 45, "few lines"


def test_a_training_run_is_sized(printed):
    _, *rows = printed("size_a_training_run")
    numbers = [[float(text) for text in re.findall(r"\d+\.?\d*", row)] for row in rows]
    assert [row[0] for row in numbers] == [256, 512, 1024]
    for accelerators, tp, pp, cp, dp, mfu, days, low, high, cost in numbers:
        assert tp * pp * cp * dp == accelerators
        assert 30 < mfu < 70
        assert low < days < high
        # 6 x 70.6e9 parameters x 2e12 tokens over the rate at that MFU, attention's part of the work left out.
        assert days == pytest.approx(6 * 70.6e9 * 2e12 / (mfu / 100 * accelerators * 989.4e12) / 86400, rel=0.15)
        assert cost == pytest.approx(days * 24 * accelerators * 2.5 / 1e6, rel=0.03)


def test_a_serving_fleet_is_picked(printed):
    text = "\n".join(printed("pick_a_serving_fleet"))
    assert re.search(r"accelerators +\d+", text)
    assert re.search(r"cost per million tokens +\$0\.\d+", text)
    assert "H200 SXM 141GB instead of H100" in text or "H100 SXM5 80GB instead of H200" in text


def test_a_low_mfu_is_explained(printed):
    lines = printed("why_is_my_mfu_low")
    text = "\n".join(lines)
    assert "bubble" in text
    assert "feed-forward up (backward)" in text
    mfu = {line[:25].strip(): float(line[25:].split("%")[0]) for line in lines[-6:]}
    assert mfu["batch_size 512"] > mfu["as it is"] > mfu["sequence_parallel False"]


def test_what_fits_is_told(printed):
    lines = printed("does_it_fit")
    assert "does not fit" in lines[0]
    assert "recompute none" in lines[0]
    assert " fits " in lines[2]
    assert "needs 1" in lines[3], "the bytes"
    assert "room for" in lines[-1]


def test_own_runs_are_checked_and_calibrated_to(printed):
    pytest.importorskip("scipy", reason="fits need SciPy: pip install 'mlsysim-anchors[fit]'")
    lines = printed("check_and_calibrate")
    assert sum(line.rstrip().endswith("yes") for line in lines) == 7
    off = [float(re.search(r"([\d.]+)% off", line)[1]) for line in lines if "off on average" in line]
    assert off[1] < 0.3 * off[0]
    last, low, high = map(float, re.findall(r"(\d+) s \((\d+)-(\d+) s\)", lines[-1])[0])
    assert low < last < high
