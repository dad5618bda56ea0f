"""Images on another pixel scale: no light is lost or made, and what is not known stays unknown."""

import numpy as np
import pytest
from astropy.io.fits import Header
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.errors import InputError
from haloformer.readers.resample import resample
from haloformer.readers.sky import celestial, is_surface_brightness, pixel_scales, pixels, ra_dec


def blob(n, y, x, width):
    """A round source of unit light on n × n pixels."""
    axis = np.arange(n)
    image = np.exp(-0.5 * (((axis[:, None] - y) / width) ** 2 + ((axis - x) / width) ** 2))
    return (image / image.sum()).astype(np.float32)[None]


@given(step=st.floats(0.3, 4), shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
@settings(max_examples=25, deadline=None)
def test_light_and_place_of_a_source_are_kept_at_any_scale(step, shift):
    n = 81
    size = 2 * int(np.ceil(n / step / 2)) + 2
    new = resample(blob(n, 40 + shift[0], 40 + shift[1], 4), (step, step), (size, size))[0]
    assert new.sum() == pytest.approx(1, rel=1e-4)
    axis = (np.arange(size) - (size - 1) / 2) * step
    assert (new.sum(1) @ axis, new.sum(0) @ axis) == pytest.approx(
        shift, abs=0.1 + 0.05 * (abs(step - 1) * 40 < 1) * 40
    )


def test_binning_adds_up_pixels_exactly():
    image = np.random.default_rng(0).random((1, 12, 24)).astype(np.float32)
    expected = image.reshape(1, 6, 2, 8, 3).sum((2, 4))[:, 0:6]
    assert resample(np.tile(image, (1, 2, 1)), (2, 3), (12, 8))[:, :6] == pytest.approx(
        expected, rel=1e-6
    )


def test_surface_brightness_does_not_grow_with_the_pixel():
    flat = np.full((1, 40, 40), 3.0, np.float32)
    for step, of_light in ((2.0, 12.0), (0.5, 0.75)):
        assert resample(flat, (step, step), (20, 20)) == pytest.approx(of_light, rel=1e-6)
        assert resample(flat, (step, step), (20, 20), per_area=True) == pytest.approx(3.0, rel=1e-6)


def test_the_same_scale_cuts_or_frames_without_mixing_pixels():
    image = np.random.default_rng(1).random((1, 21, 20)).astype(np.float32)
    assert np.array_equal(resample(image, (1.0001, 1.0001), (11, 10)), image[:, 5:16, 5:15])
    framed = resample(image, (1, 1), (25, 24))
    assert np.array_equal(framed[:, 2:23, 2:22], image)
    assert framed.sum() == pytest.approx(image.sum())  # zeros around it
    assert np.isnan(resample(image, (1, 1), (25, 24), nan="mask")).sum() == 25 * 24 - 21 * 20


def test_masked_pixels_are_unknown_and_do_not_darken_their_neighbours():
    image = np.full((1, 40, 40), 2.0, np.float32)
    image[0, 10, 10] = image[0, 20:24, 20:24] = np.nan
    new = resample(image, (2, 2), (20, 20), nan="mask")[0]
    assert np.isnan(new[10:12, 10:12]).all()
    assert np.isnan(new).sum() == 4
    assert np.nanmin(new) == np.nanmax(new) == 8
    with pytest.raises(InputError, match="17 of 1600 pixels are NaN"):
        resample(image, (2, 2), (20, 20))
    assert resample(image, (2, 2), (20, 20), nan="zero")[0, 10, 10] == 0


def test_pixels_too_coarse_to_show_a_lens_are_refused():
    with pytest.raises(InputError, match="too coarse"):
        resample(np.ones((1, 50, 50), np.float32), (0.01, 0.01), (64, 64))


def sky_header(scale=0.1, **more):
    header = Header(
        {"NAXIS": 2, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
    )
    header.update(
        {"CRPIX1": 11.0, "CRPIX2": 21.0, "CD1_1": -scale / 3600, "CD2_2": scale / 3600, **more}
    )
    return header


def test_scale_and_places_are_those_of_the_header():
    wcs = celestial(sky_header())
    assert pixel_scales(wcs) == pytest.approx((0.1, 0.1))
    assert np.array(ra_dec(wcs, 10.0, 20.0)) == pytest.approx([150, 2])
    assert np.array(pixels(wcs, *ra_dec(wcs, [3.0, 30.0], [4.0, 9.0]))) == pytest.approx(
        np.array([[3, 30], [4, 9]]), abs=1e-6
    )
    fk5 = celestial(sky_header(RADESYS="FK5", EQUINOX=2000.0))
    assert np.array(ra_dec(fk5, 10.0, 20.0)) == pytest.approx([150, 2], abs=1e-4)


@pytest.mark.parametrize(
    "header",
    [
        Header(),
        Header({"CTYPE1": "FREQ"}),
        sky_header(scale=0),
        sky_header(scale=1e9),
        sky_header(CD1_1="nonsense"),
        sky_header(CTYPE1="RA---TAB"),
    ],
)
def test_a_header_that_says_nothing_of_the_sky_is_no_error(header):
    assert celestial(header) is None


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("MJy/sr", True),
        ("nJy arcsec-2", True),
        *(
            (unit, True)
            for unit in (
                "MJY/SR",
                "MJy/str",
                "MJy / Sr",
                "Jy/beam",
                "(MJy)/(sr)",
                "MJy per steradian",
            )
        ),
        *(
            (unit, True)
            for unit in ("counts/s/arcsec2", "ct/s/arcsec**2", "e-/s/sq. arcsec", "MJY SR-1")
        ),
        *(
            (unit, True)
            for unit in ("nanomaggies/arcsec^2", "DN/S/ARCSEC2", "W/m2/sr", "nW m^-2 sr^-1")
        ),
        *(
            (unit, False)
            for unit in ("counts/s/pixel", "ELECTRONS/S", "cps", "DN/s", "nanomaggy", "strange")
        ),
        ("electron/s", False),
        ("COUNTS", False),
        ("", False),
        ("m-2", False),
    ],
)
def test_surface_brightness_is_told_by_the_unit(unit, expected):
    assert is_surface_brightness({"BUNIT": unit}) is expected
