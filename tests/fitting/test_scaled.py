"""The smooth fit of images that were scaled after the noise: it is that of their counts."""

import dataclasses
import functools
import json

import pytest
import torch

from haloformer.errors import InputError
from haloformer.fitting.channels import Residual
from haloformer.fitting.composed import ComposedFitter
from haloformer.fitting.composed import fitter as fitting
from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.instruments import central_part
from haloformer.simulation.surveys import describe_survey
from small_survey import small

pytest.importorskip("numba")
SIDE, N = 96, 24
SURVEYS = ("common_task", "alexander_2020_a")


def counted(name):
    return dataclasses.replace(get_any_survey(name), scaled="none")


@functools.cache
def fitter(name):
    return ComposedFitter(get_any_survey(name), size=SIDE).prepare()


def images(survey):
    return Simulator(survey, seed=5, noise="original").batch(range(N)).images


@pytest.fixture(scope="module", params=SURVEYS)
def pair(request):
    """Fits of scaled images, and of the same in counts/s, with how many counts/s a scaled image's 1 is."""
    name = request.param
    scaled, counts = images(get_any_survey(name)), images(counted(name))
    given = central_part(scaled, SIDE)
    fits = (
        fitter(name)(given, detail=True),
        ComposedFitter(counted(name), size=SIDE)(central_part(counts, SIDE), detail=True),
    )
    low = counts.amin((1, 2, 3)) if name == "common_task" else 0.0
    return *fits, counts.amax((1, 2, 3)) - low, given


def test_what_is_left_is_what_is_left_of_the_counts(pair):
    fit, expected, _, _ = pair
    assert fit.converged.float().mean() >= 0.95
    for found, right in ((fit.residual, expected.residual), (fit.detail, expected.detail)):
        assert (found - right).square().mean().sqrt() < 0.06  # standard deviations of the noise


def test_the_noise_is_known(pair):
    fit, expected, per_unit, _ = pair
    ratio = (fit.sigma * per_unit[:, None, None, None] / expected.sigma).mean((1, 2, 3))
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert ratio.std() < 0.02


def test_model_and_noise_are_in_the_unit_of_the_images(pair):
    fit, _, _, given = pair
    seen = fit.residual != 0  # the middle, where light changes within a pixel, is not
    assert seen.float().mean() > 0.99
    again = fit.model + fit.residual * fit.sigma
    torch.testing.assert_close(again[seen], given[seen], atol=2e-5, rtol=0)


def test_lenses_are_those_of_the_counts(pair):
    fit, expected, _, _ = pair
    brightness = fit.names.index("source_flux")
    off = (fit.values - expected.values).abs() / expected.errors
    off[:, brightness] = 0  # which the scaling has taken
    assert off.median(0).values.max() < 0.7


def test_tensors_find_what_the_kernel_finds(pair, monkeypatch):
    fit, _, _, given = pair
    name = "common_task" if "lens_theta_E" in fit.names else "alexander_2020_a"
    monkeypatch.setattr(fitting, "kernel_serves", lambda device: False)
    found = ComposedFitter(get_any_survey(name), size=SIDE)(given[:6])
    assert (found.residual - fit.residual[:6]).square().mean().sqrt() < 0.05


def test_scaled_images_of_any_brightness_and_level_are_the_same():
    given = central_part(images(get_any_survey("common_task"))[:8], SIDE)
    fit = fitter("common_task")(given)
    for other in (0.7 * given + 0.1, 255 * given):
        found = fitter("common_task")(other)
        assert (fit.residual - found.residual).square().mean().sqrt() < 0.05


def test_no_images_are_no_error():
    found = fitter("common_task")(torch.zeros(0, 1, SIDE, SIDE), detail=True)
    assert found.residual.shape == (0, 1, SIDE, SIDE)


def test_images_of_nothing_are_no_lenses():
    noise = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    dark, unknown = torch.zeros(1, 1, SIDE, SIDE), torch.full((1, 1, SIDE, SIDE), torch.nan)
    found = fitter("common_task")(torch.cat([noise, dark, unknown]), detail=True)
    assert not found.converged.any()
    for values in (found.values, found.residual, found.detail, found.model, found.sigma):
        assert torch.isfinite(values).all()


def test_residual_and_detail_are_input_for_networks():
    survey = json.dumps(describe_survey(get_any_survey("common_task")))
    residual = Residual(survey, "original", SIDE, detail=True)
    residual.check()
    assert residual(images(get_any_survey("common_task"))[:4]).shape == (4, 3, SIDE, SIDE)


def test_sources_must_have_a_known_brightness():
    light = [{"kind": "sersic", "R_sersic": 0.3, "n_sersic": 1.0}]
    survey = small(name="scaled", scaled="max", source={"snr": 20, "light": light})
    with pytest.raises(InputError, match="of no known brightness"):
        ComposedFitter(survey)
