"""Images that are made once and stored."""

import dataclasses
import os
import warnings

import h5py
import numpy as np
import pytest
import torch

from haloformer.data import LensDataset
from haloformer.data import prepared as module
from haloformer.data.inspect import summarise
from haloformer.data.prepared import SHARD_IMAGES, PreparedImages, kind_of
from haloformer.errors import InputError, InputWarning
from haloformer.fitting.channels import Residual
from haloformer.fitting.fitted import FittedSimulator
from haloformer.simulation import Simulator


@dataclasses.dataclass
class Counted:
    """A maker that counts the images it makes."""

    made: FittedSimulator
    n: int = 0

    def __getattr__(self, name):
        return getattr(self.made, name)

    def batch(self, numbers):
        self.n += len(numbers)
        return self.made.batch(numbers)


def plain(seed=3, noise="instrument", **changes):
    return FittedSimulator(Simulator("model_ii", seed=seed, noise=noise), **changes)


def fitted(seed=3, noise="instrument", **changes):
    simulator = Simulator("model_ii", seed=seed, noise=noise)
    definition = simulator.attributes["survey_definition"]
    return FittedSimulator(simulator, Residual(definition, noise, **changes))


def test_images_are_those_of_the_maker_in_any_order_and_made_once(tmp_path):
    maker = Counted(plain())
    images, order = PreparedImages(maker, tmp_path), [300, 2, 299, 2]
    batch, wanted = images.batch(order), plain().batch(order)
    noise = 0.009  # of the instrument, in counts/s
    assert (batch.images - wanted.images).abs().max() < 0.1 * noise
    assert torch.equal(batch.labels, wanted.labels)
    assert list(batch.parameters) == list(wanted.parameters)
    for name, values in wanted.parameters.items():
        np.testing.assert_array_equal(batch.parameters[name], values)
    assert maker.n == 2 * SHARD_IMAGES
    again = PreparedImages(maker, tmp_path).batch(order)
    assert torch.equal(again.images, batch.images)
    assert maker.n == 2 * SHARD_IMAGES


def test_single_numbers_are_not_drawn_again_but_lists_are_when_they_are_asked_for(tmp_path):
    wanted = plain().batch([300, 2, 2])
    images = PreparedImages(plain(), tmp_path)
    images.batch([2, 300])
    images.maker = Counted(images.maker)
    drawn = []
    images.maker.parameters = lambda numbers: drawn.append(numbers) or plain().parameters(numbers)
    found = images.batch([300, 2, 2]).parameters
    lists = [name for name, values in wanted.parameters.items() if values.ndim > 1]
    assert lists
    for name, values in wanted.parameters.items():
        if name not in lists:
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype
    assert drawn == []
    for name in lists:
        np.testing.assert_array_equal(found[name], wanted.parameters[name])
    assert len(drawn) == 1
    with pytest.raises(KeyError):
        found["no such"]


def test_what_is_stored_is_a_dataset_with_all_that_is_known_of_the_images(tmp_path):
    images = PreparedImages(fitted(crop=24, detail=True), tmp_path)
    images.batch([0])
    (file,) = tmp_path.rglob("*.h5")
    with LensDataset(file) as dataset:
        assert dataset.image_shape == (3, 24, 24)
        assert len(dataset) == SHARD_IMAGES
        assert summarise(dataset)["dtype"] == "float16"
        assert dataset.attributes["channels"] == ["image", "residual", "detail"]
        assert dataset.attributes["prepared"]["seed"] == 3
        truth = images.maker.parameters(range(SHARD_IMAGES))
        np.testing.assert_array_equal(dataset.parameters("log10_m_axion"), truth["log10_m_axion"])
    with h5py.File(file) as opened:
        assert opened["images"].dtype == np.float16


def test_images_without_noise_keep_their_faint_parts(tmp_path):
    images = PreparedImages(plain(noise="none"), tmp_path)
    assert torch.equal(images.batch(range(4)).images, plain(noise="none").batch(range(4)).images)


def test_fewer_channels_are_read_from_what_has_more(tmp_path):
    PreparedImages(fitted(crop=24, detail=True), tmp_path).batch([0])
    residual, image = Counted(fitted(crop=24)), Counted(plain(crop=24))
    for maker in (residual, image):
        found = PreparedImages(maker, tmp_path).batch([5, 1]).images
        assert maker.n == 0
        assert (found - maker.made.batch([5, 1]).images).abs().max() < 5e-3
    other = Counted(plain())  # the whole image is not among them
    PreparedImages(other, tmp_path).batch([5])
    assert other.n == SHARD_IMAGES


@pytest.mark.parametrize(
    "other",
    [plain(seed=4), plain(noise="none"), plain(crop=24), fitted(), fitted(fit_place=True)],
    ids=["seed", "noise", "crop", "fit", "place"],
)
def test_another_setting_is_another_kind(other):
    assert kind_of(other) != kind_of(plain())


def test_other_code_is_another_kind(monkeypatch):
    before = kind_of(plain())
    monkeypatch.setattr(module, "code_digest", lambda: "another")
    assert kind_of(plain()) != before


def test_a_damaged_file_is_made_anew(tmp_path):
    good = PreparedImages(plain(), tmp_path).batch([7]).images
    (file,) = tmp_path.rglob("*.h5")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.warns(InputWarning, match="made anew"):
        assert torch.equal(PreparedImages(plain(), tmp_path).batch([7]).images, good)


def test_a_file_that_is_gone_is_made_again(tmp_path):
    images = PreparedImages(plain(), tmp_path)
    before = images.batch([7]).images
    next(tmp_path.rglob("*.h5")).unlink()
    assert torch.equal(images.batch([7]).images, before)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files as Linux does")
def test_no_file_stays_open(tmp_path):
    images = PreparedImages(plain(), tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for first in range(0, 4 * SHARD_IMAGES, SHARD_IMAGES):
        images.batch([first])
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_kinds_not_used_for_longest_make_room(tmp_path):
    one = SHARD_IMAGES * 64 * 64 * 2 / 1e9  # GB of the images in a file
    for seed in (1, 2, 1, 3):
        PreparedImages(plain(seed=seed), tmp_path, gigabytes=2.9 * one).batch([0])
    left = {path.parent.name for path in tmp_path.rglob("*.h5")}
    assert kind_of(plain(seed=1)) in left
    assert kind_of(plain(seed=3)) in left
    assert kind_of(plain(seed=2)) not in left


def test_without_room_images_are_made_each_time_and_preparing_is_an_error(tmp_path):
    maker = Counted(plain())
    images = PreparedImages(maker, tmp_path, gigabytes=1e-6)
    with pytest.warns(InputWarning, match="made anew each time"):
        first = images.batch([1]).images
    assert torch.equal(first, plain().batch([1]).images)
    assert maker.n == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        images.batch([1])
        with pytest.raises(InputError, match="prepared_gb"):
            list(images.prepare(range(10)))
    assert not list(tmp_path.rglob("*.h5"))


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEAST_FREE", 2**62)
    images = PreparedImages(plain(), tmp_path)
    with pytest.warns(InputWarning, match="of the disk are free"):
        images.batch([1])
    with pytest.raises(InputError, match="of the disk are free"):
        list(images.prepare(range(10)))
    assert not list(tmp_path.rglob("*.h5"))


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        PreparedImages(plain(), tmp_path / "taken")


def test_preparing_counts_the_images_wanted(tmp_path):
    images = PreparedImages(plain(), tmp_path)
    assert list(images.prepare(range(300))) == [SHARD_IMAGES, 300 - SHARD_IMAGES]
    assert len(list(tmp_path.rglob("*.h5"))) == 2


def test_kinds_that_are_in_use_make_no_room_for_each_other(tmp_path):
    stored = 64 * 64 * 2 * SHARD_IMAGES
    train, val = (PreparedImages(plain(seed), tmp_path, gigabytes=1.5 * stored / 1e9) for seed in (3, 4))  # fmt: skip
    assert list(train.prepare(range(3))) == [3]
    with pytest.warns(InputWarning, match="may hold"), pytest.raises(InputError, match="stored"):
        list(val.prepare(range(3)))
    assert train.n_missing(range(3)) == 0
    del train  # what is no longer in use makes room
    again = PreparedImages(plain(4), tmp_path, gigabytes=1.5 * stored / 1e9)
    assert list(again.prepare(range(3))) == [3]
