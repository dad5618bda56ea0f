"""Training data from a dataset file.

Images in memory, or read batch by batch where they are many.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from haloformer.data.dataset import LensDataset, check_finite
from haloformer.data.grouping import LEFT_OUT
from haloformer.data.splits import split_of_groups, stratified_split
from haloformer.data.transforms import NoiseModel, noise_model
from haloformer.devices import process_device, resolve_device
from haloformer.errors import InputError
from haloformer.fitting.channels import Residual, own_camera
from haloformer.io.strict_json import parse_json
from haloformer.io.writing import same_content
from haloformer.simulation.dark_matter import told_by
from haloformer.training.batches import (
    FIT_IMAGES,
    VALIDATION_BATCH,
    EpochPlan,
    MemoryBatches,
    NoisyBatches,
    choose_labelled,
    fits_in_memory,
    split_batches,
    with_noise,
)
from haloformer.training.config import Experiment
from haloformer.training.examples import WHOLE, Batches, Examples, Feed, Share
from haloformer.training.labels import Labelling, check_calibration, residual_of


def open_file_feed(experiment: Experiment) -> Feed:
    """Returns the feed of a dataset file.

    Raises:
        InputError: A file that cannot be used, or options that do not go together.
    """
    data, seed = experiment.data, experiment.trainer.seed
    _check_options(experiment)
    dataset = LensDataset(data.source)
    if "prepared" in dataset.attributes:
        raise InputError(
            f"{data.source}: holds images with their residual, prepared for trainings on a survey: "
            f"data: {dataset.attributes.get('survey')}, prepared: their folder"
        )
    check_finite(dataset)
    labelling = Labelling.of(experiment, dataset.class_names)
    train, held_out = _split(experiment, dataset, labelling)
    model = _fresh_noise(experiment, dataset)
    attributes = dataset.attributes
    residual = residual_of(experiment, attributes.get("survey_definition"), attributes.get("noise"))
    reader = FileExamples(dataset, labelling, residual)
    device = process_device(resolve_device(experiment.trainer.device))
    batches = _ordered_batches(reader, data.num_workers, device)
    plan = EpochPlan(train, data.epoch_size or len(train), data.batch_size, seed)

    def epoch(number: int, first: int, share: Share) -> Batches:
        return batches(plan.rest(number, first), data.batch_size, share)

    # Images that choose no weights are kept for calibration, where the task needs them.
    validation: Callable[[Share], Batches]
    calibration: Batches
    datasets = [dataset]
    if data.val_data is None:
        val, spare = _halves(held_out, dataset.labels, labelling)

        def held_out_batches(share: Share) -> Batches:
            held = batches(val, VALIDATION_BATCH, share, uneven=True)
            return NoisyBatches(held, model, seed, share[0])

        validation = held_out_batches
        calibration = NoisyBatches(batches(spare, VALIDATION_BATCH, WHOLE), model, seed + 1)
        counts = _with_targets(reader, spare, labelling)
    else:
        file = open_validation_file(experiment, dataset.class_names, dataset.image_shape, residual)
        _refuse_shared_lenses(dataset, file.reader.dataset)
        datasets.append(file.reader.dataset)
        val, spare = _halves(file.usable, file.reader.dataset.labels, labelling)
        validation = file.batches(val, model)
        # Without targets nothing is calibrated, and there is nothing to spare.
        calibration = file.batches(spare if spare.size else val, model)(WHOLE)
        counts = _with_targets(file.reader, spare, labelling)
    of = "a larger val_fraction" if data.val_data is None else "a larger val_data"
    check_calibration(experiment, counts, f"{of}, of whose images one half calibrates,")
    spread = np.linspace(0, len(train) - 1, min(FIT_IMAGES, len(train))).round().astype(int)
    return Feed(
        class_names=labelling.class_names,
        image_shape=reader.image_shape,
        raw_shape=dataset.image_shape,
        residual=residual,
        epoch=epoch,
        steps=plan.steps,
        validation=validation,
        calibration=calibration,
        n_train=len(train),
        n_val=len(val),
        fit=with_noise(reader.examples_at(train[spread]), model, seed),
        noise_model=model,
        facts={
            "survey": attributes.get("survey"),
            "noise": experiment.augmentation.fresh_noise if model else attributes.get("noise"),
            "pixel_scale": attributes.get("pixel_scale"),
            "train_seed": attributes.get("seed"),
            "val_seed": None
            if data.val_data is None
            else seed_of(datasets[1], attributes.get("survey")),
            "digest": _digest(datasets),
        },
    )


def _digest(datasets: Sequence[LensDataset]) -> str:
    """Returns what tells dataset files from others: their labels, and the pixels of some of their images."""
    digest = hashlib.sha256()
    for dataset in datasets:
        digest.update(repr((dataset.class_names, dataset.image_shape)).encode())
        digest.update(dataset.labels.tobytes())
        some = np.unique(np.linspace(0, len(dataset) - 1, _OF_DIGEST).round().astype(int))
        digest.update(dataset.images_at(some).numpy().tobytes())
    return digest.hexdigest()


_OF_DIGEST = 64  # images


class FileExamples(Dataset[Examples]):
    """A dataset file as a PyTorch dataset whose items are ready-made batches."""

    def __init__(
        self, dataset: LensDataset, labelling: Labelling, residual: Residual | None
    ) -> None:
        self.dataset, self.residual = dataset, residual
        n = len(dataset)
        self.labels = torch.from_numpy(labelling.labels[dataset.labels])
        self.targets, self.exposure_time = torch.zeros(n, 0), torch.full((n,), torch.nan)
        known = dataset.parameter_names
        if labelling.targets:
            parameters = {name: dataset.parameters(name) for name in told_by(known)}
            self.targets = labelling.target_values(
                parameters, torch.from_numpy(dataset.labels), str(dataset.path)
            )
        definition = dataset.attributes.get("survey_definition")
        self._own_camera = (
            {} if residual is None else own_camera(residual, dataset.calibration, definition)
        )
        if "exposure_time" in known:
            seconds = dataset.parameters("exposure_time").astype(np.float32)
            self.exposure_time = torch.from_numpy(seconds)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), residual channels included."""
        shape = self.dataset.image_shape
        return shape if self.residual is None else self.residual.output_shape(shape)

    def __len__(self) -> int:
        return len(self.dataset)

    def examples_at(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Reads a batch by one sorted read."""
        rows = torch.as_tensor(indices)
        images = self.dataset.images_at(indices)
        if self.residual is not None:
            images = self.residual.look(images, **self._own_camera).channels
        return Examples(images, self.labels[rows], self.targets[rows], self.exposure_time[rows])

    def __getitems__(self, indices: list[int]) -> Examples:
        """Reads a batch; PyTorch's DataLoader calls this."""
        return self.examples_at(indices)


def file_batches(
    reader: FileExamples,
    order: np.ndarray,
    batch_size: int,
    num_workers: int,
    share: Share = WHOLE,
    uneven: bool = False,
) -> DataLoader[Examples]:
    """Returns a loader of images in a given order; one worker reads a batch by one sorted read."""
    batches = [chunk.tolist() for chunk in split_batches(order, batch_size, share, uneven)]
    # A generator of its own: the loader's draw of a base seed must not shift the model's random
    # numbers.
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        reader,
        batch_sampler=batches,
        num_workers=num_workers,
        generator=generator,
        collate_fn=_unchanged,
    )


def _unchanged(batch: Any) -> Any:  # DataLoader calls it with what __getitems__ returned
    return batch


@dataclass(frozen=True)
class ValidationFile:
    """A dataset file to validate on.

    Attributes:
        reader: Reads its images.
        labelling: How its classes become labels.
        usable: Indices of the images whose class the task uses.
    """

    reader: FileExamples
    labelling: Labelling
    usable: np.ndarray

    def batches(self, indices: np.ndarray, model: NoiseModel | None) -> Callable[[Share], Batches]:
        """Returns share → batches of some of the images, with noise if a model is given.

        Raises:
            InputError: A class has no image.
        """
        dataset = self.reader.dataset
        labels = self.labelling.labels[dataset.labels[indices]]
        _require_all_classes(labels, self.labelling.class_names, str(dataset.path))

        def batches(share: Share) -> Batches:
            held = file_batches(self.reader, indices, VALIDATION_BATCH, 0, share, True)
            return NoisyBatches(held, model, 0, share[0])

        return batches


def open_validation_file(
    experiment: Experiment,
    class_names: tuple[str, ...],
    image_shape: tuple[int, int, int],
    residual: Residual | None,
) -> ValidationFile:
    """Opens ``val_data``, whose classes and images must be like those of the training data.

    Raises:
        InputError: The file is not usable, is the training file, or holds other classes or shapes.
    """
    path, training = str(experiment.data.val_data), experiment.data.source
    dataset = LensDataset(path)
    if dataset.class_names != class_names or dataset.image_shape != image_shape:
        raise InputError(
            f"{path}: holds images {dataset.image_shape} of {list(dataset.class_names)}, "
            f"but the training images are {image_shape} of {list(class_names)}"
        )
    if same_content(path, training):
        raise InputError(
            f"{path}: val_data is the training file itself, or a copy of it; leave it out to split that file"
        )
    check_finite(dataset)
    labelling = Labelling.of(experiment, dataset.class_names)
    usable = np.flatnonzero(labelling.labels[dataset.labels] != LEFT_OUT)
    return ValidationFile(FileExamples(dataset, labelling, residual), labelling, usable)


def seed_of(dataset: LensDataset, survey: object) -> int | None:
    """Returns the seed of a file's images if they are of a survey, else None."""
    seed = dataset.attributes.get("seed")
    known = survey not in (None, "") and dataset.attributes.get("survey") == survey
    return seed if known and isinstance(seed, int) else None


def shared_lenses(path: object, survey: object, seed: int) -> InputError:
    """Returns the error for validation images that are of the training's lenses."""
    return InputError(
        f"{path}: val_data holds lenses of the training images: both are of {survey} with seed {seed}; simulate it with another seed"
    )


def _refuse_shared_lenses(training: LensDataset, validation: LensDataset) -> None:
    """Raises InputError if lenses of the one file are in the other, too, whatever their noise.

    Those of one survey and seed can be: they are told by their parameters, as a file that was cut in two has one seed, too.
    """
    survey, seed = (training.attributes.get(key) for key in ("survey", "seed"))
    if seed is None or seed_of(validation, survey) != seed:
        return
    names = sorted(set(training.parameter_names) & set(validation.parameter_names))
    lenses = []
    for file in (training, validation):
        columns = (np.asarray(file.parameters(name), float) for name in names)
        # Those of populations have as many numbers as the largest one of their file.
        numbers = [column for column in columns if column.ndim == 1]
        lenses.append({row.tobytes() for row in np.stack(numbers, 1)} if numbers else {b""})
    if lenses[0] & lenses[1]:
        raise shared_lenses(validation.path, survey, seed)


class _OrderedBatches(Protocol):
    """(image indices, images per batch, share) → batches in that order."""

    def __call__(
        self, order: np.ndarray, size: int, share: Share, *, uneven: bool = False
    ) -> Batches: ...


def _ordered_batches(
    reader: FileExamples, num_workers: int, device: torch.device
) -> _OrderedBatches:
    """Takes all images into memory if there is room, that of a GPU where they are used there, or else reads batch by batch."""
    if fits_in_memory(len(reader), reader.image_shape):
        stored = reader.examples_at(np.arange(len(reader)))
        if device.type == "cuda" and fits_in_memory(len(reader), reader.image_shape, device):
            stored = stored.to(device)

        def from_memory(
            order: np.ndarray, size: int, share: Share, *, uneven: bool = False
        ) -> Batches:
            return MemoryBatches(stored, order, size, share, uneven=uneven)

        return from_memory

    def from_disk(order: np.ndarray, size: int, share: Share, *, uneven: bool = False) -> Batches:
        return file_batches(reader, order, size, num_workers, share, uneven)

    return from_disk


def _check_options(experiment: Experiment) -> None:
    data = experiment.data
    if experiment.regularization.wrong_fits:
        raise InputError(
            "wrong_fits is for images simulated from a survey as they are needed; "
            f"'{data.source}' is a file"
        )
    if data.paired:
        raise InputError(
            "paired is for images simulated from a survey as they are needed; "
            f"'{data.source}' is a file: simulate --paired makes files of such images"
        )
    if data.n_images is not None:
        raise InputError(
            f"n_images is for images simulated from a survey; '{data.source}' is a file: "
            "labels_per_class"
        )


def _split(
    experiment: Experiment, dataset: LensDataset, labelling: Labelling
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training images and of those that are held out, if any."""
    data, seed = experiment.data, experiment.trainer.seed
    labels = labelling.labels[dataset.labels]
    if experiment.task.name != "regression" and len(labelling.class_names) < 2:
        raise InputError(f"{data.source} has one class, {labelling.class_names[0]}: two are needed to tell them apart")  # fmt: skip
    _require_all_classes(labels, labelling.class_names, data.source)
    train = np.flatnonzero(labels != LEFT_OUT)
    held_out = train[:0]
    if data.val_data is None:
        shares = {"train": 1 - data.val_fraction, "val": data.val_fraction}
        names = labelling.class_names
        try:
            if dataset.attributes.get("paired"):  # images of one lens
                lenses = dataset.parameters("index")[train].astype(int)
                parts = split_of_groups(lenses, labels[train], shares, seed, names)
            else:
                parts = stratified_split(labels[train], shares, seed, names)
        except InputError as error:
            raise InputError(
                f"{data.source}: {error}; more images, another val_fraction, or val_data"
            ) from error
        train, held_out = train[parts["train"]], train[parts["val"]]
    chosen = choose_labelled(
        labels[train], data.labels_per_class, seed, labelling.class_names, data.source
    )
    return train[chosen], held_out


def _halves(
    indices: np.ndarray, labels: np.ndarray, labelling: Labelling
) -> tuple[np.ndarray, np.ndarray]:
    """Splits images for validation and calibration; without targets, all are for validation.

    Every other image of each class: every other image of the file might be all of one class.
    """
    if not labelling.targets:
        return indices, indices[:0]
    of_class = labels[indices]
    first = np.zeros(len(indices), dtype=bool)
    for label in np.unique(of_class):
        first[np.flatnonzero(of_class == label)[::2]] = True
    return indices[first], indices[~first]


def _with_targets(
    reader: FileExamples, indices: np.ndarray, labelling: Labelling
) -> dict[str, int]:
    """Returns how many of some images have each target of the regression."""
    known = ~torch.isnan(reader.targets[torch.from_numpy(indices)])
    return dict(zip(labelling.targets, known.sum(0).tolist()))


def _fresh_noise(experiment: Experiment, dataset: LensDataset) -> NoiseModel | None:
    fresh = experiment.augmentation.fresh_noise
    if fresh == "none":
        return None
    attributes = dataset.attributes
    if attributes.get("noise") != "none" or "survey_definition" not in attributes:
        raise InputError(
            f"{dataset.path}: fresh_noise needs noise-free images: "
            "`haloformer simulate SURVEY --noise none` makes such a file"
        )
    return noise_model(parse_json(attributes["survey_definition"], dataset.path), fresh)


def _require_all_classes(labels: np.ndarray, class_names: tuple[str, ...], where: str) -> None:
    missing = [name for i, name in enumerate(class_names) if not (labels == i).any()]
    if missing:
        raise InputError(f"{where}: holds no image of class '{missing[0]}'")
