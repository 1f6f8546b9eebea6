"""Each solver is timed on its slowest case, within a limit that the tree of anchors states."""

import pytest
from repository import ANCHOR_TREE

from mlsysim.core.errors import DataError
from mlsysim.lowering.batches import engine_batches
from mlsysim.lowering.token_load import replica_paces
from mlsysim.validation.anchors import loading, times
from mlsysim.validation.anchors.inputs import call_of
from mlsysim.validation.anchors.loading import anchor_files, load_all


@pytest.fixture(scope="module")
def anchors():
    return load_all(anchor_files(ANCHOR_TREE))


def test_every_solver_that_has_cases_has_a_limit(anchors):
    assert set(times.times(ANCHOR_TREE).solver) == {anchor.source.solver for anchor in anchors}


def test_the_case_that_is_named_is_timed_and_else_the_first(anchors, tmp_path):
    limits = times.times(ANCHOR_TREE)
    assert {solver: anchor.id for solver, anchor in times.timed_cases(ANCHOR_TREE, anchors).items()} == {
        solver: limit.case for solver, limit in limits.solver.items()
    }
    first = next(anchor for anchor in anchors if anchor.source.solver == "ServingModel")
    assert times.times(tmp_path).solver == {}
    assert times.timed_cases(tmp_path, anchors)["ServingModel"] is first


def timed_with(monkeypatch, yardsticks_s, works_s):
    """What is found of work with a limit of 1 s, yardstick 1 s: seconds of each yardstick and each try, in their order."""
    sticks, works = iter(yardsticks_s), iter(works_s)
    monkeypatch.setattr(times, "yardstick_s", lambda: next(sticks))
    monkeypatch.setattr(times, "best_s", lambda work, rounds: next(works))
    return times.against_limit(lambda: None, 1, 1.0, 1e3)


def test_a_server_is_timed_without_what_earlier_solves_have_left():
    anchors = {anchor.source.solver: anchor for anchor in load_all(anchor_files(ANCHOR_TREE))}
    for solver, kept in (("TokenServerModel", replica_paces), ("BatchServerModel", engine_batches)):
        solve = times.solve_anew(call_of(anchors[solver]))
        solve()
        first = dict(kept.answers)
        solve()
        assert kept.answers.keys() & first.keys()
        assert not any(kept.answers.get(key) is answer for key, answer in first.items()), "each solve begins with nothing kept"


def test_a_slow_machine_gets_more_and_a_quick_one_no_less(monkeypatch):
    assert timed_with(monkeypatch, [3.0, 3.0], [2.5]) == (2.5, 3.0)
    assert timed_with(monkeypatch, [0.1, 0.1], [0.9]) == (0.9, 1.0)


def test_work_that_misses_its_limit_is_tried_again_for_the_machine_may_have_been_slow(monkeypatch):
    assert timed_with(monkeypatch, [1.0, 2.0, 1.0, 1.0], [1.9, 0.9]) == (0.9, 1.0)  # told on one side only
    assert timed_with(monkeypatch, [1.0] * 12, [1.5, 1.4, 1.3, 1.2, 1.3, 1.4]) == (1.2, 1.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("yardstick_ms = 1.0", "solver"),
        ('yardstick_ms = 1.0\n[solver.ServingModel]\ncase = "x"\nlimit_ms = 0.0\nreason = "x"', "limit_ms"),
        ('yardstick_ms = 1.0\n[solver.ServingModel]\ncase = "nowhere"\nlimit_ms = 1.0\nreason = "x"', "nowhere"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(text, told, anchors, tmp_path):
    (tmp_path / times.FILE).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        times.timed_cases(tmp_path, anchors)


def test_a_solver_whose_library_is_missing_is_not_timed(anchors, monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    lacking = loading.not_installed(ANCHOR_TREE)
    assert lacking == {"ResponsibleEngineeringModel": "dp_accounting"}
    there = [anchor for anchor in anchors if anchor.source.solver not in lacking]
    assert set(times.timed_cases(ANCHOR_TREE, there)) == set(times.times(ANCHOR_TREE).solver) - set(lacking)
