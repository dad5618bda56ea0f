"""Granules: the field has the variance and the correlation of its physics, and an image's field is its own."""

import numpy as np
import pytest
import torch
from astropy import constants, units
from scipy import integrate

from haloformer.errors import InputError
from haloformer.simulation.components import Granules, Setting, halos
from haloformer.simulation.components.granules import (
    convergence,
    deflection_field,
    host_density_squared,
    reduced_wavelength,
)
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.distributions import Uniform

AXIS = np.linspace(-2.5, 2.5, 50)
X, Y = np.meshgrid(AXIS, AXIS)


def fields(drawn, number=90, **options):
    made = drawn(Granules(log10_m_axion=-23.0, slope=0.0, **options), range(number))
    kappa = convergence(made.tensors(torch.float32), 256).double().numpy()
    return made.parameters, kappa


def test_fluctuations_have_the_variance_and_the_correlation_that_was_asked_for(drawn):
    p, kappa = fields(drawn)
    sigma, length = p["sigma_kappa"], p["correlation"]
    assert np.unique(length).size == 1
    kappa = kappa / sigma[:, None, None]
    assert kappa.std() == pytest.approx(1, rel=0.01)
    # The correlation at each shift along an axis, against exp(−θ²/θ_λ²): its logarithm gives the length.
    pixel = 10 / 256
    for shift in (1, 2, 3):
        found = np.mean([(kappa * np.roll(kappa, shift, axis)).mean() for axis in (1, 2)])
        fitted = shift * pixel / np.sqrt(-np.log(found / kappa.var()))
        assert fitted == pytest.approx(length[0], rel=0.02)


def test_fluctuations_are_larger_where_the_host_is_denser(drawn):
    made = drawn(Granules(log10_m_axion=-23.0, slope=-0.5), range(80))
    p = made.parameters
    kappa = convergence(made.tensors(torch.float32), 256).double().numpy()
    kappa = kappa / p["sigma_kappa"][:, None, None]
    axis = (np.arange(256) - 128) * 10 / 256
    r = np.hypot(axis, axis[:, None])
    for low, high in ((0.95, 1.05), (0.45, 0.55), (3.9, 4.1)):
        ring = (r > low) & (r < high)
        wanted = np.mean(np.sqrt(p["theta_E"] / ((low + high) / 2)))
        assert np.sqrt((kappa[:, ring] ** 2).mean()) == pytest.approx(wanted, rel=0.05)


def test_deflection_is_the_gradient_whose_divergence_is_the_convergence(drawn):
    made = drawn(Granules(log10_m_axion=-23.5), range(2))
    tensors = made.tensors()
    kappa = convergence(tensors, 256).numpy()
    alpha = deflection_field(tensors, 256).numpy()
    k = 2 * np.pi * np.fft.fftfreq(256, 10 / 256)
    divergence = np.fft.ifft2(
        1j * (k * np.fft.fft2(alpha[:, 0]) + k[:, None] * np.fft.fft2(alpha[:, 1]))
    ).real
    assert divergence / 2 == pytest.approx(kappa, abs=1e-4 * kappa.std())
    curl = np.fft.ifft2(
        1j * (k * np.fft.fft2(alpha[:, 1]) - k[:, None] * np.fft.fft2(alpha[:, 0]))
    ).real
    assert np.abs(curl).max() < 1e-4 * kappa.std()


def test_granules_deflect_as_lenstronomys_interpolation_of_them(drawn):
    made = drawn(Granules(log10_m_axion=Uniform(-23.5, -22.5)), range(3))
    theirs = made.lenstronomy()
    assert np.abs(theirs).max() > 0.001
    assert np.abs(made.deflection() - theirs).max() < 1e-10
    assert np.abs(made.deflection(torch.float32) - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_deflection_hardly_depends_on_the_pixels_of_the_field(drawn):
    """Granules of 0.0126″, in pixels of 0.04″ and of 0.01″: the strength on scales that are seen is the same to a tenth."""
    strength = []
    for pixels in (256, 1024):
        made = drawn(Granules(log10_m_axion=-22.0, slope=0.0, pixels=pixels), range(5))
        strength.append(made.deflection(torch.float32).std())
    assert strength[0] == pytest.approx(strength[1], rel=0.15)


def test_an_image_has_the_same_granules_in_every_batch_and_precision(drawn):
    lens = {name: np.full(4, value) for name, value in (("theta_E", 1.2), ("x", 0), ("y", 0))}
    one = {name: value[:1] for name, value in lens.items()}
    many, alone = drawn(Granules(), range(4), lens=lens), drawn(Granules(), [2], lens=one)
    together = many.deflection()
    assert together[:, 2] == pytest.approx(alone.deflection()[:, 0], rel=1e-9, abs=1e-14)
    single = many.deflection(torch.float32)
    assert np.abs(single - together).max() < 1e-4 * np.abs(together).max()
    assert np.corrcoef(together[0, 0].ravel(), together[0, 1].ravel())[0, 1] < 0.9


def test_wavelength_and_variance_are_those_of_the_physics():
    mass = 1e-22 * units.eV / constants.c**2
    wanted = (constants.hbar / (mass * 250 * units.km / units.s)).to_value(units.kpc)
    assert reduced_wavelength(np.array(-22.0), np.array(250.0)) == pytest.approx(wanted, rel=1e-3)
    setting = Setting.of(Cosmology(), np.array([0.5]), np.array([1.5]))
    host = np.array([1e13]), np.array([5.5])
    r_s = float(halos.scale_radius(*host, 0.5, Cosmology())[0])
    density = 1e13 / (4 * np.pi * r_s**3 * (np.log(6.5) - 5.5 / 6.5))

    def squared(line):
        x = np.hypot(7.0, line) / r_s
        return 2 * (density / (x * (1 + x) ** 2)) ** 2

    expected, _ = integrate.quad(squared, 0, np.inf, epsrel=1e-9)
    assert host_density_squared(np.array([7.0]), *host, setting)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("log10_m", "length", "sigma"),
    [(-24.0, 1.26, 0.122), (-23.0, 0.126, 0.039), (-22.0, 0.0126, 0.012)],
)
def test_scales_at_redshift_one_half(drawn, log10_m, length, sigma):
    lens = {name: np.full(1, value) for name, value in (("theta_E", 1.2), ("x", 0), ("y", 0))}
    p = drawn(Granules(log10_m_axion=log10_m), [0], lens=lens).parameters
    assert p["correlation"][0] == pytest.approx(length, rel=0.02)
    assert p["sigma_kappa"][0] == pytest.approx(sigma, rel=0.05)


def test_fraction_and_amplitude_scale_the_fluctuations(drawn):
    full, part = (
        drawn(Granules(**some)).deflection()
        for some in ({}, {"fraction": 0.3, "granule_amplitude": 2.0})
    )
    assert part == pytest.approx(0.6 * full)


def test_granules_have_slopes_and_their_mass_is_what_deflects(drawn):
    made = drawn(Granules(log10_m_axion=-23.0), range(3))
    tensors = made.tensors()
    for name in ("sigma_kappa", "correlation"):
        tensors[name].requires_grad_()
    alpha = Granules.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], tensors)
    sum(a.square().sum() for a in alpha).backward()
    assert all((tensors[name].grad != 0).all() for name in ("sigma_kappa", "correlation"))
    p, radius = made.parameters, np.full(3, 1.5)
    mass = Granules.mass_within(radius, p, made.setting)
    kappa = convergence(made.tensors(), 256).numpy()
    axis = (np.arange(256) - 128) * 10 / 256
    inside = np.hypot(axis, axis[:, None]) < 1.5
    summed = kappa[:, inside].sum(axis=1) * (10 / 256) ** 2 * made.setting.sigma_crit
    typical = np.pi * 1.5**2 * made.setting.sigma_crit[0] * p["sigma_kappa"].mean()
    assert mass == pytest.approx(summed, abs=0.02 * typical)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 1.5}, "fraction must be at most 1"),
        ({"fraction": -0.5}, "fraction must not be negative"),
        ({"velocity_dispersion": 0}, "velocity_dispersion must be positive"),
        ({"host_mass": -1e13}, "host_mass must be positive"),
        ({"width": 0}, "width must be above 0"),
        ({"pixels": 2}, "pixels must be at least 16"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Granules(**fields)
