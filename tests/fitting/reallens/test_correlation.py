"""Noise that neighbouring pixels have alike: measured in the corners, and made independent whatever pixels a mask leaves out."""

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.fitting.reallens import correlation as own
from haloformer.simulation.correlation import correlated_noise


def noise(number, a, side=80):
    words = np.array([number * 1_000_003 + 17], np.uint64)
    return correlated_noise(words, torch.tensor([a]), side)[0].numpy()


def ragged_mask(side=24):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    distance = np.hypot(x, y)
    mask = (distance < 0.47 * side) & (distance > 2)
    mask[5] &= np.random.default_rng(3).random(side) > 0.4  # cosmic rays
    mask[14:17, 3:9] = False
    return mask


def covariance(mask, a):
    """Of white noise convolved with (a, 1, a)/√(1 + 2a²) along both axes, built from the kernel."""
    side = len(mask)
    kernel = np.zeros((side + 2, side))
    for k in range(side):
        kernel[k : k + 3, k] = [a, 1, a]
    along = kernel.T @ kernel / (1 + 2 * a**2)
    row, column = np.nonzero(mask)
    return along[row[:, None], row] * along[column[:, None], column]


@pytest.mark.parametrize("a", [0.05, 0.15, 0.25])
def test_whitening_makes_noise_of_this_covariance_independent(a):
    mask = ragged_mask()
    white = own.whitening(mask, a)
    C = covariance(mask, a)
    np.testing.assert_allclose(white @ C @ white.toarray().T, np.eye(len(C)), atol=2.5e-3)
    volume = -2 * np.log(white.diagonal()).sum()
    assert volume == pytest.approx(np.linalg.slogdet(C)[1], abs=0.02)
    values = np.random.default_rng(4).normal(size=(len(C), 3))
    np.testing.assert_allclose(own.coloured(white, white @ values), values, atol=1e-9)
    assert own.larger_areas(a) == pytest.approx(
        C.sum() / len(C), rel=0.3
    )  # of an area with borders


def test_independent_noise_needs_no_whitening():
    assert own.whitening(ragged_mask(), 0.0) is None
    values = np.ones(4)
    assert own.coloured(None, values) is values


@pytest.mark.parametrize("a", [0.0, 0.1, 0.15, 0.25])
def test_the_corners_tell_scatter_and_correlation(a):
    everywhere = np.ones((80, 80), bool)
    found = [own.of_corners(0.02 * noise(k, a), everywhere) for k in range(12)]
    assert np.mean([one.scatter for one in found]) == pytest.approx(0.02, rel=0.03)
    values = [one.a for one in found]
    assert np.mean(values) == pytest.approx(a, abs=0.02)
    if a == 0:
        assert np.median(values) == 0


def test_a_galaxy_in_one_corner_does_not_count_and_no_pixels_tell_nothing():
    image, everywhere = noise(5, 0.15), np.ones((80, 80), bool)
    y, x = np.mgrid[:80, :80]
    galaxy = image + 60 * np.exp(-np.hypot(x - 5, y - 5) / 4)
    plain, beside = (own.of_corners(each, everywhere) for each in (image, galaxy))
    assert beside.scatter == pytest.approx(plain.scatter, rel=0.08)
    assert beside.a == pytest.approx(plain.a, abs=0.03)
    assert beside.pixels < plain.pixels
    empty = image.copy()
    empty[:14, :14] = 0  # where the camera saw nothing
    without = own.of_corners(empty, everywhere)
    assert without.scatter == pytest.approx(plain.scatter, rel=0.08)
    assert without.pixels < plain.pixels
    assert own.of_corners(0 * image, everywhere).scatter == 0
    middle = np.zeros((80, 80), bool)
    middle[20:60, 20:60] = True
    assert own.of_corners(image, middle) is None


def test_more_than_can_be_allowed_for_is_said():
    assert own.in_words(0.15) == "0.29 correlated, which the fit allows for"
    assert own.in_words(own.LARGEST_A).startswith("at least 0.56 correlated")


def test_the_correlation_of_neighbours_tells_the_kernel():
    for a in (0.0, 0.1, 0.35):
        assert own.kernel_of(own.neighbours(a)) == pytest.approx(a, abs=1e-9)
    for wrong in (-0.1, 0.7, 1.0, float("nan")):
        with pytest.raises(InputError, match=r"0 \(independent noise\) to 0\.56"):
            own.kernel_of(wrong)
