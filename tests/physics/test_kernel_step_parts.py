"""Parts of a step of plain kernels: a product of 64^3 takes 1 s at the peak, here 2 s at half the clock."""

from dataclasses import replace

import numpy as np
import pytest
from plain import plan
from plain_trained import DEVICE, MODEL, NET, ROUTED, SHAPE, SPLIT

from mlsysim.physics.layer.adapters import Adapters
from mlsysim.physics.layer.work import FULL, NONE, SELECTIVE
from mlsysim.physics.training.kernel_step import LayerTimes, kernel_parts, once_per_layer
from mlsysim.physics.training.step_inputs import StackCoefficients

TIMES = LayerTimes(100.0, 200.0, 48.0, 11.0, 5.0, 7.0, 11.0, 27.0, 4.0)


def parts(split=SPLIT, shape=SHAPE, model=MODEL, net=NET, **stack):
    return kernel_parts(model, shape, TIMES, split, net, DEVICE, StackCoefficients(**stack))


@pytest.mark.parametrize(
    ("mode", "recomputed", "reductions", "sent"),
    [(NONE, 0, 4, 7 + 11), (SELECTIVE, 11, 4, 7 + 11), (FULL, 100 - 5, 6, 2 * 7 + 11)],
)
def test_parts_of_a_step(mode, recomputed, reductions, sent):
    """Two reductions forward, two backward, two repeated, 4 s each; the exchange of tokens forward, backward, repeated."""
    found = parts(replace(SPLIT, recompute=float(mode)))
    assert (found.layer_s, found.head_s) == (300, 27 + 4)
    assert found.recompute_s == recomputed
    assert found.tp_s == 4 * reductions
    assert found.ep_s == sent
    assert (found.cp_window_s, found.cp_s, found.send_s, found.head_spread) == (48, 0, 0, 0)
    # 48 bytes a parameter of (4 x 16384) / 2 at 16384 B/s.
    assert found.optimizer_s == 48 * 2
    assert (found.dp_s, found.replica_s) == (0, 0)


def test_what_a_stack_hides_of_reductions():
    full = replace(SPLIT, recompute=float(FULL))
    assert parts(tp_hidden_forward=0.5, tp_hidden_backward=0.25).tp_s == 4 * 2 * (0.5 + 0.75)
    assert parts(full, tp_hidden_forward=0.5, tp_hidden_backward=0.25).tp_s == 4 * 2 * (1 + 0.75)
    selective = replace(SPLIT, recompute=float(SELECTIVE))
    assert parts(selective, repeated_ffn=0.5).tp_s == 4 * (4 + 0.5 / 2), "half of the blocks gather their tokens again"
    assert parts(full, narrow_gathers=1.0).tp_s == 4 * 2 * (2 * 0.75 + 1), "of 8 bits the gather, half of a reduction"
    assert parts(tp_wait_s=1.0).tp_s == (4 + 1) * 4
    assert parts(replace(SPLIT, tp=1.0), tp_wait_s=1.0).tp_s == 16, "one rank waits for none"
    # In parts beside the products: half of the time, whatever the stack hides less, and no copies of 128 x 128 elements.
    beside = replace(SHAPE, async_tp=1.0)
    assert parts(shape=beside).tp_s == 4 * 4 * 0.5
    assert parts(full, beside, tp_hidden_forward=0.75).tp_s == 4 * 2 * (2 * 0.25 + 0.5), "where the stack hides less"
    assert parts(tp_copied_B=8.0).tp_s == (4 + 8) * 4
    assert parts(shape=beside, tp_copied_B=8.0).tp_s == 4 * 4 * 0.5
    # Two adapters gather as much as one reduction, each pass: what is split they read whole, what is summed they write whole.
    adapted = replace(SHAPE, adapters=Adapters(rank=1.0, qkv=1.0, qkv_readers=1.0, output=1.0))
    gathers = {"tp_hidden_forward": 1.0, "tp_hidden_backward": 1.0, "adapter_gathers": 1.0}
    assert parts(replace(SPLIT, sequence_parallel=1.0), adapted, **gathers).tp_s == 4 * 2
    assert parts(replace(full, sequence_parallel=1.0), adapted, **gathers).tp_s == 4 * 3
    assert parts(replace(SPLIT, sequence_parallel=0.0), adapted, **gathers).tp_s == 4 * 2 / 2
    assert parts(shape=adapted, **gathers | {"adapter_gathers": 0.0}).tp_s == 0


def test_experts_that_are_repeated_are_sent_their_tokens_again():
    """Of 7 s forward a quarter is sent twice, and 11 s backward."""
    assert parts(replace(SPLIT, recompute=float(SELECTIVE)), repeated_ffn=0.25).ep_s == 1.25 * 7 + 11


def test_experts_take_their_tokens_where_they_are():
    """Half of the layers have no reduction after their feed-forward block: 1.5, unless a shared expert is in it."""
    assert parts(shape=replace(SHAPE, routed=ROUTED)).tp_s == 4 * 3
    assert parts(shape=replace(SHAPE, routed=replace(ROUTED, shared_ffn=0.5))).tp_s == 4 * 4


def test_sends():
    """16 ranks in two stages: 2 x 3 x 128 bytes at 24 B/s; ranks that share a send divide it, unless each has its part."""
    deep = replace(SPLIT, pp=2.0, dp=4.0)
    assert parts(deep).send_s == 32
    assert parts(deep, scattered=1.0).send_s == 16
    assert parts(replace(deep, sequence_parallel=1.0), scattered=1.0).send_s == 16
    assert parts(replace(deep, sequence_parallel=1.0)).send_s == 16


def test_gradients_weights_and_updates():
    """4 x 16384 / 2 = 32768 parameters a rank, 2 + 2 bytes between four: 3/4 x 131072 / 96 s."""
    four = replace(SPLIT, dp=4.0, zero_stage=1.0)
    assert parts(four).dp_s == 1024
    assert parts(four).optimizer_s == 48 * 2 / 4
    assert parts(four, host_step_s=9.0).optimizer_s == 24 + 9
    three = replace(four, zero_stage=3.0, micro_batches=5.0)
    traffic_s = 3 / 4 * (2 * 5 + 2 * 2 * 5) * 32768 / 96
    assert parts(three).dp_s == pytest.approx(traffic_s)
    assert parts(three, gathered_B=6.0).dp_s == pytest.approx(traffic_s + 6 * 2 * 5 * 2), "6 bytes, 32768 weights, ten times"
    assert parts(three, reduced_B=6.0).dp_s == pytest.approx(traffic_s + 6 * 2 * 5), "and as many gradients, five times"
    once_s = 3 / 4 * (2 + 2 * 2 * 5) * 32768 / 96
    assert parts(three, reduced_once=1.0, reduced_B=6.0).dp_s == pytest.approx(once_s + 6 * 2)
    two = replace(three, zero_stage=2.0)
    assert parts(two, gathered_B=6.0).dp_s == parts(two).dp_s
    assert parts(two, reduced_B=6.0).dp_s == pytest.approx(parts(two).dp_s + 6 * 2 * 5)
    assert parts(four, reduced_B=6.0).dp_s == 1024


def test_replicas_of_shards():
    """Four ranks in two groups: 2 x 1/2 x 2 bytes x 2 x 32768 / 4 at 24 B/s; 2 x (2 - 1) steps of each of 4 layers."""
    hybrid = replace(SPLIT, dp=4.0, zero_stage=1.0, shard_copies=2.0)
    assert parts(hybrid).replica_s == pytest.approx(32768 / 24)
    assert parts(hybrid, network_step_s=3.0).replica_s == pytest.approx(32768 / 24 + 3 * 2 * 4)
    under = parts(hybrid, replicas_hidden=1.0)
    assert (under.replica_s, under.dp_s) == (0, pytest.approx(parts(hybrid).dp_s + 32768 / 24)), (
        "layer by layer, as its own shards"
    )
    deep = replace(hybrid, pp=2.0)
    assert parts(deep, network_step_s=3.0).replica_s == pytest.approx(16384 / 24 + 3 * 2 * 2)


def test_updated_weights_that_travel_alone():
    """Four ranks reduce 2 bytes and gather 2 bytes of 2 x 32768 / 2 weights: 3/4 x 65536 / 96 each; four chains of 3 steps."""
    sharded = replace(SPLIT, dp=4.0, zero_stage=1.0)
    both, each = parts(sharded), 0.75 * 65536 / 96
    assert (both.dp_s, both.replica_s) == (pytest.approx(2 * each), 0)
    alone = parts(sharded, weights_alone=1.0, chain_step_s=7.0)
    assert (alone.dp_s, alone.replica_s) == (pytest.approx(each), pytest.approx(each + 7 * 4 * 3))
    for stage in (0.0, 3.0):
        other = replace(sharded, zero_stage=stage)
        assert parts(other, weights_alone=1.0, chain_step_s=7.0) == parts(other), "nothing is left to send"


def test_a_ring_and_a_written_layout():
    found = parts(replace(SPLIT, cp=2.0), model=replace(MODEL, key_value_B=6.0))
    assert found.cp_s == 3 * 6 * 128 / 2 / 96
    uneven = replace(SHAPE, uneven=1.0)
    assert parts(shape=uneven, written_layout=0.5).head_spread == 0.5
    assert parts(written_layout=0.5).head_spread == 0


def test_layers_that_plans_split_alike_are_computed_once():
    seen = []

    def times(split):
        seen.append(split)
        return LayerTimes(*(split.tp * split.micro_batch_tokens for _ in range(9)))

    many = plan(tp=np.array([1.0, 2.0, 1.0]), micro_batch_tokens=8.0, virtual_stages=np.array([3.0, 1.0, 2.0]), dp=5.0)
    found = once_per_layer(times, many)
    assert found.forward_s.tolist() == found.reduction_s.tolist() == [8, 16, 8]
    (split,) = seen
    assert sorted(zip(split.tp, split.virtual_stages, strict=True)) == [(1, 2), (2, 1)], "several chunks are several"
    assert np.isnan(split.dp), "a layer cannot depend on what it is not told"
