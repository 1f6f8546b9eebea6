"""Expert layers and adapters in training: the products of a rank, the bytes between them, what ranks exchange."""

from dataclasses import replace

import pytest
from plain import links, machine, plan, served_shape

from mlsysim.physics.layer.adapters import ADDED_B, LAUNCHED, Adapters, adapted_products, adapter_parameters, adapter_products_s
from mlsysim.physics.layer.experts import exchange_s, expert_passes_B, local_experts, masked_products, routed_rows
from mlsysim.physics.layer.products import ROUTED, ROUTER, SHARED, layer_products
from mlsysim.physics.layer.shape import ExpertShape, LayerShape
from mlsysim.physics.training.layer_products import trained_products

# 8 experts, 2 a token, 12 wide, and a shared one of 20; the busiest rank has half as many tokens again.
SHAPE = ExpertShape(experts=8.0, per_token=2.0, ffn=12.0, shared_ffn=20.0, layers=0.5, imbalance=1.5)
SPLIT = plan(tp=2.0, dp=4.0, ep=4.0, micro_batch_tokens=16.0)
HIDDEN = 30.0
WHOLE = replace(SPLIT, expert_tp=1.0, sequence_parallel=1.0)


LAYER = served_shape(hidden=HIDDEN, routed=SHAPE)


def test_what_a_rank_holds():
    """16 tokens x 2 copies x 1.5; two ranks share each of 8 / 4 experts. Whole experts have half of the tokens each."""
    assert (routed_rows(SHAPE, SPLIT), local_experts(SHAPE, SPLIT)) == (48, 2)
    assert routed_rows(SHAPE, WHOLE) == 24
    assert local_experts(SHAPE, replace(SPLIT, ep=16.0)) == 1


def products(split=SPLIT, **changed):
    """The rows, sizes and number of the products of experts and of the router."""
    told = trained_products(replace(LAYER, **changed), split)
    return [(m, one.n, one.k, groups) for one, m, groups in told if one.part in (ROUTED, SHARED, ROUTER)]


def test_products_of_experts():
    """48 rows on two experts, half of 12 wide: up and gate, down; the shared one, half of 20; scores of 8 experts."""
    routed, shared = [(24, 12, 30, 2), (24, 30, 6, 2)], [(16, 20, 30, 1), (16, 30, 10, 1)]
    assert products() == [*routed, *shared, (16, 8, 30, 1)]
    assert products(routed=replace(SHAPE, shared_ffn=0.0)) == [*routed, (16, 8, 30, 1)]
    assert products(ffn_matrices=2.0)[:2] == [(24, 6, 30, 2), (24, 30, 6, 2)], "no gate"
    # Whole experts: 24 rows on two of 12; tokens that are divided before they are routed.
    assert products(WHOLE) == [(12, 24, 30, 2), (12, 30, 12, 2), *shared, (8, 8, 30, 1)]
    assert products(replace(SPLIT, micro_batch_tokens=0.5))[0][0] == 1, "an expert has a row at least"


def test_experts_in_tiles_of_one_kernel():
    """24 rows that begin anywhere in tiles of 8 meet 24 / 8 + 1 of them, less a row; 30 features fill two tiles of 16."""
    tiled = replace(SHAPE, tile_rows=8.0, tile_width=16.0)
    assert products(routed=tiled)[:2] == [(31, 12, 32, 2), (31, 32, 6, 2)]
    assert products(routed=tiled)[2:] == products()[2:], "no others"
    assert products(replace(SPLIT, ep=8.0), routed=tiled)[0] == (48, 12, 32, 1), "one expert begins with a tile"


def test_devices_of_an_accelerator_divide_the_rows_of_all_experts():
    """Each of two devices has both experts and half of the 24 rows of each; in tiles of 8, as many more of each."""
    apart = replace(SHAPE, devices=2.0)
    assert products(routed=apart)[:2] == [(12, 12, 30, 4), (12, 30, 6, 4)]
    assert products(routed=apart)[2:] == products()[2:], "no others"
    assert products(routed=replace(apart, tile_rows=8.0))[0] == (19, 12, 30, 4)
    assert products(replace(SPLIT, ep=8.0), routed=replace(apart, tile_rows=8.0))[0][0] == 24, "one expert on each"


def passes_B(split=SPLIT, **options):
    return [expert_passes_B(LAYER, split, backward=back, **{"quantised": False} | options) for back in (False, True)]


def test_passes_between_the_products_of_experts():
    """Bytes: 6 of 48 x 6 + 16 x 10 elements, backward 10; 4 x 30 of 16 tokens, 32 copies and twice 48 rows; 24 of 16 x 8
    scores. An 8-bit product reads copies: 4 bytes of its inputs.
    """
    ordered_B = 4 * 30 * (16 + 32 + 96) + 24 * 128
    assert passes_B() == [6 * (288 + 160) + ordered_B, 10 * (288 + 160) + ordered_B]
    there_B, back_B = passes_B()
    assert passes_B(quantised=True) == [there_B + 4 * 48 * (30 + 6), back_B + 4 * 48 * (30 + 2 * 6)]
    # 24 rows on two whole experts of 12; 8 tokens of a rank, 16 copies.
    assert passes_B(WHOLE)[0] == 6 * (24 * 12 + 160) + 4 * 30 * (8 + 16 + 48) + 24 * 64


def test_a_mask_of_places_puts_tokens_in_order():
    """Two sequences of 8 tokens, each with 8 x 2 x 1.5 = 24 places: tokens to places and back; 3 bytes of 16 x 24 truth values.

    Backward the gradients of both, and of the mask: 8 x 24 for each sequence. Nothing is copied in order of experts.
    """
    masked = replace(SHAPE, masked_tokens=8.0)
    there_and_back = ((24, 30, 8, 2), (8, 30, 24, 2))
    assert masked_products(masked, HIDDEN, SPLIT, backward=False) == there_and_back
    assert masked_products(masked, HIDDEN, SPLIT, backward=True) == (*there_and_back, (8, 24, 30, 2))
    alone = masked_products(masked, HIDDEN, WHOLE, backward=False)
    assert alone == ((24, 30, 8, 1), (8, 30, 24, 1)), "half of the tokens, half of the sequences"
    layer = replace(LAYER, routed=masked)
    moved = [expert_passes_B(layer, SPLIT, backward=back, quantised=False, more_B=3.0) for back in (False, True)]
    assert moved == [each * (288 + 160) + 3 * 16 * 24 + 24 * 128 for each in (6, 10)]


def test_what_a_stack_moves_beyond_fused_passes():
    """Three bytes an element of 48 rows of 30, either way."""
    assert [more - plain for more, plain in zip(passes_B(more_B=3.0), passes_B(), strict=True)] == [3 * 48 * 30] * 2


def exchange(split=SPLIT, net=None, shape=SHAPE, **options):
    return exchange_s(shape, HIDDEN, split, net or machine(), links(2.0), **options)


def test_an_exchange_within_a_node():
    """2 x 30 x 16 x 1.5 = 1440 bytes, twice, to 3 of 4 ranks at 2 B/s; 2 x 30 x 48 rows gathered by two; half of the layers.

    Sent once, two copies reach 4 (1 - (3/4)^2) = 1.75 ranks.
    """
    assert exchange() == (3 / 4 * 2880 + 1 / 2 * 2880) / 2 / 2
    assert exchange(sent_once=1.0) == (3 / 4 * 1440 * 1.75 + 1440) / 2 / 2
    assert exchange(replace(SPLIT, sequence_parallel=1.0)) == (3 / 4 * 1440 + 1440) / 2 / 2
    assert exchange(split_links=links(1.0)) == (3 / 4 * 2880 / 2 + 1 / 2 * 2880) / 2, "one axis of a torus"
    assert exchange(hidden_share=0.5, two_batches=1.0) == exchange(), "what runs inside a node hides nowhere"
    assert exchange(shape=replace(SHAPE, experts=0.0)) == 0


@pytest.mark.parametrize(
    ("options", "local", "remote"),
    [
        # Half of 2880 bytes stays in the node, for 3 of 4 ranks there; 1440 x 2 x 1/2 leave it, at 1 B/s.
        ({}, 3 / 4 * 1440 / 2, 1440),
        # Two copies reach 8 (1 - (7/8)^2) = 1.875 of 8 ranks, and 2 (1 - 1/4) = 1.5 of two nodes.
        ({"sent_once": 1.0}, 3 / 4 * 1440 * 1.875 / 2 / 2, 1440 * 1.5 / 2),
        # Neighbours: both experts of a token are 2 ranks of 8, and in 1 of the 2 nodes.
        ({"sent_once": 1.0, "in_turn": 1.0}, 3 / 4 * 1440 * 2 / 2 / 2, 1440 * 1 / 2),
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


class Products:
    """Takes a second for every product and remembers its sizes."""

    def __init__(self):
        self.seen = []

    def __call__(self, *sizes):
        self.seen.append(sizes)
        return 1.0


def test_adapters():
    """7 tokens, 5 inputs to a rank of 3 to 4 outputs; the gradients of both inputs and of both matrices."""
    products = Products()
    assert adapter_products_s(7.0, 4.0, 5.0, 3.0, 1.0, products) == (2, 4)
    forward, inputs, weights = products.seen[:2], products.seen[2:4], products.seen[4:]
    assert forward == [(7, 3, 5), (7, 4, 3)]
    assert inputs == [(7, 3, 4), (7, 5, 3)]
    assert weights == [(4, 3, 7), (3, 5, 7)]
    none = Products()
    adapter_products_s(7.0, 4.0, 5.0, 0.0, 1.0, none)
    assert none.seen[0] == (7, 1, 5)
    assert (ADDED_B, LAUNCHED) == ((2 + 2) + (2 + 2 + 2), 2 / 8), "scaled: read, written; added: two read, one written"


def test_adapters_of_several_projections():
    """Queries and values (24 + 12 of 48 outputs) each read the 30 inputs; gate and up share one; experts have none."""
    apart = Products()
    assert adapter_products_s(7.0, 36.0, 30.0, 3.0, 2.0, apart) == (2 * 2, 2 * 4)
    assert apart.seen[1] == (7, 18, 3), "each writes its part"
    dense = LayerShape(2.0, 30.0, 4.0, 2.0, 6.0, 40.0, 3.0, 100.0)
    some = Adapters(rank=2.0, qkv=0.75, qkv_readers=2.0, up=1.0, up_readers=1.0, down=1.0)
    products = layer_products(dense)
    assert [readers for _, _, readers in adapted_products(some, products)] == [2, 0, 1, 1]
    assert adapter_parameters(some, products) == 2 * ((36 + 2 * 30) + (80 + 30) + (30 + 40))
    experts = replace(dense, routed=ExpertShape(4.0, 2.0, 12.0, 8.0, 1.0))
    assert len(list(adapted_products(some, layer_products(experts)))) == 2
    assert some.launched == (2 + 1 + 1) * 2 / 8
    assert (some.gathers(1.0), some.gathers(0.0)) == (3, 1), "what is split is read whole; what is summed is written whole"
