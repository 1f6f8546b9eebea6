"""Whole passes of a served model with plain kernels: a product of 64^3 takes 1 s at the peak, 16,384 bytes take 1 s."""

from dataclasses import replace

import numpy as np
import pytest
from plain import links
from plain_served import ELEMENT_S, ENGINE, READS, SHAPE, STORES, TWO, WIDE, served, with_experts

from mlsysim.physics.layer.products import layer_products
from mlsysim.physics.layer.shape import LatentShape
from mlsysim.physics.serving.deployment import EngineCoefficients, Shards
from mlsysim.physics.serving.passes import (
    PassTime,
    decode_pass,
    mixed_prefill_s,
    prefill_pass,
)
from mlsysim.physics.serving.products import launches as launches_of


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


def test_kernels_of_prompts_that_the_host_launches_one_by_one():
    """Four products and six kernels between them, two all-reduces: 12 times 10 for each of three layers; a step has a graph."""
    engine = replace(ENGINE, kernel_s=10.0)
    prompts = prefill_pass(served(engine=engine), 1.0, 64.0)
    kernels_s = prompts.weights_s + prompts.attention_s + prompts.elementwise_s + prompts.reductions_s
    assert kernels_s + prompts.host_s == pytest.approx(3 * 120)
    assert decode_pass(served(engine=engine), 1.0, 64.0) == decode_pass(served(), 1.0, 64.0)
    # Inputs of 8 bits are quantised by four more; half of the layers have experts, whose router and sorting are five more.
    narrow = served(engine=engine, input_B=1.0)
    assert launches_of(narrow) == 16
    assert launches_of(served(with_experts(0.5), engine=engine)) == 12 + 0.5 * 5
    # What joins a step is launched, too, in the time that the step's own kernels leave.
    model, plain = served(engine=replace(ENGINE, kernel_s=20.0)), served()
    joined_s, free_s = (mixed_prefill_s(one, decode_pass(one, 4.0, 64.0), 4.0, 64.0, 64.0) for one in (model, plain))
    step = decode_pass(plain, 4.0, 64.0)
    assert joined_s == pytest.approx(3 * 240 - (step.total_s - step.head_s - step.host_s))
    assert joined_s > free_s
    # The host begins within the step before, whose last half leaves it that much less to do.
    model_step = decode_pass(model, 4.0, 64.0)
    hidden_s = mixed_prefill_s(model, model_step, 4.0, 64.0, 64.0, hidden=0.5)
    assert hidden_s == pytest.approx(joined_s - 0.5 * model_step.total_s)
    assert mixed_prefill_s(model, model_step, 4.0, 64.0, 64.0, hidden=1e3) == free_s, "no faster than its kernels"


def test_kernels_that_shared_experts_and_latent_attention_add():
    """Two products of shared experts, activation and addition; two norms and two copies, beside their own products."""
    routed, shared = (launches_of(served(with_experts(1.0, shared_ffn=width))) for width in (0.0, 64.0))
    assert shared - routed == 2 + 2
    latent = replace(SHAPE, latent=LatentShape(query_rank=32.0, key_rank=32.0, plain_dim=16.0, rotary_dim=16.0, value_dim=16.0))
    products = sum(one.share for one in layer_products(latent, 2.0, 2.0, fused=True))
    assert launches_of(served(latent)) == products + 6 + 2 + 4


def test_graphs_end_at_so_many_tokens():
    """64 tokens have a graph, 65 are launched kernel by kernel: 12 of 20 s in each of three layers, in a step of 65, too."""
    engine = replace(ENGINE, kernel_s=20.0)
    model = replace(served(engine=engine), graph_tokens=64.0)
    assert prefill_pass(model, 1.0, 64.0) == prefill_pass(served(), 1.0, 64.0)
    assert decode_pass(model, 64.0, 4.0) == decode_pass(served(), 64.0, 4.0)
    assert prefill_pass(model, 1.0, 65.0).total_s >= 720
    step, plain = decode_pass(model, 65.0, 4.0), decode_pass(served(), 65.0, 4.0)
    kernels_s = plain.weights_s + plain.attention_s + plain.elementwise_s + plain.reductions_s
    assert kernels_s + step.host_s == pytest.approx(720)
    # Each group of ranks that attends for sequences of its own has graphs of so many of its tokens.
    groups = served(engine=engine, shards=replace(TWO, attention=1.0))
    apart, free = replace(groups, graph_tokens=64.0), replace(groups, engine=ENGINE)
    assert decode_pass(apart, 128.0, 4.0) == decode_pass(free, 128.0, 4.0)
    assert decode_pass(apart, 130.0, 4.0).host_s > decode_pass(free, 130.0, 4.0).host_s
    for prompt, launched in ((60.0, False), (62.0, True)):  # beside 3 of 6 that decode
        joined_s, free_s = (mixed_prefill_s(one, decode_pass(one, 6.0, 4.0), 6.0, prompt, prompt) for one in (apart, free))
        assert (joined_s > free_s) is launched, "the busiest group has the prompt"
    both = prefill_pass(model, 1.0, np.array([64.0, 65.0])).total_s
    assert both.tolist() == [prefill_pass(model, 1.0, tokens).total_s for tokens in (64.0, 65.0)]


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
