"""Weights and caches in the host's memory: how long they take to arrive, what room they leave, what is refused."""

from __future__ import annotations

import pytest

from mlsysim.core.errors import InconsistentError, InputError, UnknownNameError
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.solvers.serving.serving import ServingModel
from mlsysim.systems.registry import Systems

H100 = Hardware.Cloud.H100
DGX = Systems.Nodes.DGX_H100
LLAMA8, LLAMA70 = Models.Language.Llama3_8B, Models.Language.Llama3_70B
PCIE_Bps, REACHED = 63e9, 0.76
STACKS = [None, "vllm-2025"]


def serve(workload=LLAMA70, hardware=H100, **changes):
    asked = {"seq_len": 1024, "output_len": 256, "batch_size": 8, **changes}
    return ServingModel().solve(workload, hardware, **asked)


def ms(quantity):
    return float(quantity.m_as("ms"))


@pytest.mark.parametrize("stack", STACKS)
def test_a_step_is_the_stream_of_what_is_offloaded(stack):
    """Batch 1: 70.6e9 weights of 2 bytes, less the input embeddings that no step reads, over PCIe 5 (63 GB/s)."""
    run = serve(batch_size=1, offload="weights", stack=stack)
    read_B = 2 * (70.55e9 - 128256 * 8192)
    share = REACHED if stack else 1.0
    assert ms(run.itl) == pytest.approx(1e3 * read_B / PCIE_Bps / share, rel=0.03)
    assert run.feasible
    assert run.binding == "host transfers"


@pytest.mark.parametrize("stack", STACKS)
def test_a_step_is_the_longer_of_computation_and_transfers(stack):
    """A share small enough to arrive beneath the step costs nothing; beyond it time is proportional to the share."""
    plain = serve(LLAMA8, stack=stack)
    runs = [serve(LLAMA8, stack=stack, offload={"weights": share}) for share in (0.001, 0.4, 0.8)]
    assert ms(runs[0].itl) == pytest.approx(ms(plain.itl))
    assert ms(runs[2].itl) == pytest.approx(2 * ms(runs[1].itl))
    assert all(sum(ms(part) for part in run.breakdown.values()) >= ms(run.itl) * 0.999 for run in runs)


def test_the_cache_streams_with_the_tokens_that_it_holds():
    short, long = (serve(LLAMA8, seq_len=tokens, output_len=None, offload="kv", batch_size=32) for tokens in (4096, 8192))
    assert short.binding == long.binding == "host transfers"
    assert ms(long.itl) == pytest.approx(2 * ms(short.itl))
    assert ms(short.itl) == pytest.approx(1e3 * 32 * 4096 * 131072 / PCIE_Bps)


def test_larger_batches_share_a_stream_of_weights():
    one, many = (serve(batch_size=batch, offload="weights") for batch in (1, 64))
    assert many.tokens_per_second.m > 40 * one.tokens_per_second.m


@pytest.mark.parametrize("stack", STACKS)
def test_host_memory_is_room(stack):
    inside = serve(stack=stack)
    assert not inside.feasible
    weights = serve(stack=stack, offload="weights")
    both = serve(stack=stack, offload="weights+kv", host_memory="1 TB")
    assert weights.feasible
    assert both.feasible
    assert both.max_batch > weights.max_batch
    assert weights.memory_per_accelerator < inside.memory_per_accelerator
    assert weights.host_memory_per_accelerator.m_as("GB") == pytest.approx(141.1, rel=0.01)
    assert inside.host_memory_per_accelerator.m == 0


def test_the_batch_fills_what_the_host_has_left():
    small, large = (serve(offload="weights+kv", host_memory=size, batch_size=1) for size in ("200 GB", "260 GB"))
    each_B = 327680 * 1280
    assert small.max_batch == int((200e9 - 141.107e9) / each_B)
    assert large.max_batch - small.max_batch == pytest.approx(60e9 / each_B, abs=1)


def test_a_host_that_is_too_small_is_said_with_its_bytes():
    run = serve(offload="weights", host_memory="100 GB")
    assert not run.feasible
    assert "needs 141.1 GB of host memory; it has 100.0 GB" in run.reason
    assert run.max_batch == 0


def test_a_node_lends_its_memory_in_equal_parts():
    run = serve(hardware=DGX, tp_size=1, offload="weights+kv", batch_size=4096)
    assert not run.feasible
    assert "it has 256.0 GB" in run.reason
    assert not run.diagnostics
    assert any("host memory" in note for note in serve(offload="weights").diagnostics)


def test_each_rank_streams_its_own_part():
    one, four = (serve(hardware=DGX, tp_size=tp, offload="weights", batch_size=1) for tp in (1, 4))
    assert ms(one.itl) == pytest.approx(4 * ms(four.itl), rel=0.01)


def test_a_faster_link_is_faster():
    run, coherent = (serve(hardware=device, offload="weights", batch_size=1) for device in (H100, Hardware.get("gb200")))
    assert ms(run.itl) / ms(coherent.itl) == pytest.approx(225 / 63, rel=0.01)


def test_prefills_hide_the_stream_or_wait_for_it():
    plain = serve(LLAMA8, batch_size=64)
    hidden = serve(LLAMA8, batch_size=64, offload="weights")
    assert ms(hidden.ttft) == pytest.approx(ms(plain.ttft))
    waits = serve(LLAMA8, batch_size=1, seq_len=16, offload="weights")
    assert ms(waits.ttft) == pytest.approx(ms(waits.itl), rel=0.01)


@pytest.mark.parametrize("schedule", ["continuous", "offline"])
@pytest.mark.parametrize("stack", STACKS)
def test_prompts_that_join_are_hidden_in_the_wait(stack, schedule):
    run = serve(schedule=schedule, stack=stack, offload="weights", batch_size=4, output_len=4096)
    plain = serve(hardware=DGX, tp_size=8, schedule=schedule, stack=stack, batch_size=4, output_len=4096)
    assert ms(run.tpot) >= ms(run.itl) * (1 - 1e-9)
    assert ms(run.tpot) / ms(run.itl) <= ms(plain.tpot) / ms(plain.itl)


def test_only_touched_experts_are_fetched():
    mixtral = Models.get("mixtral_8x7b")
    one, many = (serve(mixtral, batch_size=batch, offload="weights") for batch in (1, 64))
    assert 2.5 < ms(many.itl) / ms(one.itl) < 4


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"offload": "wieghts"}, UnknownNameError, "did you mean 'weights'"),
        ({"offload": {"activations": 1.0}}, UnknownNameError, "one of weights, kv"),
        ({"offload": {"kv": 1.5}}, InputError, "offload"),
        ({"offload": 3}, InputError, "shares such as"),
        ({"host_memory": "1 TB"}, InconsistentError, "none without offload"),
        ({"offload": "kv", "host_memory": "3 W"}, InputError, "host_memory"),
        ({"prefix_hit": 1.5}, InputError, "prefix_hit"),
        ({"tpot_excludes_first_token": "yes"}, InputError, "tpot_excludes_first_token"),
        ({"tpot_excludes_first_token": False, "output_len": None}, InconsistentError, "output_len"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, error, text):
    with pytest.raises(error, match=text):
        serve(**changes)


def test_a_device_without_a_host_link_cannot_offload():
    alone = H100.model_copy(update={"host_link_bw": None})
    with pytest.raises(InconsistentError, match="lists no link to a host"):
        serve(hardware=alone, offload="weights")
