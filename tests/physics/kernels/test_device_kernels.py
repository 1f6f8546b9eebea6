"""Matrix products and attention of one device: tiles, waves, splits and traffic; scores, keys and blocks."""

from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest

from mlsysim.physics.kernels.attention import (
    AttentionDevice,
    AttentionHeads,
    DecodeKernel,
    PrefillKernel,
    SharedAttention,
    attended_keys,
    decode_attention_s,
    prefill_attention_s,
    training_attention_s,
)
from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm, gemm_s

# Without arithmetic, with traffic alone.
MOVES = GemmKernel(inf, 0.0, inf, 0.5, 3.0, SharedGemm(1.0, 4.0, 0.0, 1.0), most_splits=1.0)


def traffic_s(kernel=MOVES, cache_B=0.0):
    return gemm_s(2.0, 3.0, 5.0, 2.0, 4.0, 8.0, kernel, 1.0, 56.0, 2.0, cache_B, 7.0)


def test_traffic_of_a_product():
    """Seven products: 7 x 2 x 10 bytes of inputs, 7 x 4 x 15 of weights, 7 x 8 x 6 of results: 896, 16 s at 56 B/s.

    A launch of 3 s, twice that at half the bandwidth, and sqrt(4 x 16) of ramp.
    """
    assert traffic_s() == 3 + 32 + 8
    quantised = replace(MOVES, quantise_sweeps=2.0)
    assert traffic_s(quantised) == 43 + 2 * 140 / 56
    # A cache of all inputs and results and half of the inputs again keeps that half.
    half_s = (896 - 70) / 56
    assert traffic_s(cache_B=140 + 336 + 70) == pytest.approx(3 + 2 * half_s + sqrt(4 * half_s))
    all_s = (896 - 140) / 56
    assert traffic_s(cache_B=1e9) == pytest.approx(3 + 2 * all_s + sqrt(4 * all_s))


# Two multiprocessors; a tile of 64 x 64 takes 1 s for each element of k, and 8 more for its prologue.
TILES = GemmKernel(0.5, 8.0, inf, inf, 0.0, SharedGemm(1.0, 0.0, 0.5 / 8192, 4.0), most_splits=1.0)
RATE = 2 * 64 * 64 * 2 / 0.5


def product_s(kernel=TILES, m=64.0, n=64.0, k=32.0, units=2.0, groups=1.0):
    """Each multiprocessor has its rate, and its part of what the cache feeds."""
    bytes_of = (1.0, 2.0, 1.0)
    return gemm_s(m, n, k, *bytes_of, kernel, RATE * units / 2, units / 2, units, 0.0, groups)


@pytest.mark.parametrize(
    ("sizes", "seconds"),
    [
        ({}, 40),  # half a wave takes as long as one
        ({"n": 192.0}, 1.5 * 40),
        ({"groups": 3.0}, 1.5 * 40),
        ({"m": 65.0}, 40),  # two tiles
        ({"m": 65.0, "n": 65.0}, 80),
        ({"m": 256.0, "n": 256.0}, 8 * 40),
        ({"k": 64.0}, 72),
        ({"n": 192.0, "units": 3.0}, 40),
    ],
)
def test_tiles_and_waves(sizes, seconds):
    assert product_s(**sizes) == pytest.approx(seconds)


def test_tiles_of_few_rows():
    """A tile of 16 x 128 takes half the time of 64 x 64: two multiprocessors make 32 rows in 20 s, 33 in a wave and a half."""
    shallow = replace(TILES, shallow_tiles=True)
    assert product_s(shallow, m=16.0, n=128.0) == pytest.approx(20)
    assert product_s(shallow, m=32.0, n=128.0) == pytest.approx(20)
    assert product_s(shallow, m=33.0, n=128.0) == pytest.approx(30)
    assert product_s(m=16.0, n=128.0) == pytest.approx(40)


def test_few_rows_in_the_cores():
    """64 columns of 32 elements, unpacked and multiplied in cores of 1024 FLOP/s: 8 s a row, up to the 40 of a tile."""
    cores = replace(TILES, core_flops_per_s=1024.0)
    assert [product_s(cores, m=rows) for rows in (1.0, 4.0, 5.0, 6.0)] == pytest.approx([8, 32, 40, 40])
    assert product_s(cores, m=2.0, groups=2.0) == pytest.approx(32)


def test_large_tiles_alone():
    """A tile of 128 x 128 takes four times as long as one of 64 x 64, which a small product cannot take."""
    large = replace(TILES, large_tiles=True)
    assert product_s(large) == pytest.approx(4 * 40)
    assert product_s(large, m=129.0, n=256.0) == pytest.approx(2 * 4 * 40)
    assert product_s(large, m=np.array([64.0, 129.0]), n=256.0) == pytest.approx([4 * 40, 2 * 4 * 40])


def test_started_waves():
    whole = replace(TILES, whole_waves=True)
    assert product_s(whole, n=192.0) == pytest.approx(80)
    assert product_s(whole, n=256.0) == pytest.approx(80)
    assert product_s(whole) == pytest.approx(40)


def test_what_feeds_the_tiles():
    """The cache delivers 64 B/s: a tile of 64 x 64 needs 64 + 2 x 64 bytes for each element of k, 3 s.

    Of 256 x 256 the tile of 256 x 128 is fed in the 8 s that it computes.
    """
    fed = replace(TILES, cache_ratio=128.0)
    assert product_s(fed) == pytest.approx(3 * 32 + 8)
    assert product_s(fed, m=32.0) == pytest.approx(2.5 * 32 + 8)
    assert product_s(fed, n=32.0) == pytest.approx(2 * 32 + 8)
    assert product_s(fed, m=256.0, n=256.0) == pytest.approx(8 * 40)
    # 64 x 128 where there are few rows: four tiles of 64 + 2 x 128 bytes, two waves of 5 s, are faster than four of 3 s.
    assert product_s(fed, n=512.0) == pytest.approx(2 * (5 * 32 + 16))


def test_the_least_time_of_a_main_loop():
    assert product_s(replace(TILES, step_s=5.0)) == pytest.approx(5 * 32 + 8)
    assert product_s(replace(TILES, step_s=0.5)) == pytest.approx(40)


SPLITS = replace(TILES, most_splits=8.0, split_s=5.0)


@pytest.mark.parametrize(
    ("kernel", "sizes", "seconds"),
    [
        # Half a wave: in two parts, which take half; each tile of a part costs 0.5 s of partial sums.
        (SPLITS, {}, 32 / 2 + 8 + 5 + 2 * 0.5 * 0.5),
        # An eighth of a wave: in eight.
        (SPLITS, {"units": 8.0}, 32 / 8 + 8 + 5 + 8 * 0.125 * 0.5),
        (replace(SPLITS, most_splits=4.0), {"units": 8.0}, 32 / 4 + 8 + 5 + 4 * 0.125 * 0.5),
        (SPLITS, {"units": 8.0, "k": 24.0}, 24 / 6 + 8 + 5 + 6 * 0.125 * 0.5),  # no finer than 4 elements
        (SPLITS, {"units": 8.0, "k": 7.0}, 15),  # two parts at least: 3.5 + 8 + 5 and more
        # Three quarters: 1.5 waves of halves; of short products that is no faster.
        (SPLITS, {"units": 4.0, "n": 192.0, "k": 320.0}, 1.5 * (160 + 8) + 5 + 2 * 0.75 * 0.5),
        (SPLITS, {"units": 4.0, "n": 192.0}, 40),
        (SPLITS, {"n": 192.0}, 60),  # full waves are not split
        (replace(SPLITS, whole_waves=True), {"n": 192.0}, 3 * (16 + 8) + 5 + 2 * 1.5 * 0.5),
        (replace(SPLITS, most_splits=1.0), {}, 40),
        (replace(SPLITS, most_splits=2.0), {}, 29.5),
    ],
)
def test_splits(kernel, sizes, seconds):
    assert product_s(kernel, **sizes) == pytest.approx(seconds)


def test_what_a_power_limit_sustains():
    """A full wave at an eighth of the peak, a fourth of the tiles' rate; half a wave leaves half of the chip idle."""
    limited = replace(TILES, sustained=0.125)
    assert product_s(limited, n=128.0, groups=3.0) == pytest.approx(3 * 4 * 32)
    assert product_s(limited) == pytest.approx(2 * 32)
    assert product_s(replace(TILES, sustained=1.0), k=320.0) == pytest.approx(328)


def test_compute_and_memory_overlap():
    """40 s beside 3 x 64 x 32 + 64 x 64 bytes at 1 B/s, by a norm of two."""
    both = replace(TILES, memory_efficiency=1.0, shared=replace(TILES.shared, overlap=2.0))
    assert product_s(both) == pytest.approx(sqrt(40**2 + 10240**2))


@pytest.mark.parametrize("kernel", [TILES, SPLITS, replace(SPLITS, whole_waves=True), replace(TILES, cache_ratio=128.0)])
@pytest.mark.parametrize("times", [1, 300])
def test_products_of_many_shapes(kernel, times):
    """Together as one by one, few or many."""
    widths = (64.0, 192.0, 512.0)
    alone = [product_s(kernel, n=width) for width in widths]
    assert product_s(kernel, n=np.repeat(widths, times)) == pytest.approx(np.repeat(alone, times))


SHARED = SharedAttention(streaming=0.5, largest_group=2.0, ramp_B=768.0, window_streams=6.0, latent_share=0.5)
# A score takes 4 x 96 / (256 / 2) = 3 s of products and 1 / (2 / 8) = 4 s of exponentials: 5 s together.
PREFILL = PrefillKernel(1.0, 0.5, 0.125, 8.0, 16.0, SHARED)
DEVICE = AttentionDevice(256.0, 61440.0, 2.0, 0.0, 1.0)
HEADS = AttentionHeads(3.0, 1.0, 96.0, 2.0, 0.0, 0.0, 1.0)


def test_keys_of_a_query():
    assert (attended_keys(8.0), attended_keys(8.0, 4.0), attended_keys(8.0, 16.0)) == (4, 4 * (1 - 4 / 16), 4)


def test_attention_of_prompts():
    """2 prompts of 8 tokens, 3 heads: 48 queries see 4 keys and 8 keys' worth; the longest block 8 queries of 8 + 8, twice.

    Activations: 16 tokens x 96 x (4 x 3 + 2 x (2 + 2)) bytes at half of 61440 B/s: 1 s; a floor of 1 s.
    """
    both = 5 * sqrt(576**2 + 256**2)
    assert prefill_attention_s(PREFILL, DEVICE, 2.0, 8.0, HEADS) == pytest.approx(1 + 1 + both)
    assert prefill_attention_s(PREFILL, DEVICE, 2.0, 8.0, replace(HEADS, kv_B=1.0, kv_heads=2.0)) == pytest.approx(
        1 + 1.2 + both
    )
    # Beyond 128 queries a block has no more.
    long = 2 + 254 + 5 * sqrt((2 * 3 * 1024 * 520) ** 2 + (2 * 128 * 1032) ** 2)
    assert prefill_attention_s(PREFILL, DEVICE, 4.0, 1024.0, replace(HEADS, heads=1.5)) == pytest.approx(
        long - 256 + 1 + 4 * 1024 * 96 * (6 + 8) / 30720
    )


@pytest.mark.parametrize(("window", "kernel"), [(4.0, PREFILL), (4.0, replace(PREFILL, tile_keys=16.0, window_tile_keys=8.0))])
def test_windows_of_prompts(window, kernel):
    """Queries see 4 x (1 - 4/16) = 3 keys and 16 keys' worth, the longest block 4 + 16."""
    seconds = prefill_attention_s(kernel, DEVICE, 2.0, 8.0, replace(HEADS, window=window))
    assert seconds == pytest.approx(2 + 5 * sqrt((48 * 19) ** 2 + (2 * 8 * 20) ** 2))
    alike = prefill_attention_s(PREFILL, DEVICE, 2.0, 8.0, replace(HEADS, window=8.0))
    assert alike == prefill_attention_s(PREFILL, DEVICE, 2.0, 8.0, HEADS), "a window of all keys is none"


def test_a_systolic_array_is_as_long_as_it_is():
    array = replace(DEVICE, array=192.0)
    forward, _ = training_attention_s(PREFILL, array, 2.0, 8.0, HEADS, 1.0)
    assert forward == pytest.approx(sqrt(36 + 16) * sqrt(576**2 + 256**2))
    # A head of 96 takes two passes of 64: a third more than its own length.
    twice, _ = training_attention_s(PREFILL, replace(DEVICE, array=64.0), 2.0, 8.0, HEADS, 1.0)
    assert twice == pytest.approx(sqrt(16 + 16) * sqrt(576**2 + 256**2))


def test_attention_in_training():
    """No floor, no activations; 2.5 times the arithmetic backward, at half the rate; a kernel of twice the speed."""
    both = 5 * sqrt(576**2 + 256**2)
    assert training_attention_s(PREFILL, DEVICE, 2.0, 8.0, HEADS, 0.5) == pytest.approx((both, 5 * both))
    assert training_attention_s(PREFILL, DEVICE, 2.0, 8.0, HEADS, 0.5, 2.0) == pytest.approx((both / 2, 2.5 * both))
    assert training_attention_s(PREFILL.at_rate(2.0), DEVICE, 2.0, 8.0, HEADS, 0.5)[0] == pytest.approx(both / 2)


DECODE = DecodeKernel(1.0, 0.5, 2.0, 3.0, 48.0, 0.0, 0.0, SHARED)
READER = AttentionDevice(1.0, 96.0, 2.0, 768.0, 1.0)
GROUPED = AttentionHeads(6.0, 3.0, 4.0, 2.0, 0.0, 0.0, 1.0)


def step_s(kernel=DECODE, heads=GROUPED, device=READER):
    return decode_attention_s(kernel, device, 2.0, 8.0, heads)


def test_attention_of_a_step():
    """2 sequences of 8 tokens, 3 key heads of 4 elements: 768 bytes at half of 96 B/s: 16 s; 6 blocks of 3 s on two: 9 s.

    A floor of 1 s, and half of a ramp of 2 s.
    """
    assert step_s() == pytest.approx(1 + 1 + sqrt(16**2 + 9**2))
    assert step_s(heads=replace(GROUPED, kv_B=1.0)) == pytest.approx(1 + 2 / 3 + sqrt(8**2 + 9**2))
    # A cache as large as what is read keeps half of it: 384 bytes.
    assert step_s(replace(DECODE, l2_share=1.0)) == pytest.approx(1 + 2 / 3 + sqrt(8**2 + 9**2))
    part = 768 / (1 + 0.5**4)
    assert step_s(replace(DECODE, l2_share=0.5)) == pytest.approx(1 + 2 * part / (part + 768) + sqrt((part / 48) ** 2 + 81))
    # Seven heads are more than two a key head: 14 blocks, and 2 x 14 x 8 x 4 elements at 2 x 48 a second.
    assert step_s(heads=replace(GROUPED, heads=7.0)) == pytest.approx(2 + sqrt(16**2 + 21**2 + (896 / 96) ** 2))


def test_windows_of_a_step():
    """4 of 8 keys: 384 bytes; a kernel of 5 s more at a large batch, of which 6 streams see half."""
    near = replace(GROUPED, window=4.0)
    read_s = 1 + 2 / 3 + sqrt(8**2 + 9**2)
    assert step_s(heads=near) == pytest.approx(read_s)
    slow = replace(DECODE, window_s=5.0)
    assert step_s(slow, near) == pytest.approx(read_s + 2.5)
    assert step_s(slow) == pytest.approx(step_s())
    assert step_s(slow, replace(GROUPED, window=8.0)) == pytest.approx(step_s())
    assert step_s(replace(DECODE, window_s=50.0), near) == pytest.approx(step_s()), "all keys are read sooner"
    narrow = replace(near, kv_B=1.0)
    assert step_s(slow, narrow) == pytest.approx(step_s(heads=narrow))
    two = step_s(slow, replace(GROUPED, window=np.array([0.0, 4.0])))
    assert two == pytest.approx([step_s(), read_s + 2.5])
