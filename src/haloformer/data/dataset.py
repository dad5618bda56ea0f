"""Reading datasets, as `dataset_writer` writes them, quickly in random batches."""

import logging
import operator
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike

from haloformer.errors import InputError
from haloformer.readers.hdf5_checks import (
    checked_calibration,
    checked_class_names,
    checked_images,
    checked_labels,
    checked_parameters,
    damage_named,
    open_hdf5,
    read_attributes,
    read_errors,
    survives_hdf5,
)
from haloformer.readers.unpacked import check_chunks
from haloformer.validation import whole_number, whole_numbers
from haloformer.vocabulary import unknown_name

_log = logging.getLogger(__name__)


class LensDataset(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A dataset file as a PyTorch dataset of (image float32 (C, H, W), label int).

    The file is checked when the object is made and opened anew in every process that reads from it,
    so the object can be pickled and is safe with forked and spawned workers. Batches are fetched by
    one sorted read.
    """

    def __init__(self, path: str | Path):
        """Opens and checks the file.

        Args:
            path: A file in the format that `DatasetWriter` writes.

        Raises:
            InputError: The file is missing, not HDF5, truncated, or not in this format.
        """
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        survives_hdf5(self.path, self._describe)
        self._describe()
        _log.info("dataset %s: %d images of %s", self.path, len(self.labels), self.image_shape)

    def _describe(self) -> None:
        check_chunks(self.path)
        with open_hdf5(self.path) as file, damage_named(self.path):
            self.class_names: tuple[str, ...] = checked_class_names(self.path, file)
            self.image_shape: tuple[int, int, int] = checked_images(self.path, file)
            self.dtype: str = file["images"].dtype.name  # as stored; images come as float32
            n = file["images"].shape[0]
            self.labels: np.ndarray = checked_labels(self.path, file, n, len(self.class_names))
            self.units: dict[str, str] = checked_parameters(self.path, file, n)
            self.attributes: dict[str, Any] = read_attributes(file)
            file["images"][n - 1]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names under ``/parameters``."""
        return tuple(self.units)

    def parameters(self, name: str) -> np.ndarray:
        """Returns a parameter of every image, (N,) or (N, n_max), in ``self.units[name]``."""
        if name not in self.units:
            raise unknown_name(f"parameter in {self.path}", name, self.units)
        with read_errors(self.path, f"parameters/{name}"):
            result: np.ndarray = self._open()["parameters"][name][...]
            return result

    @property
    def pixel_scale(self) -> float | None:
        """Side of the pixels in arcsec, as the attribute ``pixel_scale`` says; None where it is no positive number."""
        said = self.attributes.get("pixel_scale")
        if isinstance(said, bool) or not isinstance(said, int | float | np.number):
            return None
        return float(said) if np.isfinite(said) and said > 0 else None

    @property
    def calibration(self) -> dict[str, np.ndarray]:
        """What belongs to the camera of simulated images; none in other files.

        ``psf`` (K, K): the point-spread function at the spacing of the rays, the attribute ``pixel_scale`` over the survey's
        ``supersampling``; ``noise_map`` (H, W): the noise of each pixel, of a camera that has such a map.

        Raises:
            InputError: They are not images of numbers.
        """
        with read_errors(self.path, "calibration"):
            return checked_calibration(self.path, self._open())

    def images_at(self, indices: ArrayLike) -> torch.Tensor:
        """Reads images in one sorted pass over the file.

        Args:
            indices: B indices in any order, repeats allowed; negative ones count from the end.

        Returns:
            (B, C, H, W) float32, in the order asked for.

        Raises:
            InputError: They are no whole numbers, but a mask, a slice, or numbers with a fraction.
            IndexError: The file has not so many images.
        """
        wanted = whole_numbers(indices, "indices of images").reshape(-1)
        n = len(self)
        if wanted.size and (wanted.min() < -n or wanted.max() >= n):
            raise IndexError(
                f"{self.path} has {n} images; index {wanted.min()}…{wanted.max()} asked for"
            )
        order, positions = np.unique(np.where(wanted < 0, wanted + n, wanted), return_inverse=True)
        images = np.empty((len(order), *self.image_shape), dtype=np.float32)
        with read_errors(self.path, "images"):
            dataset = self._open()["images"]
            if dataset.chunks is None:
                if len(order):
                    images = (
                        dataset[order]
                        if order[-1] - order[0] >= len(order)
                        else dataset[order[0] : order[-1] + 1]
                    )
            else:  # HDF5 handles a list of chunks some ten times slower than one run after another
                for start, stop in _runs(order):
                    dataset.read_direct(
                        images, np.s_[order[start] : order[stop - 1] + 1], np.s_[start:stop]
                    )
        if not np.array_equal(positions, np.arange(len(wanted))):
            images = images[positions]
        return torch.from_numpy(images.astype(np.float32, copy=False))

    def batches(self, size: int = 256) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields (images (B, C, H, W), labels (B,)) in file order, ``size`` at a time."""
        size = whole_number(size, "size of a batch", least=1)
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self.images_at(np.arange(start, stop)), torch.from_numpy(self.labels[start:stop])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        try:
            index = operator.index(index)
        except TypeError:
            raise InputError(
                f"an image has a whole number, not {index!r}: images_at reads several, and "
                "torch.utils.data.Subset is a part of a dataset"
            ) from None
        return self.images_at([index])[0], int(self.labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        """A whole batch at once: what PyTorch's DataLoader calls when it is there."""
        images = self.images_at(indices)
        return list(zip(images, self.labels[np.asarray(indices, int)].tolist(), strict=True))

    def close(self) -> None:
        """Closes the file in this process; reading opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def _open(self) -> h5py.File:
        if (
            self._file is None or self._pid != os.getpid()
        ):  # a forked worker must not share the parent's handle
            self._file = open_hdf5(self.path)
            self._pid = os.getpid()
        return self._file

    def __enter__(self) -> "LensDataset":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}


def check_finite(dataset: LensDataset, batch_size: int = 256) -> None:
    """Reads the whole dataset and refuses it if an image holds NaN or infinite values.

    Args:
        dataset: What to check.
        batch_size: Images in memory at a time.

    Raises:
        InputError: Names the file and the first such image.
    """
    for number, (images, _) in enumerate(dataset.batches(batch_size)):
        bad = first_not_finite(images)
        if bad is not None:
            raise InputError(
                f"{dataset.path}: image {number * batch_size + bad} holds NaN or infinite values"
            )


def first_not_finite(images: torch.Tensor | np.ndarray) -> int | None:
    """Returns the index of the first image (of B, C, H, W) that is not finite, or None."""
    tensor = torch.as_tensor(images)
    bad = ~torch.isfinite(tensor).flatten(1).all(1)
    return int(bad.nonzero()[0]) if bad.any() else None


def _runs(indices: np.ndarray) -> Iterable[tuple[int, int]]:
    """Splits sorted indices into (start, stop) positions between which they are consecutive."""
    if not len(indices):
        return []
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    return zip([0, *breaks], [*breaks, len(indices)], strict=True)
