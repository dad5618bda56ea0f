"""Single images as users have them: FITS, ``.npy``, PNG and JPEG, read to float32 (C, H, W)."""

import io
import os
import warnings
from pathlib import Path

import numpy as np

from haloformer.data.fits import choose_hdus, fits_hdus, one_line
from haloformer.data.hdf5_checks import MAX_IMAGE_VALUES
from haloformer.data.npy import MAX_FILE_BYTES, read_bytes, read_npy
from haloformer.data.pixels import channels_first, check_size, known_pixels
from haloformer.data.reading import NAN_CHOICES
from haloformer.errors import InputError

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fz", ".fits.gz", ".fit.gz")
_MAX_SCANS = 50  # of a JPEG, each of which is decoded over the whole picture; a progressive one has about ten
_PICTURES = (".png", ".jpg", ".jpeg")
SUFFIXES: tuple[str, ...] = (".npy", *FITS_SUFFIXES, *_PICTURES)
"""Endings of the files that can be read, in lower case."""


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
        path: A ``.npy`` (also a pickled ``[image, mass]``), FITS, PNG or JPEG file.
        channels: How many the image must have; None takes what is there. A PNG or JPEG becomes grey unless 3 are asked
            for, and keeps its values (0 … 255, or 0 … 65535).
        hdu: Number or name of the FITS extension (of several, the first is read); the first one with an image otherwise.
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
) -> tuple[np.ndarray, float]:
    """Reads an image from the contents of a file, for files inside archives.

    Args:
        data: The file's contents.
        name: The file's name, whose ending tells the format.
        channels: As in `read_image`, and so are the others.
        hdu: FITS extension.
        nan: What to do with NaN and infinite values.
        max_bytes: Limit for the file and for what it unpacks to.

    Returns:
        The image (C, H, W) float32, and the axion mass in eV that a DeepLense ``.npy`` holds beside it (else NaN).
    """
    if nan not in NAN_CHOICES:
        raise InputError(f"nan must be one of {', '.join(NAN_CHOICES)}, not '{nan}'")
    suffix = image_suffix(name)
    mass = float("nan")
    if not data:
        raise InputError(f"{name} is empty")
    if suffix == ".npy":
        array, mass = read_npy(data, name, max_bytes=max_bytes)
    elif suffix in FITS_SUFFIXES:
        array = _read_fits(data, name, hdu, max_bytes)
    elif suffix in _PICTURES:
        array = _read_picture(data, name, channels)
    else:
        raise InputError(f"{name} is not an image file: {', '.join(SUFFIXES)} can be read")
    return known_pixels(channels_first(array, channels, name), nan, name), mass


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


def _read_picture(data: bytes, name: str, channels: int | None) -> np.ndarray:
    from PIL import Image

    if channels not in (None, 1, 3):
        raise InputError(f"{name} can be read with 1 or 3 channels, and {channels} are needed")
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _MAX_SCANS:
        raise InputError(f"{name} is a JPEG of more than {_MAX_SCANS} scans")
    if _has_16_bit_colours(data):  # Pillow would drop the lower 8 bits of each
        raise InputError(
            f"{name} has colours of 16 bits, which cannot be read: a grey PNG of 16 bits, FITS and .npy can"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked below, before anything is decoded
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
                check_size((picture.height, picture.width, channels or 1), name)
                if channels == 3:
                    return np.asarray(picture.convert("RGB"))
                if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
                    return np.asarray(picture)
                return np.asarray(picture.convert("L"))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} has too many pixels: one image may have {MAX_IMAGE_VALUES}"
        ) from error
    except Exception as error:  # a corrupt picture fails in Pillow in any of many ways
        raise InputError(f"{name} is not a whole PNG or JPEG picture: {one_line(error)}") from error


def _has_16_bit_colours(data: bytes) -> bool:
    """Tells whether the contents of a file are a PNG of 16 bits per value that is not merely grey."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10" and data[25:26] != b"\0"
