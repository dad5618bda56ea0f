"""Finds what goes into a prediction or a fit: files, folders, archives, datasets, cubes, positions in a large image.

All of it is found before the first image is read, so that a misspelt name ends a run at once.
"""

import glob
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from haloformer.data.catalogs import read_positions
from haloformer.data.dataset import LensDataset
from haloformer.errors import InputError, InputWarning, brief
from haloformer.files import printable
from haloformer.io.shards import shards_hint
from haloformer.readers.archives import ARCHIVE_SUFFIXES, ArchiveCursor, is_archive, list_archive
from haloformer.readers.fits import (
    Hdu,
    choose_planes,
    fits_hdus,
    header_of,
    is_sky_name,
    planes_first,
)
from haloformer.readers.images import FITS_SUFFIXES, SUFFIXES, image_suffix, is_image_name
from haloformer.readers.npy import HEADER_BYTES, array_shape
from haloformer.readers.npz import END, choose_arrays, npz_shapes
from haloformer.readers.pixels import stack_length
from haloformer.readers.reading import DATASET_SUFFIXES, Reading
from haloformer.readers.sky import celestial, has_unclear_sip
from haloformer.readers.walking import (
    is_archive_name,
    is_hidden_path,
    passed_over,
    walk_files,
    warn_of_passed_over,
)

_MAX_PLANES = 1_000_000  # of a cube; what claims more is no stack of images
_READABLE = ", ".join((*SUFFIXES, *ARCHIVE_SUFFIXES, *DATASET_SUFFIXES))
_LISTS = (".csv", ".txt", ".lis", ".lst", ".list", ".ecsv")
_NPY_BLOCK = 128  # bytes, in which the header of most .npy files ends
_PLAIN_NPY = re.compile(rb"'shape': \(\d+, \d+\)")
_NAXIS = 80 * 2, b"NAXIS   =                    2"  # the third card of a plain FITS image


@dataclass(frozen=True)
class InputFile:
    """One image file, or several images of one file, or what was named but cannot be opened.

    Attributes:
        path: The file, or the archive or ``.npz`` file that holds it.
        n: Number of images.
        start: The first of them.
        is_dataset: They are images of a dataset.
        error: Why there is none.
        hdu: Number of the FITS extension; None: the first with an image.
        plane: The one plane of a cube that is meant.
        is_stack: They are planes of a cube.
        catalog: They lie at the positions of this file.
        member: The name of the file within the archive; of an array KEY of a ``.npz``, KEY.npy.
    """

    path: Path
    n: int = 1
    start: int = 0
    is_dataset: bool = False
    error: str | None = None
    hdu: int | None = None
    plane: int | None = None
    is_stack: bool = False
    catalog: Path | None = None
    member: str | None = None

    @property
    def name(self) -> str:
        """What messages and tables call the file: any table can hold it, and any terminal show it."""
        if self.member is None:
            return printable(self.path)
        if image_suffix(self.path.name) == ".npz":
            return printable(f"{self.path}[{self.member.removesuffix(END)}]")
        return printable(f"{self.path}/{self.member}")

    @property
    def is_fits(self) -> bool:
        """Whether the file is a FITS file, by its name."""
        return image_suffix(self.member or self.path.name) in FITS_SUFFIXES


def find_inputs(
    arguments: Sequence[str],
    keep_errors: bool,
    *,
    channels: int | None = 1,
    reading: Reading | None = None,
) -> list[InputFile]:
    """Finds all inputs before the first is read.

    Args:
        arguments: Files, folders, archives, glob patterns, datasets.
        keep_errors: What cannot be opened becomes an input that says so, unless it is all that there is.
        channels: Of the images that are wanted: of one channel, a FITS cube is a stack of images;
            else, and where any number will do (None), it is one image.
        reading: How they are read.

    Raises:
        InputError: Nothing was found, or something cannot be opened and ``keep_errors`` is False.
    """
    reading = reading or Reading()
    if not arguments:
        raise InputError(
            "no images given: name files, folders, archives, glob patterns or .h5 datasets"
        )
    paths = list(dict.fromkeys(_expanded(arguments)))
    if reading.catalog is not None:
        return [_catalog_input(paths, Path(reading.catalog), channels, reading)]
    inputs: dict[InputFile, None] = {}
    for path in paths:
        try:
            inputs.update(dict.fromkeys(_inputs_at(path, channels, reading, keep_errors)))
        except InputError as error:
            if not keep_errors or path.is_dir():
                raise
            inputs[InputFile(path, error=brief(error))] = None
    if not any(found.path.exists() for found in inputs):
        first, n = next(iter(inputs)), len(inputs)
        raise InputError(
            next((found.error for found in inputs if found.error), None)
            or f"none of {n} images is there: {first.path} is a link to a file that does not exist"
        )
    return list(inputs)


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Expands files and folders (searched to the bottom) into a list of image files, sorted within each folder.

    Of a folder that holds archives and no image, the archives are listed.

    Raises:
        InputError: A path does not exist, a file is of no known kind, or a folder holds no image.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if path.is_dir():
            found.update(dict.fromkeys(_images_in(path)))
        elif not path.exists():
            raise InputError(f"{path} does not exist")
        elif image_suffix(path.name) not in SUFFIXES and not is_archive(path):
            raise InputError(
                f"{path} is not an image file: {_READABLE} can be read{_of_list(path)}"
            )
        else:
            found[path] = None
    if not found:
        raise InputError("no image was given")
    return list(found)


def _of_list(path: Path) -> str:
    """Returns what to do with a list in place of images."""
    if path.suffix.lower() not in _LISTS:
        return ""
    return "; of a list of files give the names, as $(cat list.txt) does, of positions in one image --catalog"


def _images_in(folder: Path) -> list[Path]:
    files = walk_files(folder)
    inside = [file for file in files if is_image_name(file.name)]
    inside = inside or [file for file in files if is_archive_name(file.name)]
    read = set(inside)
    others = [file for file in files if file not in read]
    if not inside:
        if hint := shards_hint(folder):
            raise InputError(hint)
        there = f", and it holds {counts}" if (counts := passed_over(others)) else ""
        raise InputError(f"{folder} holds no image: {', '.join(SUFFIXES)} can be read{there}")
    warn_of_passed_over(folder, others)
    return _of_the_sky(folder, inside)


def _of_the_sky(folder: Path, images: list[Path]) -> list[Path]:
    """Returns the images without those that only go with them by their names, such as ``lens_psf.fits`` and ``noise_map.fits``."""
    of_sky = [file for file in images if is_sky_name(file.name.partition(".")[0])]
    if not of_sky or len(of_sky) == len(images):
        return images
    first = next(file for file in images if file not in of_sky)
    n = len(images) - len(of_sky)
    files = f"{first.name} and {n - 1} more" if n > 1 else first.name
    warnings.warn(
        f"{folder}: passed over {files}, by name a point-spread function, a noise map or a mask; "
        "what is named itself, not by its folder, is read",
        InputWarning,
        stacklevel=2,
    )
    return of_sky


def location_columns(inputs: Sequence[InputFile]) -> list[str]:
    """Returns the columns of a table that say where in their files the images lie."""
    datasets = any(each.is_dataset for each in inputs)
    fits = any(each.is_fits for each in inputs)
    numbered = datasets or fits or any(each.is_stack for each in inputs)
    return ["index"] * numbered + ["label"] * datasets + ["hdu", "ra", "dec"] * fits


def is_fits(path: Path) -> bool:
    """Tells from its name whether a file is a FITS file."""
    return image_suffix(path.name) in FITS_SUFFIXES


def _expanded(arguments: Sequence[str]) -> Iterator[Path]:
    """Expands the glob patterns that a shell has left, and passes on the rest."""
    for argument in arguments:
        if Path(argument).exists() or not glob.has_magic(argument):
            yield Path(argument)
            continue
        found = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
        matches = [
            path
            for path in found
            if is_image_name(path.name)
            or path.suffix.lower() in DATASET_SUFFIXES
            or is_archive_name(path.name)
        ]
        others = [path for path in found if path not in set(matches)]
        if not matches:
            there = f"; {counts} do" if (counts := passed_over(others)) else ""
            raise InputError(f"no image matches the pattern '{argument}'{there}")
        warn_of_passed_over(argument, others)
        yield from matches


def _inputs_at(
    path: Path, channels: int | None, reading: Reading, keep_errors: bool
) -> Iterator[InputFile]:
    if path.suffix.lower() in DATASET_SUFFIXES:
        with LensDataset(path) as dataset:
            yield InputFile(path, len(dataset), is_dataset=True)
        return
    for file in find_images(path):
        found = InputFile(file)
        try:
            yield from _inputs_of(found, channels, reading, keep_errors)
        except InputError as error:
            if not keep_errors:
                raise
            yield replace(found, error=brief(error))


def _inputs_of(
    file: InputFile, channels: int | None, reading: Reading, keep_errors: bool
) -> Iterable[InputFile]:
    """Returns the images of a file: those of an archive, of the arrays of a ``.npz``, the planes of a cube."""
    if is_archive(file.path):
        return _archive_inputs(file.path, channels, reading, keep_errors)
    suffix = image_suffix(file.path.name)
    if file.is_fits:
        if reading.hdu is None and reading.band is None and _is_plain(file.path):
            return [file]
        return fits_inputs(file, file.path, channels, reading)
    if suffix == ".npz":
        return _array_inputs(file.path, reading)
    if suffix == ".npy" and (n := _stack_length(file.path)) is not None:
        return [replace(file, n=n, is_stack=True)]
    return [file]


def fits_inputs(
    file: InputFile, content: Path | bytes, channels: int | None, reading: Reading
) -> list[InputFile]:
    """Returns the images of a FITS file: of the chosen extensions, and the planes of a cube.

    Args:
        file: What is known of it.
        content: The file, or its contents.
        channels: Of the images that are wanted.
        reading: How they are read.
    """
    with fits_hdus(content, file.name) as hdus:
        return [
            _fits_input(file, hdus[k], k, plane, channels)
            for k, plane in choose_planes(hdus, file.name, reading)
        ]


def _array_inputs(path: Path, reading: Reading) -> list[InputFile]:
    shapes = npz_shapes(path, printable(path))
    found = []
    for key in choose_arrays(shapes, printable(path), reading.hdu):
        n = stack_length(shapes[key] or ())
        found.append(InputFile(path, n or 1, is_stack=n is not None, member=key + END))
    return found


def _archive_inputs(
    path: Path, channels: int | None, reading: Reading, keep_errors: bool
) -> Iterator[InputFile]:
    """Yields the images of an archive, in its order."""
    names = [name for name in list_archive(path) if not is_hidden_path(name)]
    images = [name for name in names if is_image_name(PurePosixPath(name).name)]
    others = [Path(name) for name in set(names) - set(images)]
    if not images:
        there = f", and it holds {counts}" if (counts := passed_over(others)) else ""
        raise InputError(f"{path} holds no image: {', '.join(SUFFIXES)} can be read{there}")
    warn_of_passed_over(path, others)
    cursor = ArchiveCursor()
    for name in images:
        file = InputFile(path, member=name)
        if not file.is_fits:
            yield file
            continue
        try:
            yield from fits_inputs(file, cursor.read(path, name), channels, reading)
        except InputError as error:
            if not keep_errors:
                raise
            yield replace(file, error=brief(error))


def _stack_length(path: Path) -> int | None:
    """Returns how many images a ``.npy`` file holds if it cannot be one; None if it can, or cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            head = file.read(_NPY_BLOCK)
            if _PLAIN_NPY.search(head) or not head:
                return None
            return stack_length(array_shape(head + file.read(HEADER_BYTES), path.name) or ())
    except (OSError, InputError):  # what reads it says so
        return None


def _is_plain(path: Path) -> bool:
    """Tells at a glance whether a FITS file begins with one 2-D image: most do, and need not be opened twice."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(_NAXIS[0] + len(_NAXIS[1]))[_NAXIS[0] :] == _NAXIS[1]
    except OSError:
        return False


def _fits_input(
    file: InputFile, hdu: Hdu, number: int, plane: int | None, channels: int | None
) -> InputFile:
    shape = planes_first(hdu.shape)
    if plane is not None or len(shape) == 2 or channels != 1 or 1 in (shape[0], shape[2]):
        return replace(file, hdu=number, plane=plane)
    there = hdu.fileinfo()
    size = math.prod(shape) * abs(hdu.header.get("BITPIX", 8)) // 8
    truncated = not hasattr(hdu, "compression_type") and there["datLoc"] + size > there["file"].size
    if truncated or shape[0] > _MAX_PLANES:
        raise InputError(
            f"{file.name} is corrupt or truncated: it does not hold the {shape} values that it claims"
        )
    return replace(file, n=shape[0], hdu=number, is_stack=True)


def _catalog_input(
    paths: Sequence[Path], catalog: Path, channels: int | None, reading: Reading
) -> InputFile:
    """Checks that a catalog and the one FITS image given go together."""
    if len(paths) != 1 or not is_fits(paths[0]) or paths[0].is_dir():
        raise InputError(
            f"a catalog goes with one FITS image, not with {', '.join(map(str, paths[:3]))}"
        )
    path, name = paths[0], printable(paths[0])
    if not path.exists():
        raise InputError(f"{path} does not exist")
    positions = read_positions(catalog)
    with fits_hdus(path, name) as hdus:
        chosen = choose_planes(hdus, name, reading)
        if len(chosen) != 1:
            raise InputError(
                f"a catalog goes with one extension: hdu '{reading.hdu}' of {name} is {len(chosen)}"
            )
        ((number, plane),) = chosen
        shape, header = planes_first(hdus[number].shape), header_of(hdus, number)
        wcs, unclear = celestial(header), has_unclear_sip(header)
    if plane is None and len(shape) == 3 and shape[0] != channels:
        raise InputError(
            f"{name} has {shape[0]} bands, and {channels} are needed: choose one by --band"
        )
    if positions.on_sky and wcs is None:
        raise InputError(
            f"{name} has no WCS, which positions by ra and dec need: give x and y in pixels"
        )
    if positions.on_sky and unclear:
        raise InputError(
            f"{name} has SIP terms, but its CTYPE does not end in -SIP, so where its sky lies is unclear: correct the "
            "header, or give x and y in pixels"
        )
    if reading.size is not None and wcs is None and reading.pixel_scale is None:
        raise InputError(f"{name} has no WCS: size is in arcsec and needs --pixel_scale")
    return InputFile(path, len(positions.first), hdu=number, plane=plane, catalog=catalog)
