"""The mass model: what a perturber has within a radius."""

import numpy as np
import pytest
import torch

from haloformer.fitting.reallens.masses import Mass

M_POINT = 1e-2  # arcsec², the squared Einstein radius of the perturber's mass as a point
SETTING = {"z_lens": 0.222, "z_source": 0.609}


def vector(mass: Mass) -> np.ndarray:
    values = {"theta_E": 1.4, "gamma": 2.0, "perturber_m": M_POINT, "perturber_x": 1.0}
    return np.array([values.get(name, 0.0) for name in mass.names])


def test_a_pseudo_jaffe_has_what_its_closed_form_says_within_a_radius():
    mass = Mass(perturber="pseudo_jaffe", r_trunc=0.307, **SETTING)
    a, R = 0.307, 1.0 / float(mass.setting.kpc_per_arcsec[0])
    # Σ ∝ 1/R − 1/√(R² + a²): M(R) / M = (R + a − √(R² + a²)) / a without a core
    share = (R + a - np.hypot(R, a)) / a
    total = mass.solar_masses(M_POINT)
    assert mass.mass_within(1.0, vector(mass)) == pytest.approx(share * total, rel=0.02)
    assert mass.mass_within(1e4, vector(mass)) == pytest.approx(total, rel=1e-3)


def test_a_point_has_all_within_any_radius_wherever_it_lies():
    mass = Mass(perturber="point", **SETTING)
    for kpc in (0.1, 1.0, 30.0):
        within = mass.mass_within(kpc, vector(mass))
        assert within == pytest.approx(mass.solar_masses(M_POINT), rel=1e-6)


def test_a_halo_has_what_its_surface_density_adds_up_to():
    mass = Mass(perturber="tnfw", **SETTING)
    radius = 1.0 / float(mass.setting.kpc_per_arcsec[0])
    r = np.linspace(1e-4, radius, 4001)
    step = 1e-4
    # κ = (1/2r) d(r α)/dr, from the deflection that the fit uses
    along = [
        mass.perturbation(r + h, np.zeros_like(r), M_POINT, (0.0, 0.0), 1.4)[0] * (r + h)
        for h in (step / 2, -step / 2)
    ]
    kappa = (along[0] - along[1]) / step / (2 * r)
    added = 2 * torch.trapezoid(torch.from_numpy(kappa * r), torch.from_numpy(r)).item()
    within = mass.mass_within(1.0, vector(mass))
    assert within == pytest.approx(mass.solar_masses(added), rel=0.01)
    assert 0 < within < mass.solar_masses(M_POINT)


def test_without_redshifts_nothing_is_said():
    mass = Mass(perturber="point")
    assert mass.mass_within(1.0, vector(mass)) is None
