"""What the tests of light share: draws without a survey, settings, and lenstronomy's answer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lenstronomy.LightModel.light_model import LightModel
from scipy import special

from haloformer.simulation import rng
from haloformer.simulation.components import Setting
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.distributions import draw

AXIS = np.linspace(-1.0, 1.0, 41)
X, Y = np.meshgrid(AXIS, AXIS)


class PlainDraws:
    """Draws of the images of these numbers."""

    def __init__(self, index, seed=0):
        self.index, self.seed = np.asarray(index), seed

    def __len__(self):
        return len(self.index)

    def shared(self, quantity, name):
        return self.draw(quantity, name)

    def uniform(self, name, size=None):
        stream = np.zeros(len(self.index), np.uint64)
        drawn = rng.uniform(self.seed, stream, self.index, name, size or 1)
        return drawn[:, 0] if size is None else drawn

    def draw(self, quantity, name, size=None):
        shape = (len(self),) if size is None else (len(self), size)
        return draw(quantity, lambda: self.uniform(name, size), shape)

    def normal(self, name, size=None):
        return special.ndtri(self.uniform(name, size))


def setting(n, z_lens=0.5, z_source=1.5):
    return Setting.of(Cosmology(), np.full(n, z_lens), np.full(n, z_source))


def drawn(component, n=6, seed=0):
    return component.draw(PlainDraws(np.arange(n), seed), setting(n))


def tensors(parameters, dtype=torch.float64):
    return {name: torch.tensor(values, dtype=dtype) for name, values in parameters.items()}


def brightness(component, parameters, dtype=torch.float64, x=X, y=Y):
    grid = torch.tensor(x)[None], torch.tensor(y)[None]
    return component.brightness(*grid, tensors(parameters, dtype)).double().numpy()


def lenstronomys(component, parameters, i, x=X, y=Y):
    profiles = component.lenstronomy({name: values[i] for name, values in parameters.items()})
    names, keywords = [name for name, _ in profiles], [values for _, values in profiles]
    theirs = LightModel(names).surface_brightness(x.ravel(), y.ravel(), keywords)
    return theirs.reshape(x.shape)


def difference(component, parameters, dtype=torch.float64, x=X, y=Y):
    """The largest difference to lenstronomy's brightness, in parts of the brightest point of each image."""
    found = brightness(component, parameters, dtype, x, y)
    largest = []
    for i, ours in enumerate(found):
        theirs = lenstronomys(component, parameters, i, x, y)
        largest.append(np.abs(ours - theirs).max() / theirs.max())
    return max(largest)


@pytest.fixture(scope="session")
def light():
    """The functions of this file, by name."""
    shared = (PlainDraws, setting, drawn, tensors, brightness, lenstronomys, difference)
    return SimpleNamespace(X=X, Y=Y, **{one.__name__: one for one in shared})
