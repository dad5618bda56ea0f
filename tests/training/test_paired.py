"""Images of one lens in all classes: they are trained on together, and none of them is a test of another."""

import shutil
import tarfile

import numpy as np
import pytest
from astropy.io import fits

from haloformer.cli import main
from haloformer.data import LensDataset, convert, write_deeplense_folder, write_fits_folder
from haloformer.errors import InputError, InputWarning
from haloformer.simulation import Simulator
from haloformer.training.config import compose
from haloformer.training.feeds import open_feed
from haloformer.training.file_feed import _split
from haloformer.training.labels import Labelling
from haloformer.training.survey_feed import SurveyMakers


def paired(source, **options):
    return compose(None, {"data": source, "paired": True, "augment": "none", **options})


def test_training_images_are_paired_and_validation_images_are_not():
    makers = SurveyMakers.of(paired("model_i_fair", val_size=6, epoch_size=6, batch_size=6))
    train, held_out = (maker.batch(range(6)).parameters for maker in (makers.train, makers.held_out))  # fmt: skip
    radius = train["lens_theta_E"]
    assert radius[0] == radius[1] == radius[2] != radius[3]
    assert len(set(held_out["lens_theta_E"])) == 6


def test_images_of_one_lens_are_held_out_together(tmp_path):
    path = tmp_path / "pairs.h5"
    made = ["simulate", "model_i_fair", "--n", "60", "--paired", "--noise", "none"]
    assert main([*made, "--out", str(path)]) == 0
    with LensDataset(path) as dataset:
        experiment = compose(None, {"data": str(path), "val_fraction": 0.3})
        train, held_out = _split(experiment, dataset, Labelling.of(experiment, dataset.class_names))
        radius = dataset.parameters("lens_theta_E")
        labels = np.bincount(dataset.labels[held_out])
    assert labels.tolist() == [6, 6, 6]
    assert set(radius[train]).isdisjoint(radius[held_out])


@pytest.mark.parametrize("kind", ["deeplense", "fits", "deeplense.tar", "fits.zip", "fits.late"])
def test_folders_and_archives_of_images_keep_that_they_are_of_one_lens(tmp_path, kind):
    kind, _, packed = kind.partition(".")
    batch = Simulator("model_i_fair", noise="none", seed=3, paired=True).batch(range(30, 39))
    write = write_deeplense_folder if kind == "deeplense" else write_fits_folder
    more = {} if kind == "deeplense" else {"attributes": batch.attributes}
    folder = tmp_path / "sims"
    write([batch], folder, class_names=batch.class_names, **more)
    if kind == "fits":
        assert fits.getheader(next(folder.rglob("*.fits")))["PAIRED"] is True
    source = folder
    if packed == "late":  # the table behind the images
        source = tmp_path / "sims.tar"
        with tarfile.open(source, "w") as archive:
            for file in sorted(
                folder.rglob("*.*"), reverse=True, key=lambda path: path.suffix == ".fits"
            ):
                archive.add(file, file.relative_to(tmp_path))
    elif packed:
        source = shutil.make_archive(str(folder), packed, tmp_path, "sims")
    done = convert(source, tmp_path / "a.h5")
    with LensDataset(done["path"]) as dataset:
        assert dataset.attributes["paired"] is True
        for label, name in enumerate(dataset.class_names):
            one = dataset.labels == label
            numbers = dataset.parameters("index")[one]
            assert sorted(numbers) == [10, 11, 12], name
            expected = {10 + k: batch.images[3 * k + label].sum() for k in range(3)}
            for number, image in zip(numbers, dataset.images_at(np.flatnonzero(one))):
                assert float(image.sum()) == pytest.approx(float(expected[number]), rel=1e-5)
    min(folder.rglob("cdm_*")).unlink()  # what is left is of the same lenses, by the table
    with LensDataset(convert(folder, tmp_path / "b.h5")["path"]) as dataset:
        assert dataset.attributes["paired"] is True
        assert dataset.parameters("index")[dataset.labels == 1].tolist() == [11, 12]
    shutil.copy(
        min(folder.rglob("cdm_*")),
        folder / "cdm" / f"mine.{'npy' if kind == 'deeplense' else 'fits'}",
    )
    with pytest.warns(InputWarning, match=r"parameters\.csv says .* not of all"):
        done = convert(folder, tmp_path / "c.h5")
    with LensDataset(done["path"]) as dataset:
        assert "paired" not in dataset.attributes


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("model_ii", {}, "its lens never varies"),
        ("model_i_fair", {"n_images": 60}, "paired is for an endless stream"),
        ("images.h5", {}, "simulate --paired makes files"),
    ],
)
def test_what_cannot_be_paired_is_refused(source, options, message):
    with pytest.raises(InputError, match=message):
        open_feed(paired(source, **options))
