"""Where the images of a training come from: a dataset file, or a survey that is simulated as it goes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from haloformer.data.splits import stratified_split
from haloformer.data.store import LensDataset, check_finite
from haloformer.data.stream import EpochStream, simulate_set, validation_seed
from haloformer.errors import InputError
from haloformer.simulation import Simulator, list_surveys
from haloformer.training.config import TrainConfig

MEMORY_BUDGET = 2**30
"""Bytes of images that are kept in memory; a larger dataset file is read batch by batch by worker processes."""

_DATASETS = (".h5", ".hdf5")
_FIT_IMAGES = 3072
_VAL_BATCH = 256

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Source:
    """Everything that training asks of its data.

    Attributes:
        class_names: In the order of the labels.
        image_shape: (C, H, W).
        epoch: Epoch number → that epoch's batches of (images (B, C, H, W), labels (B,)); the same ones every time.
        steps: Batches per epoch.
        validation: Batches of the validation images.
        n_train: Training images: in the file, or per epoch.
        n_val: Validation images.
        fit_images: (n, C, H, W) training images on which the normalisation is fitted.
        facts: Survey, noise, pixel scale and seeds, for the artefact.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    epoch: Callable[[int], Batches]
    steps: int
    validation: Batches
    n_train: int
    n_val: int
    fit_images: Tensor
    facts: dict[str, Any]


def open_source(config: TrainConfig) -> Source:
    """Opens what ``config.data`` names: a dataset file (``.h5``, ``.hdf5``), or else a survey."""
    path = Path(config.data)
    if path.exists() and path.suffix.lower() not in (*_DATASETS, ".yaml", ".yml") and config.data not in list_surveys():
        raise InputError(
            f"{path}: is neither a dataset file (.h5) nor a survey (.yaml); `haloformer convert` makes a dataset of images"
        )
    source = _from_file(config) if path.suffix.lower() in _DATASETS else _from_survey(config)
    if source.steps < 1:
        raise InputError(f"batch_size {config.batch_size} is more than the {source.n_train} training images")
    return source


def _from_survey(config: TrainConfig) -> Source:
    train = Simulator(config.data, seed=config.seed, noise=config.noise)
    stream = EpochStream(train, 0, config.epoch_size, config.batch_size)
    facts = {
        "survey": train.survey.name,
        "noise": config.noise,
        "pixel_scale": train.attributes.get("pixel_scale"),
        "train_seed": config.seed,
        "val_seed": None,
    }
    if config.val_data is None:
        if config.val_size < len(train.class_names):
            raise InputError(
                f"val_size {config.val_size} leaves a class without an image: at least {len(train.class_names)}"
            )
        facts["val_seed"] = validation_seed(config.seed)
        val = Simulator(config.data, seed=validation_seed(config.seed), noise=config.noise)
        images, labels = simulate_set(val, config.val_size)
        validation: Batches = MemoryBatches(images, labels, np.arange(config.val_size), _VAL_BATCH)
        n_val = config.val_size
    else:
        validation, n_val = _validation_file(config, train.class_names, train.image_shape)
    return Source(
        class_names=train.class_names,
        image_shape=train.image_shape,
        epoch=lambda epoch: EpochStream(train, epoch, config.epoch_size, config.batch_size),
        steps=len(stream),
        validation=validation,
        n_train=config.epoch_size,
        n_val=n_val,
        fit_images=train.batch(np.arange(min(_FIT_IMAGES, config.epoch_size))).images,
        facts=facts,
    )


def _from_file(config: TrainConfig) -> Source:
    dataset = LensDataset(config.data)
    check_finite(dataset)
    _require_all_classes(dataset.labels, dataset.class_names, config.data)
    if config.val_data is None:
        shares = {"train": 1 - config.val_fraction, "val": config.val_fraction}
        parts = stratified_split(dataset.labels, shares, config.seed)
        train, val = parts["train"], parts["val"]
    else:
        train, val = np.arange(len(dataset)), np.arange(0)
    if dataset.labels.size * 4 * np.prod(dataset.image_shape) <= MEMORY_BUDGET:
        everything = dataset.images_at(np.arange(len(dataset)))
        labels = torch.from_numpy(dataset.labels)

        def batches(order: np.ndarray, size: int) -> Batches:
            return MemoryBatches(everything, labels, order, size)
    else:

        def batches(order: np.ndarray, size: int) -> Batches:
            return file_batches(dataset, order, size, config.num_workers)

    def epoch(number: int) -> Batches:
        order = np.random.default_rng([config.seed, number]).permutation(train)
        return batches(order[: len(order) // config.batch_size * config.batch_size], config.batch_size)

    if config.val_data is None:
        validation, n_val = batches(val, _VAL_BATCH), len(val)
    else:
        validation, n_val = _validation_file(config, dataset.class_names, dataset.image_shape)
    spread = np.linspace(0, len(train) - 1, min(_FIT_IMAGES, len(train))).round().astype(int)
    return Source(
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        epoch=epoch,
        steps=len(train) // config.batch_size,
        validation=validation,
        n_train=len(train),
        n_val=n_val,
        fit_images=dataset.images_at(train[spread]),
        facts={
            "survey": dataset.attributes.get("survey"),
            "noise": dataset.attributes.get("noise"),
            "pixel_scale": dataset.attributes.get("pixel_scale"),
            "train_seed": dataset.attributes.get("seed"),
            "val_seed": None,
        },
    )


def _validation_file(
    config: TrainConfig, class_names: tuple[str, ...], image_shape: tuple[int, ...]
) -> tuple[Batches, int]:
    assert config.val_data is not None
    dataset = LensDataset(config.val_data)
    if dataset.class_names != class_names or tuple(dataset.image_shape) != tuple(image_shape):
        raise InputError(
            f"{config.val_data}: holds images {tuple(dataset.image_shape)} of {list(dataset.class_names)}, but the training "
            f"images are {tuple(image_shape)} of {list(class_names)}"
        )
    if Path(config.data).exists() and Path(config.val_data).samefile(config.data):
        raise InputError(f"{config.val_data}: val_data is the training file itself; leave it out to split that file")
    check_finite(dataset)
    _require_all_classes(dataset.labels, dataset.class_names, config.val_data)
    return file_batches(dataset, np.arange(len(dataset)), _VAL_BATCH, 0), len(dataset)


def _require_all_classes(labels: np.ndarray, class_names: tuple[str, ...], where: str) -> None:
    missing = [name for i, name in enumerate(class_names) if not (labels == i).any()]
    if missing:
        raise InputError(f"{where}: holds no image of class '{missing[0]}'")


class MemoryBatches:
    """Slices of tensors in a given order."""

    def __init__(self, images: Tensor, labels: Tensor, order: np.ndarray, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.order = torch.from_numpy(order)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self.order.split(self.batch_size):
            yield self.images[indices], self.labels[indices]


def file_batches(dataset: LensDataset, order: np.ndarray, batch_size: int, num_workers: int) -> DataLoader:
    """Returns a loader of images in a given order; every batch is one sorted read by one worker."""
    batches = [chunk.tolist() for chunk in np.split(order, np.arange(batch_size, len(order), batch_size))]
    # A generator of its own: the loader's draw of a base seed must not shift the model's random numbers.
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=num_workers, generator=torch.Generator().manual_seed(0)
    )
