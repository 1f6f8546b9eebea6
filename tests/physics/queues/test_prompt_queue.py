"""Prompts that join the steps of a batch, by hand: what goes before an arrival, and how many of them join a step."""

import math

import numpy as np
import pytest

from mlsysim.physics.queues import prompt_queue
from mlsysim.physics.queues.prompt_queue import CELLS, prompts_a_step, turns


def turns_of(arrival_per_s, most, step_s, prompt_s, shared_s=0.0):
    """Steps of ``step_s`` and ``prompt_s`` for each prompt."""
    steps_s = step_s + prompt_s * np.arange(most + 1.0)[None, :]
    return turns(arrival_per_s, np.array([most]), steps_s, steps_s, np.array([shared_s]))


def test_prompts_of_a_step():
    """20 come in a step of 20 ms, twice as many with the half of it that prompts take: 40 + 6 sqrt(40) = 78."""
    found = [prompts_a_step(1000.0, np.array([0.02]), np.array([0.0005]), most).tolist() for most in (500.0, 50.0, 0.0)]
    assert found == [[78], [50], [1]]
    assert prompts_a_step(1e5, np.array([0.02]), np.array([0.0]), 500.0).tolist() == [256]
    assert prompts_a_step(1.0, np.array([1.0]), np.array([0.99]), 500.0).tolist() == [math.ceil(20 + 6 * math.sqrt(20))]
    assert prompts_a_step(1e-9, np.array([0.02]), np.array([0.0]), 500.0).tolist() == [8]


def test_what_may_have_gone_before_an_arrival():
    """Of n others came n (1 - r) before it, where r of eight rests of a step is left: rounded up where thirds say so."""
    histories = prompt_queue._Histories.of(5, roundings=3)
    assert histories.others.tolist() == sorted(histories.others)
    for others in range(6):
        for rest in range(8):
            chosen = (histories.others == others) & (histories.rest == rest)
            whole, part = divmod(others * (1 - (rest + 0.5) / 8), 1)
            up = sum(part + third >= 1 for third in (1 / 6, 3 / 6, 5 / 6)) / 3
            expected = {whole: (1 - up) / 8, whole + 1: up / 8}
            found = dict(zip(histories.before[chosen].tolist(), histories.weight[chosen].tolist(), strict=True))
            assert found == pytest.approx({before: weight for before, weight in expected.items() if weight > 1e-12})


def test_one_prompt_a_step():
    """M/D/1 with vacations: services of 2 s, steps of 1 s without; 0.2 arrivals a second.

    A wait of 0.2 x 4 / (2 x 0.6) + 1/2 = 7/6 s, then 2 s; a step of 1 / (1 - 0.2) s on average; who leaves leaves 0.2 x
    (7/6 + 2) behind, and nobody with 0.6 (1 - e^-0.2) / 0.2.
    """
    found = turns_of(0.2, 1, 1.0, 1.0)
    assert found.wait_s @ CELLS == pytest.approx([7 / 6], rel=2e-3)
    assert found.first_s @ CELLS == pytest.approx([2])
    assert found.cycle_s == pytest.approx([1.25])
    assert found.behind == pytest.approx([0.2 * (7 / 6 + 2)], rel=5e-3)
    longer = turns_of(0.2, 1, 1.0, 1.0, shared_s=0.5)
    alone = 0.6 * (1 - math.exp(-0.2)) / 0.2
    assert longer.first_s @ CELLS == pytest.approx([2 + 0.5 * (1 - alone)], rel=1e-2)
    assert longer.behind == pytest.approx(found.behind + 0.2 * 0.5 * (1 - alone), rel=2e-2)
    assert found.cycle_steps == pytest.approx([1])


def test_one_prompt_that_takes_several_steps():
    """One of the 1.25 s above in five has a prompt that takes three steps of a second: 1.5 steps."""
    steps_s, none_s = np.array([[1.0, 2.0]]), np.zeros(1)
    found = turns(0.2, np.array([1]), steps_s, steps_s, none_s, np.array([[1.0, 3.0]]))
    assert found.cycle_steps == pytest.approx([1 + 2 * 0.2 * 1.25])


def test_who_comes_too_late_for_a_step_that_is_scheduled():
    """Behind a host that is ahead, others share a prompt's last step who came before its first, or in the step before that.

    Of those with nobody in line, nobody comes to e^-0.4 in their step of 2 s, and to e^-0.25 in one of 1.25 s, as steps are.
    """
    steps_s, shared_s = np.array([[1.0, 2.0]]), np.array([0.5])
    late, soon = (turns(0.2, np.array([1]), steps_s, steps_s, shared_s, ahead=ahead) for ahead in (True, False))
    assert 2.5 - late.first_s @ CELLS == pytest.approx((2.5 - soon.first_s @ CELLS) * math.exp(0.15))


@pytest.mark.parametrize(("most", "arrival_per_s"), [(12, 0.2), (20, 0.5)])
def test_all_prompts_in_the_next_step(most, arrival_per_s):
    """C = 1 + N steps: E[C] = 1 / (1 - l), E[C^2] (1 - l^2) = 1 + 2 l E[C] + l E[C], mean (1 + 2 l) E[C^2] / 2 E[C] + 2."""
    found = turns_of(arrival_per_s, most, 1.0, 1.0)
    cycle_s = 1 / (1 - arrival_per_s)
    squared = (1 + 3 * arrival_per_s * cycle_s) / (1 - arrival_per_s**2)
    assert found.cycle_s == pytest.approx([cycle_s], rel=1e-4)
    assert (found.wait_s + found.first_s) @ CELLS == pytest.approx(
        [(1 + 2 * arrival_per_s) * squared / (2 * cycle_s) + 2], rel=5e-3
    )
    # The rest of a step of E[C^2] / 2 E[C] s on average, longer steps met more often.
    assert found.wait_s @ CELLS == pytest.approx([squared / (2 * cycle_s)], rel=5e-3)


def test_cells_of_probability():
    """Who comes rarely waits a sixteenth, three, five .. of a step of 1 s: cells of 0.05 within eighths."""
    found = turns_of(1e-6, 1, 1.0, 1.0)
    rests = (np.arange(8) + 0.5) / 8
    assert found.wait_s[0, :2] == pytest.approx([rests[0]] * 2)
    assert found.wait_s[0, 2] == pytest.approx((rests[0] + rests[1]) / 2, rel=1e-4), "from 0.1 to 0.15"
    assert found.wait_s[0, -1] == pytest.approx(rests[-1], rel=5e-3)
    assert found.first_s[0] == pytest.approx([2] * CELLS.size)
    assert found.behind == pytest.approx([0], abs=1e-5)
    assert CELLS.sum() == pytest.approx(1)


def test_engines_together_as_alone():
    steps_s = np.array([[1.0, 2.0, 2.0, 2.0], [1.0, 1.5, 2.0, 2.5], [0.5, 1.0, 1.5, 2.0]])
    most, shared_s = np.array([1, 3, 3]), np.array([0.5, 0.0, 0.25])
    both = turns(0.3, most, steps_s, steps_s, shared_s)
    for engine, k in enumerate(most):
        each = slice(engine, engine + 1)
        alone = turns(0.3, most[each], steps_s[each, : k + 1], steps_s[each, : k + 1], shared_s[each])
        for name in ("wait_s", "first_s", "behind", "cycle_s"):
            assert getattr(both, name)[engine] == pytest.approx(getattr(alone, name)[0])


@pytest.mark.parametrize("load", [0.2, 0.5, 0.7])
def test_a_line_as_long_as_it_may_get_is_like_a_longer_one(load, monkeypatch):
    """No more wait than a line keeps, with a chance of 1e-10: what 64 kept places give is the same."""
    short = turns_of(load * 4 / (1.0 + 4 * 0.1), 4, 1.0, 0.1, shared_s=0.05)
    assert prompt_queue._line(load) < prompt_queue._line(1.5) == prompt_queue._LINE
    monkeypatch.setattr(prompt_queue, "_line", lambda load: prompt_queue._LINE)
    long = turns_of(load * 4 / (1.0 + 4 * 0.1), 4, 1.0, 0.1, shared_s=0.05)
    for part in ("wait_s", "first_s", "behind", "cycle_s"):
        np.testing.assert_allclose(getattr(short, part), getattr(long, part), rtol=1e-6)
