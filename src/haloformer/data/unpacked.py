"""Refuses a file from a stranger that unpacks to far more than it holds, before anything is unpacked: gzip, FITS tiles, HDF5 chunks, pictures."""

import gzip
import io
import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from haloformer.data.images import FITS_SUFFIXES, fits_errors, image_suffix
from haloformer.data.npy import read_bytes
from haloformer.data.store import open_hdf5, plain_dataset, survives_hdf5
from haloformer.errors import InputError

_BLOCK = 2**20
_MAX_HDUS = 200  # of which the first with an image is read
_MAX_TILES = 100_000
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000  # numbers of HDF5's filters
_LZF_INFLATION = 90  # a back reference of 3 bytes stands for 264


def check_unpacked(path: str | Path, max_bytes: int, number: int = 0) -> None:
    """Refuses an image file or a dataset that needs more than ``max_bytes`` when it is unpacked; at most that much is unpacked to find out.

    Args:
        path: The file, of a kind that `read_image` or `LensDataset` reads; what is damaged otherwise is left to them.
        max_bytes: Of the file, of what a gzipped file holds, of one image, tile or chunk, and of the labels.
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
        _check_fits(_unzipped(data, path, max_bytes) if data.startswith(b"\x1f\x8b") else data, str(path), max_bytes)
    elif suffix in (".png", ".jpg", ".jpeg"):
        _check_picture(data, path, max_bytes)


def _too_much(what: object, max_bytes: int) -> InputError:
    return InputError(f"{what} unpacks to more than the {max_bytes / 2**20:.0f} MiB that are allowed")


def _unzipped(data: bytes, path: Path, max_bytes: int) -> bytes:
    plain = bytearray()
    try:
        with gzip.open(io.BytesIO(data)) as file:
            while block := file.read(_BLOCK):
                plain += block
                if len(plain) > max_bytes:
                    raise _too_much(path, max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is corrupt or truncated: it cannot be decompressed") from error
    return bytes(plain)


def _inflated(data: bytes, wbits: int, limit: int) -> bool:
    """Tells whether a zlib or gzip stream, or several gzip streams in a row, hold at most ``limit`` bytes; what is damaged does, too."""
    try:
        while data:
            stream = zlib.decompressobj(wbits)
            limit -= len(stream.decompress(data, limit + 1))
            if limit < 0:
                return False
            data = stream.unused_data.lstrip(b"\0") if wbits > 15 and stream.eof else b""
    except zlib.error:
        pass
    return True


# --- FITS -------------------------------------------------------------------------------------------------------------


def _check_fits(data: bytes, name: str, max_bytes: int) -> None:
    from astropy.io import fits

    if not data.startswith(b"SIMPLE"):
        return
    with fits_errors(name), fits.open(io.BytesIO(data), memmap=False, disable_image_compression=True) as hdus:
        for number, hdu in enumerate(hdus):
            if number == _MAX_HDUS:
                raise InputError(f"{name} has more than {_MAX_HDUS} extensions")
            if hdu.header.get("ZIMAGE") is True:
                _check_tiles(hdu, data, name, max_bytes)


def _check_tiles(hdu: Any, data: bytes, name: str, max_bytes: int) -> None:
    header = hdu.header
    axes = range(1, int(header["ZNAXIS"]) + 1)
    shape = [int(header[f"ZNAXIS{k}"]) for k in axes]
    tile = [int(header.get(f"ZTILE{k}", shape[0] if k == 1 else 1)) for k in axes]
    if not shape or min(shape + tile) < 1:
        raise InputError(f"{name} is corrupt: a compressed image of the shape {shape} in tiles of {tile}")
    if 4 * max(math.prod(shape), math.prod(tile)) > max_bytes:
        raise _too_much(name, max_bytes)
    n_tiles = math.prod(-(-n // m) for n, m in zip(shape, tile, strict=True))
    if n_tiles > _MAX_TILES:
        raise InputError(f"{name} is an image in {n_tiles} tiles, more than {_MAX_TILES}")
    heap = hdu.fileinfo()["datLoc"] + int(header.get("THEAP", header["NAXIS1"] * header["NAXIS2"]))
    rows = np.asarray(hdu.data[:n_tiles]).view(np.ndarray)
    limit = 8 * math.prod(tile) + _BLOCK
    for column in hdu.columns:
        packed = column.name == "GZIP_COMPRESSED_DATA" or (
            column.name == "COMPRESSED_DATA" and str(header.get("ZCMPTYPE", "")).startswith("GZIP")
        )
        if not packed:
            continue
        size = {"B": 1, "I": 2, "J": 4}.get(str(column.format).lstrip("0123456789")[1:2], 1)
        for count, offset in rows[column.name].reshape(len(rows), 2).tolist():
            start = heap + offset
            if not _inflated(data[start : start + count * size], 31, limit):
                raise _too_much(name, max_bytes)


# --- HDF5 -------------------------------------------------------------------------------------------------------------


def _check_dataset(path: Path, max_bytes: int, number: int) -> None:
    with open_hdf5(path) as file:
        images, labels = (plain_dataset(path, file, name) for name in ("images", "labels"))
        if images.ndim != 4 or labels.ndim != 1 or min(images.shape) < 1:
            return  # what a dataset refuses
        if labels.nbytes > max_bytes or 4 * math.prod(images.shape[1:]) > max_bytes:
            raise _too_much(path, max_bytes)
        try:
            wanted = {min(max(number, 0), len(images) - 1), 0, len(images) - 1}
            _check_chunks(path, images, sorted(wanted), max_bytes)
            _check_chunks(path, labels, range(0, len(labels), (labels.chunks or labels.shape)[0]), max_bytes)
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{path} is corrupt or truncated: its chunks cannot be read") from error


def _check_chunks(path: Path, dataset: h5py.Dataset, rows: Any, max_bytes: int) -> None:
    """Looks at those chunks that hold any of the rows."""
    if dataset.chunks is None:
        return
    raw = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if raw > max_bytes:
        raise _too_much(path, max_bytes)
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if filters[:1] == [_SHUFFLE]:
        filters = filters[1:]
    if filters[-1:] == [_FLETCHER32]:
        filters = filters[:-1]
    if not filters:
        return
    if filters not in ([_DEFLATE], [_LZF]):
        raise InputError(f"{path}: /{dataset.name.strip('/')} is packed otherwise than by gzip or lzf")
    size = path.stat().st_size
    for row in {row - row % dataset.chunks[0] for row in rows}:
        for place in np.ndindex(*(-(-n // m) for n, m in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))):
            start = (row, *(k * m for k, m in zip(place, dataset.chunks[1:], strict=True)))
            info = dataset.id.get_chunk_info_by_coord(start)
            if info.byte_offset is None:  # of nothing but fill values
                continue
            if info.size > size:
                raise InputError(f"{path} is corrupt or truncated: a chunk is larger than the file")
            if filters == [_LZF]:
                good = _LZF_INFLATION * info.size <= 16 * max_bytes
            else:
                mask, packed = dataset.id.read_direct_chunk(start)
                good = mask != 0 or _inflated(packed, 15, raw + _BLOCK)
            if not good:
                raise _too_much(path, max_bytes)


def _check_picture(data: bytes, path: Path, max_bytes: int) -> None:
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture,
        ):
            n = picture.width * picture.height
    except Image.DecompressionBombError as error:
        raise _too_much(path, max_bytes) from error
    except Exception:  # it is no picture: what reads it says so
        return
    if 4 * n > max_bytes:
        raise _too_much(path, max_bytes)
