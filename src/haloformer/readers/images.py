"""Single images as users have them: FITS, ``.npy``, ``.npz``, PNG, JPEG and TIFF, read to float32 (C, H, W)."""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from haloformer.errors import InputError
from haloformer.readers.fits import choose_hdus, fits_hdus, one_line
from haloformer.readers.hdf5_checks import MAX_IMAGE_VALUES
from haloformer.readers.npy import MAX_FILE_BYTES, read_bytes, read_npy
from haloformer.readers.npz import read_npz
from haloformer.readers.pixels import AS_A_MASK, channels_first, check_size, known_pixels
from haloformer.readers.reading import NAN_CHOICES

if TYPE_CHECKING:
    from PIL import Image

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fz", ".fits.gz", ".fit.gz")
_MAX_SCANS = 50  # of a JPEG, each of which is decoded over the whole picture; a progressive one has about ten
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SUFFIXES: tuple[str, ...] = (".npy", ".npz", *FITS_SUFFIXES, *PICTURE_SUFFIXES)
"""Endings of the files that can be read, in lower case."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits")
_TIFF_TILE, _TIFF_BITS = (322, 323), 258  # numbers of tags
_MAX_PAGES = 16
_STDERR = threading.Lock()  # held by who turns it away
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow makes grey of 8 bits


def read_image(
    path: str | Path,
    *,
    channels: int | None = None,
    hdu: int | str | None = None,
    nan: str = "error",
    max_bytes: int = MAX_FILE_BYTES,
) -> np.ndarray:
    """Reads one image.

    Args:
        path: A ``.npy`` (also a pickled ``[image, mass]``), ``.npz``, FITS, PNG, JPEG or TIFF file.
        channels: How many the image must have; None takes what is there. A picture becomes grey unless 3 are asked
            for, and keeps its values (0 … 255, or 0 … 65535); pages of a TIFF are channels.
        hdu: Number or name of the FITS extension (of several, the first is read), or key of the array in a ``.npz``; the
            first one with an image otherwise, and the only one.
        nan: ``"error"`` refuses an image with NaN or infinite values; ``"zero"`` puts 0 in their place, for cutouts
            that are NaN outside their mask; ``"mask"`` makes all of them NaN, for a reader that knows what to do with them.
        max_bytes: Larger files are refused.

    Returns:
        (C, H, W) float32 in native byte order.
    """
    return decode_image(
        read_bytes(path, max_bytes=max_bytes),
        str(path),
        channels=channels,
        hdu=hdu,
        nan=nan,
        max_bytes=max_bytes,
    )[0]


def decode_image(
    data: bytes,
    name: str,
    *,
    channels: int | None = None,
    hdu: int | str | None = None,
    nan: str = "error",
    max_bytes: int = MAX_FILE_BYTES,
    suffix: str | None = None,
    remedy: str = AS_A_MASK,
) -> tuple[np.ndarray, float]:
    """Reads an image from the contents of a file, for files inside archives.

    Args:
        data: The file's contents.
        name: The file's name, whose ending tells the format.
        channels: As in `read_image`, and so are the others.
        hdu: FITS extension, or key of an array.
        nan: What to do with NaN and infinite values.
        max_bytes: Limit for the file and for what it unpacks to.
        suffix: Tells the format instead of the name's ending.
        remedy: What reads a mask of NaN, for the error message.

    Returns:
        The image (C, H, W) float32, and the axion mass in eV that a DeepLense ``.npy`` holds beside it (else NaN).
    """
    if nan not in NAN_CHOICES:
        raise InputError(f"nan must be one of {', '.join(NAN_CHOICES)}, not '{nan}'")
    suffix = suffix or image_suffix(name)
    mass = float("nan")
    if not data:
        raise InputError(f"{name} is empty")
    if suffix == ".npy":
        array, mass = read_npy(data, name, max_bytes=max_bytes)
    elif suffix == ".npz":
        array, mass = read_npz(data, name, hdu)
    elif suffix in FITS_SUFFIXES:
        array = _read_fits(data, name, hdu, max_bytes)
    elif suffix in PICTURE_SUFFIXES:
        array = _read_picture(data, name, channels)
    else:
        raise InputError(f"{name} is not an image file: {', '.join(SUFFIXES)} can be read")
    return known_pixels(channels_first(array, channels, name), nan, name, remedy), mass


def image_suffix(name: str) -> str:
    """Returns the ending of a file name in lower case, ``.fits.gz`` as a whole."""
    lower = name.lower()
    return next(
        (suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if lower.endswith(suffix)),
        Path(lower).suffix,
    )


def is_image_name(name: str) -> bool:
    """Tells whether a file of this name would be read; hidden files (``._x`` from macOS among them) are not."""
    return not os.path.basename(name).startswith(".") and image_suffix(name) in SUFFIXES


def _read_fits(data: bytes, name: str, hdu: int | str | None, max_bytes: int) -> np.ndarray:
    with fits_hdus(data, name, max_bytes) as hdus:
        chosen = hdus[choose_hdus(hdus, name, hdu)[0]]
        check_size(chosen.shape, name)
        return np.asarray(chosen.data)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _read_picture(data: bytes, name: str, channels: int | None) -> np.ndarray:
    """Reads a PNG, JPEG or TIFF as (H, W), (H, W, 3), or (pages, H, W) of a TIFF of several."""
    from PIL import Image, UnidentifiedImageError

    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _MAX_SCANS:
        raise InputError(f"{name} is a JPEG of more than {_MAX_SCANS} scans")
    if channels not in (None, 1, 3) and not data.startswith(_TIFF):
        raise InputError(f"{name} can be read with 1 or 3 channels, and {channels} are needed")
    if _has_16_bit_colours(data):  # of each of which Pillow would drop the lower 8 bits
        return _read_16_bit_colours(data, name, channels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked below, before anything is decoded
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "TIFF"]) as picture:
                if picture.format == "TIFF":
                    with _quiet_libtiff():
                        return _read_tiff(picture, name, channels)
                check_size((picture.height, picture.width, channels or 1), name)
                return _values(picture, channels)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} has too many pixels: one image may have {MAX_IMAGE_VALUES}"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a PNG, JPEG or TIFF picture") from error
    except Exception as error:  # a corrupt picture fails in Pillow in any of many ways
        raise InputError(
            f"{name} is not a whole PNG, JPEG or TIFF picture: {one_line(error)}"
        ) from error


def _values(picture: "Image.Image", channels: int | None) -> np.ndarray:
    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):  # more bits than Pillow's colours
        grey = np.asarray(picture)
        return np.stack([grey] * 3, axis=2) if channels == 3 else grey
    return np.asarray(picture.convert("RGB" if channels == 3 else "L"))


def _read_tiff(picture: "Image.Image", name: str, channels: int | None) -> np.ndarray:
    """Reads a TIFF of one page, or the pages of one as the planes of a cube."""
    sizes: list[tuple[int, int]] = []
    with contextlib.suppress(EOFError):
        while len(sizes) <= _MAX_PAGES:
            picture.seek(len(sizes))
            _check_tiff_page(picture, name)
            sizes.append((picture.height, picture.width))
    if len(sizes) > _MAX_PAGES:
        raise InputError(f"{name} is a TIFF of more than {_MAX_PAGES} pages")
    if len(set(sizes)) > 1:
        raise InputError(f"{name} is a TIFF whose pages have several sizes: save one of them alone")
    check_size((len(sizes), *sizes[0]), name)
    pages = []
    for k in range(len(sizes)):
        picture.seek(k)
        pages.append(_values(picture, channels if len(sizes) == 1 else None))
    return pages[0] if len(pages) == 1 else np.stack(pages)


@contextlib.contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """Keeps libtiff from printing, beside the error that Pillow raises, what it thinks of a damaged file."""
    with _STDERR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # standard error is closed: nothing is printed
            kept = os.dup(2)
            stack.callback(os.close, kept)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nowhere)
            os.dup2(nowhere, 2)
            stack.callback(os.dup2, kept, 2)
        yield


def _check_tiff_page(picture: "Image.Image", name: str) -> None:
    """Refuses a page that unpacks to too much, by another decoder than these, or to half of its bits."""
    check_size((picture.height, picture.width), name)
    tags = dict(picture.tag_v2) if hasattr(picture, "tag_v2") else {}
    packed = str(picture.info.get("compression"))
    if packed not in _TIFF_COMPRESSIONS:
        raise InputError(
            f"{name} is a TIFF packed by {packed[:20]}: LZW, deflate and PackBits are read"
        )
    tile = [int(tags.get(tag, 0)) for tag in _TIFF_TILE]
    if tile[0] * tile[1] > MAX_IMAGE_VALUES:
        raise InputError(f"{name} is a TIFF in tiles of {tile[0]} × {tile[1]} pixels, too many")
    bits = tags.get(_TIFF_BITS, (8,))
    if isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8:
        raise InputError(
            f"{name} is a TIFF with colours of {max(bits)} bits, which cannot be read: a grey one, PNG, FITS and .npy can"
        )


def _has_16_bit_colours(data: bytes) -> bool:
    """Tells whether the contents of a file are a PNG of 16 bits per value that is not merely grey."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10" and data[25:26] != b"\0"


def _read_16_bit_colours(data: bytes, name: str, channels: int | None) -> np.ndarray:
    """Reads a PNG of 16 bits per value as grey (H, W), or red, green and blue (H, W, 3); opacity is left out."""
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    check_size((height, width, 4), name)
    import torch
    from torchvision.io import ImageReadMode, decode_png

    try:
        stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        values = decode_png(stored, ImageReadMode.UNCHANGED).numpy().astype(np.float32)
    except Exception as error:  # a corrupt picture fails in libpng in any of many ways
        raise InputError(f"{name} is not a whole PNG picture: {one_line(error)}") from error
    colours = values[:1] if len(values) < 3 else values[:3]
    if channels == 3:
        return np.moveaxis(np.broadcast_to(colours, (3, *colours.shape[1:])), 0, 2)
    return colours[0] if len(colours) == 1 else np.tensordot(_GREY, colours, axes=1)
