"""Passes of a served model with plain kernels: a product of 64^3 takes 1 s at the peak, 16,384 bytes take 1 s."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from plain import PEAK, UNIT, serving_kernels
from plain_served import ELEMENT_S, ENGINE, READS, SHAPE, STORES, TWO, WIDE, served, with_experts

from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.layer.products import ROUTED
from mlsysim.physics.layer.shape import LatentShape
from mlsysim.physics.serving.activations import elementwise_layer_s, stored_score_s
from mlsysim.physics.serving.deployment import EngineCoefficients
from mlsysim.physics.serving.expert_ranks import busiest_rank
from mlsysim.physics.serving.passes import (
    decode_layer_attention_s,
    prefill_layer_attention_s,
)
from mlsysim.physics.serving.products import Product, layer_products_s, product_s, scaled, served_products

# Products.


def products_s(model, tokens, **kind):
    return sum(layer_products_s(model, tokens, busiest_rank(model.shape.routed, model.shards, tokens), **kind))


def test_products_of_a_layer():
    """QKV 1 x 4 x 2, output 1 x 2 x 2, up and gate 1 x 4 x 2, down 1 x 2 x 2: 24 units, half the peak."""
    assert products_s(served(), 64.0) == 48
    assert products_s(served(shards=replace(TWO, tp=1.0, attention=1.0)), 64.0) == 96
    # Four ranks share two key heads: QKV 64 + 2 x 64 wide, output 64, up and gate 128, down 64 deep: 6 + 2 + 4 + 2.
    assert products_s(served(shards=replace(TWO, tp=4.0, attention=4.0)), 64.0) == 28
    plain = replace(SHAPE, ffn_matrices=2.0)
    assert products_s(served(plain), 64.0) == 40


def test_ranks_that_attend_for_themselves():
    """Each of two has half of 128 tokens, and all of attention and of the dense block: 1 x 8 x 2 + 1 x 2 x 4 + 16 + 8 units."""
    own = replace(TWO, attention=1.0)
    assert own.own == 2
    assert products_s(served(shards=own), 128.0) == 96


def test_experts():
    """One token touches two of four experts of 128: a row of each; 256 tokens all four.

    Two ranks share a matrix: up and gate 128, down 64 deep: 64 rows each of 128 x 2 / 4 copies: 1 x 2 x 2 + 1 x 2 x 1 units,
    four times. Attention as before: 2 x 12 units for 128 tokens. The router's four scores: 1 x 1 x 2 units for 64 tokens, in
    16 bits, of twice the peak.
    """
    experts = with_experts()
    attention = 2 * 24
    router = 2 * 2
    assert products_s(served(experts), 128.0) == pytest.approx(attention + 4 * 6 * 2 + router)
    assert products_s(served(experts), 1.0) == pytest.approx(24 + 2 * 6 * 2 + router / 2)
    assert products_s(served(experts), 256.0) == pytest.approx(4 * 24 + 4 * 12 * 2 + 2 * router), "two rows of tiles"
    half = with_experts(0.5)
    assert products_s(served(half), 128.0) == pytest.approx(attention + 0.5 * 48 + 0.5 * 48 + 0.5 * router)
    # A shared expert as wide as a dense block.
    shared = with_experts(shared_ffn=4 * UNIT)
    assert products_s(served(shared), 128.0) == pytest.approx(attention + 48 + 48 + router)
    own = served(with_experts(shared_ffn=2 * UNIT), shards=replace(TWO, attention=1.0))
    assert products_s(own, 128.0) == pytest.approx(2 * 24 + 48 + 2 * (8 + 4) + router / 2), "whole, for half of the tokens"
    some = with_experts(np.array([1.0, 1.0]), np.array([0.0, 4 * UNIT]))
    assert products_s(served(some), 128.0) == pytest.approx([96 + router, 144 + router])


def test_tiles_of_experts():
    """Experts of 64 rows half fill tiles of 128; beyond one the mean loss is (128 - 1) / 2; 16 tokens have tiles of 16."""
    model = served(with_experts(), has=OWN | {"tile": 128.0})

    def rows(tokens, model=model):
        load = busiest_rank(model.shape.routed, model.shards, tokens)
        return next(rows for one, rows, _, _ in served_products(model, tokens, load) if one.part == ROUTED)

    assert rows(128.0) == pytest.approx(128)
    assert rows(512.0) == pytest.approx(256 + 63.5)
    assert rows(16.0) == pytest.approx(max(16.0, 16 * 2 / 4 + 7.5))
    assert rows(1.0) == pytest.approx(1), "a decode step of one sequence"
    assert rows(512.0, served(with_experts(), has=OWN)) == pytest.approx(256)


def test_operands_of_products():
    """Without arithmetic, a product of 64 x 128 x 256 reads 2 + 8 and writes 4 of 64 x 64 elements."""
    product = Product(READS, 2.0, 1.0, PEAK, 4.0)
    assert product_s(served(), 64.0, 256.0, 128.0, product) == pytest.approx((2 * 2 + 8 * 1 + 4 * 4) * ELEMENT_S)
    assert product_s(served(), 64.0, 256.0, 128.0, product, 3.0) == pytest.approx(3 * 28 * ELEMENT_S)
    cached = served(cache_B=1e9)
    assert product_s(cached, 64.0, 256.0, 128.0, product) == pytest.approx((8 * 1 + 4 * 4) * ELEMENT_S)
    # The layer's own formats: QKV 2 i + 8 w + 4 o, output 2 i + 4 w + 2 o, up 2 i + 8 w + 4 o, down 2 i + 4 w + 2 o.
    layer = served(gemm=READS, input_B=1.0, weight_B=0.5, output_B=4.0)
    assert products_s(layer, 64.0) == pytest.approx((8 * 1 + 24 * 0.5 + 12 * 4) * ELEMENT_S)


def test_what_an_engine_reaches_of_a_kernel():
    product = Product(GemmKernel(0.5, 0.0, 1.0, 0.5, 0.0, READS.shared), 2.0, 1.0, PEAK, 4.0)
    for share in (0.5, np.array([0.5])):
        found = scaled(product, EngineCoefficients(compute_share=share, memory_share=0.25))
        assert (found.kernel.efficiency, found.kernel.memory_efficiency) == (0.25, 0.125)
        assert (found.input_B, found.weight_B, found.peak_flops_per_s, found.output_B) == (2, 1, PEAK, 4)
    assert scaled(product, EngineCoefficients(compute_share=3.0)).kernel.efficiency == 1, "not over the peak"
    above = replace(product, kernel=replace(product.kernel, efficiency=1.25))
    assert scaled(above, EngineCoefficients(compute_share=3.0)).kernel.efficiency == 1.25


OWN = {"own_products": True}
QUANTISED = Product(GemmKernel(1.0, 0.0, inf, inf, 0.0, SharedGemm(1.0, 0.0, 0.0, 1.0), most_splits=1.0), 2.0, 0.5, PEAK)


def test_an_engines_own_products():
    """64 x 256 x 128 units of 1 x 4 x 2: 8 s at 4 x 0.5 x 0.5 of the peak; 8 of 0.5 bytes at a fourth of 32768 B/s: 2 s.

    Unpacking at 4096 B/s takes 4 s, at twice an A100's clock 2 s; here all three add up.
    """
    engine = replace(ENGINE, core_Bps=4096.0)
    model = served(engine=engine, has=OWN, core_clock=1.0)
    assert product_s(served(engine=engine, has=OWN, core_clock=2.0), 64.0, 256.0, 128.0, QUANTISED) == pytest.approx(8 + 2 + 2)
    assert product_s(served(engine=engine, has=OWN), 64.0, 256.0, 128.0, QUANTISED) == 8 + 2, "cores that are no limit"
    assert product_s(model, 64.0, 256.0, 128.0, QUANTISED) == pytest.approx(8 + 2 + 4)
    assert product_s(model, 64.0, 256.0, 128.0, QUANTISED, 3.0) == pytest.approx(3 * 14)
    half = served(engine=replace(engine, memory_share=0.5, own_share=1.0), has=OWN, multiprocessors=2.0, core_clock=1.0)
    assert product_s(half, 64.0, 256.0, 128.0, QUANTISED) == pytest.approx(4 + 4 + 2)
    assert product_s(half, 64.0, 256.0, 128.0, replace(QUANTISED, weight_B=1.0)) == pytest.approx(4 + 8 + 4)
    squared = replace(QUANTISED, weight_B=1.0, kernel=replace(QUANTISED.kernel, shared=SharedGemm(2.0, 0.0, 0.0, 1.0)))
    model = served(engine=engine, has=OWN, core_clock=1.0, gemm=squared.kernel)
    assert product_s(model, 64.0, 256.0, 128.0, squared) == pytest.approx((64 + 16 + 64) ** 0.5)


def test_unpacking_takes_the_cores_too():
    """8 x 64 x 64 elements of 0.5 bytes written in 2, at the half of 8192 and 4096 B/s one after the other: 20 + 40 s."""
    has = OWN | {"own_rows": 64.0, "unpacks": True}
    model = served(engine=replace(ENGINE, core_Bps=4096.0), has=has, core_clock=1.0)
    assert product_s(model, 192.0, 256.0, 128.0, QUANTISED) == pytest.approx(24 + 20 + 40)


def test_products_that_an_engine_lends():
    """Beyond 64 rows the vendor's 16-bit product: 8 units for 64 rows, 16 for 128; weights unpacked before.

    8 x 64 x 64 elements of 0.5 bytes are written in 2, at a fourth of 16384 B/s: 20 s.
    """
    word, narrow = replace(QUANTISED, weight_B=2.0), QUANTISED
    has = OWN | {"own_rows": 64.0}
    size = (256.0, 128.0)
    own = product_s(served(has=OWN), 64.0, *size, word)
    assert own == pytest.approx(8 + 8)
    assert product_s(served(has=has), 64.0, *size, word) == own
    assert product_s(served(has=has), 128.0, *size, word) == 16, "as slow as its own of 64 rows, and as the vendor's of 128"
    assert product_s(served(has=has), 192.0, *size, word) == 24
    assert product_s(served(has=has), np.array([64.0, 192.0]), *size, word).tolist() == [own, 24]
    assert product_s(served(has=has), 192.0, *size, word, 2.0) == 48
    assert product_s(served(has=has), 64.0, *size, word, 2.0) == 2 * own
    # Narrower weights stay with the engine, unless it unpacks them; nothing is lent that is not known.
    assert product_s(served(has=has), 192.0, *size, narrow) == 3 * 8 + 2
    unpacks = served(has=has | {"unpacks": True})
    assert product_s(unpacks, 192.0, *size, narrow) == 24 + 20
    assert product_s(unpacks, 192.0, *size, word) == 24
    assert product_s(unpacks, 192.0, *size, narrow, 2.0) == 2 * 44
    assert product_s(served(has=has, lends=False), 192.0, *size, word) == 3 * 8 + 8
    assert product_s(served(has=OWN), 192.0, *size, word) == 3 * 8 + 8
    # Without arithmetic: 16-bit operands and results, 20 + 8 + 40 of 64 x 64 elements, and 3 bytes of 8 to unpack.
    reads = replace(word, kernel=READS, weight_B=1.0)
    assert product_s(unpacks, 640.0, *size, reads) == pytest.approx(24 + (20 + 8 + 40) * 2 * ELEMENT_S)
    cached = served(has=has | {"unpacks": True}, cache_B=1e9)
    assert product_s(cached, 640.0, *size, reads) == pytest.approx(24 + (8 + 40) * 2 * ELEMENT_S)


# Between products.


def test_passes_between_products():
    """64 tokens: 16 bytes of 128, and of two ranks 6 of 256 and 5 of 512 elements: 64 x 4096 bytes, 16 s."""
    assert elementwise_layer_s(served(), 64.0) == 16
    assert elementwise_layer_s(served(element_B=4.0), 64.0) == 32
    assert elementwise_layer_s(served(engine=replace(ENGINE, passes=3.0)), 64.0) == 48
    # A plain block of 4 bytes; ranks that attend for themselves divide the residual stream, too.
    assert elementwise_layer_s(served(replace(SHAPE, ffn_matrices=2.0)), 64.0) == 15
    assert elementwise_layer_s(served(shards=replace(TWO, attention=1.0)), 64.0) == 12
    # Two experts of 128 and a shared one of 64: 6 of 320 elements; 10 of each copy's 128 elements.
    routed = with_experts(shared_ffn=UNIT)
    assert elementwise_layer_s(served(routed), 64.0) == 64 * (2048 + 2560 + (6 * 320 + 2560) / 2) / 16384
    # Block-scaled experts: 32 rows for each of the four, of which each of two ranks has half of the width.
    padded = served(routed, has={"block_rows": 32.0}, block_experts=True)
    assert elementwise_layer_s(padded, 64.0) - elementwise_layer_s(served(routed), 64.0) == 4 * 32 * (1280 + 6 * 64) / 16384
    # In half of the layers: 0.5 to choose and sort, and 2 where experts multiply in 8 bits.
    half, shared = with_experts(0.5), replace(served().kernels.shared, routing_s=0.5)
    for byte_experts, small_s in ((False, 0.25), (True, 1.25)):
        model = served(half, engine=replace(ENGINE, byte_s=2.0), shared=shared, byte_experts=byte_experts)
        assert elementwise_layer_s(model, 64.0) - elementwise_layer_s(served(half), 64.0) == small_s
    mixed = with_experts(0.75, UNIT)
    width = 0.25 * 256 + 0.75 * 320
    assert elementwise_layer_s(served(mixed), 64.0) == 64 * (2048 + 0.75 * 2560 + (6 * width + 2560) / 2) / 16384


def test_a_cache_feeds_the_passes():
    """Lists of 64 x 2 bytes of max(3 x 128, 2 x 512 / 2) elements, 64 KiB: a fourth stays, and is read four times as fast."""
    assert elementwise_layer_s(served(cache_B=16384.0), 64.0) == 16 * (0.75 + 0.25 / 4)
    assert elementwise_layer_s(served(cache_B=1e9), 64.0) == 4
    narrow = replace(SHAPE, head_dim=UNIT / 8, ffn=2 * UNIT)  # 3 x 128 elements are the longest: 48 KiB
    own = served(narrow, replace(TWO, attention=1.0), cache_B=16384.0)  # a rank has half of the stream: 24 KiB of 3 x 64
    assert elementwise_layer_s(own, 64.0) == 64 * (1024 + 544) / 16384 * (1 / 3 + 2 / 3 / 4)
    assert elementwise_layer_s(served(narrow, cache_B=24576.0), 64.0) == 64 * (2048 + 544) / 16384 * (0.5 + 0.5 / 4)
    wide = replace(SHAPE, head_dim=UNIT / 8)  # 2 x 256 / 2 are fewer
    assert elementwise_layer_s(served(wide, cache_B=24576.0), 64.0) == 64 * (2048 + 928) / 16384 * (0.5 + 0.5 / 4)
    slow = serving_kernels(cache_B=1e9, multiprocessors=0.125)
    assert elementwise_layer_s(replace(served(), kernels=slow), 64.0) == 16, "no slower than memory"
    assert elementwise_layer_s(served(cache_B=1.0), 0.0) == 0


def test_passes_in_32_bits():
    """112 bytes of 128, and of two ranks 38 of 256 and 14 of 512 elements; a fourth of the bandwidth for the engine's own."""
    moved_B = 64 * (112 * 128 + (38 * 256 + 14 * 512) / 2)
    assert elementwise_layer_s(served(has=WIDE), 64.0) == moved_B / 4096
    assert elementwise_layer_s(served(has=WIDE, engine=replace(ENGINE, passes=3.0)), 64.0) == pytest.approx(3 * moved_B / 4096)
    plain = replace(SHAPE, ffn_matrices=2.0)
    assert elementwise_layer_s(served(plain, has=WIDE), 64.0) == (moved_B - 64 * 12 * 256 / 2) / 4096
    routed = with_experts()  # two of 128 are as wide as the dense block
    assert elementwise_layer_s(served(routed, has=WIDE), 64.0) == (moved_B + 64 * 10 * 128 * 2) / 4096
    # Of tensors of 64 x 128 x 4 = 32 KiB and of 64 KiB a cache of 80 KiB holds 16 KiB beside two of the first, none of the
    # second: half of the reads of the first hit, a fourth of its traffic.
    some = served(has=WIDE, cache_B=81920.0)
    assert elementwise_layer_s(some, 64.0) == 64 * (0.75 * 112 * 128 + (38 * 256 + 0.75 * 14 * 512) / 2) / 4096
    own = served(has=WIDE, shards=replace(TWO, attention=1.0))
    assert elementwise_layer_s(own, 64.0) == (moved_B - 64 * 112 * 64) / 4096
    large = served(has=WIDE, cache_B=1e9)
    assert elementwise_layer_s(large, 64.0) == moved_B / 4096 / 2, "reads hit, writes do not"


def test_stored_scores():
    """4 x 64 FLOP at half of the attention's peak; 13 bytes at 16384 B/s."""
    product_s = 4 * 64 / (PEAK / 2)
    assert stored_score_s(served(), 1e3) == pytest.approx(product_s + 13 / 16384)
    assert stored_score_s(served(element_B=4.0), 1e3) == pytest.approx(product_s + 26 / 16384)
    assert stored_score_s(served(engine=replace(ENGINE, passes=3.0)), 1e3) == pytest.approx(product_s + 39 / 16384)
    assert stored_score_s(served(has=WIDE), 1e3) == pytest.approx(product_s + 24 / 16384)
    # 1000 scores of 4 bytes: of 10,000 a cache holds 2000 beside two tensors: a fourth is read there.
    assert stored_score_s(served(has=WIDE, cache_B=10000.0), 1e3) == pytest.approx(product_s + 18 / 16384)


# Attention.


def decode_attention_s(shape=SHAPE, shards=TWO, has=None, **kernels):
    return decode_layer_attention_s(served(shape, shards, has=has, **kernels), 64.0, 4.0)


def test_attention_of_a_decode_step():
    """Two ranks have a key head each: 2 x 64 sequences x 4 keys x 64 elements of 2 bytes: 4 s."""
    assert decode_attention_s() == pytest.approx(4)
    assert decode_attention_s(kv_B=1.0) == pytest.approx(2)
    assert decode_attention_s(shards=replace(TWO, attention=1.0)) == pytest.approx(4), "half of the sequences, twice the heads"
    assert decode_attention_s(shards=replace(TWO, tp=8.0, attention=8.0)) == pytest.approx(4), "a key head is not divided"
    # A fourth of the layers sees one key of four.
    assert decode_attention_s(replace(SHAPE, window=1.0, windowed=0.25)) == pytest.approx(3 + 0.25)
    # One vector of 192 elements for all heads: 64 sequences x 4 keys: 6 s; two heads score all of it and sum up 128, at half
    # the peak: 1.25 s beside that.
    latent = replace(SHAPE, latent=LatentShape(key_rank=2 * UNIT, rotary_dim=UNIT))
    assert decode_attention_s(latent) == pytest.approx((6**2 + 1.25**2) ** 0.5)


def test_attention_without_a_grouped_kernel():
    """Each of two query heads reads its keys: 8 s from memory, or from cache at 65536 B/s: 2 s, less than the first's 4."""
    each = {"grouped_decode": False}
    assert decode_attention_s(has=each | {"repeats_memory": True}) == pytest.approx(8)
    assert decode_attention_s(has=each) == pytest.approx(4)
    eight = replace(SHAPE, heads=16.0)
    assert decode_attention_s(eight, has=each) == pytest.approx(8)
    # A fourth of the layers sees one key of four.
    windowed = replace(SHAPE, window=1.0, windowed=0.25)
    assert decode_attention_s(windowed, has=each | {"repeats_memory": True}) == pytest.approx(6 + 0.5)
    floor = replace(serving_kernels().decode, floor_s=1.0)
    assert decode_attention_s(eight, has=each, decode=floor) == pytest.approx(9)
    one = {"only_group": 2.0, "only_head_dim": 64.0, "repeats_memory": True}
    assert decode_attention_s(has=one) == pytest.approx(4), "the group that it has a kernel for"
    assert decode_attention_s(has=one | {"only_group": 4.0}) == pytest.approx(8)
    assert decode_attention_s(has=one | {"only_head_dim": 128.0}) == pytest.approx(8)
    assert decode_attention_s(has=one | each) == pytest.approx(8)
    assert decode_attention_s(has=one, shards=replace(TWO, attention=1.0)) == pytest.approx(4), "two groups of two"


def prompts_s(shape=SHAPE, shards=TWO, prompt=64.0, padding=1.0, has=None, **kernels):
    return prefill_layer_attention_s(served(shape, shards, has=has, **kernels), 2.0, prompt, padding)


def test_attention_of_prompts():
    """Two prompts, two heads and a key head a rank: 2 x 2 x 64 x 32 scores of 4 x 64 FLOP: 4 s.

    Activations of 2 x 64 x 64: 4 bytes of each of two queries, 2 x (2 + 2) of keys and values: 8 s.
    """
    assert prompts_s() == pytest.approx(4 + 8)
    assert prompts_s(shards=replace(TWO, attention=1.0)) == pytest.approx(12)
    assert prompts_s(shards=replace(TWO, tp=8.0, attention=8.0)) == pytest.approx(2 + 6), "no less than a head"
    assert prompts_s(has={"causal": False}) == pytest.approx(8 + 8), "all of 64 keys"
    assert prompts_s(replace(SHAPE, window=32.0, windowed=0.25)) == pytest.approx(12 - 0.25), "24 keys of 32"
    assert prompts_s(kv_B=1.0) == pytest.approx(4 + 7)


def test_attention_that_stores_its_scores():
    """All of 2 x 2 x 64 x 64 scores: at half the peak 16 s, 13 bytes of 16384: 13 s; two launches."""
    assert prompts_s(has=STORES) == pytest.approx(16 + 13)
    assert prefill_layer_attention_s(served(has=STORES), 2.0, 64.0) == pytest.approx(29)
    launch = serving_kernels().gemm
    assert prompts_s(has=STORES, gemm=replace(launch, launch_s=0.5)) == pytest.approx(30)
    assert prompts_s(has=STORES, shards=replace(TWO, attention=1.0)) == pytest.approx(29)
    # Padded to twice the length: rows and columns of 64 for a mean of 32.
    assert prompts_s(prompt=32.0, padding=2.0, has=STORES) == pytest.approx(29)
    # By micro-batches of 32 tokens, a query sees (64 + 32) / 2 keys; of 128, as before.
    assert prompts_s(has=STORES | {"chunk": 32.0}) == pytest.approx(29 * 0.75)
    assert prompts_s(has=STORES | {"chunk": 128.0}) == pytest.approx(29)
    # All layers are windowed: of the 48 keys the last 8, and the micro-batch's 32.
    windowed = replace(SHAPE, window=8.0, windowed=1.0)
    assert prompts_s(windowed, has=STORES | {"chunk": 32.0}) == pytest.approx(29 * 40 / 64)
    # What is stored at a time: two heads of 64 x 64, 32 KiB of 4 bytes, of which 72 KiB of cache hold 8 beside two: an eighth.
    stored = STORES | WIDE
    assert prompts_s(has=stored, cache_B=73728.0) == pytest.approx(16 + 24 * 0.875)


def test_prompts_that_the_fused_kernel_takes():
    some = {"flash_head_dim": 64.0, "flash_longest": 64.0}
    assert prompts_s(has=some) == pytest.approx(12)
    assert prompts_s(has=some | {"flash_head_dim": 128.0}) == pytest.approx(29)
    assert prompts_s(has=some | {"flash_longest": 63.0}) == pytest.approx(29)
    assert prompts_s(prompt=32.0, padding=3.0, has=some) == pytest.approx(29 * 96 * 96 / 64 / 64)
    both = prompts_s(prompt=np.array([64.0, 128.0]), has=some)
    assert both == pytest.approx([12, 4 * 29])
