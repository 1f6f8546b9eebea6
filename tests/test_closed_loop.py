"""Requests in flight wait for at most the others that are there: values worked by hand, a simulation, and what always holds."""

import itertools
import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysim import (
    BatchingOptimizer,
    CapacityPlanner,
    ContinuousBatchingModel,
    Hardware,
    Models,
    ServingModel,
    TailLatencyModel,
)
from mlsysim.physics.serving.schedule import continuous_batch

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
DEVICES = [Hardware.get(name) for name in ("h100_sxm", "a100_sxm_80gb", "h200_sxm", "l40s", "b200_sxm")]
WORKLOADS = [Models.get(name) for name in ("llama3p1_8b", "qwen3_32b", "mixtral_8x7b")]


@dataclass(frozen=True)
class Step:
    total_s: float


@dataclass(frozen=True)
class Server:
    """A server whose decode steps, prompts in a step, prompts alone and front take the same time always."""

    step_s: float
    joined_s: float
    alone_s: float
    front_s: float = 0.0

    def prefill_s(self, batch, prompt):
        return batch * (self.alone_s - self.front_s) + self.front_s

    def decode(self, batch, context):
        return Step(self.step_s)

    def joining_s(self, step, batch, prompt, tokens_a_step):
        return self.joined_s


def loop(server, concurrency, output, most=1e9, rounds=0.0):
    served = continuous_batch(server, float(concurrency), float(most), 100.0, float(output), rounds)
    return served.ttft_s, served.tpot_s, served.request_s, served.tokens_per_s


SERVER = Server(step_s=2.0, joined_s=5.0, alone_s=7.0, front_s=1.0)


def test_a_lone_request_waits_for_nobody():
    assert loop(SERVER, 1, 4) == (7.0, 2.0, 13.0, 4 / 13)


def test_a_request_meets_the_prompts_of_all_others_once():
    """Three, of four tokens: front 1, half a step 1, four steps 8 and three prompts 15; of the others' two a half in its own."""
    assert loop(SERVER, 3, 4) == (1 + 1 + 2 + 5 + 2.5, 2 + 1.5 * 5 / 3, 25.0, 3 * 4 / 25)


def test_requests_of_one_token_are_computed_together():
    ttft_s, _, request_s, _ = loop(SERVER, 3, 1)
    assert ttft_s == request_s == 1 + 1 + 2 + 3 * 5


def test_the_first_requests_come_all_at_once():
    """In one round of two, one prompt of two is ahead on average, in a step of its own; in the other two of four steps' share."""
    ttft_s, tpot_s, request_s, _ = loop(SERVER, 3, 4, rounds=2.0)
    ahead = 0.5 * 1 + 0.5 * 2 / 4
    assert ttft_s == 1 + 1 + 2 + 5 + ahead * 5 + 0.5 * 2
    assert tpot_s == pytest.approx(2 + (2 - ahead) / 3 * 5)
    assert request_s == pytest.approx(25 + 0.5 * 2)


def test_who_finds_no_place_waits_for_as_many_rounds_as_share_it():
    """Two places, each held for four steps and two prompts, 18; six requests take turns: three times as long."""
    ttft_s, tpot_s, request_s, tokens_per_s = loop(SERVER, 6, 4, most=2)
    assert (request_s, tokens_per_s) == (3 * 18, 2 * 4 / 18)
    assert ttft_s == pytest.approx(54 - 3 * tpot_s)


def test_a_prompt_costs_no_more_than_a_pass_of_its_own():
    assert loop(Server(2.0, 9.0, 7.0, 1.0), 3, 4) == loop(Server(2.0, 6.0, 7.0, 1.0), 3, 4)


def simulated(server, concurrency, output, count, seed):
    """Mean seconds to the first token and of a request, step by step; lengths vary by a half, answers take a while to return."""
    chance = random.Random(seed)
    cycle_s = output * server.step_s + concurrency * server.joined_s
    coming = sorted(chance.uniform(0, cycle_s) for _ in range(concurrency))
    sent, now, decoding, seen = dict(enumerate(coming)), 0.0, {}, []
    while len(seen) < count:
        joining = [who for who, at in sent.items() if at <= now]
        if not joining and not decoding:
            now = min(sent.values())
            continue
        now += server.step_s + len(joining) * server.joined_s
        for who in [*decoding, *joining]:
            if who in joining:
                length = chance.randint(output // 2, output + output // 2)
                decoding[who] = [length, sent.pop(who), now]
            decoding[who][0] -= 1
            if not decoding[who][0]:
                _, came, first = decoding.pop(who)
                seen.append((first - came, now - came))
                sent[who] = now + chance.uniform(0, 1e-9) + server.step_s / 2
    # The next request comes half a step after the answer: that step's rest is the only wait for a step.
    return np.mean(seen[count // 10 :], axis=0)


@pytest.mark.parametrize(("concurrency", "output", "joined_s"), [(2, 64, 4.0), (16, 64, 20.0), (48, 256, 10.0), (64, 32, 3.0)])
def test_a_loop_is_like_one_simulated_step_by_step(concurrency, output, joined_s):
    server = Server(1.0, joined_s, 1.0 + joined_s)
    first_s, request_s = simulated(server, concurrency, output, 6000, seed=1)
    ttft_s, _, predicted_s, _ = loop(server, concurrency, output)
    print(first_s, ttft_s, request_s, predicted_s)
    assert predicted_s == pytest.approx(request_s, rel=0.03)
