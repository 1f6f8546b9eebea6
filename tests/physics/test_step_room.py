"""The room of prompts in steps: values worked by hand, and that no token is lost or made."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysim.physics.serving.step_room import StepRoom, prompts_together, tokens_left

# Prompts of 3,000 tokens and 128 steps, of which each has room for 512 tokens.
LONG = StepRoom(512.0, 1.0, 1.0, 3000.0, 128.0)
# Prompts of 100 tokens and 20 steps on two groups of ranks; a request that decodes takes three tokens of a step.
SHORT = StepRoom(400.0, 2.0, 3.0, 100.0, 20.0)


def test_tokens_that_decode_leave_room():
    """12 that decode leave 500 of 512; 40 on two groups, three tokens each, leave 400 - 60 in each; none of 600 fits in 512."""
    assert (LONG.left(12.0), SHORT.left(40.0)) == (500, 340)
    assert (tokens_left(512.0, 600.0), LONG.left(600.0)) == (1, 1)


def test_how_many_decode_where_prompts_fill_the_steps():
    """Of 3,128 tokens 512 / 3,128 of one a step, in 128 steps: 20.95; of 100 + 3 x 20 on two groups 2 x 400 x 20 / 160."""
    assert LONG.most_decoding == pytest.approx(20.951, abs=1e-3)
    assert (SHORT.most_decoding, SHORT.more_steps, LONG.more_steps) == (100, 0, 0)
    # Of 8 steps a prompt alone fills 3000 / 512, and the tokens that follow it the rest of them and more.
    rare = StepRoom(512.0, 1.0, 1.0, 5112.0, 8.0)
    assert (rare.most_decoding, rare.more_steps) == (1, pytest.approx(10 - 8))
    assert StepRoom(np.inf, 1.0, 1.0, 3000.0, 8.0).most_decoding == np.inf


def test_steps_of_a_prompt():
    """3,000 tokens take 6 steps with room for 500, on one group as on two; 100 tokens one."""
    assert (LONG.steps(12.0), SHORT.steps(40.0)) == (6, 1)
    assert StepRoom(512.0, 2.0, 1.0, 3000.0, 128.0).steps(24.0) == 6


def test_prompts_beside_each_other():
    """Three prompts of 100 in a step: 200 beside one. Nine have no room for all: 340 in each group, of which one has 100."""
    assert SHORT.beside(40.0, 3.0) == 200
    assert SHORT.beside(40.0, 9.0) == 2 * 340 - 100
    # One that is too long for a step has nobody beside it, but in the other group.
    assert LONG.beside(12.0, 3.0) == 0
    assert StepRoom(512.0, 2.0, 1.0, 3000.0, 128.0).beside(24.0, 3.0) == 500


def test_parts_of_long_prompts_beside_each_other():
    """Of 96 on eight groups each has room for 500 tokens: of two other prompts of 2,000 a step has a part each, in two groups.

    A prompt takes 4 of 128 steps, as if it took one of 32: 96 / (32 (1 - (31/32)^96)) parts are in a step with any.
    """
    long = StepRoom(512.0, 8.0, 1.0, 2000.0, 128.0)
    assert (long.left(96.0), long.steps(96.0)) == (500, 4)
    assert (long.beside(96.0, 3.0), long.beside(96.0, 12.0)) == (2 * 500, 7 * 500)
    parts = 96 / (32 * (1 - (31 / 32) ** 96))
    assert long.usually_beside(96.0) == pytest.approx((parts - 1) * 500)
    # Of prompts that a step has room for as many as start in it; of one group, whose parts follow each other, none.
    assert SHORT.usually_beside(40.0) == SHORT.beside(40.0, prompts_together(40.0, 20.0))
    assert LONG.usually_beside(12.0) == 0


def test_steps_without_prompts():
    """8 prompts take 6 of 128 steps each: 80 / 128 are free, and one part in six follows one of these."""
    assert LONG.left_free(12.0, 0.0) == pytest.approx(1 - 12 * 6 / 128)
    assert LONG.after_free(12.0, 0.0) == pytest.approx((1 - 12 * 6 / 128) / 6)
    # Prompts that start at random and have room beside each other leave as many free as none starts in.
    room = StepRoom(8192.0, 1.0, 1.0, 100.0, 20.0)
    free = room.left_free(5.0, room.beside(5.0, prompts_together(5.0, 20.0)))
    assert free == pytest.approx((1 - 1 / 20) ** 5)
    assert room.after_free(5.0, room.beside(5.0, prompts_together(5.0, 20.0))) == free
    assert LONG.left_free(30.0, 0.0) == 0


@given(st.integers(1, 100_000), st.integers(1, 20), st.sampled_from([1, 2, 8]), st.integers(1, 50_000), st.integers(1, 5_000))
def test_steps_take_as_many_tokens_as_requests_have(tokens, each, groups, prompt, output):
    """With as many that decode as there is room for, a step of all groups is full: their tokens, and those that they bring."""
    room = StepRoom(float(tokens), float(groups), float(each), float(prompt), float(output))
    steps = room.output + room.more_steps
    taken = room.most_decoding * (prompt + each * output) / steps
    assert taken <= groups * tokens * (1 + 1e-9)
    if room.most_decoding > 1:
        assert taken == pytest.approx(groups * tokens)
