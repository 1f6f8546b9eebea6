"""A model on a torus: what each layout sends, how long that takes, and passes of plain kernels in it.

Products of 64^3 take 1 s at the peak, and 16,384 bytes 1 s.
"""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from plain import served_shape, serving_kernels

from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.serving.deployment import EngineCoefficients, EngineKernels
from mlsysim.physics.serving.passes import PassTime
from mlsysim.physics.serving.torus import TorusDeployment
from mlsysim.physics.serving.torus_partition import (
    Divided,
    Layout,
    Torus,
    divided,
    exchange_s,
    layouts,
    padded_heads,
    torus_axes,
    volume_B,
)

# 2 x 4 chips, 12 B/s over both axes.
SLICE = Torus((2, 4), 12.0, hop_s=0.25, launch_s=1.0)
OPEN = replace(SLICE, closed=False)


def test_axes():
    assert [torus_axes(*slice) for slice in ((12, 2), (8, 3), (7, 2), (6, 1))] == [(3, 4), (2, 2, 2), (1, 7), (6,)]


def test_rates_and_steps():
    """One axis of two has half of the links; an open one receives at its ends over one link of two, and has no way around."""
    assert (SLICE.chips, SLICE.rate_Bps((0,)), SLICE.rate_Bps((0, 1)), OPEN.rate_Bps((1,))) == (8, 6, 12, 3)
    assert (SLICE.steps((0,)), SLICE.steps((0, 1)), OPEN.steps((0, 1))) == (1, 1 + 2, 1 + 3)


@pytest.mark.parametrize(("heads", "chips", "padded"), [(5.0, 4, 8), (5.0, 16, 8), (8.0, 16, 8), (9.0, 4, 12), (6.0, 3, 6)])
def test_padded_heads(heads, chips, padded):
    assert padded_heads(heads, chips) == padded


def test_layouts():
    assert [(each.name, each.split, each.gathered) for each in layouts(2)] == [
        ("2D weight-stationary", (0,), ()),
        ("2D weight-stationary", (1,), ()),
        ("1D weight-stationary", (), ()),
        ("X weight-gathered", (), (0,)),
        ("XY weight-gathered", (), (0, 1)),
    ]
    assert [each.name for each in layouts(1)] == ["1D weight-stationary", "X weight-gathered"]
    assert len(layouts(3)) == 6 + 1 + 3
    assert len(layouts(4)) == 14 + 1 + 3, "weights are gathered over three axes at most"


@pytest.mark.parametrize(
    ("split", "gathered", "sent"),
    [
        # 5 tokens, E = 16, F = 48: 2 x 5 x 16 elements of 2 bytes.
        ((), (), 2 * 5 * 16 * 2),
        # Over 4 chips along E, 8 / 4 along F: 16 / 4 + 48 x 4 / 8.
        ((1,), (), 2 * 5 * (4 + 24) * 2),
        ((0,), (), 2 * 5 * (8 + 12) * 2),
        # Tokens over two chips; 2 x 16 x 48 weights of 3 bytes, a fourth of them.
        ((), (0,), 2 * 5 * 16 / 2 * 2 + 2 * 16 * 48 * 2 / 8 * 3),
        ((), (0, 1), 2 * 16 * 48 * 3),
    ],
)
def test_what_a_layout_sends(split, gathered, sent):
    assert volume_B(Layout("", split, gathered), SLICE, 5.0, 16.0, 48.0, 3.0) == sent


# One axis: stationary weights or gathered ones.
RING = Torus((4,), 12.0, hop_s=0.25, launch_s=1.0)


def ring(tokens, blocks=2.0):
    return divided(RING, tokens, 16.0, 48.0, 100.0, 60.0, blocks, 3.0)


def test_stationary_weights_on_a_ring():
    """5 tokens: 2 x 5 x 16 x 2 bytes, fewer than 2 x 16 x 48 x 3 of weights.

    A gather and a scatter of 5 x 16 x 2 bytes, of two blocks: 2 x 320 x 3/4 at 12 B/s, 40 s; each of four waits 1 + 2 x 0.25.
    """
    assert ring(5.0) == Divided(1, 1, 40, 0, 4 * 1.5, 4)
    assert ring(5.0, 1.0) == Divided(1, 1, 20, 0, 2 * 1.5, 4)


def test_gathered_weights_on_a_ring():
    """100 tokens: weights are fewer bytes than 100 x 2 x 16 x 2. All 16 x (100 + 60) of 3 bytes are gathered: 3/4 at 12 B/s."""
    assert ring(100.0) == Divided(1, 4, 16 * 160 * 3 * 3 / 4 / 12, 0, 2 * 1.5, 4)
    both = ring(np.array([5.0, 100.0]))
    assert (both.among.tolist(), both.covered_s.tolist()) == ([1, 4], [40, 480])
    # At 72 tokens both send 4608 bytes: of equals the first.
    assert (ring(72.0).among, ring(73.0).among) == (1, 4)


def test_two_dimensions():
    """On 2 x 4 chips, E = 64 and F = 64: along E over two chips 64 / 2 + 64 x 2 / 8 = 48 elements, over four 16 + 32 = 48.

    Of equals the first: activations of 5 x 64 / 2 x 2 bytes in two blocks over the axis of four, 2 x 640 x 3/4 at 6 B/s; and
    5 x (100 + 60) / 4 x 2 / 2 of the other width over the axis of two, 2 x 200 x 1/2 at 6 B/s: only the longer is covered.
    """
    found = divided(SLICE, 5.0, 64.0, 64.0, 100.0, 60.0, 2.0, 3.0)
    assert (found.columns, found.among, found.pieces) == (2, 1, 4)
    assert found.covered_s == 2 * 5 * 32 * 2 * 2 * 3 / 4 / 6
    assert found.bare_s == pytest.approx(2 * 5 * 160 / 4 * 1 / 2 / 6)
    assert found.waits_s == 4 * (1 + 2 * 0.25) + 2 * (1 + 0.25)
    wide = divided(SLICE, 5.0, 512.0, 64.0, 100.0, 60.0, 2.0, 3.0)  # 512 / 4 + 64 x 4 / 8
    assert (wide.columns, wide.pieces) == (4, 4)
    assert wide.covered_s == 2 * 5 * 128 * 2 * 2 * 1 / 2 / 6
    assert wide.bare_s == pytest.approx(2 * 5 * 160 / 2 * 3 / 4 / 6)
    # With weights of a tenth of a byte, gathered by all: 2 x 4096 x 0.1 bytes, fewer than 2 x 12 x 48 x 2.
    some = divided(SLICE, 12.0, 64.0, 64.0, 100.0, 60.0, 2.0, 0.1)
    assert (some.columns, some.among) == (1, 8)
    assert some.covered_s == pytest.approx(2 * 64 * 160 * 0.1 / 2 * 7 / 8 / 12)
    assert some.waits_s == 2 * (1 + 3 * 0.25)


def test_weights_gathered_over_a_part():
    """16 x 4 chips: over 16, 2 T E / 16 elements, and a fourth of the weights; the tokens of four chips' rings, too."""
    large = Torus((16, 4), 12.0, hop_s=0.25, launch_s=1.0)
    found = divided(large, 48.0, 64.0, 64.0, 100.0, 60.0, 2.0, 1.0)
    assert (found.columns, found.among, found.pieces) == (1, 16, 16)
    weights_s, tokens_s = 2 * 64 * 160 * 16 / 64 / 2 * 15 / 16 / 6, 2 * 3 * 64 * 2 * 2 * 3 / 4 / 6
    assert found.covered_s == pytest.approx(max(weights_s, tokens_s))
    assert found.bare_s == pytest.approx(min(weights_s, tokens_s))
    assert found.waits_s == 4 * (1 + 2 * 0.25) + 2 * (1 + 8 * 0.25)


def test_what_products_cover():
    """Of 12 s in four pieces the first is bare, 3 s; the rest outlasts 5 s of products by 4."""
    sent = Divided(1.0, 1.0, 12.0, 0.5, 0.0, 4.0)
    assert (sent.exposed_s(5.0, 4.0), sent.exposed_s(20.0, 4.0), sent.exposed_s(5.0, 1.0)) == (0.5 + 3 + 4, 3.5, 12.5)


def test_an_exchange_of_heads_for_sequences():
    """6 tokens of 16 elements, an eighth of 2 bytes each: 24 bytes travel (2 + 4) / 4 links, at 12 B/s: 3 s; 3 steps."""
    assert exchange_s(SLICE, 6.0, 16.0) == 1 + 3 * 0.25 + 3
    assert exchange_s(OPEN, 6.0, 16.0) == 1 + 4 * 0.25 + 4, "a third of an open line, and one way"
    assert exchange_s(Torus((1, 4), 12.0, 0.25, 1.0), 6.0, 16.0) == 1 + 2 * 0.25 + 48 * 1 / 12
    assert exchange_s(Torus((1, 1), 12.0, 0.25, 1.0), 6.0, 16.0) == 0


# Passes: three layers, four query heads and two of keys; hidden 128, blocks of 256, on a ring of two chips.
SHAPE = served_shape()
PAIR = Torus((2,), 8192.0, hop_s=0.0, launch_s=0.0)
ENGINE = EngineCoefficients(layer_s=0.0, scaling_s=0.0, hop_s=0.0, compute_share=0.5)
HOST = replace(ENGINE, layer_s=1.0, scaling_s=0.5, step_s=7.0, sequence_s=0.125, request_s=11.0, hop_s=2.0, interleave=0.5)


def deployed(torus=PAIR, pp=1.0, by_sequence=False, engine=ENGINE, shape=SHAPE, **kernels):
    return TorusDeployment(
        shape, torus, pp, by_sequence, serving_kernels(**kernels), engine, EngineKernels(), step_tokens=128.0
    )


# 64 tokens on two chips, weights stationary: attention's products 1 x 2 x 4 and 1 x 2 x 2, block 1 x 2 x 4 and 1 x 2 x 2: 24
# units at half the peak. Each product of a block reads and writes the residual stream of 64 x 128 x 2 bytes: twice 2 x 16384 x
# 1/2 at 8192 B/s, 4 s, bare but for its second piece.
PRODUCTS_S = 48.0
SENT_S = 4.0


def test_a_decode_step_on_a_torus():
    """Passes between products as of one chip with half of the tokens: 32 x (16 x 128 + 6 x 256 + 5 x 512) bytes: 12 s.

    Attention of 64 sequences of 4 tokens: 4 s with one key head a chip. Head 1 x 2 x 2 units at the peak.
    """
    step = deployed().decode(64.0, 4.0)
    assert step.weights_s == 3 * PRODUCTS_S
    assert step.attention_s == pytest.approx(3 * 4)
    assert step.elementwise_s == 3 * 12
    assert step.reductions_s == 3 * SENT_S / 2, "the second piece arrives beneath the products"
    assert (step.head_s, step.host_s, step.hops_s) == (4, 0, 0)
    assert deployed(engine=replace(ENGINE, attention_share=0.5)).decode(64.0, 4.0).attention_s == pytest.approx(24)
    assert deployed(shape=replace(SHAPE, vocab=0.0)).decode(64.0, 4.0).head_s == 0
    waits = deployed(replace(PAIR, launch_s=0.25)).decode(64.0, 4.0)
    assert waits.reductions_s == 3 * (SENT_S / 2 + 4 * 0.25)


def test_the_host_and_stages_on_a_torus():
    """1 s a layer, 7 a step and 64 / 8; two stages hand over 64 x 128 x 2 bytes, half by each chip, at 1 KiB/s: 8 + 2 s."""
    assert deployed(engine=HOST).decode(64.0, 4.0).host_s == 3 + 7 + 8
    assert deployed(engine=HOST, scales=True).decode(64.0, 4.0).host_s == 4.5 + 7 + 8
    two = deployed(pp=2.0, engine=HOST).decode(128.0, 4.0)
    assert (two.weights_s, two.hops_s, two.head_s) == (3 * PRODUCTS_S, 10, 4)
    assert two.reductions_s == 3 * SENT_S / 2 + 10
    assert two.host_s == 3 + 7 + 16
    lone = deployed(pp=2.0).decode(1.0, 4.0)
    assert lone.attention_s == pytest.approx(3 * 4 / 64)


def test_a_prefill_on_a_torus():
    """Two prompts of 64: twice the products; attention of two heads: 4 s of scores and 8 of their activations a layer."""
    first = deployed(engine=HOST).prefill(2.0, 64.0)
    expected = PassTime(6 * PRODUCTS_S, pytest.approx(36), 72, 3 * SENT_S, 4, 3 + 7.25 + 11, 0)
    assert first == expected
    assert deployed(engine=HOST).prefill_s(2.0, 64.0) == pytest.approx(first.total_s)
    two = deployed(pp=2.0, engine=HOST).prefill(2.0, 64.0)  # two parts pass two stages: 1.5 passes of a part
    assert (two.weights_s, two.elementwise_s) == (3 * PRODUCTS_S * 1.5, 36 * 1.5)
    assert two.attention_s == pytest.approx(18 * 1.5)
    assert two.reductions_s == (3 * SENT_S / 2 + 10) * 1.5
    assert two.host_s == 3 + 7.25 + 11
    one = deployed(pp=2.0).prefill(1.0, 64.0)
    assert one.weights_s == 3 * PRODUCTS_S


@pytest.mark.parametrize(
    ("parallel", "products", "sent"),
    [
        # Parallel blocks read the stream once: a gather and a scatter of it less.
        (1.0, PRODUCTS_S, SENT_S / 2),
        (2.0, PRODUCTS_S, SENT_S),
    ],
)
def test_parallel_blocks(parallel, products, sent):
    step = deployed(shape=replace(SHAPE, reductions=parallel)).decode(64.0, 4.0)
    assert (step.weights_s, step.reductions_s) == (3 * products, 3 * sent / 2)
    both = deployed(shape=replace(SHAPE, reductions=np.array([1.0, 2.0]))).decode(64.0, 4.0)
    assert both.reductions_s.tolist() == [3 * SENT_S / 4, 3 * SENT_S / 2]


def test_gathered_weights_on_a_torus():
    """1024 tokens: weights of 128 x (1024 + 512) x 2 bytes are gathered by both: 2 x 1/2 x 192 KiB at 8 KiB/s: 24 s.

    Each chip has half of the tokens and whole products: 8 x (2 x 8 + 2 x 4 + 2 x 8 + 2 x 4) units at half the peak; a gather's
    second piece hides.
    """
    step = deployed(by_sequence=False).prefill(16.0, 64.0)
    assert step.weights_s == 3 * 8 * 48 * 2
    assert step.reductions_s == 3 * 12


def test_pieces_that_save_nothing():
    """Products that take their bytes alone: each piece reads or writes what it shares with the others once more."""
    reads = GemmKernel(inf, 0.0, inf, 1.0, 0.0, SharedGemm(1.0, 0.0, 0.0, 1.0), most_splits=1.0)
    found = deployed(gemm=reads).decode(64.0, 4.0)
    # 64 x 64 elements of 2 bytes are 1/4 s: QKV 2 + 8 + 4, output 2 + 4 + 2, up 14, down 8: 11 s, and 4 s bare.
    whole = (14 + 8 + 14 + 8) / 4
    # Of two pieces each writes QKV (4) and the block's width (4) anew, and reads the inputs of both other products (2, 2).
    cut = whole + (4 + 4 + 2 + 2) / 4
    assert whole + SENT_S < cut + SENT_S / 2
    assert (found.weights_s, found.reductions_s) == (pytest.approx(3 * whole), 3 * SENT_S)


def test_attention_by_sequences():
    """One key head for four of queries: by heads each chip reads all 64 sequences' keys; by sequences half of them.

    Two exchanges of 64 tokens of (384 + 256) / 2 elements, half of 2 bytes each, over 2 x 1/4 links at 8192 B/s: 1.25 s each.
    """
    multi = replace(SHAPE, kv_heads=1.0)
    heads = deployed(shape=multi).decode(64.0, 16.0)
    assert heads.attention_s == pytest.approx(3 * 16)
    sequences = deployed(shape=multi, by_sequence=True).decode(64.0, 16.0)
    assert sequences.attention_s == pytest.approx(3 * 8)
    assert sequences.reductions_s == pytest.approx(3 * (SENT_S / 2 + 2 * 1.25))
    short = deployed(shape=multi, by_sequence=True).decode(64.0, 4.0)  # 4 s against 2 + 2.5
    assert short.attention_s == pytest.approx(3 * 4)
    assert short.reductions_s == 3 * SENT_S / 2
    lone = deployed(shape=multi, by_sequence=True).decode(1.0, 1024.0)
    assert lone.attention_s == pytest.approx(3 * 16), "a chip has whole sequences"


def test_prompts_that_join_a_step_on_a_torus():
    """64 tokens of a prompt of 64: as much again of products, passes and transfers, and its attention: half of it counts."""
    both = deployed(engine=HOST)
    step = both.decode(64.0, 4.0)
    whole = 3 * (PRODUCTS_S + 12 + SENT_S / 2 + 12 / 2)
    assert both.joining_s(step, 64.0, 64.0, 0.0, 1.0) == pytest.approx(0.5 * whole)
    # Of a prompt of 128 a step of 128 takes 64, beside 64 sequences; its attention is 16 s of scores and 16 of activations for
    # two prompts.
    part = 3 * (PRODUCTS_S + 12 + SENT_S / 2 + 32 / 4)
    assert both.joining_s(step, 64.0, 128.0, 0.0, 1.0) == pytest.approx(0.5 * part * 2)
