"""Passes of a served model with plain kernels: a product of 64^3 takes 1 s at the peak, 16,384 bytes take 1 s."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from plain import PEAK, UNIT, links, served_shape, serving_kernels

from mlsysim.physics.kernels.gemm import GemmKernel, SharedGemm
from mlsysim.physics.layer.shape import ExpertShape, LatentShape
from mlsysim.physics.serving.activations import elementwise_layer_s, stored_score_s
from mlsysim.physics.serving.deployment import EngineCoefficients, EngineKernels, ServedModel, Shards
from mlsysim.physics.serving.expert_ranks import busiest_rank
from mlsysim.physics.serving.passes import (
    PassTime,
    decode_layer_attention_s,
    decode_pass,
    mixed_prefill_s,
    prefill_layer_attention_s,
    prefill_pass,
)
from mlsysim.physics.serving.products import Product, layer_products_s, product_s, scaled

# Three layers; four query heads and two of keys, 64 wide; gated blocks of 256; a vocabulary of 256.
SHAPE = served_shape()
TWO = Shards(tp=2.0, pp=1.0, node=8.0, attention=2.0)
ENGINE = EngineCoefficients(layer_s=0.0, scaling_s=0.0, hop_s=0.0, compute_share=0.5, own_share=0.5)
READS = GemmKernel(inf, 0.0, inf, 1.0, 0.0, SharedGemm(1.0, 0.0, 0.0, 1.0), most_splits=1.0)
ELEMENT_S = UNIT**2 / 32768  # of a byte of 64 x 64 elements


def with_experts(layers=1.0, shared_ffn=0.0):
    """Four experts of 128 in a share of the layers, of which a token visits two."""
    return replace(SHAPE, routed=ExpertShape(4.0, 2.0, 2 * UNIT, shared_ffn, layers))


def served(shape=SHAPE, shards=TWO, engine=ENGINE, has=None, **kernels):
    return ServedModel(shape, shards, serving_kernels(**kernels), engine, EngineKernels(**has or {}))


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
    four times. Attention as before: 2 x 12 units for 128 tokens.
    """
    experts = with_experts()
    attention = 2 * 24
    assert products_s(served(experts), 128.0) == pytest.approx(attention + 4 * 6 * 2)
    assert products_s(served(experts), 1.0) == pytest.approx(24 + 2 * 6 * 2)
    assert products_s(served(experts), 256.0) == pytest.approx(4 * 24 + 4 * 12 * 2), "two rows of tiles"
    half = with_experts(0.5)
    assert products_s(served(half), 128.0) == pytest.approx(attention + 0.5 * 48 + 0.5 * 48)
    # A shared expert as wide as a dense block.
    shared = with_experts(shared_ffn=4 * UNIT)
    assert products_s(served(shared), 128.0) == pytest.approx(attention + 48 + 48)
    own = served(with_experts(shared_ffn=2 * UNIT), shards=replace(TWO, attention=1.0))
    assert products_s(own, 128.0) == pytest.approx(2 * 24 + 48 + 2 * (8 + 4)), "whole, for half of the tokens"
    some = with_experts(np.array([1.0, 1.0]), np.array([0.0, 4 * UNIT]))
    assert products_s(served(some), 128.0) == pytest.approx([96, 144])


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


WIDE = {"wide": True}


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


STORES = {"flash_prefill": False}


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


# Whole passes.


def test_a_decode_step():
    """64 sequences with 4 tokens; an all-reduce of 16 KiB between two at 4 KiB/s takes 4 s, two a layer."""
    step = decode_pass(served(), 64.0, 4.0)
    assert step == PassTime(3 * 48, pytest.approx(3 * 4), 3 * 16, pytest.approx(3 * 8), 4, 0, 0)
    assert step.total_s == pytest.approx(144 + 12 + 48 + 24 + 4)
    assert step.layer_reductions_s == pytest.approx(24)
    slow = decode_pass(served(engine=replace(ENGINE, attention_share=0.5)), 64.0, 4.0)
    assert slow.attention_s == pytest.approx(24)
    assert decode_pass(served(replace(SHAPE, vocab=0.0)), 64.0, 4.0).head_s == 0
    parts, longest = step.parts()
    assert (longest, parts["matrix products"], parts["logits"], parts["engine overhead"]) == ("matrix products", 144, 4, 0)
    assert (parts["element-wise passes"], parts["communication"]) == (48, pytest.approx(24))
    assert parts["attention"] == pytest.approx(12)
    assert len(parts) == 6
    assert decode_pass(served(), 64.0, 400.0).parts()[1] == "attention"


def test_an_eager_host_is_a_floor():
    """A layer's kernels take 48 + 4 + 16 + 8 = 76 s: a host that launches them in 80 s leaves gaps of 4, one of 70 none."""
    step = decode_pass(served(), 64.0, 4.0)
    slow = decode_pass(served(engine=replace(ENGINE, launch_s=80.0)), 64.0, 4.0)
    assert (slow.host_s, slow.total_s - step.total_s) == (pytest.approx(3 * 4), pytest.approx(3 * 4))
    assert decode_pass(served(engine=replace(ENGINE, launch_s=70.0)), 64.0, 4.0) == step
    assert decode_pass(served(engine=replace(ENGINE, launch_s=70.0, layer_s=1.0)), 64.0, 4.0).host_s == 3


def test_the_head_has_formats_of_its_own():
    """64 x 128 x 128 without arithmetic: 2 of 2 bytes, 4 of 1, 2 of 2, whatever the layers multiply."""
    step = decode_pass(served(head_gemm=READS, head_weight_B=1.0, input_B=1.0, output_B=4.0), 64.0, 4.0)
    assert step.head_s == pytest.approx((2 * 2 + 4 * 1 + 2 * 2) * ELEMENT_S)
    assert decode_pass(served(shards=replace(TWO, attention=1.0)), 64.0, 4.0).head_s == 8, "of half of the sequences all"


HOST = EngineCoefficients(
    layer_s=1.0,
    scaling_s=0.5,
    fused_s=0.25,
    step_s=7.0,
    sequence_s=0.125,
    layer_sequence_s=0.0625,
    request_s=11.0,
    compute_share=0.5,
    hop_s=2.0,
)


def test_the_host():
    """A layer: 1 + 64 / 16 - 0.25 where its norms are fused into reductions; a step: 7 + 64 / 8."""
    assert decode_pass(served(engine=HOST), 64.0, 4.0).host_s == 3 * 4.75 + 15
    assert decode_pass(served(engine=HOST, scales=True), 64.0, 4.0).host_s == 3 * 5.25 + 15
    alone = replace(TWO, tp=1.0, attention=1.0)
    assert decode_pass(served(shards=alone, engine=HOST), 64.0, 4.0).host_s == 3 * 5 + 15
    own = replace(TWO, attention=1.0)
    assert decode_pass(served(shards=own, engine=HOST), 64.0, 4.0).host_s == 3 * 4.75 + 11, "ranks see to their own sequences"


def test_stages_of_a_decode_step():
    """Two stages have 64 of 128 sequences each; hand-overs of 64 x 128 x 2 bytes at 1 KiB/s: 16 s, and 2 s each.

    Three layers of 84.75 s, two of them on the last stage with the head (4 s) and what a step costs (7 s): twice that.
    """
    two = replace(TWO, pp=2.0)
    step = decode_pass(served(shards=two, engine=HOST), 128.0, 4.0)
    waited_s = 2 * (2 * 84.75 + 4 + 7) - (3 * 84.75 + 18 + 4 + 7)
    assert (step.weights_s, step.head_s, step.hops_s) == (144, pytest.approx(4 + waited_s), 18)
    assert decode_pass(served(shards=two, engine=HOST), 1.0, 4.0).head_s == 4, "nobody waits for a lone sequence"
    assert step.reductions_s == pytest.approx(24 + 18)
    assert step.host_s == 3 * (1 + 8 - 0.25) + 7 + 16
    three = decode_pass(served(shards=replace(TWO, pp=3.0), has={"crossings": 2.0}), 192.0, 4.0)
    assert three.hops_s == 2 * 32
    assert decode_pass(served(shards=two, has=WIDE), 128.0, 4.0).hops_s == 32
    for batch in (1.0, 1.5):
        lone = decode_pass(served(shards=two), batch, 4.0)
        assert lone.attention_s == pytest.approx(3 * 4 / 64), "no stage works on half a sequence"
    assert decode_pass(served(shards=two), 0.5, 4.0).attention_s == pytest.approx(3 * 4 / 128)


def test_reductions():
    """Ranks that attend for themselves gather and scatter tokens once for experts; more than half a node shares its links."""
    own = replace(TWO, attention=1.0)
    assert decode_pass(served(shards=own), 64.0, 4.0).reductions_s == 0
    assert decode_pass(served(with_experts(0.75), own), 64.0, 4.0).reductions_s == pytest.approx(3 * 0.75 * 4)
    four = replace(TWO, tp=4.0, attention=4.0)  # 2 x 3/4 of 16 KiB
    assert decode_pass(served(shards=four), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * 6)
    assert decode_pass(served(shards=replace(four, node=7.0)), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * 12)
    assert decode_pass(served(shards=replace(TWO, tp=1.0, attention=1.0)), 64.0, 4.0).reductions_s == 0


def test_links_and_network_of_a_cluster():
    """Links of a quarter take four times as long; so does a tree of 2 x 16 KiB over two cards of a quarter."""
    links_alone, both = replace(ENGINE, link_share=0.25), replace(ENGINE, link_share=0.25, network_share=0.25)
    four = replace(TWO, tp=4.0, attention=4.0)
    assert decode_pass(served(shards=four, engine=links_alone), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * 24)
    pairs = replace(four, node=2.0)
    assert decode_pass(served(shards=pairs, engine=links_alone), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * (0.5 + 16))
    assert decode_pass(served(shards=pairs, engine=both), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * (0.5 + 64))


def test_reductions_of_an_engine_have_less_latency():
    """A launch of 1 s and two steps of 0.5, at a half; a pair has a bandwidth of its own."""
    late = replace(links(4096.0), launch_s=1.0, simple_step_s=0.5)
    engine = replace(ENGINE, latency_share=0.5)
    assert decode_pass(served(collectives=late), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * (4 + 2))
    assert decode_pass(served(collectives=late, engine=engine), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * (4 + 1))
    # By LL a rank writes its own part, too: 24 KiB.
    low = replace(late, tuner=replace(late.tuner, ll_base_s=0.0, simple_base_s=1e9, link_Bps=2.0), ll_step_s=0.25)
    found = decode_pass(served(collectives=low, engine=engine), 64.0, 4.0).reductions_s
    assert found == pytest.approx(3 * 2 * (6 + 0.5 + 0.25))


def test_reductions_by_kernels_of_an_engine():
    """A launch of 1 s, then 2 x 1/2 of 16 KiB at 4 KiB/s: 5 s instead of 6; four ranks read 3/2 of them, over a mesh alone."""
    late, engine = replace(links(4096.0), launch_s=2.0), replace(ENGINE, reduce_s=1.0)
    has, four = {"own_reduce_B": 16384.0}, replace(TWO, tp=4.0, attention=4.0)
    meshed = replace(late, tuner=replace(late.tuner, ll128_base_s=1e9, ll128_Bps=0.5))

    def reductions_s(links=late, shards=TWO, has=has):
        return decode_pass(served(shards=shards, collectives=links, engine=engine, has=has), 64.0, 4.0).reductions_s

    assert reductions_s(has=None) == pytest.approx(3 * 2 * 6)
    assert reductions_s() == pytest.approx(3 * 2 * 5)
    assert reductions_s(shards=four) == pytest.approx(3 * 2 * 8), "cards without a mesh have them in pairs"
    assert reductions_s(meshed, four) == pytest.approx(3 * 2 * 7)
    assert reductions_s(has={"own_reduce_B": 16383.0}) == pytest.approx(3 * 2 * 6), "larger ones are NCCL's"
    # Among nodes NCCL runs alone: 1.5 times the launch, and a tree.
    across = replace(four, node=2.0)
    assert reductions_s(meshed, across) == reductions_s(meshed, across, has=None)


def test_reductions_in_the_switch():
    """16 KiB of 8 ranks at 0.8 x 7/8 of 4 KiB/s, where the engine has it; else 2 x 7/8 of them."""
    able = replace(links(4096.0), tuner=replace(links(1.0).tuner, simple_base_s=1.0, link_Bps=1e9, switch_share=0.8))
    eight = Shards(tp=8.0, pp=1.0, node=16.0, attention=8.0)
    in_switch = 16384 / (0.8 * 7 / 8 * 4096)
    assert decode_pass(served(shards=eight, collectives=able), 64.0, 4.0).reductions_s == pytest.approx(6 * in_switch)
    without = served(shards=eight, collectives=able, has={"switch_reduces": False})
    assert decode_pass(without, 64.0, 4.0).reductions_s == pytest.approx(6 * 7)


def test_reductions_across_nodes():
    """Pairs of a node take 4 s; beside them runs a tree of 2 x 16 KiB over two cards, a level (of two ways) for two nodes."""
    four = Shards(tp=4.0, pp=1.0, node=2.0, attention=4.0)
    inside, wire = 4, 2 * 16384 / 2048
    assert decode_pass(served(shards=four), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * (0.5 + max(inside, wire)))
    six = replace(four, tp=6.0, attention=6.0)
    assert decode_pass(served(shards=six, nic_Bps=8192.0), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * (1 + inside))
    both = Shards(tp=np.array([2.0, 4.0]), pp=1.0, node=2.0, attention=np.array([2.0, 4.0]))
    assert decode_pass(served(shards=both), 64.0, 4.0).reductions_s == pytest.approx([24, 99])
    # Among nodes an engine's own kernel of less latency does not run: 1.5 times a launch of 1 s and two steps of 0.5.
    late = {"collectives": replace(links(4096.0), launch_s=1.0, simple_step_s=0.5), "nic_Bps": 8192.0}
    own = replace(ENGINE, latency_share=0.5)
    assert decode_pass(served(shards=four, engine=own, **late), 64.0, 4.0).reductions_s == pytest.approx(3 * 2 * (0.5 + 4 + 3))


def test_a_prefill():
    """Two prompts of 64: twice the products, passes and bytes of a step of 64; logits of two; 11 s before the first token."""
    first = prefill_pass(served(engine=HOST), 2.0, 64.0)
    assert first == PassTime(288, pytest.approx(36), 96, pytest.approx(48), 4, 3 * (1 + 0.125 - 0.25) + 7.25 + 11, 0)
    assert prefill_pass(served(has={"causal": False}), 2.0, 64.0).attention_s == pytest.approx(48)
    padded = prefill_pass(served(has=STORES), 2.0, 32.0, 2.0)
    assert (padded.weights_s, padded.attention_s) == (144, pytest.approx(3 * 29))


def test_stages_of_a_prefill():
    """Two parts of a prompt each pass two stages: (2 + 2 - 1) / 2 passes of one part; four prompts on two stages likewise."""
    two = replace(TWO, pp=2.0)
    first = prefill_pass(served(shards=two, engine=HOST), 2.0, 64.0)
    assert (first.weights_s, first.elementwise_s, first.head_s) == (144 * 1.5, 48 * 1.5, 4)
    assert first.attention_s == pytest.approx(18 * 1.5)
    assert first.reductions_s == pytest.approx((24 + 18) * 1.5)
    assert first.hops_s == 18
    assert first.host_s == 3 * (1 + 0.125 - 0.25) + 7.25 + 11
    one = prefill_pass(served(shards=two), 1.0, 64.0)
    assert one.weights_s == 144, "one prompt passes both stages"
    # Parts are halved until they hold 64 tokens, no less than a prompt: 4 prompts in 2 parts of 128, then in 4 of 64.
    halved = {"stage_tokens": 64.0}
    assert prefill_pass(served(shards=two, has=halved), 4.0, 64.0).weights_s == 144 * 5 / 2
    assert prefill_pass(served(shards=two, has={"stage_tokens": 128.0}), 4.0, 64.0).weights_s == 288 * 3 / 2
    assert prefill_pass(served(shards=two, has={"stage_tokens": 128.0}), 4.0, 64.0, 1.5).weights_s == 144 * 5 / 2
    assert prefill_pass(served(shards=two, has={"stage_tokens": 16.0}), 4.0, 64.0).weights_s == 144 * 5 / 2
    assert prefill_pass(served(shards=two, has={"stage_tokens": 128.0}), 8.0, 64.0).weights_s == 288 * 5 / 2, "8 in 4 parts"
    assert prefill_pass(served(shards=two, has=halved), 1.0, 256.0).weights_s == 4 * 144
    assert prefill_pass(served(has={"stage_tokens": 16.0}), 4.0, 64.0).weights_s == 144 * 4, "no stages, no parts"


def test_a_prefill_in_micro_batches():
    """256 tokens by 64: four passes of a micro-batch, whose host launches 5 kernels a layer where a step's has 2."""
    has = {"chunk": 64.0, "launches": 5.0, "step_launches": 2.0}
    first = prefill_pass(served(has=has, engine=HOST), 2.0, 128.0)
    assert first.weights_s == 4 * 144
    assert first.attention_s == pytest.approx(3 * (16 + 16)), "128 tokens each"
    assert first.elementwise_s == 4 * 48
    assert first.reductions_s == pytest.approx(4 * 24)
    assert first.head_s == 4
    assert first.host_s == (3 * (1 + 0.125 - 0.25) + 7.25) * 2.5 + 11
    short = prefill_pass(served(has=has), 2.0, 16.0)
    assert short.weights_s == 144, "32 tokens in a tile of 64"
    # Kernels that unpack weights are launched where the vendor's product takes them.
    unpacks = has | {"unpacks": True, "unpack_launches": 3.0}
    for narrow, launches in (({"weight_B": 1.0}, 8), ({"weight_B": 2.0}, 5), ({"weight_B": 1.0, "lends": False}, 5)):
        host = prefill_pass(served(has=unpacks, engine=HOST, **narrow), 2.0, 128.0).host_s
        assert host == (3 * 0.875 + 7.25) * launches / 2 + 11
    assert (
        prefill_pass(served(has=has | {"unpack_launches": 3.0}, engine=HOST, weight_B=1.0), 2.0, 128.0).host_s == first.host_s
    )


def test_micro_batches_in_a_pipeline():
    """Two stages, of 2 of 3 layers at most: 1 + 3 x 2/3 passes for four micro-batches; of one in flight, four."""
    two, has = replace(TWO, pp=2.0), {"chunk": 64.0}
    assert prefill_pass(served(shards=two, has=has), 2.0, 128.0).weights_s == pytest.approx(3 * 144)
    one = prefill_pass(served(shards=two, has=has | {"in_flight": 1.0}), 2.0, 128.0)
    assert one.weights_s == pytest.approx(4 * 144)
    # A queue of 2 launches, 4 a layer of the last stage's one: half a micro-batch: each waits 1 - 2/3 x 1/2 for the one before.
    queue = has | {"queue": 2.0, "launches": 4.0}
    assert prefill_pass(served(shards=two, has=queue), 2.0, 128.0).weights_s == pytest.approx((1 + 3 * 2 / 3) * 144)
    deep = replace(SHAPE, layers=7.0)  # 4 of 7 layers, 3 on the last stage: a sixth of a micro-batch
    queued = prefill_pass(served(deep, two, has=queue), 2.0, 128.0).weights_s
    assert queued == pytest.approx((1 + 3 * (1 - 4 / 7 / 6)) * 7 * 48)
    deep = replace(SHAPE, layers=8.0)  # 5 of 8 layers with the head, 3 on the last stage
    queued = prefill_pass(served(deep, two, has=queue), 2.0, 128.0).weights_s
    assert queued == pytest.approx((1 + 3 * (1 - 5 / 8 / 6)) * 8 * 48)


def test_prompts_that_join_a_step():
    """64 tokens of prompts of 32 join 64 sequences: products, passes and reductions of 128 tokens, attention of two prompts."""
    model = served()
    step = decode_pass(model, 64.0, 4.0)
    # 96, 32 and 16 s, 1 s of scores and 4 of their activations a layer, less the step's own.
    assert mixed_prefill_s(model, step, 64.0, 32.0, 64.0) == pytest.approx(3 * (144 + 5) - 144 - 48 - 24)
    two = served(shards=replace(TWO, pp=2.0), engine=HOST)
    step = decode_pass(two, 128.0, 4.0)
    assert mixed_prefill_s(two, step, 128.0, 32.0, 128.0) == pytest.approx(3 * (144 + 5) - 144 - 48 - 24)
