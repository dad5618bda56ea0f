"""Training batches without a stored dataset: a reproducible stream of simulated images.

Epoch e consists of the image numbers e·n … (e+1)·n − 1 of one simulator seed, n being the epoch's
size. So no image is seen twice, an epoch can be repeated exactly (which makes training resumable),
and images can be traced by their number.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from haloformer.errors import InputError
from haloformer.simulation import BatchMaker, LensBatch, Simulator, batches_ahead, collect
from haloformer.validation import whole_number

VALIDATION_SEED_OFFSET = 2**40
"""Added to a training seed to get its validation seed; seeds that users type are below 2³², so none can collide."""

BLOCK_IMAGES = 1024
"""Images simulated at a time: enough to keep all cores busy, small enough to be nothing in memory (16 MiB at 64²)."""


def validation_seed(seed: int) -> int:
    """Returns the simulator seed of the validation images that belong to a training seed."""
    return seed + VALIDATION_SEED_OFFSET


def stream_batches(
    simulator: BatchMaker,
    numbers: np.ndarray,
    batch_size: int,
    *,
    share: tuple[int, int] = (0, 1),
    device: torch.device | None = None,
) -> Iterator[LensBatch]:
    """Simulates images of given numbers, batch by batch, one block ahead of their use.

    Args:
        simulator: Gives the images by number; its kernels release Python's lock, so no worker
            processes are needed.
        numbers: (n,) image numbers, in the order in which they are wanted.
        batch_size: Images per batch; a last batch that would be incomplete is left out.
        share: (k, of): yield only the k-th of so many equal parts of every batch, for processes
            that work together.
        device: Where the images are wanted; None: where they are made.

    Yields:
        Batches with parameters.
    """
    part, parts = share
    rows = batch_size // parts
    complete = np.asarray(numbers)[: len(numbers) // batch_size * batch_size]
    mine = complete.reshape(-1, batch_size)[:, part * rows : (part + 1) * rows].reshape(-1)
    for made in batches_ahead(simulator, _blocks(mine, rows), device):
        for first in range(0, len(made), rows):
            yield _rows(made, slice(first, first + rows))


def _blocks(numbers: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Splits image numbers into blocks of whole batches, each twice as large as the last.

    The first is one batch, so that training begins at once.
    """
    first, size, largest = 0, rows, max(1, BLOCK_IMAGES // rows) * rows
    while first < len(numbers):
        yield numbers[first : first + size]
        first, size = first + size, min(2 * size, largest)


def _rows(batch: LensBatch, rows: slice) -> LensBatch:
    parameters = {name: values[rows] for name, values in batch.parameters.items()}
    return dataclasses.replace(
        batch, images=batch.images[rows], labels=batch.labels[rows], parameters=parameters
    )


class EpochStream(IterableDataset[tuple[Tensor, Tensor]]):
    """One epoch of the stream as batches, for ``DataLoader(stream, batch_size=None, num_workers=…)``.

    Several workers share the batches among them, which come in the same order.
    """

    def __init__(self, simulator: Simulator, epoch: int, epoch_size: int, batch_size: int) -> None:
        """Prepares an epoch.

        Args:
            simulator: Gives the images by number.
            epoch: Which epoch, from 0.
            epoch_size: Images per epoch; a last batch that would be incomplete is left out.
            batch_size: Images per batch.

        Raises:
            InputError: They are no such numbers, or an epoch is smaller than a batch.
        """
        super().__init__()
        self.simulator = simulator
        self.epoch = whole_number(epoch, "epoch")
        self.batch_size = whole_number(batch_size, "batch_size", 1)
        self.epoch_size = whole_number(epoch_size, "epoch_size", 1)
        if self.epoch_size < self.batch_size:
            raise InputError(
                f"epoch_size {epoch_size} is less than batch_size {batch_size}: there would be no batch"
            )

    def __len__(self) -> int:
        return self.epoch_size // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images (B, C, H, W), labels (B,))."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        whole = self.epoch * self.epoch_size + np.arange(len(self) * self.batch_size)
        mine = whole.reshape(-1, self.batch_size)[first::step].reshape(-1)
        for batch in stream_batches(self.simulator, mine, self.batch_size):
            yield batch.images, batch.labels


class EndlessStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of fresh images without end, for training loops of your own.

    Use ``DataLoader(stream, batch_size=None, num_workers=…)``.

    Batch b consists of the image numbers b·batch_size … (b+1)·batch_size − 1. Several workers share
    the batches among them, so that no image comes twice.
    """

    def __init__(self, simulator: Simulator, batch_size: int, start: int = 0) -> None:
        """Prepares the stream.

        Args:
            simulator: Gives the images by number.
            batch_size: Images per batch.
            start: Number of the first batch, to go on where an earlier stream ended.

        Raises:
            InputError: They are no such numbers.
        """
        super().__init__()
        self.simulator = simulator
        self.batch_size = whole_number(batch_size, "batch_size", 1)
        self.start = whole_number(start, "start")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images (B, C, H, W), labels (B,)) and never ends."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = itertools.count(self.start + first, step)
        for batch in batches_ahead(
            self.simulator, (range(b * self.batch_size, (b + 1) * self.batch_size) for b in batches)
        ):
            yield batch.images, batch.labels


def simulate_set(simulator: Simulator, n: int) -> LensBatch:
    """Simulates the first ``n`` images into memory."""
    return collect(simulator, n, batch_size=BLOCK_IMAGES)
