"""The largest of many normal draws."""

import pytest

from mlsysim.physics.numeric import deviations_of_largest


@pytest.mark.parametrize(("count", "deviations"), [(1, 0.0), (2, 0.5642), (10, 1.5388), (100, 2.5076), (1000, 3.2414)])
def test_the_largest_of_many_normal_draws(count, deviations):
    """Tables of normal order statistics (Harter 1961); the quantile is within 0.03 of a standard deviation of them."""
    assert deviations_of_largest(count) == pytest.approx(deviations, abs=0.03)
