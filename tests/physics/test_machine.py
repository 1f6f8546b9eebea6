"""The slowest of many accelerators."""

import pytest

from mlsysim.physics.machine import slowest_of


@pytest.mark.parametrize(("count", "deviations"), [(1, 0.0), (2, 0.5642), (10, 1.5388), (100, 2.5076), (1000, 3.2414)])
def test_the_slowest_is_off_by_the_largest_of_as_many_normal_draws(count, deviations):
    """Tables of normal order statistics (Harter 1961); the quantile is within 0.03 of a standard deviation of them."""
    assert slowest_of(count, 0.01) == pytest.approx(1 - 0.01 * deviations, abs=0.0003)


def test_accelerators_of_one_clock_are_all_as_slow():
    assert slowest_of(4096, 0.0) == 1
