"""Data on its way, networks by their shape, answers drawn several times, and zeros in weights: values worked by hand."""

import math

import pytest

from mlsysim.physics.operations.compression import masked_B, structured_B
from mlsysim.physics.operations.pipelines import balanced_tokens, preparation_s, required_Bps, stalled_share
from mlsysim.physics.operations.sampling import pass_at_k
from mlsysim.physics.operations.topology import dragonfly, fat_tree, rails, torus


def test_pipelines():
    """3 accelerators x 5 records x 7 bytes; 4 of 10 records come; 12 samples by 3 workers of 2 a second."""
    assert required_Bps(3.0, 5.0, 7.0) == 105
    assert (stalled_share(10.0, 4.0), stalled_share(4.0, 10.0)) == (0.6, 0)
    assert preparation_s(12.0, 2.0, 3.0) == 2


def test_balance_of_a_stream():
    """2 P B / R = P b / BW: with 2-byte weights at 5 B/s and 30 FLOP/s after 6 tokens."""
    assert balanced_tokens(2.0, 5.0, 30.0) == 6


def test_pass_at_k():
    """C(4, 2) = 6 pairs of 4 answers; without the 1 right one C(3, 2) = 3. As many draws as wrong answers and one are sure."""
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5, rel=1e-14)
    assert pass_at_k(4, 0, 2) == 0
    assert pass_at_k(4, 2, 3) == 1
    assert pass_at_k(4, 4, 1) == 1
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, rel=1e-9)


def test_bytes_of_zeros():
    """16 elements of 2 bytes: a quarter remains, and 16 bits of mask; 1 of 4 of 2 bytes and 2 bits."""
    assert masked_B(16.0, 2.0, 0.75) == 8 + 2
    assert structured_B(16.0, 2.0, 1, 4) == 4 * 2.25
    assert structured_B(16.0, 2.0, 2, 3) == pytest.approx(16 * 2 / 3 * 2.25)


def test_torus():
    """A ring of 6: 2 links cross each way, 3 + 3; distances 1, 1, 2, 2, 3. With a row of 2: 4 cross, and one more link away."""
    ring = torus((6,))
    assert (ring.injection, ring.bisection, ring.half, ring.diameter, ring.sending_links) == (2, 2, 3, 3, 12)
    assert ring.mean_links == pytest.approx(9 / 5)
    assert ring.bisection_share == pytest.approx(1 / 3)
    ladder = torus((6, 2))
    assert (ladder.injection, ladder.bisection, ladder.half, ladder.diameter) == (3, 4, 6, 4)
    assert ladder.mean_links == pytest.approx((12 * 9 / 6 + 12 / 2) / 11), "9/6 along the ring, 1/2 across, of 12 with itself"
    odd = torus((3,))
    assert (odd.half, odd.bisection, odd.mean_links) == (1, 2, 1)


def test_all_to_all_of_a_ring():
    """Of 6 on a ring each sends 5 messages on 2 links; 3 x 3 cross on 2; 30 paths of 9/5 links share 12: the same 4.5."""
    messages, _ = torus((6,)).all_to_all_links()
    assert messages == 4.5
    assert torus((2,)).all_to_all_links() == (1.0, "injection")


def test_fat_tree():
    """16 endpoints of 4-port switches, two a leaf, four a pod: 1 path of 2 links, 2 of 4, 12 of 6; a third of the rate up."""
    tree = fat_tree(16, 4, 3.0)
    assert (tree.diameter, tree.half, tree.injection) == (6, 8, 1)
    assert tree.bisection == pytest.approx(8 / 3)
    assert tree.mean_links == pytest.approx((2 + 2 * 4 + 12 * 6) / 15)
    assert tree.sending_links == pytest.approx(2 * (16 + 16 / 3 + 16 / 3))
    assert fat_tree(8, 4).diameter == 4, "2 x 2^2 endpoints need two levels"
    one = fat_tree(4, 4, 3.0)
    assert (one.diameter, one.bisection, one.mean_links) == (2, 2, 2), "a single switch is thinned by nothing"


def test_dragonfly():
    """Two endpoints a router, four routers a group, two links each to 8 other groups: 4 x 5 links between 4 and 5 groups."""
    net = dragonfly(2, 4, 2, 9)
    assert (net.endpoints, net.half, net.bisection, net.diameter) == (72, 32, 20, 5)
    assert net.mean_links == pytest.approx((1 * 2 + 6 * 3 + 64 * (3 + 2 * 3 / 4)) / 71)
    assert net.sending_links == 72 * 2 + 36 * (3 + 2)
    one = dragonfly(2, 3, 1, 1)
    assert (one.bisection, one.diameter, one.half) == (2, 3, 3), "one of three routers to the two others"
    few = dragonfly(1, 1, 4, 2)
    assert (few.bisection, few.diameter) == (1, 3), "four links, of which an endpoint fills one"


def test_rails():
    """Two nodes of 4 on rails of one switch: to the other node's 4 by 2 links or 3, within the node by one."""
    both = rails(2, 4, 8)
    assert (both.endpoints, both.half, both.bisection, both.diameter) == (8, 4, 4, 3)
    assert both.mean_links == pytest.approx((4 * 2 + 3 * 2 * 1) / 7)
    assert both.sending_links == math.inf
    assert rails(2, 1, 8).sending_links == 4
