"""Distributions where floating-point numbers are scarce."""

import numpy as np
import pytest
from scipy import stats

from haloformer.simulation.distributions import LogNormal, TruncatedNormal


@pytest.mark.parametrize(("low", "high"), [(8, 9), (5.5, 40), (12, 13), (4.9, 6), (-9, -8)])
def test_a_normal_distribution_is_cut_as_well_far_from_its_mean(low, high):
    u = np.linspace(0, 1, 1001)
    drawn = TruncatedNormal(0, 1, low, high).quantile(u)
    below = low < 0
    expected = stats.truncnorm.ppf(u, -high, -low) if below else stats.truncnorm.ppf(u, low, high)
    expected = -expected[::-1] if below else expected
    assert len(np.unique(drawn)) == len(u)
    assert drawn == pytest.approx(expected, rel=1e-5)
    logarithm = LogNormal(1, 1, np.exp(low), np.exp(high)).quantile(u)
    assert np.log(logarithm) == pytest.approx(expected, rel=1e-5)
