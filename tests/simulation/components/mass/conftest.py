"""What the tests of mass components share: draws of some images, and the comparison with lenstronomy."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel
from scipy import special

from haloformer.simulation import rng
from haloformer.simulation.components import Setting
from haloformer.simulation.cosmology import Cosmology
from haloformer.simulation.distributions import draw

AXIS = np.linspace(-2.5, 2.5, 50)
X, Y = np.meshgrid(AXIS, AXIS)


@dataclass(frozen=True)
class Images:
    """Draws of the images of these numbers."""

    index: np.ndarray
    seed: int = 5

    def __len__(self):
        return len(self.index)

    def draw(self, quantity, name, size=None):
        return draw(quantity, lambda: self.uniform(name, size), self.shape(size))

    def shared(self, quantity, name):
        return self.draw(quantity, name)

    def uniform(self, name, size=None):
        stream = np.full(len(self), 1, dtype=np.uint64)
        return rng.uniform(
            self.seed, stream, self.index, name, 1 if size is None else size
        ).reshape(self.shape(size))

    def normal(self, name, size=None):
        return special.ndtri(self.uniform(name, size))

    def shape(self, size):
        return (len(self),) if size is None else (len(self), size)


@dataclass(frozen=True)
class Drawn:
    component: object
    parameters: dict
    setting: Setting

    def tensors(self, dtype=torch.float64):
        return {
            name: torch.tensor(values, dtype=torch.float64 if name in ("x", "y") else dtype)
            for name, values in self.parameters.items()
        }

    def deflection(self, dtype=torch.float64, x=X, y=Y):
        alpha = self.component.deflection(
            torch.tensor(x)[None], torch.tensor(y)[None], self.tensors(dtype)
        )
        assert all(a.dtype == dtype for a in alpha)
        return np.array([a.double().numpy() for a in alpha])

    def lenstronomy(self, x=X, y=Y):
        """(2, B, H, W), by lenstronomy."""
        count = len(self.setting)
        alphas = []
        for i in range(count):
            profiles = self.component.lenstronomy({k: v[i] for k, v in self.parameters.items()})
            model = LensModel([name for name, _ in profiles])
            alphas.append(model.alpha(x.ravel(), y.ravel(), [values for _, values in profiles]))
        return np.array(alphas).transpose(1, 0, 2).reshape(2, count, *x.shape)


@pytest.fixture
def images():
    return lambda index: Images(np.atleast_1d(np.asarray(index)))


@pytest.fixture
def drawn(images):
    """Draws a component's parameters for some images."""

    def make(component, index=range(6), z_lens=0.5, z_source=1.5, lens=None):
        draws = images(list(index))
        count = len(draws)
        setting = Setting.of(Cosmology(), np.full(count, z_lens), np.full(count, z_source))
        if lens is None:
            some = np.random.default_rng(0)
            lens = {
                "theta_E": some.uniform(0.8, 1.6, count),
                "e1": some.normal(0, 0.1, count),
                "e2": some.normal(0, 0.1, count),
                "x": some.normal(0, 0.05, count),
                "y": some.normal(0, 0.05, count),
            }
        parameters = component.draw(draws, setting, lens)
        assert set(parameters) == set(component.UNITS)
        return Drawn(component, parameters, setting)

    return make
