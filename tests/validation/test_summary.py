"""What a run prints: a page of a hundred columns, a verdict, and a judgement on predictions that moved."""

from __future__ import annotations

import pytest
from repository import TESTS

from mlsysim.validation.report import judgement, misses, summary
from mlsysim.validation.report.findings import Findings

RUN = {
    **{"kind": "dense", "metric": "tpot", "accelerator": "H100 SXM5 80GB", "stack": "vllm", "model": "m"},
    "plan": "schedule=continuous, tp_size=4",
}


def row(name, predicted, measured=100.0, **changed):
    """A validation case of a family without intervals of its own."""
    error = predicted / measured - 1
    known = {
        **{"id": name, "file": "anchors/a/a.toml", "family": "a", "source": "none", "role": "validation", "unit": "ms"},
        **{"predicted": predicted, "measured": measured, "error": error, "low": 90.0, "high": 110.0},
        **{"expected_low": predicted / 1.25, "expected_high": predicted * 1.25, "in_band": 90 <= predicted <= 110},
        **{"known_miss": "" if 90 <= predicted <= 110 else "slow", "row": None, "basis": "calibrated"},
    }
    return RUN | known | changed


def move(name, before, after):
    return {"id": name, "file": "anchors/a/a.toml", "before": before, "after": after}


CASES = [row("x", 100.0), row("y", 120.0), row("z", 200.0)]


def test_a_miss_inside_its_interval_is_told_from_one_outside():
    # 120 is outside 90-110, and 100 lies in 96-150; 200 has 160-250, in which 100 is not.
    assert [misses.standing(one) for one in CASES] == ["in band", "covered miss", "miss"]
    families = summary.families(CASES)
    assert families.header == ("Family", "runs", "median", "p90", "in 90 % interval", "in band", "covered misses", "misses")
    assert families.body == [("a", "3", "20.0 %", "84.0 %", "-", "1", "1", "1")]


def test_families_with_the_fewest_runs_share_a_line_where_there_are_many():
    several = [
        row(f"{name}{number}", 100.0, family=name)
        for name, runs in (("a", 3), ("b", 1), ("c", 2), ("d", 1))
        for number in range(runs)
    ]
    assert [line[:2] for line in summary.families(several, most=3).body] == [("a", "3"), ("c", "2"), ("2 small families", "2")]
    assert [line[0] for line in summary.families(several, most=4).body] == ["a", "b", "c", "d"]


def test_solvers_below_a_tenth_of_a_millisecond_are_counted():
    solves = [{"solver": "A", "seconds": 2e-5}, {"solver": "B", "seconds": 3e-3}, {"solver": "C", "seconds": 2e-4}]
    (line,) = (line for line in summary.lines(Findings(CASES, solves=solves)) if line.startswith("slowest"))
    assert line == "slowest solve of each solver: 1 below 100 us, C 200 us, B 3.0 ms"


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "split"),
        ({"metric": "ttft"}, "first-token"),
        ({"metric": "ttft", "plan": "schedule=static, batch_size=8"}, "prompt"),
        ({"plan": "schedule=static, batch_size=8"}, "small-batch"),
        ({"plan": "batch_size=8, pp_size=2"}, "pipeline"),
        ({"plan": "batch_size=9"}, "scatter"),
        ({"plan": "batch_size={'a': 1, 'b': 2}"}, "scatter"),
        ({"accelerator": "Tesla V100 SXM2 16GB"}, "relative"),
        ({"kind": "moe"}, "experts"),
        ({"basis": "identity"}, "stated"),
        ({"known_miss": "somebody moved the fan"}, misses.OWN),
    ],
)
def test_a_miss_has_the_reason_of_its_kind_or_its_own(changed, kind):
    one = row("v", 200.0, **changed)
    cases = [*CASES, one]  # z and v miss; "slow" stands at several
    found = misses.reasons(cases)
    assert found[one["file"], "v"].kind == kind
    reasons = {known.id: known.reason for known in misses.kinds()} | {misses.OWN: "somebody moved the fan"}
    assert found[one["file"], "v"].text == reasons[kind]
    told = {name: int(count) for name, count, *_ in misses.by_kind(cases).body}
    assert sum(told.values()) == len(found) == 2
    assert sum(int(line[2]) for line in misses.by_source(cases).body) == 2


def test_kinds_ask_about_arguments_that_solvers_have():
    arguments = (TESTS / "public_api.toml").read_text("utf-8")
    for kind in misses.kinds():
        for name in {*kind.facts, *kind.at_least, *kind.at_most} - {*RUN, "basis", "family", "kernels"}:
            assert f"\n{name} = " in arguments, (kind.id, name)


def test_every_line_fits():
    paper = row(
        "p", 100.0, row=2, title="A plan", paper=100.0, matches_paper=True, feasible=False, reason="it needs " + "x" * 200
    )
    aims = [
        {"id": f"a-rather-long-name-of-an-aim-{number}", "found": 0.05, "limit": 0.04, "held": False, "known_gap": "x"}
        for number in range(12)
    ]
    solves = [{"solver": f"Solver{number}", "seconds": 10.0**-number} for number in range(12)]
    searches = [{"plans": 1e6, "seconds": 0.5}]
    moves = [move("x", 90.0, 100.0)]
    told = summary.lines(Findings([*CASES, paper], (), aims, moves, searches, solves))
    assert max(map(len, told)) <= summary.WIDTH
    assert told[0].startswith("2: A plan ... OK  (we 100, paper 100) (infeasible: it needs xxx")
    assert any("0 of 12 aims are met" in line for line in told)
    assert any("2.0 million plans a second" in line for line in told)


@pytest.mark.parametrize(
    ("failed", "left_out", "verdict"),
    [
        (0, 0, "3 a runs: half within 20.0 %; 2 known misses, see docs/anchors.md"),
        (0, 7, "filtered: 3 a runs: half within 20.0 %; 2 known misses, see docs/anchors.md"),
        (2, 0, "2 FAILED: 3 a runs: half within 20.0 %; 2 known misses"),
    ],
)
def test_the_verdict(failed, left_out, verdict):
    assert summary.last_line(CASES, failed, left_out) == verdict


def test_a_row_as_its_snapshot_kept_it():
    was = judgement.as_it_was(row("y", 120.0), 105)
    assert was["predicted"] == 105
    assert was["error"] == pytest.approx(0.05)
    assert was["in_band"]
    assert was["expected_high"] == pytest.approx(105 * 1.25)
    choice = {**row("c", 1.0), "predicted": "TP=8", "measured": "TP=4", "error": None, "in_band": False}
    assert judgement.as_it_was(choice, "TP=4")["in_band"]


def test_what_moved_is_judged():
    # x came from 90 (-10 %) to 100 (0 %): nearer. y went from 105 (+5 %) to 120 (+20 %): away. z moved by 0.005 %: not counted.
    moves = [move("x", 90.0, 100.0), move("y", 105.0, 120.0), move("z", 199.99, 200.0), move("new", None, 1.0)]
    aims = [
        {"id": "kept", "before": 0.03, "found": 0.02, "limit": 0.04, "held": True, "at_least": False},
        {"id": "lost", "before": 0.03, "found": 0.05, "limit": 0.04, "held": False, "at_least": False},
        {"id": "met", "before": 0.95, "found": 0.97, "limit": 0.96, "held": True, "at_least": True},
        {"id": "still", "before": 0.03, "found": 0.03, "limit": 0.04, "held": True, "at_least": False},
    ]
    told = judgement.lines(Findings(CASES, moves=moves, targets=aims))
    moved = "2 predictions moved: 1 came nearer to what was measured, 1 went away"
    assert told[0] == f"{moved}; 1 moved by less than 0.05 %, 1 are new"
    family = next(line for line in told if line.startswith("a "))
    # Errors before: 10, 5, 100 %; after: 0, 20, 100 %.
    assert "10.0 % -> 20.0 %" in family
    assert "66.7 % -> 66.7 %" in family
    assert [line.split()[0] for line in told if " for 4.0 %" in line or " for 96.0 %" in line] == ["kept", "lost", "met"]
    assert next(line for line in told if line.startswith("lost")).endswith("LOST")
    assert next(line for line in told if line.startswith("met")).endswith("MET NOW")
    largest = told[told.index(next(line for line in told if line.startswith("Largest"))) + 1 :]
    assert [line.split()[0] for line in largest] == ["y", "x"]
    assert "+5.0 % -> +20.0 %" in largest[0]


def test_nothing_moved():
    assert judgement.lines(Findings(CASES)) == []
