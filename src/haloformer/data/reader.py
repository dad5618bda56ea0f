"""What goes into a prediction or a fit: files, folders, patterns, datasets, FITS cubes, and positions in a large FITS image.

All of it is found before the first image is read (`find_inputs`), and read batch by batch (`image_batches`), each image brought to the
model's pixel scale and size. An image that cannot be read is an item with its reason, not an exception.
"""

import csv
import functools
import glob
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloformer.data.dataset import LensDataset
from haloformer.data.hdf5_checks import MAX_IMAGE_VALUES
from haloformer.data.images import (
    FITS_SUFFIXES,
    NAN_CHOICES,
    channels_first,
    check_size,
    choose_hdus,
    find_images,
    fits_errors,
    fits_hdus,
    image_suffix,
    is_image_name,
    known_pixels,
    read_image,
)
from haloformer.data.npy import read_bytes
from haloformer.data.resample import resample
from haloformer.data.sky import celestial, is_surface_brightness, pixel_scales, pixels, ra_dec
from haloformer.data.unpacked import check_chunks
from haloformer.errors import InputError

DATASET_SUFFIXES = (".h5", ".hdf5")


_MAX_PLANES = 1_000_000  # of a cube; what claims more is no stack of images


_MARGIN = 3  # pixels read around a cutout, so that its middle may lie between pixels


_NAXIS = 80 * 2, b"NAXIS   =                    2"  # the third card of a plain FITS image


@dataclass(frozen=True)
class Reading:
    """How the images are read: the options that `predict` and `fit` share, documented there."""

    hdu: int | str | None = None
    band: int | str | None = None
    nan: str = "error"
    pixel_scale: float | None = None
    catalog: str | None = None
    size: float | None = None

    def check(self) -> None:
        """Refuses what cannot be."""
        if self.nan not in NAN_CHOICES:
            raise InputError(f"nan is '{self.nan}': known are {', '.join(NAN_CHOICES)}")
        for name, value in (("pixel_scale", self.pixel_scale), ("size", self.size)):
            if value is not None and not 1e-4 <= value <= 1e4:
                raise InputError(f"{name} is {value:g}: a number of arcsec is needed")
        if self.size is not None and self.catalog is None:
            raise InputError(
                "size is the side of cutouts about the positions of a catalog: give a catalog, too"
            )


@dataclass(frozen=True)
class PixelGrid:
    """What the images become: their shape (C, H, W), and arcsec per pixel where that is known."""

    shape: tuple[int, int, int]
    pixel_scale: float | None = None


@dataclass(frozen=True)
class InputFile:
    """One image file, or several images of one file, or what was named but cannot be opened.

    Attributes:
        path: The file.
        n: Number of images.
        start: The first of them.
        is_dataset: They are images of a dataset.
        error: Why there is none.
        hdu: Number of the FITS extension; None: the first with an image.
        plane: The one plane of a cube that is meant.
        is_stack: They are planes of a cube.
        catalog: They lie at the positions of this file.
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


@dataclass
class ReadImage:
    """One image of the frame's shape, or the reason why there is none, and what a table says of it."""

    file: str
    image: np.ndarray | None = None
    error: str | None = None
    index: int | None = None
    label: str | None = None
    hdu: int | None = None
    ra: float | None = None
    dec: float | None = None

    def row(self) -> dict[str, Any]:
        """Returns what a row says of the image itself."""
        return {
            name: getattr(self, name) for name in ("file", "index", "label", "hdu", "ra", "dec")
        }


def check_choices(on_error: str, batch_size: int) -> None:
    """Refuses what `predict` does not know."""
    if on_error not in ("row", "stop"):
        raise InputError(f"on_error is '{on_error}': known are row, stop")
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: must be at least 1")


def place_columns(sources: Sequence[InputFile]) -> list[str]:
    """Returns the columns that say where in their files the images lie."""
    datasets = any(source.is_dataset for source in sources)
    fits = any(_is_fits(source.path) for source in sources)
    return ["index"] * (datasets or fits) + ["label"] * datasets + ["hdu", "ra", "dec"] * fits


def find_inputs(
    arguments: Sequence[str],
    keep_errors: bool,
    *,
    channels: int = 1,
    reading: Reading | None = None,
) -> list[InputFile]:
    """Finds all inputs before the first is read, so that a misspelt name ends the run at once.

    Args:
        arguments: Files, folders, glob patterns, datasets.
        keep_errors: What cannot be opened becomes a source that says so, unless it is all that there is.
        channels: Of the images that are wanted.
        reading: How they are read.
    """
    reading = reading or Reading()
    if not arguments:
        raise InputError("no images given: name files, folders, glob patterns or .h5 datasets")
    paths = list(dict.fromkeys(_expanded(arguments)))
    if reading.catalog is not None:
        return [_catalog_source(paths, Path(reading.catalog), channels, reading)]
    sources: dict[InputFile, None] = {}
    for path in paths:
        try:
            if path.suffix.lower() in DATASET_SUFFIXES:
                check_chunks(path)
                with LensDataset(path) as dataset:
                    sources[InputFile(path, len(dataset), is_dataset=True)] = None
                continue
            for found in find_images(path):
                sources.update(dict.fromkeys(_file_sources(found, channels, reading, keep_errors)))
        except InputError as error:
            if not keep_errors or path.is_dir():
                raise
            sources[InputFile(path, error=str(error))] = None
    if not any(source.path.exists() for source in sources):
        raise InputError(next(source.error for source in sources if source.error))
    return list(sources)


def _expanded(arguments: Sequence[str]) -> Iterator[Path]:
    """Expands the glob patterns that a shell has left, and passes on the rest."""
    for argument in arguments:
        if Path(argument).exists() or not glob.has_magic(argument):
            yield Path(argument)
            continue
        matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
        matches = [
            path
            for path in matches
            if is_image_name(path.name) or path.suffix.lower() in DATASET_SUFFIXES
        ]
        if not matches:
            raise InputError(f"no image matches the pattern '{argument}'")
        yield from matches


def _file_sources(
    path: Path, channels: int, reading: Reading, keep_errors: bool
) -> list[InputFile]:
    if not _is_fits(path) or (reading.hdu is None and reading.band is None and _is_plain(path)):
        return [InputFile(path)]
    name = printable(path)
    try:
        with fits_hdus(path, name) as hdus:
            return [
                _fits_source(path, name, hdus[k], k, plane, channels)
                for k, plane in _chosen(hdus, name, reading)
            ]
    except InputError as error:
        if not keep_errors:
            raise
        return [InputFile(path, error=str(error))]


def _is_fits(path: Path) -> bool:
    return image_suffix(path.name) in FITS_SUFFIXES


def _is_plain(path: Path) -> bool:
    """Tells at a glance whether a FITS file begins with one 2-D image: most do, and need not be opened twice."""
    try:
        with path.open("rb") as file:
            return file.read(_NAXIS[0] + len(_NAXIS[1]))[_NAXIS[0] :] == _NAXIS[1]
    except OSError:
        return False


def _fits_source(
    path: Path, name: str, hdu: Any, number: int, plane: int | None, channels: int
) -> InputFile:
    shape = hdu.shape
    if plane is not None or len(shape) == 2 or channels != 1 or 1 in (shape[0], shape[2]):
        return InputFile(path, hdu=number, plane=plane)
    there = hdu.fileinfo()
    size = math.prod(shape) * abs(hdu.header.get("BITPIX", 8)) // 8
    truncated = not hasattr(hdu, "compression_type") and there["datLoc"] + size > there["file"].size
    if truncated or shape[0] > _MAX_PLANES:
        raise InputError(
            f"{name} is corrupt or truncated: it does not hold the {shape} values that it claims"
        )
    return InputFile(path, shape[0], hdu=number, is_stack=True)


def _chosen(hdus: Any, name: str, reading: Reading) -> list[tuple[int, int | None]]:
    """Returns the extensions that are meant, and of a cube the plane, None for all of it."""
    if not isinstance(reading.band, str):
        numbers = choose_hdus(hdus, name, reading.hdu)
        return [(k, _plane(hdus[k].shape, reading.band, name)) for k in numbers]
    wanted, known = reading.band.upper(), list[str]()
    for k in choose_hdus(hdus, name, "all" if reading.hdu is None else reading.hdu):
        bands = _bands(hdus[k])
        if wanted in bands:
            return [(k, bands[wanted])]
        known += bands
    raise InputError(
        f"{name} has no band '{reading.band}'; there are {', '.join(known) or 'none with a name'}"
    )


def _plane(shape: Sequence[int], band: int | None, name: str) -> int | None:
    if band is None:
        return None
    if len(shape) == 2 or not 0 <= band < shape[0]:
        there = f"0 to {shape[0] - 1}" if len(shape) == 3 else "none, as it is a single image"
        raise InputError(f"{name} has no band {band}; there are {there}")
    return band


def _bands(hdu: Any) -> dict[str, int | None]:
    """Returns the names of an extension's bands with their planes: its own name and filter, or a cube's FILTER1, BAND1, …."""
    names: dict[str, int | None] = {}
    if len(hdu.shape) == 2:
        names = dict.fromkeys(
            str(hdu.header.get(key, "")).strip().upper() for key in ("EXTNAME", "FILTER", "BAND")
        )
    else:
        for key in ("FILTER", "BAND"):
            first = 0 if f"{key}0" in hdu.header else 1
            for plane in range(min(hdu.shape[0], 100)):
                names.setdefault(
                    str(hdu.header.get(f"{key}{plane + first}", "")).strip().upper(), plane
                )
    names.pop("", None)
    return names


@dataclass(frozen=True)
class _Positions:
    """(N,) each: degrees, or pixels counted from 0; NaN where the catalog has no number."""

    on_sky: bool
    first: np.ndarray
    second: np.ndarray


def _catalog_source(
    paths: Sequence[Path], catalog: Path, channels: int, reading: Reading
) -> InputFile:
    if len(paths) != 1 or not _is_fits(paths[0]) or paths[0].is_dir():
        raise InputError(
            f"a catalog goes with one FITS image, not with {', '.join(map(str, paths[:3]))}"
        )
    path, name = paths[0], printable(paths[0])
    if not path.exists():
        raise InputError(f"{path} does not exist")
    positions = _read_positions(catalog)
    with fits_hdus(path, name) as hdus:
        chosen = _chosen(hdus, name, reading)
        if len(chosen) != 1:
            raise InputError(
                f"a catalog goes with one extension: hdu '{reading.hdu}' of {name} is {len(chosen)}"
            )
        ((number, plane),) = chosen
        shape, wcs = hdus[number].shape, celestial(hdus[number].header)
    if plane is None and len(shape) == 3 and shape[0] != channels:
        raise InputError(
            f"{name} has {shape[0]} bands, and {channels} are needed: choose one by --band"
        )
    if positions.on_sky and wcs is None:
        raise InputError(
            f"{name} has no WCS, which positions by ra and dec need: give x and y in pixels"
        )
    if reading.size is not None and wcs is None and reading.pixel_scale is None:
        raise InputError(f"{name} has no WCS: size is in arcsec and needs --pixel_scale")
    return InputFile(path, len(positions.first), hdu=number, plane=plane, catalog=catalog)


@functools.lru_cache(maxsize=2)
def _read_positions(path: Path) -> _Positions:
    text = read_bytes(path).decode("utf-8-sig", "replace")
    try:
        header, *rows = csv.reader(text.splitlines())
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is no catalog: a CSV file with a line of column names is needed"
        ) from error
    names = [name.strip().lower() for name in header]
    for pair in (("ra", "dec"), ("x", "y")):
        if all(name in names for name in pair):
            columns = [names.index(name) for name in pair]
            break
    else:
        raise InputError(
            f"{path} has the columns {', '.join(header)}: ra and dec, or x and y, are needed"
        )
    rows = [row for row in rows if row]
    if not rows:
        raise InputError(f"{path} holds no position")
    first, second = (
        np.array([_number(row[k]) if k < len(row) else math.nan for row in rows]) for k in columns
    )
    return _Positions(pair == ("ra", "dec"), first, second)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _cutout_items(
    source: InputFile, name: str, frame: PixelGrid, reading: Reading
) -> Iterator[ReadImage]:
    from astropy.nddata import overlap_slices

    assert source.catalog is not None
    positions = _read_positions(source.catalog)
    part = slice(source.start, source.start + source.n)
    with fits_hdus(source.path, name) as hdus:
        view = _View(hdus[source.hdu], reading)
        a, b = positions.first[part], positions.second[part]
        good = np.isfinite(a) & np.isfinite(b)
        if positions.on_sky:
            good &= np.abs(b) <= 90
            x, y = (np.full(len(a), np.nan) for _ in range(2))
            x[good], y[good] = pixels(view.wcs, a[good], b[good])
            ra, dec = a, b
        else:
            x, y = a, b
            ra, dec = view.ra_dec(x, y)
        height, width = view.shape[-2:]
        ny, nx = view.field(frame, reading.size)
        inside = np.abs(x - (width - 1) / 2) <= (width - nx) / 2 + 1e-6
        inside &= np.abs(y - (height - 1) / 2) <= (height - ny) / 2 + 1e-6
        # Resampling may put the middle between pixels; a cutout smaller than the frame ends where it was told to.
        fills = view.step(frame) is not None and ny >= view.field(frame, None)[0] - 1e-6
        box = [math.ceil(n) + _MARGIN if fills else max(1, round(n)) for n in (ny, nx)]
        for k, (px, py) in enumerate(zip(x.tolist(), y.tolist())):
            item = ReadImage(
                name,
                index=source.start + k,
                hdu=source.hdu,
                ra=_or_none(ra[k]),
                dec=_or_none(dec[k]),
            )
            where = f"{name}: position {item.index}"
            try:
                if not good[k]:
                    raise InputError(f"{where} is no position: its catalog holds no number there")
                if not inside[k]:
                    raise InputError(f"{where} at x {px:.1f}, y {py:.1f}: its cutout is not wholly within {width} × {height} pixels")  # fmt: skip
                rows, columns = overlap_slices((height, width), tuple(box), (py, px), mode="trim")[
                    0
                ]
                centre = (py - rows.start, px - columns.start)
                item.image = view.image((rows, columns), source.plane, frame, where, centre)
            except InputError as error:
                item.error = str(error)
            yield item


def image_batches(
    sources: Sequence[InputFile], batch_size: int, frame: PixelGrid, reading: Reading | None = None
) -> Iterator[list[ReadImage]]:
    """Yields the images of all sources, ``batch_size`` at a time; batches run across files."""
    reading = reading or Reading()
    items = (item for source in sources for item in _items(source, batch_size, frame, reading))
    while batch := list(itertools.islice(items, batch_size)):
        yield batch


def _items(
    source: InputFile, batch_size: int, frame: PixelGrid, reading: Reading
) -> Iterator[ReadImage]:
    name = printable(source.path)
    if source.error is not None:
        yield ReadImage(name, error=source.error)
        return
    if source.is_dataset:
        yield from _dataset_items(source, name, batch_size, frame, reading)
        return
    try:
        if source.catalog is not None:
            yield from _cutout_items(source, name, frame, reading)
        elif _is_fits(source.path):
            yield from _fits_items(source, name, frame, reading)
        else:
            yield ReadImage(name, _file_image(source.path, name, frame, reading))
    except InputError as error:
        yield ReadImage(name, error=str(error))


def _file_image(path: Path, name: str, frame: PixelGrid, reading: Reading) -> np.ndarray:
    channels = frame.shape[0] if reading.band is None else None
    image = _band_of(read_image(path, channels=channels, nan="mask"), reading.band, name)
    return _framed(image, name, frame, reading, None)


def _band_of(image: np.ndarray, band: int | str | None, name: str) -> np.ndarray:
    """Returns the band (1, H, W) of an image (C, H, W) that is no FITS file, all of it if none is asked for."""
    if isinstance(band, str):
        raise InputError(f"{name} has no band '{band}': only FITS files name their bands")
    plane = _plane(image.shape, band, name)
    return image if plane is None else image[plane : plane + 1]


def _fits_items(
    source: InputFile, name: str, frame: PixelGrid, reading: Reading
) -> Iterator[ReadImage]:
    with fits_hdus(source.path, name) as hdus:
        number = choose_hdus(hdus, name, None)[0] if source.hdu is None else source.hdu
        view = _View(hdus[number], reading)
        height, width = view.shape[-2:]
        if height * width > MAX_IMAGE_VALUES:
            raise InputError(
                f"{name} has {width} × {height} pixels, too many for one image: --catalog reads cutouts of it"
            )
        ra, dec = view.ra_dec((width - 1) / 2, (height - 1) / 2)
        for k in range(source.start, source.start + source.n):
            plane = k if source.is_stack else source.plane
            item = ReadImage(name, index=plane, hdu=number, ra=_or_none(ra), dec=_or_none(dec))
            try:
                where = name if plane is None else f"{name}: plane {plane}"
                item.image = view.image((slice(None), slice(None)), plane, frame, where)
            except InputError as error:
                item.error = str(error)
            yield item


class _View:
    """An extension of a FITS file, of which parts are read."""

    def __init__(self, hdu: Any, reading: Reading) -> None:
        self.hdu, self.shape, self.reading = hdu, hdu.shape, reading
        self.wcs = celestial(hdu.header)
        self.scales: tuple[float, float] | None = (
            None if self.wcs is None else pixel_scales(self.wcs)
        )
        if reading.pixel_scale is not None:
            self.scales = reading.pixel_scale, reading.pixel_scale
        self.per_area = is_surface_brightness(hdu.header)

    def ra_dec(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the position of pixels in degrees, NaN without a WCS."""
        if self.wcs is None:
            return np.full(np.shape(x), np.nan), np.full(np.shape(x), np.nan)
        return ra_dec(self.wcs, x, y)

    def step(self, frame: PixelGrid) -> tuple[float, float] | None:
        """Returns the sides of the frame's pixels in pixels of the image, None where they are not known."""
        if self.scales is None or frame.pixel_scale is None:
            return None
        return frame.pixel_scale / self.scales[0], frame.pixel_scale / self.scales[1]

    def field(self, frame: PixelGrid, size: float | None) -> tuple[float, float]:
        """Returns the sides of a cutout of ``size`` arcsec, by default what the frame shows, in pixels of the image."""
        if size is not None:
            assert self.scales is not None
            return size / self.scales[0], size / self.scales[1]
        step = self.step(frame) or (1.0, 1.0)
        return frame.shape[1] * step[0], frame.shape[2] * step[1]

    def image(
        self,
        part: tuple[slice, slice],
        plane: int | None,
        frame: PixelGrid,
        name: str,
        centre: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """Reads a part of the image, or of one plane of it, and brings it to the frame."""
        index = (
            (plane, *part) if plane is not None else (slice(None),) * (len(self.shape) - 2) + part
        )
        sides = [len(range(*one.indices(n))) for one, n in zip(part, self.shape[-2:])]
        check_size((*(self.shape[:-2] if plane is None else ()), *sides), name)
        check_size(
            tuple(getattr(self.hdu, "tile_shape", (1,))), name
        )  # of a compressed image whole tiles are unpacked
        with fits_errors(name):
            array = np.asarray(self.hdu.section[index])
        image = channels_first(array, frame.shape[0], name)
        return _framed(image, name, frame, self.reading, self.step(frame), self.per_area, centre)


def _framed(
    image: np.ndarray,
    name: str,
    frame: PixelGrid,
    reading: Reading,
    step: tuple[float, float] | None,
    per_area: bool = False,
    centre: tuple[float, float] | None = None,
) -> np.ndarray:
    """Brings an image (C, H, W) to the frame: resampled where the pixel scales are known, else it must have the shape."""
    if step is None and reading.pixel_scale is not None and frame.pixel_scale is not None:
        step = (frame.pixel_scale / reading.pixel_scale,) * 2
    if step is not None and image.shape[0] == frame.shape[0]:
        image = resample(
            image, step, frame.shape[1:], centre=centre, per_area=per_area, nan=reading.nan, name=name
        )  # fmt: skip
        if reading.nan != "mask" and not np.isfinite(image).all():
            raise InputError(f"{name}: has values too large to be added up")
        return image
    if wrong := _wrong_shape(name, image.shape, frame):
        raise InputError(wrong)
    return known_pixels(image, reading.nan, name)


def _dataset_items(
    source: InputFile, name: str, batch_size: int, frame: PixelGrid, reading: Reading
) -> Iterator[ReadImage]:
    with LensDataset(source.path) as dataset:
        shape = (dataset.image_shape[0] if reading.band is None else 1, *dataset.image_shape[1:])
        resized = (
            reading.pixel_scale is not None
            and frame.pixel_scale is not None
            and shape[0] == frame.shape[0]
        )
        if not resized and (wrong := _wrong_shape(name, shape, frame)):
            if source.start == 0:  # one row for all of it, however it is cut
                yield ReadImage(name, error=wrong)
            return
        labels, stop = dataset.labels, source.start + source.n
        for start in range(source.start, stop, batch_size):
            numbers = range(start, min(start + batch_size, stop))
            try:
                block = dataset.images_at(numbers).numpy()
            except InputError as error:
                yield from (
                    ReadImage(name, None, str(error), i, dataset.class_names[labels[i]])
                    for i in numbers
                )
                continue
            for i, image in zip(numbers, block):
                item = ReadImage(name, index=i, label=dataset.class_names[labels[i]])
                try:
                    where = f"{name}: image {i}"
                    item.image = _framed(
                        _band_of(image, reading.band, where), where, frame, reading, None
                    )
                except InputError as error:
                    item.error = str(error)
                yield item


def _wrong_shape(name: str, found: Sequence[int], frame: PixelGrid) -> str | None:
    if tuple(found) == tuple(frame.shape):
        return None

    def text(shape: Sequence[int]) -> str:
        return " × ".join(map(str, shape))

    wrong = f"{name}: image is {text(found)} (channels, height, width), but the model takes {text(frame.shape)}"
    if found[0] != frame.shape[0]:
        return wrong
    if frame.pixel_scale is None:
        return f"{wrong}, and does not know its pixel scale"
    return f"{wrong}; --pixel_scale, in arcsec, lets it be resampled to the model's {frame.pixel_scale:g}"


def _or_none(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def printable(text: str | Path) -> str:
    """Returns text that any table can hold: file names may be bytes that are not UTF-8."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
