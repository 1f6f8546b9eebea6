"""Energy, failures, scaling laws and hourly sums; and the elementwise choices that all physics is made of."""

import math

import numpy as np
import pytest

from mlsysim.physics import numeric
from mlsysim.physics.distinct import distinct_rows
from mlsysim.physics.layer.shape import LatentShape, LayerShape
from mlsysim.physics.machine import Machine
from mlsysim.physics.operations.checkpoint import checkpoint_B, stalled_share, write_s
from mlsysim.physics.operations.cost import capital_usd, electricity_usd, hire_usd
from mlsysim.physics.operations.energy import embodied_g, emissions_g, facility_energy_J, water_L
from mlsysim.physics.operations.placement import sums_over_run
from mlsysim.physics.operations.power import (
    Activity,
    PowerCoefficients,
    capped_share,
    demand_share,
    limited_clock,
    slowed_time,
)
from mlsysim.physics.operations.reliability import (
    NORMAL_90,
    checkpoint_interval_s,
    count_interval,
    daly_interval_s,
    first_order_ettr,
    gamma_interval,
    gamma_shape,
    goodput,
    kokolis_ettr,
    renewal_goodput,
    time_shares,
    young_interval_s,
)
from mlsysim.physics.operations.scaling import (
    OvertrainingLaw,
    ParametricLaw,
    compute_law_loss,
    compute_optimal_parameters,
    effective_amount,
)
from mlsysim.physics.records import floats, stacked, unstacked


def test_energy():
    """3 W for 5 s at a PUE of 2 are 30 J, which emit 4 g each."""
    assert facility_energy_J(3.0, 5.0, 2.0) == 30
    assert emissions_g(30.0, 4.0) == 120


def test_best_intervals():
    """sqrt(2 x 8 x 400) = 80 s; Daly adds shares of 1/3 x 1/10 and 1/9 x 1/100 of it, and takes 8 off; 2 M and more give M."""
    assert young_interval_s(8.0, 400.0) == 80
    assert daly_interval_s(8.0, 400.0) == pytest.approx(80 * (1 + 1 / 30 + 1 / 900) - 8)
    assert daly_interval_s(8.0, 4.0) == 4
    assert daly_interval_s(np.array([8.0, 9.0]), 4.0).tolist() == [4, 4]


def test_shares_of_a_jobs_time():
    """ln 2 of work and checkpoint a mean time between failures, of which a third stops; restarts of ln 4."""
    parts = (2 / 3 * math.log(2), 1 / 3 * math.log(2), math.log(4), 1.0)
    # The wall time is exp(ln 4) (exp(ln 2) - 1) = 4: of it 1 - 1/4 are restarts.
    assert renewal_goodput(*parts) == pytest.approx(math.log(2) / 6)
    kept, checkpoints, lost, restarts = time_shares(*parts)
    assert (kept, checkpoints) == pytest.approx((math.log(2) / 6, math.log(2) / 12))
    assert restarts == pytest.approx(3 / 4)
    assert lost == pytest.approx(1 / 4 - math.log(2) / 4)


def test_shares_to_first_order():
    """An interval of 20 loses 10, a restart 15, of 100 each; checkpoints of 5 stop one fifth of the rest."""
    assert kokolis_ettr(20.0, 5.0, 15.0, 100.0) == pytest.approx(0.75 / 1.25)
    assert first_order_ettr(2.0, 30.0, 100.0) == pytest.approx(1 / (1 + 0.2 + 0.3))


def test_counts_of_failures():
    """Of a Poisson count of mean ln 20 one in twenty is 0; with shape 1 counts are geometric: half are 0 for a mean of 1."""
    assert count_interval(math.log(20) - 1e-9, math.inf)[0] == 0
    assert count_interval(math.log(20) + 1e-9, math.inf)[0] == 1
    # P(count > 4) = 1/32 and P(count > 3) = 1/16.
    assert count_interval(1.0, 1.0) == (0, 4)
    assert gamma_shape(math.sqrt(math.log(2))) == pytest.approx(1)


def test_large_counts():
    """A shape of 1000 / 9 has a cube root of mean 1 - 1/1000 and standard deviation sqrt(1/1000)."""
    middle, width = 1 - 1 / 1000, NORMAL_90 / math.sqrt(1000)
    assert gamma_interval(7.0, 1000 / 9) == pytest.approx((7 * (middle - width) ** 3, 7 * (middle + width) ** 3))
    # 600 + 600^2 / 300 = 1,800: 600^2 / 1,800 = 200.
    assert count_interval(600.0, 300.0) == gamma_interval(600.0, 200.0)


def test_bytes_and_times_of_a_checkpoint():
    """Ten parameters of 2 + 4 + 2 x 4 bytes; three writers of 5 bytes a second send 15 of the 20 that storage takes."""
    assert checkpoint_B(10.0, 2.0, 4.0, 2.0, 4.0) == 140
    assert write_s(60.0, 20.0, 3.0, 5.0) == 4
    assert write_s(60.0, 20.0, 30.0, 5.0) == 3
    assert stalled_share(9.0, 1.0) == 0.1


def test_water_and_what_making_emitted():
    """7.2 MJ are 2 kWh; of 5 chips of 300 g each a tenth of their life is 150 g."""
    assert water_L(7.2e6, 1.5) == 3
    assert embodied_g(300.0, 5, 2.0, 20.0) == 150


def test_money():
    """3 hours at 2 dollars; 2 years of one that cost 100 dollars, half used, are the price of two; 2 kWh at half a dollar."""
    assert hire_usd(3.0, 2.0) == 6
    assert capital_usd(17_520.0, 100.0, 2.0, 0.5) == 200
    assert electricity_usd(7.2e6, 0.5) == 1


DRAWS = PowerCoefficients(idle=0.15, active=0.1, memory=0.5, cache=2.0, arithmetic=3.0, unpacking=0.25)


def test_power_of_activities():
    """0.15 + 0.1 x 0.5 + 0.5 x 0.4 + 2 x 0.1 + 3 sqrt(0.02 x 0.5) are 0.9; narrow weights add 0.25 x 0.4."""
    busy = Activity(weights=0.4, cache=0.1, arithmetic=0.02, busy=0.5)
    assert demand_share(busy, DRAWS) == pytest.approx(0.9)
    assert demand_share(Activity(0.4, 0.1, 0.02, 0.5, narrow=1.0), DRAWS) == pytest.approx(1.0)
    assert demand_share(Activity(0.0, 0.0, 0.0, 0.0), DRAWS) == 0.15, "who waits draws the idle power"


def test_power_is_capped_softly():
    """(1 + 1)^(-1/8) of the limit where the demand is the limit; far below it all, far above it the limit."""
    assert capped_share(1.0) == pytest.approx(2**-0.125)
    assert capped_share(0.5, 0.5) == pytest.approx(0.5 * 2**-0.125)
    assert capped_share(0.1) == pytest.approx(0.1, rel=1e-8)
    assert capped_share(np.array([10.0, 0.1]), 0.5) == pytest.approx([0.5, 0.1], rel=1e-5)


def test_a_power_limit_lowers_the_clock():
    """Of 0.8 beyond the idle power 0.1 are left: an eighth, half the clock; busy for 0.9, of which 0.4 wait for memory."""
    assert limited_clock(1.0, 0.3, 0.2) == pytest.approx(0.5)
    assert limited_clock(0.5, 0.7, 0.2) == 1
    assert slowed_time(Activity(0.3, 0.1, 0.2, 0.9), 0.5) == pytest.approx(1.5)
    assert slowed_time(Activity(0.8, 0.1, 0.2, 0.5), 0.5) == 1, "all of it waits for memory"


# 2 / sqrt(N) and 8 / sqrt(D) beside a loss of 1: both halve when N and D are four times as many.
LAW = ParametricLaw(E=1.0, A=2.0, B=8.0, alpha=0.5, beta=0.5)


def test_the_loss_of_a_parametric_law():
    """Of 4 parameters and 16 tokens 2 / 2 + 8 / 4 = 3 is left above 1; without the last 2 the tokens are what they were."""
    assert LAW.reducible(4.0, 16.0) == 3
    assert LAW.loss(4.0, 16.0) == 4
    assert LAW.tokens_to(3.0, 4.0) == 16
    assert LAW.tokens_to(1.0, 4.0) == math.inf
    assert LAW.loss(np.array([4.0, 1.0]), 16.0).tolist() == [4, 5]


def test_the_optimum_of_a_parametric_law():
    """G = 2 / 8; with 96 FLOP N = 1 / 4 x sqrt(16) = 1 and D = 96 / 6 = 16: 2 + 2 is left, half of it after 16 x 96 FLOP."""
    assert LAW.optimum(96.0) == pytest.approx((1, 16))
    assert LAW.budget_to(4.0) == pytest.approx(96)
    assert LAW.budget_to(2.0) == pytest.approx(16 * 96)
    # 4 parameters and 16 tokens take 384 FLOP, and leave 3: so do 96 x (4 / 3)^4 FLOP.
    assert LAW.overtraining(4.0, 16.0) == pytest.approx(384 / (96 * 256 / 81))
    steep = ParametricLaw(E=0.0, A=1.0, B=1.0, alpha=1.0, beta=0.5)
    # A N^-1 : B D^-1/2 = 1/2 : 1 at the optimum: N = 2, D = 1 leave 1.5, after 12 FLOP.
    assert steep.optimum(12.0) == pytest.approx((2, 1))
    assert steep.budget_to(1.5) == pytest.approx(12)


def test_the_optimum_over_a_life():
    """Shares of 3 and 1 of a loss of 4 (N = 4 / 9, D = 64): 6 x 64 x (1 - 3) + 2 x 384 = 0."""
    assert LAW.lifetime_optimum(4.0, 384.0) == pytest.approx((4 / 9, 64))
    assert LAW.lifetime_optimum(4.0, 0.0) == pytest.approx((1, 16))


def test_other_laws_of_loss():
    """40 tokens a parameter are twice 20, and 4e18 FLOP four times 1e18: 1 + (2 x 2 + 3 / 2) / sqrt(4)."""
    law, size = OvertrainingLaw(E=1.0, a=2.0, b=3.0, h=1.0, k=0.5), math.sqrt(4e18 / 240)
    assert law.loss(size, 40 * size) == pytest.approx(3.75)
    assert compute_law_loss(8.0, 1.0, 2.0, 0.5) == 1.5


def test_tokens_that_repeat():
    """Ten tokens three times, where two repeats count for 1 - 1/e of two."""
    assert effective_amount(10.0, 30.0, 2.0) == pytest.approx(10 + 20 * (1 - math.exp(-1)))
    assert effective_amount(10.0, 10.0, 2.0) == 10


def test_checkpoints():
    """sqrt(2 x 8 x 400) - 8 = 72 s; never longer than between failures, never shorter than a checkpoint."""
    assert checkpoint_interval_s(8.0, 400.0) == 72
    assert checkpoint_interval_s(8.0, 4.0) == 8, "sqrt(64) - 8 = 0"
    assert checkpoint_interval_s(1.0, 1.5) == 1, "sqrt(3) - 1 = 0.73"
    assert checkpoint_interval_s(1.0, 2.0) == 1
    assert checkpoint_interval_s(9.0, 18.0) == 9, "sqrt(324) - 9"


def test_goodput():
    """72 s of work take 400 e^(20/400) (e^(80/400) - 1) s of the wall."""
    assert goodput(8.0, 20.0, 400.0) == pytest.approx(72 / (400 * math.exp(0.05) * (math.exp(0.2) - 1)))


def test_compute_optimal_models():
    """C = 6 N x 20 N: 12000 FLOP make N = 10; with 5 a parameter, and 3 FLOP, C = 15 N^2."""
    assert compute_optimal_parameters(12000.0) == 10
    assert compute_optimal_parameters(1500.0, 5.0, 3.0) == 10


def test_hourly_sums():
    """4 + 2 / 2, 2 + 1 / 2, 1 + 3 / 2 of one and a half hours; all four of four."""
    prices = np.array([4.0, 2.0, 1.0, 3.0])
    assert sums_over_run(prices, 1.5).tolist() == [5, 2.5, 2.5]
    assert sums_over_run(prices, 2.0).tolist() == [6, 3, 4]
    assert sums_over_run(prices, 4.0).tolist() == [10]
    assert sums_over_run(prices, 0.5).tolist() == [2, 1, 0.5, 1.5]


UP, DOWN = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])


def test_choices_of_floats_and_arrays():
    assert (numeric.where(True, 1.0, 2.0), numeric.where(False, 1.0, 2.0)) == (1, 2)
    assert numeric.where(UP > 2, UP, 0.0).tolist() == [0, 0, 3]
    assert (numeric.maximum(1.0, 2.0), numeric.maximum(2.0, 1.0), numeric.minimum(1.0, 2.0), numeric.minimum(2.0, 1.0)) == (
        *(2, 2),
        *(1, 1),
    )
    for more, less in ((numeric.maximum, numeric.minimum), reversed(numeric.least_and_most(UP, 1.0))):
        assert (more(UP, DOWN).tolist(), less(UP, DOWN).tolist()) == ([3, 2, 3], [1, 2, 1])
        assert (more(UP, 2.0).tolist(), less(2.0, UP).tolist()) == ([2, 2, 3], [1, 2, 2])
    least, most = numeric.least_and_most(1.0, 2.0)
    assert (least(1.0, 2.0), least(2.0, 1.0), most(1.0, 2.0), most(2.0, 1.0)) == (1, 1, 2, 2)


def test_what_holds_somewhere_and_everywhere():
    for holds, some, every in ((UP > 2, True, False), (UP > 0, True, True), (UP > 3, False, False)):
        assert (numeric.somewhere(holds), numeric.everywhere(holds)) == (some, every)
    for one in (0.0, 1.0):
        assert numeric.somewhere(one) is numeric.everywhere(one) is bool(one)


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [("ceil", 1.5, 2.0), ("floor", 1.5, 1.0), ("sqrt", 9.0, 3.0), ("exp", 0.0, 1.0), ("expm1", 1e-20, 1e-20)],
)
def test_functions_of_floats_and_arrays(name, value, result):
    function = getattr(numeric, name)
    assert function(value) == result
    assert isinstance(function(value), float)
    assert function(np.array([value])).tolist() == [result]


def test_what_an_overlapping_time_adds():
    """By a norm of two 3 and 4 are 5; by one of four 1 and 1e-9 are 1 + 1e-36 / 4."""
    assert numeric.added_in_norm(3.0, 4.0, 2.0) == pytest.approx(2)
    assert numeric.added_in_norm(1.0, 1e-9, 4.0) == pytest.approx(1e-36 / 4)
    assert numeric.added_in_norm(np.array([3.0, 6.0]), 8.0, 2.0) == pytest.approx([73**0.5 - 3, 4])


def test_records_of_floats_and_of_arrays():
    one, two = Machine(1.0, 2.0, 3.0, 4.0, 8.0), Machine(5.0, 2.0, 3.0, 4.0, 8.0)
    both = stacked([one, two])
    assert both.rate_flops_per_s.tolist() == [1, 5]
    assert unstacked(both, 2) == [one, two]
    assert floats(3, 2) == [3.0, 3.0]
    shapes = [LayerShape(*(float(i) for i in range(8)), latent=LatentShape(query_rank=rank)) for rank in (1.0, 2.0)]
    within = stacked(shapes)
    assert within.latent.query_rank.tolist() == [1, 2]
    assert unstacked(within, 2) == shapes


def test_distinct_rows():
    """Four rows of two columns, of which the first and the third agree."""
    tp, tokens = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[5.0, 5.0], [5.0, 4.0]])
    rows = distinct_rows(tp, tokens, 3.0)
    kinds = list(zip(rows.reduced(tp).tolist(), rows.reduced(tokens).tolist(), strict=True))
    assert sorted(kinds) == [(1, 5), (2, 4), (2, 5)]
    assert rows.spread(rows.reduced(tokens) * 10).tolist() == [[50, 50], [50, 40]]
    assert rows.reduced(np.array([7.0])).tolist() == [7, 7, 7]
    assert (rows.reduced(3.0), rows.spread(3.0)) == (3, 3)
