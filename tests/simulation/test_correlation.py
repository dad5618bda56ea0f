"""Correlated noise: mean, variance and correlations by their formulas, the same in every batch; and maps of users."""

import numpy as np
import pytest
import torch
from astropy.io import fits

from haloformer.errors import InputError, InputWarning
from haloformer.simulation.correlation import (
    Whitening,
    add_correlated_noise,
    correlated_noise,
    correlation,
    noise_sigma,
    read_noise_map,
)
from haloformer.simulation.instruments import Instrument, central_part

WORDS = np.random.default_rng(0).integers(0, 2**63, 60).astype(np.uint64)


def noise(a, side=64, words=WORDS):
    return correlated_noise(words, torch.full((len(words),), a, dtype=torch.float64), side).numpy()


@pytest.mark.parametrize("a", [0.0, 0.1, 0.17])
def test_mean_variance_and_correlations_are_those_of_the_formulas(a):
    found = noise(a)
    n = found.size
    assert abs(found.mean()) < 5 * (1 + 2 * a) ** 2 / (1 + 2 * a**2) / np.sqrt(n)
    assert found.var() == pytest.approx(1, abs=0.02)
    for lag in (1, 2, 3):
        along = (found[:, :, :-lag] * found[:, :, lag:]).mean()
        across = (found[:, :-lag] * found[:, lag:]).mean()
        assert (along, across) == pytest.approx((correlation(a, lag),) * 2, abs=0.012)
    diagonal = (found[:, :-1, :-1] * found[:, 1:, 1:]).mean()
    assert diagonal == pytest.approx(correlation(a, 1) ** 2, abs=0.012)


def test_variance_of_large_areas_is_that_of_the_sum_of_correlations():
    a, side = 0.15, 16
    found = noise(a)
    sums = found.reshape(len(found), 4, side, 4, side).sum((2, 4)).ravel()
    lags = np.arange(-side, side + 1)
    weights = (side - np.abs(lags)) * [correlation(a, int(lag)) for lag in lags]
    assert sums.var() == pytest.approx(weights.sum() ** 2, rel=0.12)
    assert weights.sum() ** 2 > 2 * side**2


def test_noise_is_the_same_in_every_batch_and_in_central_parts():
    together = noise(0.12)
    assert np.array_equal(noise(0.12, words=WORDS[7:8])[0], together[7])
    a = torch.full((len(WORDS),), 0.12, dtype=torch.float64)
    for side in (21, 22):
        part = correlated_noise(WORDS, a, 64, side=side)
        assert torch.equal(part, central_part(torch.tensor(together), side))
    assert abs(np.corrcoef(together[0].ravel(), together[1].ravel())[0, 1]) < 0.1


def test_each_image_has_its_own_correlation():
    a = torch.tensor([0.0, 0.2], dtype=torch.float64)
    found = correlated_noise(WORDS[:2], a, 200)
    lag = (found[:, :, :-1] * found[:, :, 1:]).mean((1, 2)).numpy()
    assert lag == pytest.approx([0, correlation(0.2, 1)], abs=0.03)


def test_noise_is_background_and_photons():
    images = torch.tensor([[[0.0, 5.0], [-1.0, 2.0]]])
    sigma = noise_sigma(images, torch.tensor([2000.0]), 0.01)
    wanted = np.sqrt(0.01**2 + np.array([[0, 5], [0, 2]]) / 2000)
    assert sigma[0].numpy() == pytest.approx(wanted)
    many = torch.zeros(60, 64, 64)
    sigma = noise_sigma(many + 0.3, torch.full((60,), 2000.0), 0.01)
    noisy = add_correlated_noise(many + 0.3, sigma, WORDS, torch.full((60,), 0.15))
    assert float(noisy.mean()) == pytest.approx(0.3, abs=1e-3)
    assert float(noisy.std()) == pytest.approx(float(sigma[0, 0, 0]), rel=0.01)
    assert noisy.dtype == many.dtype


def test_a_users_noise_map_is_read_and_checked(tmp_path):
    sigma = np.linspace(0.01, 0.02, 34 * 34, dtype=np.float32).reshape(34, 34)
    path = tmp_path / "noise_map.fits"
    fits.PrimaryHDU(sigma).writeto(path)
    camera = Instrument(num_pix=32, pixel_scale=0.05, noise_map=str(path))
    assert np.array_equal(read_noise_map(camera), sigma[1:-1, 1:-1])
    for wrong, said in (
        (0 * sigma, "positive"),
        (sigma[:20], "fewer"),
        (sigma * np.nan, "1024 of 1024"),
    ):
        fits.PrimaryHDU(wrong).writeto(path, overwrite=True)
        with pytest.raises(InputError, match=said) as caught:
            read_noise_map(camera)
        assert "--nan" not in str(caught.value)  # an option that simulate has not
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        read_noise_map(camera)
    with pytest.raises(InputError, match="no noise_map"):
        read_noise_map(Instrument(num_pix=32, pixel_scale=0.05))


@pytest.fixture
def sigma():
    return np.full((32, 32), 0.01, np.float32)


def _written(path, sigma, **cards):
    hdu = fits.PrimaryHDU(sigma)
    hdu.header.update(cards)
    hdu.writeto(path, overwrite=True)
    return Instrument(num_pix=32, pixel_scale=0.05, noise_map=str(path))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("counts/s", 1), ("ELECTRONS/S", 1), ("DN/s", 1), ("electron/h", 1 / 3600), ("kct/s", 1e3)],
)
def test_a_users_noise_map_in_another_unit_is_converted(tmp_path, sigma, unit, factor):
    found = read_noise_map(_written(tmp_path / "noise.fits", sigma, BUNIT=unit))
    assert found == pytest.approx(factor * sigma)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("electron", "must be in counts/s"),
        ("MJy/sr", "must be in counts/s"),
        ("(electron/s)^2", "map of variances"),
        ("(counts/s)**-2", "map of weights"),
    ],
)
def test_a_users_noise_map_of_something_else_is_refused(tmp_path, sigma, unit, said):
    camera = _written(tmp_path / "noise.fits", sigma, BUNIT=unit)
    with pytest.raises(InputError, match=said):
        read_noise_map(camera)


@pytest.mark.parametrize(("name", "kind"), [("WHT", "weight"), ("SCI_VAR", "variance")])
def test_a_users_map_that_is_no_standard_deviation_by_its_name_is_refused(
    tmp_path, sigma, name, kind
):
    camera = _written(tmp_path / "noise.fits", sigma, EXTNAME=name)
    with pytest.raises(InputError, match=f"is a {kind} by its name, {name}"):
        read_noise_map(camera)


def test_a_users_noise_map_is_found_by_its_name_and_another_pixel_scale_is_told(tmp_path, sigma):
    path = tmp_path / "cutout.fits"
    camera = _written(path, 5 + sigma, PIXSCALE=0.1)
    with pytest.warns(InputWarning, match="pixels of 0.1″ by its header, the camera's are 0.05″"):
        read_noise_map(camera)
    image = fits.PrimaryHDU(5 + sigma)
    fits.HDUList([image, fits.ImageHDU(sigma, name="ERR")]).writeto(path, overwrite=True)
    assert np.array_equal(read_noise_map(camera), sigma)


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_signals_are_weighed_by_the_covariance_of_the_pixels_that_are_seen(share):
    random = np.random.default_rng(4)
    seen, a = random.random((12, 9)) < share, 0.19
    rows, columns = np.nonzero(seen)
    lags = [
        np.vectorize(lambda lag: correlation(a, int(lag)))(np.subtract.outer(each, each))
        for each in (rows, columns)
    ]
    images = random.normal(size=(3, 12, 9))
    white = Whitening(seen, a)(images)
    exact = np.linalg.solve(lags[0] * lags[1], images[:, seen].T)
    assert (white**2).sum((1, 2)) == pytest.approx((images[:, seen].T * exact).sum(0))
    assert not white[:, ~seen].any()
