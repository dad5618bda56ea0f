"""Point masses, vortex lines, soliton cores and pseudo-Jaffe perturbers: deflections are lenstronomy's, masses what was asked for."""

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from haloformer.errors import InputError
from haloformer.simulation.components import PointMasses, PseudoJaffe, Soliton, VortexLine
from haloformer.simulation.components.populations import mass_by_gauss
from haloformer.simulation.deflectors import point_mass_deflection
from haloformer.simulation.distributions import Normal, Uniform

AXIS = np.linspace(-2.5, 2.5, 50)
X, Y = np.meshgrid(AXIS, AXIS)

KINDS = {
    "point masses": PointMasses(number=7),
    "one point mass": PointMasses(number=1, mass=1e9),
    "short vortex": VortexLine(n_masses=5),
    "vortex": VortexLine(x=Normal(0.0, 0.2), y=0.1),
    "vortex of a length": VortexLine(length=Uniform(0.5, 2.0), n_masses=25),
    "pseudo-Jaffe": PseudoJaffe(mass=3.5e9, r_trunc=0.307, x=Uniform(-1, 1), y=1.0),
}

CORES = Soliton(number=3, mass=Uniform(1e9, 1e11), log10_m_axion=Uniform(-23, -22))


@pytest.mark.parametrize("name", KINDS)
def test_perturbers_deflect_as_lenstronomys(drawn, name):
    made = drawn(KINDS[name])
    theirs = made.lenstronomy()
    size = np.maximum(np.abs(theirs), 0.1)  # arcsec; beside a mass, a part of what is there
    assert (np.abs(made.deflection() - theirs) / size).max() < 1e-9
    assert (np.abs(made.deflection(torch.float32) - theirs) / size).max() < 1e-4
    assert np.abs(theirs).max() > 0.01


@pytest.mark.parametrize("name", KINDS)
def test_mass_inside_a_circle_is_what_deflects_on_it(drawn, name):
    made = drawn(KINDS[name])
    radius = np.linspace(0.6, 2.2, 6)
    found = made.component.mass_within(radius, made.parameters, made.setting)
    gauss = mass_by_gauss(
        made.component.deflection, radius, made.parameters, made.setting, points=20_000
    )
    assert found == pytest.approx(gauss, rel=1e-3, abs=1.0)
    total = made.parameters["mass"]
    total = total.sum(axis=1) if total.ndim == 2 else total
    far = made.component.mass_within(np.full(6, 1e3), made.parameters, made.setting)
    assert far == pytest.approx(total, rel=1e-3)


def test_cores_deflect_as_lenstronomys_and_where_they_are_flat(drawn):
    made = drawn(CORES)
    theirs = made.lenstronomy()
    assert np.abs(theirs).max() > 0.01
    assert np.abs(made.deflection() - theirs).max() < 1e-12
    assert np.abs(made.deflection(torch.float32) - theirs).max() < 1e-6
    one = {name: torch.tensor([[value]], dtype=torch.float64) for name, value in {"kappa_0": 0.1, "theta_c": 0.5, "x": 0.0, "y": 0.0}.items()}  # fmt: skip
    near = torch.tensor([[[0.0, 1e-5, 1.5e-3, 1.7e-3]]], dtype=torch.float64)
    alpha, _ = Soliton.deflection(near, torch.zeros_like(near), one)
    assert alpha == pytest.approx(0.1 * near, rel=1e-4)
    # from one side of the seam to the other, exactly
    exact = 2 / 13 * 0.1 * 0.25 / (2**0.125 - 1) / near[..., 2:] * (1 - (1 + (2**0.125 - 1) * near[..., 2:]**2 / 0.25) ** -6.5)  # fmt: skip
    assert alpha[..., 2:] == pytest.approx(exact, rel=1e-9)


def test_cores_have_the_mass_and_the_size_of_simulated_ones(drawn):
    """The mass within the core radius is 5.5e9 M_sun (10⁻²³ eV / m)² kpc/r_c: Schive et al. 2014 (arXiv:1406.6586), another equation of theirs."""
    made = drawn(Soliton(number=1, mass=1e9, log10_m_axion=Uniform(-23, -21), radius=0.0), lens={})
    kpc = made.parameters["theta_c"][:, 0] * made.setting.kpc_per_arcsec
    wanted = 1.4 * 10 ** (-22 - made.parameters["log10_m_axion"])
    assert kpc == pytest.approx(wanted, rel=0.02)
    # from the projected profile to the density in space, and its mass within r_c
    steep = 2**0.125 - 1
    r = np.linspace(0, 1, 2001)
    shape = trapezoid(4 * np.pi * r**2 * (1 + steep * r**2) ** -8, r)
    column = made.parameters["kappa_0"][:, 0] * made.setting.sigma_crit
    column /= made.setting.kpc_per_arcsec**2  # M_sun/kpc²
    ell = np.linspace(-40, 40, 80_001)
    density = column / trapezoid((1 + steep * ell**2) ** -8, ell) / kpc
    wanted = 5.5e9 * 10 ** (2 * (-23 - made.parameters["log10_m_axion"])) / kpc
    assert density * shape * kpc**3 == pytest.approx(wanted, rel=0.05)


def test_mass_of_cores_inside_a_circle_is_what_deflects_on_it(drawn):
    made = drawn(CORES)
    radius = np.linspace(0.6, 2.2, 6)
    found = made.component.mass_within(radius, made.parameters, made.setting)
    gauss = mass_by_gauss(Soliton.deflection, radius, made.parameters, made.setting, points=20_000)
    assert found == pytest.approx(gauss, rel=1e-3)


def test_point_masses_deflect_as_those_of_the_original_surveys(drawn):
    made = drawn(PointMasses())
    p = made.tensors()
    axis = torch.tensor(AXIS)
    theirs = point_mass_deflection(axis, axis, p["theta_E"], p["x"], p["y"])
    assert made.deflection() == pytest.approx(np.array([a.numpy() for a in theirs]), rel=1e-9)


def test_masses_that_are_missing_deflect_nothing_and_leave_slopes_finite(drawn):
    made = drawn(PointMasses(number=4))
    few = drawn(PointMasses(number=2))
    for name in ("mass", "theta_E", "x", "y"):
        made.parameters[name][:, 2:] = np.nan
    assert made.deflection() == pytest.approx(few.deflection(), rel=1e-12)
    tensors = {name: value.requires_grad_() for name, value in made.tensors().items()}
    alpha = PointMasses.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], tensors)
    sum(a.sum() for a in alpha).backward()
    assert torch.isfinite(tensors["theta_E"].grad).all()
    assert len(made.component.lenstronomy({k: v[0] for k, v in made.parameters.items()})) == 2


def test_lines_of_different_numbers_of_masses_may_be_in_one_batch(drawn):
    short, long = drawn(VortexLine(n_masses=5)), drawn(VortexLine(n_masses=40))
    both = {k: np.concatenate([short.parameters[k], long.parameters[k]]) for k in VortexLine.UNITS}
    tensors = {name: torch.tensor(values) for name, values in both.items()}
    alpha = VortexLine.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], tensors)
    apart = np.concatenate([short.deflection(), long.deflection()], axis=1)
    assert np.array([a.numpy() for a in alpha]) == pytest.approx(apart)


def test_a_line_of_a_length_reaches_from_its_first_mass_to_its_last(drawn):
    made = drawn(VortexLine(length=1.5, n_masses=25, angle=0.0, x=0.2))
    x = [profile["center_x"] for _, profile in made.component.lenstronomy({k: v[0] for k, v in made.parameters.items()})]  # fmt: skip
    center = made.parameters["center_x"][0] + 0.2
    assert (min(x), max(x), len(x)) == (
        pytest.approx(center - 0.75),
        pytest.approx(center + 0.75),
        25,
    )
    assert np.isnan(made.parameters["log10_m_axion"]).all()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PointMasses, {"mass": -1.0}, "mass must not be negative"),
        (PointMasses, {"radius": Uniform(-1, 1)}, "radius must not be negative"),
        (PointMasses, {"number": -1}, "number must be at least 0"),
        (VortexLine, {"mass": -1.0}, "mass must not be negative"),
        (VortexLine, {"length": 0.0}, "length must be positive"),
        (VortexLine, {"length": 1.0, "log10_m_axion": -23.0}, "length or log10_m_axion, not both"),
        (VortexLine, {"n_masses": 1}, "n_masses must be at least 2"),
        (Soliton, {"mass": 0.0}, "mass must be positive"),
        (Soliton, {"radius": -1.0}, "radius must not be negative"),
        (PseudoJaffe, {"mass": -1.0}, "mass must not be negative"),
        (PseudoJaffe, {"r_core": 0.0}, "r_core must be positive"),
        (PseudoJaffe, {"r_trunc": Uniform(1e-4, 1)}, "r_core must be below r_trunc"),
    ],
)
def test_what_makes_no_sense_is_refused(kind, fields, message):
    with pytest.raises(InputError, match=message):
        kind(**fields)
