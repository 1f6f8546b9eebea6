"""Requests at equal intervals: steps and numbers in flight worked by hand."""

import numpy as np
import pytest

from mlsysim.physics.queues.even_arrivals import even_in_flight, even_steps


def test_a_prompt_now_and_then_joins_a_step_alone():
    """Every half second: steps of 0.02 s have no prompt when one comes, and 0.02 + 0.03 s with it."""
    steps = even_steps(2.0, np.array([0.02]), np.array([0.03]))
    assert steps.found_s[0] == pytest.approx(0.02)
    assert steps.own_s[0] == pytest.approx(0.05)


def test_prompts_that_come_as_fast_as_steps_end_join_all_of_them():
    """40 a second of 0.01 s each keep the engine 0.4 of the time: a step of 0.06 s takes 0.06 / 0.6 = 0.1 s, with 4 prompts."""
    steps = even_steps(40.0, np.array([0.06]), np.array([0.01]))
    assert steps.found_s[0] == pytest.approx(0.1)
    assert steps.own_s[0] == pytest.approx(0.06 + 4 * 0.01)


def test_the_number_in_flight_is_the_one_that_its_times_bring_about():
    """At 2 a second, with 1 s alone and 0.1 s more for each other, n = 2 (0.9 + 0.1 n): 1.8 / 0.8 = 2.25."""
    assert even_in_flight(2.0, 0.9 + 0.1 * np.arange(1.0, 9.0)) == pytest.approx(2.25)
    assert even_in_flight(0.5, 0.9 + 0.1 * np.arange(1.0, 9.0)) == pytest.approx(0.5), "hardly ever one"
    assert even_in_flight(9.0, np.array([1.0, 1.0])) == 2, "more than the last number stands for itself"
