"""Expert layers, latent attention and adapters: the products of a rank, the bytes between them, what ranks exchange."""

from dataclasses import replace

import pytest
from plain import links, machine, plan

from mlsysim.physics.layer.adapters import ADDED_B, LAUNCHED, adapter_products_s
from mlsysim.physics.layer.experts import (
    ExpertShape,
    exchange_s,
    expert_backward,
    expert_forward,
    local_experts,
    routed_rows,
)
from mlsysim.physics.layer.latent_attention import (
    NO_LATENT,
    LatentShape,
    latent_elements,
    latent_head_dim,
    latent_products,
)

# 8 experts, 2 a token, 12 wide, and a shared one of 20; the busiest rank has half as many tokens again.
SHAPE = ExpertShape(experts=8.0, per_token=2.0, ffn=12.0, shared_ffn=20.0, layers=0.5, imbalance=1.5)
SPLIT = plan(tp=2.0, dp=4.0, ep=4.0, micro_batch_tokens=16.0)
HIDDEN = 30.0
WHOLE = replace(SPLIT, expert_tp=1.0, sequence_parallel=1.0)


class Products:
    """Takes ``each_s`` for every product and remembers its sizes."""

    def __init__(self, each_s):
        self.each_s, self.seen = each_s, []

    def __call__(self, *sizes):
        self.seen.append(sizes)
        return self.each_s


def passed(one_pass, split=SPLIT, shape=SHAPE, **options):
    product, routing = Products(1.0), Products(100.0)
    found = one_pass(shape, HIDDEN, split, product, routing, options.pop("quantised", False), **options)
    return found, product.seen, routing.seen


def test_what_a_rank_holds():
    """16 tokens x 2 copies x 1.5; two ranks share each of 8 / 4 experts. Whole experts have half of the tokens each."""
    assert (routed_rows(SHAPE, SPLIT), local_experts(SHAPE, SPLIT)) == (48, 2)
    assert routed_rows(SHAPE, WHOLE) == 24
    assert local_experts(SHAPE, replace(SPLIT, ep=16.0)) == 1


def test_forward():
    """48 rows on two experts, half of 12 wide: up and gate, down; the shared one, half of 20; scores of 8 experts.

    Bytes: 6 of 48 x 6 + 16 x 10 elements; 4 x 30 of 16 tokens, 32 copies and twice 48 rows; 24 of 16 x 8 scores.
    """
    found, products, routed = passed(expert_forward)
    assert products == [(24, 12, 30, 2), (24, 30, 6, 2), (16, 20, 30, 1), (16, 30, 10, 1)]
    assert routed == [(16, 8, 30, 1)]
    assert found.products_s == 4 + 100
    moved_B = 6 * (288 + 160) + 4 * 30 * (16 + 32 + 96) + 24 * 128
    assert found.moved_B == moved_B
    assert passed(expert_forward, quantised=True)[0].moved_B == moved_B + 4 * 48 * (30 + 6)
    assert passed(expert_forward, routed_B=3.0)[0].moved_B == moved_B + 3 * 48 * 30


def test_backward():
    """Gradients of inputs and of weights of each product; 10 bytes of activations instead of 6."""
    found, products, routed = passed(expert_backward)
    assert products == [
        *((24, 30, 12, 2), (12, 30, 24, 2), (24, 6, 30, 2), (30, 6, 24, 2)),
        *((16, 30, 20, 1), (20, 30, 16, 1), (16, 10, 30, 1), (30, 10, 16, 1)),
    ]
    assert routed == [(16, 30, 8, 1), (8, 30, 16, 1)]
    assert found.products_s == 8 + 200
    moved_B = 10 * (288 + 160) + 4 * 30 * (16 + 32 + 96) + 24 * 128
    assert found.moved_B == moved_B
    assert passed(expert_backward, quantised=True)[0].moved_B == moved_B + 4 * 48 * (30 + 2 * 6)
    assert passed(expert_backward, routed_B=3.0)[0].moved_B == moved_B + 3 * 48 * 30


def test_whole_experts_and_tokens_divided_before_routing():
    """24 rows on two experts of 12; 8 tokens of a rank, 16 copies: 4 x 30 x (8 + 16 + 48) + 24 x 8 x 8."""
    found, products, routed = passed(expert_forward, WHOLE)
    assert products[:2] == [(12, 24, 30, 2), (12, 30, 12, 2)]
    assert routed == [(8, 8, 30, 1)]
    assert found.moved_B == 6 * (24 * 12 + 160) + 4 * 30 * (8 + 16 + 48) + 24 * 64
    back, products, routed = passed(expert_backward, WHOLE)
    assert products[:2] == [(12, 30, 24, 2), (24, 30, 12, 2)]
    assert routed == [(8, 30, 8, 1), (8, 30, 8, 1)]
    assert back.moved_B == found.moved_B + 4 * (24 * 12 + 160)


@pytest.mark.parametrize(("one_pass", "seconds"), [(expert_forward, 2 + 100), (expert_backward, 4 + 200)])
def test_no_shared_expert(one_pass, seconds):
    assert passed(one_pass, shape=replace(SHAPE, shared_ffn=0.0))[0].products_s == seconds


def exchange(split=SPLIT, net=None, shape=SHAPE, **options):
    return exchange_s(shape, HIDDEN, split, net or machine(), links(2.0), **options)


def test_an_exchange_within_a_node():
    """2 x 30 x 16 x 1.5 = 1440 bytes, twice, to 3 of 4 ranks at 2 B/s; 2 x 30 x 48 rows gathered by two; half of the layers.

    Sent once, two copies reach 4 (1 - (3/4)^2) = 1.75 ranks.
    """
    assert exchange() == (3 / 4 * 2880 + 1 / 2 * 2880) / 2 / 2
    assert exchange(sent_once=1.0) == (3 / 4 * 1440 * 1.75 + 1440) / 2 / 2
    assert exchange(replace(SPLIT, sequence_parallel=1.0)) == (3 / 4 * 1440 + 1440) / 2 / 2
    assert exchange(hidden_share=0.5, two_batches=1.0) == exchange(), "what runs inside a node hides nowhere"
    assert exchange(shape=replace(SHAPE, experts=0.0)) == 0


@pytest.mark.parametrize(
    ("options", "local", "remote"),
    [
        # Half of 2880 bytes stays in the node, for 3 of 4 ranks there; 1440 x 2 x 1/2 leave it, at 1 B/s.
        ({}, 3 / 4 * 1440 / 2, 1440),
        # Two copies reach 8 (1 - (7/8)^2) = 1.875 of 8 ranks, and 2 (1 - 1/4) = 1.5 of two nodes.
        ({"sent_once": 1.0}, 3 / 4 * 1440 * 1.875 / 2 / 2, 1440 * 1.5 / 2),
    ],
)
def test_an_exchange_across_nodes(options, local, remote):
    """The network's cards work beside the links; a share of what they need longer hides under another micro-batch."""
    split = replace(SPLIT, ep=8.0, dp=8.0)
    gathered = 1440 / 2
    assert exchange(split, **options) == pytest.approx((remote + gathered) / 2)
    thin = machine(oversubscription=2.0, inter_Bps=4.0)
    assert exchange(split, thin, **options) == pytest.approx((max(local, remote / 2) + gathered) / 2)
    chunked = replace(split, virtual_stages=2.0)
    for hides in ((chunked, {}), (split, {"two_batches": 1.0})):
        found = exchange(hides[0], hidden_share=0.25, **options, **hides[1])
        assert found == pytest.approx((local + 0.75 * (remote - local) + gathered) / 2)
    assert exchange(split, hidden_share=0.25, **options) == exchange(split, **options), "one chunk has nothing beside it"


LATENT = LatentShape(query_rank=6.0, key_rank=4.0, plain_dim=2.0, rotary_dim=3.0, value_dim=5.0)


def test_latent_attention():
    """8 heads on two ranks: queries from 6 to 4 x (2 + 3), keys to 4 + 3 and to 4 x (2 + 5), out of 4 x 5."""
    assert latent_products(LATENT, HIDDEN, 8.0, 2.0) == (
        *((1, 6, 30), (1, 20, 6)),
        *((1, 7, 30), (1, 28, 4)),
        (1, 30, 20),
    )
    assert latent_products(replace(LATENT, query_rank=0.0), HIDDEN, 8.0, 2.0)[:2] == ((0, 1, 30), (1, 20, 30))
    assert latent_elements(LATENT, 8.0, 2.0) == 4 * (5 + 5 + 5) + 6 + 4 + 3
    assert latent_head_dim(LATENT) == (5 + 5) / 2
    assert (LATENT.used, NO_LATENT.used) == (True, False)
    # Where there is none, products of width one stand in, which others leave out.
    assert latent_products(NO_LATENT, HIDDEN, 8.0, 2.0) == ((0, 1, 30), (1, 1, 30), (1, 1, 30), (1, 1, 1), (1, 30, 1))


def test_adapters():
    """7 tokens, 5 inputs to a rank of 3 to 4 outputs; the gradients of both inputs and of both matrices."""
    products = Products(1.0)
    assert adapter_products_s(7.0, 4.0, 5.0, 3.0, products) == (2, 4)
    forward, inputs, weights = products.seen[:2], products.seen[2:4], products.seen[4:]
    assert forward == [(7, 3, 5, 1), (7, 4, 3, 1)]
    assert inputs == [(7, 3, 4, 1), (7, 5, 3, 1)]
    assert weights == [(4, 3, 7, 1), (3, 5, 7, 1)]
    none = Products(1.0)
    adapter_products_s(7.0, 4.0, 5.0, 0.0, none)
    assert none.seen[0] == (7, 1, 5, 1)
    assert (ADDED_B, LAUNCHED) == ((2 + 2) + (2 + 2 + 2), 4 / 8), "scaled: read, written; added: two read, one written"
