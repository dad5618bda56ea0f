"""What is given with a real lens: wrong input is one clear line, and what is mended is said."""

import warnings

import numpy as np
import pytest

from haloformer.errors import InputError, InputWarning
from haloformer.fitting.reallens import checked_observation, fit, operators
from haloformer.fitting.reallens.correlation import larger_areas
from small_lens import NOISE, lens

IMAGE, GIVEN = lens()


def given(**changes):
    return {**GIVEN, **changes}


def kernel(n, off=0.0, width=1.2):
    at = np.arange(n) - (n - 1) / 2 - off
    found = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * width**2))
    return found / found.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"psf": None}, "give --psf FILE.fits"),
        ({"psf": np.ones((51, 51))}, "more than the image's 41×41"),
        ({"psf": np.full((5, 5), np.nan)}, "NaN"),
        ({"psf": np.zeros((5, 5))}, "no light"),
        ({"psf": kernel(15, off=7.0)}, "off its middle"),
        ({"noise": np.ones((40, 41))}, r"the noise map has shape \(40, 41\), the image \(41, 41\)"),
        ({"noise": 0.0}, "pixels ≤ 0"),
        ({"noise": np.where(np.eye(41) > 0, -1.0, 1.0)}, "41 pixels ≤ 0"),
        ({"mask": np.ones((3, 3))}, r"the mask has shape \(3, 3\)"),
        ({"mask": np.ones((41, 41))}, "leave 0 pixels"),
        ({"radius": 0.25}, "leave .* pixels"),
        ({"radius": 0.01}, "two pixels"),
        ({"pixel_scale": 0.0}, "pixel_scale is 0"),
    ],
)
def test_wrong_input_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message):
        checked_observation(IMAGE, **given(**changes))


def test_an_image_that_is_none_is_refused():
    with pytest.raises(InputError, match="one plane"):
        checked_observation(np.ones((3, 41, 41)), **GIVEN)
    with pytest.raises(InputError, match="all pixels are NaN"):
        checked_observation(np.full((41, 41), np.nan), **GIVEN)


def test_a_psf_that_is_not_normalised_or_even_is_mended_and_that_is_said():
    with pytest.warns(InputWarning, match="adds up to 3"):
        seen = checked_observation(IMAGE, **given(psf=3 * kernel(7)))
    assert seen.psf.sum() == pytest.approx(1)
    with pytest.warns(InputWarning, match="an even number of pixels"):
        seen = checked_observation(IMAGE, **given(psf=kernel(8)))
    assert seen.psf.shape == (7, 7)
    np.testing.assert_allclose(seen.psf, seen.psf[::-1, ::-1], atol=1e-3)  # in the middle again
    assert any("even" in note for note in seen.notes)


def test_nan_pixels_do_not_count():
    image = IMAGE.copy()
    image[:3] = np.nan
    with pytest.warns(InputWarning, match="123 pixels"):
        seen = checked_observation(image, **GIVEN)
    assert not seen.mask[:3].any()
    assert seen.mask[3:].all()
    assert np.isfinite(seen.image).all()


def correlated(a, seed=7, side=140):
    noise = np.random.default_rng(seed).normal(size=(side + 2, side + 2))
    noise = noise[:, :-2] * a + noise[:, 1:-1] + noise[:, 2:] * a
    return (noise[:-2] * a + noise[1:-1] + noise[2:] * a) / (1 + 2 * a**2)


@pytest.mark.parametrize("a", [0.0, 0.15])
def test_without_a_noise_map_the_corners_tell_the_noise_and_how_alike_neighbours_are(a):
    with pytest.warns(InputWarning, match="without a noise map"):
        seen = checked_observation(0.02 * correlated(a), **given(noise=None))
    assert seen.correlation == pytest.approx(a, abs=0.03)
    np.testing.assert_allclose(seen.noise, 0.02, rtol=0.05)
    with pytest.warns(InputWarning, match="as was given"):
        seen = checked_observation(
            0.02 * correlated(a), **given(noise=None), neighbour_correlation=0.0
        )
    assert seen.correlation == 0


@pytest.mark.parametrize("a", [0.0, 0.15])
def test_photon_noise_follows_from_the_electrons_of_the_image(a):
    """Counts are scattered, and then made alike as drizzling does: bright pixels scatter as the noise says."""
    side, electrons, sky = 81, 400.0, 0.25
    y, x = np.mgrid[:side, :side] - side // 2
    light = sky + 3 * np.exp(-(x**2 + y**2) / (2 * 12.0**2))
    white = np.random.default_rng(8).standard_normal((300, side + 2, side + 2))
    alike = np.stack([_alike(one, a) for one in white])
    scatter = np.sqrt(light / electrons / larger_areas(a))
    images = light + scatter * alike
    middle = (slice(None), slice(35, 46), slice(35, 46))
    with pytest.warns(InputWarning, match="400 electrons per unit"):
        seen = checked_observation(images[0], psf=kernel(5), electrons=electrons, pixel_scale=0.05)
    bright = (slice(35, 46), slice(35, 46))
    assert np.median(seen.noise[bright]) == pytest.approx(images[middle].std(0).mean(), rel=0.1)
    assert np.median(seen.noise[:10, :10]) == pytest.approx(scatter[0, 0], rel=0.15)


def _alike(white, a):
    rows = white[:, :-2] * a + white[:, 1:-1] + white[:, 2:] * a
    return (rows[:-2] * a + rows[1:-1] + rows[2:] * a) / (1 + 2 * a**2)


def test_a_noise_map_that_allows_for_correlated_noise_is_told_from_the_corners():
    image = 0.02 * correlated(0.15)
    with pytest.warns(
        InputWarning, match=r"correlated, which the fit allows for; they scatter 0\.7\d"
    ):
        seen = checked_observation(image, **given(noise=1.39 * 0.02))
    assert seen.correlation == pytest.approx(0.15, abs=0.03)
    np.testing.assert_allclose(seen.noise, 0.02, rtol=0.05)
    # one that is larger than correlation explains is taken times what that does
    with pytest.warns(InputWarning, match=r"scatter 0\.3\d of .*explains 0\.6\d"):
        seen = checked_observation(image, **given(noise=3 * 0.02))
    explained = 1 / np.sqrt(larger_areas(seen.correlation))
    np.testing.assert_allclose(seen.noise, 3 * 0.02 * 0.85 * explained)
    as_given = checked_observation(image, **given(noise=1.39 * 0.02), neighbour_correlation=0.2)
    np.testing.assert_allclose(as_given.noise, 1.39 * 0.02)
    assert as_given.correlation == pytest.approx(0.1, abs=0.01)
    # a map that is right stays
    with pytest.warns(InputWarning, match="correlated"):
        seen = checked_observation(image, **given(noise=0.0195))
    np.testing.assert_allclose(seen.noise, 0.0195, rtol=0.03)
    # corners that scatter far more than the map says hold something, and tell nothing
    with pytest.warns(InputWarning, match="something is there, or the map is too small"):
        seen = checked_observation(image, **given(noise=0.01))
    assert seen.correlation == 0
    np.testing.assert_allclose(seen.noise, 0.01)
    with pytest.raises(InputError, match=r"cannot be 0\.9 correlated"):
        checked_observation(image, **given(noise=0.02), neighbour_correlation=0.9)


def test_flat_corners_tell_no_noise():
    with pytest.raises(InputError, match="the corners are flat"):
        checked_observation(np.zeros((41, 41)), **given(noise=None))


def test_an_image_without_arcs_is_said_to_have_none():
    empty = np.random.default_rng(8).normal(scale=NOISE, size=(41, 41))
    with pytest.raises(InputError, match="no arcs are seen"):
        fit(empty, **GIVEN, lens_light=False)
    galaxy = empty + 400 * NOISE * np.exp(-np.hypot(*np.mgrid[-20:21, -20:21]) / 3)
    with pytest.raises(InputError, match="no arcs are seen"):
        fit(galaxy, **GIVEN)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="unknown option 'lenslight': did you mean 'lens_light'"):
        fit(IMAGE, **GIVEN, lenslight=False)
    with pytest.raises(InputError, match="behind the lens"):
        fit(IMAGE, **GIVEN, z_lens=0.5, z_source=0.3)
    with pytest.raises(InputError, match="z_source must be at most 20, not 1000"):
        fit(IMAGE, **GIVEN, z_lens=0.5, z_source=1000.0)
    with pytest.raises(InputError, match="known are falling, even"):
        fit(IMAGE, **GIVEN, source_prior="odd")
    with pytest.raises(InputError, match="known are pseudo_jaffe"):
        fit(IMAGE, **GIVEN, perturber="blob")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_observation(IMAGE, **GIVEN)  # what is right is not complained about


def test_a_psf_of_finer_pixels_is_kept_as_it_is():
    fine = kernel(21, width=2.4)
    seen = checked_observation(IMAGE, **given(psf=fine, psf_scale=0.04))
    np.testing.assert_allclose(seen.sharp_psf, fine)
    assert seen.sharp_scale == pytest.approx(0.04)
    assert seen.psf.shape == (11, 11)
    assert seen.psf.sum() == pytest.approx(1)
    assert checked_observation(IMAGE, **given(psf_scale=0.0801)).sharp_psf is None
    with pytest.raises(InputError, match="up to 10 times finer"):
        checked_observation(IMAGE, **given(psf_scale=0.16))
    with pytest.raises(InputError, match="more than the image's 82×82"):
        checked_observation(IMAGE, **given(psf=kernel(83), psf_scale=0.04))


def test_a_psfs_header_says_its_pixels(tmp_path):
    from astropy.io import fits

    from haloformer.fitting.reallens.files import LensFiles, read_observation
    from haloformer.readers.reading import Reading

    fits.PrimaryHDU(IMAGE).writeto(tmp_path / "lens.fits")
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -0.04 / 3600, "CDELT2": 0.04 / 3600})  # fmt: skip
    fits.PrimaryHDU(kernel(21, width=2.4), header).writeto(tmp_path / "psf.fits")
    files = LensFiles(str(tmp_path / "lens.fits"), str(tmp_path / "psf.fits"))
    assert read_observation(files, Reading(pixel_scale=0.08)).sharp_scale == pytest.approx(0.04)


def test_wings_of_a_wide_psf_are_cut_off_and_an_image_in_its_place_is_refused():
    image = np.random.default_rng(1).normal(size=(201, 201))
    star = kernel(151) + 1e-7
    with pytest.warns(InputWarning, match=r"of the PSF's 151×151 pixels the 61×61 in the middle"):
        seen = checked_observation(image, psf=star, noise=1.0, pixel_scale=0.05)
    assert seen.psf.shape == (61, 61)
    assert seen.psf.sum() == pytest.approx(1)
    with pytest.raises(InputError, match="is it the image itself"):
        checked_observation(image, psf=np.abs(image), noise=1.0, pixel_scale=0.05)
    wide = kernel(101, width=12.0)
    with pytest.warns(InputWarning, match="with 99"):
        seen = checked_observation(image, psf=wide, noise=1.0, pixel_scale=0.05)
    assert 61 < len(seen.psf) < 101
    fine = kernel(121, width=4.0)  # half as large in pixels of the image
    seen = checked_observation(image, psf=fine, psf_scale=0.025, noise=1.0, pixel_scale=0.05)
    assert seen.sharp_psf.shape == (121, 121)


def test_more_pixels_and_psf_than_memory_holds_are_told(monkeypatch):
    monkeypatch.setattr(operators, "_MOST_TAPS", 41 * 41 * 24)
    with pytest.raises(InputError, match=r"1,681 pixels with a PSF of 5×5 .*--radius"):
        fit(IMAGE, **given(psf=kernel(5)))


def test_negative_pixels_of_a_psf_average_out_those_of_its_noise():
    noisy = kernel(15) + np.random.default_rng(1).normal(0, 2e-3, (15, 15))
    with pytest.warns(InputWarning, match="negative pixels"):
        seen = checked_observation(IMAGE, **given(psf=noisy))
    np.testing.assert_allclose(seen.psf, noisy / noisy.sum())
    with pytest.raises(InputError, match="is its background subtracted"):
        checked_observation(IMAGE, **given(psf=noisy - 4e-3))


def test_the_background_of_a_psf_is_told():
    with pytest.warns(InputWarning, match="33% of its light: was its background not subtracted"):
        checked_observation(IMAGE, **given(psf=kernel(15) + 0.5 / 15**2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_observation(IMAGE, **given(psf=(kernel(15) + 0.03 / 15**2) / 1.03))


def test_a_psf_of_an_even_number_of_pixels_is_not_said_to_be_moved_by_nothing():
    even = np.exp(-((np.arange(10) - 4.5) ** 2) / 4)
    with pytest.warns(InputWarning, match="it was interpolated, to have a middle"):
        checked_observation(IMAGE, **given(psf=np.outer(even, even) / even.sum() ** 2))
    off = np.exp(-((np.arange(10) - 4.9) ** 2) / 4)
    with pytest.warns(InputWarning, match=r"moved by \+0\.00, -0\.\d\d pixels"):
        checked_observation(IMAGE, **given(psf=np.outer(off, even) / even.sum() / off.sum()))


@pytest.mark.parametrize("scale", [0.0, -0.1, float("nan")])
def test_a_psf_has_pixels_of_some_size(scale):
    with pytest.raises(InputError, match="above 0 is needed"):
        checked_observation(IMAGE, **given(psf_scale=scale))


def test_a_map_of_weights_or_of_variances_is_told():
    weights = np.full(IMAGE.shape, NOISE**-2)
    with pytest.raises(InputError, match="is it a map of weights"):
        checked_observation(IMAGE, **given(noise=weights))
    with pytest.warns(InputWarning, match=r"the map is too small \(a variance\?\)"):
        checked_observation(IMAGE, **given(noise=np.full(IMAGE.shape, NOISE / 3)))


@pytest.mark.parametrize("place", [(0.0, 20.0), (359.99999, -30.0), (150.0, 89.9)])
def test_position_angles_hold_across_the_beginning_of_right_ascensions_and_at_the_pole(place):
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = place, (21, 21)
    wcs.wcs.cdelt = -0.05 / 3600, 0.05 / 3600
    seen = checked_observation(IMAGE, **given(wcs=wcs))
    for angle, expected in ((90, 0.0), (30, 120.0), (-20, 70.0)):
        found = seen.east_of_north(np.radians(angle))
        assert (found - expected + 90) % 180 - 90 == pytest.approx(0, abs=0.05)
