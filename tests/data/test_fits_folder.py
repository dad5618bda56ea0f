"""FITS cutouts of simulated lenses, and what a name says of the format."""

import csv

import numpy as np
import pytest
from astropy.io import fits

from haloformer.cli import main
from haloformer.data import LensDataset, convert
from haloformer.data.fits_folder import write_fits_folder
from haloformer.errors import InputError
from haloformer.fitting.reallens.files import LensFiles, read_observation
from haloformer.readers.reading import Reading
from haloformer.simulation import Simulator, get_any_survey


def simulated(out, more=()):
    words = ["simulate", "model_i_fair", "--n", "4", "--seed", "5", "--format", "fits"]
    return main([*words, "--out", str(out), *more])


def test_the_pixels_and_all_that_is_known_of_them_come_back(tmp_path):
    assert simulated(tmp_path / "lenses") == 0
    batch = Simulator("model_i_fair", seed=5).batch(range(4))
    with open(tmp_path / "lenses" / "parameters.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for k, row in enumerate(rows):
        with fits.open(tmp_path / "lenses" / row["file"]) as hdus:
            header = hdus[0].header
            np.testing.assert_array_equal(hdus[0].data, batch.images[k, 0].numpy())
            assert hdus["PSF"].data.sum() == pytest.approx(1, abs=1e-5)
        assert header["CLASS"] == row["class"] == batch.class_names[int(batch.labels[k])]
        assert (header["SEED"], header["SURVEY"], header["BUNIT"]) == (5, "model_i_fair", batch.attributes["image_unit"])  # fmt: skip
        assert header["PIXSCALE"] == batch.attributes["pixel_scale"]
        assert header["lens_theta_E"] == float(batch.parameters["lens_theta_E"][k])
        assert header["Z_LENS"] == float(row["z_lens"])


def test_a_unit_that_is_not_ascii_is_written(tmp_path):
    simulator = Simulator("model_ii", seed=5)
    assert simulator.attributes["image_unit"] == "2 × counts/s"
    n, out = 3, tmp_path / "lenses"
    about = {"class_names": simulator.class_names, "attributes": simulator.attributes}
    write_fits_folder([simulator.batch(range(n))], out, n=n, **about)
    headers = [fits.getheader(path) for path in out.glob("*/*.fits")]
    assert {header["BUNIT"] for header in headers} == {"2 x counts/s"}


def test_the_exposure_time_is_that_of_all_exposures(tmp_path):
    words = ["simulate", "hst", "--n", "1", "--format", "fits", "--out", str(tmp_path / "hst")]
    assert main(words) == 0
    (path,) = (tmp_path / "hst").glob("*/*.fits")
    header, camera = fits.getheader(path), get_any_survey("hst").instrument
    assert header["exposure_time"] == camera.exposure_time == 522
    assert header["NCOMBINE"] == camera.num_exposures == 4
    assert header["EXPTIME"] == 4 * 522  # as of drizzled images


def test_a_cameras_own_noise_map_comes_along_as_the_fit_takes_it(tmp_path):
    sigma = np.linspace(0.005, 0.006, 64 * 64, dtype=np.float32).reshape(64, 64)
    fits.writeto(tmp_path / "noise.fits", sigma)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "base: ladder_1_camera\n"
        f"instrument: {{base: hst_acs_f814w, num_pix: 64, noise_map: {tmp_path}/noise.fits}}\n"
    )
    words = ["simulate", str(recipe), "--n", "1", "--format", "fits", "--out"]
    assert main([*words, str(tmp_path / "lenses")]) == 0
    (path,) = (tmp_path / "lenses").glob("*/*.fits")
    files = LensFiles(str(path), "hdu:PSF", "hdu:NOISE", neighbour_correlation=0.0)
    np.testing.assert_array_equal(read_observation(files, Reading()).noise, sigma)


def test_they_are_what_the_fit_of_a_real_lens_and_convert_take(tmp_path):
    assert simulated(tmp_path / "lenses") == 0
    path = next((tmp_path / "lenses" / "cdm").iterdir())
    seen = read_observation(LensFiles(str(path), "hdu:PSF", neighbour_correlation=0.0), Reading())
    survey = Simulator("model_i_fair").survey
    assert seen.pixel_scale == pytest.approx(survey.instrument.pixel_scale)
    convert(tmp_path / "lenses", tmp_path / "x.h5")
    with LensDataset(tmp_path / "x.h5") as dataset:
        assert len(dataset) == 4


def test_a_folder_of_ours_is_replaced_if_asked_and_no_other(tmp_path, capsys):
    out = tmp_path / "lenses"
    assert simulated(out) == 0
    assert simulated(out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert simulated(out, ["--overwrite"]) == 0
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not overwritten"):
        write_fits_folder([], out, class_names=["cdm"], attributes={}, overwrite=True)
    assert (out / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("out", "format", "message"),
    [
        ("x.fits", "hdf5", "--format fits"),
        ("x.npy", "hdf5", "--format deeplense"),
        ("x.fits", "fits", "without .fits"),
        ("x.h5", "deeplense", "without .h5"),
    ],
)
def test_a_name_that_says_another_format_is_refused(tmp_path, capsys, out, format, message):
    words = ["simulate", "model_ii", "--n", "3", "--out", str(tmp_path / out), "--format", format]
    for more in ([], ["--dry_run"]):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
