"""Images of one lens in all classes: they are trained on together, and none of them is a test of another."""

import numpy as np
import pytest

from haloformer.cli import main
from haloformer.data import LensDataset
from haloformer.errors import InputError
from haloformer.training.config import compose
from haloformer.training.feeds import open_feed
from haloformer.training.file_feed import _split
from haloformer.training.labels import Labelling
from haloformer.training.survey_feed import SurveyMakers


def paired(source, **options):
    return compose(None, {"data": source, "paired": True, "augment": "none", **options})


def test_training_images_are_paired_and_validation_images_are_not():
    makers = SurveyMakers.of(paired("model_i_fair", val_size=6, epoch_size=6))
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
