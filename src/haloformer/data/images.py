"""Single images as users have them: FITS, ``.npy``, PNG and JPEG, read to float32 (C, H, W), or refused in one line."""

import contextlib
import gzip
import io
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.data.hdf5_checks import MAX_IMAGE_VALUES
from haloformer.data.inflation import check_fits
from haloformer.data.npy import MAX_FILE_BYTES, read_bytes, read_npy
from haloformer.errors import InputError

NAN_CHOICES = ("error", "zero", "mask")

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fz", ".fits.gz", ".fit.gz")
_PICTURES = (".png", ".jpg", ".jpeg")
SUFFIXES: tuple[str, ...] = (".npy", *FITS_SUFFIXES, *_PICTURES)
"""Endings of the files that can be read, in lower case."""

_GZIP = b"\x1f\x8b"
_MAX_CHANNELS = 16  # an axis at least this long is taken for height or width, never for bands


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


def known_pixels(image: np.ndarray, nan: str, name: str) -> np.ndarray:
    """Returns an image (any shape, float32) whose NaN and infinite pixels are treated as `read_image` says of ``nan``."""
    if _finite(image):
        return image
    bad = ~np.isfinite(image)
    if nan == "error":
        raise InputError(
            f"{name}: {int(bad.sum())} of {image.size} pixels are NaN or infinite; if they are a mask, read it "
            "with nan='zero' or nan='mask'"
        )
    return np.where(bad, np.float32(np.nan if nan == "mask" else 0), image)


def channels_first(array: np.ndarray, channels: int | None, name: str) -> np.ndarray:
    """Brings an image to (C, H, W) float32.

    Args:
        array: (H, W), (C, H, W) or (H, W, C), of real numbers; an axis longer than 16 is never taken for channels.
        channels: How many there must be; None takes what is there.
        name: Where the image came from, for error messages.
    """
    shape = array.shape
    check_size(shape, name)
    if array.ndim not in (2, 3) or min(shape) < 1:
        raise InputError(f"{name} has the shape {shape}; (H, W), (C, H, W) or (H, W, C) is needed")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype}, not real numbers")
    if array.ndim == 2:
        array = array[None]
    elif shape[0] != channels and (
        shape[2] == channels or (shape[0] > shape[2] and shape[2] <= _MAX_CHANNELS)
    ):
        array = np.moveaxis(array, 2, 0)
    if channels is not None and array.shape[0] != channels:
        raise InputError(
            f"{name} has {array.shape[0]} channels, and {channels} are needed (its shape is {shape})"
        )
    if channels is None and array.shape[0] > _MAX_CHANNELS:
        raise InputError(f"{name} has the shape {shape}; (H, W), (C, H, W) or (H, W, C) is needed")
    if min(array.shape[1:]) < 2:
        raise InputError(f"{name} has the shape {shape}, which is not an image")
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what does not fit float32 becomes infinite and is refused
        return np.ascontiguousarray(array, dtype=np.float32)


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


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Expands files and folders (searched to the bottom) into a list of image files, sorted within each folder.

    Raises:
        InputError: A path does not exist, a file is of no known kind, or a folder holds no image.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if path.is_dir():
            inside = [file for file in walk_files(path) if is_image_name(file.name)]
            if not inside:
                raise InputError(f"{path} holds no image: {', '.join(SUFFIXES)} can be read")
            found.update(dict.fromkeys(inside))
        elif not path.exists():
            raise InputError(f"{path} does not exist")
        elif image_suffix(path.name) not in SUFFIXES:
            raise InputError(f"{path} is not an image file: {', '.join(SUFFIXES)} can be read")
        else:
            found[path] = None
    if not found:
        raise InputError("no image was given")
    return list(found)


def walk_files(folder: Path) -> list[Path]:
    """Lists all files below a folder in sorted order; a folder that cannot be listed is an error, not a gap."""

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    return sorted(
        Path(parent, file) for parent, _, files in os.walk(folder, onerror=fail) for file in files
    )


def _read_fits(data: bytes, name: str, hdu: int | str | None, max_bytes: int) -> np.ndarray:
    with fits_hdus(data, name, max_bytes) as hdus:
        chosen = hdus[choose_hdus(hdus, name, hdu)[0]]
        check_size(chosen.shape, name)
        return np.asarray(chosen.data)


@contextlib.contextmanager
def fits_hdus(source: bytes | Path, name: str, max_bytes: int = MAX_FILE_BYTES) -> Iterator[Any]:
    """Yields astropy's list of what a FITS file holds; all that fails while it is open is an `InputError`.

    Args:
        source: The file's contents, or its path, of which only what is asked for is read, whatever its size.
        name: Its name, for error messages.
        max_bytes: Of what a gzipped file unpacks to.
    """
    from astropy.io import fits

    with contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            if not source.is_file():  # a pipe or a device would never end
                raise InputError(f"{name} is not a regular file")
            try:
                file: Any = stack.enter_context(source.open("rb"))
                start = file.read(6)
                file.seek(0)
            except OSError as error:
                raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
            source = read_bytes(source, max_bytes=max_bytes) if start.startswith(_GZIP) else b""
        else:
            file, start = io.BytesIO(source), source[:6]
        if start.startswith(_GZIP):
            plain = _gunzip(source, name, max_bytes)
            file, start = io.BytesIO(plain), plain[:6]
        if not start:
            raise InputError(f"{name} is empty")
        if start != b"SIMPLE":
            raise InputError(f"{name} is not a FITS file: it does not begin as one")
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # astropy warns of headers that it can mend
        check_fits(file, name)
        with fits_errors(name), fits.open(file, memmap=False, lazy_load_hdus=True) as hdus:
            yield hdus


@contextlib.contextmanager
def fits_errors(name: str) -> Iterator[None]:
    """Turns whatever astropy raises into an `InputError`: a corrupt FITS file fails in any of many ways."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is corrupt or truncated: {_one_line(error)}") from error


def choose_hdus(hdus: Any, name: str, wanted: int | str | None) -> list[int]:
    """Returns the numbers of the extensions that are meant, each of which holds an image.

    Args:
        hdus: What `fits_hdus` yields.
        name: The file's name, for error messages.
        wanted: A number, a name, ``"all"``, several with commas, a pattern of names such as ``NIR_*_FLUX``; None: the first with an image.
    """
    if wanted is None:
        for number, item in enumerate(hdus):
            if is_fits_image(item):
                return [number]
        raise InputError(f"{name} holds no 2-D image or 3-D cube")
    found: list[int] = []
    for part in str(wanted).split(","):
        found += _hdus_of(hdus, name, part.strip())
    return list(dict.fromkeys(found))


def _hdus_of(hdus: Any, name: str, wanted: str) -> list[int]:
    if wanted.lstrip("-").isdigit():
        found = [int(wanted)] if 0 <= int(wanted) < len(hdus) else []
    elif wanted.lower() == "all" or any(sign in wanted for sign in "*?["):
        pattern = "*" if wanted.lower() == "all" else wanted.upper()
        found = [
            k
            for k, item in enumerate(hdus)
            if is_fits_image(item) and fnmatchcase(item.name.upper(), pattern)
        ]
    else:
        found = [k for k, item in enumerate(hdus) if item.name.upper() == wanted.upper()][:1]
    if not found:
        names = ", ".join(
            f"{number} {item.name or '(no name)'}" for number, item in enumerate(hdus)
        )
        raise InputError(f"{name} has no extension '{wanted}'; there are {names}")
    if not is_fits_image(hdus[found[0]]):
        raise InputError(f"{name}: extension '{wanted}' holds no 2-D image or 3-D cube")
    return found


def is_fits_image(hdu: Any) -> bool:
    """Tells whether an extension holds a 2-D image or a 3-D cube."""
    shape = getattr(hdu, "shape", None)
    return bool(hdu.is_image) and shape is not None and len(shape) in (2, 3) and min(shape) > 0


def _gunzip(data: bytes, name: str, max_bytes: int) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            plain = file.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} is corrupt or truncated: it cannot be decompressed") from error
    if len(plain) > max_bytes:
        raise InputError(
            f"{name} unpacks to more than the {max_bytes / 2**20:.0f} MiB that one image may have"
        )
    return plain


def _read_picture(data: bytes, name: str, channels: int | None) -> np.ndarray:
    from PIL import Image

    if channels not in (None, 1, 3):
        raise InputError(f"{name} can be read with 1 or 3 channels, and {channels} are needed")
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
        raise InputError(
            f"{name} is not a whole PNG or JPEG picture: {_one_line(error)}"
        ) from error


def check_size(shape: tuple[int, ...], name: str) -> None:
    """Refuses an image of so many values that it cannot be one."""
    if np.prod(shape, dtype=float) > MAX_IMAGE_VALUES:
        raise InputError(
            f"{name} has the shape {shape}, more than the {MAX_IMAGE_VALUES} values that one image may have"
        )


def _finite(image: np.ndarray) -> bool:
    # A sum is finite only if every term is, and costs a third of asking each; the slow way settles an overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(image.sum(dtype=np.float64))) or bool(np.isfinite(image).all())


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
