"""Models that one accelerator holds whole: passes of an encoder and of convolutions, and a data-parallel step of them.

A product of 64^3 takes 1 s; 16,384 bytes take 1 s.
"""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from plain import CHIP, PEAK, PREFILL, PRODUCTS, UNIT

from mlsysim.physics.kernels.convolution import (
    Convolutions,
    convolution_macs,
    convolution_parameters,
    convolution_passes,
    convolution_scores,
)
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.kernels.passes import Passes, ReplicaDevice, SharedDataParallel
from mlsysim.physics.layer.encoder import EncoderShape, encoder_passes
from mlsysim.physics.training.data_parallel import (
    ReplicaCoefficients,
    ReplicaPlan,
    all_reduce_s,
    replica_step,
)

DEVICE = ReplicaDevice(PRODUCTS, PEAK, 2.0, 2.0, 2.0, 32768.0, 1.0, 0.0, 0.5, SharedDataParallel(2.0, 3.0, 0.5))
# Products that take the time of their bytes alone.
READS = GemmKernel(inf, 0.0, inf, 1.0, 0.0, SharedGemm(1.0, 0.0, 0.0, 1.0), most_splits=1.0)
READER = replace(DEVICE, gemm=READS)
ELEMENT_S = UNIT**2 / 32768  # of a byte of 64 x 64 elements

# 128 tokens of two sequences; of 64 of them the head takes a vocabulary of 256.
BERT = EncoderShape(3.0, 2 * UNIT, 2.0, 2.0, UNIT, 4 * UNIT, 2.0, 4 * UNIT, seq_len=UNIT, head_share=0.5, fused=1.0)
TOKENS = 2 * UNIT


def encoder(shape=BERT, device=DEVICE, **options):
    return encoder_passes(shape, TOKENS, device, PREFILL, CHIP, 0.5, **options)


def test_an_encoder():
    """Products 2 x 6 x 2 + 2 x 2 x 2 + 2 x 4 x 2 + 2 x 2 x 4 = 64 units, twice that backward.

    Attention: 2 x 2 x 64 x 64 scores of 4 x 64 FLOP, 8 units; 2.5 / 0.5 times that backward. Passes of 2 bytes: 11 x 128 + 2 x
    256 + 7.5 x 128 values of 128 tokens, 45 s; 21, 4 and 15: 88 s. Head: 1 x 4 x 2 units, twice that backward, and 20 values of
    64 x 256 logits: 40 s.
    """
    found = encoder()
    assert found.forward_s == pytest.approx(3 * (64 + 8 + 45) + 8 + 40)
    assert found.backward_s == pytest.approx(3 * (128 + 40 + 88) + 16)
    assert found.kernels == 3 * (16 + 30)


def test_an_encoder_that_stores_its_scores():
    """16384 scores: 8 units at half of the peak, 16 s; 6.5 values of 2 bytes: 13 s; twice, and 9.5, backward."""
    stored, fused = encoder(replace(BERT, fused=0.0)), encoder()
    assert stored.forward_s == pytest.approx(fused.forward_s + 3 * (16 + 13 - 8))
    assert stored.backward_s == pytest.approx(fused.backward_s + 3 * (32 + 19 - 40))
    more = encoder(replace(BERT, fused=0.0), moved=2.0)
    assert more.forward_s == pytest.approx(stored.forward_s + 3 * (45 + 13))
    assert more.backward_s == pytest.approx(stored.backward_s + 3 * (88 + 19))


def test_an_encoder_without_a_head_and_at_other_formats():
    bare = encoder(replace(BERT, vocab=0.0))
    assert bare == (pytest.approx(3 * 117), pytest.approx(3 * 256), 138)
    wide = encoder(replace(BERT, vocab=0.0), replace(DEVICE, element_B=4.0))
    assert (wide.forward_s, wide.backward_s) == (pytest.approx(3 * (72 + 90)), pytest.approx(3 * (168 + 176)))
    assert encoder(replace(BERT, head_share=0.0)).forward_s == pytest.approx(3 * 117 + 8 + 40 / 64), "one token at least"
    stored = encoder(replace(BERT, vocab=0.0, fused=0.0), replace(DEVICE, element_B=4.0))
    assert stored.forward_s == pytest.approx(3 * (64 + 16 + 26 + 90))


def test_operands_of_an_encoder():
    """Without arithmetic, m k + n k + m n of 64 x 64 elements: QKV 4 + 12 + 12, 12, 4 + 8 + 8, 8 + 8 + 4: 80, of 2 bytes."""
    bare = replace(BERT, vocab=0.0)
    between = encoder(bare).forward_s - 3 * 64
    assert encoder(bare, READER).forward_s == pytest.approx(between + 3 * 80 * 2 * ELEMENT_S)
    # 8-bit operands (4 + 12, 4 + 4, 4 + 8, 8 + 8), 16-bit results.
    narrow = encoder(bare, replace(READER, operand_B=1.0))
    assert narrow.forward_s == pytest.approx(between + 3 * (52 + 2 * 28) * ELEMENT_S)
    # A cache holds the inputs, 4 + 4 + 4 + 8.
    cached = encoder(bare, replace(READER, cache_B=1e9))
    assert cached.forward_s == pytest.approx(between + 3 * 60 * 2 * ELEMENT_S)


def convolutions(**changed):
    """One layer: 8 x 8 pixels, 64 channels to 128, 3 x 3, with a normalisation."""
    usual = {"inputs": 64, "outputs": 128, "window": 3, "stride": 1, "size": 8, "groups": 1, "count": 1}
    usual |= {"normalised": 1, "shortcut": 0, "first": 0, "scored": 0}
    return Convolutions(*(np.array([float(value)]) for value in (usual | changed).values()))


def test_sizes_of_convolutions():
    assert convolution_macs(convolutions(count=5)) == 5 * 64 * 128 * 64 * 9
    assert convolution_macs(convolutions(size=9, stride=2, groups=2)) == 25 * 128 * 32 * 9
    assert convolution_parameters(convolutions(count=5)) == 5 * 128 * (64 * 9 + 2)
    assert convolution_parameters(convolutions(normalised=0)) == 128 * (64 * 9 + 1)


def convolved(device=DEVICE, moved=1.0, transposed=0.0, **changed):
    return convolution_passes(convolutions(**changed), 2.0, device, moved, transposed)


@pytest.mark.parametrize(
    ("changed", "forward", "backward", "kernels"),
    [
        # 128 pixels, 128 outputs, 9 x 64: 2 x 2 x 9 units; the gradients (2, 1, 18) and (2, 9, 2); values of 2 bytes of 128 x
        # 128 are 2 s: three forward, five backward.
        ({}, 36 + 6, 72 + 10, 2 + 1 + 3),
        ({"count": 5}, 5 * 42, 5 * 82, 5 * 6),
        ({"normalised": 0}, 36, 72, 3),
        ({"shortcut": 1}, 36 + 8, 72 + 14, 6),
        ({"first": 1}, 36 + 6, 36 + 10, 5),
        # A stride of two leaves a fourth of the pixels: 32 in a tile of 64, 1 x 2 x 9; of the input's 128 each sees 128 x 2.25:
        # 2 x 1 x 4.5; weights 2 x 9 x 0.5; values a fourth.
        ({"stride": 2}, 18 + 1.5, 9 + 9 + 2.5, 6),
        # Two groups of 32 inputs and 64 outputs: 2 x 1 x 4.5; (2, 32 in a tile of 64, 9) and (1, 4.5 in 5 tiles, 2), twice.
        ({"groups": 2}, 18 + 6, 2 * (18 + 10) + 10, 6),
        # Three channels are padded to four: 36 of 64 in depth.
        ({"inputs": 3}, 2 * 2 * 36 / 64 + 6, 2 * 1 * 18 + 2 * 1 * 2 + 10, 6),
    ],
)
def test_convolutions(changed, forward, backward, kernels):
    found = convolved(**changed)
    assert (found.forward_s, found.backward_s, found.kernels) == (pytest.approx(forward), pytest.approx(backward), kernels)


def test_what_is_moved_beside_convolutions():
    """Twice the passes; or input (16 KiB) and output (32 KiB) read and written, forward, and twice that backward."""
    assert convolved(moved=2.0)[:2] == (36 + 12, 72 + 20)
    assert convolved(transposed=1.0)[:2] == (42 + 6, 82 + 12)
    assert convolved(transposed=1.0, first=1)[1] == 46 + 6
    launched = convolved(replace(DEVICE, gemm=replace(PRODUCTS, launch_s=1.0)))
    assert launched[:2] == (42 + 1 + 1, 82 + 2 + 2)
    grouped = (18 + 6 + 6, 2 * (18 + 10) + 10 + 12)
    assert convolved(transposed=1.0, groups=2)[:2] == grouped, "all channels are rewritten, in however many groups"
    many = convolution_passes(convolutions(), np.array([2.0, 4.0]), DEVICE)
    assert many.forward_s.tolist() == [42, 84]
    assert many.backward_s.tolist() == [82, 164]


def test_operands_of_convolutions():
    """No unrolled input: 16 KiB of it, 2 x 128 x 576 bytes of weights, 32 KiB of results at 32 KiB/s, forward and backward."""
    once = (16384 + 2 * 128 * 576 + 32768) / 32768
    found = convolved(READER)
    assert found.forward_s == pytest.approx(once + 6)
    assert found.backward_s == pytest.approx((16384 + 2 * 64 * 1152 + 32768) / 32768 + once + 10)
    halves = 16384 + 32768 + 128 * 288 * 2  # two products of half of the input, of the output and of a fourth of the weights
    assert convolved(READER, groups=2).forward_s == pytest.approx(halves / 32768 + 6)
    cached = convolved(replace(READER, cache_B=1e9))
    assert cached.forward_s == pytest.approx(once - 16384 / 32768 + 6)


PLAN = ReplicaPlan(16.0, 4.0, 5.0, 32768.0, 48.0, 16384.0, intra_Bps=6.0, inter_Bps=2.0, slowest_clock=1.0)


def test_an_all_reduce_on_two_levels():
    """2 x 3/4 x 48 bytes at 6 B/s inside a node, 2 x 3/4 x 48/4 at 2 B/s between four, and 2 log2 4 hops; rates by share."""
    assert all_reduce_s(PLAN, 1.0, 0.25) == 12 + 9 + 4 * 0.25
    assert all_reduce_s(PLAN, 0.5, 0.25) == 24 + 18 + 1
    assert all_reduce_s(replace(PLAN, replicas=4.0), 1.0, 0.25) == 12
    assert all_reduce_s(replace(PLAN, replicas=8.0), 1.0, 0.25) == 12 + 2 * 1 / 2 * 12 / 2 + 2 * 0.25


def test_a_data_parallel_step():
    """Device 1 + 3 = 4 s, host 6 kernels of 0.5 s: sqrt(16 + 9) = 5 s. 32768 bytes to accumulate take 2 s.

    The all-reduce at half the rate: 24 + 18 + 4 x 3 hops = 54 s, of which half of the backward pass' 3 s hides.
    """
    passes, stack = Passes(1.0, 3.0, 6.0), ReplicaCoefficients(host_kernel_s=0.5, network_share=0.5, dp_hidden=0.5, step_s=7.0)
    step = replica_step(passes, PLAN, DEVICE, stack)
    assert step.forward_s == 5 * 1
    assert step.backward_s == 5 * (3 + 2)
    assert step.host_s == 5 * (5 - 4)
    assert step.dp_exposed_s == 54 - 1.5
    assert (step.optimizer_s, step.fixed_s) == (1, 7)
    assert step.total_s == 5 + 25 + 5 + 52.5 + 1 + 7
    slower = replica_step(Passes(2.0, 6.0, 12.0), PLAN, DEVICE, stack)
    assert (slower.forward_s, slower.host_s) == (5 * 2, 5 * (10 - 8))
    longer = replica_step(passes._replace(backward_s=400.0), PLAN, DEVICE, stack)
    assert longer.dp_exposed_s == 27, "half of all of it"
    assert replica_step(passes, replace(PLAN, replicas=1.0), DEVICE, stack).dp_exposed_s == 0
    two = replace(PLAN, replicas=2.0, per_node=2.0)
    assert replica_step(passes, two, DEVICE, stack).dp_exposed_s == 2 * 1 / 2 * 48 / 3 - 1.5


def test_scores_of_boxes_are_those_of_layers_that_give_them():
    assert convolution_scores(convolutions(scored=1, count=2)) == 2 * 8 * 8 * 128
    assert convolution_scores(convolutions()) == 0
