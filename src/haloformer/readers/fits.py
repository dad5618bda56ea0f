"""FITS files as astropy opens them: their extensions and bands, and images read from a part of one."""

import contextlib
import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from haloformer.errors import InputError
from haloformer.files import check_regular
from haloformer.io.quantities import electrons_per_unit
from haloformer.readers.inflation import check_fits
from haloformer.readers.npy import MAX_FILE_BYTES, read_bytes
from haloformer.readers.pixels import bands_are_last, channels_first, check_size
from haloformer.readers.reading import Reading
from haloformer.readers.sky import (
    SKY_KEYS,
    celestial,
    check_header,
    header_scales,
    is_scale_key,
    is_surface_brightness,
    is_wcs_key,
    ra_dec,
    scale_beside_wcs,
)

_GZIP = b"\x1f\x8b"
_MAX_SEARCHED = 1000  # extensions, for the first that holds an image
_MAX_NAMED_PLANES = 100  # of a cube, whose header is searched for their names

_NO_LENS = re.compile(
    r"PSF|RMS|WHT|WEIGHTS?|MASK|MSK|ERR|ERRORS?|DQ|FLAGS?|I?VAR|INVVAR|VARIANCE|NOISE|SIGMA|STD|STDDEV|UNC|"
    r"UNCERT|CON|CTX|EXP|EXPTIME|SAMP|TIME|AREA|SEG|SEGMAP|BKG|WAVELENGTH|COVAR"
)
"""First or last words in the names of extensions that describe an image and are none of the sky."""
_LENS = re.compile("SCI|FLUX|IMAGE|DATA")  # last words that say the opposite


class Hdu(Protocol):
    """What is used of astropy's extensions."""

    name: str
    ver: int
    header: Mapping[str, Any]
    shape: tuple[int, ...]
    is_image: bool
    data: np.ndarray
    section: Any

    def fileinfo(self) -> dict[str, Any]:
        """Returns where the extension lies in its file."""


@contextlib.contextmanager
def fits_hdus(
    source: bytes | Path, name: str, max_bytes: int = MAX_FILE_BYTES
) -> Iterator[Sequence[Hdu]]:
    """Yields the extensions of a FITS file; all that fails while it is open is an `InputError`.

    Args:
        source: The file's contents, or its path, of which only what is asked for is read, whatever
            its size.
        name: Its name, for error messages.
        max_bytes: Of what a gzipped file unpacks to.
    """
    from astropy.io import fits

    with contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            file = stack.enter_context(_opened(source, name, max_bytes))
        else:
            file = io.BytesIO(_unzipped(source, name, max_bytes))
        start = file.read(6)
        file.seek(0)
        if not start:
            raise InputError(f"{name} is empty")
        if start != b"SIMPLE":
            raise InputError(f"{name} is not a FITS file: it does not begin as one")
        stack.enter_context(_without_astropys_warnings())
        check_fits(file, name)
        with fits_errors(name), fits.open(file, memmap=False, lazy_load_hdus=True) as hdus:
            yield hdus


@contextlib.contextmanager
def _without_astropys_warnings() -> Iterator[None]:
    """Ignores what astropy warns of: headers that it can mend. All other warnings are shown.

    What reads a file may pause in the middle of it, and read another meanwhile. So the filter is taken away again by itself:
    ``warnings.catch_warnings`` would put back all filters as they were before, in whatever order files are closed.
    """
    from astropy.utils.exceptions import AstropyWarning

    ours = ("ignore", None, AstropyWarning, None, 0)
    warnings.filters.insert(0, ours)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the caller has put other filters in place
            warnings.filters.remove(ours)  # type: ignore[attr-defined]


@contextlib.contextmanager
def fits_errors(name: str) -> Iterator[None]:
    """Turns whatever astropy raises into an `InputError`: a corrupt FITS file fails in many ways."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is corrupt or truncated: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line, cut to a readable length."""
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _opened(path: Path, name: str, max_bytes: int) -> BinaryIO:
    """Opens a file; one that is gzipped is unpacked in memory."""
    check_regular(path)
    try:
        file = path.open("rb")
        zipped = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    if not zipped:
        return file
    file.close()
    return io.BytesIO(_unzipped(read_bytes(path, max_bytes=max_bytes), name, max_bytes))


def _unzipped(data: bytes, name: str, max_bytes: int) -> bytes:
    """Returns the contents of a file, unpacked if they are gzipped."""
    if not data.startswith(_GZIP):
        return data
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


# --- extensions and bands ---------------------------------------------------------------------------------------------


def choose_hdus(hdus: Sequence[Hdu], name: str, wanted: int | str | None) -> list[int]:
    """Returns the numbers of the chosen extensions, each of which holds an image.

    Args:
        hdus: What `fits_hdus` yields.
        name: The file's name, for error messages.
        wanted: As `Reading.hdu`; None: the first with an image.
    """
    if wanted is None:
        others: list[str] = []
        for number, item in enumerate(hdus):
            if number == _MAX_SEARCHED:
                raise InputError(
                    f"{name} holds no image of the sky in its first {_MAX_SEARCHED} extensions; --hdu chooses one"
                )
            if is_fits_image(item):
                if is_sky_image(item):
                    return [number]
                others.append(item.name)
        if others:
            raise InputError(
                f"{name} holds no image of the sky by the names of its extensions, "
                f"{', '.join(others)[:100]}; --hdu chooses one of them"
            )
        raise InputError(f"{name} holds no 2-D image or 3-D cube")
    found: list[int] = []
    for part, version in names_and_versions(str(wanted), hdus):
        found += _hdus_of(hdus, name, part, version)
    return list(dict.fromkeys(found))


def choose_planes(hdus: Sequence[Hdu], name: str, reading: Reading) -> list[tuple[int, int | None]]:
    """Returns the numbers of the chosen extensions, and of a cube the plane, None for all of it."""
    if not isinstance(reading.band, str):
        numbers = choose_hdus(hdus, name, reading.hdu)
        return [(k, plane_of(planes_first(hdus[k].shape), reading.band, name)) for k in numbers]
    wanted, known = reading.band.upper(), list[str]()
    for k in choose_hdus(hdus, name, "all" if reading.hdu is None else reading.hdu):
        bands = _bands(hdus[k], header_of(hdus, k))
        if wanted in bands:
            return [(k, bands[wanted])]
        known += bands
    raise InputError(
        f"{name} has no band '{reading.band}'; there are {', '.join(known) or 'none with a name'}"
    )


def plane_of(shape: Sequence[int], band: int | None, name: str) -> int | None:
    """Returns the plane of a cube that a band's number means, None for all of it."""
    if band is None:
        return None
    if len(shape) == 2 or not 0 <= band < shape[0]:
        there = f"0 to {shape[0] - 1}" if len(shape) == 3 else "none, as it is a single image"
        raise InputError(f"{name} has no band {band}; there are {there}")
    return band


def is_fits_image(hdu: Hdu) -> bool:
    """Tells whether an extension holds a 2-D image or a 3-D cube."""
    shape = getattr(hdu, "shape", None)
    return bool(hdu.is_image) and shape is not None and len(shape) in (2, 3) and min(shape) > 0


def is_sky_image(hdu: Hdu) -> bool:
    """Tells by its name whether an extension holds an image of the sky, not its PSF, errors or flags."""
    return is_sky_name(hdu.name)


def first_image(path: Path) -> int:
    """Returns the number of a FITS file's first extension with an image, of whatever name; raises InputError if there is none."""
    with fits_hdus(path, str(path)) as hdus:
        for number, hdu in enumerate(hdus):
            if is_fits_image(hdu):
                return number
    raise InputError(f"{path} holds no image")


def is_sky_name(name: str) -> bool:
    """Tells whether a name is none of a PSF, of errors, weights or flags (see `is_sky_image`)."""
    words = re.findall("[A-Z]+", name.upper())
    if not words or _LENS.fullmatch(words[-1]):
        return True
    return not any(_NO_LENS.fullmatch(word) for word in (words[0], words[-1]))


def planes_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of an image or cube as (H, W) or (planes, H, W), wherever its bands are."""
    return (shape[2], *shape[:2]) if bands_are_last(shape) else shape


def header_of(hdus: Sequence[Hdu], number: int) -> Mapping[str, Any]:
    """Returns the header of an extension, with what the primary header alone says of the sky.

    Many files keep the WCS, the filter or the unit there, with INHERIT or without. A WCS is taken
    as a whole; INHERIT = F, or a primary image of another size, leaves the extension on its own.
    """
    header: Any = hdus[number].header
    primary: Any = hdus[0].header
    there = tuple(getattr(hdus[0], "shape", None) or ())
    elsewhere = bool(there) and there[-2:] != hdus[number].shape[-2:]
    if number == 0 or header.get("INHERIT") is False or elsewhere:
        return header  # type: ignore[no-any-return]
    has_wcs = any(key in header for key in ("CTYPE1", "CD1_1", "CDELT1"))
    wanted = [
        key
        for key in primary
        if key not in header
        and (key in SKY_KEYS or is_scale_key(key) or (is_wcs_key(key) and not has_wcs))
    ]
    if wanted:
        header = header.copy()
        for key in wanted:
            header[key] = primary[key], primary.comments[key]
    return header  # type: ignore[no-any-return]


def unit_in_file(path: Path, hdu: int | str | None) -> str:
    """Returns the unit (BUNIT) of an image in a FITS file, as its header or the primary one says it; nothing where they do not."""
    with fits_hdus(path, str(path)) as hdus:
        number = choose_hdus(hdus, str(path), hdu)[0]
        return _unit(header_of(hdus, number))


def _unit(header: Mapping[str, Any]) -> str:
    return str(header.get("BUNIT", "")).strip()


def names_and_versions(wanted: str, hdus: Sequence[Hdu]) -> list[tuple[str, int | None]]:
    """Returns the extensions of a list such as ``SCI,ERR`` or ``1,4``, each with its version (EXTVER) where one is given.

    A number behind a name is its version, as IRAF and astropy write it (``SCI,2``), where the file
    has versions of that name; else it is the number of an extension.
    """
    count = Counter(each.name.upper() for each in hdus)
    versioned = {
        each.name.upper()
        for each in hdus
        if count[each.name.upper()] > 1 or "EXTVER" in each.header
    }
    found: list[tuple[str, int | None]] = []
    for part in (each.strip() for each in wanted.split(",")):
        last, version = found[-1] if found else ("", None)
        if part.isdigit() and version is None and last and last.upper() in versioned:
            found[-1] = last, int(part)
        else:
            found.append((part, None))
    return found


def _is_pattern(wanted: str) -> bool:
    return any(sign in wanted for sign in "*?[")


def _hdus_of(hdus: Sequence[Hdu], name: str, wanted: str, version: int | None) -> list[int]:
    if wanted.lstrip("-").isdigit():
        found = [int(wanted)] if 0 <= int(wanted) < len(hdus) else []
    elif wanted.lower() == "all" or _is_pattern(wanted):
        found = _hdus_like("*" if wanted.lower() == "all" else wanted.upper(), hdus)
    else:
        found = [
            k
            for k, item in enumerate(hdus)
            if item.name.upper() == wanted.upper() and version in (None, item.ver)
        ][:1]
    if not found:
        names = ", ".join(
            f"{number} {item.name or '(no name)'}{f',{item.ver}' if item.ver > 1 else ''}"
            for number, item in enumerate(hdus)
        )
        asked = f"'{wanted}'" if version is None else f"'{wanted}' of version {version}"
        raise InputError(f"{name} has no extension {asked}; there are {names}")
    if not is_fits_image(hdus[found[0]]):
        raise InputError(f"{name}: extension '{wanted}' holds no 2-D image or 3-D cube")
    return found


def _hdus_like(pattern: str, hdus: Sequence[Hdu]) -> list[int]:
    """Returns the images whose names fit a pattern; those that are none of the sky only if there is no other."""
    found = [
        k
        for k, item in enumerate(hdus)
        if is_fits_image(item) and fnmatchcase(item.name.upper(), pattern)
    ]
    return [k for k in found if is_sky_image(hdus[k])] or found


def _bands(hdu: Hdu, header: Mapping[str, Any]) -> dict[str, int | None]:
    """Returns the names of an extension's bands with their planes: its own name and filter, or a cube's FILTER1, BAND1, …."""
    names: dict[str, int | None] = {}
    if len(hdu.shape) == 2:
        # HST's cameras with two wheels write FILTER1 and FILTER2 for one image.
        keys = ("EXTNAME", "FILTER", "BAND", "FILTER1", "FILTER2")
        names = dict.fromkeys(str(header.get(key, "")).strip().upper() for key in keys)
    else:
        for key in ("FILTER", "BAND"):
            first = 0 if f"{key}0" in header else 1
            for plane in range(min(planes_first(hdu.shape)[0], _MAX_NAMED_PLANES)):
                value = str(header.get(f"{key}{plane + first}", "")).strip().upper()
                names.setdefault(value, plane)
    names.pop("", None)
    return names


# --- images -----------------------------------------------------------------------------------------------------------


class FitsImage:
    """An image or cube in a FITS extension, with what its header says of the sky.

    Attributes:
        shape: (H, W) or (planes, H, W), wherever the bands are in the file.
        wcs: Of the two sky axes; None where there is none.
        scales: Sides of a pixel along y and x in arcsec, by the options or the header; None if unknown.
        header_scales: The same by the header alone.
        doubt: What is told where the header has another scale than its WCS, which counts; else empty.
        unit: Of its values, as the header writes it; empty if it does not.
        per_area: The values are surface brightness, not light per pixel.
    """

    def __init__(self, hdus: Sequence[Hdu], number: int, name: str, reading: Reading) -> None:
        """Reads what the headers say.

        Args:
            hdus: What `fits_hdus` yields.
            number: Of the extension.
            name: The file's name, for error messages.
            reading: The options.

        Raises:
            InputError: The header gives a pixel scale that cannot be one, and the options give none.
        """
        self._hdu = hdus[number]
        self._bands_last = bands_are_last(self._hdu.shape)
        self.shape = planes_first(self._hdu.shape)
        header = header_of(hdus, number)
        with fits_errors(name):
            check_header(header, name, has_scale=reading.pixel_scale is not None)
        self.wcs = celestial(header)
        self.scales: tuple[float, float] | None
        self.header_scales: tuple[float, float] | None = None
        if reading.pixel_scale is not None:
            self.scales = reading.pixel_scale, reading.pixel_scale
            with contextlib.suppress(InputError):  # a header that the option is there to correct
                self.header_scales = header_scales(header, self.wcs, name)
        else:
            self.scales = self.header_scales = header_scales(header, self.wcs, name)
        self.doubt = "" if reading.pixel_scale is not None else scale_beside_wcs(header, self.wcs)
        self.unit = _unit(header)
        self.per_area = is_surface_brightness(header)
        self._headers: tuple[Any, Any] = (header, hdus[0].header)

    @property
    def electrons(self) -> float | None:
        """How many electrons one of its unit stands for, by BUNIT and EXPTIME; None where the headers do not say it."""
        with contextlib.suppress(Exception):  # a hostile header fails in any of many ways
            own, primary = self._headers
            return electrons_per_unit(self.unit, own.get("EXPTIME", primary.get("EXPTIME")))
        return None

    def ra_dec(self, x: float | np.ndarray, y: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the position of pixels in degrees, NaN without a WCS."""
        if self.wcs is None:
            return np.full(np.shape(x), np.nan), np.full(np.shape(x), np.nan)
        return ra_dec(self.wcs, x, y)

    def pixels(
        self, part: tuple[slice, slice], plane: int | None, channels: int | None, name: str
    ) -> np.ndarray:
        """Reads a part of the image, or of one plane of it.

        Args:
            part: Rows and columns.
            plane: Of a cube; None reads all planes as channels.
            channels: How many there must be; None takes what is there.
            name: For error messages.

        Returns:
            (C, H, W) float32.
        """
        bands = () if len(self.shape) == 2 else (slice(None) if plane is None else plane,)
        index = (*part, *bands) if self._bands_last else (*bands, *part)
        sides = [len(range(*one.indices(n))) for one, n in zip(part, self.shape[-2:])]
        check_size((*(self.shape[:-2] if plane is None else ()), *sides), name)
        # Of a compressed image whole tiles are unpacked.
        check_size(tuple(getattr(self._hdu, "tile_shape", (1,))), name)
        with fits_errors(name):
            array = np.asarray(self._hdu.section[index])
        if self._bands_last and plane is None:
            array = np.moveaxis(array, 2, 0)
        return channels_first(array, channels, name)
