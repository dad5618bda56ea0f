"""Mass on a grid of rays by compiled kernels: the same deflection as that of the tensors, added where it belongs."""

import numpy as np
import pytest
import torch

from haloformer.simulation.components import (
    EPL,
    Granules,
    Multipoles,
    PointMasses,
    PseudoJaffe,
    Setting,
    Shear,
    VortexLine,
)
from haloformer.simulation.components.shear import linear_on_grid
from haloformer.simulation.composed.scenes import RandomDraws
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.distributions import Normal, Uniform

pytest.importorskip("numba")

COUNT = 12
AXIS = (np.arange(90) - 44.5) * 0.05
SETTING = Setting.of(Cosmology(), np.full(COUNT, 0.5), np.full(COUNT, 1.5))
DRAWS = RandomDraws(1, np.zeros(COUNT, np.uint64), np.arange(COUNT))
ELLIPSE = {"e1": Normal(0.0, 0.3), "e2": Normal(0.0, 0.3)}  # most are as flat as they may be
LENS = EPL(theta_E=1.2, x=0.03, y=-0.02, **ELLIPSE)

COMPONENTS = {
    "isothermal": (LENS, 2e-6),
    "steep": (EPL(gamma=Uniform(2.0, 2.8), x=Normal(0.0, 0.1), y=0.02, **ELLIPSE), 3e-6),
    "shallow": (EPL(gamma=Uniform(1.3, 2.0), y=Normal(0.0, 0.1), **ELLIPSE), 3e-6),
    "round": (EPL(gamma=2.1), 2e-6),
    "shear": (Shear(gamma1=Normal(0.0, 0.1), gamma2=Normal(0.0, 0.1)), 1e-7),
    "multipoles": (Multipoles(), 2e-7),
    # A position in float32 is 1e-7″ off, which is 1e-5 of the distance where float64 takes over.
    "point masses": (PointMasses(number=7), 1e-5),
    "vortex": (VortexLine(), 1e-5),
    "short vortex": (VortexLine(n_masses=3), 1e-5),
    "granules": (Granules(pixels=64), 2e-6),
    "pseudo-Jaffe": (PseudoJaffe(), 3e-6),  # has no kernel of its own
}


def drawn(part):
    lens = LENS.draw(DRAWS.of("lens_"), SETTING, {})
    return part.draw(DRAWS.of("part_"), SETTING, lens if part is not LENS else {})


def exact(part, parameters):
    x, y = torch.broadcast_tensors(*(torch.tensor(AXIS)[s] for s in ((None, None), (None, ..., None))))  # fmt: skip
    tensors = {name: torch.tensor(values) for name, values in parameters.items()}
    return [each.numpy() for each in part.deflection(x, y, tensors)]


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_kernel_deflects_as_the_tensors_do(name):
    part, most = COMPONENTS[name]
    parameters = drawn(part)
    alpha = np.zeros((2, COUNT, len(AXIS), len(AXIS)), np.float32)
    everything = np.arange(COUNT)
    part.on_grid(AXIS, parameters)(everything, everything, *alpha)
    theirs = exact(part, parameters)
    assert np.abs(theirs[0]).max() > 1e-4  # arcsec; there is something
    for found, expected in zip(alpha, theirs):
        # To rounding of the larger of the deflection and an arcsec: beside a mass it is large.
        assert (np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max() < most


@pytest.mark.parametrize("name", COMPONENTS)
def test_deflections_are_added_to_the_images_they_belong_to_and_do_not_depend_on_the_others(name):
    part = COMPONENTS[name][0]
    parameters = drawn(part)
    everything = np.arange(COUNT)
    whole = np.zeros((2, COUNT, len(AXIS), len(AXIS)), np.float32)
    add = part.on_grid(AXIS, parameters)
    add(everything, everything, *whole)
    some = np.full((2, 4, len(AXIS), len(AXIS)), 0.5, np.float32)
    add(np.array([5, 2]), np.array([3, 0]), *some)
    assert (some[:, 1:3] == 0.5).all()
    assert np.abs(some[:, 3] - 0.5 - whole[:, 5]).max() < 1e-6 * (1 + np.abs(whole[:, 5]).max())
    alone = np.zeros((2, 1, len(AXIS), len(AXIS)), np.float32)
    one = {name: values[2:3] for name, values in parameters.items()}
    part.on_grid(AXIS, one)(np.zeros(1, int), np.zeros(1, int), *alone)
    if name != "pseudo-Jaffe" and name != "granules":
        assert np.array_equal(alone[:, 0], whole[:, 2])
    else:  # by tensors of the whole batch, to rounding
        assert np.abs(alone[:, 0] - whole[:, 2]).max() < 1e-6


def test_beside_a_point_mass_a_deflection_has_all_its_digits():
    parameters = {
        "theta_E": np.array([[0.05, 0.02]]),
        "x": np.array([[AXIS[30] + 1e-7, -1.0]]),
        "y": np.array([[AXIS[50], 0.3]]),
    }
    alpha = np.zeros((2, 1, len(AXIS), len(AXIS)), np.float32)
    PointMasses(number=2).on_grid(AXIS, parameters)(np.zeros(1, int), np.zeros(1, int), *alpha)
    assert alpha[0, 0, 50, 30] == pytest.approx(-(0.05**2) / 1e-7, rel=1e-4)


def test_lines_of_different_numbers_of_masses_and_fields_of_different_sizes_are_right_too():
    for part, name, values in (
        (VortexLine(), "n_masses", [100.0, 20.0]),
        (Granules(), "pixels", [64.0, 48.0]),
    ):
        parameters = {k: v[:2] for k, v in drawn(part).items()}
        parameters[name] = np.array(values)
        alpha = np.zeros((2, 2, len(AXIS), len(AXIS)), np.float32)
        part.on_grid(AXIS, parameters)(np.arange(2), np.arange(2), *alpha)
        for found, expected in zip(alpha, exact(part, parameters)):
            assert (np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max() < 5e-6


def test_linear_deflections_are_what_they_say():
    constant, matrix = np.array([[0.1, -0.2]]), np.array([[0.03, 0.01, -0.02]])
    alpha = np.zeros((2, 1, len(AXIS), len(AXIS)), np.float32)
    linear_on_grid(AXIS, constant, matrix)(np.zeros(1, int), np.zeros(1, int), *alpha)
    x, y = np.meshgrid(AXIS, AXIS)
    assert alpha[0, 0] == pytest.approx(0.1 + 0.03 * x + 0.01 * y, abs=1e-7)
    assert alpha[1, 0] == pytest.approx(-0.2 + 0.01 * x - 0.02 * y, abs=1e-7)
