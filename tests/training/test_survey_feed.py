"""The images of a survey that calibrate a model."""

import pytest

from haloformer.errors import InputError
from haloformer.training import survey_feed
from haloformer.training.config import compose


@pytest.mark.parametrize(("size", "batches"), [(9, [9]), (16, [16]), (20, [16, 4])])
def test_as_many_images_calibrate_as_val_size_says(monkeypatch, size, batches):
    monkeypatch.setattr(survey_feed, "VALIDATION_BATCH", 16)
    options = {"data": "model_ii", "model": "vit_nano", "val_size": size, "n_images": 64}
    calibration = survey_feed.open_survey_feed(compose(None, options)).calibration
    for _ in range(2):  # it can be gone through again
        assert [len(batch.images) for batch in calibration] == batches
    assert len(calibration) == len(batches)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epoch_size": 32}, "the 32 images of an epoch: a smaller one, or a larger epoch_size"),
        ({"n_images": 100, "epoch_size": 32}, "the 32 images of an epoch"),
        ({"n_images": 32}, "the 32 training images: a smaller one, or epoch_size: 640"),
    ],
)
def test_a_batch_that_no_epoch_fills_is_refused_before_images_are_made(tmp_path, options, words):
    stored = tmp_path / "prepared"
    given = {"data": "model_ii", "model": "vit_nano", "batch_size": 64, "prepared": str(stored)}
    with pytest.raises(InputError, match=f"batch_size 64 is more than {words}"):
        survey_feed.open_survey_feed(compose(None, {**given, **options}))
    assert not list(stored.rglob("*.h5"))


def test_labels_per_class_are_of_the_classes_of_the_task():
    options = {"data": "model_ii", "n_images": 60, "labels_per_class": 8, "val_size": 6, "batch_size": 8}  # fmt: skip
    feed = survey_feed.open_survey_feed(compose(None, {**options, "classes": "substructure"}))
    labels = [label for batch in feed.epoch(0, 0, (0, 1)) for label in batch.labels.tolist()]
    assert feed.n_train == 16
    assert sorted(labels) == [0] * 8 + [1] * 8


def test_a_regression_needs_no_grouping_of_the_classes():
    options = {"data": "model_ii", "task": "regression", "classes": "axion_cdm", "val_size": 60}
    assert survey_feed.open_survey_feed(compose(None, options)).class_names == ("axion",)
