"""Exchanges between ranks: the alpha-beta model, NCCL's protocols and the choice between them, trees across nodes."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from mlsysim.physics.kernels.alpha_beta import (
    all_reduce_s,
    all_to_all_s,
    distinct_targets,
    reduce_scatter_s,
    ring_bandwidth_Bps,
)
from mlsysim.physics.kernels.collectives import (
    CollectiveCoefficients,
    FabricCoefficients,
    SharedCollectives,
    Tuner,
    collective_s,
    hierarchical_all_reduce_s,
)
from mlsysim.physics.kernels.roofline import roofline_s


def test_roofline():
    """6 FLOP at 2 FLOP/s, 20 bytes at 5 B/s."""
    assert (roofline_s(6.0, 20.0, 2.0, 5.0), roofline_s(6.0, 10.0, 2.0, 5.0)) == (4, 3)


def test_rings():
    """3 steps of a fourth of 8 bytes at 2 B/s, 0.5 s each; an all-reduce goes around twice."""
    assert reduce_scatter_s(8.0, 4.0, 2.0, 0.5) == 3 + 1.5
    assert all_reduce_s(8.0, 4.0, 2.0, 0.5) == 9
    assert (reduce_scatter_s(8.0, 4.0, 2.0), all_reduce_s(8.0, 4.0, 2.0)) == (3, 6)


def test_all_to_alls():
    """24 bytes evenly to 8 ranks, 4 of them in the node: 3/8 at 3 B/s beside 1/2 at 2 B/s, thinned three times."""
    assert distinct_targets(4.0, 2.0) == 4 * (1 - (3 / 4) ** 2)
    assert all_to_all_s(24.0, 8.0, 4.0, 3.0, inf) == 3
    assert all_to_all_s(24.0, 8.0, 4.0, 3.0, 2.0) == 6
    assert all_to_all_s(24.0, 8.0, 4.0, 3.0, 2.0, 3.0) == 18
    # Two copies reach 8 (1 - (7/8)^2) = 1.875 ranks and 2 (1 - 1/4) = 1.5 nodes.
    assert all_to_all_s(24.0, 8.0, 4.0, 3.0, inf, 1.0, 2.0) == pytest.approx(3 * 1.875)
    assert all_to_all_s(24.0, 8.0, 4.0, inf, 2.0, 1.0, 2.0) == pytest.approx(6 * 1.5)


def test_rings_across_nodes():
    """Two cards of 5 B/s each, no more than the link of 8; a ring inside a node has the link."""
    assert ring_bandwidth_Bps(True, 1.0, 8.0, 5.0) == 5
    assert ring_bandwidth_Bps(True, 2.0, 8.0, 5.0) == 8
    assert ring_bandwidth_Bps(False, 1.0, 8.0, 5.0) == 8


SHARED = SharedCollectives(
    rails=4.0,
    ll_share=0.5,
    ll_spread=1.0,
    ll_channel_B=6.0,
    copy=2.0,
    overlap=1.0,
    switch_steps=3.0,
    switch_share=0.5,
    exchange_step_s=4.0,
    exchange_ll_Bps=8.0,
)
# NCCL believes LL to take 1 + k + W / 6, LL128 1 + 2 k + W / 12, simple 5 + 3 k + W / 24; the switch cannot reduce.
TUNER = Tuner(1.0, 1.0, 1.0, 2.0, 5.0, 3.0, 2.0, 6.0, 12.0, 24.0, 0.0)
DEVICE = CollectiveCoefficients(1.0, 0.5, 2.0, 10.0, 20.0, 5.0, TUNER, SHARED)


def tuned(**changed):
    return replace(DEVICE, tuner=replace(TUNER, **changed))


LL, LL128, SIMPLE = tuned(ll_base_s=-100.0), tuned(ll128_base_s=-100.0), tuned(simple_base_s=-100.0)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
def test_a_gather_by_each_protocol(kind):
    """24 bytes on 4 ranks: 3 steps, 18 bytes on the wire at 10 B/s, a copy of 6 at twice that: 2.1 s; fill sqrt(5 x 1.8) = 3.

    LL: (1 + 3 x 0.5) (1 + 24 / (24 + 4 x 6)) + 24 / (0.5 x 10). Others take their steps and the wire after each other here.
    """
    assert collective_s(kind, 24.0, 4.0, LL) == pytest.approx(2.5 * 1.5 + 4.8)
    assert collective_s(kind, 24.0, 4.0, LL128) == pytest.approx(1 + 3 * 0.5 * 1.9 / 0.6 + 2.1 / 0.92 + 3)
    assert collective_s(kind, 24.0, 4.0, SIMPLE) == pytest.approx(1 + 3 * 2 + 2.1 + 3)


def test_an_all_reduce_goes_around_twice():
    """6 steps, 36 bytes: wire 3.6 + 0.3 s, fill sqrt(18); LL also writes 6 bytes of its own."""
    assert collective_s("all_reduce", 24.0, 4.0, LL) == pytest.approx((1 + 6 * 0.5) * 1.5 + 42 / 5)
    assert collective_s("all_reduce", 24.0, 4.0, SIMPLE) == pytest.approx(1 + 6 * 2 + 3.9 + 18**0.5)


def test_a_pair_and_one_rank():
    """Two ranks see 20 B/s: one step of 12 bytes, a copy of 12 at twice the rate: 0.9 s; fill sqrt(5 x 0.6)."""
    assert collective_s("all_gather", 24.0, 2.0, SIMPLE) == pytest.approx(1 + 2 + 0.9 + 3**0.5)
    three = 1 + 2 * 2 + (16 + 4) / 10 + (5 * 1.6) ** 0.5
    assert collective_s("all_gather", 24.0, 3.0, SIMPLE) == pytest.approx(three)
    assert collective_s("all_gather", 24.0, 1.0, SIMPLE) == 0
    assert collective_s("all_gather", 24.0, np.array([1.0, 3.0]), SIMPLE).tolist() == pytest.approx([0, three])
    with pytest.raises(ValueError, match="kind = 'gather': expected one of all_reduce, all_gather, reduce_scatter, all_to_all"):
        collective_s("gather", 24.0, 2.0, SIMPLE)


def test_steps_hide_behind_the_wire():
    """A norm of 2: steps of 6 s and a wire of 2.1 s take sqrt(36 + 4.41) s."""
    beside = replace(SIMPLE, shared=replace(SHARED, overlap=2.0))
    assert collective_s("all_gather", 24.0, 4.0, beside) == pytest.approx(1 + (36 + 2.1**2) ** 0.5 + 3)


@pytest.mark.parametrize(
    ("device", "same_as"),
    [
        # Of 24 bytes, 18 on the wire: LL 1 + 3 + 3 = 7, LL128 1 + 6 + 1.5 = 8.5, simple 5 + 9 + 0.75 = 14.75.
        (DEVICE, LL),
        (tuned(ll_base_s=2.4), LL),  # 8.4
        (tuned(ll_base_s=2.6), LL128),
        (tuned(ll_step_s=1.6), LL128),
        (tuned(ll_Bps=3.9), LL128),  # 1 + 3 + 4.6 = 8.6
        (tuned(ll_base_s=inf, ll128_base_s=7.2), LL128),  # 14.7
        (tuned(ll_base_s=inf, ll128_base_s=7.3), SIMPLE),
        (tuned(ll_base_s=inf, ll128_step_s=4.1), SIMPLE),  # 1 + 12.3 + 1.5 = 14.8
        (tuned(ll_base_s=inf, ll128_Bps=2.0), SIMPLE),  # 1 + 6 + 9
        (tuned(ll_base_s=8.8, ll128_base_s=inf), SIMPLE),  # 8.8 + 3 + 3 = 14.8
        (tuned(simple_base_s=-3.0), SIMPLE),  # -3 + 9 + 0.75 = 6.75
        (tuned(simple_base_s=-2.0), LL),  # 7.75
        (tuned(simple_step_s=0.4), SIMPLE),  # 5 + 1.2 + 0.75 = 6.95
        (tuned(simple_step_s=0.4, link_Bps=18.0), LL),  # 5 + 1.2 + 1 = 7.2
    ],
)
def test_the_protocol_that_nccl_takes(device, same_as):
    """The one that it believes to be the fastest, be it so or not."""
    quick = replace(device, ll_step_s=0.0, simple_step_s=0.0)
    expected = collective_s("all_gather", 24.0, 4.0, replace(same_as, ll_step_s=0.0, simple_step_s=0.0))
    assert collective_s("all_gather", 24.0, 4.0, quick) == expected


def test_no_larger_message_is_faster():
    """NCCL stays with LL up to 36 bytes on the wire: 4 + 36 / 6 = 7 + 36 / 12. LL at a tenth: 3.75 + 24 s for 18.

    LL128 takes for 36 of them 4.75 s of steps, (36 + 6) / 10 / 0.92 s of wire and sqrt(5 x 3.6) to fill.
    """
    slow = replace(DEVICE, shared=replace(SHARED, ll_share=0.1))
    first = 1 + 4.75 + 4.2 / 0.92 + 18**0.5
    assert collective_s("all_gather", 24.0, 4.0, slow) == pytest.approx(first)
    assert collective_s("all_gather", 48.0, 4.0, slow) == pytest.approx(first)
    assert collective_s("all_gather", 8.0, 4.0, slow) == pytest.approx(2.5 * 1.25 + 8), "2 bytes a rank, of channels of 6"


# The switch reduces at 0.8 of a link; NCCL believes it to take 2 + S / (0.8 x 24 x 7/8).
SWITCH = tuned(switch_share=0.8, ll_base_s=1e3, ll128_base_s=1e3, simple_base_s=1e3)


def test_an_all_reduce_in_the_switch():
    """56 bytes on 8 ranks at 0.5 x 0.8 x 10 x 7/8 = 3.5 B/s: 16 s; three steps of 2 s, fill sqrt(5 x 16)."""
    in_switch = 1 + 3 * 2 + 16 + 80**0.5
    assert collective_s("all_reduce", 56.0, 8.0, SWITCH) == pytest.approx(in_switch)
    ring = collective_s("all_reduce", 56.0, 8.0, SIMPLE)
    simple = replace(SWITCH, tuner=replace(SWITCH.tuner, simple_base_s=999.0 - 100))
    assert collective_s("all_reduce", 56.0, 8.0, simple, switch_reduces=False) == pytest.approx(ring)
    # Of 4 ranks a ring moves 2 x 3/4 of the tensor, the switch 0.8 x 3/4 at a time: 0.6 < 4 / 6.
    few = replace(SWITCH, tuner=replace(SWITCH.tuner, simple_base_s=899.0))
    assert collective_s("all_reduce", 24.0, 4.0, few) == pytest.approx(collective_s("all_reduce", 24.0, 4.0, SIMPLE))
    assert collective_s("all_gather", 56.0, 8.0, simple) == pytest.approx(collective_s("all_gather", 56.0, 8.0, SIMPLE))


@pytest.mark.parametrize(
    ("switch_s", "seconds"),
    [(77.9, 1 + 3 * 2 + 16 + 80**0.5), (82.0, 1 + 14 * 2 + (98 + 7 / 2) / 10 + 7)],
)
def test_nccl_takes_the_switch_where_it_believes_it_faster(switch_s, seconds):
    """Ring: 35.25 + 14 x 3 + 98 / 24 = 81.33 s; switch: 77.9 + 56 / (0.8 x 24 x 7/8) = 81.23 s, or 85.33."""
    device = tuned(switch_share=0.8, ll_base_s=1e3, ll128_base_s=1e3, simple_base_s=35.25, switch_s=switch_s)
    assert collective_s("all_reduce", 56.0, 8.0, device) == pytest.approx(seconds)
    many = collective_s("all_reduce", 56.0, np.array([8.0, 8.0]), device, np.array([True, False]))
    assert many.tolist() == pytest.approx([seconds, 46.15])


def test_all_to_alls_of_a_domain():
    """24 bytes, 6 to each of three others: LL two steps of 0.5, 6 / 8 of a channel, 18 / 5; large ones 4 s and the wire."""
    assert collective_s("all_to_all", 24.0, 4.0, DEVICE) == pytest.approx(1 + 1 + 0.75 + 3.6)
    most = 16384.0  # of LL
    larger_s = 1 + 4 + (3 * most + most / 2) / 10 + (5 * 3 * most / 10) ** 0.5
    assert collective_s("all_to_all", 4 * most, 4.0, DEVICE) == pytest.approx(larger_s), "LL is slower here"
    fast = replace(DEVICE, shared=replace(SHARED, ll_share=2.0, exchange_ll_Bps=32.0))
    assert collective_s("all_to_all", 4 * most, 4.0, fast) == pytest.approx(1 + 1 + most / 32 + 3 * most / 20)
    part = most + 1000
    large_s = 1 + 4 + (3 * part + part / 2) / 10 + (5 * 3 * part / 10) ** 0.5
    assert collective_s("all_to_all", 4 * part, 4.0, fast) == pytest.approx(large_s)


FABRIC = FabricCoefficients(level_s=0.25, efficiency=0.5, fill_s=0.0)


@pytest.mark.parametrize(
    ("domains", "ranks", "seconds"),
    [
        # Two domains of 4: inside 24 x 6 / (10 x 4) = 3.6 s; 24 bytes over half of 4 cards of 3 B/s: 4 s; one level, up and
        # down; 2 x 7 steps of 0.5.
        (2.0, 4.0, 1 + 7 + 2 * 0.25 + 3.6 + 4),
        # Eight: 48 bytes, three levels, 2 x 31 steps.
        (8.0, 4.0, 1 + 31 + 2 * 3 * 0.25 + 3.6 + 8),
        # Five domains are three levels deep, too.
        (5.0, 4.0, 1 + 19 + 2 * 3 * 0.25 + 3.6 + 8),
        # Three of two ranks: 24 / 10 inside; 48 bytes over one card's worth; two levels, 2 x 5 steps.
        (3.0, 2.0, 1 + 5 + 2 * 2 * 0.25 + 2.4 + 16),
        # One rank a domain has its own card and nothing to reduce inside.
        (2.0, 1.0, 1 + 1 + 0.5 + 24 / (0.5 * 3)),
        # Eight ranks use four cards, inside 24 x 14 / 80 = 4.2 s.
        (2.0, 8.0, 1 + 15 + 0.5 + 4.2 + 4),
    ],
)
def test_all_reduces_across_domains(domains, ranks, seconds):
    found = hierarchical_all_reduce_s(24.0, domains, ranks, 3.0, DEVICE, FABRIC)
    assert found == pytest.approx(seconds)
    assert hierarchical_all_reduce_s(24.0, np.array([domains]), ranks, 3.0, DEVICE, FABRIC) == pytest.approx([seconds])


def test_pipelines_across_domains_fill():
    """Wire 7.6 s: a level takes 0.16 x sqrt(7.6) / (sqrt(7.6) + 0.4) to fill."""
    root = 7.6**0.5
    filled = hierarchical_all_reduce_s(24.0, 2.0, 4.0, 3.0, DEVICE, replace(FABRIC, fill_s=0.16))
    assert filled == pytest.approx(16.1 + 0.16 * root / (root + 0.4))
    assert hierarchical_all_reduce_s(0.0, 2.0, 4.0, 3.0, DEVICE, FABRIC) == 1 + 7 + 0.5


def test_domains_that_reduce_in_their_switch():
    """56 bytes at 3.5 B/s: 16 s; two domains of 8 over half of four cards: 56 / 6; never more cards than ranks."""
    found = hierarchical_all_reduce_s(56.0, 2.0, 8.0, 3.0, SWITCH, FABRIC)
    assert found == pytest.approx(1 + 15 + 0.5 + 16 + 56 / 6)
    many = replace(FABRIC, efficiency=5.0)
    assert hierarchical_all_reduce_s(56.0, 2.0, 8.0, 3.0, SWITCH, many) == pytest.approx(16.5 + 16 + 56 / 24)
