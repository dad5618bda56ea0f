"""The smooth lens: deflections are lenstronomy's, masses are what their convergence adds up to."""

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from haloformer.errors import InputError
from haloformer.simulation.components import EPL, Setting, Shear
from haloformer.simulation.components.epl import LEAST_AXIS_RATIO, TERMS, terms_of
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [0.0, 0.02, 0.1, 0.3, 0.43])
def test_as_many_terms_of_the_series_as_a_lens_needs_leave_the_deflection_as_it_is(dtype, size):
    values = {"theta_E": 1.2, "gamma": 2.3, "e1": 0.6 * size, "e2": -0.8 * size, "x": 0.1, "y": 0.0}
    tensors = {name: torch.tensor([value], dtype=dtype) for name, value in values.items()}
    grid = torch.tensor(X)[None], torch.tensor(Y)[None]
    terms = terms_of(tensors["e1"], tensors["e2"])
    for few, all_ in zip(EPL.deflection(*grid, tensors, terms), EPL.deflection(*grid, tensors)):
        assert (few - all_).abs().max() < 4 * torch.finfo(dtype).eps
    assert terms <= TERMS[dtype]
    assert size > 0.1 or terms < 20


def test_shear_deflects_as_lenstronomys():
    values = {"gamma1": np.array([0.05, -0.1]), "gamma2": np.array([0.02, 0.0])}
    assert differences(Shear(), values, torch.float64).max() < 1e-12


def drawn(component, n=4):
    return component.draw(_Numbers(n), Setting.of(COSMOLOGY, *np.full((2, n), [[0.5], [1.0]])), {})


class _Numbers:
    """Draws of quantities that are numbers."""

    def __init__(self, n):
        self.n = n

    def draw(self, quantity, name):
        return np.full(self.n, float(quantity))


COSMOLOGY = Cosmology()


def test_a_lens_of_a_mass_has_its_einstein_radius():
    wrong = Setting.of(COSMOLOGY, np.array([0.5]), np.array([1.0]), "luminosity")
    assert EPL(mass=1e12).draw(_Numbers(1), wrong, {})["theta_E"] == pytest.approx(1.2815, abs=1e-4)
    assert drawn(EPL(mass=1e12))["theta_E"] == pytest.approx(np.full(4, 1.6645), abs=1e-4)
    assert (drawn(EPL())["theta_E"] == 1.2).all()


def test_shear_by_size_and_angle_makes_rings_longest_along_the_angle():
    gamma, angle = 0.2, 0.4
    found = drawn(Shear(gamma=gamma, angle=angle), 1)
    assert found["gamma1"][0] == pytest.approx(gamma * np.cos(2 * angle))
    # Of a source behind an isothermal sphere's centre: θ (1 ∓ γ) = θ_E along and across.
    for along, radius in ((angle, 1 / (1 - gamma)), (angle + np.pi / 2, 1 / (1 + gamma))):
        x, y = (torch.tensor([[[radius * f(along)]]]) for f in (np.cos, np.sin))
        sphere = EPL.deflection(
            x, y, {k: torch.tensor(v) for k, v in drawn(EPL(theta_E=1), 1).items()}
        )
        sheared = Shear.deflection(x, y, {k: torch.tensor(v) for k, v in found.items()})
        assert (x - sphere[0] - sheared[0]).item() == pytest.approx(0, abs=1e-12)
        assert (y - sphere[1] - sheared[1]).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (EPL, {"theta_E": 1.0, "mass": 1e12}, "one of theta_E, mass and sigma_v"),
        (EPL, {"mass": 0.0}, "mass must be positive"),
        (EPL, {"e1": 0.6, "e2": 0.0}, r"an ellipticity of 0\.6: at most 0\.429"),
        (Shear, {"gamma": 0.1}, "gamma and angle together"),
        (Shear, {"angle": 0.1}, "gamma and angle together"),
        (Shear, {"gamma": 0.1, "angle": 0.0, "gamma2": 0.0}, "not both"),
    ],
)
def test_two_ways_to_say_one_thing_are_refused(kind, fields, message):
    with pytest.raises(InputError, match=message):
        kind(**fields)


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
