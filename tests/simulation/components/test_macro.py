"""The smooth lens: deflections are lenstronomy's, masses are what their convergence adds up to."""

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from haloformer.simulation.components import EPL, Setting, Shear
from haloformer.simulation.components.epl import LEAST_AXIS_RATIO
from haloformer.simulation.cosmology import Cosmology

AXIS = np.linspace(-2.5, 2.5, 50)
X, Y = np.meshgrid(AXIS, AXIS)


def deflection(component, parameters, dtype):
    tensors = {name: torch.tensor(values, dtype=dtype) for name, values in parameters.items()}
    grid = torch.tensor(X)[None], torch.tensor(Y)[None]
    return [alpha.double().numpy() for alpha in component.deflection(*grid, tensors)]


def differences(component, parameters, dtype):
    """The largest difference of a deflection to lenstronomy's, of each image: in arcsec, or in parts of one that is larger than 1″."""
    found = deflection(component, parameters, dtype)
    largest = []
    for i in range(len(next(iter(parameters.values())))):
        profiles = component.lenstronomy({k: v[i] for k, v in parameters.items()})
        names, keywords = [name for name, _ in profiles], [values for _, values in profiles]
        theirs = LensModel(names).alpha(X.ravel(), Y.ravel(), keywords)
        size = np.maximum(1, np.hypot(*theirs))
        largest.append(max((np.abs(a[i].ravel() - b) / size).max() for a, b in zip(found, theirs)))
    return np.array(largest)


def ellipsoids(n=60, seed=0):
    rng = np.random.default_rng(seed)
    axis_ratio, angle = rng.uniform(LEAST_AXIS_RATIO, 1, n), rng.uniform(0, 2 * np.pi, n)
    axis_ratio[:4], angle[:4] = (1, LEAST_AXIS_RATIO, 0.7, 0.7), (0.3, np.pi, np.pi, 0)
    c = (1 - axis_ratio) / (1 + axis_ratio)
    return {
        "theta_E": rng.uniform(0.3, 2.0, n),
        "gamma": rng.uniform(1.5, 2.6, n),
        "e1": c * np.cos(angle),
        "e2": c * np.sin(angle),
        "x": rng.uniform(-0.1, 0.1, n),
        "y": rng.uniform(-0.1, 0.1, n),
    }


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_power_law_of_any_slope_and_shape_deflects_as_lenstronomys(dtype, most):
    assert differences(EPL(), ellipsoids(), dtype).max() < most


def test_shear_deflects_as_lenstronomys():
    values = {"gamma1": np.array([0.05, -0.1]), "gamma2": np.array([0.02, 0.0])}
    assert differences(Shear(), values, torch.float64).max() < 1e-12


def test_power_law_has_slopes_everywhere_round_ones_too():
    lenses = {
        name: torch.tensor(values, requires_grad=True) for name, values in ellipsoids(4).items()
    }
    alpha = EPL.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], lenses)
    sum(a.square().sum() for a in alpha).backward()
    assert all(torch.isfinite(values.grad).all() for values in lenses.values())


def test_mass_within_a_circle_is_what_the_convergence_adds_up_to():
    lenses = {**ellipsoids(5), "x": np.zeros(5), "y": np.zeros(5)}
    setting = Setting.of(Cosmology(), np.full(5, 0.3), np.full(5, 1.0))
    radius = np.array([0.5, 1.0, 1.5, 2.0, 0.8])
    # By Gauss's theorem: the mean radial deflection on the circle.
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    x, y = (torch.tensor(radius[:, None, None] * f(angle)) for f in (np.cos, np.sin))
    tensors = {name: torch.tensor(values) for name, values in lenses.items()}
    alpha_x, alpha_y = EPL.deflection(x, y, tensors)
    radial = ((alpha_x * x + alpha_y * y) / torch.tensor(radius)[:, None, None]).mean((1, 2))
    wanted = np.pi * setting.sigma_crit * radius * radial.numpy()
    assert EPL.mass_within(radius, lenses, setting) == pytest.approx(wanted, rel=1e-9)
    assert np.all(Shear.mass_within(radius, {}, setting) == 0)


def test_critical_density_and_scale_are_those_of_astropy():
    from astropy import constants, units
    from astropy.cosmology import FlatLambdaCDM

    z_lens, z_source = np.array([0.2, 0.5, 2.0]), np.array([0.6, 1.5, 5.1])
    ours, theirs = Setting.of(Cosmology(), z_lens, z_source), FlatLambdaCDM(70, 0.3, Tcmb0=0)
    d_l, d_s = (theirs.angular_diameter_distance(z) for z in (z_lens, z_source))
    d_ls = d_s - d_l * (1 + z_lens) / (1 + z_source)
    sigma = constants.c**2 / (4 * np.pi * constants.G) * d_s / (d_l * d_ls)
    arcsec = d_l * (1 * units.arcsec).to_value(units.rad)
    assert ours.kpc_per_arcsec == pytest.approx(arcsec.to_value(units.kpc), rel=1e-9)
    assert ours.sigma_crit == pytest.approx((sigma * arcsec**2).to_value(units.Msun), rel=1e-4)
    assert ours.theta_E(np.pi * ours.sigma_crit) == pytest.approx(np.ones(3))
    density = theirs.critical_density(z_lens).to_value(units.Msun / units.kpc**3)
    assert Cosmology().critical_density(z_lens) == pytest.approx(density, rel=1e-4)
