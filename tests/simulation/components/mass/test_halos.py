"""Halos: deflections are lenstronomy's, masses integrate to what was drawn, populations have the number and the mass they should."""

import numpy as np
import pytest
import torch
from scipy import integrate

from haloformer.errors import InputError
from haloformer.simulation.components import NFW, TNFW, Setting, halos
from haloformer.simulation.components.line_of_sight import (
    LARGEST_SCALE,
    LARGEST_SIGMA,
    line_of_sight_Sigma,
)
from haloformer.simulation.components.populations import mass_by_gauss
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.distributions import LogUniform, Normal

AXIS = np.linspace(-2.5, 2.5, 50)
X, Y = np.meshgrid(AXIS, AXIS)

KINDS = {
    "nfw": NFW(number=5),
    "tnfw": TNFW(),
    "tnfw with a sheet": TNFW(Sigma_sub=0.05, mean_sheet=True),
    "heavily and hardly truncated": TNFW(tau=LogUniform(1.0, 30.0)),
}


@pytest.mark.parametrize("name", KINDS)
def test_halos_deflect_as_lenstronomys(drawn, name):
    made = drawn(KINDS[name])
    theirs = made.lenstronomy()
    assert np.abs(theirs).max() > 0.003
    assert np.abs(made.deflection() - theirs).max() < 1e-10
    assert np.abs(made.deflection(torch.float32) - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_profile_is_right_to_many_digits_from_the_centre_to_far_outside():
    x = np.logspace(-3, 3, 25)
    x[12] = 1.0
    for tau in (0.3, 1.0, 6.0, 30.0):
        found = halos.tnfw_profile(torch.tensor(x), torch.tensor(tau, dtype=torch.float64))
        for one, value in zip(x, found.numpy()):
            assert value == pytest.approx(projected_mass(one, tau) / one**2, rel=1e-7)


def projected_mass(x, tau):
    """m(x) by integrating the density in shells, over those inside and the part of those outside that is projected in."""

    def shell(log):
        r = np.exp(log)
        share = 1.0 if r <= x else x**2 / (r**2 + r * np.sqrt(r**2 - x**2))
        return r**2 / (1 + r) ** 2 * tau**2 / (r**2 + tau**2) * share

    edge = np.log(x)
    limits = ((edge - 25, edge), (edge, edge + 0.1), (edge + 0.1, edge + 3), (edge + 3, edge + 30))
    return sum(
        integrate.quad(shell, *pair, epsabs=0, epsrel=1e-10, limit=200)[0] for pair in limits
    )


def test_table_of_single_precision_is_good_to_a_thousandth():
    some = np.random.default_rng(0)
    x, tau = (torch.tensor(10 ** some.uniform(*one, 20_000)) for one in ((-3, 3), (-0.5, 1.6)))
    values = {"Rs": torch.ones_like(x), "alpha_Rs": torch.ones_like(x), "r_trunc": tau}
    values = {k: v[:, None, None, None] for k, v in values.items()}
    at = x[:, None, None, None]
    exact, _ = halos.halo_deflection(at, 0 * at, values)
    single = {k: v.float() for k, v in values.items()}
    found, _ = halos.halo_deflection(at.float(), 0 * at.float(), single)
    assert (found / exact - 1).abs().max() < 1e-3


def test_a_halo_holds_its_mass_within_its_radius():
    """M_200 within the sphere of 200 times the critical density, and the bound mass at large distance."""
    cosmology = Cosmology()
    mass, c = 1e9, 12.0
    kpc = halos.scale_radius(mass, c, 0.5, cosmology)
    inside = 4 / 3 * np.pi * (c * kpc) ** 3 * 200 * cosmology.critical_density(0.5)
    assert inside == pytest.approx(mass)
    density = mass / (4 * np.pi * kpc**3 * (np.log(1 + c) - c / (1 + c)))

    def shell(x, tau):
        return 4 * np.pi * kpc**3 * density * x / (1 + x) ** 2 * tau**2 / (x**2 + tau**2)

    for tau in (1.0, 6.0):
        total, _ = integrate.quad(shell, 0, np.inf, args=(tau,))
        assert halos.bound_share(c, tau) * mass == pytest.approx(total, rel=1e-6)


def test_mass_at_large_distance_is_the_bound_mass_of_all_halos(drawn):
    made = drawn(TNFW())
    p = made.parameters
    bound = np.nansum(
        p["mass"] * halos.bound_share(p["concentration"], p["r_trunc"] / p["Rs"]), axis=1
    )
    far = TNFW.mass_within(np.full(6, 3e3), p, made.setting)
    assert far == pytest.approx(bound, rel=1e-3)


def test_mass_in_a_circle_does_not_depend_on_where_it_is_measured(drawn):
    made = drawn(TNFW())
    radius = np.full(6, 1.1)
    found = TNFW.mass_within(radius, made.parameters, made.setting)
    fine = mass_by_gauss(TNFW.deflection, radius, made.parameters, made.setting, points=4000)
    assert found == pytest.approx(fine, rel=0.02)


def test_mass_of_a_halo_without_truncation_is_its_own_within_its_radius(drawn):
    lens = {"x": np.zeros(1), "y": np.zeros(1)}
    made = drawn(NFW(number=1, mass=1e9, radius=0.0), [0], lens=lens)
    p = made.parameters
    c, Rs = p["concentration"][:, 0], p["Rs"][:, 0]
    mass = NFW.mass_within(c * Rs, p, made.setting)
    in_cylinder = np.log(c / 2) + np.arccos(1 / c) / np.sqrt(c**2 - 1)
    assert mass == pytest.approx(1e9 * in_cylinder / (np.log(1 + c) - c / (1 + c)), rel=1e-9)


def test_population_has_the_number_the_mass_and_the_places_of_its_mass_function(drawn):
    component = TNFW(Sigma_sub=0.025, mass_low=1e7)
    made = drawn(component, range(300))
    p = made.parameters
    count = (~np.isnan(p["mass"])).sum(axis=1)
    area = np.pi * (3 * made.setting.kpc_per_arcsec[0]) ** 2
    expected = 0.025 / 0.9 * (0.1**-0.9 - 100**-0.9) * area  # 232 above 10⁷ M_sun
    assert expected == pytest.approx(232, rel=0.02)
    assert count.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / 300))
    assert count.var() == pytest.approx(expected, rel=0.3)
    mass = p["mass"][~np.isnan(p["mass"])]
    share = (mass > 1e9).mean()
    assert share == pytest.approx((10**-0.9 - 100**-0.9) / (0.1**-0.9 - 100**-0.9), rel=0.1)
    r = np.hypot(p["x"] - p["center_x"][:, None], p["y"] - p["center_y"][:, None])
    assert np.nanmax(r) <= 3
    assert np.nanmean(r**2) == pytest.approx(4.5, rel=0.02)
    ratio = np.log10(p["concentration"] / halos.median_concentration(p["mass"], 0.5))
    assert np.nanstd(ratio) == pytest.approx(0.16, rel=0.02)


def test_an_image_is_the_same_in_every_batch(drawn):
    component = TNFW(Sigma_sub=LogUniform(0.005, 0.1))
    lens = {"x": np.zeros(1), "y": np.zeros(1)}
    many = drawn(component, range(8), lens={"x": np.zeros(8), "y": np.zeros(8)}).parameters
    alone = drawn(component, [5], lens=lens).parameters
    for name, values in alone.items():
        np.testing.assert_array_equal(values[0], many[name][5])


def test_mean_sheet_takes_away_the_mean_mass_and_nothing_else(drawn):
    number = 250
    component = TNFW(Sigma_sub=0.1, mean_sheet=True, mass_high=3e8)
    lens = {name: np.zeros(number) for name in ("x", "y")}
    made = drawn(component, range(number), lens=lens)
    radius = np.full(number, 1.2)
    mass = TNFW.mass_within(radius, made.parameters, made.setting)
    sheet = np.pi * radius**2 * made.parameters["sheet"] * made.setting.sigma_crit
    assert sheet.min() > 0
    assert mass.mean() == pytest.approx(0, abs=4 * mass.std() / np.sqrt(number))
    assert abs(mass.mean()) < 0.05 * sheet.mean()


@pytest.mark.parametrize(
    ("cut", "survival", "slimness"),
    [
        ({"log10_m_hm": 8.0}, halos.warm_survival, halos.warm_concentration),
        ({"log10_m_axion": -20.5}, halos.fuzzy_survival, halos.fuzzy_concentration),
    ],
)
def test_suppression_removes_some_halos_and_leaves_the_others_where_they_are(
    drawn, cut, survival, slimness
):
    (value,) = cut.values()
    cold, other = (drawn(TNFW(**some), range(200)).parameters for some in ({}, cut))
    kept = {
        (m, x): c for m, x, c in zip(*(other[k].ravel() for k in ("mass", "x", "concentration")))
    }
    mass, x, c = (cold[k][~np.isnan(cold["mass"])] for k in ("mass", "x", "concentration"))
    there = np.array([(one, at) in kept for one, at in zip(mass, x)])
    assert there.sum() == (~np.isnan(other["mass"])).sum()
    expected = survival(mass, np.array(value))
    assert there.sum() == pytest.approx(expected.sum(), abs=4 * np.sqrt(expected.sum()))
    light = mass < np.median(mass)
    assert there[light].mean() < there[~light].mean()
    found = [kept[one, at] for one, at in zip(mass[there], x[there])]
    assert found == pytest.approx(np.maximum(c * slimness(mass, np.array(value)), 1)[there])


@pytest.mark.parametrize(
    ("z_lens", "z_source", "ratio"),
    [(0.2, 0.6, 0.3), (0.5, 1.5, 1.0), (0.8, 2.5, 2.0), (1.0, 3.0, 2.8)],
)
def test_halos_outside_the_lens_plane_are_as_many_as_expected(drawn, z_lens, z_source, ratio):
    setting = Setting.of(Cosmology(), np.array([z_lens]), np.array([z_source]))
    assert line_of_sight_Sigma(setting)[0] / 0.025 == pytest.approx(ratio, rel=0.1)
    without, with_ = (
        drawn(TNFW(line_of_sight=share), range(100), z_lens, z_source) for share in (0, 1)
    )
    count = [(~np.isnan(one.parameters["mass"])).sum() for one in (without, with_)]
    assert count[1] / count[0] == pytest.approx(1 + ratio / 2, abs=0.2)


def test_arrays_are_as_wide_as_no_image_exceeds_whatever_the_redshifts():
    wide, narrow = TNFW(Sigma_sub=LogUniform(0.005, 0.2)), TNFW(Sigma_sub=0.2)
    assert wide.most() == narrow.most()
    z = np.linspace(0.05, 4, 200)
    scale = Setting.of(Cosmology(), z, z + 2).kpc_per_arcsec
    assert scale.max() < LARGEST_SCALE
    z_l, z_s = (a.ravel() for a in np.meshgrid(np.linspace(0.05, 3, 12), np.linspace(3.1, 8, 8)))
    setting = Setting.of(Cosmology(), z_l, z_s)
    in_area = line_of_sight_Sigma(setting) * (setting.kpc_per_arcsec / LARGEST_SCALE) ** 2
    assert 0.9 * LARGEST_SIGMA < in_area.max() < LARGEST_SIGMA


@pytest.mark.parametrize(("z_lens", "z_source"), [(0.06, 0.3), (0.5, 1.5), (2.0, 6.0), (2.9, 7.9)])
def test_the_richest_population_fits_at_all_redshifts(drawn, z_lens, z_source):
    made = drawn(TNFW(Sigma_sub=0.2, line_of_sight=1), range(20), z_lens, z_source)
    assert made.parameters["mass"].shape[1] == TNFW(Sigma_sub=0.2, line_of_sight=1).most()
    assert np.isnan(made.parameters["mass"][:, -1]).all()


def test_slopes_reach_every_parameter_of_a_halo_in_both_precisions(drawn):
    made = drawn(TNFW(), range(2))
    for dtype in (torch.float32, torch.float64):
        tensors = {name: value.requires_grad_() for name, value in made.tensors(dtype).items()}
        alpha = TNFW.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], tensors)
        sum(a.square().sum() for a in alpha).backward()
        there = ~torch.isnan(tensors["Rs"])
        for name in ("Rs", "alpha_Rs", "r_trunc", "x", "y"):
            slopes = tensors[name].grad
            assert torch.isfinite(slopes).all()
            assert (slopes[there] != 0).all()


def test_slopes_in_single_precision_are_those_of_the_formula(drawn):
    made = drawn(TNFW(), range(2))
    found = []
    for dtype in (torch.float32, torch.float64):
        tensors = {name: value.requires_grad_() for name, value in made.tensors(dtype).items()}
        alpha = TNFW.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], tensors)
        sum(a.square().sum() for a in alpha).backward()
        found.append(torch.nan_to_num(tensors["Rs"].grad).double())
    assert (found[0] - found[1]).norm() < 0.03 * found[1].norm()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (NFW, {"mass": -1e9}, "mass must be positive"),
        (NFW, {"concentration_scatter": -0.1}, "concentration_scatter must be at least 0"),
        (TNFW, {"Sigma_sub": -0.1}, "Sigma_sub must not be negative"),
        (TNFW, {"mass_low": 1e10, "mass_high": 1e8}, "mass_low must be below mass_high"),
        (TNFW, {"mass_low": 0}, "mass_low must be above 0"),
        (TNFW, {"tau": -1}, "tau must be positive"),
        (TNFW, {"disc_radius": -3}, "disc_radius must be above 0"),
        (TNFW, {"concentration_factor": Normal(-1, 1)}, "concentration_factor must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(kind, fields, message):
    with pytest.raises(InputError, match=message):
        kind(**fields)


def test_truncation_radii_of_a_wide_distribution_stay_above_nothing(drawn):
    made = drawn(TNFW(tau=Normal(1.0, 2.0), mean_sheet=True))
    p = made.parameters
    assert np.nanmin(p["r_trunc"] / p["Rs"]) == pytest.approx(0.1)
    assert np.isfinite(p["sheet"]).all()
    assert np.isfinite(made.deflection()).all()


def test_too_narrow_arrays_are_refused_not_filled_with_fewer_halos(drawn):
    with pytest.raises(InputError, match="n_max must be at least"):
        drawn(TNFW(n_max=20))


def test_a_table_made_where_no_slopes_are_taken_serves_where_they_are(drawn):
    halos.profile_table.cache_clear()
    made = drawn(TNFW(), [0])
    with torch.inference_mode():
        made.deflection(torch.float32)
    tensors = made.tensors(torch.float32)
    tensors["r_trunc"].requires_grad_()
    alpha, _ = TNFW.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], tensors)
    alpha.sum().backward()
    assert (torch.nan_to_num(tensors["r_trunc"].grad) != 0).any()


def test_suppressions_are_those_of_their_papers():
    """Numbers worked out by hand: at the half-mode mass, and at the mass of fuzzy dark matter's cut-off."""
    one = np.array(8.0)
    assert halos.warm_survival(np.array(1e8), one) == pytest.approx(37.15**-0.2, rel=1e-3)
    assert halos.warm_concentration(np.array(1e8), one) == pytest.approx(61**-0.17)
    assert halos.warm_survival(np.array(1e11), one) == pytest.approx(1, abs=1e-3)
    for log10_m, mass in ((-23.0, 3.45e11), (-22.0, 1.6e10), (-20.5, 1.6e8)):
        cut = halos.fuzzy_mass(np.array(log10_m))
        assert cut == pytest.approx(mass, rel=0.01)
        assert halos.fuzzy_survival(cut, np.array(log10_m)) == pytest.approx(2**-2.2)
        assert halos.fuzzy_concentration(cut, np.array(log10_m)) == pytest.approx(22.42**-0.42)


@pytest.mark.parametrize(
    ("mass", "Rs", "peak"), [(1e8, 0.09, 0.65e-3), (1e9, 0.23, 2.8e-3), (1e10, 0.57, 12e-3)]
)
def test_halos_have_the_size_and_the_effect_that_is_expected(mass, Rs, peak):
    """At redshifts 0.5 and 1.5, of median concentration, truncated at six scale radii."""
    setting = Setting.of(Cosmology(), np.array([0.5]), np.array([1.5]))
    masses = np.array([[mass]])
    concentration = halos.median_concentration(masses, 0.5)
    scale, alpha = halos.lensing_scales(masses, concentration, setting)
    assert scale[0, 0] == pytest.approx(Rs, rel=0.05)
    values = {"Rs": scale, "alpha_Rs": alpha, "r_trunc": 6 * scale}
    values = {name: torch.tensor(value)[..., None, None] for name, value in values.items()}
    r = torch.linspace(0.01, 3, 3000, dtype=torch.float64)[None, None, None]
    assert halos.halo_deflection(r, 0 * r, values)[0].max() == pytest.approx(peak, rel=0.05)
