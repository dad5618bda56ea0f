"""How far a lens is from where its survey has it, told by what the fit leaves."""

import pytest
import torch

from haloformer.fitting import SmoothFitter, fit_smooth
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


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
@pytest.mark.parametrize("offset", [(0, 0, 0), (0.5, 0, 0), (-0.2, 0.4, 0), (0, 0, 0.02)], ids=str)
def test_the_offset_of_smooth_lenses_is_found(survey, noise, offset):
    images = smooth(elsewhere(survey, *offset), noise)
    found = fit_smooth(images, survey, noise=noise, placement=True).placement
    assert found.shape == (20, 3)
    wanted = torch.tensor(offset).double()
    assert (found.mean(0) - wanted)[:2].abs().max() < 0.06
    assert (found.mean(0) - wanted)[2].abs() < 0.001 + 0.2 * wanted[2]  # one step of a linear fit
    assert found.std(0)[:2].max() < 0.15


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
def test_fitted_there_they_are_smooth_again(survey, noise):
    offset = (0.4, -0.25, 0.015)
    images = smooth(elsewhere(survey, *offset), noise)
    fitter = SmoothFitter(survey, noise=noise)
    here = fitter(images).chi2
    there = fitter(images, placement=True, place=offset)
    known = fit_smooth(images, elsewhere(survey, *offset), noise=noise).chi2
    assert here.median() > there.chi2.median() + 0.03
    torch.testing.assert_close(there.chi2, known, rtol=1e-3, atol=1e-4)
    told = fit_smooth(images, survey, noise=noise, place=offset)
    torch.testing.assert_close(told.chi2, there.chi2)
    assert (there.placement.mean(0) - torch.tensor(offset))[:2].abs().max() < 0.05
    # The fitter itself is as it was.
    torch.testing.assert_close(fitter(images).chi2, here)


def test_batches_change_nothing_and_images_without_a_lens_give_finite_numbers():
    images = smooth("model_ii", "original", 5)
    images[3] = 0
    images[4, :, 20:30] = torch.nan
    together = fit_smooth(images, "model_ii", placement=True).placement
    alone = fit_smooth(images, "model_ii", placement=True, batch_size=1).placement
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert together[4].abs().max() < 1  # what is not known counts for nothing
    assert fit_smooth(images, "model_ii").placement is None


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
@pytest.mark.parametrize("offset", [(0, 0, 0), (0.5, -0.5, 0), (-2.0, 1.3, 0)], ids=str)
def test_the_place_of_each_lens_is_found(survey, noise, offset):
    images = smooth(elsewhere(survey, *offset), noise)
    found = fit_smooth(
        images, survey, noise=noise, free_place=("place_x", "place_y"), placement=True, detail=True
    )
    known = fit_smooth(images, survey, noise=noise, place=offset, detail=True)
    assert (found.placement - torch.tensor(offset))[:, :2].abs().max() < 0.3
    assert (found.chi2 <= known.chi2 + 0.02).all()
    assert found.converged.float().mean() > 0.5  # the others lie on the bounds of the survey


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=IDS)
def test_so_is_the_pixel_scale(survey, noise):
    offset = (0.7, -0.3, 0.02)
    images = smooth(elsewhere(survey, *offset), noise)
    found = fit_smooth(images, survey, noise=noise, free_place=PLACE, placement=True).placement
    assert (found.mean(0) - torch.tensor(offset)).abs()[2] < 0.001
    assert found.std(0)[2] < 0.004
