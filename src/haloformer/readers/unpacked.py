"""Refuses files that unpack to far more than they hold: gzip, FITS tiles, HDF5 chunks, pictures."""

import gzip
import io
import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from haloformer.errors import InputError
from haloformer.readers.archives import read_zip
from haloformer.readers.fits import fits_errors
from haloformer.readers.hdf5_checks import (
    damage_named,
    open_hdf5,
    parameter_paths,
    plain_dataset,
    survives_hdf5,
)
from haloformer.readers.images import FITS_SUFFIXES, PICTURE_SUFFIXES, image_suffix
from haloformer.readers.inflation import (
    BLOCK,
    DEFLATE_INFLATION,
    MAX_UNPACKED_BYTES,
    check_tiles,
    inflates_within,
    too_much,
)
from haloformer.readers.npy import read_bytes

_MAX_HDUS = 200  # of which the first with an image is read
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000  # numbers of HDF5's filters
_LZF_INFLATION = 90  # a back reference of 3 bytes stands for 264


def check_unpacked(path: str | Path, max_bytes: int, number: int = 0) -> None:
    """Refuses an image file or a dataset that needs more than ``max_bytes`` unpacked.

    At most that much is unpacked to find out.

    Args:
        path: The file, of a kind that `read_image` or `LensDataset` reads; what is damaged
            otherwise is left to them.
        max_bytes: Of the file, of what a gzipped file holds, of one image, tile or chunk, and of
            the labels.
        number: The image of a dataset that will be read.
    """
    path = Path(path)
    suffix = image_suffix(path.name)
    if suffix in (".h5", ".hdf5"):
        survives_hdf5(path, lambda: _check_dataset(path, max_bytes, number))
        _check_dataset(path, max_bytes, number)
        return
    data = read_bytes(path, max_bytes=max_bytes)
    if suffix in FITS_SUFFIXES:
        _check_fits(
            _unzipped(data, path, max_bytes) if data.startswith(b"\x1f\x8b") else data,
            str(path),
            max_bytes,
        )
    elif suffix == ".npz":
        _check_arrays(data, str(path), max_bytes)
    elif suffix in PICTURE_SUFFIXES:
        _check_picture(data, path, max_bytes)


def check_chunks(path: str | Path) -> None:
    """Refuses an HDF5 file of which a chunk unpacks to more than `MAX_UNPACKED_BYTES`.

    Every reader of HDF5 files calls it first, in a process that HDF5 may crash (`survives_hdf5`),
    then in its own. What is damaged otherwise is left to the reader.
    """
    path = Path(path)
    if not path.is_file() or DEFLATE_INFLATION * path.stat().st_size <= MAX_UNPACKED_BYTES:
        return
    with open_hdf5(path) as file, damage_named(path):
        for name in ("images", "labels", "files", *parameter_paths(path, file)):
            if name not in file and name in ("images", "files", "labels"):
                continue  # what the reader refuses, or does without
            dataset = plain_dataset(path, file, name)
            if dataset.chunks is not None and dataset.size:
                _check_every_chunk(path, dataset)


def _unzipped(data: bytes, path: Path, max_bytes: int) -> bytes:
    plain = bytearray()
    try:
        with gzip.open(io.BytesIO(data)) as file:
            while block := file.read(BLOCK):
                plain += block
                if len(plain) > max_bytes:
                    raise too_much(path, max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is corrupt or truncated: it cannot be decompressed") from error
    return bytes(plain)


# --- FITS -------------------------------------------------------------------------------------------------------------


def _check_fits(data: bytes, name: str, max_bytes: int) -> None:
    from astropy.io import fits

    if not data.startswith(b"SIMPLE"):
        return
    file = io.BytesIO(data)
    with fits_errors(name), fits.open(file, memmap=False, disable_image_compression=True) as hdus:
        for number, hdu in enumerate(hdus):
            if number == _MAX_HDUS:
                raise InputError(f"{name} has more than {_MAX_HDUS} extensions")
            if hdu.header.get("ZIMAGE") is True:
                check_tiles(hdu, file, name, max_bytes, tight=True)


# --- HDF5 -------------------------------------------------------------------------------------------------------------


def _check_every_chunk(path: Path, dataset: h5py.Dataset) -> None:
    """Refuses a dataset of which any chunk is too large by itself."""
    max_bytes = MAX_UNPACKED_BYTES
    filters = _checked_filters(path, dataset, max_bytes, tight=False)
    if not filters:
        return
    limit, large = DEFLATE_INFLATION, list[tuple[tuple[int, ...], int]]()

    def look(chunk: Any) -> None:  # h5py's StoreInfo
        if limit * chunk.size > max_bytes:
            large.append((chunk.chunk_offset, chunk.size))

    dataset.id.chunk_iter(look)
    for start, size in large:
        _check_chunk(path, dataset, start, size, filters, max_bytes, max_bytes, tight=False)


def _check_dataset(path: Path, max_bytes: int, number: int) -> None:
    """Checks the chunks of one image and of the first and the last, and that there is no more in them than needed."""
    with open_hdf5(path) as file:
        images, labels = (plain_dataset(path, file, name) for name in ("images", "labels"))
        if images.ndim != 4 or labels.ndim != 1 or min(images.shape) < 1:
            return  # what a dataset refuses
        if labels.nbytes > max_bytes or 4 * math.prod(images.shape[1:]) > max_bytes:
            raise too_much(path, max_bytes)
        try:
            for dataset in (images, labels):
                rows: Sequence[int] = range(0, len(dataset), (dataset.chunks or dataset.shape)[0])
                if dataset is images:
                    rows = sorted({min(max(number, 0), len(images) - 1), 0, len(images) - 1})
                _check_chunks(path, dataset, rows, max_bytes)
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{path} is corrupt or truncated: its chunks cannot be read"
            ) from error


def _check_chunks(path: Path, dataset: h5py.Dataset, rows: Iterable[int], max_bytes: int) -> None:
    """Looks at those chunks that hold any of the rows."""
    if dataset.chunks is None:
        return
    filters = _checked_filters(path, dataset, max_bytes, tight=True)
    if not filters:
        return
    limit = math.prod(dataset.chunks) * dataset.dtype.itemsize + BLOCK
    for start in _chunks_of(dataset, rows):
        info = dataset.id.get_chunk_info_by_coord(start)
        if info.byte_offset is not None:  # else of nothing but fill values
            _check_chunk(path, dataset, start, info.size, filters, limit, max_bytes, tight=True)


def _checked_filters(
    path: Path, dataset: h5py.Dataset, max_bytes: int, *, tight: bool
) -> list[int]:
    """Returns the filters of a dataset's chunks (see `_filters`); refuses chunks that are too large, or packed otherwise."""
    raw = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if raw > max_bytes:
        raise too_much(
            path, max_bytes, "" if tight else f"a chunk of {dataset.name} has {raw / 2**20:.0f} MiB"
        )
    filters = _filters(dataset)
    if filters and filters not in ([_DEFLATE], [_LZF]) and (tight or len(filters) > 1):
        raise InputError(
            f"{path}: /{dataset.name.strip('/')} is packed otherwise than by gzip or lzf"
        )
    return filters


def _check_chunk(
    path: Path,
    dataset: h5py.Dataset,
    start: tuple[int, ...],
    size: int,
    filters: list[int],
    limit: int,
    max_bytes: int,
    *,
    tight: bool,
) -> None:
    if size > path.stat().st_size:
        raise InputError(f"{path} is corrupt or truncated: a chunk is larger than the file")
    if not _chunk_fits(dataset, start, size, filters, limit, max_bytes):
        stored = f"a chunk of {dataset.name}, of {size / 2**20:.1f} MiB as it is stored"
        raise too_much(path, max_bytes, "" if tight else stored)


def _filters(dataset: h5py.Dataset) -> list[int]:
    """Returns the numbers of the filters that change the size of a chunk."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if filters[:1] == [_SHUFFLE]:
        filters = filters[1:]
    if filters[-1:] == [_FLETCHER32]:
        filters = filters[:-1]
    return filters


def _chunks_of(dataset: h5py.Dataset, rows: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Yields the first element of each chunk that holds any of the rows."""
    sizes = dataset.chunks[1:]
    counts = [-(-n // m) for n, m in zip(dataset.shape[1:], sizes, strict=True)]
    for row in {row - row % dataset.chunks[0] for row in rows}:
        for place in np.ndindex(*counts):
            yield row, *(k * m for k, m in zip(place, sizes, strict=True))


def _chunk_fits(
    dataset: h5py.Dataset,
    start: tuple[int, ...],
    stored: int,
    filters: list[int],
    limit: int,
    max_bytes: int,
) -> bool:
    """Tells whether a chunk of ``stored`` bytes unpacks to what is allowed."""
    if filters == [_LZF]:
        return _LZF_INFLATION * stored <= 16 * max_bytes
    if filters == [_DEFLATE] and DEFLATE_INFLATION * stored > limit:
        mask, packed = dataset.id.read_direct_chunk(start)
        return mask != 0 or inflates_within(packed, 15, limit)
    return True


def _check_arrays(data: bytes, name: str, max_bytes: int) -> None:
    for _ in read_zip(io.BytesIO(data), len(data), name, max_bytes=max_bytes, head=0):
        pass


def _check_picture(data: bytes, path: Path, max_bytes: int) -> None:
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "TIFF"]) as picture,
        ):
            n = picture.width * picture.height
    except Image.DecompressionBombError as error:
        raise too_much(path, max_bytes) from error
    except Exception:  # it is no picture: what reads it says so
        return
    if 4 * n > max_bytes:
        raise too_much(path, max_bytes)
