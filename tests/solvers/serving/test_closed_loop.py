"""Requests in flight wait for at most the others that are there: values worked by hand, a simulation, and what always holds."""

import itertools
import math
import random
from dataclasses import dataclass, fields

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from random_systems import ROUNDING, answer, serving_questions, tried_on

from mlsysim import (
    BatchingOptimizer,
    CapacityPlanner,
    ContinuousBatchingModel,
    Hardware,
    Models,
    ServingModel,
    Systems,
    TailLatencyModel,
)
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.prefix_cache import step_room
from mlsysim.physics.serving.schedule import Load, continuous_batch
from mlsysim.solvers.serving.together import serve_together

LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100


@dataclass(frozen=True)
class Step:
    total_s: float


@dataclass(frozen=True)
class Server:
    """A server whose decode steps, prompts in a step, prompts alone and front always take the same time."""

    step_s: float
    joined_s: float
    alone_s: float
    front_s: float = 0.0

    def prefill_s(self, batch, prompt):
        return batch * (self.alone_s - self.front_s) + self.front_s

    def decode(self, batch, context):
        return Step(self.step_s)

    def joining_s(self, step, batch, prompt, beside, hidden):
        return self.joined_s


def load(concurrency, output, **changed):
    """Requests of 100 tokens and ``output`` more, of which all fit, with ``changed`` fields."""
    usual = dict.fromkeys((part.name for part in fields(Load)), 0.0) | {"most": 1e9, "step_tokens": math.inf}
    usual |= {"prompt": 100.0, "recv_interval": 1.0, "groups": 1.0, "sequence_tokens": 1.0}
    return Load(**usual | {"batch": float(concurrency), "output": float(output)} | changed)


def loop(server, concurrency, output, most=1e9, rounds=0.0):
    served = continuous_batch(server, load(concurrency, output, most=float(most), rounds=rounds))
    return served.ttft_s, served.tpot_s, served.request_s, served.tokens_per_s


SERVER = Server(step_s=2.0, joined_s=5.0, alone_s=7.0, front_s=1.0)


def test_a_lone_request_waits_for_nobody():
    assert loop(SERVER, 1, 4) == (7.0, 2.0, 13.0, 4 / 13)


def test_requests_that_have_no_room_are_told():
    load = {"input_len": 100_000, "output_len": 100, "schedule": "continuous", "stack": "vllm-2025"}
    run = ServingModel().solve(LLAMA, H100, batch_size=32, **load)
    assert run.batch == run.max_batch < 32
    assert f"{run.batch} of 32 requests in flight have room: the others wait for a place" in run.diagnostics


def test_requests_whose_prompts_fill_the_steps_are_told():
    load = {"input_len": 3000, "output_len": 128, "schedule": "continuous", "stack": "vllm-2025", "max_num_batched_tokens": 512}
    few, many = (ServingModel().solve(LLAMA, H100, batch_size=batch, **load) for batch in (20, 64))
    assert (few.batch, many.batch) == (20, 20)
    assert not few.diagnostics
    assert "20 of 64 requests in flight decode: prompts of the others fill the steps" in many.diagnostics


def test_a_request_meets_the_prompts_of_all_others_once():
    """Three, of eight tokens: front 1, half a step 1, 8 steps 16, 3 prompts 15; 3/8 of the others' in a step and a half."""
    ahead = 1.5 * 2 / 8
    ttft_s, tpot_s, request_s, tokens_per_s = loop(SERVER, 3, 8)
    assert ttft_s == 1 + 1 + 2 + 5 + ahead * 5
    assert tpot_s == pytest.approx(2 + (2 - ahead) / 7 * 5)
    assert request_s == pytest.approx(33)
    assert tokens_per_s == pytest.approx(3 * 8 / 33)


@pytest.mark.parametrize("stack", ["vllm-2025", "tensorrt-llm-0.14", "tensorrt-llm-1.0", "sglang", "llama.cpp-2025"])
@pytest.mark.parametrize(("card", "weights"), [("H100", "fp16"), ("A100", "int4"), ("V100", "fp16"), ("RTX 4090", "q4_k_m")])
def test_a_longer_answer_is_no_sooner_there(stack, card, weights):
    """Kernels take the next tile at a number of rows: steps have those of whole prompts, and no step that of the mean one.

    Of a few tokens, where several prompts join each step, one more may leave them one, which ends a wave of tiles.
    """
    asked = {"input_len": 128, "schedule": "continuous", "stack": stack, "weight_precision": weights, "precision": "fp16"}
    outputs = [*range(12, 70), *range(128, 136), *range(512, 520)]
    cases = [((LLAMA, Hardware[card]), asked | {"output_len": output, "batch_size": 32}) for output in outputs]
    runs = serve_together(cases)
    seconds = [run.request_latency.m_as("second") for run in runs]
    assert {run.batch for run in runs if run.feasible} <= {32}
    assert [later >= earlier for earlier, later in itertools.pairwise(seconds)] == [True] * (len(outputs) - 1)


def test_requests_of_one_token_are_computed_together():
    ttft_s, _, request_s, _ = loop(SERVER, 3, 1)
    assert ttft_s == request_s == 1 + 1 + 2 + 3 * 5


def test_the_first_requests_come_all_at_once():
    """In one round of two, one prompt of two is ahead on average, in a step of its own; in the other those of the steps."""
    ttft_s, tpot_s, request_s, _ = loop(SERVER, 3, 8, rounds=2.0)
    ahead = 0.5 * 1 + 0.5 * 1.5 * 2 / 8
    assert ttft_s == pytest.approx(1 + 1 + 2 + 5 + ahead * 5 + 0.5 * 2)
    assert tpot_s == pytest.approx(2 + (2 - ahead) / 7 * 5)
    assert request_s == pytest.approx(33 + 0.5 * 2)


def test_who_finds_no_place_waits_for_as_many_turns_as_share_it():
    """Two places, each held for four steps and two prompts, 18; six requests take turns: three times as long."""
    ttft_s, tpot_s, request_s, tokens_per_s = loop(SERVER, 6, 4, most=2)
    assert (request_s, tokens_per_s) == (3 * 18, pytest.approx(2 * 4 / 18))
    assert ttft_s == pytest.approx(54 - 3 * tpot_s)


def test_a_prompt_costs_no_more_than_a_pass_of_its_own():
    assert loop(Server(2.0, 9.0, 7.0, 1.0), 3, 4) == loop(Server(2.0, 6.0, 7.0, 1.0), 3, 4)


def simulated(server, concurrency, output, count, held_steps=0):
    """Mean seconds to the first token and of a request, step by step: lengths vary by a half, answers return within a step.

    Prompts are held back ``held_steps`` steps from the first that waits on.
    """
    held = 0
    chance, now, decoding, seen = random.Random(1), 0.0, {}, []
    cycle_s = output * server.step_s + concurrency * server.joined_s
    waiting = {who: chance.uniform(0, cycle_s) for who in range(concurrency)}
    while len(seen) < count:
        joining = [who for who, came in waiting.items() if came <= now]
        if not joining and not decoding:
            now = min(waiting.values())
            continue
        if joining and decoding and held < held_steps:
            held, joining = held + 1, []
        elif joining:
            held = 0
        now += server.step_s + len(joining) * server.joined_s
        decoding |= {who: [chance.randint(output // 2, output + output // 2), waiting.pop(who), now] for who in joining}
        for who in list(decoding):
            decoding[who][0] -= 1
            if not decoding[who][0]:
                _, came, first = decoding.pop(who)
                seen.append((first - came, now - came))
                waiting[who] = now + chance.uniform(0, server.step_s)
    return [sum(times) / len(times) for times in zip(*seen[count // 10 :], strict=True)]


@pytest.mark.parametrize(
    ("concurrency", "output", "joined_s", "share"),
    [(2, 64, 4.0, 0.02), (16, 64, 2.0, 0.08), (48, 256, 10.0, 0.08), (64, 32, 3.0, 0.26)],
)
def test_a_loop_is_like_one_simulated_step_by_step(concurrency, output, joined_s, share):
    """The more prompts join a step, the more they cluster: those that come together end together."""
    server = Server(1.0, joined_s, 1.0 + joined_s)
    ttft_s, _, request_s, _ = loop(server, concurrency, output)
    first_s, whole_s = simulated(server, concurrency, output, 4000)
    assert request_s == pytest.approx(whole_s, rel=0.005)
    assert (1 - share) * first_s < ttft_s < 1.01 * first_s


@pytest.mark.parametrize(("concurrency", "held_steps"), [(4, 20), (16, 20), (64, 10)])
def test_prompts_that_are_held_back_are_like_those_simulated(concurrency, held_steps):
    server = Server(1.0, 2.0, 3.0)
    served = continuous_batch(server, load(concurrency, 512, wait_steps=float(held_steps)))
    first_s, whole_s = simulated(server, concurrency, 512, 4000, held_steps)
    assert served.ttft_s == pytest.approx(first_s, rel=0.07)
    assert served.request_s == pytest.approx(whole_s, rel=0.02)


def flying(stack, concurrency, model=LLAMA, hardware=H100, **asked):
    return ServingModel().solve(model, hardware, stack=stack, schedule="continuous", batch_size=concurrency, **asked)


def ms(quantity):
    return quantity.m_as("ms")


def per_s(run):
    return run.tokens_per_second.m_as("count/second")


def faster(device, memory=1.0, arithmetic=1.0):
    """The accelerator with so many times its bandwidth and its rates."""
    quicker = device.memory.model_copy(update={"bandwidth": device.memory.bandwidth * memory})
    rates = {name: rate * arithmetic for name, rate in device.compute.precision_flops.items()}
    update = {"peak_flops": device.compute.peak_flops * arithmetic, "precision_flops": rates}
    return device.model_copy(update={"memory": quicker, "compute": device.compute.model_copy(update=update)})


@pytest.mark.parametrize("stack", [None, "vllm-2025", "llama.cpp-2024"])
def test_solvers_agree_on_a_lone_request(stack):
    asked = {"seq_len": 8192, "output_len": 8}
    alone = ServingModel().solve(LLAMA, H100, stack=stack, batch_size=1, **asked)
    in_flight = flying(stack, 1, **asked)
    counted = ContinuousBatchingModel().solve(LLAMA, H100, stack=stack, concurrency=1, **asked)
    basis = {"stack": stack} if stack else {"basis": "bound"}
    rare = TailLatencyModel().solve(LLAMA, H100, request_rate="0.001 count/s", **basis, **asked)
    assert ms(in_flight.ttft) == ms(counted.ttft) == pytest.approx(ms(alone.ttft))
    assert ms(rare.ttft_mean) == pytest.approx(ms(alone.ttft), rel=2e-3)
    assert ms(in_flight.request_latency) == pytest.approx(ms(alone.request_latency))


def test_a_limit_that_a_lone_request_keeps_is_kept():
    asked = {"seq_len": 8192, "output_len": 8, "stack": "vllm-2025"}
    assert BatchingOptimizer().solve(LLAMA, H100, max_ttft="300 ms", **asked).batch >= 1
    assert CapacityPlanner().solve(LLAMA, H100, max_ttft="1 s", request_rate="1 count/s", **asked).feasible


def test_faster_memory_raises_the_rate_of_two_long_prompts():
    """At the speed of light arithmetic bounds a step with a prompt: two in 128 steps and a half, whatever the memory."""
    asked = {"seq_len": 16384, "output_len": 128}
    for memory in (1, 2, 4):
        hardware = faster(H100, memory)
        run, prompt_s = flying(None, 2, hardware=hardware, **asked), flying(None, 1, hardware=hardware, **asked).ttft.m_as("s")
        assert per_s(run) == pytest.approx(2 * 128 / (126.5 * run.itl.m_as("s") + 2 * prompt_s), rel=0.01)


@tried_on(
    12,
    1500,
    question=serving_questions(),
    concurrency=st.sampled_from([2, 3, 17, 128, 600]),
    rounds=st.sampled_from([None, None, 1, 10]),
)
def test_a_closed_loop_keeps_its_laws(question, concurrency, rounds):
    """Little's law; nobody waits for more than the others; better hardware serves no slower; bounds are below.

    Of each of the others that is its prompt, and the steps that it takes: one, or as many as have room for it.
    """
    model, hardware, arguments = question
    assume(model.causal)
    asked = {**arguments, "schedule": "continuous"}
    flown = {**asked, "batch_size": concurrency, "rounds": rounds}
    one, run = (answer(ServingModel().solve, model, hardware, **given) for given in ({**asked, "batch_size": 1}, flown))
    static = ServingModel().solve(model, hardware, **{**arguments, "batch_size": 1})
    assert ms(one.ttft) == pytest.approx(ms(static.ttft))
    assert per_s(run) * run.request_latency.m_as("s") == pytest.approx(concurrency * asked["output_len"])
    assert ms(run.request_latency) == pytest.approx(ms(run.ttft) + (asked["output_len"] - 1) * ms(run.tpot))
    assert ms(run.tpot) >= ms(run.itl)
    if concurrency > run.max_batch:
        return
    room = step_room(Deployment.of(model, hardware, **flown))
    steps = max(1.0, (room.output + room.more_steps) / room.most_decoding)
    assert ms(run.ttft) <= concurrency * (ms(one.ttft) + steps * ms(run.itl)) * (1 + ROUNDING)
    if isinstance(hardware, HardwareNode):
        for memory, arithmetic in ((1.1, 1), (2, 1), (1, 2), (2, 2)):
            better = ServingModel().solve(model, faster(hardware, memory, arithmetic), **flown)
            assert per_s(better) >= per_s(run) * (1 - ROUNDING)
            assert ms(better.ttft) <= ms(run.ttft) * (1 + ROUNDING)
    if asked["tp_size"] > 1 or asked["precision"] not in ("fp16", "bf16"):
        return  # some links carry more than their node lists, and some engines unpack formats to faster ones
    bound = ServingModel().solve(model, hardware, **{**flown, "stack": None})
    if concurrency <= bound.max_batch:
        assert per_s(bound) >= per_s(run)
        assert ms(bound.ttft) <= ms(run.ttft)


@pytest.mark.parametrize(("prompt", "output", "room", "concurrency"), [(600, 64, 512, 64), (1500, 64, 512, 16)])
def test_faster_memory_never_slows_prompts_that_fill_more_steps_than_start_at_random(prompt, output, room, concurrency):
    """The host launches a step of prompts while those before it run, of which none is free where parts of prompts fill all."""
    node, memory = Systems.Nodes.DGX_H100, H100.memory
    asked = {"input_len": prompt, "output_len": output, "batch_size": concurrency, "max_num_batched_tokens": room, "tp_size": 2}
    rates = []
    for times in (1.0, 1.02, 1.2):
        faster = H100.model_copy(update={"memory": memory.model_copy(update={"bandwidth": memory.bandwidth * times})})
        served_on = node.model_copy(update={"accelerator": faster})
        served = ServingModel().solve(LLAMA, served_on, **asked, schedule="continuous", stack="vllm-2025")
        rates.append(served.tokens_per_second)
    assert rates == sorted(rates)


def test_what_the_prefix_cache_has_takes_no_room_in_a_step():
    """Prompts whose new tokens fit a step together join it together, as prompts of so many tokens do without a limit."""
    asked = {"output_len": 4, "batch_size": 16, "schedule": "continuous", "stack": "vllm-2025"}
    cached = {"input_len": 8192, "prefix_hit": 0.9}
    usual, roomy, tight, tighter = (
        ServingModel().solve(LLAMA, H100, **asked, **cached, max_num_batched_tokens=tokens).tokens_per_second
        for tokens in (8192, 65536, 1024, 512)
    )
    assert usual == roomy
    # A prompt a step is as much as sixteen in flight ask for; what is half of one is less.
    assert tighter < tight <= usual
