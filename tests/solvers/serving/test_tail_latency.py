"""Random arrivals at a deployment: like its engine simulated step by step, and refused where it cannot be."""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_queueing import H100, LLAMA, seconds

from mlsysim import Hardware, InputError, Models, ServingModel, Systems, TailLatencyModel
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.physics.queues import prompt_queue
from mlsysim.physics.queues.open_loop import by_places, in_flight, last_kept
from mlsysim.physics.queues.prompt_queue import CELLS, turns

SHAPE = {"seq_len": 1024, "output_len": 256}


def serve(rate, **asked):
    basis = {} if asked.get("stack") or asked.get("efficiency") else {"basis": "bound"}
    return TailLatencyModel().solve(LLAMA, H100, arrival_rate=f"{rate} request/s", **{**SHAPE, **asked, **basis})


@pytest.mark.parametrize("stack", [None, "vllm-2025"])
def test_an_idle_deployment_serves_one_request(stack):
    lonely = serve(1e-6, stack=stack)
    alone = ServingModel().solve(LLAMA, H100, **SHAPE, stack=stack)
    assert lonely.tpot_p99.m_as("s") == pytest.approx(alone.tpot.m_as("s"), rel=1e-6)
    assert lonely.ttft_p99.m_as("s") == pytest.approx(alone.ttft.m_as("s"), rel=1e-6)
    assert lonely.latency_p50.m_as("s") == pytest.approx(alone.request_latency.m_as("s"), rel=1e-6)
    assert lonely.wait_p99.m_as("s") == 0


@pytest.mark.parametrize("stack", [None, "vllm-2025"])
def test_a_deployment_saturates_at_its_offline_rate(stack):
    offline = ServingModel().solve(LLAMA, H100, **SHAPE, stack=stack, schedule="offline").requests_per_second
    assert serve(1, stack=stack).capacity.m_as("count/s") == pytest.approx(offline.m_as("count/s"), rel=1e-9)
    over = serve(1.2 * offline.m_as("count/s"), stack=stack)
    assert not over.feasible
    assert over.reason.startswith("unstable: load 1.2 of capacity")
    assert over.ttft_p99 is None is over.tpot_p50


@pytest.mark.parametrize("kind", ["wait", "ttft", "tpot", "latency"])
def test_a_busier_deployment_is_never_faster(kind):
    capacity = serve(1, batch_size=16, stack="vllm-2025").capacity.m_as("count/s")
    runs = [serve(share * capacity, batch_size=16, stack="vllm-2025") for share in (0.1, 0.5, 0.8, 0.95, 0.99)]
    for light, heavy in itertools.pairwise(runs):
        for before, after in zip(seconds(light, kind), seconds(heavy, kind), strict=True):
            assert 0 <= before <= after * (1 + 1e-9)
    for run in runs:
        parts_s = sum(part.m_as("s") for part in run.breakdown.values())
        assert parts_s == pytest.approx(run.latency_mean.m_as("s"))
        assert run.wait_probability <= 1


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_prompts_that_join_steps_all_at_once_or_one_by_one(load):
    step, added = 0.02, 0.005
    rate = load / added
    cycle = step / (1 - load)
    spread = rate * added**2 * cycle / (1 - load**2)
    unlimited_s, none_shared_s = step + added * np.arange(200.0)[None], np.zeros(1)
    gated = turns(rate, np.array([199]), unlimited_s, unlimited_s, none_shared_s)
    seen = ((gated.wait_s + gated.first_s) * CELLS).sum()
    assert seen == pytest.approx((1 + 2 * load) * (spread + cycle**2) / (2 * cycle) + step + added, rel=1e-3)
    assert gated.cycle_s[0] == pytest.approx(cycle, rel=1e-6)
    whole = load / rate  # one in a step, which goes on for a while if none comes: M/D/1 with vacations
    single_s = np.array([[0.002, whole]])
    single = turns(rate, np.array([1]), single_s, single_s, none_shared_s)
    assert (single.wait_s * CELLS).sum() == pytest.approx(load * whole / (2 * (1 - load)) + 0.001, rel=0.01)


@pytest.mark.parametrize("load", [0.3, 0.9, 3.0])
@pytest.mark.parametrize("most", [1, 8, 40])
def test_the_queue_of_prompts_is_the_stationary_one_of_its_chain(most, load):
    coming = prompt_queue._poisson(np.linspace(0.2, load * most, most + 1)[None], np.array([most + 64]))
    shares = prompt_queue._stationary(coming, np.array([most]))[0]
    after = np.zeros(shares.size)
    for state, share in enumerate(shares):
        left = max(0, state - most)
        after[left:] += share * coming[0, min(state, most), : shares.size - left]
        after[-1] += share * coming[0, min(state, most), shares.size - left :].sum()
    assert after == pytest.approx(shares, abs=1e-13)
    assert shares.sum() == pytest.approx(1)


def test_engines_that_differ_are_solved_as_each_alone():
    most, rate = np.array([1, 8, 40]), 60.0
    steps_s = np.array([[0.01], [0.02], [0.03]]) + 0.001 * np.arange(41)
    shared_s = np.array([0.0, 0.002, 0.001])
    together = turns(rate, most, steps_s, 1.1 * steps_s, shared_s)
    for engine, k in enumerate(most):
        own_s = steps_s[engine : engine + 1, : k + 1]
        alone = turns(rate, most[engine : engine + 1], own_s, 1.1 * own_s, shared_s[engine : engine + 1])
        for name in ("wait_s", "first_s", "behind", "cycle_s"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[engine], rel=1e-9)


@given(st.integers(1, 4095), st.sampled_from([0.1, 1.0, 3.0]), st.sampled_from([None, 1, 2048, 4000]))
def test_the_last_load_that_keeps_a_limit_is_found(last, power, guess):
    looks = []

    def missed(part):
        looks.append(part)
        return math.copysign(abs(part - last - 0.5) ** power, part - last - 0.5)

    found, reached = last_kept(missed, 4096, (4096 - last) ** power, guess=guess)
    assert found == last
    assert last <= reached <= last + 1
    assert len(looks) <= 40


def simulated(pace, rate, count):
    """Times to first token, per token after it and of the whole request, of an engine taken step by step."""
    prompt, output, budget = int(pace.setting.prompt), int(pace.setting.output), pace.room.tokens

    @functools.cache
    def step_s(decoding, tokens, after_free):
        if not decoding:
            return (pace.alone_s - pace.front_s) * tokens / prompt
        step = pace.passes.decode(float(decoding), pace.setting.context)
        beside = max(tokens - min(prompt, budget), 0.0)
        hidden = pace.setting.ahead * after_free
        joined = tokens and pace.passes.joining_s(step, float(decoding), prompt, beside, hidden) * tokens / prompt
        return float(step.total_s + joined)

    arrivals = np.cumsum(np.random.default_rng(3).exponential(1 / rate, count)).tolist()
    now, following, computing, decoding, done, scheduled, free = 0.0, 0, [], [], [], 0.0, False
    while len(done) < count:
        if not computing and not decoding:
            now = max(now, arrivals[following])
        # A host that is ahead has scheduled a step when the one before it began.
        last = scheduled if decoding and pace.setting.ahead else now
        while following < count and arrivals[following] <= last and len(computing) + len(decoding) < pace.places:
            computing.append([arrivals[following], prompt])
            following += 1
        left, scheduled = budget - len(decoding), now
        for request in computing:
            now_computed = min(request[1], left)
            request[1] -= now_computed
            left -= now_computed
        tokens = budget - len(decoding) - left if left < math.inf else sum(prompt for _ in computing)
        # The host launches a step of prompts while a step without any runs before it.
        now, free = now + step_s(len(decoding), tokens, free), bool(decoding) and not tokens
        decoding = [(came, first, more - 1) for came, first, more in decoding]
        done += [(first - came, (now - first) / (output - 1), now - came) for came, first, more in decoding if not more]
        decoding = [request for request in decoding if request[2]]
        decoding += [(came, now, output - 1) for came, more in computing if not more]
        computing = [request for request in computing if request[1]]
    return np.array(done[count // 20 :]).T + np.array([[pace.front_s], [0.0], [pace.front_s]])


@pytest.mark.parametrize(
    ("asked", "places", "share"),
    [
        ({"seq_len": 512, "output_len": 64}, 16, 0.5),
        ({"seq_len": 1024, "output_len": 256, "stack": "vllm-2025"}, None, 0.4),
        ({"seq_len": 1024, "output_len": 256, "stack": "vllm-2025"}, None, 0.8),
        ({"seq_len": 2048, "output_len": 256, "precision": "fp8", "stack": "tensorrt-llm-1.2"}, 64, 0.6),
        ({"seq_len": 128, "output_len": 256, "stack": "vllm-2025"}, 64, 0.6),
        ({"seq_len": 8192, "output_len": 128, "stack": "vllm-2025"}, None, 0.5),
        ({"seq_len": 8192, "output_len": 128, "stack": "vllm-2025"}, None, 0.6),
        ({"seq_len": 3000, "output_len": 128, "stack": "vllm-2025", "max_num_batched_tokens": 512}, None, 0.6),
        ({"seq_len": 3000, "output_len": 128, "stack": "vllm-2025", "max_num_batched_tokens": 512}, 32, 0.9),
    ],
)
def test_a_deployment_is_like_an_engine_simulated_step_by_step(asked, places, share):
    pace = paces(Deployment.of(LLAMA, H100, **asked, schedule="continuous"), places)
    rate = share * pace.capacity_per_s
    predicted = serve(rate, batch_size=places, **asked)
    # Behind a host that is ahead first tokens are predicted less well, most of all where a prompt leaves a few tokens to a
    # second step: who fills it lengthens one first token in several.
    split = asked["seq_len"] > 4096
    for kind, times in zip(("ttft", "tpot", "latency"), simulated(pace, rate, 4000), strict=True):
        within = (0.3 if split else 0.1) if kind == "ttft" and pace.setting.ahead else 0.2 if split else 0.07
        found = [times.mean(), *np.quantile(times, [0.5, 0.9])]
        assert seconds(predicted, kind)[:3] == pytest.approx(found, rel=within)


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        ({"seq_len": 3000, "output_len": 128, "max_num_batched_tokens": 512}, None),
        ({"seq_len": 3000, "output_len": 128, "max_num_batched_tokens": 512}, 32),
        ({"seq_len": 3000, "output_len": 64, "max_num_batched_tokens": 512, "precision": "fp8"}, None),
        ({"seq_len": 1024, "output_len": 64, "max_num_batched_tokens": 2048}, None),
        ({"seq_len": 8192, "output_len": 128}, None),
    ],
)
def test_the_capacity_is_what_an_engine_does_that_always_has_enough_to_do(asked, places):
    """All come at once: between the first and the last tenth to leave, steps are as full as they can be."""
    asked = {**asked, "stack": "vllm-2025"}
    pace, count = paces(Deployment.of(LLAMA, H100, **asked, schedule="continuous"), places), 3000
    left_s = np.sort(simulated(pace, 1e9, count)[2])
    first, last = int(0.2 * left_s.size), int(0.8 * left_s.size)
    assert pace.capacity_per_s == pytest.approx((last - first) / (left_s[last] - left_s[first]), rel=0.01)


@pytest.mark.parametrize("asked", [{"seq_len": 3000, "output_len": 128, "max_num_batched_tokens": 512}, {"seq_len": 8192}])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_places_for_more_than_steps_have_room_for_change_nothing(asked, share):
    """Prompts are in one line, whether who waits in it has a place or not; at 98 % of what it completes most do not."""
    asked = {"output_len": 16, **asked, "stack": "vllm-2025"}
    few, more, many = (paces(Deployment.of(LLAMA, H100, **asked, schedule="continuous"), most) for most in (24, 32, 52))
    assert few.most_decoding < 24
    assert few.capacity_per_s == many.capacity_per_s
    seen = [pace.under(share * few.capacity_per_s, 0.0) for pace in (few, more, many)]
    for tokens in (0.0, asked["output_len"] - 1):
        means, highs = zip(
            *((one.mean_s, one.percentile_s(0.99)) for one in (loop.after_wait(tokens) for loop in seen)), strict=True
        )
        assert means[1:] == pytest.approx(means[:1] * 2, rel=0.02)
        assert highs[1:] == pytest.approx(highs[:1] * 2, rel=0.05), "to a cell of probability"


@pytest.mark.parametrize(("prompt", "output", "room", "rate"), [(600, 64, 512, 8), (3000, 64, 512, 3), (3000, 200, 1024, 5)])
def test_faster_memory_never_lets_prompts_wait_longer_that_take_several_steps(prompt, output, room, rate):
    """The host launches only the first part of a prompt while a step without any runs before it."""
    node, memory = Systems.Nodes.DGX_H100, H100.memory
    asked = {"input_len": prompt, "output_len": output, "max_num_batched_tokens": room, "tp_size": 2, "stack": "vllm-2025"}
    firsts = []
    for times in (1.0, 1.02, 1.2, 1.5):
        faster = H100.model_copy(update={"memory": memory.model_copy(update={"bandwidth": memory.bandwidth * times})})
        served_on = node.model_copy(update={"accelerator": faster})
        run = TailLatencyModel().solve(LLAMA, served_on, **asked, request_rate=f"{rate} count/s")
        firsts.append([run.ttft_mean, run.ttft_p99, run.latency_p99])
    for slower, quicker in itertools.pairwise(firsts):
        assert all(after < before for before, after in zip(slower, quicker, strict=True))


def test_replicas_share_the_requests():
    one, four = serve(2, efficiency=0.5), serve(8, efficiency=0.5, replicas=4)
    assert four.latency_p99.m_as("s") == pytest.approx(one.latency_p99.m_as("s"))
    assert four.capacity.m_as("count/s") == pytest.approx(4 * one.capacity.m_as("count/s"))
    assert (four.servers, four.basis) == (4, "efficiency")


def test_longer_and_shorter_requests_wait_longer_for_a_place():
    rate = 0.97 * serve(1, batch_size=8).capacity.m_as("count/s")
    even, uneven = serve(rate, batch_size=8), serve(rate, batch_size=8, service_cv2=2.0)
    assert uneven.wait_p99 > 2 * even.wait_p99


def test_a_model_that_does_not_fit_is_said_in_bytes():
    asked = {"arrival_rate": "1 request/s", **SHAPE}
    result = TailLatencyModel().solve(Models.Language.Llama2_70B, H100, **asked)
    assert not result.feasible
    assert "GiB" in result.reason
    assert result.latency_p99 is None
    fits = TailLatencyModel().solve(Models.Language.Llama2_70B, Systems.Nodes.DGX_H100, tp_size=8, **asked)
    assert fits.feasible


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        ({"output_len": None}, "output_len"),
        ({"seq_len": 0}, "seq_len"),
        ({"replicas": 0}, "replicas"),
        ({"batch_size": 0}, "batch_size"),
        ({"servers": 2}, "servers"),
        ({"service_time": "1 s"}, "service_time"),
        ({"stack": "vllm-2025", "efficiency": 0.5}, "efficiency"),
        ({"tp_size": 3}, "tp_size"),
    ],
)
def test_bad_deployments_are_named(asked, argument):
    with pytest.raises(InputError) as caught:
        serve(1, **asked)
    assert caught.value.argument == argument


def test_every_number_of_places_at_once_is_the_chain_of_each():
    completions_per_s = np.array([0.9, 1.7, 2.4, 2.3, 3.0])
    slow = np.array([False, False, True, False, True])
    for arrival_per_s in (1e-6, 0.5, 0.89, 1e300):
        taken, late = by_places(arrival_per_s, completions_per_s, slow)
        for places in range(1, 6):
            if arrival_per_s < completions_per_s[places - 1]:
                free, waits = in_flight(arrival_per_s, completions_per_s[:places])
                assert taken[places - 1] == pytest.approx(waits)
                assert late[places - 1] == pytest.approx(free @ slow[:places] + waits * slow[places - 1])
            else:
                assert taken[places - 1] == pytest.approx(1)


def test_a_prompt_passes_all_stages_of_a_pipeline():
    """What it adds to steps keeps one stage busy; its own first token comes no sooner than without others."""
    load = {"input_len": 4000, "output_len": 1000, "stack": "vllm-2025", "pp_size": 4, "batch_size": 128}
    runs = [
        TailLatencyModel().solve(Models.Language.Llama3_8B, Hardware.Cloud.L40S, **load, request_rate=f"{rate} count/s")
        for rate in (1e-3, 0.3, 1.0)
    ]
    firsts = [run.ttft_p50.m_as("s") for run in runs]
    assert firsts == sorted(firsts)
