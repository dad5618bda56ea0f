"""`haloformer fit`: one row per image, the picture, and what is refused."""

import csv
import json

import h5py
import numpy as np
import pytest
import yaml
from astropy.io import votable
from astropy.table import Table

from haloformer.cli import main
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError
from haloformer.fitting import SmoothFitter, fit_smooth, to_table
from haloformer.fitting.command import fit
from haloformer.fitting.to_table import usual_chi2
from haloformer.simulation import describe_survey, get_survey, simulate
from small_survey import small

pytestmark = pytest.mark.usefixtures("opened_at_once")


@pytest.fixture(scope="module")
def lenses():
    return simulate("model_ii", 12, seed=31, noise="instrument")


@pytest.fixture(scope="module")
def dataset(lenses, tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "test.h5"
    write_dataset(
        path, lenses.images, lenses.labels, lenses.parameters, lenses.class_names, lenses.attributes
    )
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_what_fit_smooth_finds_and_the_picture_is_drawn(
    lenses, dataset, tmp_path, capsys
):
    out, figure = tmp_path / "fits.csv", tmp_path / "fits.png"
    arguments = [
        "fit",
        str(dataset),
        "--survey",
        "model_ii",
        "--noise",
        "instrument",
        "--out",
        str(out),
        "--figure",
        str(figure),
    ]
    assert main([*arguments, "--batch_size", "5"]) == 0
    found = fit_smooth(lenses.images, "model_ii", noise="instrument")
    table = rows(out)
    assert [row["index"] for row in table] == [str(i) for i in range(12)]
    assert [float(row["source_x"]) for row in table] == pytest.approx(
        found.values[:, 0].tolist(), abs=1e-5
    )
    assert [float(row["source_y_error"]) for row in table] == pytest.approx(
        found.errors[:, 1].tolist(), rel=1e-3
    )
    assert [float(row["chi2"]) for row in table] == pytest.approx(found.chi2.tolist(), rel=1e-4)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert [row["good_fit"] for row in table] == 12 * ["True"]
    assert "12 good fits, 0 not converged" in capsys.readouterr().out
    assert main(arguments) == 2  # exists already


@pytest.mark.parametrize("suffix", ["vot", "ecsv", "fits"])
def test_a_table_of_fits_says_units_and_survey_and_comes_back(dataset, tmp_path, suffix):
    path = tmp_path / f"fits.{suffix}"
    fit([str(dataset)], survey="model_ii", noise="instrument", out=str(path), progress=False)
    found = Table.read(path)
    assert found["source_x"].unit == found["source_x_error"].unit == "arcsec"
    assert found["good_fit"].dtype == bool
    assert found["index"].tolist() == list(range(12))
    if suffix == "vot":
        infos = {each.name: each.value for each in votable.parse(path).resources[0].infos}
        assert (infos["SURVEY"], infos["NOISE"]) == ("model_ii", "instrument")
    else:
        assert (found.meta["SURVEY"], found.meta["NOISE"]) == ("model_ii", "instrument")
    if suffix != "fits":
        assert found["source_x_error"].description == "error of source_x"


@pytest.fixture(scope="module")
def shapes(lenses, tmp_path_factory):
    """The table of fits of a lens, and of what is none: one of another survey, a disk, noise, an empty image."""
    folder = tmp_path_factory.mktemp("shapes")
    y, x = np.mgrid[-32:32, -32:32] + 0.5
    other = simulate("model_iii", 1, seed=31, noise="instrument").images[0, 0]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, float(lenses.images[0].std()) / 100, (64, 64))
    images = {
        "lens": lenses.images[2, 0].numpy(),  # without substructure
        "other survey": (other * lenses.images.max() / other.max()).numpy(),
        "disk": 100 * np.exp(-np.hypot(x, y) / 8) + noise,
        "noise": noise,
        "empty": np.zeros((64, 64)),
    }
    for name, image in images.items():
        np.save(folder / f"{name}.npy", image.astype(np.float32))
    summary = fit(
        [str(folder / "*.npy")],
        survey="model_ii",
        out=str(folder / "a.csv"),
        noise="instrument",
        figure=str(folder / "a.svg"),
    )
    return summary, {row["file"].rpartition("/")[2][:-4]: row for row in rows(folder / "a.csv")}


def test_a_fit_that_converged_on_no_lens_of_the_survey_is_not_good_and_has_no_errors(shapes):
    summary, table = shapes
    assert [name for name, row in table.items() if row["good_fit"] == "True"] == ["lens"]
    assert summary.n_good == 1
    assert table["other survey"]["converged"] == "True"
    for name, row in table.items():
        assert (row["source_x_error"] != "") == (row["source_y_error"] != "") == (name == "lens")
        assert row["source_x"] != ""
    assert float(table["other survey"]["chi2"]) > summary.usual[1]


def test_the_picture_says_which_fits_are_not_good(shapes):
    summary, table = shapes
    drawn = list(table)[:3]  # in the order of the names
    assert drawn == ["disk", "empty", "lens"]
    text = summary.figure.read_text()
    assert text.count("not a good fit") + text.count("not converged") == 2


@pytest.mark.parametrize(
    ("survey", "noise"),
    [("model_i", "original"), ("model_ii", "instrument"), ("model_iii", "none")],
)
def test_lenses_of_every_class_of_a_survey_are_within_the_usual_chi2(survey, noise):
    recipe = get_survey(survey)
    fitter = SmoothFitter(recipe, noise=noise)
    low, high = usual_chi2(recipe, fitter, noise)
    found = fitter(simulate(survey, 90, seed=5, noise=noise).images)
    assert ((found.chi2 >= low) & (found.chi2 <= high)).all()
    assert (
        high < 1000
    )  # what was seen of images that are no lens of the survey is tens of thousands


def test_an_unreadable_image_gets_a_row_and_the_others_their_fits(lenses, tmp_path):
    for i in range(2):
        np.save(tmp_path / f"lens{i}.npy", lenses.images[i, 0].numpy())
    np.save(tmp_path / "small.npy", np.zeros((10, 10)))
    with pytest.raises(InputError, match=r"small\.npy"):
        fit(
            [str(tmp_path)],
            survey="model_ii",
            out=str(tmp_path / "a.csv"),
            noise="instrument",
            on_error="stop",
        )
    assert not (tmp_path / "a.csv").exists()
    summary = fit(
        [str(tmp_path / "*.npy")],
        survey="model_ii",
        out=str(tmp_path / "a.csv"),
        noise="instrument",
    )
    assert (summary.n_rows, summary.n_errors) == (3, 1)
    table = {row["file"].rpartition("/")[2]: row for row in rows(tmp_path / "a.csv")}
    assert "10" in table["small.npy"]["error"]
    assert float(table["lens1.npy"]["chi2"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"survey": "model_x"}, "model_x"),
        ({"noise": "loud"}, "noise mode"),
        ({"figure": "fits.gif"}, "figures are written as"),
        ({"figure": "nowhere/fits.png"}, "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_read(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(["absent"], **{"survey": "model_ii", "out": str(tmp_path / "a.csv"), **options})


def test_a_dataset_is_fitted_with_its_own_camera_and_exposures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(to_table, "N_USUAL", 6)
    description = describe_survey(small())
    wide = {"psf_fwhm": 0.3, "exposure_time": {"uniform": [100, 900]}, "num_exposures": 2}
    for name, camera in (("narrow", {}), ("wide", wide)):
        changed = description | {"name": name, "instrument": description["instrument"] | camera}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(changed))
    simulate_arguments = ["--n", "6", "--seed", "3", "--out", str(tmp_path / "wide.h5")]
    assert main(["simulate", str(tmp_path / "wide.yaml"), *simulate_arguments]) == 0
    chi2 = {}
    for name in ("narrow", "wide"):
        out = tmp_path / f"{name}.csv"
        capsys.readouterr()
        arguments = ["--survey", str(tmp_path / f"{name}.yaml"), "--out", str(out)]
        assert main(["fit", str(tmp_path / "wide.h5"), *arguments]) == 0
        said = capsys.readouterr().out
        assert ("its own point-spread function and exposure times" in said) == (name == "narrow")
        assert ("its own exposure times" in said) == (name == "wide")
        chi2[name] = [float(row["chi2"]) for row in rows(out)]
    assert chi2["narrow"] == pytest.approx(chi2["wide"], rel=0.02)


def test_a_dataset_whose_noise_map_cannot_be_leaves_the_others_their_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(to_table, "N_USUAL", 6)
    survey = tmp_path / "own.yaml"
    survey.write_text(yaml.safe_dump(describe_survey(small()) | {"name": "own"}))
    for seed, name in ((3, "good.h5"), (4, "bad.h5")):
        arguments = ["--n", "3", "--seed", str(seed), "--out", str(tmp_path / name)]
        assert main(["simulate", str(survey), *arguments]) == 0
    with h5py.File(tmp_path / "bad.h5", "a") as file:
        side = file["images"].shape[-1]
        file["calibration/noise_map"] = np.full((side, side), -1.0, np.float32)
    files = [str(tmp_path / name) for name in ("good.h5", "bad.h5")]
    given = {"survey": str(survey), "out": str(tmp_path / "a.csv")}
    with pytest.raises(InputError, match="not positive numbers"):
        fit(files, on_error="stop", **given)
    assert not (tmp_path / "a.csv").exists()
    summary = fit(files, **given)
    assert (summary.n_rows, summary.n_errors) == (6, 3)
    for row in rows(tmp_path / "a.csv"):
        of_bad = "bad.h5" in row["file"]
        assert bool(row["error"]) == of_bad == (not row["chi2"])


def test_what_a_dataset_says_otherwise_than_is_fitted_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(to_table, "N_USUAL", 6)
    description = describe_survey(small()) | {"name": "own"}
    survey = tmp_path / "own.yaml"
    survey.write_text(yaml.safe_dump(description))
    assert main(["simulate", str(survey), "--n", "6", "--out", str(tmp_path / "own.h5")]) == 0

    def warnings(**changes: object) -> list[str]:
        copied = tmp_path / "copied.h5"
        copied.write_bytes((tmp_path / "own.h5").read_bytes())
        with h5py.File(copied, "a") as file:
            file.attrs.update(changes)
        capsys.readouterr()
        arguments = ["--survey", str(survey), "--out", str(tmp_path / "a.csv"), "--overwrite"]
        assert main(["fit", str(copied), *arguments]) == 0
        lines = " ".join(capsys.readouterr().err.split()).split("warning: ")
        return [line for line in lines if "copied.h5" in line or "resampled" in line]

    assert warnings() == []
    (told,) = warnings(survey="other")
    assert "says that its images are of survey other, and is fitted as own" in told
    (told,) = warnings(noise="none")
    assert "says that its images have noise none, and is fitted with noise original" in told
    noisy = description | {"instrument": description["instrument"] | {"read_noise": 9.5}}
    (told,) = warnings(survey_definition=json.dumps(noisy))
    assert "its camera has read_noise 9.5 instead of 0.0: fitted as own has it" in told
    (told,) = warnings(pixel_scale=1.1 * description["instrument"]["pixel_scale"])
    assert "6 of 6 images were resampled to the survey's pixels" in told
    assert warnings(survey_definition="[1]") == []
