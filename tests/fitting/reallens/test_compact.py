"""Sources smaller than pixels: what they make of a lens is less sure than it seems, and the fit says so."""

import dataclasses

import numpy as np
import pytest

import haloformer
from haloformer.fitting.reallens import operators
from haloformer.fitting.reallens.optimise import covariance, fit_at
from haloformer.fitting.reallens.source_prior import Smoothness, falling
from small_lens import SCALE, lens


@pytest.fixture(scope="module")
def fit():
    image, given = lens(lens_light=False)
    return haloformer.fit(image, **given, radius=1.6, lens_light=False, supersampling=1)


def squeezed(fit, pixels, extents=1.0):
    """Returns the fit as if the source's light fell within so many pixels, and was alike over so many times as much."""
    best = fit.smooth
    extent = pixels * SCALE / best.scale
    smoothness = dataclasses.replace(best.smoothness, extent=extent, length=extents * extent)
    again = fit_at(best.problem, best.source, best.vector, smoothness)
    return dataclasses.replace(fit, smooth=again)


def test_rays_that_are_too_far_apart_for_the_source_are_told(fit):
    assert not any("compact" in words for words in fit.cautions)
    (told,) = (words for words in squeezed(fit, 0.55).cautions if "compact" in words)
    assert "--supersampling 4" in told


def test_a_source_of_less_than_half_a_pixel_is_told_however_many_rays_see_it(fit):
    near = squeezed(fit, 0.45)
    closely = dataclasses.replace(near, ready=dataclasses.replace(near.ready, supersampling=5))
    (told,) = (words for words in closely.cautions if "compact" in words)
    assert "several of their errors" in told
    assert "--supersampling" not in told


def test_errors_of_a_compact_source_hold_its_place_and_shape(fit):
    near = squeezed(fit, 0.51)
    np.testing.assert_array_equal(near.covariance, covariance(near.smooth))
    compact = squeezed(fit, 0.49)
    ratio = np.sqrt(np.diag(compact.covariance) / np.diag(covariance(compact.smooth)))
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() > 1.05


def test_errors_of_a_source_that_is_its_envelope_alone_hold_that_envelope(fit):
    structured = squeezed(fit, 2.0, extents=3.0)
    np.testing.assert_array_equal(structured.covariance, covariance(structured.smooth))
    plain = squeezed(fit, 2.0, extents=30.0)
    ratio = np.sqrt(np.diag(plain.covariance) / np.diag(covariance(plain.smooth)))
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() > 1.1


def test_a_sources_envelope_is_steeper_where_its_profile_is():
    """Galaxies that are no exponential discs are seen as what they are: an exponential alone put the lens elsewhere."""
    grid = operators.SourceGrid(0.0, 0.0, 41, 0.01)
    middle, row = 20, 20
    heights = {}
    for power in (0.5, 1.0, 2.0):
        envelope = falling(grid, Smoothness(1.0, 0.1, 0.1, 0.05, power=power)).reshape(41, 41)
        heights[power] = envelope[row, middle:]
    at = np.argmin(np.abs(0.01 * np.arange(21) - 1.7 * 0.05))
    for power in (0.5, 2.0):  # all are as high at 1.7 extents
        assert heights[power][at] == pytest.approx(heights[1.0][at], rel=0.1)
    assert heights[0.5][0] > heights[1.0][0] > heights[2.0][0]
    assert heights[0.5][-1] > heights[1.0][-1] > heights[2.0][-1]
