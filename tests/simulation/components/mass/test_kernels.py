"""The compiled sum over halos gives what the halos' own deflection gives."""

import numpy as np
import pytest
import torch

from haloformer.simulation.components import TNFW, PointMasses, VortexLine
from haloformer.simulation.components.kernels import halos_on_grid

FINE = (np.arange(176) - 87.5) * 0.025


def tnfw_on_grid(axis_x, axis_y, parameters):
    """The deflections (α_x, α_y) of all images, each (B, H, W)."""
    everything = np.arange(len(parameters["sheet"]))
    alpha = np.zeros((2, len(everything), len(axis_y), len(axis_x)), np.float32)
    halos_on_grid(axis_x, axis_y, parameters)(everything, everything, *alpha)
    return alpha


def worst(made, axis_x=FINE, axis_y=FINE):
    """The largest difference of each image, in parts of its largest deflection."""
    found = np.array(tnfw_on_grid(axis_x, axis_y, made.parameters))
    assert found.dtype == np.float32
    found = found[..., ::5, ::5]  # of all phases between the nodes of the coarse grid
    exact = made.deflection(torch.float64, *np.meshgrid(axis_x[::5], axis_y[::5]))
    assert np.hypot(*exact).max() > 1e-3
    return np.hypot(*(found - exact)).max((1, 2)) / np.hypot(*exact).max((1, 2))


@pytest.mark.parametrize(
    "component",
    [
        TNFW(),
        TNFW(Sigma_sub=0.01, mass_low=1e7),
        TNFW(mean_sheet=True, tau=1.5),
        TNFW(concentration_factor=0.3, Sigma_sub=0.1),
        TNFW(concentration_factor=3.0, tau=30.0),
    ],
)
def test_halos_on_a_grid_deflect_as_they_do_anywhere(drawn, component):
    assert worst(drawn(component, range(3))).max() < 1e-3


@pytest.mark.parametrize("pixel", [0.015, 0.025, 0.05])
@pytest.mark.parametrize(("width", "height"), [(88, 88), (101, 66), (30, 131)])
def test_grids_of_any_shape_and_spacing_will_do(drawn, pixel, width, height):
    axis_x, axis_y = ((np.arange(n) - (n - 1) / 2) * pixel for n in (width, height))
    assert worst(drawn(TNFW(Sigma_sub=0.05), range(3)), axis_x, axis_y).max() < 2e-3


def test_one_halo_is_right_at_its_centre_and_far_from_it(drawn):
    made = drawn(TNFW(Sigma_sub=0.05), [0])
    for name in ("mass", "concentration", "Rs", "alpha_Rs", "r_trunc", "x", "y"):
        made.parameters[name][:, 1:] = np.nan
    made.parameters["x"][0, 0], made.parameters["y"][0, 0] = FINE[90], FINE[70]
    x, y = np.meshgrid(FINE, FINE)
    found = np.array(tnfw_on_grid(FINE, FINE, made.parameters))[:, 0]
    exact = made.deflection(torch.float64, x, y)[:, 0]
    far = np.hypot(x - FINE[90], y - FINE[70]) > 1.2
    error, size = (np.hypot(*a)[far] for a in (found - exact, exact))
    assert (error / size).max() < 2e-3
    assert found[:, 70, 90] == pytest.approx(np.zeros(2), abs=1e-6)


def test_images_without_halos_stay_without_deflection(drawn):
    made = drawn(TNFW(Sigma_sub=0.0), range(2))
    assert not np.any(tnfw_on_grid(FINE, FINE, made.parameters))


def test_an_image_does_not_depend_on_the_others_in_its_batch(drawn):
    made = drawn(TNFW(), range(5))
    together = np.array(tnfw_on_grid(FINE, FINE, made.parameters))
    alone = {name: values[3:4] for name, values in made.parameters.items()}
    assert np.array_equal(np.array(tnfw_on_grid(FINE, FINE, alone))[:, 0], together[:, 3])


@pytest.mark.parametrize("component", [TNFW(), TNFW(mean_sheet=True, mass_low=1e7)])
def test_halos_at_points_deflect_as_they_do_anywhere(drawn, component):
    made = drawn(component, range(3))
    x, y = np.random.default_rng(1).uniform(-2, 2, (2, 3, 5, 40))
    parameters = made.parameters
    found = made.component.at_points(torch.tensor(x), torch.tensor(y), parameters)
    tensors = {name: torch.tensor(values) for name, values in parameters.items()}
    exact = made.component.deflection(torch.tensor(x), torch.tensor(y), tensors)
    size = np.hypot(*exact).flatten(1).amax(1)
    for ours, theirs in zip(found, exact):
        assert ((ours - theirs).abs().flatten(1).amax(1) / size).max() < 1e-3


@pytest.mark.parametrize("component", [PointMasses(), VortexLine(), VortexLine(n_masses=7)])
def test_masses_at_points_deflect_as_they_do_anywhere(drawn, component):
    made = drawn(component, range(3))
    parameters = made.parameters
    if "radius" in vars(component):  # some images have fewer
        parameters["theta_E"][1, 5:] = np.nan
        parameters["theta_E"][2] = np.nan
    x, y = np.random.default_rng(1).uniform(-2, 2, (2, 3, 5, 40))
    found = made.component.at_points(torch.tensor(x), torch.tensor(y), parameters)
    tensors = {name: torch.tensor(values) for name, values in parameters.items()}
    exact = made.component.deflection(torch.tensor(x), torch.tensor(y), tensors)
    for ours, theirs in zip(found, exact):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()
