"""Generated spirals: their flux and half-light radius, their arms, and lenstronomy's picture of them."""

import numpy as np
import pytest
import torch

from haloformer.simulation.components import Sersic, Spiral

FINE = np.linspace(-1.2, 1.2, 801)
X, Y = np.meshgrid(FINE, FINE)
AREA = (FINE[1] - FINE[0]) ** 2


def test_the_flux_is_1_whatever_the_arms(light):
    spiral = Spiral(R=0.12, q={"uniform": [0.3, 1]}, contrast={"uniform": [0, 8]}, bulge_R=0.3)
    found = light.brightness(spiral, light.drawn(spiral, 8), x=X, y=Y)
    assert found.sum((1, 2)) * AREA == pytest.approx(np.ones(8), rel=5e-3)


def test_half_of_the_light_of_a_disc_lies_within_its_radius(light):
    spiral = Spiral(R=0.15, q=1, contrast=4, bulge_share=0)
    found = light.brightness(spiral, light.drawn(spiral, 4), x=X, y=Y)
    inside = found[:, np.hypot(X, Y) < 0.15].sum(1) * AREA
    assert inside == pytest.approx(np.full(4, 0.5), abs=0.01)


def test_without_arms_and_bulge_it_is_an_exponential_disc(light):
    spiral = Spiral(R=0.15, contrast=0, bulge_share=0)
    drawn = light.drawn(spiral, 5)
    size = (1 - drawn["q"]) / (1 + drawn["q"])
    nothing = np.zeros(5)
    disc = {
        "R_sersic": drawn["R"],
        "n_sersic": np.ones(5),
        "e1": size * np.cos(2 * drawn["angle"]),
        "e2": size * np.sin(2 * drawn["angle"]),
        "x": nothing,
        "y": nothing,
    }
    theirs = light.brightness(Sersic(), disc)
    found = light.brightness(spiral, drawn)
    assert found == pytest.approx(theirs, rel=1e-6, abs=1e-9 * theirs.max())


def test_arms_are_logarithmic_spirals_of_either_sense(light):
    """The brightest angle moves along ln r by 1/tan(pitch), the one way or the other."""
    spiral = Spiral(R=0.2, q=1, angle=0, pitch=0.4, contrast=3, bulge_share=0)
    drawn = light.drawn(spiral, 12)
    assert set(np.sign(drawn["pitch"])) == {-1.0, 1.0}
    angle = np.linspace(-np.pi, np.pi, 3600, endpoint=False)
    radii = np.array([0.2, 0.22])
    x, y = radii[:, None] * np.cos(angle), radii[:, None] * np.sin(angle)
    brightest = angle[light.brightness(spiral, drawn, x=x, y=y).argmax(2)]
    turn = np.diff(brightest, axis=1)[:, 0]
    period = np.pi  # of two arms
    turn = (turn + period / 2) % period - period / 2
    assert turn == pytest.approx(np.log(1.1) / np.tan(drawn["pitch"]), abs=0.01)


def test_arms_are_as_many_as_they_are_said_to_be(light):
    spiral = Spiral(R=0.2, q=1, arms=3, contrast=3, bulge_share=0)
    angle = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    found = light.brightness(spiral, light.drawn(spiral, 3), x=0.2 * np.cos(angle)[None], y=0.2 * np.sin(angle)[None])[:, 0]  # fmt: skip
    peaks = (found > np.roll(found, 1, 1)) & (found > np.roll(found, -1, 1))
    assert (peaks.sum(1) == 3).all()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 2e-2), (torch.float32, 2e-2)])
def test_lenstronomys_picture_is_near_it(light, dtype, most):
    """As near as a picture of 601² pixels is; the bulge's cusp is the worst place."""
    spiral = Spiral(R=0.2, bulge_n=1)
    assert light.difference(spiral, light.drawn(spiral, 4), dtype) < most
