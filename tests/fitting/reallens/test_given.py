"""What may be given in Python as an image and what belongs to it, and what is refused, or told, of what it holds."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.nddata import CCDData, Cutout2D, NDData, StdDevUncertainty, UnknownUncertainty
from astropy.utils.masked import Masked
from astropy.wcs import WCS

import haloformer
from haloformer.errors import InputError, InputWarning
from haloformer.fitting.reallens import checked_observation, run
from haloformer.fitting.reallens.given import check_not_skewed
from haloformer.fitting.reallens.masses import Prior

RNG = np.random.default_rng(4)
IMAGE = RNG.normal(size=(40, 40))
HIDDEN = np.zeros((40, 40), bool)
HIDDEN[3:7, 5:9] = True
PSF = np.exp(-np.hypot(*np.mgrid[-4:5, -4:5]))
PSF /= PSF.sum()


def sky(skew=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150, 2], [20.5, 20.5]
    wcs.wcs.cd = np.array([[-1, skew], [0, 1]]) * 0.05 / 3600
    return wcs


@pytest.fixture
def seen(monkeypatch):
    """Returns what would be fitted."""
    monkeypatch.setattr(run, "fit_observation", lambda seen, *rest, **more: seen)
    options = {"psf": PSF, "noise": 1.0, "neighbour_correlation": 0.0}
    return lambda image, **given: haloformer.fit(image, **{**options, **given})


@pytest.mark.parametrize(
    ("image", "noise"),
    [
        (np.ma.array(IMAGE, mask=HIDDEN), 1.0),
        (Masked(IMAGE, mask=HIDDEN), 1.0),
        (IMAGE, np.ma.array(np.ones((40, 40)), mask=HIDDEN)),
        (CCDData(IMAGE, unit="adu", mask=HIDDEN), 1.0),
    ],
)
def test_masked_pixels_do_not_count(seen, image, noise):
    found = seen(image, noise=noise, pixel_scale=0.05)
    assert np.array_equal(found.mask, ~HIDDEN)
    more = np.zeros((40, 40), bool)
    more[20, 20] = True
    if not isinstance(image, CCDData):
        assert np.array_equal(seen(image, noise=noise, mask=more).mask, ~(HIDDEN | more))


def test_quantities_cutouts_and_hdus_are_taken(seen):
    noise = Cutout2D(np.ones((50, 50)), (24.5, 24.5), 40)
    image = Cutout2D(np.pad(IMAGE, 5), (24.5, 24.5), 40)
    found = seen(image, noise=noise, psf=CCDData(PSF, unit="adu"), pixel_scale=50 * units.mas)
    np.testing.assert_array_equal(found.image, IMAGE)
    assert found.pixel_scale == pytest.approx(0.05)
    hdu = fits.ImageHDU(IMAGE, sky().to_header())
    found = seen(hdu, noise=np.ones((40, 40)) * units.nJy)
    assert found.pixel_scale == pytest.approx(0.05)
    assert found.wcs is not None


def test_photon_noise_follows_from_an_image_s_own_header(seen):
    image = IMAGE + 100 * (np.hypot(*(np.mgrid[:40, :40] - 20)) < 6)
    header = fits.Header({"EXPTIME": 500.0, "BUNIT": "ELECTRONS/S"})
    plain = {"noise": None, "neighbour_correlation": 0.0}
    for given in (
        fits.ImageHDU(image, header),
        CCDData(image, unit="electron / s", meta={"EXPTIME": 500.0}),
    ):
        with pytest.warns(InputWarning, match="500 electrons per unit"):
            noise = seen(given, **plain).noise
        blank = noise[0, 0]
        assert noise[20, 20] == pytest.approx(np.hypot(blank, np.sqrt(image[20, 20] / 500)), rel=0.02)  # fmt: skip
    with pytest.warns(InputWarning, match="photon noise of bright pixels is not known"):
        noise = seen(image, **plain).noise
    assert np.ptp(noise) == 0


def test_noise_is_brought_to_the_unit_of_the_image(seen):
    image, noise = IMAGE * units.Jy, np.full((40, 40), 500.0) * units.mJy
    uncertain = NDData(image, uncertainty=StdDevUncertainty(noise))
    for found in (
        seen(image, noise=noise, pixel_scale=0.05),
        seen(image, noise=500 * units.mJy, pixel_scale=0.05),
        seen(uncertain, noise=None, pixel_scale=0.05),
        seen(uncertain, noise=0.5, pixel_scale=0.05),  # a number is in the image's unit
        seen(IMAGE, noise=0.5 * units.Jy, pixel_scale=0.05),
    ):
        np.testing.assert_allclose(found.noise, 0.5)


@pytest.mark.parametrize(
    ("image", "given", "message"),
    [
        ("a.fits", {}, "the name of a file"),
        (IMAGE, {"psf": "psf.fits"}, "psf is 'psf.fits', the name of a file"),
        (fits.HDUList([fits.PrimaryHDU(IMAGE)]), {}, "list of HDUs"),
        (fits.PrimaryHDU(), {}, "holds no pixels"),
        (NDData(IMAGE, uncertainty=UnknownUncertainty(IMAGE)), {"noise": None}, "unknown type"),
        (IMAGE, {"wcs": WCS(naxis=2)}, "no axes on the sky"),
        (IMAGE, {"wcs": sky(0.1)}, "axes of its pixels are 84.3° apart"),
        (IMAGE, {"pixel_scale": 3 * units.kg}, "an angle is needed"),
        (
            SimpleNamespace(images=IMAGE, parameters={}),
            {},
            r"give one of its images, batch\.images",
        ),
        (object(), {}, "the image is object: an array of real numbers"),
        (IMAGE.astype(complex), {}, "of complex128: an array of real numbers"),
        (IMAGE * units.mag, {}, "'mag', which are logarithms"),
        (CCDData(IMAGE, unit="mag"), {}, "'mag', which are logarithms"),
        (IMAGE * units.Jy, {"noise": 1.0 * units.adu}, "noise is in adu, the image in Jy"),
        (IMAGE, {"psf": np.ma.masked_less(PSF, 1e-3)}, "psf: .* of its pixels are masked"),
        (IMAGE, {"noise": 1.0 * units.mag}, "noise: its values are in 'mag'"),
        (IMAGE, {"noise_map": 1.0}, "unknown option 'noise_map': in Python it is noise"),
        (
            IMAGE,
            {"survey": "model_i"},
            "those of a survey are fitted by haloformer.fitting.fit_smooth",
        ),
        (IMAGE, {"pixel_scales": 1.0}, "did you mean 'pixel_scale'"),
        (IMAGE, {"psf": [["a"]]}, "psf is list of <U1: an array of real numbers"),
        (IMAGE, {"noise": [[1.0, 2.0], [3.0]]}, "noise is list, and no array"),
    ],
)
def test_what_is_no_image_of_the_sky_is_refused_in_one_line(seen, image, given, message):
    with pytest.raises(InputError, match=message):
        seen(image, **given)


def test_a_small_skew_passes_and_a_scale_that_is_taken_for_granted_is_told(seen):
    check_not_skewed(sky(0.01), "image")
    with pytest.warns(InputWarning, match=r"taken to be of 0\.05″"):
        found = seen(NDData(IMAGE, uncertainty=StdDevUncertainty(np.ones((40, 40)))))
    assert any("taken to be" in note for note in found.notes)


def observed(image, **given):
    return checked_observation(image, **{"psf": PSF, "noise": 1.0, "neighbour_correlation": 0.0, **given})  # fmt: skip


@pytest.mark.filterwarnings("ignore::haloformer.errors.InputWarning")
def test_masks_that_leave_out_nothing_or_nearly_all_are_told():
    assert any("leaves out no pixel" in n for n in observed(IMAGE, mask=0 * IMAGE).notes)
    mask = np.ones((40, 40))
    mask[15:23, 15:23] = 0
    assert any("is to be 0 where a pixel counts" in n for n in observed(IMAGE, mask=mask).notes)
    assert observed(IMAGE, mask=HIDDEN).notes == ()


@pytest.mark.filterwarnings("ignore::haloformer.errors.InputWarning")
def test_where_there_are_no_data_pixels_do_not_count_but_counts_may_be_0():
    border = IMAGE.copy()
    border[:5] = 0.0
    border[20, 20] = 0.0  # by chance
    found = observed(border, noise=np.ones((40, 40)), neighbour_correlation=None)
    assert int((~found.mask).sum()) == 200
    assert any("exactly 0" in note for note in found.notes)
    assert observed(np.round(np.clip(border, 0, None))).mask.all()


@pytest.mark.filterwarnings("ignore::haloformer.errors.InputWarning")
def test_a_psf_off_its_middle_is_told_by_how_much():
    fine = np.mgrid[-4:5, -4:5].astype(float)
    told = observed(IMAGE, psf=np.exp(-np.hypot(fine[0], fine[1] - 0.4))).notes
    assert any("off its middle: places" in note for note in told)
    told = observed(IMAGE, psf=np.exp(-np.hypot(fine[0] - 2, fine[1]))).notes
    assert any("-0.00, -2.00 pixels" in note or "+0.00, -2.00 pixels" in note for note in told)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"supersampling": "a"}, "supersampling must be a whole number, not 'a'"),
        ({"supersampling": 1.5}, "supersampling must be a whole number, not 1.5"),
        ({"live": "a", "sample": "nested"}, "live must be a whole number, not 'a'"),
        ({"multipoles": "yes"}, "multipoles must be true or false, not 'yes'"),
        ({"r_trunc": "a", "perturber": "point"}, "r_trunc must be a number, not 'a'"),
        ({"z_lens": "a", "z_source": 1}, "z_lens must be a number, not 'a'"),
        ({"source_step": "fine"}, "source_step must be a number, not 'fine'"),
        ({"z_lens": float("nan"), "z_source": 1.0}, "z_lens must be a number, not nan"),
        ({"start": 3}, "start must map names to numbers, not 3"),
        ({"start": {"thetaE": 1.2}}, "unknown parameter in start 'thetaE': did you mean 'theta_E'"),
        ({"start": {"x": "a"}}, "start: x must be a number, not 'a'"),
        ({"priors": 3}, "priors must map names to Prior(mean, sd), not 3"),
        ({"priors": {"thetaE": Prior(1, 1)}}, "unknown parameter in priors 'thetaE': did you mean"),
        ({"priors": {"theta_E": 3}}, "priors: theta_E must be a Prior(mean, sd), not 3"),
    ],
)
def test_options_that_would_change_nothing_or_break_the_fit_are_told(options, said):
    image = np.random.default_rng(0).normal(0, 1, (40, 40))
    with pytest.raises(InputError) as error:
        haloformer.fit(image, psf=PSF, pixel_scale=0.05, **options)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("numbers", [(np.nan, 1), (1, 0), (1, -1), (1, 1, 3, 2), ("a", 1)])
def test_what_is_no_distribution_is_no_prior(numbers):
    with pytest.raises(InputError, match="a prior needs a mean, a standard deviation above 0"):
        Prior(*numbers)
