"""Units of images and noise maps, as headers and astropy spell them."""

import pytest
from astropy import units

from haloformer.io.quantities import noise_factor, rate_factor


@pytest.mark.parametrize("noise", ["DN/s", "dn s-1", units.DN / units.s, "ADU/s"])
@pytest.mark.parametrize("image", ["adu/s", units.adu / units.s, units.DN / units.s])
def test_counts_of_a_converter_are_one_unit_by_either_of_their_names(noise, image):
    assert noise_factor(noise, image) == 1


def test_a_scale_before_either_name_counts():
    assert noise_factor(units.Unit("1000 DN / s"), "adu/s") == pytest.approx(1000)
    assert rate_factor("DN/min", "noise_map") == pytest.approx(1 / 60)
