"""The images of a survey that calibrate a model."""

import pytest

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
