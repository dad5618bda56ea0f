"""What the page is made of: composed lenses, choice of a model, what files say, fits, pictures with axes and bars."""

import itertools
import json
import re
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from haloformer.app import answers, examples, lenses, parts, pictures
from haloformer.app.carried import Carried, carried
from haloformer.app.known import Models
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.fitting.reallens.files import LensFiles
from haloformer.fitting.reallens.run import Options
from haloformer.trial.run import IMAGES, LENS


@pytest.fixture(scope="module")
def models():
    return Models("model_i", "cpu")


# --- simulated lenses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("survey", ["hst", "euclid", "jwst", "model_i_fair"])
def test_a_composed_lens_stands_beside_the_same_without_substructure(survey):
    for class_name in ("axion", "cdm"):
        lens = lenses.compose(survey, class_name, noise="none")
        assert np.abs(lens.difference).max() > 0
        np.testing.assert_allclose(lens.image - lens.smooth, lens.difference, atol=1e-6)
    plain = lenses.compose(survey, "no_sub", noise="none")
    assert not plain.difference.any()
    np.testing.assert_array_equal(plain.image, lens.smooth)  # one lens for all classes


@pytest.mark.parametrize(
    ("survey", "class_name", "dial", "value"),
    [
        ("hst", "cdm", "theta_E", 0.9),
        ("hst", "cdm", "gamma", 1.8),
        ("euclid", "cdm", "shear", 0.2),
        ("euclid", "cdm", "shear_angle", 90),
        ("jwst", "cdm", "multipoles", 3),
        ("hst", "cdm", "snr", 40),
        ("hst", "cdm", "log10_Sigma_sub", -0.5),
        ("hst", "axion", "log10_m_axion", -22.5),
        ("model_i_fair", "axion", "vortex_angle", 90),
        ("model_i_fair", "cdm", "n_subhalos", 5),
        ("model_i_fair", "cdm", "slope", -1.5),
        ("hst", "cdm", "draw", 1),
    ],
)
def test_a_composed_lens_follows_the_sliders_that_are_shown(survey, class_name, dial, value):
    assert dial in lenses.dials_of(survey, class_name)
    one, other = (
        lenses.compose(survey, class_name, noise="none", **changed)
        for changed in ({}, {dial: value})
    )
    assert not np.array_equal(one.image, other.image)


def test_sliders_that_are_not_shown_change_nothing():
    hidden = {"log10_m_axion": -22, "vortex_angle": 10, "n_subhalos": 3, "slope": -2}
    assert not hidden.keys() & lenses.dials_of("hst", "cdm")
    one, other = lenses.compose("hst", "cdm"), lenses.compose("hst", "cdm", **hidden)
    np.testing.assert_array_equal(one.image, other.image)


def test_a_composed_lens_takes_less_than_a_second_once_compiled():
    lenses.compose("hst", "cdm")
    began = time.perf_counter()
    lenses.compose("hst", "cdm", gamma=1.9)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "wrong", [{"survey": "model_i"}, {"class_name": "x"}, {"gamma": 9}, {"snr": float("nan")}, {"shear": None}]
)  # fmt: skip
def test_settings_of_composed_lenses_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        lenses.compose(**wrong)


# --- models and files -------------------------------------------------------------------------------------------------


def test_models_are_found_by_survey_and_few_are_kept(original_run, run):
    models = Models(str(original_run), "cpu", most_loaded=2)
    assert models.first == "x"
    assert models.of_survey("model_ii", "instrument") == "model_ii_instrument"
    assert models.of_survey("model_ii", "original", "x") == "x"
    assert models.of_survey("hst") is None
    first = models.get("x")
    assert models.get("x") is first
    for name in ("model_i", "model_iii"):
        models.get(name)
    assert models.get("x") is not first
    for unknown in ("nothing", None, "../x", 3):
        with pytest.raises(InputError):
            models.get(unknown)
    with pytest.raises(InputError):
        Models(str(run / "none"), "cpu")


def test_a_file_says_its_survey(dataset, tmp_path, lenses):
    from astropy.io import fits

    assert carried(dataset) == Carried("model_ii", "original")
    assert carried(IMAGES / "model_i_cdm.fits") == Carried("model_i", None, "cdm")
    for name, survey in (("a", "<script>"), ("b", "x" * 65), ("c", 3)):
        header = fits.Header({"SURVEY": survey})
        fits.writeto(tmp_path / f"{name}.fits", np.zeros((4, 4), np.float32), header)
    (tmp_path / "d.fits").write_bytes(b"no image")
    (tmp_path / "e.h5").write_bytes(b"no dataset")
    np.save(tmp_path / "f.npy", np.zeros((4, 4)))
    plain = {"class_names": lenses.class_names, "parameters": {}}
    write_dataset(tmp_path / "g.h5", lenses.images[:1], lenses.labels[:1], **plain)
    found = sorted(tmp_path.iterdir())
    assert len(found) >= 7
    assert all(carried(path) == Carried() for path in found if path.is_file() and path != dataset)


def test_an_image_has_a_residual_and_axes_of_its_pixel_scale(models):
    found = answers.classify(models.get("model_i"), IMAGES / "model_i_cdm.fits")
    assert found.class_name == "cdm"
    assert found.pixel_scale == 0.05
    assert found.residual.shape == (96, 96)
    assert 0.5 < np.nanstd(found.residual) < 2  # in units of the noise
    seen = parts.seen(found, "asinh", 99.5, 1)
    assert seen.count("<img") == 3
    assert "Residual of the smooth fit" in seen
    assert "−2″" in seen


def test_examples_say_their_truth(models):
    found, name, said = examples.simulated(models, "model_i", seed=7)
    assert name == "model_i"
    assert f"its true class is {('axion', 'cdm', 'no_sub')[7 % 3]}" in said
    assert found.image.shape == (150, 150)
    found, name, said = examples.hst(models, "model_i")
    assert found.class_name == "unknown"
    assert found.warning
    assert "hst" in said


def test_a_file_goes_to_the_model_of_its_survey_and_another_may_be_asked(models, tmp_path):
    pytest.importorskip("gradio")
    import shutil

    from haloformer.app import classify_tab
    from haloformer.app.limits import Uploads

    path = tmp_path / "lens.fits"
    shutil.copy(IMAGES / "model_i_cdm.fits", path)
    fields = [0, 0, "asinh", 99.5, 1]
    uploads = Uploads(tmp_path, 900)
    shown = classify_tab._upload(models, uploads, str(path), *fields, "model_ii", routed=True)
    found, told, *_, model = shown
    assert model["value"] == "model_i"
    assert "the file says that it is of model_i, and that its class is cdm" in told
    kept, told, *_ = classify_tab._by_another(models, uploads, found, None, *fields, "model_ii")
    assert kept is found
    assert "takes images of another size" in told
    found, _, _ = examples.simulated(models, "model_ii", seed=1)
    fields = [*fields, "model_ii_instrument"]
    other, told, *_ = classify_tab._by_another(models, uploads, found, None, *fields)
    np.testing.assert_array_equal(other.image, found.image)
    assert "Answered by the model model_ii_instrument" in told


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_axes_have_a_few_round_values_about_the_middle():
    assert parts.axis_ticks(7.5, "″") == [
        (0.5 - 2 / 7.5, "−2″"),
        (0.5, "0″"),
        (0.5 + 2 / 7.5, "2″"),
    ]
    for length in (0.3, 1, 3, 6.4, 7.5, 64, 1000):
        ticks = parts.axis_ticks(length, "")
        assert 3 <= len(ticks) <= 5
        assert all(0 <= place <= 1 for place, _ in ticks)


@pytest.mark.parametrize("stretch", pictures.STRETCHES)
def test_a_colour_bar_has_the_values_of_its_picture(stretch):
    image = np.linspace(-1, 9, 10_001).reshape(73, 137)
    bar = pictures.light_bar(image, "counts/s", stretch, 100)
    colours = pictures.light(image, stretch, 100).reshape(-1, 3).astype(int)
    for place, text in bar.ticks:
        shown = colours[np.abs(image.ravel() - float(text.replace("−", "-"))).argmin()]
        there = bar.colours[round(place * (len(bar.colours) - 1))].astype(int)
        assert np.abs(shown - there).max() < 12, text


def test_pixels_without_a_residual_are_grey():
    colours = pictures.departure(np.array([[np.nan, 0.0, 5.0, -5.0]]))[0].astype(int)
    assert set(colours[0]) == {127}
    assert colours[1].min() > 240
    assert colours[2][0] > colours[2][2]
    assert colours[3][0] < colours[3][2]


# --- colours ----------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [":root", ".dark"])
def test_colours_of_the_page_have_enough_contrast(scheme):
    css = resources.files("haloformer.app").joinpath("page.css").read_text(encoding="utf-8")
    block = re.search(rf"^{re.escape(scheme)} {{(.*?)}}", css, re.DOTALL | re.MULTILINE)[1]
    colours = dict(re.findall(r"--hf-([\w-]+): (#\w{6})", block))
    for text, behind in itertools.product(("ink", "quiet", "accent"), ("card",)):
        assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    assert contrast(colours["ink"], colours["warn"]) >= 4.5
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fits_of(tmp_path):
    pytest.importorskip("gradio")
    from haloformer.app.fits import Fits

    (tmp_path / "fits").mkdir()
    runner = Fits(tmp_path / "fits")
    yield runner
    runner.close()
    assert list((tmp_path / "fits").iterdir()) == []


def task(**changed):
    from haloformer.app.fits import Task

    image, psf, noise_map = (str(IMAGES / name) for name in LENS)
    return Task(LensFiles(image, psf, noise_map, **{"radius": 2.1, **changed}), Options())


def test_one_fit_runs_at_a_time_and_its_owner_cancels_it(fits_of):
    steps = fits_of.run(task(), "a")
    next(steps)
    with pytest.raises(InputError, match="another fit is running"):
        next(fits_of.run(task(), "b"))
    assert not fits_of.cancel("b")
    assert fits_of.cancel("a")
    others = fits_of.run(
        task(), "b"
    )  # at once, though nobody has asked for the next step of the first
    next(others)
    with pytest.raises(InputError, match="was cancelled"):
        list(steps)
    next(others)  # the end of the first is not its end
    others.close()
    assert not fits_of.cancel("a")


def test_a_cancelled_fit_is_told_as_such_and_not_as_an_error(fits_of):
    from haloformer.app import fit_tab

    shown = fit_tab._fitted(fits_of, task, "a")
    next(shown)
    assert fits_of.cancel("a")
    *_, (told, result, *_) = shown
    assert "The fit was cancelled." in told
    assert "hf-alert" not in told
    assert result == ""


def test_numbers_that_cannot_be_are_told_by_the_field_that_they_are_in(fits_of):
    from haloformer.app import classify_tab, fit_tab, simulate_tab
    from haloformer.app.uploading import number_field, slider_field

    files = {"image": "a.fits", "psf": "b.fits", "noise_map": None, "mask": None}
    field = number_field("Radius")
    for value in (-3, "text", 1e9):
        given = field.preprocess(value)  # no error of gradio's
        with pytest.raises(InputError, match=r"^the radius must lie between 0 and 10000, not "):
            fit_tab._task(files, 0, 0, given, 0, 0, True, "no")
    for module in (classify_tab, fit_tab, simulate_tab):
        assert not re.search(r"gr\.(Number|Slider)\(", Path(module.__file__).read_text("utf-8"))
    assert slider_field(0, 1, 0).preprocess(-5) == -5


def test_sliders_reach_no_farther_than_what_is_drawn(fits_of):
    from haloformer.app import simulate_tab

    for survey, most in (("model_i", -22), ("model_i_fair", -21.5), ("model_ii", -22)):
        moved = dict(zip(simulate_tab._SLIDERS, simulate_tab._moved(survey, "axion", {})))
        assert moved["log10_m_axion"]["maximum"] == most


def test_a_fit_that_cannot_be_is_told_in_words(fits_of, tmp_path, bombs, capsys):
    from haloformer.app import fit_worker, fits

    np.save(tmp_path / "psf.npy", np.ones((3, 3)))
    np.save(tmp_path / "flat.npy", np.ones((40, 40)))
    flat = LensFiles(str(tmp_path / "flat.npy"), str(tmp_path / "psf.npy"))
    fits.write_task(tmp_path, fits.Task(flat, Options()))
    fit_worker.main(tmp_path)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with pytest.raises(
        InputError, match=r"^flat\.npy does not say its pixel scale: give it in its field"
    ):
        fits._result(tmp_path / "result", lines, 1.0)
    bomb = next(path for path in sorted(bombs.iterdir()) if ".fits" in path.name)
    with pytest.raises(InputError, match="unpacks to more"):
        next(fits_of.run(fits.Task(LensFiles(str(bomb), str(bomb)), Options()), "a"))


def test_a_fit_tells_how_far_it_is_and_brings_table_figure_and_files(monkeypatch, capsys, tmp_path):
    pytest.importorskip("gradio")
    from haloformer.app import fit_worker, fits
    from haloformer.fitting.reallens import start
    from small_lens import SCALE, TRUTH, lens

    for name, value in (("_COARSE_SIDE", 12), ("_BROAD_SIDE", 9), ("_SLOPES", (2.08,))):
        monkeypatch.setattr(start, name, value)  # as in the tests of the fit itself
    image, given = lens(lens_light=False)
    arrays = {"image": image, "psf": given["psf"], "noise": np.full(image.shape, given["noise"])}
    paths = [str(tmp_path / f"{name}.npy") for name in arrays]
    for path, array in zip(paths, arrays.values(), strict=True):
        np.save(path, array)
    coarse = Options(lens_light=False, supersampling=1, source_step=SCALE)
    fits.write_task(tmp_path, fits.Task(LensFiles(*paths, radius=1.6), coarse, SCALE))
    fit_worker.main(tmp_path)  # what the process does
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    progress = fits._progress(1.0, lines)
    assert progress.pixels > 100
    assert len(progress.steps) > 1
    assert np.isfinite([evidence for _, evidence in progress.steps]).all()
    result = fits._result(tmp_path / "result", lines, 1.0)
    table = dict(result.rows)
    assert abs(float(table["theta_E"].split()[0]) - TRUTH["theta_E"]) < 0.02
    assert result.files.keys() == {"fit.png", *fits.DOWNLOADS}
    assert result.files["fit.fits"].startswith(b"SIMPLE")
    assert str(tmp_path) not in result.files["fit.html"].decode()


def test_a_fit_of_too_many_pixels_is_refused_before_it_begins(monkeypatch, tmp_path):
    from haloformer.app import fit_worker

    monkeypatch.setattr(fit_worker, "MOST_PIXELS", 5000)
    image, psf, noise_map = (str(IMAGES / name) for name in LENS)
    files = {"image": image, "psf": psf, "noise_map": noise_map, "mask": None, "radius": 2.1}
    described = {"files": files, "options": {}, "pixel_scale": None}
    with pytest.raises(InputError, match=r"5,544 pixels count, and the page fits at most 5,000"):
        fit_worker._fit(described, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_page_says_names_no_options_and_a_finer_psf_is_taken():
    pytest.importorskip("gradio")
    from haloformer.app import fit_tab
    from haloformer.app.given import on_the_page

    said = on_the_page("the noise is 0.30 correlated (--neighbour_correlation 0: it does not)")
    assert said == "the noise is 0.30 correlated"
    said = on_the_page("a.fits: correct it, or give --pixel_scale")
    assert said == "a.fits: correct it, or give it in its field"
    said = on_the_page("a.fits: 3 are NaN, --nan zero reads it (in Python nan='mask')")
    assert said == (
        "a.fits: 3 are NaN, --nan zero reads it (the page has no such options, the commands have)"
    )
    assert on_the_page(said) == said
    files = {"image": "a.fits", "psf": "b.fits", "noise_map": None, "mask": None}
    task = fit_tab._task(files, 0.05, 0.025, 0, 0, 0, True, "no")
    assert (task.files.psf_scale, task.pixel_scale, task.files.radius) == (0.025, 0.05, None)
    with pytest.raises(InputError, match="the side of the PSF's pixels"):
        fit_tab._task(files, 0.05, 11.0, 0, 0, 0, True, "no")
