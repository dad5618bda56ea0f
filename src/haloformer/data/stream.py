"""Training batches without a stored dataset: an endless, reproducible stream of freshly simulated images.

Epoch e consists of the image numbers e·n … (e+1)·n − 1 of one simulator seed, n being the epoch's size. So no image is
seen twice, an epoch can be repeated exactly (which makes training resumable), and images can be traced by their number.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from haloformer.simulation import Simulator, batches_ahead, iterate

VALIDATION_SEED_OFFSET = 2**40
"""Added to a training seed to get its validation seed; seeds that users type are below 2³², so none can collide."""

BLOCK_IMAGES = 1024
"""Images simulated at a time: enough to keep all cores busy, small enough to be nothing in memory (16 MiB at 64²)."""


def validation_seed(seed: int) -> int:
    """Returns the simulator seed of the validation images that belong to a training seed."""
    return seed + VALIDATION_SEED_OFFSET


class EpochStream(IterableDataset):
    """One epoch of the stream as ready-made batches; hand it to ``DataLoader(stream, batch_size=None)``.

    While a block of images is being used the next one is simulated in a background thread (the simulator's kernels
    release Python's lock), so no worker processes are needed.
    """

    def __init__(self, simulator: Simulator, epoch: int, epoch_size: int, batch_size: int) -> None:
        """Prepares an epoch.

        Args:
            simulator: Gives the images by number.
            epoch: Which epoch, from 0.
            epoch_size: Images per epoch; a last batch that would be incomplete is left out.
            batch_size: Images per batch.
        """
        super().__init__()
        self.simulator, self.epoch, self.epoch_size, self.batch_size = simulator, epoch, epoch_size, batch_size

    def __len__(self) -> int:
        return self.epoch_size // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images (B, C, H, W), labels (B,))."""
        first = self.epoch * self.epoch_size
        stop = first + len(self) * self.batch_size
        block = max(1, BLOCK_IMAGES // self.batch_size) * self.batch_size
        ranges = [range(start, min(start + block, stop)) for start in range(first, stop, block)]
        for batch in batches_ahead(self.simulator, ranges):
            yield from zip(batch.images.split(self.batch_size), batch.labels.split(self.batch_size))


class EndlessStream(IterableDataset):
    """Batches of fresh images for ever, for training loops of one's own: ``DataLoader(stream, batch_size=None, num_workers=…)``.

    Batch b consists of the image numbers b·batch_size … (b+1)·batch_size − 1. Several workers share the batches among them, so that
    no image comes twice.
    """

    def __init__(self, simulator: Simulator, batch_size: int, start: int = 0) -> None:
        """Prepares the stream.

        Args:
            simulator: Gives the images by number.
            batch_size: Images per batch.
            start: Number of the first batch, to go on where an earlier stream ended.
        """
        super().__init__()
        self.simulator, self.batch_size, self.start = simulator, batch_size, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (images (B, C, H, W), labels (B,)) and never ends."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = itertools.count(self.start + first, step)
        for batch in batches_ahead(
            self.simulator, (range(b * self.batch_size, (b + 1) * self.batch_size) for b in batches)
        ):
            yield batch.images, batch.labels


def simulate_set(simulator: Simulator, n: int) -> tuple[Tensor, Tensor]:
    """Simulates the first ``n`` images into memory.

    Returns:
        Images (n, C, H, W) and labels (n,).
    """
    batches = list(iterate(simulator, n, batch_size=BLOCK_IMAGES))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])
