"""Experts dealt out to ranks, what travels to them, and latent attention, each worked by hand on plain kernels."""

from dataclasses import replace

import numpy as np
import pytest
from plain import PEAK, PRODUCTS, UNIT, links, served_shape, serving_kernels

from mlsysim.physics.kernels.attention import AttentionHeads, decode_attention_s
from mlsysim.physics.layer.shape import ExpertShape, LatentShape
from mlsysim.physics.queues.finite_run import Answers, Batch, completed_per_s, run_per_s
from mlsysim.physics.serving.activations import elementwise_layer_s
from mlsysim.physics.serving.deployment import EngineCoefficients, EngineKernels, ServedModel, Shards, SharedServing
from mlsysim.physics.serving.expert_ranks import busiest_rank, exchange, sent_B
from mlsysim.physics.serving.layer_time import layer_time
from mlsysim.physics.serving.passes import decode_pass, even_groups, mixed_prefill_s, prefill_pass
from mlsysim.physics.serving.products import layer_products_s

EXPERTS = ExpertShape(experts=8.0, per_token=2.0, ffn=2 * UNIT, layers=1.0)
SHAPE, DENSE = served_shape(routed=EXPERTS), served_shape()
FOUR = Shards(tp=4.0, pp=1.0, node=2.0, attention=1.0, ep=4.0)
ENGINE = EngineCoefficients(layer_s=0.0, scaling_s=0.0, hop_s=0.0, compute_share=1.0)
SHARED = SharedServing(65536.0, 0.5, 1.5, exchange_s=3.0, exchange_share=0.5, exchange_multiprocessors=0.25, core_clock_Hz=1.0)


def served(shape=SHAPE, shards=FOUR, engine=ENGINE, sent_per_expert=True, **kernels):
    has = EngineKernels(sent_per_expert=sent_per_expert)
    return ServedModel(shape, shards, serving_kernels(shared=SHARED, **kernels), engine, has)


def sent(model, tokens, *, decoding):
    return exchange(model, tokens, busiest_rank(model.shape.routed, model.shards, tokens), decoding=decoding)


def test_the_busiest_of_four_ranks():
    """400 tokens leave 800 copies, 200 a rank: with 1.5 deviations of 14.14 it has 221.2; all its two experts are touched."""
    load = busiest_rank(EXPERTS, replace(FOUR, deviations=1.5), 400.0)
    assert load.rows == pytest.approx(200 + 1.5 * 200**0.5)
    assert load.touched == pytest.approx(2.0)
    assert load.over_mean == pytest.approx(load.rows / 200)
    # One token: 2 copies, of which the busiest rank has no more than both, nor more experts than copies.
    lone = busiest_rank(EXPERTS, replace(FOUR, deviations=10.0), 1.0)
    assert (lone.rows, lone.touched) == (2, 2)
    assert busiest_rank(EXPERTS, replace(FOUR, imbalance=1.3), 400.0).rows == pytest.approx(260)


def test_second_copies_of_experts_even_ranks_out():
    """Of 16 experts, eight twice: each copy has half, and a quarter of the variance: 200 x (1 - 3/4)."""
    twice = busiest_rank(EXPERTS, replace(FOUR, deviations=1.5, redundant=8.0), 400.0)
    assert twice.rows == pytest.approx(200 + 1.5 * 50**0.5)
    assert twice.touched == pytest.approx(4.0)


def test_uneven_choices_scatter_ranks_beside_chance():
    """200 copies a rank: a variance of 200 by chance, and of a fifth of 200, squared, by what is asked for most."""
    load = busiest_rank(EXPERTS, replace(FOUR, deviations=1.5, uneven=0.2), 400.0)
    assert load.rows == pytest.approx(200 + 1.5 * (200 + 40**2) ** 0.5)


def test_experts_that_all_ranks_share_are_all_touched():
    together = busiest_rank(EXPERTS, replace(FOUR, ep=1.0), 400.0)
    assert (together.rows, together.over_mean) == (800, 1)
    both = busiest_rank(EXPERTS, replace(FOUR, ep=np.array([1.0, 4.0])), 400.0)
    assert both.touched == pytest.approx([8, 2])


def test_a_low_latency_kernel_sends_a_copy_for_each_expert():
    """Two of four ranks a node. A rank's 100 tokens have 200 copies: a quarter to its neighbour, half to the other node.

    128 elements: 256 + 16 bytes there, 256 back. The wire outside, 512 B/s, needs 100 x 272 / 512; that inside less.
    """
    assert sent_B(served(), low_latency=True) == (272, 256)
    found = sent(served(), 400.0, decoding=True)
    assert found.dispatch_s == pytest.approx(100 * 272 / 512)
    assert found.combine_s == pytest.approx(100 * 256 / 512)
    assert found.kernels_s == 2 * 3
    assert found.multiprocessors == 0
    inside = sent(served(shards=replace(FOUR, node=4.0)), 400.0, decoding=True)
    assert inside.dispatch_s == pytest.approx(100 * 2 * 3 / 4 * 272 / 4096)
    busier = sent(served(shards=replace(FOUR, imbalance=1.3)), 400.0, decoding=True)
    assert busier.combine_s == pytest.approx(1.3 * found.combine_s)


def test_other_kernels_send_once_to_a_node_and_once_to_a_rank():
    """Two choices hit 1.5 of two nodes and 1.75 of four ranks; half leave the node. Indices and weights: 24 bytes."""
    assert sent_B(served(), low_latency=False) == (280, 256)
    for found in (sent(served(), 400.0, decoding=False), sent(served(sent_per_expert=False), 400.0, decoding=True)):
        assert found.dispatch_s == pytest.approx(100 * 1.5 / 2 * 280 / 512)
        assert found.combine_s == pytest.approx(100 * 1.5 / 2 * 256 / 512)
        assert found.multiprocessors == 0.25
    inside = sent(served(shards=replace(FOUR, node=4.0)), 400.0, decoding=False)
    assert inside.dispatch_s == pytest.approx(100 * 1.75 * 3 / 4 * 280 / 4096)


# DeepEP docs/legacy.md@dd758caf45, H800: microseconds of dispatch and combine of 128 tokens a rank, by ranks.
LOW_LATENCY = {8: (77, 114), 16: (118, 195), 32: (155, 273), 64: (173, 314), 128: (192, 369), 256: (194, 360)}


@pytest.mark.parametrize("ranks", LOW_LATENCY)
def test_latencies_that_deepep_publishes(ranks):
    from mlsysim.calibration.shared_kernels import shared_constants

    shape = replace(SHAPE, hidden=7168.0, routed=replace(EXPERTS, experts=256.0, per_token=8.0))
    shards = Shards(float(ranks), 1.0, 8.0, 1.0, ep=float(ranks))
    h800 = serving_kernels(
        shared=shared_constants(SharedServing), nic_Bps=50e9, collectives=links(160e9), dispatch_B=1 + 4 / 128
    )
    found = sent(ServedModel(shape, shards, h800, ENGINE, EngineKernels(sent_per_expert=True)), 128.0 * ranks, decoding=True)
    times_s = [found.kernels_s / 2 + wire_s for wire_s in (found.dispatch_s, found.combine_s)]
    assert times_s == pytest.approx([1e-6 * published for published in LOW_LATENCY[ranks]], rel=0.1)


def test_a_rank_computes_its_own_experts_whole():
    """64 tokens on each of four ranks: 128 copies for two experts: up 1 x 4 x 2, down 1 x 2 x 2, twice.

    Attention of 64 tokens: 1 x 8 x 2 and 1 x 2 x 4. The router's eight scores: 1 x 1 x 2, in 16 bits, of twice the peak.
    """
    load = busiest_rank(EXPERTS, FOUR, 256.0)
    assert layer_products_s(served(), 256.0, load) == pytest.approx((24, 2 * 12 + 1))
    # Two of four ranks share each expert's width, and eight experts are dealt out to two parts: four experts of half the width.
    halves = replace(FOUR, ep=2.0)
    load = busiest_rank(EXPERTS, halves, 256.0)
    assert layer_products_s(served(shards=halves), 256.0, load)[1] == pytest.approx(4 * (4 + 2) + 1)


def test_what_ranks_with_sequences_of_their_own_send():
    """Nothing but the exchange; groups of two also add up after attention: twice half of 100 x 256 bytes over 4,096 B/s."""

    def sent_s(model, tokens):
        return layer_time(model, tokens, lambda share: 0.0, decoding=True).sent_s

    found = sent(served(), 400.0, decoding=True)
    assert sent_s(served(), 400.0) == pytest.approx(found.total_s)
    pairs = served(shards=replace(FOUR, attention=2.0, node=4.0))
    assert sent_s(pairs, 400.0) == pytest.approx(sent(pairs, 400.0, decoding=True).total_s + 200 * 256 / 4096)
    half_dense = served(replace(SHAPE, routed=replace(EXPERTS, layers=0.5)))
    assert sent_s(half_dense, 400.0) == pytest.approx(found.total_s / 2)
    # Experts of half the width: two ranks gather and add up the copies of theirs, one of two for each token.
    split = served(shards=replace(FOUR, ep=2.0, node=4.0))
    assert sent_s(split, 400.0) == pytest.approx(sent(split, 400.0, decoding=True).total_s + 400 * 256 / 4096)
    # Ranks of one sequence have its tokens: two all-reduces, as without experts.
    same = served(shards=replace(FOUR, attention=4.0, node=8.0))
    assert sent_s(same, 400.0) == pytest.approx(2 * 2 * 3 / 4 * 400 * 256 / 4096)
    mixed = replace(FOUR, attention=np.array([1.0, 4.0]), node=8.0)
    alone = served(shards=replace(FOUR, node=8.0))
    assert sent_s(served(shards=mixed), 400.0) == pytest.approx([sent_s(alone, 400.0), sent_s(same, 400.0)])


def test_one_half_computes_while_the_other_travels():
    """Halves of 200 tokens: two exchanges of each meet what the other computes before its dispatch and after it."""
    both, one = served(shards=replace(FOUR, overlapped=1.0)), served()

    def attention_s(share):
        return 60.0 * share

    half = layer_time(one, 200.0, attention_s, decoding=True)
    around_s, ffn_s = layer_products_s(one, 200.0, busiest_rank(EXPERTS, FOUR, 200.0), decoding=True)
    before_s, after_s = around_s + 60 + half.elementwise_s / 2, ffn_s + half.elementwise_s / 2
    way = sent(one, 200.0, decoding=True)
    exposed_s = sum(max(wire_s - on_s, 0) for wire_s in (way.dispatch_s, way.combine_s) for on_s in (before_s, after_s))
    found = layer_time(both, 200.0 * 2, lambda share: 2 * attention_s(share), decoding=True)
    assert found.computed_s == pytest.approx(2 * (half.computed_s))
    assert found.sent_s == pytest.approx(2 * 6 + exposed_s)
    assert found.total_s < layer_time(one, 400.0, lambda share: 2 * attention_s(share), decoding=True).total_s
    # The normal kernels keep a quarter of the multiprocessors from products throughout, from the rest while they run.
    lossy = layer_time(both, 400.0, lambda share: 2 * attention_s(share))
    around_s, ffn_s = layer_products_s(one, 200.0, busiest_rank(EXPERTS, FOUR, 200.0))
    assert lossy.products_s == pytest.approx(2 * (around_s + ffn_s) / 0.75)
    way = sent(one, 200.0, decoding=False)
    others_s = (60 + half.elementwise_s / 2, half.elementwise_s / 2)
    computed_s = (around_s / 0.75 + others_s[0], ffn_s / 0.75 + others_s[1])
    ways_s = (way.dispatch_s, way.combine_s)
    lost_s = 0.25 * sum(min(wire_s, on_s) for wire_s in ways_s for on_s in others_s)
    exposed_s = sum(max(wire_s - on_s, 0) for wire_s in ways_s for on_s in computed_s)
    assert lossy.sent_s == pytest.approx(2 * 6 + exposed_s + lost_s)
    # Where two halves take longer than all at once they are not taken.
    few = layer_time(both, 4.0, lambda share: 0.0, decoding=True)
    assert few.total_s == pytest.approx(layer_time(one, 4.0, lambda share: 0.0, decoding=True).total_s)


def test_what_computes_is_never_less_than_nothing():
    """Kernels that take more multiprocessors than there are leave none to compute on; links of an array need none."""
    greedy = replace(SHARED, exchange_multiprocessors=3.0)
    halves, whole = served(shards=replace(FOUR, overlapped=1.0)), served()

    def layer(model, **kernels):
        return layer_time(replace(model, kernels=replace(model.kernels, **kernels)), 400.0, lambda share: 60.0 * share)

    assert layer(halves, shared=greedy) == layer(whole, shared=greedy)
    array = replace(halves.kernels.attention, array=128.0)
    found = layer(halves, shared=greedy, attention=array)
    assert found == layer(halves, shared=replace(SHARED, exchange_multiprocessors=0.0), attention=array)
    assert found.total_s < layer(whole, shared=greedy, attention=array).total_s


def test_a_lone_prompt_is_one_ranks():
    """Its rank has all 64 tokens around attention, 24 units, 1 of its router; each rank 32 copies of two experts, 12 units."""
    model = served(shards=replace(FOUR, node=4.0))
    alone, four = prefill_pass(model, 1.0, 64.0), prefill_pass(model, 4.0, 64.0)
    assert alone.weights_s == pytest.approx(3 * (24 + 24 + 1))
    assert alone.attention_s == pytest.approx(four.attention_s)
    # It sends as much as each of four does, and these are sent as much as they send.
    assert alone.reductions_s == pytest.approx(four.reductions_s)
    # Of two sequences in a decode step each is a rank's: no rank has half of one.
    assert decode_pass(model, 2.0, 64.0).attention_s == pytest.approx(decode_pass(model, 4.0, 64.0).attention_s)


def test_prompts_that_come_by_chance_wait_for_the_busiest_group():
    """Of 16 prompts on four groups, 4 + 1.5 x 2 are the busiest's, as of 16/7 even groups; a lone one leaves three idle."""
    model = served(shards=replace(FOUR, group_deviations=1.5))
    assert even_groups(model, 16.0) == pytest.approx(16 / 7)
    assert even_groups(model, 1.0) == 1.0
    assert even_groups(model, np.array([0.5, 16.0])) == pytest.approx([1.0, 16 / 7])
    # The busiest group's step has no more than it has room for, and the mean group's no more than the busiest's.
    assert even_groups(model, 16.0, 5.0) == pytest.approx(16 / 5)
    assert even_groups(model, 16.0, np.array([4.0, 9.0])) == pytest.approx([4, 16 / 7])


def test_groups_whose_steps_are_full_wait_for_nobody():
    """Four groups with a part of 64 tokens each: chance gives none of them two, as it does where whole waves are dealt out."""
    chance, even = (served(shards=replace(FOUR, group_deviations=each)) for each in (1.5, 0.0))

    def added_s(model, tokens):
        return mixed_prefill_s(model, decode_pass(model, 4.0, 64.0), 4.0, 256.0, tokens, 64.0)

    assert added_s(chance, 256.0) == added_s(even, 256.0)
    assert added_s(chance, 320.0) > added_s(even, 320.0)
    # Two parts are two groups', and one group's by chance if its step had room for both.
    assert added_s(chance, 128.0) == added_s(even, 128.0)


def test_prompts_beside_a_decode_step_dispatch_once_to_a_rank():
    model = served()
    step = decode_pass(model, 4.0, 64.0)
    joined_s = mixed_prefill_s(model, step, 4.0, 64.0, 256.0)
    layer_s = step.attention_s / 3
    both = layer_time(model, 260.0, lambda share: share * layer_s)
    added_s = 3 * (both.products_s + both.elementwise_s + both.sent_s) - step.weights_s - step.elementwise_s - step.reductions_s
    assert joined_s > added_s > 0


# Latent attention.

LATENT = LatentShape(query_rank=UNIT, key_rank=2 * UNIT, plain_dim=UNIT, rotary_dim=UNIT, value_dim=2 * UNIT)


def test_products_of_latent_attention():
    """Of four heads, two on each rank; the residual stream is 128 wide.

    Compress queries to 64, and keys and values to 192: 1 x 4 x 2; expand queries to 2 x 128: 1 x 4 x 1; keys and values to
    2 x 192: 1 x 6 x 2; output 1 x 2 x 4. A decode step has, for each of two heads, 128 x 64 and 128 x 128 instead: 2 x (2 + 4).
    """
    two = Shards(2.0, 1.0, 8.0, 2.0)
    model = served(replace(DENSE, latent=LATENT), shards=two)
    load = busiest_rank(EXPERTS, two, 64.0)
    assert layer_products_s(model, 64.0, load)[0] == pytest.approx(2 + 4 + 6 + 12 + 8)
    assert layer_products_s(model, 64.0, load, decoding=True)[0] == pytest.approx(2 + 4 + 6 + 2 * (2 + 4) + 8)
    # Passes between: 5 bytes of 2 x (2 x 128 + 128) elements of heads, and 64 + 128 + 64 that each rank repeats: 1024.
    plain = served(replace(DENSE, head_dim=4 * UNIT), shards=two)
    assert elementwise_layer_s(model, 64.0) == pytest.approx(elementwise_layer_s(plain, 64.0))
    mixed = replace(LATENT, key_rank=np.array([2 * UNIT, 0.0]))
    either = served(replace(DENSE, latent=mixed), shards=two)
    assert layer_products_s(either, 64.0, load)[0] == pytest.approx([32, 8 + 4])


def test_all_heads_of_latent_attention_share_one_vector():
    """16 heads times 64 keys of 128 sequences, 4 x 96 FLOP each at half the peak, and 2 x 96 / 2 elements of 2 bytes a key."""
    model = served()
    heads = AttentionHeads(16.0, 1.0, 48.0, 2.0, 0.0, 96.0, 1.0)
    found_s = decode_attention_s(model.kernels.decode, model.kernels.attention, 128.0, 64.0, heads)
    read_s, multiply_s = 2 * 128 * 64 * 48 * 2 / 16384, 4 * 128 * 16 * 64 * 96 / (0.5 * PEAK)
    assert found_s == pytest.approx((read_s**2 + multiply_s**2) ** 0.5)
    assert PRODUCTS.efficiency == 1


# Runs that end.


def test_equal_answers_that_start_together_end_together():
    """Ten places of steps that take 1 s, answers of 100 tokens: 100 s a wave, a tenth of a request a second."""
    batch = Batch(np.ones(10), np.zeros(10), np.zeros(10))
    assert run_per_s(batch, Answers(100.0, 0.0), 1000.0) == pytest.approx(0.1, rel=0.06)
    assert run_per_s(batch, Answers(100.0, 0.0), 1e6) == pytest.approx(0.1, rel=1e-3)


def test_a_run_lasts_as_long_as_its_longest_answer():
    batch = Batch(np.ones(1000), np.zeros(1000), np.zeros(1000))
    spread = Answers(100.0, 1.0)
    alone_s = spread.longest(1000.0)
    assert spread.longer(np.array([0.0, 100.0])) == pytest.approx([1, np.exp(-1)], rel=0.01)
    # Steps last as long whatever is under way: a thousand requests at once take the longest answer's.
    assert run_per_s(batch, spread, 1e-9, 1000.0) == pytest.approx(1000 / alone_s, rel=0.05)
    assert run_per_s(batch, spread, 1e-9, 1.0) < run_per_s(batch, spread, 1e5) < 10
    # Prompts are computed before the end, all of them: none is left to the batch that empties.
    prompts = replace(batch, joined_s=np.full(1000, 0.01))
    longer_s = [2000 / run_per_s(each, spread, 1e-9, 2000.0) for each in (batch, prompts)]
    assert longer_s[1] - longer_s[0] == pytest.approx(2000 * 0.01)
    older = replace(batch, aged_s=np.full(1000, 1e-3))
    assert run_per_s(older, spread, 1e4) < run_per_s(batch, spread, 1e4)


def test_a_run_whose_requests_arrive_ends_with_the_last_answer():
    """Ten equal answers of 100 tokens under way, 0.01 s each: the last has all of 1 s, and a tenth for its tail, to go."""
    batch, equal = Batch(np.full(20, 0.01), np.zeros(20), np.zeros(20)), Answers(100.0, 0.0)
    drained_s = equal.longest(10.0) * 0.01
    assert 1.0 <= drained_s < 1.1
    assert completed_per_s(batch, equal, 10.0, 10.0, 9.0) == pytest.approx(10 * 9 / (9 + drained_s))
    # A thousand requests at ten a second arrive in 100 s, though nine are asked for.
    assert completed_per_s(batch, equal, 10.0, 10.0, 9.0, 1000.0) == pytest.approx(10 * 100 / (100 + drained_s))
