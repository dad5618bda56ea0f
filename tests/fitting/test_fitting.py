"""The smooth fit: it finds the truth with honest errors, leaves nothing but noise where there is nothing else, and never breaks."""

import dataclasses

import numpy as np
import pytest
import torch

from haloformer.errors import InputError
from haloformer.fitting import fit_smooth
from haloformer.fitting.model import sersic_with_gradient
from haloformer.fitting.moments import noise_moments
from haloformer.fitting.parametric import SmoothFitter
from haloformer.simulation import get_survey, simulate
from haloformer.simulation.distributions import Normal, Uniform
from haloformer.simulation.noise import add_noise
from haloformer.simulation.sources import sersic_ellipse

SURVEYS = [("model_i", "original"), ("model_ii", "instrument"), ("model_iii", "instrument")]


def truth(lenses, fit):
    return np.stack([lenses.parameters[name] for name in fit.names], axis=1)


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=[s for s, _ in SURVEYS])
def test_smooth_lenses_are_recovered_with_pulls_that_are_standard_normal(survey, noise):
    n = 150
    lenses = simulate(survey, n, classes=["no_sub"], seed=21, noise=noise)
    fit = fit_smooth(lenses.images, survey, noise=noise)
    assert fit.converged.all()
    pulls = (fit.values.numpy() - truth(lenses, fit)) / fit.errors.numpy()
    assert np.abs(pulls.mean(axis=0)).max() < 4 / np.sqrt(n)
    assert np.all((pulls.std(axis=0) > 0.8) & (pulls.std(axis=0) < 1.2))
    assert abs(float(fit.chi2.mean()) - 1) < 5 * float(fit.chi2.std()) / np.sqrt(n) + 2e-3
    assert fit.residual.abs().mean() < 1


@pytest.mark.parametrize(("survey", "noise"), SURVEYS, ids=[s for s, _ in SURVEYS])
def test_substructure_is_what_a_smooth_lens_cannot_explain(survey, noise):
    lenses = simulate(survey, 90, seed=22, noise=noise)
    chi2 = fit_smooth(lenses.images, survey, noise=noise).chi2
    axion, cdm, no_sub = (chi2[lenses.labels == k] for k in range(3))
    assert axion.median() > no_sub.quantile(0.95)
    assert cdm.quantile(0.9) > no_sub.max()  # most subhalos are light


@pytest.mark.parametrize(
    ("survey", "noise", "side", "known"),
    [
        ("model_i", "original", 96, False),
        ("model_i", "original", 150, True),
        ("model_ii", "instrument", 64, False),
    ],
)
def test_the_compiled_kernel_and_the_tensors_agree(survey, noise, side, known, monkeypatch):
    lenses = simulate(survey, 12, seed=23, noise=noise)
    cut = (lenses.images.shape[-1] - side) // 2
    images = lenses.images[..., cut : cut + side, cut : cut + side]
    seconds = torch.from_numpy(lenses.parameters["exposure_time"]) if known else None
    fast = fit_smooth(images, survey, noise=noise, exposure_time=seconds)
    monkeypatch.setattr(SmoothFitter, "_compiled", lambda self, device: False)
    slow = fit_smooth(images, survey, noise=noise, exposure_time=seconds)
    assert ((fast.values - slow.values).abs() < 0.02 * slow.errors).all()
    assert torch.allclose(fast.chi2, slow.chi2, rtol=1e-3)
    assert torch.allclose(fast.errors, slow.errors, rtol=1e-2)
    assert (fast.residual - slow.residual).abs().max() < 0.1


def test_a_known_exposure_time_is_not_fitted():
    lenses = simulate("model_i", 6, seed=24)
    seconds = torch.from_numpy(lenses.parameters["exposure_time"])
    fit = fit_smooth(lenses.images, "model_i", exposure_time=seconds)
    assert fit.names == ("source_x", "source_y")
    assert np.abs(fit.values.numpy() - truth(lenses, fit)).max() < 0.02
    # A batch's worth of times for two batches of images must not pass for all of them
    for wrong in (seconds[:1], seconds[:3], -seconds, seconds * torch.inf, seconds * torch.nan):
        with pytest.raises(InputError, match="6 positive numbers"):
            fit_smooth(lenses.images, "model_i", exposure_time=wrong, batch_size=3)


@pytest.mark.filterwarnings("error")
def test_images_and_exposures_may_be_arrays_lists_and_numbers():
    lenses = simulate("model_i", 3, seed=2)
    array = lenses.images.numpy().copy()
    array.flags.writeable = False
    wanted = fit_smooth(lenses.images, "model_i", exposure_time=torch.full((3,), 1000.0))
    for seconds in (1000, [1000.0] * 3, np.full(3, 1000.0)):
        found = fit_smooth(array, "model_i", exposure_time=seconds)
        assert torch.equal(found.values, wanted.values)
    with pytest.raises(InputError, match="images must be real numbers"):
        fit_smooth("lens.fits", "model_i")


def test_masked_pixels_are_left_out_as_those_that_are_nan():
    images = simulate("model_i", 2, seed=2).images.numpy()
    hidden = np.zeros(images.shape, bool)
    hidden[0, :, 60:90, 40:110] = True
    masked = fit_smooth(np.ma.masked_array(images, mask=hidden), "model_i")
    wanted = fit_smooth(np.where(hidden, np.nan, images), "model_i")
    assert torch.equal(masked.values, wanted.values)
    assert not masked.residual[torch.from_numpy(hidden)].any()
    assert not torch.equal(masked.values[0], fit_smooth(images, "model_i").values[0])


def test_simulated_lenses_are_images():
    lenses = simulate("model_i", 2, seed=2)
    assert torch.equal(
        fit_smooth(lenses, "model_i").values, fit_smooth(lenses.images, "model_i").values
    )
    with pytest.raises(InputError, match=r"images must be real numbers, not torch\.complex64"):
        fit_smooth(lenses.images.to(torch.complex64), "model_i")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"steps": 1.5}, "steps must be a whole number of at least 1, not 1.5"),
        ({"batch_size": "a"}, "batch_size must be a whole number of at least 1, not 'a'"),
        ({"batch_size": True}, "batch_size must be a whole number of at least 1, not True"),
        ({"place": (1, 2)}, "place must be three numbers, place_x, place_y, place_scale, or"),
        ({"place": (np.nan, 0, 0)}, "place must be three numbers"),
        ({"place": np.zeros((3, 3))}, "place must be three numbers"),
        ({"place": "a"}, "place must be real numbers, not str"),
    ],
)
def test_what_is_no_option_of_a_fit_is_told(options, said):
    with pytest.raises(InputError) as error:
        fit_smooth(simulate("model_i", 2, seed=2).images, "model_i", **options)
    assert str(error.value).startswith(said)


def test_moments_are_those_of_the_noise():
    base = torch.linspace(
        0, 0.1, 8, dtype=torch.float64
    )  # counts/s, from the sky to the brightest arcs
    seconds, n = torch.full((4000,), 1500.0), 4000
    images = base[None, :, None].expand(n, 8, 4).contiguous()
    noisy = add_noise(
        images,
        np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        seconds,
        0.01,
        twice=True,
    )
    expected = noise_moments(
        "double_poisson", base, torch.tensor(1500.0, dtype=torch.float64), 0.01
    )
    samples = noisy.permute(1, 0, 2).flatten(1)
    error = (expected.variance / samples.shape[1]).sqrt()
    assert (
        (samples.mean(1) - expected.mean).abs() < 5 * error + 0.05
    ).all()  # 0.05 counts: the Gaussian stands for a Poisson
    assert torch.allclose(samples.var(1), expected.variance, rtol=0.06)


def test_derivatives_are_those_of_the_moments_and_of_the_profile():
    base = torch.linspace(1e-4, 0.1, 9, dtype=torch.float64, requires_grad=True)
    log_time = torch.tensor(7.3, dtype=torch.float64, requires_grad=True)
    moments = noise_moments("double_poisson", base, log_time.exp(), 0.01)
    by_base, by_log_time = torch.autograd.grad(moments.mean.sum(), (base, log_time))
    assert torch.allclose(by_base, moments.by_base, rtol=1e-6)
    assert torch.allclose(by_log_time, moments.by_log_time.sum(), rtol=1e-6)

    numbers = [torch.tensor(v, dtype=torch.float64) for v in (20.0, 0.25, 1.3, -0.1, 0.1)]
    x0, y0 = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.1, -0.05))
    x, y = (
        torch.linspace(-1, 1, 7, dtype=torch.float64)[None, :],
        torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None],
    )
    profile = sersic_ellipse(x, y, *numbers, x0, y0)
    brightness, found = sersic_with_gradient(x, y, *numbers, x0, y0, by=("source_x", "source_y"))
    assert torch.allclose(brightness, profile)
    for name, wanted in zip(("source_x", "source_y"), torch.autograd.grad(profile.sum(), (x0, y0))):
        assert torch.allclose(found[name].sum(), wanted, rtol=1e-9)


def odd_images():
    """Images that are no lens, by name."""
    generator = torch.Generator().manual_seed(1)
    lens = simulate("model_i", 3, seed=25).images[2, 0]
    x = torch.arange(150.0)
    return {
        "noise": torch.randn(150, 150, generator=generator),
        "blank": torch.zeros(150, 150),
        "constant": torch.full((150, 150), 7.0),
        "saturated": torch.full((150, 150), 1e9),
        "negative": -lens - 5,
        "nan": torch.full((150, 150), torch.nan),
        "huge": torch.full((150, 150), 1e30),
        "infinite": torch.full((150, 150), torch.inf),
        "blob": 300 * torch.exp(-((x[None, :] - 20) ** 2 + (x[:, None] - 120) ** 2) / 50),
    }


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_no_lens_gives_finite_numbers_and_a_flag(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(SmoothFitter, "_compiled", lambda self, device: False)
    odd = odd_images()
    lens = simulate("model_i", 3, seed=25).images[2:]
    images = torch.cat([torch.stack([*odd.values()])[:, None], lens])
    fit = fit_smooth(images, "model_i")
    for tensor in (fit.values, fit.covariance, fit.model, fit.sigma, fit.residual, fit.chi2):
        assert torch.isfinite(tensor).all()
    settled = [
        name
        for name, converged in zip(odd, fit.converged)
        if converged and fit.chi2[list(odd).index(name)] < 1.5
    ]
    assert not settled  # whatever settles does not pass for a smooth lens
    for name in ("blank", "constant", "nan", "saturated", "infinite"):
        assert not fit.converged[list(odd).index(name)], name
    # and the lens among them is fitted as if it were alone
    alone = fit_smooth(lens, "model_i")
    assert fit.converged[-1]
    assert torch.allclose(fit.values[-1], alone.values[0], rtol=1e-4, atol=1e-5)


def test_pixels_that_are_not_finite_are_left_out():
    lenses = simulate("model_i", 3, classes=["no_sub"], seed=26)
    holed = lenses.images.clone()
    holed[:, :, 60:75, 20:60] = torch.nan
    whole, fit = fit_smooth(lenses.images, "model_i"), fit_smooth(holed, "model_i")
    assert fit.converged.all()
    assert ((fit.values - whole.values).abs() < 3 * fit.errors).all()
    assert (fit.residual[:, :, 60:75, 20:60] == 0).all()


def test_a_survey_whose_lens_varies_is_fitted_too():
    base = get_survey("model_ii")
    survey = dataclasses.replace(
        base,
        name="varied",
        deflection_scale=None,
        deflector=dataclasses.replace(
            base.deflector, mass=None, theta_E=Uniform(0.9, 1.3), e1=Normal(0.05, 0.04), e2=Normal(0, 0.04),
            x=Normal(0, 0.02), y=Normal(0, 0.02), gamma1=Normal(0.03, 0.02), gamma2=Normal(0, 0.02),
        ),
        source=dataclasses.replace(
            base.source, R_sersic=Uniform(0.2, 0.35), n_sersic=Uniform(0.8, 1.4), magnitude=Uniform(19.5, 20.5)
        ),
    )  # fmt: skip
    n = 48
    lenses = simulate(survey, n, classes=["no_sub"], seed=27, noise="instrument")
    fit = fit_smooth(lenses.images, survey, noise="instrument")
    assert len(fit.names) == 12
    assert fit.converged.float().mean() > 0.85
    assert abs(float(fit.chi2[fit.converged].mean()) - 1) < 0.02
    pulls = ((fit.values.numpy() - truth(lenses, fit)) / fit.errors.numpy())[fit.converged]
    assert np.abs(pulls.mean(axis=0)).max() < 4 / np.sqrt(n)
    assert np.all((pulls.std(axis=0) > 0.7) & (pulls.std(axis=0) < 1.4))


@pytest.mark.parametrize("compiled", [True, False])
def test_the_fit_of_an_image_does_not_depend_on_its_batch(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(SmoothFitter, "_compiled", lambda self, device: False)
    images = simulate("model_ii", 7, seed=28, noise="instrument").images
    whole = fit_smooth(images, "model_ii", noise="instrument")
    parts = fit_smooth(images, "model_ii", noise="instrument", batch_size=3)
    if compiled:
        assert torch.equal(parts.values, whole.values)
    # How a matrix product is rounded depends on the size of the batch.
    assert ((parts.values - whole.values).abs() < 0.03 * whole.errors).all()
    assert torch.allclose(parts.chi2, whole.chi2, rtol=1e-4)
    none = fit_smooth(images[:0], "model_ii", noise="instrument")
    assert (none.values.shape, none.residual.shape) == ((0, 2), (0, 1, 64, 64))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 65, 65), "smaller by an even number"),
        ((2, 1, 152, 152), "smaller by an even number"),
        ((2, 1, 150, 64), "must be square"),
        ((2, 1, 4, 4), "cannot be fitted"),
        ((2, 3, 150, 150), "takes images"),
        ((150, 150), "takes images"),
    ],
)
def test_images_that_cannot_be_of_the_survey_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        fit_smooth(torch.zeros(shape), "model_i")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "loud"}, "noise mode"),
        ({"steps": 0}, "at least 1"),
        ({"batch_size": -1}, "at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        fit_smooth(torch.zeros(2, 1, 150, 150), "model_i", **options)


def test_a_fitter_refuses_images_of_another_size():
    with pytest.raises(InputError, match="96"):
        SmoothFitter("model_i", size=96)(torch.zeros(2, 1, 150, 150))


def test_a_fit_is_a_table_with_units_and_a_figure():
    from astropy import units as u

    lenses = simulate("model_i", 3, seed=1)
    fit = fit_smooth(lenses.images, "model_i", batch_size=2)
    table = fit.to_table()
    assert table["source_x_error"].unit == u.arcsec
    assert table["exposure_time"].unit == u.s
    assert table.meta["survey"] == "model_i"
    np.testing.assert_array_equal(table["source_x"], fit.values[:, 0])
    np.testing.assert_array_equal(table["chi2"], fit.chi2)
    image = fit.plot().axes[0].images[0].get_array()
    np.testing.assert_allclose(image, lenses.images[0, 0], rtol=1e-3, atol=0.01)
    assert "3 images by lenses of model_i: 3 converged" in fit.summary()


def test_every_parameter_of_a_composed_fit_has_its_unit():
    lenses = simulate("model_i_fair", 2, seed=1)
    units = {each.name: each.unit for each in fit_smooth(lenses.images, "model_i_fair").columns()}
    assert {"lens_theta_E", "source_R_sersic", "source_flux"} <= units.keys()
    bare = {"e1", "e2", "gamma1", "gamma2", "n_sersic", "chi2", "converged"}
    without = {name.removesuffix("_error") for name, unit in units.items() if not unit}
    assert all(name.endswith(tuple(bare)) for name in without), without
