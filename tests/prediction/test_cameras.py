"""A cutout's own point-spread function and noise map on the command line."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from astropy.io import fits
from safetensors.torch import save_file

import haloformer
from haloformer.cli import main
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.fitting.channels import Residual
from haloformer.models import create_model
from haloformer.simulation import Simulator, describe_survey
from haloformer.simulation.psf import psf_kernel
from small_survey import small

SURVEY = {
    "name": "bell",
    "lens": [{"kind": "epl", "theta_E": {"log_normal": [1.1, 0.15, 0.8, 1.6]}, "e1": {"normal": [0, 0.1]}}],
    "source": {
        "snr": {"uniform": [15, 40]},
        "light": [{"kind": "sersic", "R_sersic": {"log_normal": [0.2, 0.2, 0.1, 0.5]}, "n_sersic": 1.0}],
    },
}  # fmt: skip
SIDE = 40


@pytest.fixture(scope="module")
def survey():
    return small(**SURVEY)


@pytest.fixture(scope="module")
def model(tmp_path_factory, survey):
    """A small untrained network that sees the smooth fit of a survey whose lenses vary."""
    artefact = tmp_path_factory.mktemp("runs") / "x" / "artefact"
    artefact.mkdir(parents=True)
    residual = Residual(json.dumps(describe_survey(survey)), "original")
    spec = {"name": "vit_nano", "img_size": SIDE, "in_chans": 2, "num_classes": 2, "kwargs": {"depth": 1, "patch_size": 8}}  # fmt: skip
    network = create_model("vit_nano", img_size=SIDE, in_chans=2, num_classes=2, **spec["kwargs"])
    save_file(network.state_dict(), artefact / "weights.safetensors")
    content = {
        "format": 1,
        "model": spec,
        "class_names": ["cdm", "no_sub"],
        "normalization": {"kind": "standard", "statistics": {"mean": [0.0], "std": [0.1]}},
        "image_shape": [1, SIDE, SIDE],
        "survey": "bell",
        "noise": "original",
        "residual": residual.to_dict(),
        "pixel_scale": survey.instrument.pixel_scale,
    }
    (artefact / "artefact.json").write_text(json.dumps(content))
    return str(artefact.parent)


@pytest.fixture(scope="module")
def lenses(survey):
    return Simulator(survey, seed=9).batch(range(3))


@pytest.fixture(scope="module")
def camera(survey):
    """A point-spread function, and a noise map for each image."""
    maps = np.full((3, SIDE, SIDE), 0.05, np.float32)
    maps[1] *= 2
    return psf_kernel(survey.with_camera(psf_fwhm=0.25).instrument), maps


@pytest.fixture
def folder(tmp_path, lenses, camera, monkeypatch):
    """Three images as FITS, as files of their own and as extensions, and what belongs to them."""
    monkeypatch.chdir(tmp_path)
    psf, maps = camera
    fits.PrimaryHDU(psf).writeto("psf.fits")
    fits.PrimaryHDU(maps).writeto("noises.fits")
    fits.PrimaryHDU(maps[0]).writeto("noise.fits")
    fits.PrimaryHDU(lenses.images[:, 0].numpy()).writeto("cube.fits")
    for name in ("images", "noises", "together"):
        (tmp_path / name).mkdir()
    for k, (image, sigma) in enumerate(zip(lenses.images[:, 0].numpy(), maps)):
        fits.PrimaryHDU(image).writeto(f"images/{k}.fits")
        fits.PrimaryHDU(sigma).writeto(f"noises/{k}.fits")
        np.save(f"noises/{k}_rms.npy", sigma)
        parts = [fits.ImageHDU(image, name="SCI"), fits.ImageHDU(sigma, name="ERR")]
        parts.append(fits.ImageHDU(psf, name="PSF"))
        fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(f"together/{k}.fits")
    return tmp_path


def answers(*arguments):
    code = main(["predict", *map(str, arguments), "--out", "p.csv", "--overwrite"])
    with open("p.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return code, rows


@pytest.mark.parametrize(
    ("images", "options"),
    [
        ("images", ["--psf", "psf.fits", "--noise_map", "noises"]),
        ("images", ["--psf", "psf.fits", "--noise_map", "noises/*_rms.npy"]),
        ("cube.fits", ["--psf", "psf.fits", "--noise_map", "noises.fits"]),
        ("together", ["--psf", "hdu:PSF", "--noise_map", "hdu:err"]),
        ("together", ["--psf", "together", "--noise_map", "together"]),
        ("cube.fits", ["--psf", "psf.fits", "--noise_map", "noises.fits", "--shard_size", "2", "--batch_size", "2"]),
    ],
)  # fmt: skip
def test_files_bring_their_own_camera_along(model, folder, lenses, camera, images, options):
    psf, maps = camera
    wanted = haloformer.load(model, "cpu").probabilities(lenses.images, psf=psf, noise_map=maps)
    code, rows = answers(model, images, *options)
    assert code == 0
    found = [float(row["p_cdm"]) for row in rows]
    np.testing.assert_allclose(found, wanted[:, 0], rtol=1e-4)
    _, plain = answers(model, images)
    assert max(abs(float(row["p_cdm"]) - p) for row, p in zip(plain, found)) > 1e-3


def test_python_takes_the_same_files(model, folder, camera, lenses):
    found = haloformer.predict(model, "images", psf="psf.fits", noise_map="noises", device="cpu")
    _, rows = answers(model, "images", "--psf", "psf.fits", "--noise_map", "noises")
    assert found.to_table()["p_cdm"][0] == pytest.approx(float(rows[0]["p_cdm"]))
    with pytest.raises(InputError, match="psf is an array"):
        haloformer.predict(model, "images", psf=camera[0], device="cpu")
    with pytest.raises(InputError, match="noise_map is a file, and the images are in memory"):
        haloformer.predict(model, lenses.images, noise_map="noise.fits", device="cpu")


def test_noise_that_is_not_known_in_memory_leaves_its_pixels_out(model, folder, camera, lenses):
    maps = camera[1].copy()
    maps[:, 5:9, 20] = 0
    for k, sigma in enumerate(maps):
        fits.PrimaryHDU(sigma).writeto(f"noises/{k}.fits", overwrite=True)
    how = {"nan": "mask", "device": "cpu", "raw": True}
    wanted = haloformer.predict(model, "images", psf="psf.fits", noise_map="noises", **how)
    hidden = np.ma.masked_array(camera[1], mask=maps == 0)
    for given in (maps, hidden, np.where(maps == 0, np.nan, maps)):
        found = haloformer.predict(model, lenses.images, psf=camera[0], noise_map=given, **how)
        assert np.allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    one = haloformer.predict(model, lenses.images[0], psf=camera[0], noise_map=hidden[0], **how)
    assert np.allclose(one.probabilities, wanted.probabilities[:1], atol=1e-5)
    with pytest.raises(InputError, match="noise_map holds values that are not positive numbers"):
        haloformer.predict(model, lenses.images, psf=camera[0], noise_map=hidden, device="cpu")


def test_a_dataset_brings_its_own(model, folder, lenses, camera):
    psf, maps = camera
    write_dataset("own.h5", lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes)  # fmt: skip
    with h5py.File("own.h5", "r+") as file:
        file["calibration/psf"] = psf.astype(np.float32)
        file["calibration/noise_map"] = maps[0]
    _, rows = answers(model, "own.h5")
    wanted = haloformer.load(model, "cpu").probabilities(lenses.images, psf=psf, noise_map=maps[0])
    np.testing.assert_allclose([float(row["p_cdm"]) for row in rows], wanted[:, 0], rtol=1e-4)


def test_of_images_that_are_resampled_a_dataset_brings_none(model, folder, lenses, camera):
    psf, maps = camera
    write_dataset("lenses.h5", lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes)  # fmt: skip
    _, before = answers(model, "lenses.h5", "--pixel_scale", "0.06")
    with h5py.File("lenses.h5", "r+") as file:
        file["calibration/psf"] = psf.astype(np.float32)
        file["calibration/noise_map"] = maps[0]
    _, rows = answers(model, "lenses.h5", "--pixel_scale", "0.06")
    assert [row["p_cdm"] for row in rows] == [row["p_cdm"] for row in before]


def test_an_evaluation_takes_the_images_own_camera_too(model, folder, survey, camera):
    psf, maps = camera
    two = {"classes": ("cdm", "no_sub")}
    lenses = Simulator(survey, seed=9, **two).batch(range(3))
    write_dataset("own.h5", lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes)  # fmt: skip
    with h5py.File("own.h5", "r+") as file:
        file["calibration/psf"] = psf.astype(np.float32)
        file["calibration/noise_map"] = maps[0]
    predictor = haloformer.load(model, "cpu")

    def tested(data, *options):
        shutil.rmtree("tested", ignore_errors=True)
        assert main(["evaluate", model, "--data", str(data), "--out", "tested", *options]) == 0
        with open("tested/predictions.csv", encoding="utf-8", newline="") as file:
            return [float(row["p_cdm"]) for row in csv.DictReader(file)]

    wanted = predictor.probabilities(lenses.images, psf=psf, noise_map=maps[0])
    np.testing.assert_allclose(tested("own.h5"), wanted[:, 0], rtol=1e-4)
    # and a survey that is simulated with another one
    wide = describe_survey(survey.with_camera(psf_fwhm=0.25))
    del wide["substructure"]["axion"]
    Path("wide.yaml").write_text(yaml.safe_dump(wide))
    images = Simulator("wide.yaml", seed=77).batch(range(4)).images
    wanted = predictor.probabilities(images, psf=psf)
    found = tested("wide.yaml", "--n", "4", "--seed", "77")
    np.testing.assert_allclose(found, wanted[:, 0], rtol=1e-4)
    plain = predictor.probabilities(images)[:, 0]
    assert np.abs(np.asarray(plain) - found).max() > 1e-4


def test_a_noise_map_that_is_a_weight_by_its_name_is_refused(model, folder, capsys):
    fits.PrimaryHDU(np.ones((SIDE, SIDE)), fits.Header([("EXTNAME", "WHT")])).writeto("wht.fits")
    command = ["predict", str(model), "images/0.fits", "--noise_map", "wht.fits", "--out", "p.csv"]
    assert main(command) == 2
    assert "is a weight by its name" in capsys.readouterr().err


def test_one_bad_noise_map_is_a_row_that_says_so(model, folder, camera, lenses):
    maps = camera[1].copy()
    maps[1, 3, 4:6] = 0, np.nan
    fits.PrimaryHDU(maps[1]).writeto("noises/1.fits", overwrite=True)
    fits.PrimaryHDU(maps[2, 1:]).writeto("noises/2.fits", overwrite=True)
    code, rows = answers(model, "images", "--noise_map", "noises")
    assert code == 1
    assert not rows[0]["error"]
    assert rows[0]["class"]
    assert "holds 2 pixels that are not positive numbers" in rows[1]["error"]
    assert "39×40" in rows[2]["error"].replace(" × ", "×")
    _, rows = answers(model, "images", "--noise_map", "noises", "--nan", "mask")
    assert not rows[1]["error"]  # both pixels are left out
    image = lenses.images[1:2].clone()
    image[0, 0, 3, 4:6] = float("nan")
    predictor = haloformer.load(model, "cpu")
    wanted = predictor.answers(image, masked=True, noise_map=np.full((SIDE, SIDE), 0.1))
    assert float(rows[1]["p_cdm"]) == pytest.approx(float(wanted.probabilities[0, 0]), rel=1e-4)


def test_a_larger_cutout_is_cut_and_a_smaller_one_framed_with_its_noise(
    model, folder, survey, lenses, camera
):
    scale = ["--pixel_scale", str(survey.instrument.pixel_scale)]
    image, sigma = lenses.images[0, 0].numpy(), camera[1][0]
    _, (inner,) = answers(model, "images/0.fits", "--noise_map", "noise.fits", *scale)
    fits.PrimaryHDU(np.pad(image, 4)).writeto("large.fits")
    fits.PrimaryHDU(np.pad(sigma, 4, constant_values=9.0)).writeto("large_noise.fits")
    _, (cut,) = answers(model, "large.fits", "--noise_map", "large_noise.fits", *scale)
    assert float(cut["p_cdm"]) == pytest.approx(float(inner["p_cdm"]), rel=1e-4)
    fits.PrimaryHDU(image[3:-3, 3:-3]).writeto("small.fits")
    fits.PrimaryHDU(sigma[3:-3, 3:-3]).writeto("small_noise.fits")
    code, (framed,) = answers(model, "small.fits", "--noise_map", "small_noise.fits", *scale)
    assert code == 0
    assert not framed["error"]
    other = ["--pixel_scale", str(1.3 * survey.instrument.pixel_scale)]
    code, (row,) = answers(model, "images/0.fits", "--noise_map", "noise.fits", *other)
    assert code == 1
    assert "noise of resampled pixels" in row["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--psf", "nowhere.fits"], "psf nowhere.fits does not exist"),
        (["--noise_map", "hdu:RMS"], "has no extension 'RMS'"),
        (["--noise_map", "noises.fits"], "holds 3 maps for the 1 images"),
        (["--psf", "even.fits"], "odd number"),
        (["--psf", "wide.fits"], "more than the 40×40 that are fitted"),
        (["--psf", "nan.fits"], "NaN or infinite"),
    ],
)
def test_what_serves_no_image_ends_the_command(model, folder, capsys, options, message):
    for name, psf in (("even", np.ones((4, 4))), ("wide", np.ones((51, 51))), ("nan", np.full((3, 3), np.nan))):  # fmt: skip
        fits.PrimaryHDU(psf).writeto(f"{name}.fits")
    assert main(["predict", model, "together/0.fits", *options, "--out", "p.csv"]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert not (folder / "p.csv").exists()


def test_a_psf_that_does_not_add_up_to_one_is_said(model, folder, camera, capsys):
    fits.PrimaryHDU(3 * camera[0]).writeto("bright.fits")
    _, (row,) = answers(model, "images/0.fits", "--psf", "bright.fits")
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("adds up to 3") == 1  # though it is read more than once
    _, (right,) = answers(model, "images/0.fits", "--psf", "psf.fits")
    assert float(row["p_cdm"]) == pytest.approx(float(right["p_cdm"]), rel=1e-4)


def test_a_model_without_a_fit_says_that_they_are_of_no_use(original_run, folder, capsys):
    arguments = ["predict", str(original_run), "images/0.fits", "--psf", "psf.fits", "--out", "p.csv"]  # fmt: skip
    assert main(arguments) == 2
    assert "of no use to this model" in " ".join(capsys.readouterr().err.split())
    assert main(["predict", "model_ii", *arguments[2:]]) == 2
    assert "its camera is always the same" in " ".join(capsys.readouterr().err.split())


def test_a_noise_map_is_brought_to_the_unit_of_its_image(model, folder, lenses, camera):
    image, sigma = lenses.images[0, 0].numpy(), camera[1][0]
    fits.PrimaryHDU(image, fits.Header({"BUNIT": "Jy"})).writeto("jy.fits")
    fits.PrimaryHDU(1000 * sigma, fits.Header({"BUNIT": "mJy"})).writeto("mjy.fits")
    fits.PrimaryHDU(sigma, fits.Header({"BUNIT": "counts"})).writeto("counts.fits")
    _, (plain,) = answers(model, "images/0.fits", "--noise_map", "noise.fits")
    _, (found,) = answers(model, "jy.fits", "--noise_map", "mjy.fits")
    assert float(found["p_cdm"]) == pytest.approx(float(plain["p_cdm"]), rel=1e-4)
    code, (refused,) = answers(model, "jy.fits", "--noise_map", "counts.fits")
    assert code == 1
    assert "counts.fits is in ct, the image in Jy" in refused["error"]
