"""The endless stream of simulated training images."""

import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from haloformer.data.stream import (
    BLOCK_IMAGES,
    EndlessStream,
    EpochStream,
    simulate_set,
    validation_seed,
)
from haloformer.errors import InputError
from haloformer.simulation import Simulator, simulate


def _collect(stream):
    batches = list(stream)
    return torch.cat([images for images, _ in batches]), torch.cat(
        [labels for _, labels in batches]
    )


def test_epochs_are_consecutive_parts_of_one_reproducible_dataset():
    simulator = Simulator("model_ii", seed=5)
    epochs = [_collect(EpochStream(simulator, epoch, 48, 12)) for epoch in range(3)]
    whole = simulate("model_ii", 144, seed=5)
    assert torch.equal(torch.cat([images for images, _ in epochs]), whole.images)
    assert torch.equal(torch.cat([labels for _, labels in epochs]), whole.labels)


def test_an_epoch_can_be_repeated_exactly_and_abandoned_midway():
    stream = EpochStream(Simulator("model_ii", seed=5), 2, 48, 12)
    first, labels = next(iter(stream))
    again, same_labels = _collect(stream)
    assert torch.equal(first, again[:12])
    assert torch.equal(labels, same_labels[:12])


def test_images_do_not_depend_on_batch_or_block_size(monkeypatch):
    simulator = Simulator("model_ii", seed=1)
    expected, _ = _collect(EpochStream(simulator, 1, 60, 20))
    monkeypatch.setattr("haloformer.data.stream.BLOCK_IMAGES", 7)
    small, _ = _collect(EpochStream(simulator, 1, 60, 5))
    assert torch.equal(expected, small)


def test_length_counts_whole_batches_and_every_class_is_balanced():
    stream = EpochStream(Simulator("model_ii", seed=0), 0, 70, 12)
    _, labels = _collect(stream)
    assert len(stream) == 5
    assert len(labels) == 60
    assert np.bincount(labels).tolist() == [20, 20, 20]


def test_next_block_is_simulated_while_the_first_is_used(monkeypatch):
    monkeypatch.setattr("haloformer.data.stream.BLOCK_IMAGES", 8)
    asked = []

    class Watched(Simulator):
        def batch(self, numbers):
            asked.append(int(numbers[0]))
            return super().batch(numbers)

    batches = iter(EpochStream(Watched("model_ii", seed=0), 0, 32, 8))
    next(batches)
    deadline = time.monotonic() + 20
    while len(asked) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert asked == [0, 8]
    batches.close()


def test_an_error_in_the_background_reaches_the_training_loop():
    class Broken(Simulator):
        def batch(self, numbers):
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        next(iter(EpochStream(Broken("model_ii"), 0, 8, 4)))


def test_validation_images_come_from_a_seed_that_nobody_types():
    assert all(validation_seed(seed) >= 2**32 for seed in (0, 1, 2**32 - 1))
    train, val = simulate("model_ii", 30, seed=0), simulate("model_ii", 30, seed=validation_seed(0))
    assert not torch.isclose(train.images, val.images).flatten(1).all(1).any()


def test_simulated_set_is_the_same_in_one_block_or_several(monkeypatch):
    simulator = Simulator("model_ii", seed=4)
    once = simulate_set(simulator, 20)
    monkeypatch.setattr("haloformer.data.stream.BLOCK_IMAGES", 6)
    again = simulate_set(simulator, 20)
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.labels, again.labels)
    assert BLOCK_IMAGES > 20


def test_the_endless_stream_goes_on_and_can_be_taken_up_anywhere():
    simulator = Simulator("model_ii", seed=3)
    expected = simulator.batch(range(40)).images
    batches = iter(EndlessStream(simulator, 8))
    assert torch.equal(torch.cat([next(batches)[0] for _ in range(5)]), expected)
    later = iter(EndlessStream(simulator, 8, start=3))
    assert torch.equal(next(later)[0], expected[24:32])


def test_workers_share_the_endless_stream_without_an_image_twice():
    simulator = Simulator("model_ii", seed=3, threads=1)
    expected = simulator.batch(range(48)).images
    loader = iter(DataLoader(EndlessStream(simulator, 8), batch_size=None, num_workers=2))
    images = torch.cat([next(loader)[0] for _ in range(6)])
    assert torch.equal(images, expected)


def test_workers_share_the_batches_of_an_epoch():
    stream = EpochStream(Simulator("model_ii", seed=5), 1, 50, 12)
    images, labels = _collect(stream)
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    shared, theirs = _collect(loader)
    assert torch.equal(shared, images)
    assert torch.equal(theirs, labels)


def test_more_workers_than_batches_leave_some_without_work():
    stream = EpochStream(Simulator("model_ii", seed=5), 0, 12, 12)
    assert len(_collect(DataLoader(stream, batch_size=None, num_workers=2))[1]) == 12


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((0, 24, 0), "batch_size must be at least 1, not 0"),
        ((0, 24, 1.5), "batch_size must be a whole number, not 1.5"),
        ((-1, 24, 8), "epoch must be at least 0, not -1"),
        ((0, "24", 8), "epoch_size must be a whole number, not '24'"),
        ((0, 4, 8), "epoch_size 4 is less than batch_size 8: there would be no batch"),
    ],
)
def test_an_epoch_that_cannot_be_is_refused(sizes, said):
    with pytest.raises(InputError) as error:
        EpochStream(Simulator("model_ii"), *sizes)
    assert str(error.value) == said


@pytest.mark.parametrize("sizes", [(0,), (-1,), (2.5,), ("a",), (True,), (4, -1), (4, 0.5)])
def test_an_endless_stream_of_nothing_is_refused(sizes):
    with pytest.raises(InputError, match=r"^(batch_size|start) must be "):
        EndlessStream(Simulator("model_ii"), *sizes)
