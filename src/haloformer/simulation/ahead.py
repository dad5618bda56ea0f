"""Batches of images one ahead of their use: made in a background thread, on a GPU in a stream of its own."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from haloformer.simulation.batch import LensBatch


class BatchMaker(Protocol):
    """Makes images by their number: a simulator, or one with further steps after it."""

    def batch(self, numbers: Sequence[int] | np.ndarray | range) -> LensBatch:
        """Makes the images of these numbers, in this order."""
        ...


def batches_ahead(
    simulator: BatchMaker,
    numbers: Iterable[range | np.ndarray],
    device: torch.device | None = None,
) -> Iterator[LensBatch]:
    """Simulates batch after batch; while one is being used, the next is simulated in a background thread.

    Args:
        simulator: Its kernels release Python's lock, so that no worker processes are needed.
        numbers: The image numbers of each batch; may be endless.
        device: Where the images are wanted; None: where they are made. On a GPU they are made and moved in a stream of the thread's own,
            beside what the caller computes there.
    """
    ranges = iter(numbers)
    lane = _lane(device)
    with ThreadPoolExecutor(1, thread_name_prefix="haloformer-ahead") as background:
        if (first := next(ranges, None)) is None:
            return
        ahead = background.submit(lane.make, simulator, first)
        for following in ranges:
            batch = ahead.result()
            ahead = background.submit(lane.make, simulator, following)
            yield lane.handed_over(batch)
        yield lane.handed_over(ahead.result())


class _Lane:
    """Makes batches where the caller computes, too."""

    def make(self, simulator: BatchMaker, numbers: range | np.ndarray) -> LensBatch:
        """Makes a batch; in the background."""
        return simulator.batch(numbers)

    def handed_over(self, batch: LensBatch) -> LensBatch:
        """Returns a batch for the caller's thread to use."""
        return batch


class _GpuLane(_Lane):
    """Makes batches in a stream of their own on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def make(self, simulator: BatchMaker, numbers: range | np.ndarray) -> LensBatch:
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            batch = simulator.batch(numbers)
            images = batch.images
            if images.device.type == "cpu":
                images = images.pin_memory()
            batch = dataclasses.replace(batch, images=images.to(self.device, non_blocking=True))
            # The thread waits, not the caller's stream: a batch that is handed over is there.
            self.stream.synchronize()
        return batch

    def handed_over(self, batch: LensBatch) -> LensBatch:
        # The memory may be used again only when the caller's stream is done with it.
        batch.images.record_stream(torch.cuda.current_stream(self.device))
        return batch


def _lane(device: torch.device | None) -> _Lane:
    if device is None or device.type != "cuda":
        return _Lane()
    return _GpuLane(device)
