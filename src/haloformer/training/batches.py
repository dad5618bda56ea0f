"""Which images an epoch uses in which order, and batches of examples from memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from haloformer.data.transforms import NoiseModel, draw_noise
from haloformer.errors import InputError
from haloformer.training.examples import WHOLE, Batches, Examples, Share

MEMORY_BUDGET = 2**30
"""Bytes of images that are kept in memory; more are read, or simulated again, batch by batch."""

GPU_SHARE = 0.25
"""Share of a GPU's free memory for images that are kept there."""

VALIDATION_BATCH = 256
"""Images per batch of validation and calibration."""

FIT_IMAGES = 3072
"""Most training images on which normalisation and the targets' scaling are fitted."""


@dataclass(frozen=True)
class EpochPlan:
    """Which images each epoch uses, in which order: a function of the seed and the epoch alone.

    Attributes:
        images: (N,) the images that are used, each once before any comes again; None: an endless
            stream, in which no image comes twice.
        epoch_size: Images per epoch.
        batch_size: Images per batch; the incomplete batch at the end of an epoch is left out.
        seed: Of the order.
    """

    images: np.ndarray | None
    epoch_size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        """Raises InputError where an epoch has no whole batch, before any image is made."""
        if self.steps >= 1:
            return
        if self.images is None or self.epoch_size < len(self.images):
            raise InputError(
                f"batch_size {self.batch_size} is more than the {self.epoch_size} images of an epoch: "
                f"a smaller one, or a larger epoch_size, such as {10 * self.batch_size}"
            )
        raise InputError(
            f"batch_size {self.batch_size} is more than the {self.n_images} training images: "
            f"a smaller one, or epoch_size: {10 * self.batch_size}, which uses each several times "
            "an epoch"
        )

    @property
    def n_images(self) -> int:
        """Different training images; of an endless stream, those of one epoch."""
        return self.epoch_size if self.images is None else len(self.images)

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.epoch_size // self.batch_size

    def numbers(self, epoch: int) -> np.ndarray:
        """Returns the (epoch_size,) images of an epoch."""
        if self.images is None:
            return np.arange(epoch * self.epoch_size, (epoch + 1) * self.epoch_size)
        # A window of one shuffled pass over all images after the other.
        n, begin = len(self.images), epoch * self.epoch_size
        first, last = begin // n, (begin + self.epoch_size - 1) // n
        passes = [
            np.random.default_rng([self.seed, number]).permutation(self.images)
            for number in range(first, last + 1)
        ]
        start = begin - first * n
        return np.concatenate(passes)[start : start + self.epoch_size]

    def rest(self, epoch: int, first_batch: int) -> np.ndarray:
        """Returns the images of an epoch's complete batches from ``first_batch`` on."""
        return self.numbers(epoch)[first_batch * self.batch_size : self.steps * self.batch_size]


class MemoryBatches:
    """Rows of tensors in a given order."""

    def __init__(
        self,
        examples: Examples,
        order: np.ndarray,
        batch_size: int,
        share: Share = WHOLE,
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
        self.examples, self.chunks = examples, split_batches(order, batch_size, share, uneven)

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Examples]:
        for chunk in self.chunks:
            rows = torch.from_numpy(chunk)
            yield Examples(*(column[rows] for column in self.examples))


class NoisyBatches:
    """Batches of noise-free images with noise that is the same every time, and each process's own.

    Without a noise model, the batches as they are.
    """

    def __init__(
        self, batches: Batches, model: NoiseModel | None, seed: int, process: int = 0
    ) -> None:
        self.batches, self.model, self.seed = batches, model, seed + 2**40 * process

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Examples]:
        for i, batch in enumerate(self.batches):
            yield with_noise(batch, self.model, self.seed + 7919 * i)


def with_noise(batch: Examples, model: NoiseModel | None, seed: int) -> Examples:
    """Returns a batch with noise from this seed, or as it is where there is no noise model."""
    if model is None:
        return batch
    generator = torch.Generator(batch.images.device).manual_seed(seed)
    return batch._replace(images=draw_noise(batch.images, batch.exposure_time, model, generator))


def split_batches(
    order: np.ndarray, batch_size: int, share: Share, uneven: bool
) -> list[np.ndarray]:
    """Splits images into batches, of which a process gets its share; see :class:`MemoryBatches`."""
    part, parts = share
    chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if parts == 1:
        return chunks
    if uneven:
        # As many batches for every process, none of them empty: the processes wait for each other
        # at every batch.
        return [chunk[part::parts] for chunk in np.array_split(order, len(chunks))]
    rows = batch_size // parts
    return [chunk[part * rows : (part + 1) * rows] for chunk in chunks]


def choose_labelled(
    labels: np.ndarray, per_class: int | None, seed: int, class_names: Sequence[str], where: str
) -> np.ndarray:
    """Returns which of the images are used where only ``per_class`` of each class may be.

    Args:
        labels: (N,) class of each image, an index of ``class_names``; others are never chosen.
        per_class: Images of each class; None: all images are used.
        seed: Of the choice.
        class_names: The classes.
        where: The data's name, for the error message.

    Returns:
        (M,) indices into ``labels``, rising.

    Raises:
        InputError: A class has fewer images.
    """
    if per_class is None:
        return np.arange(len(labels))
    chosen = []
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            raise InputError(
                f"{where}: has {len(members)} training images of '{name}', "
                f"not {per_class} labels_per_class"
            )
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:per_class])
    return np.sort(np.concatenate(chosen))


def fits_in_memory(
    n: int, image_shape: tuple[int, ...], device: torch.device | None = None
) -> bool:
    """Returns whether so many float32 images may be kept where they are used."""
    budget = MEMORY_BUDGET
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        budget = int(GPU_SHARE * free)
    return n * 4 * int(np.prod(image_shape)) <= budget
