"""The one reader of everything that comes from outside: files, datasets, FITS cubes and mosaics, arrays in memory.

`find_inputs` finds all images before the first is read; `read_images` reads them batch by batch, each
brought to the pixel scale and size of a grid; an image that cannot be read is one with its reason, not an
exception. `images_in_memory` takes tensors and arrays, under the same checks. The options are `Reading`.
"""

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from haloformer.data.camera import ImageCamera
from haloformer.data.catalogs import Positions, read_positions
from haloformer.data.dataset import LensDataset
from haloformer.data.finding import InputFile, find_inputs, fits_inputs, location_columns
from haloformer.data.grids import PixelGrid, shape_error, to_grid
from haloformer.errors import InputError, InputWarning, brief
from haloformer.files import printable
from haloformer.io.quantities import NOT_SQUARE
from haloformer.readers.archives import ArchiveCursor
from haloformer.readers.fits import FitsImage, choose_hdus, fits_hdus, plane_of
from haloformer.readers.hdf5_checks import MAX_IMAGE_VALUES
from haloformer.readers.images import decode_image, image_suffix, read_image
from haloformer.readers.npy import read_bytes, read_npy
from haloformer.readers.pixels import (
    IN_MEMORY,
    bands_are_last,
    channels_first,
    in_single_precision,
    known_pixels,
)
from haloformer.readers.reading import DATASET_SUFFIXES, Reading, check_choices
from haloformer.readers.sky import pixels

__all__ = [
    "DATASET_SUFFIXES",
    "InputFile",
    "PixelGrid",
    "ReadImage",
    "Reading",
    "check_choices",
    "find_inputs",
    "images_in_memory",
    "location_columns",
    "not_answered",
    "printable",
    "read_fits",
    "read_images",
    "stacked",
    "why_not_finite",
    "with_channels",
]

_MARGIN = 3  # pixels read around a cutout, so that its middle may lie between pixels


class Row(TypedDict):
    """What a table says of an image itself."""

    file: str
    index: int | None
    label: str | None
    hdu: int | None
    ra: float | None
    dec: float | None


@dataclass
class ReadImage:
    """One image, or the reason why there is none, and what a table says of it.

    Attributes:
        file: Its file, as text that any table can hold.
        image: (C, H, W) float32 on the grid that was asked for; None if there is an error.
        error: Why there is none.
        index: Its number in a dataset, a cube or a catalog.
        label: The name of its class, where a dataset says so.
        hdu: The number of its FITS extension.
        ra: Right ascension of its middle in degrees (ICRS).
        dec: Declination.
        scales: Sides of the file's pixels along y and x in arcsec; None if they are not known.
        shape: (H, W) of the file's image, before it was brought to the grid; None of a cutout about a position.
        camera: What it brings along for the smooth fit; None: its survey's camera.
        told: What is told of it, once for all images of which it is the same.
    """

    file: str
    image: np.ndarray | None = None
    error: str | None = None
    index: int | None = None
    label: str | None = None
    hdu: int | None = None
    ra: float | None = None
    dec: float | None = None
    scales: tuple[float, float] | None = None
    shape: tuple[int, ...] | None = None
    camera: ImageCamera | None = None
    told: str = ""

    @property
    def name(self) -> str:
        """What messages call it: its file, or its number."""
        return self.file or f"image {self.index}"

    @property
    def pixels(self) -> np.ndarray:
        """The image (C, H, W); raises InputError with the reason if there is none."""
        if self.image is None or self.error is not None:
            raise InputError(self.error or f"{self.name} cannot be read")
        return self.image

    def row(self) -> Row:
        """Returns what a row of a table says of the image itself."""
        return {
            "file": self.file,
            "index": self.index,
            "label": self.label,
            "hdu": self.hdu,
            "ra": self.ra,
            "dec": self.dec,
        }


def read_images(
    inputs: Sequence[InputFile],
    grid: PixelGrid | None,
    reading: Reading | None = None,
    *,
    batch_size: int = 256,
) -> Iterator[list[ReadImage]]:
    """Yields the images of all inputs, ``batch_size`` at a time; batches run across files.

    Args:
        inputs: As `find_inputs` gives them.
        grid: What the images are brought to; None leaves each as it is.
        reading: The options by which they are read.
        batch_size: Images in memory at a time.
    """
    reading = reading or Reading()
    cursor = ArchiveCursor()
    images = (
        image for each in inputs for image in _images_of(each, batch_size, grid, reading, cursor)
    )
    told: set[str] = set()
    while batch := list(itertools.islice(images, batch_size)):
        told.update(image.told for image in batch if image.told)
        yield batch
    for each in sorted(told):  # once for all files
        warnings.warn(each, InputWarning, stacklevel=2)


def stacked(images: Sequence[ReadImage]) -> Tensor:
    """Returns read images as (B, C, H, W) float32; raises InputError for the first that is none."""
    return torch.from_numpy(np.stack([image.pixels for image in images]).astype(np.float32))


def read_fits(
    content: bytes, name: str, grid: PixelGrid, reading: Reading | None = None
) -> list[ReadImage]:
    """Returns the images of a FITS file that is in memory, as `read_images` does those of one on disk.

    Args:
        content: The file.
        name: What it is called in error messages.
        grid: What the images are brought to.
        reading: The options by which they are read.

    Raises:
        InputError: It is no FITS file, or holds no image of the sky.
    """
    reading = reading or Reading()
    found = fits_inputs(InputFile(Path(name)), content, grid.shape[0], reading)
    return [image for source in found for image in _of_fits(source, content, name, grid, reading)]


def images_in_memory(images: Tensor | np.ndarray, grid: PixelGrid, name: str = "images") -> Tensor:
    """Returns images that are in memory already, checked as those of files are.

    Pixels that are not finite pass: what the model makes of them tells (`why_not_finite`).

    Args:
        images: In any shape that `with_channels` takes, on the grid's pixel scale.
        grid: That of the model.
        name: What the images are called in error messages.

    Returns:
        (B, C, H, W) of a real type, on the device of ``images``.
    """
    if not isinstance(images, Tensor):
        array = np.asarray(images)
        if array.dtype.kind not in "biuf":
            raise InputError(f"{name} hold {array.dtype}, not real numbers")
        images = torch.from_numpy(np.array(in_single_precision(array, name)))
    images = with_channels(images, grid, name)
    if wrong := shape_error(name, tuple(images.shape[1:]), grid, can_resample=False):
        raise InputError(wrong)
    return images


def with_channels(images: Tensor, grid: PixelGrid, name: str = "images") -> Tensor:
    """Returns images of any size as (B, C, h, w).

    Args:
        images: One image (h, w), (C, h, w) or (h, w, C); or several, (B, h, w), (B, C, h, w) or
            (B, h, w, C). Without an axis of channels for a model of one channel only.
        grid: That of the model: which axis is that of the channels, its shape says.
        name: What the images are called in error messages.

    Raises:
        InputError: They can be none of these.
    """
    channels, h, w = grid.shape
    shape = tuple(images.shape)
    if images.ndim == 4:  # of another number of channels, too: what checks the size says so
        batch = images
    elif images.ndim == 3 and (
        shape[2] == 1 if channels == 1 else channels in (shape[0], shape[2])
    ):
        batch = images[None]
    elif images.ndim == 3 and channels == 1 and not bands_are_last(shape):
        batch = images[:, None]
    elif images.ndim == 2 and channels == 1:
        batch = images[None, None]
    else:
        one = f"({h}, {w})" if channels == 1 else f"({channels}, {h}, {w})"
        many = f"(N, {h}, {w}) or " if channels == 1 else ""
        raise InputError(
            f"{name} have the shape {shape}; this model takes {one} for one image, "
            f"{many}(N, {channels}, {h}, {w}) for several"
        )
    return batch.movedim(3, 1) if _channels_last(tuple(batch.shape[1:]), grid) else batch


def _channels_last(shape: tuple[int, ...], grid: PixelGrid) -> bool:
    """Tells whether images of a shape have their channels last, if one of both it must be."""
    channels, *size = grid.shape
    fits = shape == (*size, channels) and shape != grid.shape
    return fits or shape[0] != channels == shape[2]


def why_not_finite(image: Tensor | np.ndarray, name: str) -> InputError:
    """Returns why a model has no finite answer for an image (C, H, W) that was in memory."""
    try:
        pixels = np.asarray(torch.as_tensor(image).float().cpu())
        known_pixels(pixels, "error", name, IN_MEMORY)
    except InputError as error:
        return error
    return not_answered(name)


def not_answered(name: str) -> InputError:
    """Returns the error for an image of finite pixels for which a model has no finite answer."""
    return InputError(f"the model gives no number for {name}: are its values extreme?")


# --- each kind of input -----------------------------------------------------------------------------------------------


def _images_of(
    source: InputFile,
    batch_size: int,
    grid: PixelGrid | None,
    reading: Reading,
    cursor: ArchiveCursor,
) -> Iterator[ReadImage]:
    name = source.name
    if source.error is not None:
        yield ReadImage(name, error=source.error)
        return
    if source.is_dataset:
        yield from _of_dataset(source, name, batch_size, grid, reading)
        return
    try:
        content = source.path if source.member is None else cursor.read(source.path, source.member)
        if source.catalog is not None:
            yield from _cutouts(source, source.catalog, name, grid, reading)
        elif source.is_fits:
            yield from _of_fits(source, content, name, grid, reading)
        elif source.is_stack:
            yield from _of_stack(source, content, name, grid, reading)
        else:
            yield _of_file(source, content, name, grid, reading)
    except InputError as error:
        yield ReadImage(name, error=brief(error))


def _of_file(
    source: InputFile, content: Path | bytes, name: str, grid: PixelGrid | None, reading: Reading
) -> ReadImage:
    channels = None if reading.band is not None or grid is None else grid.shape[0]
    if isinstance(content, Path):
        image = read_image(content, channels=channels, hdu=reading.hdu, nan="mask")
    else:
        suffix = image_suffix(source.member or name)
        image, _ = decode_image(content, name, channels=channels, nan="mask", suffix=suffix)
    image = _band_of(image, reading.band, name)
    scales = _given_scales(reading)
    on_grid = to_grid(image, grid, reading, name, scales=scales)
    return ReadImage(name, on_grid, scales=scales, shape=image.shape[1:])


def _of_stack(
    source: InputFile, content: Path | bytes, name: str, grid: PixelGrid | None, reading: Reading
) -> Iterator[ReadImage]:
    """Yields the images of an array (N, H, W), (N, C, H, W) or (N, H, W, C)."""
    array, _ = read_npy(read_bytes(content) if isinstance(content, Path) else content, name)
    channels = None if reading.band is not None or grid is None else grid.shape[0]
    scales = _given_scales(reading)
    for k in range(source.start, source.start + source.n):
        found, where = ReadImage(name, index=k, scales=scales), f"{name}: image {k}"
        try:
            image = known_pixels(channels_first(array[k], channels, where), "mask", where)
            found.shape = image.shape[1:]
            found.image = to_grid(
                _band_of(image, reading.band, where), grid, reading, where, scales=scales
            )
        except (InputError, IndexError) as error:
            found.error = brief(error)
        yield found


def _given_scales(reading: Reading) -> tuple[float, float] | None:
    return None if reading.pixel_scale is None else (reading.pixel_scale, reading.pixel_scale)


def _band_of(image: np.ndarray, band: int | str | None, name: str) -> np.ndarray:
    """Returns the band (1, H, W) of an image (C, H, W) that is no FITS file, all of it if none is asked for."""
    if isinstance(band, str):
        raise InputError(f"{name} has no band '{band}': only FITS files name their bands")
    plane = plane_of(image.shape, band, name)
    return image if plane is None else image[plane : plane + 1]


def _of_fits(
    source: InputFile, content: Path | bytes, name: str, grid: PixelGrid | None, reading: Reading
) -> Iterator[ReadImage]:
    with fits_hdus(content, name) as hdus:
        number = choose_hdus(hdus, name, None)[0] if source.hdu is None else source.hdu
        stored = FitsImage(hdus, number, name, reading)
        height, width = stored.shape[-2:]
        if height * width > MAX_IMAGE_VALUES:
            raise InputError(
                f"{name} has {width} × {height} pixels, too many for one image: --catalog reads cutouts of it"
            )
        told = _other_scale(stored)
        ra, dec = stored.ra_dec((width - 1) / 2, (height - 1) / 2)
        for k in range(source.start, source.start + source.n):
            plane = k if source.is_stack else source.plane
            found = ReadImage(
                name,
                index=plane,
                hdu=number,
                ra=_or_none(ra),
                dec=_or_none(dec),
                scales=stored.scales,
                shape=(height, width),
                told=told,
            )
            try:
                where = name if plane is None else f"{name}: plane {plane}"
                found.image = _part_on_grid(stored, _WHOLE, plane, grid, reading, where)
            except InputError as error:
                found.error = brief(error)
            yield found


def _other_scale(stored: FitsImage) -> str:
    """Returns what is told where the header has pixels of another size than the options, or two; the same for all such files."""
    if stored.doubt or stored.scales is None or stored.header_scales is None:
        return stored.doubt
    if stored.scales == stored.header_scales:  # none was given; the sides may differ
        return ""
    given, (y, x) = stored.scales[1], stored.header_scales
    if max(x, y, given) <= (1 + NOT_SQUARE) * min(x, y, given):
        return ""
    said = f"{x:.4g}″" if abs(x - y) <= NOT_SQUARE * x else f"{x:.4g}″ by {y:.4g}″"
    return f"pixels are taken to be of {given:.4g}″, as was given, though a header says {said}"


_WHOLE = (slice(None), slice(None))


def _part_on_grid(
    stored: FitsImage,
    part: tuple[slice, slice],
    plane: int | None,
    grid: PixelGrid | None,
    reading: Reading,
    name: str,
    center: tuple[float, float] | None = None,
) -> np.ndarray:
    image = stored.pixels(part, plane, None if grid is None else grid.shape[0], name)
    return to_grid(
        image,
        grid,
        reading,
        name,
        scales=stored.scales,
        per_area=stored.per_area,
        center=center,
    )


def _cutouts(
    source: InputFile, catalog: Path, name: str, grid: PixelGrid | None, reading: Reading
) -> Iterator[ReadImage]:
    """Yields a cutout about each position of a catalog."""
    from astropy.nddata import overlap_slices

    assert grid is not None  # a cutout has the size of what it is for
    positions = read_positions(catalog)
    part = slice(source.start, source.start + source.n)
    with fits_hdus(source.path, name) as hdus:
        assert source.hdu is not None
        stored = FitsImage(hdus, source.hdu, name, reading)
        x, y, ra, dec, good = _places(stored, positions, part)
        told = _other_scale(stored)
        height, width = stored.shape[-2:]
        inside, box = _cutout_box(stored, grid, reading.size, x, y)
        for k, (px, py) in enumerate(zip(x.tolist(), y.tolist())):
            found = ReadImage(
                name,
                index=source.start + k,
                hdu=source.hdu,
                ra=_or_none(ra[k]),
                dec=_or_none(dec[k]),
                scales=stored.scales,
                told=told,
            )
            where = f"{name}: position {found.index}"
            try:
                if not good[k]:
                    raise InputError(f"{where} is no position: its catalog holds no number there")
                if not inside[k]:
                    raise InputError(
                        f"{where} at x {px:.1f}, y {py:.1f}: "
                        f"its cutout is not wholly within {width} × {height} pixels"
                    )
                (rows, columns), _ = overlap_slices((height, width), box, (py, px), mode="trim")
                center = (py - rows.start, px - columns.start)
                found.image = _part_on_grid(
                    stored, (rows, columns), source.plane, grid, reading, where, center
                )
            except InputError as error:
                found.error = brief(error)
            yield found


def _places(
    stored: FitsImage, positions: Positions, part: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns x and y in pixels, right ascension and declination, and which positions are numbers; (n,) each."""
    first, second = positions.first[part], positions.second[part]
    good = np.isfinite(first) & np.isfinite(second)
    if not positions.on_sky:
        return first, second, *stored.ra_dec(first, second), good
    good &= np.abs(second) <= 90
    x, y = (np.full(len(first), np.nan) for _ in range(2))
    x[good], y[good] = pixels(stored.wcs, first[good], second[good])
    return x, y, first, second, good


def _cutout_box(
    stored: FitsImage, grid: PixelGrid, size: float | None, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns whose cutouts lie within the image (n,), and the rows and columns to read about each position."""
    ny, nx = whole = grid.field(stored.scales)
    if size is not None:
        assert stored.scales is not None  # checked when the catalog was found
        ny, nx = size / stored.scales[0], size / stored.scales[1]
    height, width = stored.shape[-2:]
    inside = np.abs(x - (width - 1) / 2) <= (width - nx) / 2 + 1e-6
    inside &= np.abs(y - (height - 1) / 2) <= (height - ny) / 2 + 1e-6
    # Resampling may put the middle between pixels; a cutout smaller than the grid ends where it was told to.
    fills = grid.step(stored.scales) is not None and ny >= whole[0] - 1e-6
    rows, columns = (math.ceil(n) + _MARGIN if fills else max(1, round(n)) for n in (ny, nx))
    return inside, (rows, columns)


def _of_dataset(
    source: InputFile, name: str, batch_size: int, grid: PixelGrid | None, reading: Reading
) -> Iterator[ReadImage]:
    with LensDataset(source.path) as dataset:
        scale = scale_of_dataset(dataset, reading)
        scales = None if scale is None else (scale, scale)
        shape = (dataset.image_shape[0] if reading.band is None else 1, *dataset.image_shape[1:])
        if wrong := _misfit(name, shape, grid, scales):
            if source.start == 0:  # one row for all of it, however it is cut
                yield ReadImage(name, error=wrong)
            return
        labels, stop = dataset.labels, source.start + source.n
        for start in range(source.start, stop, batch_size):
            numbers = range(start, min(start + batch_size, stop))
            found = [
                ReadImage(name, index=i, label=dataset.class_names[labels[i]], scales=scales)
                for i in numbers
            ]
            try:
                block = dataset.images_at(numbers).numpy()
            except InputError as error:
                for each in found:
                    each.error = brief(error)
                yield from found
                continue
            for each, image in zip(found, block):
                try:
                    where = f"{name}: image {each.index}"
                    image = _band_of(image, reading.band, where)
                    each.shape = image.shape[1:]
                    each.image = to_grid(image, grid, reading, where, scales=scales)
                except InputError as error:
                    each.error = brief(error)
                yield each


def scale_of_dataset(dataset: LensDataset, reading: Reading) -> float | None:
    """Returns the side of a dataset's pixels in arcsec: as given, else as the file says; None where it says none that can be."""
    return dataset.pixel_scale if reading.pixel_scale is None else reading.pixel_scale


def _misfit(
    name: str,
    shape: Sequence[int],
    grid: PixelGrid | None,
    scales: tuple[float, float] | None,
) -> str | None:
    """Says why images of a shape cannot be brought to a grid; None if they can."""
    if grid is None or (grid.step(scales) is not None and shape[0] == grid.shape[0]):
        return None
    return shape_error(name, shape, grid)


def _or_none(value: np.ndarray | float) -> float | None:
    return float(value) if np.isfinite(value) else None
