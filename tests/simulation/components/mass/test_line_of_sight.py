"""Halos before and behind the lens: source positions are those of lenstronomy's multi-plane ray tracing."""

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.LensModel.lens_model import LensModel

from haloformer.errors import InputError
from haloformer.simulation.components import EPL, TNFW, Setting, Shear, halos
from haloformer.simulation.components.line_of_sight import (
    draw_halos,
    line_of_sight_Sigma,
    source_positions,
)
from haloformer.simulation.cosmology import Cosmology, einstein_radii
from haloformer.simulation.distributions import PowerLaw

AXIS = np.linspace(-2, 2, 40)
X, Y = np.meshgrid(AXIS, AXIS)
Z_LENS, Z_SOURCE = 0.5, 1.5
MACRO = {"theta_E": 1.2, "gamma": 2.05, "e1": 0.08, "e2": -0.05, "x": 0.02, "y": -0.01}
SHEAR = {"gamma1": 0.04, "gamma2": -0.02}


def made(z, mass, x, y):
    """Halos of these redshifts and masses, as the component's parameters and the comoving distance."""
    cosmology = Cosmology()
    z, mass = np.array(z), np.array(mass)
    c = halos.median_concentration(mass, z)
    kpc = cosmology.angular_diameter_distances(z) * 1e3 * np.deg2rad(1 / 3600)
    sigma = 1 / (np.pi * einstein_radii(1.0, cosmology, z, np.full(len(z), Z_SOURCE)) ** 2)
    Rs = halos.scale_radius(mass, c, z, cosmology) / kpc
    alpha = halos.deflection_at_scale(mass, c, Rs, sigma)
    values = {"Rs": Rs, "alpha_Rs": alpha, "r_trunc": 6 * Rs, "x": x, "y": y}
    values["chi"] = cosmology.comoving_distances(z)
    return {name: np.asarray(value, float) for name, value in values.items()}


FOREGROUND = made([0.15, 0.35], [1e10, 5e9], [1.0, -0.6], [0.4, -1.0])
BACKGROUND = made([0.7, 0.9, 1.2], [1e10, 1e10, 1e10], [0.3, -0.5, 0.1], [0.5, 0.2, -0.4])
SUBHALO = made([0.5], [5e9], [0.9], [-0.8])


def batch(values):
    return {name: torch.tensor(np.atleast_1d(value))[None] for name, value in values.items()}


def ours(foreground=FOREGROUND, background=BACKGROUND):
    cosmology = Cosmology()
    one = torch.tensor([1.0], dtype=torch.float64)

    def lens(x, y):
        subhalo = batch(SUBHALO)
        extra = {name: 0 * one for name in ("sheet", "center_x", "center_y")}
        parts = (
            EPL.deflection(x, y, {name: value * one for name, value in MACRO.items()}),
            Shear.deflection(x, y, {name: value * one for name, value in SHEAR.items()}),
            TNFW.deflection(x, y, {**subhalo, **extra}),
        )
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    chi = [cosmology.comoving_distances(z) * one for z in (Z_LENS, Z_SOURCE)]
    grid = torch.tensor(X)[None], torch.tensor(Y)[None]
    beta = source_positions(*grid, lens, batch(foreground), batch(background), *chi)
    return np.array([value[0].numpy() for value in beta])


def theirs():
    names = ["EPL", "SHEAR", "TNFW", *["TNFW"] * 5]
    redshifts = [Z_LENS, Z_LENS, Z_LENS, 0.15, 0.35, 0.7, 0.9, 1.2]
    epl = {("center_" + k if k in "xy" else k): v for k, v in MACRO.items()}
    keywords = [epl, {**SHEAR, "ra_0": 0, "dec_0": 0}]
    for values in (SUBHALO, FOREGROUND, BACKGROUND):
        for i in range(len(values["Rs"])):
            one = {name: values[name][i] for name in ("Rs", "alpha_Rs", "r_trunc")}
            keywords.append({**one, "center_x": values["x"][i], "center_y": values["y"][i]})
    model = LensModel(
        names,
        z_source=Z_SOURCE,
        lens_redshift_list=redshifts,
        multi_plane=True,
        cosmo=FlatLambdaCDM(70, 0.3, Tcmb0=0),
    )
    return np.array(model.ray_shooting(X.ravel(), Y.ravel(), keywords)).reshape(2, *X.shape)


def test_sources_lie_where_multi_plane_ray_tracing_has_them():
    """Five heavy halos, which deflect by some 10 mas each."""
    wanted = theirs()
    none = {name: value * np.nan for name, value in FOREGROUND.items()}
    error, signal = ours() - wanted, ours(none, none) - wanted
    assert np.sqrt((signal**2).mean()) > 0.01
    assert np.sqrt((error**2).mean()) < 1e-4


def test_without_halos_outside_the_lens_plane_the_lens_alone_deflects():
    none = {name: value * np.nan for name, value in FOREGROUND.items()}
    x, y = ours(none, none)
    one = torch.tensor([1.0], dtype=torch.float64)
    alpha_x, _ = EPL.deflection(
        torch.tensor(X)[None], torch.tensor(Y)[None], {k: v * one for k, v in MACRO.items()}
    )
    shear = SHEAR["gamma1"] * X + SHEAR["gamma2"] * Y
    assert np.abs(X - alpha_x[0].numpy() - shear - x).max() < 0.02  # the subhalo's part
    assert np.isfinite(y).all()


def test_what_is_left_out_is_of_second_order(monkeypatch):
    """A fifth of the deflection leaves a twenty-fifth of the error."""
    error = [np.abs(ours() - theirs()).mean()]
    for values in (FOREGROUND, BACKGROUND):
        monkeypatch.setitem(values, "alpha_Rs", values["alpha_Rs"] / 5)
    error.append(np.abs(ours() - theirs()).mean())
    assert error[1] < error[0] / 20


def test_halos_that_are_drawn_are_as_many_as_expected_and_where_they_belong(images):
    count = 150
    setting = Setting.of(Cosmology(), np.full(count, Z_LENS), np.full(count, Z_SOURCE))
    sides = draw_halos(images(np.arange(count)), setting, PowerLaw(1e8, 1e10, -1.9), 3.0)
    before, behind = sides
    number = [(~np.isnan(side["mass"])).sum() for side in sides]
    area = np.pi * (3 * setting.kpc_per_arcsec[0]) ** 2
    wanted = line_of_sight_Sigma(setting)[0] * area * (1 - 100**-0.9) / 0.9
    assert sum(number) / count == pytest.approx(wanted, abs=4 * np.sqrt(wanted / count))
    assert number[0] / sum(number) == pytest.approx(12 / 30, abs=0.05)
    assert np.nanmax(before["z"]) < Z_LENS + 1e-4 < np.nanmin(behind["z"]) + 2e-4
    assert np.nanmax(behind["z"]) < Z_SOURCE
    r = np.hypot(behind["x"], behind["y"])
    late = behind["z"] > 1.2
    assert np.nanmax(r) <= 3
    assert np.nanmean(r[late]) < 0.5 * np.nanmean(r[~late])
    assert np.nanmean(before["x"] ** 2) == pytest.approx(9 / 4, rel=0.1)


def test_a_halo_that_is_drawn_bends_as_lenstronomys_of_its_mass_and_redshifts(images):
    from lenstronomy.Cosmo.lens_cosmo import LensCosmo

    setting = Setting.of(Cosmology(), np.full(1, Z_LENS), np.full(1, Z_SOURCE))
    masses = PowerLaw(1e8, 1e10, -1.9)
    _, halos_ = draw_halos(images([0]), setting, masses, 3.0, scatter=0.0)
    mass, z = halos_["mass"][0, 0], halos_["z"][0, 0]
    theirs = LensCosmo(z, Z_SOURCE, FlatLambdaCDM(70, 0.3, Tcmb0=0))
    Rs, alpha_Rs = theirs.nfw_physical2angle(mass, halos.median_concentration(mass, z))
    assert halos_["Rs"][0, 0] == pytest.approx(Rs, rel=2e-3)
    assert halos_["alpha_Rs"][0, 0] == pytest.approx(alpha_Rs, rel=2e-3)


def test_halos_of_another_mass_function_are_refused(images):
    setting = Setting.of(Cosmology(), np.full(1, Z_LENS), np.full(1, Z_SOURCE))
    with pytest.raises(InputError, match=r"slope of -1.9, not -1.5"):
        draw_halos(images([0]), setting, PowerLaw(1e8, 1e10, -1.5), 3.0)


@pytest.mark.parametrize("which", ["Rs", "alpha_Rs", "x", "chi"])
def test_source_positions_have_slopes_in_the_halos(which):
    values = batch(FOREGROUND)
    values[which].requires_grad_()
    one = torch.tensor([1000.0, 2000.0], dtype=torch.float64)
    grid = torch.tensor(X)[None], torch.tensor(Y)[None]
    beta = source_positions(
        *grid, lambda x, y: (0.5 * x, 0.5 * y), values, batch(BACKGROUND), one[:1], one[1:]
    )
    sum(b.square().sum() for b in beta).backward()
    assert (values[which].grad != 0).all()
    assert torch.isfinite(values[which].grad).all()
