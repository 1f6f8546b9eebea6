"""What stands beside a serving pass: rooflines, pipelines of micro-batches, drafts, transfers of caches, offloading."""

from math import inf

import numpy as np
import pytest

from mlsysim.physics.serving.disaggregation import decode_pool, kv_transfer_s
from mlsysim.physics.serving.inference import (
    InferenceWork,
    ServingMachine,
    decode_step_s,
    largest_batch,
    prefill_s,
    touched_experts,
    weights_read_B,
)
from mlsysim.physics.serving.micro_batches import passes_of_micro_batches
from mlsysim.physics.serving.offload import beyond_s, joining_beyond_s, kept_share, streamed_weights_s
from mlsysim.physics.serving.passes import PassTime
from mlsysim.physics.serving.speculation import expected_tokens, rounds_of

WORK = InferenceWork(
    layers=3.0,
    matmul_flops=100.0,
    attention_flops_per_key=2.0,
    decode_flops_per_key=3.0,
    head_flops=40.0,
    resident_B=0.0,
    always_read_B=50.0,
    expert_B=64.0,
    experts=4.0,
    experts_per_token=2.0,
    kv_B=6.0,
    residual_B=8.0,
    reductions=2.0,
)


def two(**changed):
    """Two ranks without limits but those named; both keep all keys and values."""
    usual = {"tp": 2.0, "kv_shards": 1.0, "rate_flops_per_s": inf, "memory_Bps": inf, "link_Bps": inf}
    return ServingMachine(**usual | changed)


def test_weights_that_a_pass_reads():
    """Two of four experts for one token, 3/4 of them for two: 50 + 64 x 3/4."""
    assert (touched_experts(4.0, 2.0, 1.0), touched_experts(4.0, 2.0, 2.0)) == (0.5, 0.75)
    assert weights_read_B(WORK, 2.0) == 98


def test_a_decode_step_by_roofline():
    """2 sequences x (100 + 3 x 5 keys + 40) FLOP on two ranks; half of 98 bytes, and 6 x 2 x 5 of keys and values.

    Six all-reduces of 8 x 2 bytes.
    """
    assert decode_step_s(WORK, 2.0, 5.0, two(rate_flops_per_s=5.0)) == 155 / 5
    assert decode_step_s(WORK, 2.0, 5.0, two(memory_Bps=4.0)) == (49 + 60) / 4
    assert decode_step_s(WORK, 2.0, 5.0, two(memory_Bps=4.0, kv_shards=2.0)) == (49 + 30) / 4
    assert decode_step_s(WORK, 2.0, 5.0, two(link_Bps=4.0)) == 3 * 2 * 16 / 4
    assert decode_step_s(WORK, 2.0, 5.0, two(rate_flops_per_s=5.0, memory_Bps=4.0, link_Bps=4.0)) == 31 + 24


def test_a_prefill_by_roofline():
    """6 tokens x (100 + 2 x 4 keys) + 2 x 40 FLOP; 50 + 64 x 63/64 bytes, keys and values of 6 tokens and of 2 x 7 cached."""
    sizes = (WORK, 2.0, 3.0, 4.0)
    assert prefill_s(*sizes, two(rate_flops_per_s=5.0)) == 728 / 2 / 5
    assert prefill_s(*sizes, two(memory_Bps=4.0)) == (56.5 + 36) / 4
    assert prefill_s(*sizes, two(memory_Bps=4.0), 7.0) == (56.5 + 120) / 4
    assert prefill_s(*sizes, two(memory_Bps=4.0, kv_shards=2.0), 7.0) == (56.5 + 60) / 4
    assert prefill_s(*sizes, two(link_Bps=4.0)) == 3 * 2 * 48 / 4
    assert prefill_s(*sizes, two(rate_flops_per_s=7.0, link_Bps=4.0)) == 52 + 72


def test_sequences_that_fit():
    """6 bytes x 5 tokens a sequence."""
    assert [largest_batch(free_B, 6.0, 5.0) for free_B in (100.0, 90.0, 89.0, -5.0)] == [3, 3, 2, 0]
    assert largest_batch(-5.0, 0.5, 1.0) == 0


@pytest.mark.parametrize(
    ("stages", "options", "passes"),
    [
        # The longest of two stages has 4 of 7 layers; four more micro-batches follow at its pace.
        (2.0, {}, 1 + 4 * 4 / 7),
        (1.0, {}, 5),
        # Two in flight: every second one waits a whole pass: 2 are fewer than 16/7.
        (2.0, {"in_flight": 2.0}, 1 + 16 / 7),
        (2.0, {"in_flight": 1.0}, 5),
        # Eight stages of one layer: the fourth waits for the first, one more follows.
        (8.0, {"in_flight": 3.0}, 1 + 1 + 1 / 7),
        (8.0, {}, 1 + 4 / 7),
        # A queue of half a micro-batch: each waits 1 - 4/7 (1 - 1 + 1/2) = 5/7 for the one before.
        (2.0, {"queued": 0.5}, 1 + 4 * 5 / 7),
        # Of 1.5, every second one 1 - 4/7 (1 - 2 + 1.5) = 5/7: no longer than at a stage's pace.
        (2.0, {"queued": 1.5}, 1 + 16 / 7),
        (8.0, {"queued": 2.5}, 1 + (1 - 1 / 7 * 0.5) + 1 / 7),
        (1.0, {"queued": 0.5}, 5),
    ],
)
def test_micro_batches_in_a_pipeline(stages, options, passes):
    """Five micro-batches through seven layers."""
    assert passes_of_micro_batches(5.0, 7.0, stages, **options) == pytest.approx(passes)


def test_many_pipelines():
    stages, queued = np.array([1.0, 2.0, 2.0]), np.array([0.5, 0.5, inf])
    found = passes_of_micro_batches(5.0, 7.0, stages[:2], queued=queued[:2])
    assert found == pytest.approx([5, 1 + 20 / 7])


def test_drafts():
    """Of two drafted tokens: 1 + 1/2 + 1/4 at a chance of a half, all and one more at one, the pass' own at none."""
    assert [expected_tokens(2.0, chance) for chance in (0.5, 1.0, 0.0)] == [1.75, 3, 1]
    assert expected_tokens(2.0, np.array([0.5, 1.0])).tolist() == [1.75, 3]


def test_a_pass_that_checks_drafts():
    """All parts of the wide pass, but attention and the host of one token a sequence: 10 + 2 + 30 + 40 + 50 + 6."""
    alone, wide = PassTime(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0), PassTime(10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 10.0)
    assert wide.checking(alone).total_s == 138
    assert rounds_of(101.0, 2.5) == 41, "the prompt yields the first, and 40 rounds the others"


def test_caches_are_sent_by_as_many_as_send_and_receive():
    """24 bytes at 4 B/s each: of two and three accelerators two."""
    assert kv_transfer_s(24.0, 2.0, 3.0, 4.0) == kv_transfer_s(24.0, 3.0, 2.0, 4.0) == 3


def test_a_pool_that_decodes():
    """Ten places, each taken for 5 steps of 2 s and a transfer of 3 s; no more than a transfer after the other."""
    assert decode_pool(2.0, 5.0, 2.0, 3.0) == (2 / 13, 2 + 3 / 4)
    assert decode_pool(10.0, 5.0, 2.0, 3.0) == (1 / 3, 2 + 3 / 4)
    assert decode_pool(1.0, 1.0, 2.0, 3.0) == (1 / 5, 2 + 3)
    assert decode_pool(2.0, 2.0, 2.0, 3.0) == (2 / 7, 2 + 3)
    assert decode_pool(2.0, 5.0, 2.0, 0.0) == (2 / 10, 2)


def test_offloading():
    """Of 8 layers half are away, but for two; 12 bytes twice at 3 B/s; a pass waits for what takes longer than it."""
    assert (kept_share(0.5, 8.0), kept_share(0.5, 1.0), kept_share(1.0, 4.0)) == (1 - 0.5 * 6 / 8, 1, 0.5)
    assert streamed_weights_s(12.0, 2.0, 3.0) == 8
    assert (beyond_s(3.0, 5.0), beyond_s(5.0, 3.0)) == (2, 0)
    # Half a prompt of 6 s a step: 3 s, of which a wait of 2 hides 2: 4 of each prompt; a wait of 10 hides all.
    assert (joining_beyond_s(6.0, 2.0, 0.5), joining_beyond_s(6.0, 10.0, 0.5)) == (6 - 2 / 0.5, 0)
