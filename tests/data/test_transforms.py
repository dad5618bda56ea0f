"""Augmentation: other views of the same lens, and other observations of it."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from haloformer.data.augment import draw_transforms, transform
from haloformer.data.transforms import (
    ERASED_AREA,
    Augmentation,
    NoiseModel,
    _resample,
    augment_images,
    draw_exposures,
    draw_noise,
    noise_model,
)
from haloformer.errors import InputError
from haloformer.simulation import Simulator, describe_survey, get_survey, render
from haloformer.simulation.instruments import background_rms

VIEWS = Augmentation(rotation=180, shift=3, zoom=0.2)


def _blob(height, width, x, y, sigma=2.0, batch=1):
    """A round Gaussian of peak 1, (batch, 1, height, width); x, y in pixels from the centre."""
    rows = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64)[None, :] - (width - 1) / 2
    return (
        torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        .expand(batch, 1, -1, -1)
        .clone()
    )


def _centroids(images):
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=images.dtype) - (height - 1) / 2
    columns = torch.arange(width, dtype=images.dtype) - (width - 1) / 2
    flux = images.sum((1, 2, 3))
    return (images.sum((1, 2)) @ columns / flux).numpy(), (images.sum((1, 3)) @ rows / flux).numpy()


def _rng(seed=0):
    return np.random.default_rng(seed)


def _turned(p, angle, mirrored=False):
    """The parameters of the same lenses turned by an angle (from the x towards the y axis), then mirrored in x."""
    q = dict(p)
    c, s, flip = np.cos(angle), np.sin(angle), -1 if mirrored else 1
    for x, y in (
        ("lens_x", "lens_y"),
        ("source_x", "source_y"),
        ("vortex_x", "vortex_y"),
        ("subhalo_x", "subhalo_y"),
    ):
        q[x], q[y] = flip * (c * p[x] - s * p[y]), s * p[x] + c * p[y]
    c, s = np.cos(2 * angle), np.sin(2 * angle)
    for e1, e2 in (("lens_e1", "lens_e2"), ("source_e1", "source_e2"), ("gamma1", "gamma2")):
        q[e1], q[e2] = c * p[e1] - s * p[e2], flip * (s * p[e1] + c * p[e2])
    q["vortex_angle"] = (
        np.pi - (p["vortex_angle"] + angle) if mirrored else p["vortex_angle"] + angle
    )
    return q


@pytest.fixture(scope="module")
def clean():
    """Noise-free lenses of each survey in float64, by name."""
    return {
        name: Simulator(name, seed=5, noise="none", dtype=torch.float64, backend="torch").batch(
            range(24)
        )
        for name in ("model_i", "model_ii")
    }


# The label stays true


@pytest.mark.parametrize("code", range(1, 8))
def test_a_transformed_lens_is_the_lens_of_the_transformed_deflector_source_and_substructure(
    clean, code
):
    lenses = clean["model_ii"]
    # a counter-clockwise turn on a screen, where rows run downwards, goes from the y axis to the x axis
    parameters = _turned(lenses.parameters, -np.pi / 2 * (code % 4), mirrored=code >= 4)
    truth = render(get_survey("model_ii"), parameters)[:, None]
    images = transform(lenses.images, np.full(24, code))
    assert (images - truth).abs().max() < 1e-9 * truth.max()


def test_an_interpolated_turn_shows_the_turned_lens_within_two_percent_and_keeps_its_flux(clean):
    lenses = clean["model_i"]
    u = _rng(1).random((24, 4))
    images = _resample(lenses.images, Augmentation(rotation=180), u)
    truth = render(
        get_survey("model_i"), _turned_each(lenses.parameters, np.pi * (2 * u[:, 0] - 1))
    )[:, None]
    error = (images - truth).square().sum((1, 2, 3)) / truth.square().sum((1, 2, 3))
    assert (
        error.sqrt().median() < 0.02
    )  # what the lens itself differs by when unturned: 0.3 and more
    assert (images.sum((1, 2, 3)) / truth.sum((1, 2, 3)) - 1).abs().max() < 0.005


def test_a_zoomed_lens_is_the_lens_of_more_mass_and_of_a_lighter_axion(clean):
    lenses, survey, f = clean["model_i"], get_survey("model_i"), 1.15
    p = dict(lenses.parameters)
    for name in (
        "lens_theta_E",
        "source_x",
        "source_y",
        "source_R_sersic",
        "subhalo_x",
        "subhalo_y",
    ):
        p[name] = p[name] * f
    p["vortex_half_length"] = p["vortex_half_length"] * f  # ∝ 1/m: log10 m falls by log10 f
    for name in ("vortex_mass", "subhalo_mass"):
        p[name] = p[name] * f**2
    camera = dataclasses.replace(survey.instrument, psf_fwhm=survey.instrument.psf_fwhm * f)
    truth = render(dataclasses.replace(survey, instrument=camera), p)[:, None]
    images = _resample(
        lenses.images, Augmentation(zoom=f - 1), np.full((24, 4), [0.5, 0.5, 0.5, 1.0])
    )
    error = (images - truth).square().sum((1, 2, 3)) / truth.square().sum((1, 2, 3))
    assert error.sqrt().median() < 0.02


def _turned_each(parameters, angles):
    rows = [
        _turned({name: values[i : i + 1] for name, values in parameters.items()}, angle)
        for i, angle in enumerate(angles)
    ]
    return {name: np.concatenate([row[name] for row in rows]) for name in parameters}


# Views


def test_without_rotation_shift_and_zoom_every_pixel_value_survives():
    images = torch.randn(32, 2, 9, 9)
    assert augment_images(images, Augmentation("none"), _rng()) is images
    expected = transform(images, draw_transforms("d4", 32, _rng(4)))
    assert torch.equal(augment_images(images, Augmentation(), _rng(4)), expected)


def test_the_same_generator_gives_the_same_views_in_any_precision():
    images = _blob(32, 32, 6, -3, batch=16)
    everything = dataclasses.replace(VIEWS, erasing=0.5)
    views = augment_images(images, everything, _rng(2))
    assert torch.equal(views, augment_images(images, everything, _rng(2)))
    assert not torch.equal(views, augment_images(images, everything, _rng(3)))
    torch.testing.assert_close(
        augment_images(images.float(), everything, _rng(2)).double(), views, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("shape", [(40, 40), (40, 64), (64, 40)])
def test_shifts_are_uniform_in_fractions_of_a_pixel_along_both_axes(shape):
    images = _blob(*shape, 2, 1, batch=500)
    x, y = _centroids(augment_images(images, Augmentation("none", shift=4), _rng(5)))
    for moved in (x - 2, y - 1):
        assert stats.kstest(moved, stats.uniform(-4, 8).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


@pytest.mark.parametrize("shape", [(48, 48), (48, 64), (64, 48)])
def test_turns_are_uniform_about_the_centre_even_of_a_rectangle(shape):
    images = _blob(*shape, 12, 0, batch=500)
    x, y = _centroids(augment_images(images, Augmentation("none", rotation=30), _rng(6)))
    assert np.hypot(x, y) == pytest.approx(12, abs=0.05)
    assert stats.kstest(np.degrees(np.arctan2(y, x)), stats.uniform(-30, 60).cdf).pvalue > 1e-3


def test_zoom_keeps_surface_brightness_and_is_log_uniform():
    images = _blob(64, 64, 0, 0, sigma=4, batch=500)
    views = augment_images(images, Augmentation("none", zoom=0.25), _rng(7))
    assert views.amax((1, 2, 3)).numpy() == pytest.approx(float(images.max()), abs=0.02)
    factor = (views.sum((1, 2, 3)) / images.sum((1, 2, 3))).sqrt().log().numpy()
    limit = np.log(1.25)
    assert stats.kstest(factor, stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3


def test_rotation_zoom_and_shift_together_are_one_motion_in_that_order():
    u = np.array([[0.75, 0.9, 0.2, 0.8]])
    x, y = _centroids(_resample(_blob(64, 64, 9, 4, sigma=3), VIEWS, u))
    factor, (dx, dy) = 1.2**0.6, (2.4, -1.8)  # a quarter turn takes (9, 4) to (−4, 9)
    assert (x[0], y[0]) == pytest.approx((-4 * factor + dx, 9 * factor + dy), abs=0.05)


def test_no_frame_enters_on_any_pedestal():
    images = torch.full((64, 1, 20, 28), 1000.0)
    views = augment_images(images, Augmentation("flips", 180, 9, 1.0), _rng(8))
    torch.testing.assert_close(views, images, atol=0.01, rtol=0)


def test_no_second_lens_is_mirrored_into_the_corners():
    lens = _blob(64, 64, 0, 0, sigma=4, batch=200)
    views = augment_images(lens, Augmentation("none", rotation=180, zoom=1.0), _rng(9))
    corners = torch.cat([views[..., :4, :4], views[..., -4:, -4:]], dim=-1)
    assert (
        corners.max() < 1e-3
    )  # a mirrored image of the whole would bring the centre here, of brightness 1


def test_sky_noise_goes_on_beyond_the_edge():
    sky = torch.randn(100, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    views = augment_images(sky, Augmentation("none", rotation=45, zoom=0.3), _rng(10))
    corner, middle = views[..., :3, :3], views[..., 12:20, 12:20]
    assert corner.std() == pytest.approx(float(middle.std()), rel=0.15)


def test_interpolation_makes_nothing_darker_than_the_image_was():
    counts = (
        torch.poisson(torch.full((20, 1, 32, 32), 0.1), generator=torch.Generator().manual_seed(0))
        * 30
    )
    assert augment_images(counts, VIEWS, _rng(11)).min() == 0


def test_erasing_puts_a_rectangle_of_sky_into_some_images_and_leaves_the_rest_alone():
    images = 500 + torch.from_numpy(_rng(1).random((2000, 1, 30, 20)))
    images[..., 10:20, 5:15] += 50
    erased = augment_images(images, Augmentation("none", erasing=0.3), _rng(12))
    changed = (erased != images)[:, 0].numpy()
    touched = changed.any(axis=(1, 2))
    assert touched.mean() == pytest.approx(0.3, abs=0.05)
    areas = changed[touched].sum(axis=(1, 2)) / 600
    assert ERASED_AREA[0] * 0.7 < areas.min() < 0.05
    assert 0.25 < areas.max() < ERASED_AREA[1] * 1.1
    for mask, image in zip(changed[touched], erased[touched, 0].numpy()):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        patch = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert np.ptp(patch) == 0  # a full rectangle of one value
        assert 500.2 < image[mask][0] < 500.8  # the level of the edge, not of the lens
    everywhere = changed.mean(axis=0)
    assert everywhere[0, 0] > 0  # corners, too
    assert augment_images(images, Augmentation("none"), _rng(12)) is images


def test_which_transforms_are_on_does_not_change_the_draws_of_the_others():
    images = _blob(32, 32, 6, -3, batch=64)
    views = augment_images(images, VIEWS, _rng(13))
    also_erased = augment_images(images, dataclasses.replace(VIEWS, erasing=1.0), _rng(13))
    assert ((also_erased == views).double().mean((1, 2, 3)) > 0.5).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augment": "d5"}, "unknown augmentation 'd5': known are d4"),
        (
            {"rotation": 200},
            "augmentation.rotation must be a number between 0 and 180 degrees, not 200",
        ),
        ({"shift": -1}, "augmentation.shift must be a number at least 0 pixels, not -1"),
        ({"shift": float("inf")}, "augmentation.shift"),
        ({"zoom": 2.0}, "augmentation.zoom must be a number between 0 and 1, not 2.0"),
        ({"erasing": float("nan")}, "augmentation.erasing"),
        ({"erasing": True}, "augmentation.erasing"),
        ({"rotation": "90"}, "augmentation.rotation"),
    ],
)
def test_impossible_values_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**fields)


def test_views_that_do_not_fit_the_images_are_refused():
    with pytest.raises(InputError, match="flips"):
        augment_images(torch.zeros(1, 1, 4, 6), Augmentation(), _rng())
    with pytest.raises(InputError, match="half of an image"):
        augment_images(torch.zeros(1, 1, 8, 8), Augmentation(shift=4), _rng())


# Observations


def _observe(name, noise, n=240, seed=11):
    """(noise-free counts, the simulator's noisy images, ours), each (n, H, W)."""
    lenses = Simulator(name, seed=seed, noise="none").batch(range(n))
    model = noise_model(name, noise)
    seconds = torch.as_tensor(lenses.parameters["exposure_time"])
    ours = draw_noise(lenses.images, seconds, model, torch.Generator().manual_seed(0))
    theirs = Simulator(name, seed=seed, noise=noise).batch(range(n)).images
    counts = lenses.images * (seconds * model.num_exposures).float()[:, None, None, None]
    return counts[:, 0].numpy(), theirs[:, 0].numpy(), ours[:, 0].numpy()


@pytest.mark.parametrize(
    ("name", "noise"),
    [("model_i", "original"), ("model_i", "instrument"), ("model_ii", "instrument")],
)
def test_fresh_noise_is_distributed_as_the_simulators_at_every_brightness(name, noise):
    counts, theirs, ours = _observe(name, noise, n=60 if name == "model_i" else 240)
    assert ours.dtype == np.float32
    edges = [0, 0.01, 0.3, 3, 10, 30, 100, 1000, np.inf]
    checked = 0
    for low, high in itertools.pairwise(edges):
        where = (counts >= low) & (counts < high)
        if where.sum() < 1000:
            continue
        a, b = theirs[where].astype(float), ours[where].astype(float)
        error = np.sqrt((a.var() + b.var()) / len(a))
        # Both see the same means, which makes these limits wide: the pixels' own spread is counted twice
        assert abs(a.mean() - b.mean()) < 4 * error, (low, high)
        deviation = np.sqrt(((a - a.mean()) ** 2).var() / len(a) * 2)
        assert abs(a.var() - b.var()) < 4 * deviation, (low, high)
        assert abs((a == 0).mean() - (b == 0).mean()) < 4 * np.sqrt(0.5 / len(a)), (low, high)
        assert stats.ks_2samp(a, b).pvalue > 1e-4, (low, high)
        checked += 1
    assert checked >= 6


def test_fresh_noise_has_the_mean_and_variance_of_one_faint_and_one_bright_pixel():
    model, seconds = noise_model("model_ii", "instrument"), torch.full((400,), 565.0)
    for flux in (0.0002, 0.004, 3.0):
        noisy = draw_noise(
            torch.full((400, 1, 32, 32), flux), seconds, model, torch.Generator().manual_seed(3)
        ).double()
        variance = model.background_rms**2 + flux / 2260
        assert noisy.mean() == pytest.approx(flux, abs=5 * (variance / noisy.numel()) ** 0.5)
        assert noisy.var() == pytest.approx(variance, rel=0.02)
        neighbours = ((noisy[..., 1:] - flux) * (noisy[..., :-1] - flux)).mean() / variance
        assert abs(neighbours) < 0.01


def test_model_i_noise_is_whole_counts_with_as_many_zeros_as_in_the_released_images():
    counts, _, ours = _observe("model_i", "original", n=60)
    assert (ours == np.round(ours)).all()
    assert ours.min() == 0
    assert 0.40 < (ours == 0).mean() < 0.47  # the released images: 42 to 45 %
    assert (ours[counts < 0.01] == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_model_ii_original_is_the_doubled_image_bit_for_bit():
    lenses = Simulator("model_ii", seed=2, noise="none").batch(range(9))
    seconds = torch.as_tensor(lenses.parameters["exposure_time"])
    doubled = draw_noise(
        lenses.images, seconds, noise_model("model_ii", "original"), torch.Generator()
    )
    assert torch.equal(doubled, Simulator("model_ii", seed=2).batch(range(9)).images)


def test_noise_is_new_each_time_and_repeats_with_the_generators_seed():
    images, seconds = torch.rand(4, 1, 16, 16), torch.full((4,), 500.0)
    model, generator = noise_model("model_i", "instrument"), torch.Generator().manual_seed(7)
    first, second = (draw_noise(images, seconds, model, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, draw_noise(images, seconds, model, torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("name", ["model_i", "model_ii", "model_iii"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_another_exposure_has_the_background_of_that_exposure(name, factor):
    camera = get_survey(name).instrument
    seconds = factor * (
        camera.exposure_time if isinstance(camera.exposure_time, float | int) else 2000.0
    )
    dark = draw_noise(
        torch.zeros(100, 1, 32, 32),
        torch.full((100,), float(seconds)),
        noise_model(name, "instrument"),
        torch.Generator().manual_seed(1),
    )
    expected = background_rms(dataclasses.replace(camera, exposure_time=float(seconds)))
    assert dark.std() == pytest.approx(expected, rel=0.015)


def test_flux_below_zero_counts_as_dark():
    images = torch.full((4, 1, 32, 32), -0.5)
    noisy = draw_noise(
        images, torch.full((4,), 1000.0), noise_model("model_i", "original"), torch.Generator()
    )
    assert noisy.isfinite().all()
    assert (noisy >= 0).all()


def test_a_datasets_own_survey_definition_gives_its_noise():
    for name in ("model_i", "model_iii"):
        described = describe_survey(get_survey(name))
        assert noise_model(described, "instrument") == noise_model(name, "instrument")
    assert noise_model("model_i", "original").kind == "double_poisson"
    assert noise_model("model_ii", "original").kind == "doubled"
    assert noise_model("model_ii", "none") is None


def test_impossible_noise_is_named():
    with pytest.raises(InputError, match="unknown noise mode 'orginal': did you mean 'original'"):
        noise_model("model_i", "orginal")
    with pytest.raises(InputError, match="unknown kind of noise 'poisson'"):
        NoiseModel("poisson", 0.01, 1)
    with pytest.raises(InputError, match="exposure_time must be positive"):
        draw_noise(
            torch.zeros(1, 1, 2, 2),
            torch.tensor([np.nan]),
            noise_model("model_i", "original"),
            torch.Generator(),
        )
    for low, high in ((0, 1), (2, 1), (1, np.inf)):
        with pytest.raises(InputError, match="exposure takes two factors"):
            draw_exposures(torch.ones(3), low, high, _rng())


def test_exposure_factors_are_log_uniform_and_their_own_for_each_image():
    seconds = torch.linspace(100, 1000, 4000, dtype=torch.float64)
    drawn = draw_exposures(seconds, 0.25, 4, _rng(14))
    factors = np.log((drawn / seconds).numpy())
    assert stats.kstest(factors, stats.uniform(np.log(0.25), np.log(16)).cdf).pvalue > 1e-3
    assert torch.equal(drawn, draw_exposures(seconds, 0.25, 4, _rng(14)))
    assert torch.equal(draw_exposures(seconds, 1, 1, _rng()), seconds)


@pytest.mark.parametrize(
    ("images", "rng", "said"),
    [
        (np.zeros((2, 1, 8, 8)), np.random.default_rng(0), "not ndarray of float64 (2, 1, 8, 8)"),
        (torch.zeros(2, 8, 8), np.random.default_rng(0), "not Tensor of torch.float32 (2, 8, 8)"),
        (torch.zeros(2, 1, 8, 8).int(), np.random.default_rng(0), "not Tensor of torch.int32"),
        (torch.zeros(2, 1, 8, 8), 0, "rng must be a generator of NumPy"),
        (torch.zeros(2, 1, 8, 8), torch.Generator(), "rng must be a generator of NumPy"),
    ],
)
def test_what_is_augmented_is_told_where_it_is_something_else(images, rng, said):
    with pytest.raises(InputError) as error:
        augment_images(images, Augmentation(rotation=10), rng)
    assert said in str(error.value)


def test_no_images_have_no_views():
    nothing = torch.zeros(0, 1, 8, 8)
    spec = Augmentation(rotation=10, erasing=1.0)
    assert augment_images(nothing, spec, np.random.default_rng(0)).shape == nothing.shape


@pytest.mark.parametrize("seconds", [torch.ones(3, 1), torch.ones(1), torch.tensor(1.0)])
def test_noise_is_drawn_with_one_exposure_for_each_image(seconds):
    with pytest.raises(InputError, match=r"^images .* and exposure times .* do not go together"):
        draw_noise(
            torch.ones(3, 1, 8, 8), seconds, noise_model("model_i", "original"), torch.Generator()
        )
