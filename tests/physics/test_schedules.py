"""Schedules of a server: what users see of passes whose times are plain."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from plain import served_shape, serving_kernels

from mlsysim.physics.serving.deployment import EngineCoefficients, EngineKernels, Shards
from mlsysim.physics.serving.passes import decode_pass, prefill_pass
from mlsysim.physics.serving.schedule import (
    EnginePasses,
    Load,
    Served,
    continuous_batch,
    gathered,
    most_throughput,
    prompts_together,
    received,
    static_batch,
    whole_prompts_s,
)


@dataclass
class Step:
    total_s: float


class Plain:
    """A prompt takes 3 s and a second for each 10 tokens; a step 1 s, 1/4 s a sequence and 1/100 s a token that it holds.

    A prompt that joins a step adds 1/20 s a token, and 1/1000 s for each token of others that join it, too.
    """

    front_s = 2.0

    def prefill_s(self, batch, prompt):
        return self.front_s + 1 + batch * prompt / 10

    def decode(self, batch, context):
        return Step(1 + batch / 4 + context / 100)

    def joining_s(self, step, batch, prompt, beside, hidden):
        assert np.all(step.total_s > 0)
        assert np.all((hidden >= 0) & (hidden < 1))
        return prompt / 20 + beside / 1000


PASSES = Plain()
# Requests of 100 and 50 tokens, of which eight fit; in a run without end 8,192 tokens of prompts have room in a step.
LOAD = Load(0.0, 8.0, 100.0, 50.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 8192.0, 1.0, 1.0, 0.0)


def load(**changed):
    return replace(LOAD, **changed)


def test_a_fixed_batch():
    """4 prompts of 100: 43 s; 10 tokens, of which 9 in steps of 1 + 1 + 1.05 s; 40 tokens in 43 + 9 x 3.05 s."""
    served = static_batch(PASSES, load(batch=4.0, output=10.0, context=105.0))
    assert (served.ttft_s, served.tpot_s, served.batch) == (43, pytest.approx(3.05), 4)
    assert served.request_s == pytest.approx(43 + 9 * 3.05)
    assert served.tokens_per_s == pytest.approx(40 / (43 + 27.45))
    assert served.step.total_s == served.tpot_s
    none = static_batch(PASSES, load(batch=4.0, output=0.0, context=100.0))
    assert (none.request_s, none.tokens_per_s) == (43, 4 / 43)


def test_the_most_that_a_server_does_without_end():
    """8 sequences of 100 + 50: a step of 1 + 2 + 1.25 s and 8 / 50 prompts, each with those that join its step."""
    served = most_throughput(PASSES, load())
    joined_s = shared_s(8 / (50 * (1 - 0.98**8)))
    assert served.tpot_s == pytest.approx(4.25 + 8 * joined_s / 50)
    assert served.tokens_per_s == pytest.approx(8 / served.tpot_s)
    assert served.ttft_s == 13
    assert served.request_s == pytest.approx(13 + 49 * served.tpot_s)
    assert served.batch == 8


def test_prompts_that_join_together():
    """Five that start at random among 50 steps are found in 50 (1 - (49/50)^5) of them."""
    assert prompts_together(5.0, 50.0) == pytest.approx(5 / (50 * (1 - 0.98**5)))
    assert (prompts_together(1.0, 50.0), prompts_together(5.0, 1.0)) == (pytest.approx(1), 5)


def test_prompts_that_are_held_back():
    """A tenth of a prompt a step, held back 20 steps: two come in a window that a third opens.

    The one in three that opens it waits 20 steps, the others 10 in the mean; they join with 2 and with 2 others: 2/3 + 2 x 3/3.
    """
    assert gathered(0.1, 20.0) == (pytest.approx(20 / 3 + 10 * 2 / 3), pytest.approx(2 / 3 + 2))
    assert gathered(0.1, 0.0) == (0, 0)


def test_requests_wait_for_the_schedulers_next_look():
    """A tenth of a request a step, looks 11 steps apart: one arrives 5 steps before its own in the mean, and one other with it.

    Looks 21 steps apart keep a request 10 steps longer, and the prompts that come with it besides; alone it waits for nobody.
    """
    assert received(0.1, 11.0) == (5.0, pytest.approx(1.0))
    (every, rare), (alone, alone_rare) = (
        [continuous_batch(PASSES, load(batch=concurrency, recv_interval=steps)) for steps in (1.0, 21.0)]
        for concurrency in (5.0, 1.0)
    )
    assert rare.ttft_s - every.ttft_s > 10 * every.step.total_s
    assert alone_rare == alone


def served_joined_s(tokens, prompt):
    """Of a prompt that joins a step with so many tokens of prompts, its own among them."""
    return prompt / 20 + (tokens - prompt) / 1000


def test_a_finite_number_of_requests_comes_in_waves():
    """20 requests of 100 + 50 by eights: two full waves, and four more. 400 tokens of prompts a step start four at a time.

    A wave starts within 800 / 400 = 2 steps, the last one within 2 x 4/8, and takes 50: 2 x 50 + 1 + 50 = 151 steps. A step of
    4.25 s is 8 x 1/4 s of its sequences and 2.25 s whatever they are.
    """
    served = most_throughput(PASSES, load(requests=20.0, step_tokens=400.0))
    joined_s = served_joined_s(400.0, 100.0)
    token_s = 151 / 20 / 50 * 2.25 + 0.25 + joined_s / 50
    assert served.tpot_s == pytest.approx(8 * token_s)
    assert served.tokens_per_s == pytest.approx(1 / token_s)
    # Fewer than fit: five at once, in one wave of 50 steps and 500 / 400 to start.
    five = most_throughput(PASSES, load(requests=5.0, step_tokens=400.0))
    assert five.batch == 5
    assert five.tpot_s == pytest.approx(5 * ((1.25 + 50) / 5 / 50 * 2.25 + 0.25 + joined_s / 50))
    # Of 40 tokens a step 110 of each request fill 10 steps with 40 / 11 of them: four waves, what is left, and 10 steps more.
    slow = most_throughput(PASSES, load(output=10.0, requests=16.0, step_tokens=40.0))
    batch = 40 / 11
    assert slow.batch == pytest.approx(batch)
    step_s = 1 + batch / 4 + 1.05
    steps = 4 * 10 + batch * 100 / 40 * (16 - 4 * batch) / batch + 10
    token_s = steps / 16 / 10 * (step_s - batch / 4) + 0.25 + 5 / 10
    assert slow.tpot_s == pytest.approx(batch * token_s)


def test_however_many_are_sent_no_more_are_served_than_without_end():
    """100 + 2 tokens in steps of 34 take three steps each of 2.01 s and 0.25 s of one sequence, and 5 s of its prompt.

    Of three requests two keep the third waiting for three steps each; its own prompt takes 100 / 34, and then come its two.
    """
    asked = {"output": 2.0, "step_tokens": 34.0}
    three = most_throughput(PASSES, load(**asked, requests=3.0))
    assert 6 / three.tokens_per_s == pytest.approx((2 * 3 + 100 / 34 + 2) * 2.01 + 3 * (3 * 0.25 + 5))
    endless = most_throughput(PASSES, load(**asked)).tokens_per_s
    rates = [most_throughput(PASSES, load(**asked, requests=10.0**power)).tokens_per_s for power in range(7)]
    assert rates == sorted(rates)
    assert rates[-1] < endless == pytest.approx(rates[-1], rel=1e-5)


SERVED = Served(4.0, 2.0, 22.0, 5.0, 3.0, Step(1.0))


SHAPE = served_shape(layers=2.0)


def test_passes_of_an_engine():
    """Its prompts, its steps and half of what a prompt adds to them: twice 64 of 128 tokens, beside 64 that decode."""
    engine = EngineCoefficients(layer_s=1.0, request_s=3.0, interleave=0.5)
    model = (SHAPE, Shards(2.0, 1.0, 8.0, 2.0), serving_kernels(), engine, EngineKernels())
    passes = EnginePasses(*model, step_tokens=128.0, padding=2.0)
    assert passes.prefill(2.0, 64.0) == prefill_pass(passes, 2.0, 64.0, 2.0)
    assert passes.prefill_s(2.0, 64.0) == passes.prefill(2.0, 64.0).total_s
    step = passes.decode(64.0, 4.0)
    assert step == decode_pass(passes, 64.0, 4.0)
    joined = passes.joining_s(step, 64.0, 128.0, 0.0, 1.0)
    # 64 more tokens: products of 24 units at 0.9, passes of 16 s, two reductions of 4; attention of half a prompt, 16 + 16 s
    # for two of 128.
    assert joined == pytest.approx(0.5 * 2 * 2 * (24 / 0.9 + 16 + 8 + 32 / 4))
    assert passes.joining_s(step, 64.0, 64.0, 0.0, 1.0) == pytest.approx(0.5 * 2 * (24 / 0.9 + 16 + 8 + 12 / 2))


def shared_s(together):
    """What each prompt adds where so many join a step, mean: of ten steps with 2.3, seven have two and three have three."""
    whole = int(together)
    several = together - whole
    return ((1 - several) * whole * (5 + 0.1 * (whole - 1)) + several * (whole + 1) * (5 + 0.1 * whole)) / together


def test_prompts_join_whole():
    """Up to 250 rows take 5 s, more 7 s: of 2.3 prompts in the mean three steps in ten have 300 rows, and none has 230."""
    heavy = Plain()
    heavy.joining_s = lambda step, batch, prompt, beside, hidden: (
        np.where(prompt + beside > 250, 7.0, 5.0) / (1 + beside / prompt)
    )
    joined = [whole_prompts_s(heavy, Step(1.0), 5.0, LOAD.room, beside, 0.0) for beside in (0.0, 30.0, 100.0, 130.0, 200.0)]
    assert joined == pytest.approx([5.0, 5 / 1.3, 2.5, (0.7 * 5 + 0.3 * 7) / 2.3, 7 / 3])
    assert joined == pytest.approx(
        whole_prompts_s(heavy, Step(1.0), 5.0, LOAD.room, np.array([0.0, 30.0, 100.0, 130.0, 200.0]), 0.0)
    )
    # A step of 155 tokens, 5 of them of sequences that decode, has one whole prompt, and as much of the next as has room.
    some = load(step_tokens=155.0)
    assert whole_prompts_s(PASSES, Step(1.0), 5.0, some.room, 50.0, 0.0) == pytest.approx(5.05)
    mean_s = (0.6 * 100 * 5 + 0.4 * 150 * 5.05) / 120
    assert whole_prompts_s(PASSES, Step(1.0), 5.0, some.room, 20.0, 0.0) == pytest.approx(mean_s)
    assert whole_prompts_s(PASSES, Step(1.0), 5.0, load(step_tokens=60.0).room, 0.0, 0.0) == 5.0


# 100 + 50 tokens: alone 13 s, 2 of them before its prompt is computed; a step of B: 1 + B / 4 + 1.25 s.


def test_a_request_alone_waits_for_nobody():
    served = continuous_batch(PASSES, load(batch=1.0))
    assert (served.ttft_s, served.tpot_s) == (13, pytest.approx(2.5))
    assert served.request_s == pytest.approx(13 + 49 * 2.5)
    assert served.tokens_per_s == pytest.approx(50 / (13 + 49 * 2.5))


def test_requests_in_flight():
    """Five: steps of 3.5 s; a prompt adds 5 s, and a tenth for each that joins its step with it (``shared_s``).

    The next step begins in 1.75 s; its own prompt and step take max(13, 2 + 3.5 + 5) s, and 1.5 x 4 / 50 prompts join them. The
    other 4 - 0.12 prompts come between its 49 later tokens.
    """
    served = continuous_batch(PASSES, load(batch=5.0))
    joined_s = shared_s(prompts_together(5.0, 50.0))
    first_s, token_s = 13 + 1.75 + 0.12 * joined_s, 3.5 + 3.88 / 49 * joined_s
    assert served.tpot_s == pytest.approx(token_s)
    assert served.ttft_s == pytest.approx(first_s)
    assert served.request_s == pytest.approx(first_s + 49 * token_s)
    assert served.tokens_per_s == pytest.approx(5 * 50 / served.request_s)
    assert served.batch == 5
    # A step of 8.25 s with the prompt takes longer than the prompt alone.
    long = continuous_batch(PASSES, load(batch=5.0, output=1000.0))
    step_s = 1 + 1.25 + 6
    joined_s = shared_s(prompts_together(5.0, 1000.0))
    assert long.ttft_s == pytest.approx(2 + step_s + joined_s + step_s / 2 + 1.5 * 4 / 1000 * joined_s)
    # Where several join each step, one and a half times those of its own, but for itself.
    several = continuous_batch(PASSES, load(batch=5.0, output=2.0))
    together = 5 / (2 * (1 - 0.5**5))
    step_s, joined_s = 1 + 1.25 + 1.01, shared_s(together)
    assert several.ttft_s == pytest.approx(13 + step_s / 2 + (1.5 * together - 1) * joined_s)
    assert several.tpot_s == pytest.approx(step_s + (5 - 1.5 * together) * joined_s)
    assert continuous_batch(PASSES, load(batch=5.0, output=2.0, step_tokens=np.inf)) == several


def test_requests_for_whose_prompts_steps_have_no_room():
    """102 tokens each in steps of 60: 60 x 2 / 102 decode at a time, each alone in its steps; the others are in line."""
    decoding = 120 / 102
    step_s = 1 + decoding / 4 + 1.01
    # Two steps and its prompt, of each of those; 1.5 of the others / 2 come in a step and a half.
    place_s = 2 * step_s + decoding * 5
    token_s = step_s + (decoding - 1) / 4 * 5
    roomy = continuous_batch(PASSES, load(batch=5.0, output=2.0))
    assert 5 / decoding * place_s > roomy.request_s
    crowded = continuous_batch(PASSES, load(batch=5.0, output=2.0, step_tokens=60.0))
    assert crowded.batch == decoding
    assert crowded.step == Step(step_s)
    assert crowded.tpot_s == pytest.approx(token_s)
    assert crowded.request_s == pytest.approx(5 / decoding * place_s)
    assert crowded.ttft_s == pytest.approx(5 / decoding * place_s - token_s)
    waiting = continuous_batch(PASSES, load(batch=50.0, most=5.0, output=2.0, step_tokens=60.0))
    assert waiting.request_s == pytest.approx(50 / decoding * place_s)
    # No more end than with room for all, however cheaply prompts join one by one.
    cheap = Plain()
    cheap.joining_s = lambda step, batch, prompt, beside, hidden: beside / 10
    free, one_by_one = (continuous_batch(cheap, load(batch=2.0, output=2.0, step_tokens=tokens)) for tokens in (1e9, 60.0))
    assert one_by_one.batch < 2
    assert one_by_one.request_s == pytest.approx(free.request_s)
    # Alone it decodes in two steps; of three that have no room together each takes 102 tokens of steps of 34.
    three = continuous_batch(PASSES, load(batch=3.0, output=2.0, step_tokens=34.0))
    assert three.batch == 1
    assert three.request_s == pytest.approx(3 * (3 * (1 + 0.25 + 1.01) + 5))
    # Without end as many are served as by those in line, and with arrays as each alone.
    endless = most_throughput(PASSES, load(most=5.0, output=2.0, step_tokens=60.0))
    assert endless.tokens_per_s == pytest.approx(waiting.tokens_per_s)
    rare = most_throughput(PASSES, load(most=5.0, output=2.0, step_tokens=34.0))
    assert rare.tokens_per_s == pytest.approx(3 * 2 / three.request_s)
    both = continuous_batch(PASSES, load(batch=np.array([5.0, 5.0]), output=2.0, step_tokens=np.array([60.0, np.inf])))
    assert both.request_s.tolist() == pytest.approx([crowded.request_s, roomy.request_s])


def test_a_prompt_that_is_too_long_for_a_step_takes_several():
    """100 tokens beside 2 that decode take 2.5 steps of 42: 2.5 x 2.75 s and 5 s, which is more than its pass of 13 s."""
    served = continuous_batch(PASSES, load(batch=2.0, step_tokens=42.0))
    step_s = 1 + 0.5 + 1.25
    joined_s = 5 + 0.1 * 0
    first_s = max(13, 2 + 2.5 * step_s + joined_s)
    assert first_s == 2 + 2.5 * step_s + joined_s
    assert served.ttft_s == pytest.approx(first_s + step_s / 2 + 1.5 / 50 * joined_s)


def test_no_prompt_adds_more_than_a_pass_of_its_own():
    """However many join: to steps of 4.25 s each of eight adds 11 s, not 100."""
    heavy = Plain()
    heavy.joining_s = lambda *_: 100.0
    assert most_throughput(heavy, load()).tpot_s == pytest.approx(4.25 + 8 / 50 * 11)


def test_a_step_that_is_scheduled_ahead_comes_before_the_prompt():
    """Of the long requests above one more step of 8.25 s; a prompt that takes longer alone waits for none."""
    plain, ahead = (continuous_batch(PASSES, load(batch=5.0, output=1000.0, ahead=steps)) for steps in (0.0, 1.0))
    assert ahead.ttft_s == pytest.approx(plain.ttft_s + 8.25)
    assert ahead.tpot_s == plain.tpot_s
    short, waiting = (continuous_batch(PASSES, load(batch=5.0, ahead=steps)).ttft_s for steps in (0.0, 1.0))
    # Alone 13 s; front, the step ahead, its own and what its prompt adds are 2 + 3.5 + 3.5 + 5.
    assert waiting - short == pytest.approx(2 + 7 + shared_s(prompts_together(5.0, 50.0)) - 13)


def test_prompts_of_short_outputs():
    """Of one output token all four others' prompts come in its step; a prompt adds no more than a pass of its own, 11 s."""
    served = continuous_batch(PASSES, load(batch=5.0, output=1.0))
    joined_s = 5 + 0.4
    step_s = 1 + 1.25 + 1.005
    assert served.ttft_s == pytest.approx(max(13, 2 + step_s + joined_s) + step_s / 2 + 4 * joined_s)
    assert served.request_s == served.ttft_s
    heavy = Plain()
    heavy.joining_s = lambda *_: 100.0
    capped = continuous_batch(heavy, load(batch=5.0))
    assert capped.tpot_s == pytest.approx(3.5 + 3.88 / 49 * 11)


def test_requests_beyond_the_places():
    """24 for 8 places: a place is held for 50 steps of 4.25 s and all 8 prompts, and each waits for two others to leave it."""
    served = continuous_batch(PASSES, load(batch=24.0))
    joined_s = shared_s(prompts_together(8.0, 50.0))
    held_s = 50 * 4.25 + 8 * joined_s
    assert served.request_s == pytest.approx(3 * held_s)
    assert served.tokens_per_s == pytest.approx(24 * 50 / (3 * held_s))
    token_s = 4.25 + (7 - 0.21) / 49 * joined_s
    assert served.tpot_s == pytest.approx(token_s)
    assert served.ttft_s == pytest.approx(3 * held_s - 49 * token_s)
    both = continuous_batch(PASSES, load(batch=np.array([5.0, 24.0])))
    assert both.request_s[1] == pytest.approx(3 * held_s)


def test_first_prompts_come_all_at_once():
    """Of four rounds a fourth is the first: half of four others' prompts, and their steps, come before one's own."""
    served = continuous_batch(PASSES, load(batch=5.0, rounds=4.0))
    joined_s, queued = shared_s(prompts_together(5.0, 50.0)), 4 / 2 / 4
    ahead = 0.75 * 0.12 + queued
    assert served.ttft_s == pytest.approx(13 + 1.75 + ahead * joined_s + queued * 3.5)
    assert served.tpot_s == pytest.approx(3.5 + (4 - ahead) / 49 * joined_s)
