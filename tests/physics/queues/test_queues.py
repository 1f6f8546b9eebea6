"""Queues: formulas of Erlang, Pollaczek and Khinchine, chains of two states, and what an arriving request sees."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlsysim.physics.queues.batch_queue import batch_spread, highest_load, latency_in_batches
from mlsysim.physics.queues.constant_service import ConstantService
from mlsysim.physics.queues.open_loop import OpenLoop, Spread, by_places, in_flight, last_kept, not_rare
from mlsysim.physics.queues.queueing import (
    ServiceTime,
    delay_scale_s,
    erlang_b,
    erlang_c,
    percentile_s,
    sojourn_percentile_s,
    sojourn_tail,
    sum_tail,
    wait_percentile_s,
    wait_tail,
)

exp, ln = math.exp, math.log


def test_erlang():
    """B = 2 / (1 + 2), then 4/3 / (2 + 4/3), then 0.8 / 3.8; C = B / (1 - 2/3 (1 - B))."""
    assert [erlang_b(2.0, servers) for servers in (0, 1, 2, 3)] == pytest.approx([1, 2 / 3, 0.4, 4 / 19])
    assert erlang_c(2.0, 3) == pytest.approx(4 / 19 / (1 - 2 / 3 * 15 / 19))
    assert erlang_c(0.25, 1) == 0.25, "one server is busy for its load"


def test_waits_of_those_who_wait():
    """6 s over 3 servers of which half is free: 4 s; twice that at a squared variation of 3. Half wait longer than 0."""
    assert delay_scale_s(6.0, 3, 0.5) == 4
    assert delay_scale_s(6.0, 3, 0.5, 3.0) == 8
    assert wait_tail(2.0, 0.5, 4.0) == pytest.approx(0.5 * exp(-0.5))
    assert wait_percentile_s(0.9, 0.5, 4.0) == pytest.approx(4 * ln(5))
    assert wait_percentile_s(0.4, 0.5, 4.0) == 0
    assert wait_percentile_s(0.4, 0.0, 4.0) == 0


def test_two_times_one_after_the_other():
    """Means of 2 and 1: (2 e^(-t/2) - e^-t) / (2 - 1); of 1 and 1: (1 + t) e^-t."""
    assert sum_tail(3.0, 2.0, 1.0) == pytest.approx(2 * exp(-1.5) - exp(-3))
    assert sum_tail(3.0, 1.0, 2.0) == pytest.approx(2 * exp(-1.5) - exp(-3))
    assert sum_tail(3.0, 1.0, 1.0) == pytest.approx(4 * exp(-3))
    assert sum_tail(0.0, 1.0, 2.0) == 1


def test_service_times_of_two_moments():
    """A mean of 2: constant; half of it constant; exponential; of variation 3 with balanced means, 1 / (2 share) of it each."""
    assert ServiceTime.of(2.0, 0.0) == ServiceTime(2.0, (), ())
    assert ServiceTime.of(2.0, 0.25) == ServiceTime(1.0, (1.0,), (1.0,))
    assert ServiceTime.of(2.0, 1.0) == ServiceTime(0.0, (1.0,), (2.0,))
    wide = ServiceTime.of(2.0, 3.0)
    short = (1 + math.sqrt(2 / 4)) / 2
    assert wide.shares == pytest.approx((short, 1 - short))
    assert wide.means_s == pytest.approx((1 / short, 1 / (1 - short)))
    assert wide.shift_s == 0


def test_waits_and_services():
    """Half of all wait 4 s on average; of services a fourth have a mean of 1 s, others of 2."""
    service = ServiceTime(3.0, (0.25, 0.75), (1.0, 2.0))
    after_waits = [(4 * exp(-3 / 4) - mean * exp(-3 / mean)) / (4 - mean) for mean in (1, 2)]
    tail = 0.25 * (0.5 * exp(-3) + 0.5 * after_waits[0]) + 0.75 * (0.5 * exp(-1.5) + 0.5 * after_waits[1])
    assert sojourn_tail(3.0, service, 0.5, 4.0) == pytest.approx(tail)
    assert sojourn_percentile_s(1 - tail, service, 0.5, 4.0) == pytest.approx(3 + 3)
    assert sojourn_percentile_s(0.9, ServiceTime.of(2.0, 0.0), 0.5, 4.0) == pytest.approx(2 + 4 * ln(5))
    # M/M/1 at a load of one half: twice the service time, exponential.
    assert sojourn_percentile_s(0.99, ServiceTime.of(1.0, 1.0), 0.5, 2.0) == pytest.approx(2 * ln(100))


@pytest.mark.parametrize("scale_s", [1e-3, 1.0, 1e3])
def test_percentiles_of_a_tail(scale_s):
    """An exponential time; and one that is 5 s for three of ten, else nothing."""
    looks = []

    def tail(time_s):
        looks.append(time_s)
        return exp(-time_s / 2)

    assert percentile_s(0.9, tail, scale_s) == pytest.approx(2 * ln(10), rel=1e-12)
    assert len(looks) < 30
    for share, time_s in ((0.8, 5), (0.71, 5), (0.69, 0)):
        assert percentile_s(share, lambda t: 0.3 if t < 5 else 0.0, scale_s) == pytest.approx(time_s, rel=1e-12)
    # A tail that bends: 1 / (1 + t)^2 is 1/100 at 9.
    assert percentile_s(0.99, lambda t: (1 + t) ** -2, scale_s) == pytest.approx(9, rel=1e-12)


def test_constant_service():
    """P(W <= t) = (1 - rho) e^(rho t) up to one service, (1 - rho) (e^(rho t) - rho (t - 1) e^(rho (t - 1))) up to two."""
    for load in (0.25, 0.5, 0.9):
        queue = ConstantService.of(load)
        for time in (0.0, 0.5, 0.999):
            assert queue.wait_tail(time) == pytest.approx(1 - (1 - load) * exp(load * time))
        for time in (1.0, 1.5, 1.999):
            later = load * (time - 1) * exp(load * (time - 1))
            assert queue.wait_tail(time) == pytest.approx(1 - (1 - load) * (exp(load * time) - later))
    half = ConstantService.of(0.5)
    assert half.wait_percentile(0.7) == pytest.approx(2 * ln(1.4))
    assert half.wait_percentile(0.4) == 0, "half of all do not wait"


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9, 0.99])
def test_the_tail_of_constant_service(load):
    """It decays by x rho with rho x = ln(1 + x), and is one tail before and after 24 services."""
    queue = ConstantService.of(load)
    x = queue.decay / load
    assert load * x == pytest.approx(ln(1 + x))
    assert x > 0
    assert queue.wait_tail(30.0) == pytest.approx(queue.wait_tail(25.0) * exp(-5 * queue.decay))
    if load > 0.4:
        assert queue.wait_tail(23.999999) == pytest.approx(queue.wait_tail(24.0), rel=1e-3 if load < 0.9 else 1e-5)
    # Its integral is the mean wait, rho / (2 (1 - rho)).
    width = 0.02 / queue.decay
    middles = (np.arange(1000) + 0.5) * width
    assert width * sum(map(queue.wait_tail, middles)) == pytest.approx(load / (2 * (1 - load)), rel=1e-2)


def test_a_chain_of_requests_in_flight():
    """Arrivals of 2, completions of 2, 4 and 6 a second: 1, 1, 1/2, then 1/6 of which 1 / (1 - 1/3) is a line: 11/4 in all."""
    free, taken = in_flight(2.0, np.array([2.0, 4.0, 6.0]))
    assert free == pytest.approx([4 / 11, 4 / 11, 2 / 11])
    assert taken == pytest.approx(1 / 11)
    free, taken = in_flight(1e-3, np.array([1e3, 1e4]))
    assert free == pytest.approx([1, 1e-6])
    assert not_rare(np.array([1e-13, 1e-11, 1.0, 0.0])).tolist() == [1, 2]


def test_chains_of_every_number_of_places():
    """Of two places 1, 1 and 1/2 / (1 - 1/2) of 3; of three 1, 1, 1/2 and 1/4 of 11/4; one alone is always taken.

    Slow with two in flight: who finds one, or, of two places, none free.
    """
    taken, slow = by_places(2.0, np.array([2.0, 4.0, 6.0]), np.array([False, True, False]))
    assert taken == pytest.approx([1, 1 / 3, 1 / 11])
    assert slow == pytest.approx([0, 2 / 3, 4 / 11], abs=1e-9)


def test_a_spread():
    """Half is 1 s, a fourth 2 s, and a fourth 3 s and an exponential time of 4 s."""
    late = Spread.of(np.array([2.0, 1.0]), np.array([0.25, 0.5]), 0.25, 3.0, 4.0)
    assert late.mean_s == 0.5 * 1 + 0.25 * 2 + 0.25 * 7
    times = (0.5, 1.0, 1.5, 2.0, 3.0, 7.0)
    assert [late.tail(t) for t in times] == pytest.approx([1, 0.5, 0.5, 0.25, 0.25, 0.25 * exp(-1)])
    assert [late.percentile_s(share) for share in (0.4, 0.6, 0.9)] == pytest.approx([1, 2, 3 + 4 * ln(2.5)])


# Two places: half of all find none taken, a fourth one, a fourth both.
LOOP = OpenLoop(
    free=np.array([0.5, 0.25]),
    taken=0.25,
    place_s=4.0,
    cells=np.array([0.5, 0.5]),
    likely=np.array([0, 1]),
    wait_s=np.array([[0.0, 1.0], [2.0, 3.0]]),
    first_s=np.array([[1.0, 1.0], [2.0, 2.0]]),
    last_s=5.0,
    token_s=np.array([1.0, 2.0]),
)


def test_what_an_arriving_request_waits():
    """0 or 1 s, a fourth each, 2 or 3 s, an eighth each, and a fourth 4 s for a place."""
    assert LOOP.wait_mean_s() == LOOP.wait().mean_s == (0 + 1) / 4 + (2 + 3) / 8 + 4 / 4
    assert LOOP.wait().tail(1.0) == pytest.approx(1 / 4 + exp(-1 / 4) / 4)


def test_its_tokens():
    """Ten tokens: 1 s each alone, 2 s each with another: 11, 12, 24 and 25 s, or a place and 5 + 20 s."""
    assert LOOP.after_wait_mean_s(10.0) == LOOP.after_wait(10.0).mean_s == (11 + 12) / 4 + (24 + 25) / 8 + (25 + 4) / 4
    for limit_s, share in ((10.0, 1), (11.0, 0.75), (12.0, 0.5), (24.0, 0.375), (25.0, 0.25), (29.0, 0.25 * exp(-1))):
        assert LOOP.late(10.0, limit_s) == pytest.approx(share)
        assert LOOP.after_wait(10.0).tail(limit_s) == pytest.approx(share)
    assert LOOP.token_mean_s() == 1.5
    assert (LOOP.slow(0.5), LOOP.slow(1.0), LOOP.slow(2.0)) == (1, 0.5, 0)
    assert [LOOP.token_percentile_s(share) for share in (0.4, 0.6, 1.0)] == [1, 2, 2]
    falling = replace(LOOP, token_s=np.array([2.0, 1.0]), free=np.array([0.25, 0.5]))
    assert [falling.token_percentile_s(share) for share in (0.7, 0.8)] == [1, 2]
    # States that are too rare to count leave their share to the others.
    rare = replace(LOOP, likely=np.array([1]), wait_s=LOOP.wait_s[1:], first_s=LOOP.first_s[1:])
    assert rare.wait_mean_s() == 0.75 * 2.5 + 0.25 * 4


def test_three_places():
    """A fourth each finds none or one in flight, an eighth two, three eighths all; cells of a fourth and of three."""
    loop = OpenLoop(
        free=np.array([0.25, 0.25, 0.125]),
        taken=0.375,
        place_s=2.0,
        cells=np.array([0.25, 0.75]),
        likely=np.array([0, 1, 2]),
        wait_s=np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]),
        first_s=np.ones((3, 2)),
        last_s=5.0,
        token_s=np.array([1.0, 2.0, 4.0]),
    )
    assert loop.wait_mean_s() == 0.75 / 4 + (0.5 + 2.25) / 4 + (1 + 3.75) / 8 + 0.375 * 2
    assert (loop.token_mean_s(), loop.slow(2.0)) == (0.25 + 0.5 + 0.5 * 4, 0.5)
    assert [loop.token_percentile_s(share) for share in (0.2, 0.4, 0.6)] == [1, 2, 4]
    # With a token: 2 and 3 s, 5 and 6, 9 and 10, or a place and 5 + 4 s.
    assert loop.late(1.0, 9.0) == pytest.approx(0.75 / 8 + 0.375)
    assert loop.late(1.0, 9.5) == pytest.approx(0.75 / 8 + 0.375 * exp(-0.25))
    assert loop.after_wait(1.0).tail(9.5) == pytest.approx(loop.late(1.0, 9.5))
    assert loop.after_wait(1.0).percentile_s(1 - 0.375 * exp(-2)) == pytest.approx(13)


@pytest.mark.parametrize("guess", [None, 1, 63, 64, 65, 990])
@pytest.mark.parametrize(
    ("missed", "at", "most_looks"),
    [
        (lambda part: part - 64.5, 64.5, 7),
        (lambda part: part**3 - 64.5**3, 64.5, 22),
        (lambda part: -1.0 if part < 65 else 1.0, 64.5, 16),
    ],
)
def test_the_last_number_that_keeps_a_limit(missed, at, most_looks, guess):
    looks = []

    def looked(part):
        looks.append(part)
        return missed(part)

    kept, reached = last_kept(looked, 1000, missed(1000), guess=guess)
    assert kept == 64
    assert reached == pytest.approx(at, abs=0.02)
    assert len(looks) <= most_looks
    assert len(set(looks)) == len(looks), "no number twice"
    assert all(0 < part < 1000 for part in looks)


def test_the_ends_of_a_range():
    assert last_kept(lambda part: part - 2.5, 3, 0.5, low=2) == (2, 2), "nothing between"
    assert last_kept(lambda _: 1.0, 9, 1.0)[0] == 0
    assert last_kept(lambda _: -1.0, 9, 1.0) == (8, 8.5)
    assert last_kept(lambda part: part - 7.5, 9, 1.5, low=5)[0] == 7


def test_the_spread_of_batches():
    """b s'/s = 4 / 14 of the last batch carries over: r sqrt((1 + v^2) / (4 (1 - r^2)))."""
    sizes = np.array([2.0, 4.0, 8.0])
    r = 4 / 14
    for spread in (0.0, 0.5):
        found = batch_spread(sizes, 10 + sizes, spread)[1]
        assert found == pytest.approx(r * math.sqrt((1 + spread**2) / (4 * (1 - r**2))))
    fixed = batch_spread(sizes, sizes, 0.0)
    assert fixed[1] == pytest.approx(0.999 / math.sqrt(4 * (1 - 0.999**2))), "no more than all of it"
    assert batch_spread(sizes, 20 - sizes, 0.0).tolist() == [0, 0, 0], "nor less than nothing"


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.3])
def test_latencies_in_batches(share, spread):
    """(1 + U) (1 + spread Z), by a fine grid of both."""
    z = np.linspace(-6, 6, 2001)
    density = np.exp(-(z**2) / 2)
    found = float(latency_in_batches(np.array([spread]), share)[0])
    beyond = np.clip(2 - found / np.maximum(1 + spread * z, 1e-3), 0, 1)
    assert (beyond * density).sum() / density.sum() == pytest.approx(1 - share, rel=0.2)
    assert latency_in_batches(np.zeros(2), share) == pytest.approx([1 + share] * 2)


SIZES = np.array([1.0, 2.0, 4.0, 8.0])


def latencies_s(batch_s, share, size_spread=0.0):
    return latency_in_batches(batch_spread(SIZES, batch_s, size_spread), share) * batch_s


def test_the_highest_load_within_a_limit():
    """Batches of 0.5 s, and 0.1 s for each request: what keeps a limit on latency lies on a line between two of them."""
    batch_s = 0.5 + 0.1 * SIZES
    latency_s = latencies_s(batch_s, 0.9)
    between = highest_load(SIZES, batch_s, float(latency_s[1] + latency_s[2]) / 2, share=0.9)
    assert between.batch == pytest.approx(3)
    assert between.batch_s == pytest.approx(0.8)
    assert between.load_per_s == pytest.approx(3 / 0.8)
    assert between.latency_s == pytest.approx((latency_s[1] + latency_s[2]) / 2)
    most = highest_load(SIZES, batch_s, 100.0, share=0.9)
    assert most == (pytest.approx(8 / 1.3), 8, 1.3, pytest.approx(latency_s[3]))
    spread = highest_load(SIZES, batch_s, 100.0, share=0.9, size_spread=2.0)
    assert spread.latency_s == pytest.approx(latencies_s(batch_s, 0.9, 2.0)[3])
    exactly = highest_load(SIZES, batch_s, float(latency_s[1]), share=0.9)
    assert exactly.batch == pytest.approx(2)


def test_a_smaller_batch_may_be_the_faster():
    """Four requests in 0.5 s, eight in 2 s."""
    batch_s = np.array([0.4, 0.45, 0.5, 2.0])
    found = highest_load(SIZES, batch_s, 100.0, share=0.9)
    assert found[:3] == (8, 4, 0.5)
    assert found.latency_s == pytest.approx(latencies_s(batch_s, 0.9)[2])


def test_requests_taken_singly():
    """Where batches save nothing: M/D/1 whose wait of more than a service is as rare as asked: 1 - (1 - rho) e^rho = 0.2."""
    found = highest_load(SIZES, 2.0 * SIZES, 4.0, share=0.8)
    load = 2 * found.load_per_s
    assert 1 - (1 - load) * exp(load) == pytest.approx(0.2, abs=1e-4)
    assert found[1:] == (1, 2, 4)
    assert highest_load(SIZES, 2.0 * SIZES, 2.0, share=0.8) is None
    assert highest_load(SIZES, 2.0 * SIZES, 1.9, share=0.8) is None
