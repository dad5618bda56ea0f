"""Writing datasets: one self-describing HDF5 file, written whole or not at all.

The file holds ``/images`` (N, C, H, W) float32 (or, on request, float16), ``/labels`` (N,) int64
that index the attribute ``class_names``, and ``/parameters/NAME``, (N,) or (N, n_max), each with its
unit in the attribute ``units`` and NaN where it does not apply. Nothing but h5py is needed to read it.

Without compression, and when the number of images is known beforehand, images lie contiguously:
random batches then read six to twenty times faster than from chunks, whatever the chunk size. A
file that has to grow (an archive of unknown length) or is compressed holds one image per chunk.
"""

import contextlib
import datetime
import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike

from haloformer.data.hdf5_sink import Sink, interrupts_deferred
from haloformer.errors import InputError, exists_already, reason_of
from haloformer.io.writing import check_target, whole_file
from haloformer.readers.hdf5_checks import MAX_IMAGE_VALUES, channels_are_last
from haloformer.readers.pixels import in_single_precision
from haloformer.validation import whole_numbers
from haloformer.vocabulary import unknown_name

FORMAT = "haloformer-dataset"
FORMAT_VERSION = 1

_PARAMETER_ROWS = (
    4096  # rows kept in memory before they are written: small writes cost more than the bytes
)


class Batch(Protocol):
    """What can be written: the part of ``haloformer.simulation.LensBatch`` that is needed here."""

    images: Any  # (B, C, H, W), tensor or array
    labels: Any  # (B,)
    parameters: Any  # name -> (B,) or (B, n_max)


class DatasetWriter:
    """Writes one dataset file, batch by batch.

    It is written beside its place and renamed when it is whole.

    Use it as a context manager. When the block ends in an exception (Ctrl-C and a full disk
    included) the unfinished file is removed and an older file of that name is left as it was.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n: int | None,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        attributes: Mapping[str, object] | None = None,
        compression: str | None = None,
        overwrite: bool = False,
        dtype: str = "float32",
        calibration: Mapping[str, np.ndarray] | None = None,
    ):
        """Checks what can be checked before the work begins; nothing is written yet.

        Args:
            path: The file to make, usually ``*.h5``.
            n: How many images will be written, or None when that is not known (slower to read
                later).
            image_shape: (C, H, W).
            class_names: What the labels index.
            attributes: JSON-able provenance for the file: survey, noise, seed, pixel_scale,
                code_version …; its entry ``units`` (parameter name → unit) goes to the parameters'
                own attributes.
            compression: None, ``"gzip"`` or ``"lzf"``.
            overwrite: Replace an existing file.
            dtype: Of the images: ``"float32"``, or ``"float16"``, which takes half the room and is
                good to 1 in 2,048 of a pixel's value; images beyond ±65,504 are refused then.
            calibration: What belongs to the camera, such as ``psf`` and ``noise_map``: small arrays, kept in ``/calibration``.
        """
        self.calibration = dict(calibration or {})
        self.path = Path(path)
        self.n = n
        self.image_shape = tuple(int(size) for size in image_shape)
        if isinstance(class_names, str):
            raise InputError(f"class_names must be a list of names, not {class_names!r}")
        self.class_names = tuple(class_names)
        self.attributes = dict(attributes or {})
        units = self.attributes.pop("units", None)
        self.units = (
            {str(name): str(unit) for name, unit in units.items()}
            if isinstance(units, Mapping)
            else {}
        )
        self.compression = compression
        self.overwrite = overwrite
        self.written = 0
        self._file: h5py.File | None = None
        self._sink: Sink | None = None
        self._place: contextlib.AbstractContextManager[Path] | None = None
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
        if not all(isinstance(name, str) for name in self.class_names):
            raise InputError(f"class names must be texts, not {list(self.class_names)}")
        if channels_are_last(self.image_shape):
            raise InputError(
                f"cannot store images of shape {self.image_shape}, with channels last: (channels, height, width) is needed"
            )
        if n is not None and n < 1:
            raise InputError(f"a dataset needs at least one image, not {n}")
        if compression not in (None, "gzip", "lzf"):
            raise unknown_name("compression", str(compression), ("gzip", "lzf"))
        if dtype not in ("float32", "float16"):
            raise unknown_name("dtype", dtype, ("float32", "float16"))
        self.dtype = np.dtype(dtype)
        self._refuse_existing()

    def __enter__(self) -> "DatasetWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.n is not None and self.compression is None:
                size = int(np.prod(self.image_shape)) * self.dtype.itemsize
                check_free_space(self.path, self.n * size)
            place = whole_file(self.path, exclusive=True)
            part = place.__enter__()
            self._place = place
        except OSError as error:
            raise _write_error(self.path, error) from error
        try:
            self._sink = Sink(part)
            with self._writing():
                self._file = h5py.File(self._sink, "w")
                self._create()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
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
            batch: Has ``images`` (B, C, H, W), ``labels`` (B,) and ``parameters`` (name → (B,) or
                (B, n_max)), the same names and widths in every batch.
            files: Where each image came from, kept in ``/files``; given for every batch or for
                none.
        """
        if self._file is None:
            raise RuntimeError("DatasetWriter.write is called inside the with-block only")
        images = self._stored(_real(batch.images, f"{self.path}: images"))
        labels = _to_numpy(batch.labels)
        if labels.dtype.kind != "b":  # of two classes, a question's answers will do
            labels = whole_numbers(labels, f"{self.path}: labels")
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

    def _stored(self, images: np.ndarray) -> np.ndarray:
        """Returns images in the precision of the file."""
        if self.dtype == np.float32:
            return in_single_precision(images, str(self.path))
        with np.errstate(over="ignore"):
            stored = images.astype(self.dtype)
        if (np.isinf(stored) & np.isfinite(images)).any():
            raise InputError(f"{self.path}: images beyond ±65504 need the dtype float32")
        return stored

    def drop_absent_classes(self) -> None:
        """Removes the classes that no image has and renumbers the labels.

        For archives whose classes are known only at the end.
        """
        assert self._file is not None
        with self._writing():
            self._flush_rows()
            labels = self._file["labels"][:]
            present = np.unique(labels)
            self._file["labels"][:] = np.searchsorted(present, labels)
        self.class_names = tuple(self.class_names[label] for label in present)

    def has_numbers(self, name: str) -> bool:
        """Returns whether a parameter is a number for any of the images that were written."""
        assert self._file is not None
        with self._writing():
            self._flush_rows()
            return bool(np.isfinite(self._file[f"parameters/{name}"][:]).any())

    def replace_parameter(self, name: str, values: np.ndarray | None, units: str = "") -> None:
        """Writes a parameter of all images that is known only at the end.

        Args:
            name: Its name; what was written under it goes.
            values: (N,) or (N, n_max); None: there is no such parameter.
            units: Its unit.
        """
        assert self._file is not None
        with self._writing():
            self._flush_rows()
            place = f"parameters/{name}"
            if place in self._file:
                del self._file[place]
            if values is not None:
                more = {} if self.compression is None else {"compression": self.compression, "shuffle": True}  # fmt: skip
                dataset = self._file.create_dataset(place, data=values, **more)
                dataset.attrs["units"] = units

    def _create(self) -> None:
        assert self._file is not None
        self._create_column(
            "images", self.image_shape, self.dtype.newbyteorder("<"), rows_per_chunk=1
        )
        self._create_column("labels", (), np.dtype("<i8"))
        self._file.create_group("parameters")

    def _create_column(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        rows_per_chunk: int = _PARAMETER_ROWS,
    ) -> h5py.Dataset:
        assert self._file is not None
        options: dict[str, object] = {}
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
            for name, values in self.calibration.items():
                self._file.create_dataset(f"calibration/{name}", data=np.asarray(values, "<f4"))
            attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, **self.attributes}
            attributes.setdefault(
                "created", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            )
            _write_attributes(self._file, {**attributes, "class_names": self.class_names})
            self._file.close()
        self._file = None
        assert self._sink is not None
        assert self._place is not None
        place, self._place = self._place, None
        try:
            self._sink.close()
            place.__exit__(None, None, None)
        except OSError as error:
            raise _write_error(self.path, error) from error

    def _abandon(self) -> None:
        place, self._place = self._place, None
        given_up = OSError(errno.ECANCELED, "given up")
        # An impatient second Ctrl-C must not leave the unfinished file behind.
        with interrupts_deferred():
            if self._sink is not None:
                self._sink.error = self._sink.error or given_up  # no more goes to the disk
                with contextlib.suppress(Exception):
                    if self._file is not None:
                        self._file.close()
                self._sink.close()
            self._sink = self._file = None
            if place is not None:
                place.__exit__(OSError, given_up, None)  # removes the unfinished file

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises what went wrong with the disk once HDF5 is out of the way, as one clear line."""
        try:
            with interrupts_deferred():
                yield
        except (OSError, RuntimeError) as error:
            raise _write_error(self.path, error) from error
        assert self._sink is not None
        if self._sink.error is not None:
            raise _write_error(self.path, self._sink.error) from self._sink.error

    def _refuse_existing(self) -> None:
        check_target(self.path)
        if self.path.exists() and not self.overwrite:
            raise exists_already(self.path)


def write_dataset(
    path: str | Path,
    images: torch.Tensor | np.ndarray,
    labels: torch.Tensor | np.ndarray,
    parameters: Mapping[str, torch.Tensor | np.ndarray],
    class_names: Sequence[str],
    attributes: Mapping[str, object] | None = None,
    *,
    compression: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes arrays in memory as a dataset file; the arguments are those of `DatasetWriter`.

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
    images = _real(images, "images")
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


@dataclass
class _ArrayBatch:
    images: torch.Tensor | np.ndarray
    labels: torch.Tensor | np.ndarray
    parameters: Mapping[str, torch.Tensor | np.ndarray]


def check_free_space(path: Path, need: int) -> None:
    """Refuses to begin writing ``need`` bytes at ``path`` when the disk has less than that free."""
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise InputError(
            f"not enough disk space for {path}: {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} are free"
        )


def _parameter_column(name: str, values: ArrayLike, size: int) -> np.ndarray:
    column = _to_numpy(values)
    if not name.isidentifier():
        raise InputError(f"'{name}' cannot name a parameter: letters, digits and _ only")
    if column.ndim not in (1, 2) or len(column) != size or column.dtype.kind not in "biuf":
        raise InputError(
            f"parameter {name} is {column.dtype} {column.shape}; ({size},) or ({size}, n_max) is needed"
        )
    return column.astype("<f8" if column.dtype.kind == "f" else "<i8", copy=False)


def _to_numpy(values: torch.Tensor | ArrayLike) -> np.ndarray:
    """Returns an array of any kind as NumPy's; what is masked is NaN."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, np.ma.MaskedArray):
        known: np.ndarray = values.data
        return np.where(np.ma.getmaskarray(values), np.nan, known) if values.mask.any() else known
    return np.asarray(values)


def _real(values: torch.Tensor | ArrayLike, what: str) -> np.ndarray:
    """Returns an array of real numbers; raises InputError for all else."""
    try:
        found = _to_numpy(values)
    except (TypeError, ValueError) as error:  # lists of several lengths
        raise InputError(f"{what} cannot be read as one array: {reason_of(error)}") from error
    if found.dtype.kind not in "biuf":
        raise InputError(f"{what} are {type(values).__name__} of {found.dtype}, not real numbers")
    return found


def _write_attributes(file: h5py.File, attributes: Mapping[str, object]) -> None:
    """Writes numbers, strings and lists of strings as they are, everything else as JSON.

    Which ones were turned into JSON stands in the attribute ``json_attributes``, so that they come
    back as they were.
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


def _write_error(path: Path, error: Exception) -> InputError:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InputError(f"no disk space left while writing {path}; nothing was kept of it")
    return InputError(f"cannot write {path}: {reason_of(error)}")
