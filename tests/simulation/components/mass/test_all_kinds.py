"""What every mass component promises, whatever its kind."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from haloformer.simulation.components import MASS_COMPONENTS, TNFW, MassPart, PointMasses

AXIS = np.linspace(-2, 2, 24)
X, Y = np.meshgrid(AXIS, AXIS)

KINDS = {kind().kind: kind for kind in MASS_COMPONENTS}


def test_each_kind_has_its_own_name():
    assert len(KINDS) == len(MASS_COMPONENTS)


@pytest.mark.parametrize("name", KINDS)
def test_a_component_is_read_from_what_yaml_says(name):
    read = TypeAdapter(MassPart).validate_python({"kind": name})
    assert read == KINDS[name]()


def test_distributions_are_read_from_what_yaml_says():
    text = {"kind": "tnfw", "Sigma_sub": {"log_uniform": ["5e-3", 0.2]}, "mass_low": "1e7"}
    read = TypeAdapter(MassPart).validate_python(text)
    assert isinstance(read, TNFW)
    assert (read.Sigma_sub.low, read.mass_low) == (0.005, 1e7)


@pytest.mark.parametrize("name", KINDS)
def test_an_image_is_the_same_alone_and_in_a_batch(drawn, name):
    lens = {"theta_E": 1.1, "e1": 0.1, "e2": -0.05, "x": 0.03, "y": -0.02}
    many, alone = (
        drawn(KINDS[name](), index, lens={k: np.full(len(index), v) for k, v in lens.items()})
        for index in (range(4), [2])
    )
    for key, values in alone.parameters.items():
        # A sum over redshift ends otherwise in arrays of other lengths; before numpy 2 functions do, too.
        rounded = key in ("chi_lens", "chi_source") or np.__version__ < "2"
        rtol = 1e-15 if rounded else 0
        np.testing.assert_allclose(values[0], many.parameters[key][2], rtol=rtol)
    together, single = many.deflection(x=X, y=Y)[:, 2], alone.deflection(x=X, y=Y)[:, 0]
    assert together == pytest.approx(single, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("name", KINDS)
def test_single_precision_holds_with_positions_in_single_precision_too(drawn, name):
    made = drawn(KINDS[name](), range(3))
    tensors = {key: value.float() for key, value in made.tensors().items()}
    grid = torch.tensor(X).float()[None], torch.tensor(Y).float()[None]
    alpha = made.component.deflection(*grid, tensors)
    assert all(a.dtype == torch.float32 and a.shape == (3, *X.shape) for a in alpha)
    exact = made.deflection(x=X, y=Y)
    error = np.hypot(*(np.array([a.numpy() for a in alpha]) - exact))
    assert error.max() < 2e-3 * max(np.hypot(*exact).max(), 1e-6)


def test_no_members_deflect_nothing(drawn):
    made = drawn(PointMasses(number=0), range(2))
    assert not np.any(made.deflection(x=X, y=Y))
    assert not np.any(PointMasses.mass_within(np.ones(2), made.parameters, made.setting))
