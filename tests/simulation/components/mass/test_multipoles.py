"""Multipoles: their deflection is lenstronomy's, and they weigh nothing."""

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from haloformer.errors import InputError
from haloformer.simulation.components import Multipoles
from haloformer.simulation.distributions import Normal

AXIS = np.linspace(-2.5, 2.5, 50)
X, Y = np.meshgrid(AXIS, AXIS)


def round_one(made):
    for name in ("e1", "e2"):
        made.parameters[name][0] = 0
    return made


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-7)])
def test_multipoles_deflect_as_lenstronomys(drawn, dtype, most):
    made = round_one(drawn(Multipoles(amplitude=3.0)))
    assert np.abs(made.deflection(dtype) - made.lenstronomy()).max() < most
    assert np.abs(made.lenstronomy()).max() > 0.01


def test_strengths_are_those_of_lenstronomys_power_law_with_multipoles(drawn):
    made = drawn(Multipoles(), range(2))
    p = {name: values[1] for name, values in made.parameters.items()}
    lens = {name: p[name] for name in ("theta_E", "e1", "e2")}
    lens |= {"gamma": 2.1, "center_x": p["x"], "center_y": p["y"]}
    strengths = {}
    for m in (1, 3, 4):
        c, s = p[f"a{m}_cos"], p[f"a{m}_sin"]
        strengths |= {f"a{m}_a": np.hypot(c, s), f"delta_phi_m{m}": np.arctan2(s, c) / m}
    both = LensModel(["EPL_MULTIPOLE_M1M3M4"]).alpha(X.ravel(), Y.ravel(), [lens | strengths])
    smooth = LensModel(["EPL"]).alpha(X.ravel(), Y.ravel(), [lens])
    ours = made.deflection()[:, 1].reshape(2, -1)
    assert np.abs(np.subtract(both, smooth) - ours).max() < 1e-12


def test_amplitude_multiplies_all_of_them(drawn):
    none, once, thrice = (drawn(Multipoles(amplitude=a)).deflection() for a in (0, 1, 3))
    assert np.all(none == 0)
    assert thrice == pytest.approx(3 * once)


def test_a_fourth_order_along_the_axes_is_disky_when_positive(drawn):
    """A disky lens has more convergence on its axes than on its diagonals."""
    only = dict.fromkeys(("a1_cos", "a1_sin", "a3_cos", "a3_sin", "a4_sin"), 0.0)
    lens = {name: np.zeros(1) for name in ("e1", "e2", "x", "y")} | {"theta_E": np.ones(1)}
    made = drawn(Multipoles(**only, a4_cos=0.01), [0], lens=lens)
    step = 1e-4
    for angle, sign in ((0.0, 1), (np.pi / 4, -1)):
        x, y = (
            np.cos(angle) + np.array([[-1, 1, 0, 0]]) * step,
            np.sin(angle) + np.array([[0, 0, -1, 1]]) * step,
        )
        alpha = made.deflection(x=x, y=y)[:, 0, 0]
        kappa = (alpha[0, 1] - alpha[0, 0] + alpha[1, 3] - alpha[1, 2]) / (4 * step)
        assert kappa == pytest.approx(sign * 0.01 / 2, rel=1e-3)


def test_multipoles_have_slopes_everywhere_and_no_mass(drawn):
    made = round_one(drawn(Multipoles()))
    tensors = {name: value.requires_grad_() for name, value in made.tensors().items()}
    alpha = Multipoles.deflection(torch.tensor(X)[None], torch.tensor(Y)[None], tensors)
    sum(a.square().sum() for a in alpha).backward()
    assert all(torch.isfinite(value.grad).all() for value in tensors.values())
    assert np.all(Multipoles.mass_within(np.ones(6), made.parameters, made.setting) == 0)


def test_a_negative_amplitude_is_refused():
    with pytest.raises(InputError, match="amplitude must not be negative"):
        Multipoles(amplitude=Normal(-1.0, 0.1))
