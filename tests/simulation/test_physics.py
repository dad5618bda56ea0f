"""Distances, Einstein radii, deflections, brightness and instruments against independent references and exact facts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haloformer.errors import InputError
from haloformer.simulation import get_survey
from haloformer.simulation.cosmology import Cosmology, einstein_radius
from haloformer.simulation.deflectors import (
    point_mass_deflection,
    sie_deflection,
    vortex_deflection,
)
from haloformer.simulation.instruments import background_rms, convolve_psf, psf_weights
from haloformer.simulation.sources import sersic_ellipse, sersic_flux


def _t(value):
    return torch.tensor(value, dtype=torch.float64)


def test_distances_match_astropy():
    from astropy.cosmology import FlatLambdaCDM

    ours, theirs = Cosmology(70, 0.3), FlatLambdaCDM(H0=70, Om0=0.3, Ob0=0.05)
    for z in (0.1, 0.5, 1.0, 2.5):
        assert ours.luminosity_distance(z) == pytest.approx(
            theirs.luminosity_distance(z).value, rel=1e-9
        )
    assert ours.angular_diameter_distance(0.5, 1) == pytest.approx(707.6017, rel=1e-6)


def test_einstein_radii_are_the_published_ones_in_faithful_and_the_correct_ones_in_corrected_distances():
    assert einstein_radius(1e12, Cosmology(), 0.5, 1.0, "luminosity") == pytest.approx(
        1.28149056761, rel=1e-9
    )
    assert einstein_radius(3e8, Cosmology(), 0.5, 1.0, "luminosity") == pytest.approx(
        0.0221960677, rel=1e-8
    )
    assert einstein_radius(1e12, Cosmology(), 0.5, 1.0) == pytest.approx(1.6645, rel=1e-4)
    with pytest.raises(InputError, match="angular_diameter"):
        einstein_radius(1e12, Cosmology(), 0.5, 1.0, "comoving")


def test_surveys_have_the_original_numbers():
    one, two, three = (get_survey(f"model_{n}") for n in ("i", "ii", "iii"))
    assert one.scale() == 1
    assert two.scale() == three.scale() == pytest.approx(0.6334579710, abs=1e-9)
    assert background_rms(two.instrument) == pytest.approx(0.005869103, abs=1e-9)
    assert background_rms(three.instrument) == pytest.approx(0.005919973, abs=1e-9)
    assert [len(psf_weights(s.instrument)) // 2 for s in (one, two, three)] == [3, 3, 2]
    for survey, amp in ((two, 53.24524195), (three, 323.80295283)):
        flux = 10 ** (-0.4 * (20 - survey.instrument.magnitude_zero_point))
        assert flux / sersic_flux(0.25, 1.0) == pytest.approx(amp, rel=1e-9)


def test_an_isothermal_lens_deflects_by_its_einstein_radius_everywhere_when_round():
    x, y = _t(np.linspace(-2, 2, 7))[None, :], _t(np.linspace(-1.9, 2.1, 7))[:, None]
    zero = _t(0.0)
    ax, ay = sie_deflection(x, y, _t(1.3), zero, zero, zero, zero)
    assert torch.allclose(torch.hypot(ax, ay), _t(1.3), atol=1e-5)
    for e in (0.0, 1e-9):  # no gradient blows up for a lens that is round
        e1 = _t(e).requires_grad_()
        sum(a.sum() for a in sie_deflection(x, y, _t(1.3), e1, zero, zero, zero)).backward()
        assert torch.isfinite(e1.grad)


@given(angle=st.floats(0, 2 * math.pi), half_length=st.floats(0.03, 3.0), n=st.integers(2, 120))
@settings(max_examples=40, deadline=None)
def test_the_vortex_in_closed_form_is_the_sum_over_its_masses(angle, half_length, n):
    axis = _t(np.linspace(-3, 3, 24))
    x, y = axis[None, :].expand(24, 24), axis[:, None].expand(24, 24)
    closed = vortex_deflection(x, y, _t(0.02), _t(0.1), _t(-0.2), _t(angle), _t(half_length), n)
    line = torch.linspace(-half_length, half_length, n, dtype=torch.float64)
    masses_x, masses_y = 0.1 + line * math.cos(angle), -0.2 + line * math.sin(angle)
    summed = point_mass_deflection(
        axis, axis, _t(0.02).expand(1, n), masses_x[None], masses_y[None]
    )
    scale = max(a.abs().max() for a in summed)
    for a, b in zip(closed, summed):
        assert (a - b[0]).abs().max() < 1e-6 * scale


def test_the_light_of_a_sersic_source_adds_up_to_its_flux():
    axis = _t((np.arange(800) - 399.5) * 0.01)
    one, zero = _t(1.0), _t(0.0)
    image = sersic_ellipse(
        axis[None, :], axis[:, None], one, _t(0.3), one, _t(0.1), _t(-0.2), zero, zero
    )
    assert image.sum().item() * 1e-4 == pytest.approx(sersic_flux(0.3, 1.0), rel=1e-3)


def test_the_psf_is_scipys_gaussian_filter_with_repeated_edges():
    from scipy.ndimage import gaussian_filter

    instrument = get_survey("model_ii").instrument
    image = np.random.default_rng(0).random((2, 20, 20))
    sigma = 0.16 / 2.3548200450309493 / 0.101
    expected = np.stack([gaussian_filter(i, sigma, mode="nearest", truncate=4) for i in image])
    assert np.allclose(convolve_psf(_t(image), _t(psf_weights(instrument))), expected, atol=1e-14)
