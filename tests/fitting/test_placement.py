"""Where a lens lies on the pixels, and how large these are, found by the fit."""

import pytest
import torch

from haloformer.errors import InputError
from haloformer.fitting import SmoothFitter, behind, fit_smooth
from haloformer.fitting.problem import PLACE
from haloformer.simulation import describe_survey, get_survey, simulate

SURVEYS = [("model_i", "original"), ("model_ii", "instrument"), ("model_iii", "none")]
IDS = [name for name, _ in SURVEYS]


def elsewhere(survey, x, y, scale):
    """The survey with everything moved by pixels, and pixels larger by a factor 1 + scale."""
    definition = describe_survey(get_survey(survey))
    definition["instrument"]["pixel_scale"] *= 1 + scale
    for name, pixels in (("x", x), ("y", y)):
        shift = pixels * definition["instrument"]["pixel_scale"]
        definition["deflector"][name] += shift
        bounds = definition["source"][name]["uniform"]
        definition["source"][name] = {"uniform": [bound + shift for bound in bounds]}
    return get_survey(definition)


def smooth(survey, noise, n=20):
    return simulate(survey, n, classes=["no_sub"], seed=33, noise=noise).images


def places(fit):
    """(B, K) the places of a fit that has K of them free."""
    return torch.stack([fit.values[:, fit.names.index(n)] for n in PLACE if n in fit.names], 1)


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
@pytest.mark.parametrize("offset", [(0, 0, 0), (0.5, -0.5, 0), (-2.0, 1.3, 0), (3, 3, 0)], ids=str)
def test_the_place_of_each_lens_is_found(survey, noise, offset):
    images = smooth(elsewhere(survey, *offset), noise)
    found = fit_smooth(images, survey, noise=noise, free_place=PLACE[:2])
    known = fit_smooth(images, survey, noise=noise, place=offset)
    assert (places(found) - torch.tensor(offset[:2])).abs().max() < 0.3
    assert (places(found).mean(0) - torch.tensor(offset[:2])).abs().max() < 0.06
    # By quasi-likelihood, χ² itself is not what is least.
    assert (found.chi2 <= known.chi2 + 0.02).all()
    assert found.converged.float().mean() > 0.9


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
@pytest.mark.parametrize("offset", [(0.7, -0.3, 0.02), (0, 0, -0.02), (-0.2, 0.4, 0)], ids=str)
def test_so_is_the_pixel_scale(survey, noise, offset):
    images = smooth(elsewhere(survey, *offset), noise)
    found = places(fit_smooth(images, survey, noise=noise, free_place=PLACE))
    assert found.shape == (20, 3)
    away = (found.mean(0) - torch.tensor(offset)).abs()
    assert away[:2].max() < 0.06
    assert away[2] < 0.001
    assert found.std(0)[:2].max() < 0.15
    assert found.std(0)[2] < 0.004


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
def test_fitted_there_they_are_smooth_again(survey, noise):
    offset = (0.4, -0.25, 0.015)
    images = smooth(elsewhere(survey, *offset), noise)
    fitter = SmoothFitter(survey, noise=noise)
    here = fitter(images).chi2
    there = fitter(images, place=offset)
    known = fit_smooth(images, elsewhere(survey, *offset), noise=noise).chi2
    assert here.median() > there.chi2.median() + 0.03
    torch.testing.assert_close(there.chi2, known, rtol=1e-3, atol=1e-4)
    told = fit_smooth(images, survey, noise=noise, place=offset)
    torch.testing.assert_close(told.chi2, there.chi2)
    # The fitter itself is as it was.
    torch.testing.assert_close(fitter(images).chi2, here)


def test_batches_change_nothing_and_images_without_a_lens_give_finite_numbers():
    images = smooth("model_ii", "original", 5)
    images[3] = 0
    images[4, :, 20:30] = torch.nan
    together = places(fit_smooth(images, "model_ii", free_place=PLACE))
    alone = places(fit_smooth(images, "model_ii", free_place=PLACE, batch_size=1))
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert together[4].abs().max() < 1  # what is not known counts for nothing
    assert not set(PLACE) & set(fit_smooth(images, "model_ii").names)


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
def test_kernel_and_tensors_see_the_same_lens_wherever_it_lies(survey, noise, monkeypatch):
    images = smooth(elsewhere(survey, 0.4, -1.7, 0.0), noise, 6)
    found = {}
    for by_kernel in (True, False):
        if not by_kernel:
            monkeypatch.setattr(behind, "has_numba", lambda: False)
        fitter = SmoothFitter(survey, noise=noise, free_place=PLACE[:2])
        found[by_kernel] = fitter(images, detail=True)
    kernel, tensors = found[True], found[False]
    assert (places(kernel) - places(tensors)).abs().max() < 1e-3
    assert ((kernel.model - tensors.model) / tensors.sigma).abs().max() < 0.02
    assert (kernel.detail - tensors.detail).abs().max() < 0.05


def test_what_is_no_part_of_a_place_is_refused_and_so_is_what_is_fitted_already():
    with pytest.raises(InputError, match="free_place"):
        SmoothFitter("model_ii", free_place=("place_z",))
    with pytest.raises(InputError, match="must be a tuple of names"):
        SmoothFitter("model_ii", free_place="place_x")
    definition = describe_survey(get_survey("model_ii"))
    definition["deflector"]["x"] = {"uniform": [-0.1, 0.1]}
    with pytest.raises(InputError, match="lens_x for every image"):
        SmoothFitter(get_survey(definition), free_place=PLACE[:2])
