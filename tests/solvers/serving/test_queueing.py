"""Random arrivals: exact where a formula is, bounded where none is, and refused where the queue has no end."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysim import Hardware, InputError, Models, TailLatencyModel
from mlsysim.core.errors import InfeasibleError
from mlsysim.physics.queues import queueing
from mlsysim.physics.queues.constant_service import ConstantService
from mlsysim.physics.queues.open_loop import in_flight

loads = st.floats(0.01, 0.999)
servers = st.integers(1, 300)
PERCENTILES = ("p50", "p90", "p99")


def solve(load, k=1, **asked):
    return TailLatencyModel().solve(arrival_rate=f"{load * k} count/s", service_time="1 s", servers=k, **asked)


def seconds(result, kind):
    return [getattr(result, f"{kind}_{name}").m_as("s") for name in ("mean", *PERCENTILES)]


@given(loads, servers)
def test_erlang_is_a_probability(load, k):
    blocked, waits = queueing.erlang_b(load * k, k), queueing.erlang_c(load * k, k)
    assert 0 <= blocked <= waits <= 1
    if k > 1:
        assert waits <= queueing.erlang_c(load * (k - 1), k - 1) + 1e-12, "servers pooled wait less at the same load"


def test_erlang_of_many_servers_and_of_arrays():
    beta = 0.002 * math.sqrt(100_000)  # Halfin and Whitt 1981: 1 / (1 + sqrt(2 pi) beta Phi(beta) exp(beta^2 / 2))
    below = (1 + math.erf(beta / math.sqrt(2))) / 2
    limit = 1 / (1 + math.sqrt(2 * math.pi) * beta * below * math.exp(beta**2 / 2))
    assert queueing.erlang_c(99_800.0, 100_000) == pytest.approx(limit, rel=0.01)
    offered = np.array([0.5, 1.0, 1.9])
    assert queueing.erlang_c(offered, 2) == pytest.approx([queueing.erlang_c(float(a), 2) for a in offered], rel=1e-15)
    assert queueing.erlang_c(1e-200, 300) == 0


@given(loads)
def test_one_server_of_many_is_the_one(load):
    assert queueing.erlang_c(load, 1) == pytest.approx(load, rel=1e-12)
    chain, taken = in_flight(load * 5, np.arange(1.0, 6.0))
    assert taken == pytest.approx(queueing.erlang_c(load * 5, 5), rel=1e-9), "a chain of 5 servers is M/M/5"
    assert chain.sum() + taken == pytest.approx(1)


@given(loads)
def test_response_of_one_server_is_exponential(load):
    for share, time_s in zip((0.5, 0.9, 0.99), seconds(solve(load), "latency")[1:], strict=True):
        assert time_s == pytest.approx(-math.log(1 - share) / (1 - load), rel=1e-9)


def within(load, services):
    """Erlang's sum of 1909, in digits enough for its alternating terms."""
    getcontext().prec = 120
    rho, time, total = Decimal(load), Decimal(services), Decimal(0)
    for number in range(int(services) + 1):
        x = rho * (number - time)
        total += (x**number if number else 1) / Decimal(math.factorial(number)) * (-x).exp()
    return float((1 - rho) * total)


@pytest.mark.parametrize("load", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("services", [0.0, 0.25, 1.0, 7.5, 23.999, 24.0, 40.5])
def test_constant_service_is_exact(load, services):
    assert ConstantService.of(load).wait_tail(services) == pytest.approx(1 - within(load, services), rel=1e-9, abs=1e-13)


@given(loads)
def test_constant_service_waits_half_in_the_mean_and_less_in_the_tail(load):
    constant, exponential = solve(load, distribution="deterministic"), solve(load)
    assert constant.wait_mean.m_as("s") == pytest.approx(exponential.wait_mean.m_as("s") / 2, rel=1e-12)
    for less, more in zip(seconds(constant, "wait"), seconds(exponential, "wait"), strict=True):
        assert less <= more + 1e-9


def test_constant_service_by_simulation():
    """Lindley's recursion: W(n+1) = max(0, W(n) + S - gap)."""
    gaps = np.random.default_rng(7).exponential(1 / 0.8, 200_000)
    steps = np.concatenate(([0.0], np.cumsum(1 - gaps)))
    waits = (steps - np.minimum.accumulate(steps))[2000:]
    exact = ConstantService.of(0.8)
    for share in (0.5, 0.9, 0.99):
        assert exact.wait_percentile(share) == pytest.approx(np.quantile(waits, share), rel=0.05)


@settings(max_examples=50)
@given(st.floats(0.01, 0.99), st.floats(0.001, 0.9), st.integers(1, 40), st.sampled_from([0.0, 0.3, 1.0, 4.0]))
def test_more_load_is_never_faster(load, rise, k, cv2):
    heavier = load + (0.999 - load) * rise
    light, heavy = solve(load, k, service_cv2=cv2), solve(heavier, k, service_cv2=cv2)
    for kind in ("wait", "latency"):
        for before, after in zip(seconds(light, kind), seconds(heavy, kind), strict=True):
            assert 0 <= before <= after * (1 + 1e-9)
        p50, p90, p99 = seconds(light, kind)[1:]
        assert p50 <= p90 <= p99


@given(st.floats(0, 50))
def test_two_moments_are_kept(cv2):
    service = queueing.ServiceTime.of(3.0, cv2)
    phases = list(zip(service.shares, service.means_s, strict=True))
    mean_s = service.shift_s + sum(share * mean_s for share, mean_s in phases)
    variance = sum(2 * share * mean_s**2 for share, mean_s in phases) - sum(share * mean_s for share, mean_s in phases) ** 2
    assert mean_s == pytest.approx(3)
    assert variance == pytest.approx(9 * cv2, abs=1e-9)


def test_equal_and_nearly_equal_phases():
    equal = queueing.sum_tail(2.0, 1.0, 1.0)
    assert equal == pytest.approx(3 * math.exp(-2), rel=1e-14)
    assert queueing.sum_tail(2.0, 1.0, 1.0 + 1e-9) == pytest.approx(equal, rel=1e-8)
    assert queueing.sum_tail(2.0, 1.0, 5.0) == pytest.approx(queueing.sum_tail(2.0, 5.0, 1.0), rel=1e-14)


@given(st.floats(1, 1e6), st.integers(1, 100))
def test_overload_is_unstable_and_has_no_latency(load, k):
    for asked in ({}, {"distribution": "deterministic"}, {"service_cv2": 3.0}):
        result = solve(load, k, **asked)
        assert not result.feasible
        assert result.reason.startswith("unstable: load ")
        times = [name for name in result.to_dict() if name.startswith(("wait_", "latency_", "ttft_", "tpot_"))]
        assert times
        assert all(getattr(result, name) is None for name in times)
        assert "None" not in str(result)
        with pytest.raises(InfeasibleError, match="unstable"):
            result.require_feasible()


@pytest.mark.parametrize("asked", [{}, {"distribution": "deterministic"}, {"service_cv2": 1e-30}, {"service_cv2": 1e9}])
@pytest.mark.parametrize("load", [1e-300, 1e-9, 1 - 1e-8, 1 - 1e-12])
def test_extremes_are_finite(load, asked):
    result = solve(load, **asked, wait_limit="1 s")
    if result.feasible:
        assert all(0 <= time_s < math.inf for kind in ("wait", "latency") for time_s in seconds(result, kind))
        assert 0 <= result.wait_within <= 1


def test_the_load_is_said():
    assert "unstable: load 1.2 of capacity" in solve(1.2, 4).reason
    assert "load 1 of capacity" in solve(1.0).reason


@pytest.mark.parametrize(
    ("asked", "argument"),
    [
        ({"arrival_rate": "0 count/s"}, "arrival_rate"),
        ({"arrival_rate": 5}, "arrival_rate"),
        ({"arrival_rate": "5 s"}, "arrival_rate"),
        ({"service_time": None}, "service_time"),
        ({"service_rate": "1 count/s"}, "service_rate"),
        ({"servers": 2.5}, "servers"),
        ({"servers": 10**12}, "servers"),
        ({"service_cv2": -1}, "service_cv2"),
        ({"service_cv2": math.nan}, "service_cv2"),
        ({"distribution": "normal"}, "distribution"),
        ({"distribution": "exponential", "service_cv2": 1}, "distribution"),
        ({"wait_limit": "-1 s"}, "wait_limit"),
        ({"seq_len": 100}, "seq_len"),
        ({"server": 2}, "server"),
    ],
)
def test_bad_input_is_named(asked, argument):
    given_ = {"arrival_rate": "0.5 count/s", "service_time": "1 s", **asked}
    with pytest.raises(InputError) as caught:
        TailLatencyModel().solve(**given_)
    assert caught.value.argument == argument


LLAMA, H100 = Models.Language.Llama3_8B, Hardware.Cloud.H100
