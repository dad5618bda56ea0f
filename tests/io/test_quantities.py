"""Units of images and noise maps, as headers and astropy spell them."""

import numpy as np
import pytest
from astropy import units

from haloformer.io.quantities import electrons_per_unit, noise_factor, rate_factor


@pytest.mark.parametrize("noise", ["DN/s", "dn s-1", units.DN / units.s, "ADU/s"])
@pytest.mark.parametrize("image", ["adu/s", units.adu / units.s, units.DN / units.s])
def test_counts_of_a_converter_are_one_unit_by_either_of_their_names(noise, image):
    assert noise_factor(noise, image) == 1


def test_a_scale_before_either_name_counts():
    assert noise_factor(units.Unit("1000 DN / s"), "adu/s") == pytest.approx(1000)
    assert rate_factor("DN/min", "noise_map") == pytest.approx(1 / 60)


@pytest.mark.parametrize(
    ("unit", "seconds", "electrons"),
    [
        ("ELECTRONS/S", 2065.0, 2065.0),
        ("e-/s", 100, 100.0),
        ("e-/s", np.float32(50), 50.0),
        (units.electron / units.s, 10.0, 10.0),
        ("electrons", 2065.0, 1.0),
        ("electron", None, 1.0),
        ("ELECTRONS/S", None, None),
        ("ELECTRONS/S", 0.0, None),
        ("ELECTRONS/S", "2065", None),
        ("ELECTRONS/S", True, None),
        ("counts/s", 2065.0, None),
        ("MJy/sr", 2065.0, None),
        ("electron / (s arcsec2)", 2065.0, None),
        ("", 2065.0, None),
        ("furlongs", 2065.0, None),
    ],
)
def test_electrons_are_known_where_unit_and_exposure_say_them(unit, seconds, electrons):
    assert electrons_per_unit(unit, seconds) == electrons
