"""Checks of HDF5 files from outside: links, sizes, types, and whether HDF5 survives them."""

import contextlib
import itertools
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from haloformer.errors import InputError, reason_of
from haloformer.files import check_regular, printable
from haloformer.io.strict_json import parse_json
from haloformer.vocabulary import canonical_class

MAX_IMAGE_VALUES = 2**26
"""Values (C·H·W) that one image may have: 64 Mi, 256 MiB as float32. More is taken for a corrupt or hostile file."""

_MAX_CALIBRATION, _MAX_CALIBRATION_SIDE = 16, 4096
MAX_PARAMETERS = 1000
"""Arrays that /parameters may hold; each is looked at whenever the file is opened."""

_MAX_INFLATION = (
    1100  # deflate cannot shrink data more than 1032-fold; what claims more is not there
)
_MAX_CHUNK_BYTES = 2**30
_LONGEST_ODD = 200  # characters of an attribute that JSON has no type for
_PATIENCE = 30  # seconds that opening a file may take


def open_hdf5(path: str | Path) -> h5py.File:
    """Opens an HDF5 file for reading; raises InputError that names it if that fails."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, not an HDF5 file; `haloformer convert` makes one of a folder"
        )
    check_regular(path)
    try:
        # Files appear whole, by renaming, and never change: locks would only hinder read-only and network file systems.
        return h5py.File(path, "r", locking=False)
    except (OSError, RuntimeError, ValueError) as error:
        text = str(error)
        if "file locking flag" in text:  # it is open elsewhere in this process, with locks
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                return h5py.File(path, "r")
        if "signature not found" in text:
            raise InputError(f"{path} is not an HDF5 file") from error
        if "truncated" in text:
            raise InputError(f"{path} is truncated: part of the file is missing") from error
        raise InputError(f"{path} cannot be read as HDF5: {reason_of(error)}") from error


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns what h5py raises on a damaged file, nearly anything, into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} is corrupt: {reason_of(error)}") from error


@contextlib.contextmanager
def read_errors(path: Path, field: str) -> Iterator[None]:
    """Turns an error of reading a field into one line that names both."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, MemoryError) as error:
        raise InputError(f"{path}: /{field} cannot be read: {reason_of(error)}") from error


def survives_hdf5(path: Path, check: Callable[[], object]) -> None:
    """Runs ``check`` in a forked process first: HDF5 hangs or crashes on some damaged files.

    What ``check`` raises is not reported here: the caller runs it again. Without fork (or where it
    is unsafe, as on macOS) nothing is done.

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


def _inside(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Returns a dataset that lies inside the file itself; links to elsewhere are refused."""
    group: h5py.Group | h5py.Dataset = file
    for step in name.split("/"):
        try:
            link = group.get(step, getlink=True)
            found = group.get(step) if isinstance(link, h5py.HardLink) else None
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(f"{path}: /{name} cannot be read: {reason_of(error)}") from error
        if link is None:
            there = ", ".join(printable(key) for key in itertools.islice(file, 8)) or "nothing"
            raise InputError(
                f"{path}: there is no /{name}, but {there[:120]}; a dataset file needs /images and /labels"
            )
        if found is None:
            raise InputError(f"{path}: /{name} is a link to somewhere else, which is not followed")
        group = found
    if not isinstance(group, h5py.Dataset):
        raise InputError(f"{path}: /{name} is a group where a dataset is needed")
    return group


def plain_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Returns a dataset that lies inside the file itself and has a plausible size.

    Links to elsewhere are refused.

    Following links to other files would let a dataset file show what else is on the disk.
    """
    group = _inside(path, file, name)
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


def read_attributes(file: h5py.File) -> dict[str, Any]:  # as JSON is
    """Returns the root attributes as plain Python values."""
    try:
        values: dict[str, Any] = {
            key: _plain_value(value)
            for key, value in file.attrs.items()
            if not isinstance(value, h5py.Empty)  # of a type, but without a value
        }
        for key in values.pop("json_attributes", []):
            values[key] = parse_json(values[key], key, nan=math.nan)
        return values
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file.filename}: the attributes cannot be read: {reason_of(error)}"
        ) from error


def read_class_names(path: Path, file: h5py.File) -> tuple[str, ...] | None:
    """Returns the attribute ``class_names`` of the file, or of its labels, or None where there is none."""
    value = read_attributes(file).get("class_names")
    if value is None and isinstance(file.get("labels", getlink=True), h5py.HardLink):
        try:
            value = _plain_value(file["labels"].attrs.get("class_names"))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError):
            value = None
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise InputError(
            f"{path}: the attribute class_names must be a list of names, not {repr(value)[:80]}"
        )
    if len(set(value)) != len(value):
        raise InputError(f"{path}: the attribute class_names repeats a name: {repr(value)[:80]}")
    return tuple(value)


def checked_class_names(path: Path, file: h5py.File) -> tuple[str, ...]:
    """Returns the attribute ``class_names``, canonical where a name is known (``vort``: ``axion``); raises InputError where there is none."""
    names = read_class_names(path, file)
    if names is None:
        raise InputError(
            f"{path}: the attribute class_names is missing, so the labels have no meaning"
        )
    if read_attributes(file).get("format") is not None:
        return names  # of our own files classes may have any name
    known = tuple(canonical_class(name) for name in names)
    return known if len(set(known)) == len(known) else names


def channels_are_last(shape: tuple[int, ...]) -> bool:
    """Tells whether the shape of an image can only be (H, W, C): square, of one, three or four channels."""
    return len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] == shape[1] > 1


def checked_images(path: Path, file: h5py.File) -> tuple[int, int, int]:
    """Returns the shape (C, H, W) of an image; raises InputError for what is no array of images."""
    images = plain_dataset(path, file, "images")
    if images.ndim != 4 or images.shape[0] < 1 or min(images.shape) < 1:
        raise InputError(
            f"{path}: /images has shape {images.shape}; (N, channels, height, width) is needed"
            " (`haloformer convert` makes it so)"
        )
    if channels_are_last(images.shape[1:]):
        raise InputError(
            f"{path}: /images has shape {images.shape}, with channels last; (N, channels, height, width) is needed (`haloformer convert` makes it so)"
        )
    if images.dtype not in (np.float32, np.float16):
        raise InputError(
            f"{path}: /images is {images.dtype}; float32 or float16 is needed (`haloformer convert` makes it so)"
        )
    if np.prod(images.shape[1:], dtype=float) > MAX_IMAGE_VALUES:
        raise InputError(
            f"{path}: /images has images of {images.shape[1:]}, more than {MAX_IMAGE_VALUES} values each"
        )
    result: tuple[int, int, int] = images.shape[1:]
    return result


def checked_labels(path: Path, file: h5py.File, n: int, num_classes: int) -> np.ndarray:
    """Returns the labels (n,) int64; raises InputError unless each indexes a class."""
    labels = plain_dataset(path, file, "labels")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: /labels is {labels.dtype} {labels.shape}; {n} integers are needed, one per image"
        )
    with read_errors(path, "labels"):
        values: np.ndarray = labels[...]
    wrong = np.flatnonzero((values < 0) | (values >= num_classes))
    if wrong.size:
        raise InputError(
            f"{path}: label {values[wrong[0]]} of image {wrong[0]} in /labels is out of range: there are {num_classes} "
            "class_names"
        )
    return values.astype(np.int64)


def checked_parameters(path: Path, file: h5py.File, n: int) -> dict[str, str]:
    """Returns the unit of each parameter; raises InputError unless each has a row per image."""
    link = file.get("parameters", getlink=True)
    if link is None:
        return {}
    if not isinstance(link, h5py.HardLink) or not isinstance(file["parameters"], h5py.Group):
        raise InputError(f"{path}: /parameters must be a group of arrays")
    units = {}
    for place in parameter_paths(path, file):
        name, parameter = place.removeprefix("parameters/"), plain_dataset(path, file, place)
        if (
            parameter.ndim not in (1, 2)
            or parameter.shape[0] != n
            or parameter.dtype.kind not in "iuf"
        ):
            raise InputError(
                f"{path}: /parameters/{name} is {parameter.dtype} {parameter.shape}; ({n},) or ({n}, n_max) numbers "
                "are needed"
            )
        units[name] = unit_of(parameter)
    return units


def checked_calibration(path: Path, file: h5py.File) -> dict[str, np.ndarray]:
    """Returns the images under ``/calibration``, float32; raises InputError if one is no image of numbers, or too large."""
    link = file.get("calibration", getlink=True)
    if link is None:
        return {}
    if not isinstance(link, h5py.HardLink) or not isinstance(file["calibration"], h5py.Group):
        raise InputError(f"{path}: /calibration must be a group of images")
    found = {}
    for name in list(file["calibration"])[:_MAX_CALIBRATION]:
        dataset = plain_dataset(path, file, f"calibration/{name}")
        if (
            dataset.ndim != 2
            or dataset.dtype.kind != "f"
            or max(dataset.shape) > _MAX_CALIBRATION_SIDE
        ):
            raise InputError(
                f"{path}: /calibration/{name} is {dataset.dtype} {dataset.shape}; an image of at most {_MAX_CALIBRATION_SIDE} pixels per side is needed"
            )
        found[name] = dataset[...].astype(np.float32)
    return found


def parameter_paths(path: Path, file: h5py.File) -> list[str]:
    """Returns ``parameters/NAME`` of each parameter, nothing where there is no such group; too many are an error."""
    link = file.get("parameters", getlink=True)
    if not isinstance(link, h5py.HardLink) or not isinstance(file["parameters"], h5py.Group):
        return []
    if len(file["parameters"]) > MAX_PARAMETERS:
        raise InputError(
            f"{path}: /parameters holds {len(file['parameters'])} arrays, more than the {MAX_PARAMETERS} allowed"
        )
    return [f"parameters/{name}" for name in sorted(file["parameters"])]


def unit_of(parameter: h5py.Dataset) -> str:
    """Returns the attribute ``units`` as text, empty where there is none."""
    value = parameter.attrs.get("units", "")
    return "" if isinstance(value, h5py.Empty) else str(_plain_value(value))


def _plain_value(value: object) -> object:
    if isinstance(value, np.ndarray):
        return [_decode_item(item) for item in value.tolist()]
    return _decode_item(value)


def _decode_item(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(
        value, str
    ):  # h5py passes bytes that are not UTF-8 on as surrogates, which nobody can write again
        value = value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_decode_item(item) for item in value]
    if value is None or isinstance(value, int | float):
        return value
    return str(value)[:_LONGEST_ODD]  # a reference, a complex number, a row of a table …
