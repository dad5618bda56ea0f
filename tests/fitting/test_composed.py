"""The smooth fit of composed surveys: derivatives, kernel and tensors, recovery, and what is not there."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

import haloformer
from haloformer.errors import InputError
from haloformer.fitting import fit_smooth
from haloformer.fitting.channels import Residual, own_camera
from haloformer.fitting.composed import ComposedFitter, as_named
from haloformer.fitting.composed import fitter as fitting
from haloformer.fitting.composed.camera import FitCamera
from haloformer.fitting.composed.columns import log_gamma, sharp_columns
from haloformer.fitting.composed.names import LOGARITHMIC, MULTIPOLES, NAMES
from haloformer.fitting.composed.tensors import BY_TENSORS, TensorCamera
from haloformer.fitting.fitted import FittedSimulator
from haloformer.prediction.export import export_model
from haloformer.simulation import Simulator, describe_survey, get_any_survey
from haloformer.simulation.components import EPL, Multipoles, PseudoJaffe, Sersic, Shear
from haloformer.simulation.components.ray_kernels import observe, trace_back
from haloformer.simulation.psf import psf_kernel
from haloformer.training import train
from small_survey import small

pytest.importorskip("numba")

BELL = {
    "lens": [
        {
            "kind": "epl",
            "theta_E": {"log_normal": [1.1, 0.15, 0.8, 1.6]},
            **{name: {"normal": [0, 0.1]} for name in ("e1", "e2")},
            **{name: {"normal": [0, 0.03]} for name in ("x", "y")},
        },
        {"kind": "shear", "gamma1": {"normal": [0, 0.05]}, "gamma2": {"normal": [0, 0.05]}},
    ],
    "source": {
        "snr": {"uniform": [15, 40]},
        "light": [
            {"kind": "sersic", "R_sersic": {"log_normal": [0.2, 0.2, 0.1, 0.5]}, "n_sersic": 1.0}
        ],
    },
}


@pytest.fixture(scope="module")
def survey():
    return small(name="bell", **BELL)


@pytest.fixture(scope="module")
def fitter(survey):
    return ComposedFitter(survey).prepare()


@pytest.fixture(scope="module")
def smooth(survey):
    return Simulator(survey, seed=7, classes=["no_sub"]).batch(range(64))


@pytest.fixture(scope="module")
def fit(fitter, smooth):
    return fitter(smooth.images, detail=True)


# --- derivatives ------------------------------------------------------------------------------------------------------


def brightness(values: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """Surface brightness in float64 by the components of the simulation, the multipoles' axis at an angle of its own."""
    given = {name: torch.tensor([value]) for name, value in zip(NAMES, values)}
    x, y = torch.broadcast_tensors(
        torch.tensor(axis)[None, None, :], torch.tensor(axis)[None, :, None]
    )
    lens = {k: given[f"lens_{k}"] for k in ("theta_E", "gamma", "e1", "e2", "x", "y")}
    c = torch.hypot(lens["e1"], lens["e2"])
    turned = {"e1": c * np.cos(2 * angle), "e2": c * np.sin(2 * angle)}
    strength = {name.removeprefix("multipoles_"): given[name] for name in MULTIPOLES}
    parts = [
        EPL.deflection(x, y, lens),
        Shear.deflection(x, y, {k: given[k] for k in ("gamma1", "gamma2")}),
        Multipoles.deflection(x, y, {**lens, **turned, **strength}),
    ]
    alpha_x, alpha_y = (sum(part[k] for part in parts) for k in (0, 1))
    source = {k: given[f"source_{k}"] for k in ("R_sersic", "n_sersic", "e1", "e2")}
    zero = torch.zeros(1, dtype=torch.float64)
    found = Sersic().brightness(
        x - alpha_x - given["source_x"], y - alpha_y - given["source_y"], {**source, "x": zero, "y": zero}
    )  # fmt: skip
    return (found * given["source_flux"])[0].numpy()


def some_lens(gamma: float, e1: float, e2: float, multipole: float) -> np.ndarray:
    named = dict.fromkeys(NAMES, 0.0) | {
        "lens_theta_E": 1.2, "lens_gamma": gamma, "lens_e1": e1, "lens_e2": e2, "lens_x": 0.013, "lens_y": -0.021, "gamma1": 0.03,
        "gamma2": -0.04, "source_x": 0.1, "source_y": -0.15, "source_R_sersic": 0.2, "source_n_sersic": 1.3, "source_e1": 0.1,
        "source_e2": 0.2, "source_flux": 15.0, "exposure_time": 1.0,
    }  # fmt: skip
    named |= {name: multipole * (-1) ** k for k, name in enumerate(MULTIPOLES)}
    return np.array([named[name] for name in NAMES])


@pytest.mark.parametrize(
    ("lens", "tolerance"),
    [
        (some_lens(2.0, 0.1, -0.05, 0.0), 2e-4),
        (some_lens(2.25, -0.2, 0.1, 0.01), 2e-4),
        # Nearly round: its axis is known to few of float32's digits.
        (some_lens(1.7, 3e-4, 1e-4, 0.01), 3e-3),
    ],
)
def test_derivatives_are_those_of_finite_differences(lens, tolerance):
    from haloformer.fitting.composed import kernel

    axis = (np.arange(150) - 74.5) * 0.025  # more than a tile
    angle = 0.5 * np.arctan2(lens[NAMES.index("lens_e2")], lens[NAMES.index("lens_e1")])
    wanted = np.arange(len(NAMES) - 1)
    out = np.empty((len(NAMES), 150, 150), np.float32)
    scratch = np.zeros(kernel.SCRATCH, np.float32)
    kernel.sharp_columns(
        lens, (np.cos(angle), np.sin(angle)), wanted, axis, np.empty((3, kernel.TERMS)), scratch, scratch.view(np.int32), out
    )  # fmt: skip
    by_tensors = sharp_columns(torch.tensor(lens)[None], wanted.tolist(), torch.tensor(axis))[0]
    seen = np.hypot(axis[None, :], axis[:, None]) > 0.15
    here = brightness(lens, axis, angle)
    assert np.abs(out[0] - here)[seen].max() < 2e-5 * here.max()
    for k in wanted:
        there = []
        for step in (1e-5, -1e-5):
            moved = lens.copy()
            moved[k] = moved[k] * np.exp(step) if NAMES[k] in LOGARITHMIC else moved[k] + step
            there.append(brightness(moved, axis, angle))
        slope = (there[0] - there[1]) / 2e-5
        size = np.abs(slope[seen]).max()
        assert np.abs(out[k + 1] - slope)[seen].max() < tolerance * size, NAMES[k]
        assert np.abs(by_tensors[k + 1].numpy() - slope)[seen].max() < tolerance * size, NAMES[k]


def test_gamma_function_is_that_of_the_library():
    x = torch.linspace(0.6, 12, 50, dtype=torch.float64)
    log, slope = log_gamma(x)
    torch.testing.assert_close(log, torch.lgamma(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope, torch.digamma(x), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["ladder_3_multipoles", "model_i_fair"])
def test_the_model_is_the_image_that_the_survey_simulates(name):
    lenses = Simulator(name, seed=3, classes=["no_sub"], noise="none").batch(range(3))
    fitter = ComposedFitter(lenses_survey := get_any_survey(name))
    named = as_named(lenses_survey, lenses.parameters)
    u = np.stack([np.log(named[k]) if k in LOGARITHMIC else named[k] for k in NAMES], axis=1)
    camera = FitCamera.of(lenses_survey.instrument, fitter.size)
    for method in (fitter._method(torch.device("cpu")), BY_TENSORS):
        found = method.render(fitter.problem, torch.from_numpy(u), camera)
        apart = (found - lenses.images[:, 0]).abs().amax((1, 2)) / found.amax((1, 2))
        assert apart.max() < 1e-3  # the point-spread function is cut to fewer terms


# --- fits -------------------------------------------------------------------------------------------------------------


def test_smooth_lenses_are_recovered(survey, smooth, fit):
    assert fit.names == tuple(name for name in NAMES if name in fit.names)
    assert {"lens_theta_E", "lens_e1", "gamma2", "source_x", "source_flux"} < set(fit.names)
    assert "lens_gamma" not in fit.names
    assert fit.converged.double().mean() > 0.95
    assert fit.chi2.mean() == pytest.approx(1, abs=0.02)
    named = as_named(survey, smooth.parameters)
    truth = torch.from_numpy(np.stack([named[name] for name in fit.names], axis=1))
    pulls = ((fit.values - truth) / fit.errors)[fit.converged]
    assert (pulls.mean(0).abs() < 0.5).all(), pulls.mean(0)
    assert ((pulls.std(0) > 0.7) & (pulls.std(0) < 1.35)).all(), pulls.std(0)


def test_other_starts_end_at_the_same_place(fitter, smooth, fit, monkeypatch):
    monkeypatch.setattr(fitting, "_STARTS", 1)
    other = fitter(smooth.images[:32])
    both = fit.converged[:32] & other.converged
    assert both.double().mean() > 0.9
    apart = ((other.values - fit.values[:32]).abs() / fit.errors[:32]).amax(1)[both]
    assert apart.max() < 0.1


@pytest.mark.parametrize(
    ("name", "size"), [("model_i_fair", 64), ("ladder_3_multipoles", 56), ("hst", 56)]
)
def test_tensors_and_kernel_agree(name, size, monkeypatch):
    images = Simulator(name, seed=5).batch(range(4)).images
    margin = (images.shape[-1] - size) // 2
    images = images[..., margin:-margin, margin:-margin].contiguous()
    kernel = ComposedFitter(get_any_survey(name), size=size).prepare()
    compiled = kernel(images, detail=True)
    fine = kernel._images(images, None)
    u = kernel._begin(kernel._method(torch.device("cpu")), kernel._coarse(fine), 1)
    ends = [
        method.fit(kernel.problem, fine, u[:, None], 2, 2)[0]
        for method in (kernel._method(torch.device("cpu")), BY_TENSORS)
    ]
    finished = [
        method.finish(kernel.problem, fine, ends[0], True)
        for method in (kernel._method(torch.device("cpu")), BY_TENSORS)
    ]
    errors = torch.linalg.inv(finished[0].hessian).diagonal(dim1=1, dim2=2).sqrt()
    free = torch.from_numpy(kernel.problem.free)
    assert ((ends[0] - ends[1])[:, free].abs() / errors).max() < 0.02
    for name_ in ("mean", "variance", "residual", "detail", "hessian", "middle"):
        one, other = (getattr(each, name_) for each in finished)
        scale = one.abs().amax(tuple(range(1, one.ndim)), keepdim=True)
        assert ((one - other).abs() / scale).max() < 2e-3, name_
    assert torch.isfinite(compiled.residual).all()


def test_correlated_noise_is_in_the_errors():
    survey = get_any_survey("ladder_1_camera").with_camera(num_pix=56, noise_correlation=0.16)
    white = survey.with_camera(noise_correlation=None)
    images = Simulator(survey, seed=2, classes=["no_sub"]).batch(range(4)).images
    errors = [fit_smooth(images, each).errors for each in (survey, white)]
    ratio = (errors[0] / errors[1]).median()
    assert 1.3 < ratio < 1.75  # (1 + 2a)² / (1 + 2a²) = 1.66 of what changes slowly


def test_bounds_and_priors_come_from_the_survey(survey):
    problem = ComposedFitter(survey).problem
    mean, inverse, low, high, _ = problem.prior[:, NAMES.index("gamma1")]
    assert abs(mean) < 0.005
    assert inverse**-0.5 == pytest.approx(0.05, rel=0.05)
    assert low < -0.2 < 0.2 < high
    flat = ComposedFitter(small()).problem
    number = NAMES.index("lens_theta_E")
    assert flat.prior[1, number] == 0  # uniform
    assert flat.prior[2, number] < 0 < np.log(1.4) < flat.prior[3, number]
    assert "gamma1" not in flat.names


def test_a_narrow_prior_holds_what_it_is_of(survey, smooth, fit):
    narrow = dataclasses.replace(
        survey, lens=(survey.lens[0], Shear(gamma1={"normal": [0, 1e-4]}, gamma2={"normal": [0, 0.05]}))
    )  # fmt: skip
    held = fit_smooth(smooth.images[:8], narrow)
    k = held.names.index("gamma1")
    assert held.values[:, k].abs().max() < 5e-4
    assert held.errors[:, k].max() < 1.01e-4 < fit.errors[:8, k].min()


def test_what_is_known_of_a_cutout_is_used(survey):
    wide = survey.with_camera(psf_fwhm=0.25)
    images = Simulator(wide, seed=4, classes=["no_sub"]).batch(range(8)).images
    wrong = fit_smooth(images, survey)
    right = fit_smooth(images, survey, psf=psf_kernel(wide.instrument))
    assert right.chi2.median() < 1.05 < wrong.chi2.median()
    sigma = np.full((40, 40), 0.02)
    mapped = fit_smooth(images, survey, psf=psf_kernel(wide.instrument), noise_map=sigma)
    assert torch.allclose(mapped.sigma, torch.full_like(mapped.sigma, 0.02))
    each = fit_smooth(images, survey, noise_map=np.stack([sigma] * 8), batch_size=3)
    one = fit_smooth(images, survey, noise_map=sigma)
    assert torch.allclose(each.residual, one.residual, atol=1e-3)


@pytest.mark.parametrize("large", [np.inf, 1e30, 1e3])
def test_pixels_of_endless_noise_are_unknown_ones(survey, smooth, large):
    images = smooth.images[:4].clone()
    sigma = np.full((40, 40), 0.05)
    sigma[:30] = large  # most of the map
    masked = fit_smooth(images, survey, noise_map=sigma)
    array = np.ma.masked_array(np.full_like(sigma, 0.05), mask=sigma == large)
    assert torch.equal(fit_smooth(images, survey, noise_map=array).values, masked.values)
    images[:, :, :30] = torch.nan
    unknown = fit_smooth(images, survey, noise_map=0.05)
    assert torch.allclose(masked.chi2, unknown.chi2, atol=1e-3)
    assert torch.allclose(masked.values, unknown.values, atol=1e-3)
    assert torch.isfinite(masked.sigma).all()
    assert not masked.residual[:, :, :30].any()
    nothing = fit_smooth(smooth.images[:2], survey, noise_map=np.inf)
    assert torch.isfinite(nothing.chi2).all()
    assert not nothing.converged.any()


@pytest.mark.filterwarnings("error")
def test_numbers_lists_and_arrays_are_as_good_as_tensors(survey, smooth):
    images = smooth.images[:3]
    array, each = images.numpy().copy(), np.full((3, 40, 40), 0.05)
    array.flags.writeable = each.flags.writeable = False
    wanted = fit_smooth(
        images, survey, noise_map=torch.full((40, 40), 0.05), exposure_time=torch.full((3,), 522.0)
    )
    for seconds, sigma in (
        (522.0, 0.05),
        ([522.0] * 3, each),
        (np.full(3, 522), each.astype(">f4")),
    ):
        found = fit_smooth(array, survey, noise_map=sigma, exposure_time=seconds)
        assert torch.allclose(found.values, wanted.values, atol=1e-4)
        fitter = ComposedFitter(survey, exposure_known=True)
        found = fitter(array, seconds, noise_map=sigma)
        assert torch.allclose(found.values, wanted.values, atol=1e-4)


def test_a_lens_may_lie_elsewhere_along_one_axis_alone(survey, smooth):
    problem = ComposedFitter(survey).problem
    for axis, other in (("x", "y"), ("y", "x")):
        fitter = ComposedFitter(survey, free_place=(f"place_{axis}",))
        moved, kept = (NAMES.index(f"lens_{each}") for each in (axis, other))
        assert fitter.problem.prior[1, moved] == 0 < problem.prior[1, kept]
        assert np.array_equal(fitter.problem.prior[:, kept], problem.prior[:, kept])
    images = smooth.images[:16]
    here, there = (
        ComposedFitter(survey, free_place=("place_x",))(each)
        for each in (images, images.roll(4, 3))
    )
    k = here.names.index("lens_x")
    shift = (there.values[:, k] - here.values[:, k]) / survey.instrument.pixel_scale
    assert (shift - 4).abs().median() < 0.2


def test_a_lens_that_was_cut_out_elsewhere_is_found(survey, smooth):
    moved = smooth.images.roll((2, -3), (2, 3))  # what leaves on one side enters on the other
    residual = Residual(
        json.dumps(describe_survey(survey)), "original", detail=True, fit_place=True
    )
    here, there = residual.look(smooth.images), residual.look(moved)
    shift = there.places - here.places
    right = (shift - torch.tensor([-3.0, 2.0, 0.0])).abs().amax(1) < 0.2
    assert right.double().mean() > 0.85
    assert there.chi2[right].median() < 1.1


def test_detail_takes_out_what_changes_the_lens_as_a_whole(survey, smooth, fit):
    galaxy = dataclasses.replace(survey.source, snr=150.0)
    lopsided = dataclasses.replace(
        survey, source=galaxy, lens=(*survey.lens, Multipoles(amplitude=2.0))
    )
    images = Simulator(lopsided, seed=7, classes=["no_sub"]).batch(range(32)).images
    seen = fit_smooth(images, survey, detail=True)
    excess = seen.residual.square().mean((1, 2, 3)) - 1
    left = seen.detail.square().mean((1, 2, 3)) - 1
    assert excess.mean() > 0.05
    assert left.mean() < 0.5 * excess.mean()
    lost = fit.residual.square().sum((1, 2, 3)) - fit.detail.square().sum((1, 2, 3))
    assert lost.min() > -1
    assert lost.mean() < 12  # six multipoles and a slope, with priors


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e30, -1e30, -1.0])
def test_images_without_a_lens_are_no_lens(fitter, value):
    found = fitter(torch.full((2, 1, 40, 40), value), detail=True)
    assert not found.converged.any()
    for each in (found.values, found.errors, found.model, found.residual, found.detail, found.chi2):
        assert torch.isfinite(each).all()


def test_noise_is_no_lens_and_one_bad_image_changes_no_other(fitter, smooth, fit):
    noise = torch.randn(32, 1, 40, 40, generator=torch.Generator().manual_seed(1)) * 0.01
    assert not fitter(noise).converged.any()
    images = smooth.images[:3].clone()
    images[1] = float("nan")
    images[2, 0, :3, :] = float("nan")
    found = fitter(images)
    assert torch.allclose(found.values[0], fit.values[0], rtol=1e-4, atol=1e-5)
    assert not found.converged[1]
    assert (found.residual[2, 0, :3] == 0).all()


def test_no_images_are_no_error(fitter):
    assert fitter(torch.zeros(0, 1, 40, 40), detail=True).residual.shape == (0, 1, 40, 40)


@pytest.mark.parametrize(
    ("name", "noise", "message"),
    [
        ("model_iv_fair", "instrument", "has bands g, r, i"),
        ("model_i_fair", "loud", "unknown noise mode"),
    ],
)
def test_what_the_fit_does_not_know_is_named(name, noise, message):
    with pytest.raises(InputError, match=message):
        ComposedFitter(get_any_survey(name), noise=noise)


def test_lenses_that_the_fit_does_not_know_are_named():
    for changes, message in (
        ({"lens_light": {"mode": "present"}}, "lens_light is present"),
        ({"lens_of_class": {"no_sub": [{"kind": "shear", "gamma1": 0.1}]}}, "different lenses"),
        ({"lens": [{"kind": "epl"}, {"kind": "pseudo_jaffe"}]}, "does not know pseudo_jaffe"),
    ):
        changes = {**changes, "substructure": {"no_sub": [], "other": []}}
        with pytest.raises(InputError, match=message):
            ComposedFitter(small(**changes))


def test_arguments_that_cannot_be_are_one_line(survey, smooth):
    images = smooth.images[:2]
    for options, message in (
        ({"psf": np.ones((4, 4))}, "odd number"),
        ({"psf": np.ones((3, 3, 3))}, r"psf has shape"),
        ({"psf": np.pad(np.ones((1, 1)), 25)}, "more than the image"),
        ({"noise_map": np.ones((5, 5))}, "noise_map has shape"),
        ({"noise_map": np.zeros((40, 40))}, "not positive"),
        ({"noise_map": np.full((40, 40), np.nan)}, "not positive"),
        ({"noise_map": np.ones((3, 40, 40))}, "3 maps for 2 images"),
        ({"place": (0.5, 0.5, 0.0)}, "use free_place"),
        ({"free_place": ("place_scale",)}, "place_scale cannot be told"),
        ({"free_place": ("place_z",)}, "free_place"),
        ({"free_place": "place_x"}, "must be a tuple of names"),
        ({"free_place": ("place_x", "place_x")}, "each once"),
        ({"noise_map": "none"}, "noise_map must be real numbers, not str"),
        ({"noise_map": -1.0}, "not positive"),
        ({"noise_map": [[1.0], [1.0, 2.0]]}, "noise_map must be real numbers"),
        ({"psf": "hst"}, "psf must be real numbers"),
        ({"exposure_time": "522"}, "exposure_time must be real numbers"),
        ({"exposure_time": [522.0]}, "2 positive numbers"),
        ({"exposure_time": -1.0}, "2 positive numbers"),
    ):
        with pytest.raises(InputError, match=message):
            fit_smooth(images, survey, **options)
    counts = dataclasses.replace(survey, original_noise="double_poisson")
    with pytest.raises(InputError, match="no map describes"):
        fit_smooth(images, counts, noise_map=np.ones((40, 40)))
    with pytest.raises(InputError, match="its camera is always the same"):
        fit_smooth(torch.zeros(1, 1, 64, 64), "model_ii", noise_map=np.ones((64, 64)))
    with pytest.raises(InputError, match="smaller by an even number"):
        fit_smooth(torch.zeros(1, 1, 39, 39), survey)


# --- as channels ------------------------------------------------------------------------------------------------------


def test_channels_are_those_of_the_fit_and_come_with_simulated_images(survey, fitter):
    residual = Residual(json.dumps(describe_survey(survey)), "original", detail=True)
    assert Residual.from_dict(json.loads(json.dumps(residual.to_dict()))) == residual
    made = FittedSimulator(Simulator(survey, seed=3), residual).batch(range(6))
    assert made.images.shape == (6, 3, 40, 40)
    fit = fitter(made.images[:, :1].contiguous(), detail=True)
    assert torch.allclose(made.images[:, 1:2], fit.residual.clamp(-8, 8), atol=2e-3)
    assert torch.allclose(made.images[:, 2:], fit.detail.clamp(-8, 8), atol=2e-3)
    own = residual.look(made.images[:, :1], noise_map=np.full((40, 40), 0.03))
    assert own.channels[:, 1:].square().mean() < 0.3 * made.images[:, 1:].square().mean()


def test_a_file_says_what_camera_its_images_have(survey):
    residual = Residual(json.dumps(describe_survey(survey)), "original")
    own = {"psf": psf_kernel(survey.instrument).astype(np.float32)}
    assert own_camera(residual, own) == {}
    wide = {"psf": psf_kernel(survey.with_camera(psf_fwhm=0.25).instrument)}
    other = own_camera(residual, {**wide, "noise_map": np.ones((40, 40))})
    assert set(other) == {"psf", "psf_oversampling", "noise_map"}
    images = Simulator(survey.with_camera(psf_fwhm=0.25), seed=4).batch(range(4)).images
    del other["noise_map"]
    looks = [residual.look(images, **each).chi2.median() for each in (other, {})]
    assert looks[0] < looks[1]
    plain = Residual(json.dumps(describe_survey(get_any_survey("model_ii"))), "instrument")
    assert own_camera(plain, wide) == {}


def test_a_file_whose_rays_are_others_has_the_same_camera_all_the_same(survey):
    residual = Residual(json.dumps(describe_survey(survey)), "original")
    before = survey.with_camera(supersampling=2)
    file = {"psf": psf_kernel(before.instrument)}
    definition = json.dumps(describe_survey(before))
    assert own_camera(residual, file, definition) == {}
    wide = {"psf": psf_kernel(before.with_camera(psf_fwhm=0.25).instrument)}
    assert own_camera(residual, wide, definition)["psf_oversampling"] == 2
    rays = survey.instrument.supersampling or 1
    for nothing in (
        None,
        "",
        "{",
        "[]",
        '{"instrument": 3}',
        '{"instrument": {"supersampling": 99}}',
    ):
        assert own_camera(residual, wide, nothing)["psf_oversampling"] == rays


def test_a_model_is_trained_on_them_and_answers_with_a_cutouts_own_noise(tmp_path, survey):
    path = tmp_path / "bell.yaml"
    path.write_text(yaml.safe_dump(describe_survey(survey)))
    small_model = {"stem_channels": [8, 8, 8, 8], "embed_dim": 32, "depth": 1}
    train(
        str(path), out=str(tmp_path / "run"), physics="detail", epochs=1, epoch_size=48, batch_size=16, val_size=30, device="cpu",
        progress=False, model_args=small_model,
    )  # fmt: skip
    predictor = haloformer.load(str(tmp_path / "run"), device="cpu")
    assert predictor.artefact["model"]["in_chans"] == 3
    images = Simulator(survey, seed=9).batch(range(3)).images
    plain, own = predictor.look(images), predictor.look(images, noise_map=np.full((40, 40), 0.05))
    assert torch.equal(plain.channels[:, :1], own.channels[:, :1])
    assert own.channels[:, 1].std() < 0.5 * plain.channels[:, 1].std()
    told = predictor.probabilities(images, noise_map=np.full((40, 40), 0.05))
    assert told.shape == (3, 3)
    assert not torch.equal(told, predictor.probabilities(images))
    each = np.full((3, 40, 40), 0.05)  # a map for each, in batches as in one
    for noise_map, size in ((each[0], 256), (each, 256), (each, 2)):
        found = predictor(images, noise_map=noise_map, batch_size=size)
        np.testing.assert_allclose(found.probabilities, told, rtol=1e-4)
    with pytest.raises(InputError, match="5 maps for 3 images"):
        predictor(images, noise_map=np.ones((5, 40, 40)))
    with pytest.raises(InputError, match="cannot be exported"):
        export_model(predictor, tmp_path / "x.pt2", format="torch_export")


@pytest.mark.parametrize("name", ["hst", "euclid", "rubin"])  # 3, 5 and 7 rays a pixel
def test_pixels_are_traced_back_to_the_rays_that_they_show(name):
    camera = FitCamera.of(get_any_survey(name).instrument, 24)
    random = np.random.default_rng(3)
    pixels = random.normal(size=(24, 24)).astype(np.float32)
    blur = camera.columns
    light = random.uniform(size=(1, 24 * blur.rays, 24 * blur.rays)).astype(np.float32)
    shown, back = np.empty((1, 24, 24), np.float32), np.empty(light.shape[1:], np.float32)
    weights = blur.across, blur.down, blur.radius, blur.rays, np.float32(camera.pixel_scale**2)
    observe(light, *weights, shown)
    trace_back(pixels, *weights, back)
    size = float(np.linalg.norm(shown) * np.linalg.norm(pixels))
    assert (shown[0] * pixels).sum() == pytest.approx((light[0] * back).sum(), abs=1e-6 * size)
    by_tensors = TensorCamera(camera, torch.device("cpu"))
    torch.testing.assert_close(
        by_tensors.trace_back(torch.from_numpy(pixels)[None])[0], torch.from_numpy(back), rtol=1e-4, atol=1e-6
    )  # fmt: skip


def test_a_fit_of_a_sersic_profile_to_other_sources_takes_no_more_rays_than_that_profile_needs():
    def rays(name):
        return ComposedFitter(get_any_survey(name)).camera.supersampling

    assert {n: rays(n) for n in ("hst", "jwst", "euclid", "rubin")} == {
        "hst": 2,
        "jwst": 2,
        "euclid": 3,
        "rubin": 6,
    }
    assert (
        rays("ladder_3_multipoles") == 2
    )  # those of its camera, as its sources are what is fitted
    fine = {
        "base": "ladder_3_multipoles",
        "instrument": {"base": "hst_acs_f814w", "supersampling": 5},
    }
    assert rays(fine) == 5


@pytest.mark.parametrize("name", ["hst", "euclid", "jwst", "rubin"])
def test_the_camera_for_derivatives_shows_a_point_as_the_whole_one_does(name):
    camera = FitCamera.of(get_any_survey(name).instrument, 40)

    def shown(blur, row, column):
        point = np.zeros((1, 40 * blur.rays, 40 * blur.rays), np.float32)
        point[0, row, column] = 1
        out = np.empty((1, 40, 40), np.float32)
        observe(point, blur.across, blur.down, blur.radius, blur.rays, 1.0, out)
        return out[0]

    rays = len(camera.image.axis)
    place = rays // 2 + 1, rays // 2 - 4  # off the middle, so that a wrong radius shows
    whole, fast = (shown(blur, *place) for blur in (camera.image, camera.columns))
    assert fast.sum() == pytest.approx(whole.sum(), rel=0.01)
    assert np.abs(fast - whole).sum() < 0.07 * whole.sum()
    assert camera.columns.across.size < camera.image.across.size
    # The quick one has one ray a pixel, and less far out, but in the same place.
    assert camera.quick.rays == 1
    assert camera.quick.across.size < camera.columns.across.size
    pixel = [slice(k * camera.image.rays, (k + 1) * camera.image.rays) for k in (22, 15)]
    whole, quick = shown(camera.image, *pixel), shown(camera.quick, 22, 15)
    assert quick.sum() == pytest.approx(whole.sum(), rel=0.01)
    assert np.abs(quick - whole).sum() < 0.6 * whole.sum()
    rows, columns = np.indices(quick.shape)
    for axis in (rows, columns):
        assert (quick * axis).sum() / quick.sum() == pytest.approx(
            (whole * axis).sum() / whole.sum(), abs=0.1
        )


def test_surveys_with_components_of_ones_own_are_fitted(survey, smooth):
    @dataclasses.dataclass(frozen=True)
    class Own(PseudoJaffe):
        kind: str = dataclasses.field(default="own", kw_only=True)

    own = dataclasses.replace(survey, substructure={"cdm": (Own(mass=1e9),), "no_sub": ()})
    found = fit_smooth(smooth.images[:2], own)
    wanted = fit_smooth(smooth.images[:2], survey)
    assert torch.equal(found.values, wanted.values)
    assert found.to_table().meta["survey"] == survey.name
