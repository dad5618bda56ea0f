"""Which arrays of a ``.npz`` file are images: chosen by their names and shapes, under the guard of archives."""

import io
from collections.abc import Container, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

import numpy as np

from haloformer.errors import InputError
from haloformer.files import check_regular, printable
from haloformer.readers.archives import read_zip
from haloformer.readers.fits import is_sky_name
from haloformer.readers.npy import HEADER_BYTES, MAX_FILE_BYTES, array_shape, read_npy
from haloformer.readers.pixels import bands_are_last

END = ".npy"
"""Of the name of each file in a ``.npz`` file; what stands before it is the key."""

_LISTED = 12  # keys that an error names

Shapes = Mapping[str, tuple[int, ...] | None]
"""Key → shape of the array; ``()`` for one of no numbers, None for one of objects."""


def npz_shapes(source: bytes | Path, name: str) -> dict[str, tuple[int, ...] | None]:
    """Returns the shape of each array of a ``.npz`` file, of which only the beginnings are read.

    Args:
        source: The file's contents, or its path.
        name: Its name, for error messages.
    """
    if isinstance(source, bytes):
        return _shapes(io.BytesIO(source), len(source), name)
    check_regular(source)
    try:
        with source.open("rb") as file:
            return _shapes(file, source.stat().st_size, name)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error


def _shapes(file: BinaryIO, size: int, name: str) -> dict[str, tuple[int, ...] | None]:
    if not size:
        raise InputError(f"{name} is empty")
    heads = read_zip(file, size, name, accept=lambda item: item.endswith(END), head=HEADER_BYTES)
    return {
        item.removesuffix(END): array_shape(data, f"{name}[{printable(item)}]")
        for item, data in heads
    }


def choose_arrays(shapes: Shapes, name: str, wanted: int | str | None) -> list[str]:
    """Returns the keys of the arrays that are images.

    Args:
        shapes: As `npz_shapes` returns them.
        name: The file's name, for error messages.
        wanted: As `Reading.hdu`: a key, several with commas, a pattern, or all; None: all that have
            the shape of an image and are by their names no PSF, errors or flags.

    Raises:
        InputError: There is none, or there are several of differing heights and widths.
    """
    images = [key for key, shape in shapes.items() if shape is None or _is_image(shape)]
    if wanted is not None:
        return _named(images, shapes, name, str(wanted))
    found = [key for key in images if is_sky_name(key)]
    frames = {shape and _frame(shape) for shape in (shapes[key] for key in found)}
    if not found or len(frames) > 1:
        what = (
            "arrays of several shapes" if found else "no array that is an image by name and shape"
        )
        raise InputError(f"{name} holds {what}; --hdu names one: {_listed(shapes)}")
    return found


def read_npz(data: bytes, name: str, wanted: int | str | None) -> tuple[np.ndarray, float]:
    """Reads the one image of a ``.npz`` file, and the axion mass where there is one beside it.

    Args:
        data: The file's contents.
        name: Its name, for error messages.
        wanted: As `Reading.hdu`.
    """
    keys = choose_arrays(npz_shapes(data, name), name, wanted)
    if len(keys) > 1:
        listed = ", ".join(map(printable, keys[:_LISTED]))
        raise InputError(
            f"{name} holds {len(keys)} images, and one is needed: --hdu names it: {listed}"
        )
    member = keys[0] + END
    ((_, content),) = read_zip(
        io.BytesIO(data),
        len(data),
        name,
        accept=lambda item: item == member,
        max_bytes=MAX_FILE_BYTES,
    )
    return read_npy(content, f"{name}[{printable(keys[0])}]")


def _named(images: list[str], shapes: Shapes, name: str, wanted: str) -> list[str]:
    found: list[str] = []
    for part in (part.strip() for part in wanted.split(",")):
        pattern = "*" if part.lower() == "all" else part
        found += [part] if part in images else [k for k in images if fnmatchcase(k, pattern)]
        if not found:
            raise InputError(f"{name} has no image '{part}'; there are {_listed(shapes)}")
    return list(dict.fromkeys(found))


def _is_image(shape: tuple[int, ...]) -> bool:
    return 2 <= len(shape) <= 4 and min(shape) >= 1 and min(_frame(shape)) >= 2


def _frame(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the height and width of an image, or of the images of a stack."""
    one = shape[1:] if len(shape) == 4 else shape
    return one[:2] if bands_are_last(one) else one[-2:]


def _listed(shapes: Shapes) -> str:
    texts = [
        f"{printable(key)} {'of objects' if shape is None else '×'.join(map(str, shape)) or 'of no numbers'}"
        for key, shape in shapes.items()
    ]
    return ", ".join(texts[:_LISTED]) + (", …" if len(texts) > _LISTED else "") or "no arrays"


def npz_arrays(path: Path, keys: Container[str], name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields arrays of a ``.npz`` file with their keys: numbers or texts, of no more than `MAX_FILE_BYTES` each."""
    with path.open("rb") as file:
        members = read_zip(
            file,
            path.stat().st_size,
            name,
            accept=lambda item: item.removesuffix(END) in keys,
        )
        for member, data in members:
            key = member.removesuffix(END)
            yield key, read_npy(data, f"{name}[{key}]", kinds="biufUS")[0]
