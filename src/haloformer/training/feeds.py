"""Where the images of a training come from: a dataset file, or a survey that is simulated as it goes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from haloformer.data.dataset import LensDataset, check_finite
from haloformer.data.grouping import LEFT_OUT, group_classes
from haloformer.data.splits import stratified_split
from haloformer.data.stream import BLOCK_IMAGES, simulate_set, stream_batches, validation_seed
from haloformer.data.transforms import NoiseModel, draw_noise, noise_model
from haloformer.errors import InputError
from haloformer.fitting.channels import N_WRONG, Residual
from haloformer.outputs.targets import TARGETS, target_values
from haloformer.simulation import NOISE_MODES, LensBatch, Simulator, batches_ahead, list_surveys
from haloformer.simulation.rng import name_word, uniform
from haloformer.training.config import Experiment

MEMORY_BUDGET = 2**30
"""Bytes of images that are kept in memory; more are read, or simulated again, batch by batch."""

STREAM_EPOCH = 6000
"""Images per epoch of an endless stream, unless epoch_size says otherwise."""

_DATASETS = (".h5", ".hdf5")
_FIT_IMAGES = 3072
_VAL_BATCH = 256

Share = tuple[int, int]
"""(k, of): the k-th of so many processes that divide every batch among them."""


class Examples(NamedTuple):
    """A batch of training examples.

    Attributes:
        images: (B, C, H, W), raw.
        labels: (B,) int64.
        targets: (B, T) float32 of the regression, NaN where there is none; T may be 0.
        exposure_time: (B,) seconds; NaN where unknown.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    exposure_time: Tensor


Batches = Iterable[Examples]


@dataclass(frozen=True)
class Feed:
    """Everything that training asks of its data.

    Attributes:
        class_names: In the order of the labels.
        image_shape: (C, H, W) of the examples; with a residual, its channel included.
        raw_shape: (C, H, W) of the images as they are outside.
        residual: What adds the residual channel, where one is wanted; the examples have it.
        epoch: (epoch, first batch, share) → that epoch's batches from there on; the same ones every time.
        steps: Batches per epoch.
        validation: share → batches of the validation images, as many for every process.
        calibration: Batches of images that neither train nor choose weights, for the regression's intervals.
        n_train: Different training images; per epoch, of an endless stream.
        n_val: Validation images.
        fit: Training examples on which normalisation and the targets' scaling are fitted.
        noise_model: What draws fresh noise, where that is wanted.
        facts: Survey, noise, pixel scale and seeds, for the artefact.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    raw_shape: tuple[int, int, int]
    residual: Residual | None
    epoch: Callable[[int, int, Share], Batches]
    steps: int
    validation: Callable[[Share], Batches]
    calibration: Batches
    n_train: int
    n_val: int
    fit: Examples
    noise_model: NoiseModel | None
    facts: dict[str, Any]


def open_feed(experiment: Experiment) -> Feed:
    """Opens what ``data.source`` names: a dataset file (``.h5``, ``.hdf5``), or else a survey."""
    data = experiment.data
    if not data.source:
        raise InputError(
            "data is missing: name a survey (data: model_ii) or a dataset file (data: train.h5)"
        )
    path = Path(data.source)
    if (
        path.exists()
        and path.suffix.lower() not in (*_DATASETS, ".yaml", ".yml")
        and data.source not in list_surveys()
    ):
        raise InputError(
            f"{path}: is neither a dataset file (.h5) nor a survey (.yaml); `haloformer convert` makes a dataset of images"
        )
    source = (
        _from_file(experiment) if path.suffix.lower() in _DATASETS else _from_survey(experiment)
    )
    if source.steps < 1:
        raise InputError(
            f"batch_size {data.batch_size} is more than the {source.n_train} training images: a smaller one, or epoch_size: "
            f"{10 * data.batch_size}, which uses each several times an epoch"
        )
    return source


@dataclass(frozen=True)
class _Labelling:
    """How the classes of the data become labels and targets of the task."""

    class_names: tuple[str, ...]
    labels: np.ndarray  # label of the data → label of the task
    targets: tuple[str, ...]

    def examples(self, batch: LensBatch) -> Examples:
        n = len(batch.labels)
        targets = (
            target_values(self.targets, batch.parameters) if self.targets else torch.zeros(n, 0)
        )
        seconds = torch.from_numpy(batch.parameters["exposure_time"].astype(np.float32))
        return Examples(
            batch.images.float(),
            torch.from_numpy(self.labels[batch.labels.numpy()]),
            targets,
            seconds,
        )


def _labelling(experiment: Experiment, class_names: tuple[str, ...]) -> _Labelling:
    task = experiment.task
    targets = () if task.name == "classification" else task.targets
    names, labels = group_classes(class_names, experiment.data.classes)
    wanted = [TARGETS[name].class_name for name in targets if name in TARGETS]
    if task.name == "regression":  # the images of other classes would teach nothing
        if missing := [name for name in wanted if name not in class_names]:
            raise InputError(
                f"task regression of {list(targets)} needs images of '{missing[0]}': {list(class_names)}"
            )
        names = tuple(name for name in class_names if name in wanted)
        labels = np.array(
            [names.index(name) if name in names else LEFT_OUT for name in class_names]
        )
    return _Labelling(names, labels, targets)


# --- a survey ---------------------------------------------------------------------------------------------------------


def _from_survey(experiment: Experiment) -> Feed:
    data, seed = experiment.data, experiment.trainer.seed
    fresh = experiment.augmentation.fresh_noise
    everything = Simulator(data.source, seed=seed, noise=data.noise)  # names the classes
    labelling = _labelling(experiment, everything.class_names)
    used = [
        name for name, label in zip(everything.class_names, labelling.labels) if label != LEFT_OUT
    ]
    labelling = _labelling(experiment, tuple(used))
    model = None if fresh == "none" else noise_model(everything.survey, fresh)
    residual = _residual(experiment, everything.attributes["survey_definition"], data.noise)
    train = _Seen(
        Simulator(data.source, classes=used, seed=seed, noise="none" if model else data.noise),
        residual,
        experiment.regularization.wrong_fits,
    )

    if data.n_images is None:
        if data.labels_per_class is not None:
            raise InputError(
                "labels_per_class: an endless stream has as many as it likes: give n_images, too, or a file"
            )
        size = data.epoch_size or STREAM_EPOCH
        n_train = size

        def numbers(epoch: int) -> np.ndarray:
            return np.arange(epoch * size, (epoch + 1) * size)
    else:
        chosen = _few(
            np.arange(data.n_images) % len(used), data.labels_per_class, seed, used, data.source
        )
        size = data.epoch_size or len(chosen)
        n_train = len(chosen)
        numbers = functools.partial(_epoch_order, chosen, size=size, seed=seed)

    batches: Callable[[np.ndarray, Share], Batches]
    if data.n_images is not None and _bytes(n_train, train.image_shape) <= MEMORY_BUDGET:
        stored = _simulated(train, labelling, chosen)
        places = np.zeros(data.n_images, dtype=np.int64)
        places[chosen] = np.arange(len(chosen))

        def batches(order: np.ndarray, share: Share) -> Batches:
            return MemoryBatches(stored, places[order], data.batch_size, share)
    else:

        def batches(order: np.ndarray, share: Share) -> Batches:
            return _StreamBatches(train, labelling, order, data.batch_size, share)

    if data.val_size < len(used):
        raise InputError(
            f"val_size {data.val_size} leaves a class without an image: at least {len(used)}"
        )
    held_out_noise = fresh if model else data.noise
    held_out: Any = _Seen(
        Simulator(data.source, classes=used, seed=validation_seed(seed), noise=held_out_noise),
        residual,
    )
    if data.val_data is None:
        images = labelling.examples(simulate_set(held_out, data.val_size))
        validation: Callable[[Share], Batches] = functools.partial(
            MemoryBatches, images, np.arange(data.val_size), _VAL_BATCH, uneven=True
        )
        n_val = data.val_size
    else:
        dataset = _validation_file(data, everything.class_names, everything.image_shape)
        keep = np.flatnonzero(labelling_of(experiment, dataset).labels[dataset.labels] != LEFT_OUT)
        validation, n_val = _file_validation(experiment, dataset, keep, None, residual)
    # Images after those of the validation: seen neither in training nor in the choice of the best epoch.
    spare = np.arange(data.val_size, 2 * data.val_size)
    steps = size // data.batch_size
    return Feed(
        class_names=labelling.class_names,
        image_shape=train.image_shape,
        raw_shape=everything.image_shape,
        residual=residual,
        epoch=lambda epoch, first, share: batches(
            numbers(epoch)[first * data.batch_size : steps * data.batch_size], share
        ),
        steps=steps,
        validation=validation,
        calibration=_StreamBatches(held_out, labelling, spare, min(_VAL_BATCH, len(spare)), (0, 1)),
        n_train=n_train,
        n_val=n_val,
        fit=_noisy(
            labelling.examples(train.batch(np.unique(numbers(0))[:_FIT_IMAGES])), model, seed
        ),
        noise_model=model,
        facts={
            "survey": train.survey.name,
            "noise": held_out_noise,
            "pixel_scale": train.attributes.get("pixel_scale"),
            "train_seed": seed,
            "val_seed": validation_seed(seed) if data.val_data is None else None,
        },
    )


def _residual(experiment: Experiment, definition: Any, noise: Any) -> Residual | None:
    if experiment.data.physics == "none":
        if experiment.regularization.wrong_fits:
            raise InputError("wrong_fits needs a fit: physics: residual or detail")
        return None
    if experiment.augmentation.fresh_noise != "none":
        raise InputError(
            f"physics {experiment.data.physics}: the fit needs the noise that the network sees: fresh_noise must be none"
        )
    if not isinstance(definition, str) or noise not in NOISE_MODES:
        raise InputError(
            f"physics {experiment.data.physics}: {experiment.data.source} does not say of which survey and noise its images are"
        )
    return Residual(definition, noise, experiment.data.crop, experiment.data.physics == "detail")


class _Seen:
    """A simulator whose images come with their residual; the fit then runs where the simulation does, ahead of its use."""

    def __init__(
        self, simulator: Simulator, residual: Residual | None, wrong_fits: float = 0.0
    ) -> None:
        self.simulator, self.residual, self.wrong_fits = simulator, residual, wrong_fits

    @property
    def image_shape(self) -> tuple[int, int, int]:
        shape = self.simulator.image_shape
        return shape if self.residual is None else self.residual.output_shape(shape)

    def batch(self, numbers: Any) -> LensBatch:
        batch = self.simulator.batch(numbers)
        if self.residual is None:
            return batch
        if not self.wrong_fits:
            return dataclasses.replace(batch, images=self.residual(batch.images))
        # A function of the image's number, as all that is drawn.
        index = np.asarray(numbers, dtype=np.uint64)
        stream = np.full(len(index), name_word("wrong_fits"), dtype=np.uint64)
        chance, which = uniform(self.simulator.seed, stream, index, "lens", 2).T
        wrong = np.where(chance < self.wrong_fits, (which * N_WRONG).astype(np.int64), -1)
        return dataclasses.replace(batch, images=self.residual.with_wrong_fits(batch.images, wrong))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.simulator, name)


def _simulated(simulator: Any, labelling: _Labelling, numbers: np.ndarray) -> Examples:
    """Simulates images into memory, a block at a time."""
    blocks = [numbers[i : i + BLOCK_IMAGES] for i in range(0, len(numbers), BLOCK_IMAGES)]
    made = [labelling.examples(batch) for batch in batches_ahead(simulator, blocks)]
    return Examples(*(torch.cat(parts) for parts in zip(*made)))


class _StreamBatches:
    """Batches of images that are simulated as they are needed."""

    def __init__(
        self,
        simulator: Any,
        labelling: _Labelling,
        numbers: np.ndarray,
        batch_size: int,
        share: Share,
    ) -> None:
        self.arguments = simulator, numbers, batch_size
        self.labelling, self.share = labelling, share

    def __len__(self) -> int:
        _, numbers, batch_size = self.arguments
        return len(numbers) // batch_size

    def __iter__(self) -> Iterator[Examples]:
        return map(self.labelling.examples, stream_batches(*self.arguments, share=self.share))


# --- a file -----------------------------------------------------------------------------------------------------------


def labelling_of(experiment: Experiment, dataset: LensDataset) -> _Labelling:
    """Returns how the classes of a file become labels."""
    return _labelling(experiment, dataset.class_names)


def _from_file(experiment: Experiment) -> Feed:
    data, seed = experiment.data, experiment.trainer.seed
    if experiment.regularization.wrong_fits:
        raise InputError(
            f"wrong_fits is for images simulated from a survey as they are needed; '{data.source}' is a file"
        )
    dataset = LensDataset(data.source)
    check_finite(dataset)
    if data.n_images is not None:
        raise InputError(
            f"n_images is for images simulated from a survey; '{data.source}' is a file: labels_per_class"
        )
    labelling = labelling_of(experiment, dataset)
    labels = labelling.labels[dataset.labels]
    _require_all_classes(labels, labelling.class_names, data.source)
    usable = np.flatnonzero(labels != LEFT_OUT)
    if data.val_data is None:
        shares = {"train": 1 - data.val_fraction, "val": data.val_fraction}
        parts = stratified_split(labels[usable], shares, seed)
        train, val = usable[parts["train"]], usable[parts["val"]]
    else:
        train, val = usable, usable[:0]
    train = train[
        _few(labels[train], data.labels_per_class, seed, labelling.class_names, data.source)
    ]
    model = _file_noise_model(experiment, dataset)
    residual = _residual(
        experiment, dataset.attributes.get("survey_definition"), dataset.attributes.get("noise")
    )
    image_shape = (
        dataset.image_shape if residual is None else residual.output_shape(dataset.image_shape)
    )
    reader = _FileExamples(dataset, labelling, residual)
    if _bytes(len(dataset), image_shape) <= MEMORY_BUDGET:
        everything = reader.examples_at(np.arange(len(dataset)))

        def batches(order: np.ndarray, size: int, share: Share, uneven: bool = False) -> Batches:
            return MemoryBatches(everything, order, size, share, uneven=uneven)
    else:

        def batches(order: np.ndarray, size: int, share: Share, uneven: bool = False) -> Batches:
            return file_batches(reader, order, size, data.num_workers, share, uneven)

    size = data.epoch_size or len(train)
    steps = size // data.batch_size

    def epoch(number: int, first: int, share: Share) -> Batches:
        order = _epoch_order(train, number, size, seed)[
            first * data.batch_size : steps * data.batch_size
        ]
        return batches(order, data.batch_size, share)

    calibration: Batches
    if data.val_data is None:
        # Of the held-out part, a half that chooses no weights is kept for calibration where the task needs one.
        spare = val[1::2] if labelling.targets else val[:0]
        val = val[::2] if labelling.targets else val
        n_val = len(val)

        def validation(share: Share) -> Batches:
            return _NoisyBatches(batches(val, _VAL_BATCH, share, True), model, seed, share[0])

        calibration = _NoisyBatches(batches(spare, _VAL_BATCH, (0, 1)), model, seed + 1)
    else:
        other = _validation_file(data, dataset.class_names, dataset.image_shape)
        keep = np.flatnonzero(labelling_of(experiment, other).labels[other.labels] != LEFT_OUT)
        half = keep[::2] if labelling.targets else keep
        validation, n_val = _file_validation(experiment, other, half, model, residual)  # type: ignore[assignment]
        calibration = _file_validation(experiment, other, keep[1::2], model, residual)[0]((0, 1))
    spread = train[np.linspace(0, len(train) - 1, min(_FIT_IMAGES, len(train))).round().astype(int)]
    return Feed(
        class_names=labelling.class_names,
        image_shape=image_shape,
        raw_shape=dataset.image_shape,
        residual=residual,
        epoch=epoch,
        steps=steps,
        validation=validation,
        calibration=calibration,
        n_train=len(train),
        n_val=n_val,
        fit=_noisy(reader.examples_at(spread), model, seed),
        noise_model=model,
        facts={
            "survey": dataset.attributes.get("survey"),
            "noise": experiment.augmentation.fresh_noise
            if model
            else dataset.attributes.get("noise"),
            "pixel_scale": dataset.attributes.get("pixel_scale"),
            "train_seed": dataset.attributes.get("seed"),
            "val_seed": None,
        },
    )


def _file_noise_model(experiment: Experiment, dataset: LensDataset) -> NoiseModel | None:
    fresh = experiment.augmentation.fresh_noise
    if fresh == "none":
        return None
    if dataset.attributes.get("noise") != "none" or "survey_definition" not in dataset.attributes:
        raise InputError(
            f"{dataset.path}: fresh_noise needs noise-free images: `haloformer simulate SURVEY --noise none` makes such a file"
        )
    import json

    return noise_model(json.loads(dataset.attributes["survey_definition"]), fresh)


def _validation_file(
    data: Any, class_names: tuple[str, ...], image_shape: tuple[int, ...]
) -> LensDataset:
    dataset = LensDataset(data.val_data)
    if dataset.class_names != class_names or tuple(dataset.image_shape) != tuple(image_shape):
        raise InputError(
            f"{data.val_data}: holds images {tuple(dataset.image_shape)} of {list(dataset.class_names)}, but the training "
            f"images are {tuple(image_shape)} of {list(class_names)}"
        )
    if Path(data.source).exists() and Path(data.val_data).samefile(data.source):
        raise InputError(
            f"{data.val_data}: val_data is the training file itself; leave it out to split that file"
        )
    check_finite(dataset)
    return dataset


def _file_validation(
    experiment: Experiment,
    dataset: LensDataset,
    indices: np.ndarray,
    model: NoiseModel | None,
    residual: Residual | None,
) -> tuple[Callable[[Share], Batches], int]:
    labelling = labelling_of(experiment, dataset)
    _require_all_classes(
        labelling.labels[dataset.labels[indices]], labelling.class_names, str(dataset.path)
    )
    reader = _FileExamples(dataset, labelling, residual)

    def batches(share: Share) -> Batches:
        return _NoisyBatches(
            file_batches(reader, indices, _VAL_BATCH, 0, share, True), model, 0, share[0]
        )

    return batches, len(indices)


def _require_all_classes(labels: np.ndarray, class_names: tuple[str, ...], where: str) -> None:
    missing = [name for i, name in enumerate(class_names) if not (labels == i).any()]
    if missing:
        raise InputError(f"{where}: holds no image of class '{missing[0]}'")


# --- batches ----------------------------------------------------------------------------------------------------------


def _epoch_order(images: np.ndarray, epoch: int, size: int, seed: int) -> np.ndarray:
    """Returns which images an epoch uses: a window of one shuffled pass over all of them after the other."""
    first, last = epoch * size // len(images), ((epoch + 1) * size - 1) // len(images)
    passes = [
        np.random.default_rng([seed, number]).permutation(images)
        for number in range(first, last + 1)
    ]
    start = epoch * size - first * len(images)
    return np.concatenate(passes)[start : start + size]


def _few(
    labels: np.ndarray, per_class: int | None, seed: int, names: Any, where: str
) -> np.ndarray:
    """Returns which of the images are used where only so many of each class may be."""
    if per_class is None:
        return np.arange(len(labels))
    chosen = []
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise InputError(
                f"{where}: has {len(members)} training images of '{name}', not {per_class} labels_per_class"
            )
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:per_class])
    return np.sort(np.concatenate(chosen))


def _bytes(n: int, image_shape: tuple[int, ...]) -> int:
    return n * 4 * int(np.prod(image_shape))


class MemoryBatches:
    """Rows of tensors in a given order."""

    def __init__(
        self,
        examples: Examples,
        order: np.ndarray,
        batch_size: int,
        share: Share = (0, 1),
        *,
        uneven: bool = False,
    ) -> None:
        """Prepares batches.

        Args:
            examples: All there are.
            order: Which of them, in which order.
            batch_size: Images per batch; the last batch may be smaller.
            share: Which part of each batch is wanted.
            uneven: Leave no image out, though the parts then differ by one image.
        """
        self.examples, self.chunks = examples, _chunks(order, batch_size, share, uneven)

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Examples]:
        for chunk in self.chunks:
            rows = torch.from_numpy(chunk)
            yield Examples(*(column[rows] for column in self.examples))


def _chunks(order: np.ndarray, batch_size: int, share: Share, uneven: bool) -> list[np.ndarray]:
    part, parts = share
    chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if parts == 1:
        return chunks
    if uneven:
        # As many batches for every process, none of them empty: the processes wait for each other at every batch.
        return [chunk[part::parts] for chunk in np.array_split(order, len(chunks))]
    rows = batch_size // parts
    return [chunk[part * rows : (part + 1) * rows] for chunk in chunks]


class _FileExamples(Dataset):
    """A dataset file as a PyTorch dataset whose items are ready-made batches."""

    def __init__(
        self, dataset: LensDataset, labelling: _Labelling, residual: Residual | None
    ) -> None:
        self.dataset, self.residual = dataset, residual
        n = len(dataset)
        self.labels = torch.from_numpy(labelling.labels[dataset.labels])
        self.targets, self.exposure_time = torch.zeros(n, 0), torch.full((n,), torch.nan)
        if labelling.targets:
            names = [
                name
                for name in ("log10_m_axion", "subhalo_mass")
                if name in dataset.parameter_names
            ]
            parameters: dict[str, np.ndarray] = {name: dataset.parameters(name) for name in names}
            self.targets = target_values(labelling.targets, parameters, str(dataset.path))
        if "exposure_time" in dataset.parameter_names:
            self.exposure_time = torch.from_numpy(
                dataset.parameters("exposure_time").astype(np.float32)
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def examples_at(self, indices: Any) -> Examples:
        """Reads a batch by one sorted read."""
        rows = torch.as_tensor(indices)
        images = self.dataset.images_at(indices)
        if self.residual is not None:
            images = self.residual(images)
        return Examples(images, self.labels[rows], self.targets[rows], self.exposure_time[rows])

    def __getitems__(self, indices: list[int]) -> Examples:
        """What PyTorch's DataLoader calls for a batch."""
        return self.examples_at(indices)


def _as_it_is(batch: Any) -> Any:
    return batch


def file_batches(
    reader: _FileExamples,
    order: np.ndarray,
    batch_size: int,
    num_workers: int,
    share: Share = (0, 1),
    uneven: bool = False,
) -> DataLoader:
    """Returns a loader of images in a given order; every batch is one sorted read by one worker."""
    batches = [chunk.tolist() for chunk in _chunks(order, batch_size, share, uneven)]
    # A generator of its own: the loader's draw of a base seed must not shift the model's random numbers.
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        reader,
        batch_sampler=batches,
        num_workers=num_workers,
        generator=generator,
        collate_fn=_as_it_is,
    )


class _NoisyBatches:
    """Batches of noise-free images with noise that is the same every time, and each process's own."""

    def __init__(self, batches: Any, model: NoiseModel | None, seed: int, process: int = 0) -> None:
        self.batches, self.model, self.seed = batches, model, seed + 2**40 * process

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Examples]:
        for i, batch in enumerate(self.batches):
            yield _noisy(batch, self.model, self.seed + 7919 * i)


def _noisy(batch: Examples, model: NoiseModel | None, seed: int) -> Examples:
    if model is None:
        return batch
    generator = torch.Generator().manual_seed(seed)
    return batch._replace(images=draw_noise(batch.images, batch.exposure_time, model, generator))
