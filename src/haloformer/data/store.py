"""Datasets on disk: one self-describing HDF5 file, written whole or not at all, read quickly in random batches.

The file holds ``/images`` (N, C, H, W) float32, ``/labels`` (N,) int64 that index the attribute ``class_names``, and
``/parameters/NAME``, (N,) or (N, n_max), each with its unit in the attribute ``units`` and NaN where it does not apply.
Nothing but h5py is needed to read it.

Without compression, and when the number of images is known beforehand, images lie contiguously: random batches then
read six to twenty times faster than from chunks, whatever the chunk size. A file that has to grow (an archive of
unknown length) or is compressed holds one image per chunk.
"""

import contextlib
import datetime
import errno
import json
import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

FORMAT = "haloformer-dataset"
FORMAT_VERSION = 1

MAX_IMAGE_VALUES = 2**26
"""Values (C·H·W) that one image may have: 64 Mi, 256 MiB as float32. More is taken for a corrupt or hostile file."""

_PARAMETER_ROWS = (
    4096  # rows kept in memory before they are written: small writes cost more than the bytes
)
_MAX_INFLATION = (
    1100  # deflate cannot shrink data more than 1032-fold; what claims more is not there
)
_MAX_CHUNK_BYTES = 2**30
_PATIENCE = 30  # seconds that opening a file may take


class Batch(Protocol):
    """What can be written: the part of ``haloformer.simulation.LensBatch`` that is needed here."""

    images: Any  # (B, C, H, W)
    labels: Any  # (B,)
    parameters: Any  # name -> (B,) or (B, n_max)


class DatasetWriter:
    """Writes one dataset file, batch by batch, beside its final place, and renames it when it is whole.

    Use it as a context manager. When the block ends in an exception (Ctrl-C and a full disk included) the unfinished
    file is removed and an older file of that name is left as it was.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n: int | None,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        compression: str | None = None,
        overwrite: bool = False,
    ):
        """Checks what can be checked before the work begins; nothing is written yet.

        Args:
            path: The file to make, usually ``*.h5``.
            n: How many images will be written, or None when that is not known (slower to read later).
            image_shape: (C, H, W).
            class_names: What the labels index.
            attributes: JSON-able provenance for the file: survey, noise, seed, pixel_scale, code_version …; its entry
                ``units`` (parameter name → unit) goes to the parameters' own attributes.
            compression: None, ``"gzip"`` or ``"lzf"``.
            overwrite: Replace an existing file.
        """
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.n = n
        self.image_shape = tuple(int(size) for size in image_shape)
        self.class_names = tuple(class_names)
        self.attributes = dict(attributes or {})
        self.units = {
            str(name): str(unit)
            for name, unit in (self.attributes.pop("units", None) or {}).items()
        }
        self.compression = compression
        self.overwrite = overwrite
        self.written = 0
        self._file: h5py.File | None = None
        self._sink: _Sink | None = None
        self._rows: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self._rows_flushed = 0
        self._row_names: set[str] = set()

        if (
            len(self.image_shape) != 3
            or min(self.image_shape) < 1
            or np.prod(self.image_shape) > MAX_IMAGE_VALUES
        ):
            raise InputError(
                f"cannot store images of shape {self.image_shape}: (channels, height, width) is needed"
            )
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise InputError(
                f"class names must be given and differ from each other, not {list(self.class_names)}"
            )
        if n is not None and n < 1:
            raise InputError(f"a dataset needs at least one image, not {n}")
        if compression not in (None, "gzip", "lzf"):
            raise unknown_name("compression", str(compression), ("gzip", "lzf"))
        self._refuse_existing()

    def __enter__(self) -> "DatasetWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.n is not None and self.compression is None:
                check_free_space(self.path, self.n * int(np.prod(self.image_shape)) * 4)
            self._sink = _Sink(self.part)
        except OSError as error:
            raise _write_error(self.path, error) from error
        try:
            with self._writing():
                self._file = h5py.File(self._sink, "w")
                self._create()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise

    def write(self, batch: Batch, files: Sequence[str] | None = None) -> None:
        """Appends a batch.

        Args:
            batch: Has ``images`` (B, C, H, W), ``labels`` (B,) and ``parameters`` (name → (B,) or (B, n_max)), the same
                names and widths in every batch.
            files: Where each image came from, kept in ``/files``; given for every batch or for none.
        """
        if self._file is None:
            raise RuntimeError("DatasetWriter.write is called inside the with-block only")
        images = _to_numpy(batch.images).astype(np.float32, copy=False)
        labels = _to_numpy(batch.labels)
        size = len(labels)
        if images.shape != (size, *self.image_shape):
            raise InputError(
                f"{self.path}: a batch of shape {images.shape} does not fit {size} images of shape {self.image_shape}"
            )
        if size and (labels.min() < 0 or labels.max() >= len(self.class_names)):
            raise InputError(
                f"{self.path}: labels {labels.min()}…{labels.max()} do not index {self.class_names}"
            )
        end = self.written + size
        if self.n is not None and end > self.n:
            raise ValueError(f"{self.path}: {end} images written where {self.n} were announced")

        rows = {
            name: _parameter_column(name, values, size) for name, values in batch.parameters.items()
        }
        if files is not None:
            rows["/files"] = np.array(
                [str(file).encode("utf-8", "surrogateescape") for file in files], dtype=object
            )
        with self._writing():
            if self.written == 0:
                self._create_parameters(rows)
            elif set(rows) != self._row_names:
                raise InputError(
                    f"{self.path}: parameters {sorted(rows)} differ from {sorted(self._row_names)} before"
                )
            if self.n is None:
                self._file["images"].resize(end, axis=0)
            self._file["images"][self.written : end] = images
            self._rows.append((labels.astype(np.int64), rows))
            self.written = end
            if self.written - self._rows_flushed >= _PARAMETER_ROWS:
                self._flush_rows()

    def drop_absent_classes(self) -> None:
        """Forgets the classes that no image has, renumbering the labels: for sources whose classes show up late."""
        assert self._file is not None
        with self._writing():
            self._flush_rows()
            labels = self._file["labels"][:]
            present = np.unique(labels)
            self._file["labels"][:] = np.searchsorted(present, labels)
        self.class_names = tuple(self.class_names[label] for label in present)

    def _create(self) -> None:
        assert self._file is not None
        self._create_column("images", self.image_shape, np.dtype("<f4"), rows_per_chunk=1)
        self._create_column("labels", (), np.dtype("<i8"))
        self._file.create_group("parameters")

    def _create_column(
        self, name: str, shape: tuple[int, ...], dtype: Any, rows_per_chunk: int = _PARAMETER_ROWS
    ) -> Any:
        assert self._file is not None
        options: dict[str, Any] = {}
        if self.n is None:
            options = {"maxshape": (None, *shape), "chunks": (rows_per_chunk, *shape)}
        elif self.compression is not None:
            options = {"chunks": (min(rows_per_chunk, self.n), *shape)}
        if self.compression is not None:
            options |= {"compression": self.compression, "shuffle": True}
        return self._file.create_dataset(name, (self.n or 0, *shape), dtype, **options)

    def _create_parameters(self, rows: dict[str, np.ndarray]) -> None:
        if (
            self.n is not None and self.compression is None
        ):  # the images were counted before; now the rest is known
            check_free_space(self.path, sum(column[:1].nbytes for column in rows.values()) * self.n)
        self._row_names = set(rows)
        for name, column in rows.items():
            if name == "/files":
                self._create_column(name, (), h5py.string_dtype())
                continue
            dataset = self._create_column(f"parameters/{name}", column.shape[1:], column.dtype)
            dataset.attrs["units"] = self.units.get(name, "")

    def _flush_rows(self) -> None:
        if not self._rows:
            return
        assert self._file is not None
        start, end = self._rows_flushed, self.written
        for name in ("labels", *self._row_names):
            columns = [labels if name == "labels" else rows[name] for labels, rows in self._rows]
            dataset = self._file[name if name in ("labels", "/files") else f"parameters/{name}"]
            if self.n is None:
                dataset.resize(end, axis=0)
            dataset[start:end] = np.concatenate(columns)
        self._rows.clear()
        self._rows_flushed = end

    def _finish(self) -> None:
        assert self._file is not None
        if self.written == 0 or (self.n is not None and self.written != self.n):
            raise ValueError(
                f"{self.path}: {self.written} images written where {self.n or 'some'} were announced"
            )
        self._refuse_existing()
        with self._writing():
            self._flush_rows()
            attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, **self.attributes}
            attributes.setdefault(
                "created", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            )
            _write_attributes(self._file, {**attributes, "class_names": self.class_names})
            self._file.close()
        self._file = None
        assert self._sink is not None
        try:
            self._sink.close(keep=True)
            os.replace(self.part, self.path)
        except OSError as error:
            raise _write_error(self.path, error) from error

    def _abandon(self) -> None:
        if self._sink is None:
            return
        self._sink.error = self._sink.error or OSError(
            errno.ECANCELED, "given up"
        )  # no more goes to the disk
        with (
            _interrupts_deferred()
        ):  # an impatient second Ctrl-C must not leave the unfinished file behind
            with contextlib.suppress(Exception):
                if self._file is not None:
                    self._file.close()
            self._sink.close(keep=False)
            with contextlib.suppress(OSError):
                self.part.unlink(missing_ok=True)
            self._sink = self._file = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises what went wrong with the disk once HDF5 is out of the way, as one clear line."""
        try:
            with _interrupts_deferred():
                yield
        except (OSError, RuntimeError) as error:
            raise _write_error(self.path, error) from error
        assert self._sink is not None
        if self._sink.error is not None:
            raise _write_error(self.path, self._sink.error) from self._sink.error

    def _refuse_existing(self) -> None:
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder; give the name of a file to write")
        if self.path.exists() and not self.overwrite:
            raise InputError(
                f"{self.path} exists already; choose another name or ask for it to be overwritten"
            )


def write_dataset(
    path: str | Path,
    images: Any,
    labels: Any,
    parameters: Mapping[str, Any],
    class_names: Sequence[str],
    attributes: Mapping[str, Any] | None = None,
    *,
    compression: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes arrays that are already in memory as a dataset file; the arguments are those of `DatasetWriter`.

    Args:
        path: The file to make.
        images: (N, C, H, W), tensor or array.
        labels: (N,), indices into ``class_names``.
        parameters: name → (N,) or (N, n_max).
        class_names: What the labels index.
        attributes: Provenance; see `DatasetWriter`.
        compression: None, ``"gzip"`` or ``"lzf"``.
        overwrite: Replace an existing file.
    """
    batch = _ArrayBatch(images, labels, parameters)
    with DatasetWriter(
        path,
        n=len(labels),
        image_shape=images.shape[1:],
        class_names=class_names,
        attributes=attributes,
        compression=compression,
        overwrite=overwrite,
    ) as writer:
        writer.write(batch)


class _ArrayBatch:
    def __init__(self, images: Any, labels: Any, parameters: Mapping[str, Any]):
        self.images, self.labels, self.parameters = images, labels, parameters


class LensDataset(torch.utils.data.Dataset):
    """A dataset file as a PyTorch dataset of (image float32 (C, H, W), label int).

    The file is checked when the object is made and opened anew in every process that reads from it, so the object can
    be pickled and is safe with forked and spawned workers. Batches are fetched by one sorted read.
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

    def _describe(self) -> None:
        with open_hdf5(self.path) as file, damage_named(self.path):
            self.class_names: tuple[str, ...] = _checked_class_names(self.path, file)
            self.image_shape: tuple[int, int, int] = _checked_images(self.path, file)
            n = file["images"].shape[0]
            self.labels: np.ndarray = _checked_labels(self.path, file, n, len(self.class_names))
            self.units: dict[str, str] = _checked_parameters(self.path, file, n)
            self.attributes: dict[str, Any] = read_attributes(file)
            file["images"][n - 1]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names under ``/parameters``."""
        return tuple(self.units)

    def parameters(self, name: str) -> np.ndarray:
        """Returns one physical parameter of every image, (N,) or (N, n_max), in the unit ``self.units[name]``."""
        if name not in self.units:
            raise unknown_name(f"parameter in {self.path}", name, self.units)
        with _read_errors(self.path, f"parameters/{name}"):
            return self._open()["parameters"][name][...]

    def images_at(self, indices: Any) -> torch.Tensor:
        """Reads images in one sorted pass over the file.

        Args:
            indices: B indices in any order, repeats allowed; negative ones count from the end.

        Returns:
            (B, C, H, W) float32, in the order asked for.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        n = len(self)
        if wanted.size and (wanted.min() < -n or wanted.max() >= n):
            raise IndexError(
                f"{self.path} has {n} images; index {wanted.min()}…{wanted.max()} asked for"
            )
        order, positions = np.unique(np.where(wanted < 0, wanted + n, wanted), return_inverse=True)
        images = np.empty((len(order), *self.image_shape), dtype=np.float32)
        with _read_errors(self.path, "images"):
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
        return torch.from_numpy(images)

    def batches(self, size: int = 256) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields (images (B, C, H, W), labels (B,)) in file order, ``size`` at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self.images_at(np.arange(start, stop)), torch.from_numpy(self.labels[start:stop])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images_at([index])[0], int(self.labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        """A whole batch at once: what PyTorch's DataLoader calls when it is there."""
        return list(zip(self.images_at(indices), self.labels[indices].tolist(), strict=True))

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

    def __getstate__(self) -> dict[str, Any]:
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


def first_not_finite(images: Any) -> int | None:
    """Returns the index of the first image of (B, C, H, W) with a NaN or infinite value, or None."""
    tensor = torch.as_tensor(images)
    bad = ~torch.isfinite(tensor).flatten(1).all(1)
    return int(bad.nonzero()[0]) if bad.any() else None


def open_hdf5(path: str | Path) -> h5py.File:
    """Opens an HDF5 file for reading; whatever is wrong with it is an `InputError` that names it."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, not an HDF5 file; `haloformer convert` makes one of a folder"
        )
    try:
        # Files appear whole, by renaming, and never change: locks would only hinder read-only and network file systems.
        return h5py.File(path, "r", locking=False)
    except (OSError, RuntimeError, ValueError) as error:
        text = str(error)
        if "signature not found" in text:
            raise InputError(f"{path} is not an HDF5 file") from error
        if "truncated" in text:
            raise InputError(f"{path} is truncated: part of the file is missing") from error
        raise InputError(f"{path} cannot be read as HDF5: {_first_line(error)}") from error


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns whatever h5py raises on a damaged file, which may be nearly anything, into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} is corrupt: {_first_line(error)}") from error


def survives_hdf5(path: Path, check: Callable[[], Any]) -> None:
    """Runs ``check`` in a forked process first, because HDF5 hangs or crashes on some damaged files.

    What ``check`` raises is not reported here: the caller runs it again. Without fork (or where it is unsafe, as on
    macOS) nothing is done.

    Raises:
        InputError: The process ended by a signal, which is what would have happened to this one.
    """
    if sys.platform != "linux":
        return
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forking beside threads: the child needs none of them
        try:
            child = os.fork()
        except OSError:
            return
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_PATIENCE)
            check()
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGALRM:
        raise InputError(f"{path} is corrupt: HDF5 does not come to an end with it")
    if status < 0:
        raise InputError(f"{path} is corrupt: HDF5 crashes on it")


def plain_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Returns a dataset that lies inside the file itself; a link to elsewhere or an absurd size is refused.

    Following links to other files would let a dataset file show what else is on the disk.
    """
    group: Any = file
    for step in name.split("/"):
        try:
            link = group.get(step, getlink=True)
            found = group.get(step) if isinstance(link, h5py.HardLink) else None
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(f"{path}: /{name} cannot be read: {_first_line(error)}") from error
        if link is None:
            raise InputError(
                f"{path}: there is no /{name}; a dataset file needs /images and /labels"
            )
        if found is None:
            raise InputError(f"{path}: /{name} is a link to somewhere else, which is not followed")
        group = found
    if not isinstance(group, h5py.Dataset):
        raise InputError(f"{path}: /{name} is a group where a dataset is needed")
    if group.is_virtual or group.external:
        raise InputError(f"{path}: /{name} keeps its data in other files, which are not opened")
    if group.shape is None or (
        group.dtype.hasobject and h5py.check_string_dtype(group.dtype) is None
    ):
        raise InputError(f"{path}: /{name} is not an array of numbers")
    if group.nbytes > _MAX_INFLATION * group.id.get_storage_size():
        raise InputError(
            f"{path}: /{name} has shape {group.shape}, but the file does not hold that much data"
        )
    if (
        group.chunks is not None
        and np.prod(group.chunks, dtype=float) * group.dtype.itemsize > _MAX_CHUNK_BYTES
    ):
        raise InputError(
            f"{path}: /{name} is stored in chunks of {group.chunks}, too large to read one image"
        )
    return group


def check_free_space(path: Path, need: int) -> None:
    """Refuses to begin writing ``need`` bytes at ``path`` when the disk has less than that free."""
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise InputError(
            f"not enough disk space for {path}: {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} are free"
        )


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Returns the root attributes as plain Python values."""
    try:
        values = {key: _plain_value(value) for key, value in file.attrs.items()}
        for key in values.pop("json_attributes", []):
            values[key] = json.loads(values[key])
        return values
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file.filename}: the attributes cannot be read: {_first_line(error)}"
        ) from error


def read_class_names(path: Path, file: h5py.File) -> tuple[str, ...] | None:
    """Returns the attribute ``class_names``, or None where there is none."""
    value = read_attributes(file).get("class_names")
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"{path}: the attribute class_names must be a list of names, not {value!r}"
        )
    if len(set(value)) != len(value):
        raise InputError(f"{path}: the attribute class_names repeats a name: {value}")
    return tuple(value)


def _checked_class_names(path: Path, file: h5py.File) -> tuple[str, ...]:
    names = read_class_names(path, file)
    if names is None:
        raise InputError(
            f"{path}: the attribute class_names is missing, so the labels have no meaning"
        )
    return names


def _checked_images(path: Path, file: h5py.File) -> tuple[int, int, int]:
    images = plain_dataset(path, file, "images")
    if images.ndim != 4 or images.shape[0] < 1 or min(images.shape) < 1:
        raise InputError(
            f"{path}: /images has shape {images.shape}; (N, channels, height, width) is needed"
        )
    if images.dtype != np.float32:
        raise InputError(
            f"{path}: /images is {images.dtype}; float32 is needed (`haloformer convert` makes it so)"
        )
    if np.prod(images.shape[1:], dtype=float) > MAX_IMAGE_VALUES:
        raise InputError(
            f"{path}: /images has images of {images.shape[1:]}, more than {MAX_IMAGE_VALUES} values each"
        )
    return images.shape[1:]


def _checked_labels(path: Path, file: h5py.File, n: int, num_classes: int) -> np.ndarray:
    labels = plain_dataset(path, file, "labels")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: /labels is {labels.dtype} {labels.shape}; {n} integers are needed, one per image"
        )
    with _read_errors(path, "labels"):
        values = labels[...].astype(np.int64)
    wrong = np.flatnonzero((values < 0) | (values >= num_classes))
    if wrong.size:
        raise InputError(
            f"{path}: label {values[wrong[0]]} of image {wrong[0]} in /labels is out of range: there are {num_classes} "
            "class_names"
        )
    return values


def _checked_parameters(path: Path, file: h5py.File, n: int) -> dict[str, str]:
    if "parameters" not in file:
        return {}
    link = file.get("parameters", getlink=True)
    if not isinstance(link, h5py.HardLink) or not isinstance(file["parameters"], h5py.Group):
        raise InputError(f"{path}: /parameters must be a group of arrays")
    units = {}
    for name in sorted(file["parameters"]):
        parameter = plain_dataset(path, file, f"parameters/{name}")
        if (
            parameter.ndim not in (1, 2)
            or parameter.shape[0] != n
            or parameter.dtype.kind not in "iuf"
        ):
            raise InputError(
                f"{path}: /parameters/{name} is {parameter.dtype} {parameter.shape}; ({n},) or ({n}, n_max) numbers "
                "are needed"
            )
        units[name] = str(_plain_value(parameter.attrs.get("units", "")))
    return units


def _parameter_column(name: str, values: Any, size: int) -> np.ndarray:
    column = _to_numpy(values)
    if not name.isidentifier():
        raise InputError(f"'{name}' cannot name a parameter: letters, digits and _ only")
    if column.ndim not in (1, 2) or len(column) != size or column.dtype.kind not in "biuf":
        raise InputError(
            f"parameter {name} is {column.dtype} {column.shape}; ({size},) or ({size}, n_max) is needed"
        )
    return column.astype("<f8" if column.dtype.kind == "f" else "<i8", copy=False)


def _to_numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _runs(indices: np.ndarray) -> Iterable[tuple[int, int]]:
    """Splits sorted indices into (start, stop) positions between which they are consecutive."""
    if not len(indices):
        return []
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    return zip([0, *breaks], [*breaks, len(indices)], strict=True)


def _write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Plain numbers, strings and lists of strings stay readable in any HDF5 tool; everything else becomes JSON.

    Which ones were turned into JSON stands in the attribute ``json_attributes``, so that they come back as they were.
    """
    encoded = []
    for key, value in attributes.items():
        value = value.item() if isinstance(value, np.generic) else value
        if (
            isinstance(value, tuple | list)
            and value
            and all(isinstance(item, str) for item in value)
        ):
            file.attrs.create(key, list(value), dtype=h5py.string_dtype())
        elif isinstance(value, str | bool | float) or (
            isinstance(value, int) and -(2**63) <= value < 2**63
        ):
            file.attrs[key] = value
        else:
            file.attrs[key] = json.dumps(value)
            encoded.append(key)
    if encoded:
        file.attrs.create("json_attributes", encoded, dtype=h5py.string_dtype())


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_decode_item(item) for item in value.tolist()]
    return _decode_item(value)


def _decode_item(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(
        value, str
    ):  # h5py passes bytes that are not UTF-8 on as surrogates, which nobody can write again
        value = value.encode("utf-8", "surrogateescape")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class _Sink:
    """The file that HDF5 writes to; it keeps the disk's failures to itself.

    HDF5 cannot close a file that it failed to write to: it prints pages of errors and crashes the interpreter at exit.
    So it is told that all went well, what could not be written is kept in memory (little, for the writer asks for
    ``error`` after every batch and gives up), and the file is thrown away.
    """

    def __init__(self, path: Path):
        self._data = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115
        try:
            _lock(self._data.fileno(), path)
            self._data.truncate(0)
        except BaseException:
            self._data.close()
            raise
        self._position = self._size = 0
        self._lost: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                self._data.seek(self._position + done)
                done += self._data.write(view[done:]) or 0
        except OSError as error:
            self.error = error
        if done < len(view):
            self._lost.append((self._position + done, bytes(view[done:])))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self._size)
        self._data.seek(start)
        data = bytearray(self._data.read(stop - start) or b"").ljust(max(0, stop - start), b"\0")
        for offset, lost in self._lost:
            low, high = max(start, offset), min(stop, offset + len(lost))
            if low < high:
                data[low - start : high - start] = lost[low - offset : high - offset]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def truncate(self, size: int) -> int:
        try:
            if self.error is None:
                self._data.truncate(size)
        except OSError as error:
            self.error = error
        self._size = size
        return size

    def flush(self) -> None:
        pass  # nothing is buffered here

    def close(self, keep: bool) -> None:
        """Ends the writing; with ``keep``, everything is brought to the disk first."""
        if keep:
            os.fsync(self._data.fileno())
        self._data.close()


def _lock(descriptor: int, path: Path) -> None:
    """Keeps a second process from writing the same file, where the system can."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{path} is being written by another process") from error
    except (ImportError, OSError):
        pass


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Holds back Ctrl-C while HDF5 is at work, which calls `_Sink` and crashes if that raises."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    caught: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught and callable(before):
            before(*caught[0])


def _write_error(path: Path, error: Exception) -> InputError:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InputError(f"no disk space left while writing {path}; nothing was kept of it")
    return InputError(f"cannot write {path}: {_first_line(error)}")


@contextlib.contextmanager
def _read_errors(path: Path, field: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, MemoryError) as error:
        raise InputError(f"{path}: /{field} cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
