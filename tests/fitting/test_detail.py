"""The residual's detail: what is left when small changes of the lens as a whole are fitted, too."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from haloformer.errors import InputError
from haloformer.fitting import fit_smooth
from haloformer.fitting.channels import Residual
from haloformer.fitting.detail import macro_fields
from haloformer.fitting.parametric import SmoothFitter
from haloformer.simulation import describe_survey, get_survey, simulate


@pytest.fixture(scope="module")
def lenses():
    return simulate("model_i", 48, seed=11)


def test_macro_fields_are_gradients() -> None:
    """Of ln r, r, shear and the inner quadrupole, by autograd."""
    x = torch.linspace(-1.5, 1.4, 30, dtype=torch.float64)[None, None, :]
    y = torch.linspace(-1.2, 1.6, 29, dtype=torch.float64)[None, :, None]
    grid_x, grid_y = (x + 0 * y).requires_grad_(), (y + 0 * x).requires_grad_()
    square = grid_x**2 + grid_y**2 + 0.1**2
    potentials = [
        square.log() / 2,
        square.sqrt(),
        (grid_x**2 - grid_y**2) / 2,
        grid_x * grid_y,
        (grid_x**2 - grid_y**2) / square**2,
        grid_x * grid_y / square**2,
    ]
    found = macro_fields(x, y, 0.05)
    assert len(found) == len(potentials)
    for potential, field in zip(potentials, found, strict=True):
        wanted = torch.autograd.grad(
            potential.sum(), (grid_x, grid_y), retain_graph=True, allow_unused=True
        )
        for have, want in zip(field, wanted, strict=True):
            assert want is not None
            torch.testing.assert_close(have.expand_as(want), want)


def test_detail_takes_out_the_growth_of_the_ring_and_leaves_noise_alone(lenses) -> None:
    fit = fit_smooth(lenses.images, "model_i", detail=True)
    assert fit.detail is not None
    labels = torch.as_tensor(lenses.labels)
    chi2 = fit.detail.square().mean((1, 2, 3))
    smooth, axion = (labels == list(lenses.class_names).index(name) for name in ("no_sub", "axion"))
    n = fit.detail[0].numel()
    # A smooth lens loses no more than the degrees of freedom that are fitted
    lost = (fit.chi2[smooth] - chi2[smooth]) * n
    assert (lost > -1).all()
    assert lost.mean() < 25
    # Of an axion's line most is the growth of the ring.
    assert (fit.chi2[axion] - 1).median() > 3 * (chi2[axion] - 1).abs().median()


def test_an_added_central_mass_is_explained() -> None:
    """The larger ring of a heavier, but smooth lens is no detail."""
    survey = get_survey("model_i")
    heavier = dataclasses.replace(
        survey, deflector=dataclasses.replace(survey.deflector, mass=1.01e12)
    )
    images = simulate(heavier, 9, seed=2, noise="none", classes=["no_sub"]).images
    fit = fit_smooth(images, "model_i", noise="none", detail=True)
    assert fit.detail is not None
    assert fit.detail.square().mean() < 0.02 * fit.residual.square().mean()


@pytest.mark.parametrize("noise", ["original", "instrument"])
def test_tensor_graph_and_kernel_agree(noise: str) -> None:
    images = simulate("model_ii", 9, seed=3, noise=noise).images
    fitter = SmoothFitter("model_ii", noise=noise).prepare()
    maps, _ = fitter.residual(images, detail=True)
    fit = fitter(images, detail=True)
    assert fit.detail is not None
    torch.testing.assert_close(maps[:, 1:], fit.detail, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e30])
def test_images_without_a_lens_give_finite_numbers(value: float) -> None:
    detail = fit_smooth(torch.full((2, 1, 150, 150), value), "model_i", detail=True).detail
    assert detail is not None
    assert torch.isfinite(detail).all()


def test_channels_and_round_trip(lenses) -> None:
    survey = json.dumps(describe_survey(get_survey("model_i")))
    residual = Residual(survey, "original", 96, detail=True)
    seen = residual(lenses.images[:3])
    assert seen.shape == (3, *residual.output_shape((1, 150, 150))) == (3, 3, 96, 96)
    assert torch.equal(seen[:, :2], Residual(survey, "original", 96)(lenses.images[:3]))
    assert residual(lenses.images[:0]).shape == (0, 3, 96, 96)
    assert Residual.from_dict(residual.to_dict()) == residual
    with pytest.raises(InputError, match="detail must be true or false"):
        Residual.from_dict({**residual.to_dict(), "detail": "yes"})


def test_where_the_lens_itself_is_fitted_the_detail_takes_out_no_less() -> None:
    survey = get_survey(Path(__file__).parents[2] / "examples" / "own_survey.yaml")
    lenses = simulate(survey, 6, seed=4)
    fit = fit_smooth(lenses.images, survey, detail=True)
    assert "lens_theta_E" in fit.names
    assert fit.detail is not None
    left, before = (look.square().sum((1, 2, 3)) for look in (fit.detail, fit.residual))
    assert (left <= before * 1.0001).all()
    assert (left > 0.5 * fit.detail[0].numel()).all()
