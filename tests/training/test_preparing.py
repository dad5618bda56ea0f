"""Trainings that share prepared images."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from haloformer.cli.prepare import prepare
from haloformer.errors import InputError
from haloformer.simulation import Simulator
from haloformer.training import train
from haloformer.training.config import compose
from haloformer.training.feeds import open_feed
from haloformer.training.preparing import parts_of

SMALL = {
    "data": "model_iii",
    "epochs": 2,
    "epoch_size": 64,
    "batch_size": 32,
    "val_size": 30,
    "device": "cpu",
    "progress": False,
    "loggers": (),
    "model_args": {"stem_channels": [8, 8, 8, 8], "embed_dim": 32, "depth": 1},
}


@pytest.fixture
def rendered(monkeypatch):
    """How many images are simulated."""
    real, numbers = Simulator.batch, []

    def batch(self, asked, **options):
        numbers.extend(np.asarray(asked).tolist())
        return real(self, asked, **options)

    monkeypatch.setattr(Simulator, "batch", batch)
    return numbers


def test_a_training_on_prepared_images_makes_none_and_has_the_same_weights_as_the_one_before(
    tmp_path, rendered
):
    options = {**SMALL, "noise": "instrument", "prepared": str(tmp_path / "images")}
    prepare(options=options, quiet=True)
    assert rendered
    weights = []
    for name in ("one", "two"):
        rendered.clear()
        train(**options, out=str(tmp_path / name))
        assert not rendered
        weights.append(load_file(tmp_path / name / "artefact" / "weights.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    before = (tmp_path / "one" / "config.yaml").read_text()
    assert "prepared:" in before  # where a run reads its images belongs to its description …
    train(**{**options, "prepared": None}, out=str(tmp_path / "one"))  # … and may change


def test_prepared_images_are_those_of_a_training_without(tmp_path):
    experiments = [
        compose(None, {**SMALL, "noise": "instrument", **more})
        for more in ({}, {"prepared": str(tmp_path)})
    ]
    plain, stored = (open_feed(experiment) for experiment in experiments)
    assert plain.image_shape == stored.image_shape
    for batches in (lambda feed: feed.epoch(1, 0, (0, 1)), lambda feed: feed.validation((0, 1))):
        for ours, theirs in zip(batches(stored), batches(plain), strict=True):
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.exposure_time, theirs.exposure_time)
            # Half a unit of the last of eleven binary digits
            bound = theirs.images.abs() * 2.0**-11 + 1e-6
            assert ((ours.images - theirs.images).abs() <= bound).all()


@pytest.mark.parametrize(
    ("more", "side"),
    [({}, 48), ({"shift": 2.0}, 64), ({"erasing": 0.5}, 64), ({"crop": 47}, 64)],
    ids=["cropped first", "shift", "erasing", "odd"],
)
def test_images_are_cut_before_they_are_stored_where_nothing_looks_beyond(tmp_path, more, side):
    options = {**SMALL, "crop": 48, "prepared": str(tmp_path), **more}
    assert open_feed(compose(None, options)).image_shape == (1, side, side)
    without = {key: value for key, value in options.items() if key != "prepared"}
    assert open_feed(compose(None, without)).image_shape == (1, 64, 64)


def test_parts_are_all_that_a_training_reads():
    experiment = compose(
        None, {**SMALL, "task": "both", "prepared": "x", "targets": ["log10_m_axion"]}
    )
    parts = {name: numbers for name, _, numbers in parts_of(experiment, n_test=50)}
    assert [*parts] == ["training", "validation", "calibration", "test"]
    assert len(parts["training"]) == 128
    np.testing.assert_array_equal(parts["calibration"], np.arange(30, 60))
    some = {**SMALL, "classes": "axion_cdm", "prepared": "x"}
    test = parts_of(compose(None, some), n_test=50)[-1][1]
    assert test.class_names == ("axion", "cdm")  # as a study of the same classes simulates
    finite = compose(None, {**SMALL, "n_images": 96, "prepared": "x"})
    assert len(parts_of(finite)[0][2]) == 96
    assert len(parts_of(finite, n=40)[0][2]) == 40


def test_what_cannot_be_prepared_is_refused():
    with pytest.raises(InputError, match="not a survey"):
        parts_of(compose(None, {"data": "train.h5", "prepared": "x"}))
    for wrong in ({"n": 0}, {"n": -5}, {"n_test": -1}):
        with pytest.raises(InputError, match="must be at least"):
            parts_of(compose(None, {"data": "model_ii", "prepared": "x"}), **wrong)
    with pytest.raises(InputError, match="prepared is missing: name the folder"):
        parts_of(compose(None, {"data": "model_ii"}))
    with pytest.raises(InputError, match="data is missing: name a survey"):
        parts_of(compose(None, {"prepared": "x"}))


def test_prepared_images_are_no_training_file(tmp_path):
    images = tmp_path / "images"
    open_feed(compose(None, {**SMALL, "prepared": str(images)}))
    file = next(images.rglob("*.h5"))
    with pytest.raises(InputError, match="data: model_iii, prepared: their folder"):
        open_feed(compose(None, {**SMALL, "data": str(file)}))


@pytest.mark.parametrize("place", ["notes", "notes/images"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, place):
    (tmp_path / "notes").write_text("")
    wanted = compose(None, {**SMALL, "prepared": str(tmp_path / place)})
    with pytest.raises(InputError, match=r"notes is a file.* folder"):
        parts_of(wanted)


@pytest.mark.parametrize("name", ["prepared", "out"])
def test_a_folder_without_a_name_is_refused_not_the_current_one(name):
    with pytest.raises(InputError, match=f"{name} must be of at least 1 item"):
        compose(None, {**SMALL, name: ""})
