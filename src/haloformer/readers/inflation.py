"""How much packed data unpacks to: deflate streams, and tiles of compressed FITS images."""

import itertools
import math
import os
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from haloformer.errors import InputError

if TYPE_CHECKING:
    from astropy.io import fits

MAX_UNPACKED_BYTES = 2**30
"""Of one tile of a FITS image or one chunk of a dataset, which are unpacked as a whole: twice what the largest image needs in float64.
A file may have any number of them."""

DEFLATE_INFLATION = 1032
"""Deflate shrinks nothing further."""

BLOCK = 2**20
_PIECE = 2**13  # bytes of a stream, which unpack to 8 MiB at most
_MAX_TILES = 100_000


def too_much(what: object, max_bytes: int, part: str = "") -> InputError:
    """Returns the error of a file, of which a part may be named, with its size."""
    return InputError(
        f"{what} unpacks to more than the {max_bytes / 2**20:.0f} MiB that are allowed{part and f': {part}'}"
    )


def inflates_within(data: bytes, wbits: int, limit: int) -> bool:
    """Tells whether a zlib stream, or gzip streams in a row, hold at most ``limit`` bytes.

    A damaged stream does, too: what unpacks it reports the damage.
    """
    if DEFLATE_INFLATION * len(data) <= limit:
        return True
    stream, begins = zlib.decompressobj(wbits), True
    try:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            while piece:
                if begins and not (piece := piece.lstrip(b"\0")):  # padding
                    break
                limit -= len(stream.decompress(piece))
                if limit < 0:
                    return False
                piece, begins = b"", False
                if stream.eof:
                    if wbits <= 15:
                        return True
                    piece, stream, begins = stream.unused_data, zlib.decompressobj(wbits), True
    except zlib.error:
        pass
    return True


def check_fits(file: BinaryIO, name: str) -> None:
    """Refuses a FITS file of which a tile unpacks to more than `MAX_UNPACKED_BYTES`.

    What is damaged passes: what reads it says so.

    Args:
        file: The file, not itself compressed; it is read again from its beginning afterwards.
        name: Its name, for error messages.
    """
    from astropy.io import fits

    if DEFLATE_INFLATION * file.seek(0, os.SEEK_END) > MAX_UNPACKED_BYTES:
        file.seek(0)
        try:
            hdus = fits.open(file, memmap=False, disable_image_compression=True)
            for number in itertools.count():
                if hdus[number].header.get("ZIMAGE") is True:  # an IndexError after the last
                    check_tiles(hdus[number], file, name, MAX_UNPACKED_BYTES)
        except InputError:
            raise
        except Exception:  # damaged in any of many ways: what reads it says so
            pass
    file.seek(0)


def check_tiles(
    hdu: "fits.BinTableHDU", file: BinaryIO, name: str, max_bytes: int, *, tight: bool = False
) -> None:
    """Refuses a compressed FITS image of which a tile unpacks to more than ``max_bytes``.

    Args:
        hdu: The table that it is in the file, as astropy gives it with
            ``disable_image_compression``; its header says ``ZIMAGE``.
        file: The file, not itself compressed.
        name: Its name, for error messages.
        max_bytes: Of a tile.
        tight: All of the image must fit ``max_bytes`` as well, and no tile may unpack to more than
            its pixels need.
    """
    shape, tile = _shapes(hdu.header, name)
    if 4 * max(math.prod(shape) if tight else 0, math.prod(tile)) > max_bytes:
        raise too_much(
            name, max_bytes, "" if tight else f"a tile has {' × '.join(map(str, tile))} pixels"
        )
    n_tiles = math.prod(-(-n // m) for n, m in zip(shape, tile, strict=True))
    if tight and n_tiles > _MAX_TILES:
        raise InputError(f"{name} is an image in {n_tiles} tiles, more than {_MAX_TILES}")
    limit = 8 * math.prod(tile) + BLOCK if tight else max_bytes
    for stored, packed in _gzipped_tiles(hdu, file, n_tiles, limit):
        if not inflates_within(packed, 31, limit):
            raise too_much(
                name,
                max_bytes,
                "" if tight else f"a tile, of {stored / 2**20:.1f} MiB as it is stored",
            )


def _shapes(header: "fits.Header", name: str) -> tuple[list[int], list[int]]:
    """Returns the shapes of a compressed image and of its tiles, the fastest axis first."""
    axes = range(1, int(header["ZNAXIS"]) + 1)
    shape = [int(header[f"ZNAXIS{k}"]) for k in axes]
    tile = [int(header.get(f"ZTILE{k}", shape[0] if k == 1 else 1)) for k in axes]
    if not shape or min(shape + tile) < 1:
        raise InputError(
            f"{name} is corrupt: a compressed image of the shape {shape} in tiles of {tile}"
        )
    return shape, tile


def _gzipped_tiles(
    hdu: "fits.BinTableHDU", file: BinaryIO, n_tiles: int, limit: int
) -> Iterator[tuple[int, bytes]]:
    """Yields size and content of each gzipped tile that may unpack to more than ``limit`` bytes."""
    header = hdu.header
    heap = hdu.fileinfo()["datLoc"] + int(header.get("THEAP", header["NAXIS1"] * header["NAXIS2"]))
    rows = np.asarray(hdu.data[:n_tiles]).view(np.ndarray)
    for column in hdu.columns:
        if not (
            column.name == "GZIP_COMPRESSED_DATA"
            or (
                column.name == "COMPRESSED_DATA"
                and str(header.get("ZCMPTYPE", "")).startswith("GZIP")
            )
        ):
            continue
        size = {"B": 1, "I": 2, "J": 4}.get(str(column.format).lstrip("0123456789")[1:2], 1)
        for count, offset in rows[column.name].reshape(len(rows), 2).tolist():
            if DEFLATE_INFLATION * count * size > limit:
                file.seek(heap + offset)
                yield count * size, file.read(count * size)
