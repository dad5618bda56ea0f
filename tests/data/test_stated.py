"""Converting images that are said to be of a survey: fits of their lenses then know what they are."""

import json

import numpy as np
import pytest

from haloformer.cli import main
from haloformer.data import LensDataset, convert
from haloformer.errors import InputError
from haloformer.simulation import Simulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """DeepLense class folders of Model II, which do not say what they are."""
    out = tmp_path_factory.mktemp("stated") / "images"
    arguments = ["--n", "36", "--seed", "5", "--format", "deeplense", "--out", str(out)]
    assert main(["simulate", "model_ii", *arguments]) == 0
    return out


def test_the_file_says_what_simulated_files_say(folder, tmp_path):
    convert(folder, tmp_path / "x.h5", survey="model_ii", noise="original")
    found = LensDataset(tmp_path / "x.h5").attributes
    own = Simulator("model_ii").attributes
    for name in ("survey", "survey_definition", "noise", "pixel_scale", "image_unit"):
        assert found[name] == own[name]
    assert found["survey_stated"] is True
    assert "seed" not in found


def test_without_a_survey_nothing_is_said(folder, tmp_path):
    convert(folder, tmp_path / "x.h5")
    found = LensDataset(tmp_path / "x.h5").attributes
    assert found["survey"] == ""
    assert "survey_definition" not in found


def test_trainings_with_a_fit_take_such_a_file(folder, tmp_path, capsys):
    path = str(tmp_path / "x.h5")
    assert main(["convert", str(folder), "--survey", "model_ii", "--out", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good_fits"] == {
        "n": 36,
        "of": 36,
        "usual": 36,
        "survey": "model_ii",
    }
    arguments = ["--physics", "detail", "--model", "resnet_nano", "--epochs", "1"]
    arguments += ["--batch_size", "8", "--loggers", "[]", "--out", str(tmp_path / "run")]
    assert main(["train", "--data", path, *arguments]) == 0
    bare = str(tmp_path / "bare.h5")
    convert(folder, bare)
    assert main(["train", "--data", bare, *arguments[:-1], str(tmp_path / "other")]) == 2
    assert "convert --survey" in " ".join(capsys.readouterr().err.split())


def test_images_that_are_others_are_told(folder, tmp_path, capsys):
    path = str(tmp_path / "x.h5")
    arguments = ["--survey", "model_iii", "--noise", "instrument", "--out", path]
    assert main(["convert", str(folder), *arguments]) == 0
    assert "of 36 images are as lenses of model_iii" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("survey", "message"),
    [
        ("model_i", "images of 1×64×64 are not of survey model_i, whose are 1×150×150"),
        ("model_v", "unknown survey 'model_v'"),
    ],
)
def test_what_cannot_be_is_refused(folder, tmp_path, survey, message):
    for dry_run in ([], ["--dry_run"]):
        with pytest.raises(InputError, match=message):
            convert(folder, tmp_path / "x.h5", survey=survey)
        arguments = ["--survey", survey, "--out", str(tmp_path / "x.h5"), *dry_run]
        assert main(["convert", str(folder), *arguments]) == 2
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_images_that_are_not_scaled_as_the_surveys_are_refused(tmp_path, capsys, kind):
    """Bytes from 0 to 255 where the survey has 0 to 1: what the file would say of them is wrong."""
    images = Simulator("common_task", seed=3).batch(range(3)).images.numpy()
    for name, factor in (("scaled", 1), ("bytes", 255)):
        values = (images * factor).astype(np.float32 if factor == 1 else np.uint8)
        src = tmp_path / name
        if kind == "folder":
            (src / "no").mkdir(parents=True)
            for number, image in enumerate(values):
                np.save(src / "no" / f"{number}.npy", image[0])
        else:
            src = src.with_suffix(".npz")
            np.savez(src, images=values, labels=[0, 0, 0], class_names=["no_sub"])
        for dry_run in (["--dry_run"], []):
            out = str(tmp_path / f"{name}.h5")
            words = ["convert", str(src), "--survey", "common_task", "--out", out, *dry_run]
            assert main(words) == (0 if factor == 1 else 2)
            if factor > 1:
                said = capsys.readouterr().err
                assert "pixels go from 0 to 255; images of survey common_task have 0 at" in said
    assert not (tmp_path / "bytes.h5").exists()


def test_noise_needs_a_survey(folder, tmp_path, capsys):
    out = str(tmp_path / "x.h5")
    assert main(["convert", str(folder), "--noise", "none", "--out", out]) == 2
    assert "give survey, too" in capsys.readouterr().err


def test_a_file_that_says_its_survey_is_not_contradicted(folder, tmp_path):
    path = tmp_path / "x.h5"
    convert(folder, path, survey="model_ii")
    for survey, message in (("model_iii", "of survey model_ii, not"), ("model_ii", "says already")):
        with pytest.raises(InputError, match=message):
            convert(path, tmp_path / "y.h5", survey=survey)
    convert(path, tmp_path / "y.h5")
    assert LensDataset(tmp_path / "y.h5").attributes["survey"] == "model_ii"


def test_classes_must_be_the_surveys(folder, tmp_path):
    with pytest.raises(InputError, match="class of survey model_ii"):
        convert(folder, tmp_path / "x.h5", survey="model_ii", class_map={"axion": "wdm"})
