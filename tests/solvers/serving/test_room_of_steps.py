"""How many requests a server takes whose prompts fill its steps: by hand, no more than have room, and the same in all loops."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_closed_loop import H100, LLAMA, Server

from mlsysim import Models, ServingModel, Systems, TailLatencyModel
from mlsysim.lowering.arrivals import paces
from mlsysim.lowering.deployment import Deployment
from mlsysim.lowering.prefix_cache import step_room
from mlsysim.physics.serving.step_room import StepRoom

PACE = paces(Deployment.of(LLAMA, H100, seq_len=3000, output_len=128, stack="vllm-2025", schedule="continuous"), 64)


def pace(server, places=64, **room):
    usual = {"tokens": 512.0, "groups": 1.0, "sequence_tokens": 1.0, "prompt": 3000.0, "output": 128.0}
    return replace(PACE, passes=server, places=places, room=StepRoom(**usual | room), solved={}, loads={})


def test_more_long_prompts_in_line_take_no_less_time():
    """Two prompts of 20,000 tokens in two groups of ranks keep all groups as long as one does, and eight hardly longer."""
    asked = {"seq_len": 20_000, "output_len": 300, "stack": "sglang-2025", "schedule": "continuous", "precision": "fp8"}
    groups = Deployment.of(LLAMA, Systems.Nodes.DGX_H100, tp_size=8, attention_dp=True, **asked)
    steps_s = paces(groups, 64)._prompt_steps_s(16)[0]
    assert (np.diff(steps_s, axis=1) >= -1e-9).all()
    assert steps_s[:, 2] == pytest.approx(steps_s[:, 1])
    assert (steps_s[:, 8] < 1.1 * steps_s[:, 1]).all()
    assert (steps_s[:, 16] > 1.8 * steps_s[:, 1]).all()


def test_capacity_by_hand():
    """3,128 tokens a request, 512 a step of 10 ms: 61.09 ms of steps, and 50 ms that a prompt adds to them: 9.001 a second.

    16 in flight have room: 8 s of steps a hundred, and 16 prompts.
    """
    full = pace(Server(0.01, 0.05, 1.0))
    assert full.capacity_per_s == pytest.approx(1 / (3128 / 512 * 0.01 + 0.05)) == pytest.approx(9.0014, abs=1e-4)
    assert full.completions_per_s[15] == pytest.approx(16 / (128 * 0.01 + 16 * 0.05))
    assert full.completions_per_s[20:] == pytest.approx(full.capacity_per_s)
    # 20.95 decode: a prompt joins each with 19.95 / 128 of the others'.
    assert full.token_s[40] == pytest.approx(0.01 + (512 * 128 / 3128 - 1) / 128 * 0.05)
    assert full.with_places(16).capacity_per_s == full.completions_per_s[15]
    assert full.with_places(40).capacity_per_s == pytest.approx(full.capacity_per_s)
    assert full.with_places(40).token_s.tolist() == full.token_s[:40].tolist()
    # A prompt adds no more than its pass of 30 ms alone.
    assert pace(Server(0.01, 0.05, 0.03)).capacity_per_s == pytest.approx(1 / (3128 / 512 * 0.01 + 0.03))


@given(
    tokens=st.integers(2, 20_000),
    groups=st.sampled_from([1, 2, 8]),
    each=st.sampled_from([1, 2, 6]),
    prompt=st.integers(1, 40_000),
    output=st.integers(1, 4_000),
    places=st.integers(1, 400),
    joined_s=st.floats(0.0, 1.0),
)
def test_no_more_are_served_than_have_room(tokens, groups, each, prompt, output, places, joined_s):
    """Tokens that steps take in a second, over those of a request, whatever its prompt adds to steps."""
    room = {"tokens": tokens, "groups": groups, "sequence_tokens": each, "prompt": prompt, "output": output}
    limited = pace(Server(0.01, joined_s, 1.0), places, **{name: float(value) for name, value in room.items()})
    limited = replace(limited, setting=replace(limited.setting, prompt=float(prompt), output=float(output)))
    most_per_s = tokens * groups / 0.01 / (prompt + each * output)
    assert limited.capacity_per_s <= most_per_s * (1 + 1e-9)
    assert limited.best_per_s <= max(most_per_s, float(limited.completions_per_s[0])) * (1 + 1e-9)


@pytest.mark.parametrize(
    "asked",
    [
        {"seq_len": 3000, "output_len": 128, "max_num_batched_tokens": 512},
        {"seq_len": 3000, "output_len": 4, "max_num_batched_tokens": 512},
        {"seq_len": 1024, "output_len": 64, "max_num_batched_tokens": 2048},
        {"seq_len": 8192, "output_len": 16, "prefix_hit": 0.5},
        {"seq_len": 1024, "output_len": 256, "precision": "fp8"},
        {"seq_len": 3000, "output_len": 64, "max_num_batched_tokens": 512, "tp_size": 4},
    ],
)
@pytest.mark.parametrize("stack", ["vllm-2025", "sglang-2025", "tensorrt-llm-1.2"])
def test_all_loops_do_the_same_at_most(asked, stack):
    """Where more are always in line than have a place, it does not matter who sends them."""
    hardware = Systems.Nodes.DGX_H100 if "tp_size" in asked else H100
    capacity = TailLatencyModel().solve(LLAMA, hardware, request_rate="0.1 count/s", stack=stack, **asked).capacity
    closed = ServingModel().solve(LLAMA, hardware, batch_size=10**6, schedule="continuous", stack=stack, **asked)
    offline = ServingModel().solve(LLAMA, hardware, schedule="offline", stack=stack, **asked)
    assert capacity.m_as("count/s") == pytest.approx(closed.requests_per_second.m_as("count/s"), rel=1e-6)
    assert capacity.m_as("count/s") == pytest.approx(offline.requests_per_second.m_as("count/s"), rel=1e-6)


def test_prompts_of_a_group_take_its_own_steps():
    """Eight groups of ranks compute eight prompts side by side, each in as many steps as its group has room for it."""
    asked = {"seq_len": 6000, "output_len": 64, "stack": "vllm-2025", "tp_size": 8, "max_num_batched_tokens": 512}
    apart, shared = (
        paces(Deployment.of(LLAMA, Systems.Nodes.DGX_H100, **asked, attention_dp=dp, schedule="continuous"), 64)
        for dp in (True, False)
    )
    assert apart.room.steps(8.0) == pytest.approx(6000 / 511)
    assert apart.most_decoding == pytest.approx(8 * shared.most_decoding)
    firsts, steps_s = apart._prompt_steps_s(8)[1], apart.step_s[apart._levels - 1]
    assert (firsts[:, 1] >= 12 * steps_s).all(), "twelve steps"
    assert (firsts[:, 8] < 2 * firsts[:, 1]).all(), "side by side"


@pytest.mark.parametrize(
    ("prompt", "output", "tokens"), [(8192, 16, 512), (8192, 128, 256), (30_000, 64, 512), (30_000, 64, 2048)]
)
@pytest.mark.parametrize("stack", ["vllm-2025", "sglang-2025"])
def test_more_in_flight_than_have_room_never_end_fewer_where_groups_have_a_part_each(prompt, output, tokens, stack):
    """Of prompts in parts each group has one; whole they would be in one group, while the seven others wait for it."""
    asked = {"seq_len": prompt, "output_len": output, "max_num_batched_tokens": tokens, "stack": stack, "tp_size": 8}
    asked |= {"attention_dp": True, "ep_size": 8, "precision": "fp8", "schedule": "continuous"}
    model, node = Models.get("Qwen3-235B-A22B"), Systems.Nodes.DGX_H200
    most = step_room(Deployment.of(model, node, **asked)).most_decoding
    numbers = [int(share * most) + 1 for share in (0.8, 0.9, 1.0, 1.1, 1.3, 1.6, 3.0, 1000.0)]
    rates = [ServingModel().solve(model, node, batch_size=number, **asked).requests_per_second for number in numbers]
    assert all(more >= fewer * (1 - 1e-9) for fewer, more in itertools.pairwise(rates))


def test_what_a_request_takes_of_a_steps_room():
    """Cached tokens of a prompt take none, each beam and each draft that is checked one; a bound has room for all."""
    asked = {"seq_len": 1000, "output_len": 100, "stack": "vllm-2025", "max_num_batched_tokens": 2048}
    deployment = Deployment.of(LLAMA, H100, **asked, prefix_hit=0.75, schedule="continuous")
    room = step_room(deployment, beams=4)
    assert (room.tokens, room.sequence_tokens, room.prompt) == (2048 * 4, 4 * 4, 1000)
    assert room.most_decoding == pytest.approx(2048 * 100 / (250 + 4 * 100))
    assert step_room(Deployment.of(LLAMA, H100, seq_len=1000, output_len=100)).most_decoding == float("inf")
