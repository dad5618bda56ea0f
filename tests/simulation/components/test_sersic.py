"""A smooth galaxy: its brightness is lenstronomy's, and adds up to 1."""

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.simulation.components import Sersic
from haloformer.simulation.components.sersic import LEAST_AXIS_RATIO, unit_amp
from haloformer.simulation.distributions import Normal, Uniform
from haloformer.simulation.sources import sersic_flux

GALAXY = Sersic(
    R_sersic=Uniform(0.1, 0.5),
    n_sersic=Uniform(0.5, 4.5),
    e1=Normal(0, 0.2),
    e2=Normal(0, 0.2),
    x=Uniform(
        0.005, 0.045
    ),  # between the points of the grid: the innermost 1e-3″ differ by convention
    y=Uniform(0.005, 0.045),
)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_brightness_is_lenstronomys(light, dtype, most):
    assert light.difference(GALAXY, light.drawn(GALAXY, 40), dtype) < most


def test_total_flux_is_one(light):
    galaxy = Sersic(R_sersic=0.1, n_sersic=Uniform(0.5, 1.2), e1=Normal(0, 0.2))
    axis = np.linspace(-1.5, 1.5, 600)
    x, y = np.meshgrid(axis, axis)
    found = light.brightness(galaxy, light.drawn(galaxy, 5), x=x, y=y)
    assert found.sum((1, 2)) * (axis[1] - axis[0]) ** 2 == pytest.approx(np.ones(5), rel=2e-3)


def test_amplitude_is_the_inverse_of_the_flux_of_a_profile():
    R, n = np.array([0.1, 0.3, 2.0]), np.array([0.5, 1.0, 6.0])
    found = unit_amp(torch.tensor(R), torch.tensor(n)).numpy()
    assert found == pytest.approx(1 / sersic_flux(R, n), rel=1e-12)


def test_no_galaxy_is_flatter_than_allowed(light):
    drawn = light.drawn(Sersic(e1=Normal(0, 2), e2=Normal(0, 2)), 50)
    size = np.hypot(drawn["e1"], drawn["e2"])
    assert ((1 - size) / (1 + size)).min() == pytest.approx(LEAST_AXIS_RATIO)


def test_an_axis_ratio_and_an_angle_are_ellipticities(light):
    drawn = light.drawn(Sersic(q=0.6, angle=0.3), 2)
    assert drawn["e1"] == pytest.approx(np.full(2, 0.25 * np.cos(0.6)))
    assert drawn["e2"] == pytest.approx(np.full(2, 0.25 * np.sin(0.6)))
    # As bright at R √q across the major axis as at R / √q along it.
    along, across = 0.2 / np.sqrt(0.6), 0.2 * np.sqrt(0.6)
    x = np.array([[along * np.cos(0.3), -across * np.sin(0.3)]])
    y = np.array([[along * np.sin(0.3), across * np.cos(0.3)]])
    found = light.brightness(Sersic(), drawn, x=x, y=y)
    assert found[0, 0, 0] == pytest.approx(found[0, 0, 1], rel=1e-9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"q": 0.5}, "q and angle together"),
        ({"q": 0.5, "angle": 0.0, "e1": 0.1}, "not both"),
        ({"q": 0.0, "angle": 0.0}, "q must be positive"),
        ({"q": Uniform(0.7, 1.2), "angle": 0.0}, "at most 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Sersic(**fields)


def test_a_galaxy_without_a_size_is_refused():
    with pytest.raises(InputError, match="R_sersic must be positive"):
        Sersic(R_sersic=0)
