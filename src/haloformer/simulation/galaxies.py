"""Libraries of real galaxies: stamps from FITS, HDF5 or ``.npz`` files, prepared to be sources behind lenses.

Of each stamp the background is taken away, the galaxy is cut out with a soft edge, its noise is smoothed, and its light becomes 1.
A galaxy belongs to the training's or to the test's side by a hash of its pixels, so that it stays there whatever file it is in and
whatever other galaxies are beside it. Two bands of one galaxy are two galaxies here, unless all bands are read together
(:func:`read_bands`): place, size and edge are then those of their mean, so that gradients of colour stay.
"""

import functools
import hashlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from haloformer.errors import InputError, InputWarning
from haloformer.files import not_there
from haloformer.readers.fits import FitsImage, fits_hdus, is_fits_image, is_sky_image, is_sky_name
from haloformer.readers.hdf5_checks import open_hdf5, plain_dataset, read_errors, survives_hdf5
from haloformer.readers.images import FITS_SUFFIXES, image_suffix
from haloformer.readers.npz import npz_arrays, npz_shapes
from haloformer.readers.pixels import check_size
from haloformer.readers.reading import Reading
from haloformer.readers.resample import resample
from haloformer.readers.unpacked import check_chunks
from haloformer.simulation.named_files import Versions, file_versions
from haloformer.simulation.sampling import spline_coefficients

SIDE = 128
"""Pixels per side of the grid that galaxies are brought to."""

TEST_SHARE = 0.2
"""Share of the galaxies that are kept for tests."""

SPLITS = ("train", "test", "all")

BandChoice = int | Literal["each"] | None
"""A band counted from 0, each of them, or their mean."""

_THRESHOLD = 2.0  # standard deviations of the background
_EDGE = 3.0  # pixels over which the light fades outside of the galaxy
_LEAST_PIXELS = 12  # of a galaxy
_LEAST_SIDE = 8  # of a stamp
_CORNER = 50  # pixels per side of the corner that is a whole picture's background
_POINTS = 4  # per side of a pixel, for half-light radii


@dataclass(frozen=True)
class Stamp:
    """A picture of a galaxy as a file has it.

    Attributes:
        pixels: (H, W) float32 light per pixel, or (bands, H, W) where each band is wanted.
        name: File and number, for messages.
        pixel_scale: Arcsec per pixel, NaN where nobody says.
        redshift: NaN where nobody says.
        content: Hash of the pixels, of several bands those of the first, 0 to 2⁶⁴.
    """

    pixels: np.ndarray
    name: str
    pixel_scale: float
    redshift: float
    content: int


@dataclass(frozen=True, eq=False)
class GalaxyLibrary:
    """Galaxies of unit flux on grids of one size.

    Attributes:
        images: (n, 128, 128) float32, each of sum 1; (n, side, side) of whole pictures.
        radius: (n,) half-light radii in pixels of these grids, of bands that were read together that of their mean; of whole pictures, half of their side.
        arcsec: (n,) half-light radii on the sky in arcsec, NaN where the pixel scale is unknown.
        redshift: (n,) NaN where unknown.
        in_test: (n,) whether a galaxy is on the test's side.
        names: File and number of each.
        offset: (n, 2) x and y of the centres of light from the middle of these grids, in their pixels: grids are cut at whole pixels of a stamp.
    """

    images: np.ndarray
    radius: np.ndarray
    arcsec: np.ndarray
    redshift: np.ndarray
    in_test: np.ndarray
    names: tuple[str, ...]
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def members(self, split: str) -> np.ndarray:
        """Returns the numbers of the galaxies of a split, one of :data:`SPLITS`; raises InputError if there are none."""
        if split == "all":
            return np.arange(len(self))
        found = np.flatnonzero(self.in_test == (split == "test"))
        if not len(found):
            raise InputError(
                f"none of the {len(self)} galaxies of {self.names[0].rpartition('[')[0]} is on the side of {split}: "
                "more are needed, or split: all"
            )
        return found

    @functools.lru_cache(maxsize=8)  # noqa: B019 - libraries are few, and live as long as their process
    def on(
        self, device: torch.device, dtype: torch.dtype, cubic: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns images, or their splines' coefficients, radii and offsets on a device."""
        images = torch.as_tensor(self.images).to(device=device, dtype=dtype)
        radius = torch.as_tensor(self.radius).to(device=device, dtype=dtype)
        offset = torch.as_tensor(self.offset).to(device=device, dtype=dtype)
        return (spline_coefficients(images) if cubic else images), radius, offset


def read_library(
    path: str,
    *,
    pixel_scale: float | None = None,
    band: int | None = None,
    galaxy_class: int | None = None,
    z_max: float | None = None,
    which: tuple[int, ...] = (),
    whole: bool = False,
    most: int = 1000,
) -> GalaxyLibrary:
    """Reads a library.

    Args:
        path: A folder of FITS files, of which each image of the sky, or cube of its bands, is a galaxy; one such file; a ``.npz`` file with
            ``images`` (N, H, W) and perhaps ``redshifts`` and ``pixel_sizes``; or an HDF5 file with ``images`` (N, H, W) or (N, H, W, bands) and perhaps
            ``redshift``, ``pixel_scale`` and ``ans``, the class, as Galaxy10 has them.
        pixel_scale: Arcsec per pixel, before what files say.
        band: Of several, counted from 0; their mean if None.
        galaxy_class: Only galaxies with this ``ans``.
        z_max: Only galaxies that are nearer.
        which: Only those with these numbers, from 0, among those that class and redshift leave; all if empty.
        whole: Whole pictures instead of galaxies that are cut out, see :func:`whole_picture`.
        most: So many galaxies are read at most, the first ones.

    Raises:
        InputError: A file cannot be read, or most galaxies, or one of ``which``, cannot be used: its file and number are named.
    """
    chosen = (pixel_scale, band, galaxy_class, z_max, which, whole, most)
    (library,) = _libraries(path, file_versions(Path(path)), *chosen)
    return library


def read_bands(
    path: str,
    *,
    pixel_scale: float | None = None,
    galaxy_class: int | None = None,
    z_max: float | None = None,
    which: tuple[int, ...] = (),
    whole: bool = False,
    most: int = 1000,
) -> tuple[GalaxyLibrary, ...]:
    """Reads the bands of a library together, see :func:`read_library`.

    A galaxy has the same number in all of them, and is left out of all if it cannot be used in one. Its place, edge, grid,
    half-light radius and side (of training or test) are the same, too; its light is 1 in each.
    """
    chosen = (pixel_scale, "each", galaxy_class, z_max, which, whole, most)
    return _libraries(path, file_versions(Path(path)), *chosen)


@functools.lru_cache(maxsize=8)
def _libraries(
    path: str,
    versions: Versions,
    pixel_scale: float | None,
    band: BandChoice,
    galaxy_class: int | None,
    z_max: float | None,
    which: tuple[int, ...],
    whole: bool,
    most: int,
) -> tuple[GalaxyLibrary, ...]:
    """Reads a library, or that of each band, as :func:`read_library` says, whose files have these versions."""
    stamps = _read_stamps(Path(path), pixel_scale, band, galaxy_class, z_max)
    if which:
        stamps = _chosen(stamps, which, path)
    libraries = build_libraries(islice(stamps, most), path, whole=whole, named=bool(which))
    if next(stamps, None) is not None:
        warnings.warn(
            f"{path} holds more than {most} galaxies: the first {most} are used",
            InputWarning,
            stacklevel=2,
        )
    return libraries


def build_libraries(
    stamps: Iterable[Stamp],
    path: str = "the library",
    *,
    whole: bool = False,
    named: bool = False,
) -> tuple[GalaxyLibrary, ...]:
    """Prepares stamps one after another as a library for each of their bands; those that cannot be used are left out, in a warning.

    Args:
        stamps: The galaxies.
        path: Where they come from, for messages.
        whole: Whole pictures, see :func:`whole_picture`.
        named: Somebody chose these very ones, so that none is left out.

    Raises:
        InputError: More than half, or one of those that were chosen, cannot be used; or there are none; or some have more bands than others.
    """
    images: list[np.ndarray] = []
    rows, names, bad = [], [], list[str]()
    for stamp in stamps:
        bands = stamp.pixels if stamp.pixels.ndim == 3 else stamp.pixels[None]
        if images and len(bands) != len(images[0]):
            raise InputError(f"{stamp.name} has {len(bands)} bands, others {len(images[0])}")
        try:
            one = (_whole_bands if whole else prepare_bands)(bands, stamp.name)
        except InputError as error:
            if named:
                raise
            bad.append(str(error))
            continue
        if images and one.images.shape != images[0].shape:
            raise InputError(
                f"{stamp.name} has {one.images.shape[-1]} pixels per side, others {images[0].shape[-1]}: "
                "whole pictures must be of one size"
            )
        images.append(one.images)
        in_test = stamp.content / 2**64 < TEST_SHARE
        scale = one.step * stamp.pixel_scale
        rows.append((one.radius, scale, stamp.redshift, in_test, *one.offset))
        names.append(stamp.name)
    _tell_bad(bad, len(rows), path)
    radius, scale, redshift, in_test, *offset = np.array(rows, dtype=float).T
    return tuple(
        GalaxyLibrary(
            images=np.stack(own),
            radius=radius,
            arcsec=radius * scale,
            redshift=redshift,
            in_test=in_test > 0,
            names=tuple(names),
            offset=np.stack(offset, 1),
        )
        for own in zip(*images)
    )


def _tell_bad(bad: list[str], good: int, path: str) -> None:
    """Warns of galaxies that are left out; raises InputError if they are most, or if none is left."""
    count = len(bad) + good
    if len(bad) > good:
        among = f" ({len(bad)} of {count} galaxies of {path} cannot be used)" if count > 1 else ""
        raise InputError(f"{bad[0]}{among}")
    if not good:
        raise InputError(f"{path} holds no galaxies that are wanted")
    if bad:
        warnings.warn(
            f"{len(bad)} of {count} galaxies of {path} cannot be used and are left out, such as {bad[0]}",
            InputWarning,
            stacklevel=2,
        )


# --- preparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A galaxy (128, 128) float32 of sum 1 about its centre of light, or a whole picture, and the side of these pixels in the stamp's own."""

    image: np.ndarray
    step: float


@dataclass(frozen=True)
class PreparedBands:
    """A galaxy's bands (bands, side, side) float32, each of sum 1, on one grid; side of its pixels in the stamp's own, and half-light radius in its pixels."""

    images: np.ndarray
    step: float
    radius: float
    offset: tuple[float, float] = (0.0, 0.0)
    """x and y of the centre of light from the grid's middle, in its pixels."""


def prepare(pixels: np.ndarray, name: str) -> Prepared:
    """Cuts a galaxy out of its stamp.

    The background is the median of the corners. The stamp is smoothed by a Gaussian of one pixel, as noise would be magnified by a lens
    like anything else. The galaxy is what hangs together above two standard deviations of the corners; outside of it the light fades
    over three pixels. It is moved to the middle, and shrunk where it has more than 128 pixels.

    Args:
        pixels: (H, W).
        name: For messages.
    """
    smooth, galaxy = _found(pixels, name)
    light = _cut(smooth, _fade(galaxy), name)
    return _on_grid(light, *_grid(light))


def prepare_bands(bands: np.ndarray, name: str) -> PreparedBands:
    """Cuts a galaxy out of all bands of its stamp alike, as :func:`prepare` does where there is one.

    It must stand out in each of them. Edge, centre, grid and half-light radius are those of the mean of the bands.

    Args:
        bands: (bands, H, W).
        name: For messages.
    """
    if len(bands) == 1:
        one = prepare(bands[0], name)
        return PreparedBands(
            one.image[None], one.step, half_light_radius(one.image), _offset(one.image)
        )
    smooth = [_found(own, f"{name}, band {k}")[0] for k, own in enumerate(bands)]
    together, galaxy = _found(bands.mean(0, dtype=float), f"{name}, the mean of its bands")
    fade = _fade(galaxy)
    mean = _cut(together, fade, name)
    center, step = _grid(mean)
    images = [
        _on_grid(_cut(own, fade, f"{name}, band {k}"), center, step).image
        for k, own in enumerate(smooth)
    ]
    whole = _on_grid(mean, center, step).image
    return PreparedBands(np.stack(images), step, half_light_radius(whole), _offset(whole))


def _found(pixels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smoothed stamp without its background, and which pixels the galaxy has; raises InputError if there is none."""
    _check_stamp(pixels, name)
    smooth = ndimage.gaussian_filter(pixels.astype(float), 1.0)
    corners = _corners(smooth, pixels != 0)
    background = np.median(corners)
    noise = 1.4826 * np.median(np.abs(corners - background))
    smooth -= background
    least = max(_THRESHOLD * noise, 1e-3 * smooth.max())
    galaxy = _connected(smooth > least, smooth)
    if galaxy.sum() < _LEAST_PIXELS:
        raise InputError(
            f"{name}: no galaxy stands out of the background, as only {int(galaxy.sum())} pixels hang together above it"
        )
    own = (pixels - background)[galaxy]
    if own.max() > 0.5 * own.sum():
        raise InputError(f"{name}: the light of its galaxy is that of one pixel")
    return smooth, galaxy


def _fade(galaxy: np.ndarray) -> np.ndarray:
    """Returns how much of the light stays: 1 in the galaxy, less outside of its edge."""
    outside = ndimage.distance_transform_edt(~galaxy)
    fade: np.ndarray = np.sin(np.pi / 2 * np.clip(1 - outside / (_EDGE + 1), 0, 1)) ** 2
    return fade


def _cut(smooth: np.ndarray, fade: np.ndarray, name: str) -> np.ndarray:
    light: np.ndarray = smooth.clip(min=0) * fade
    total = light.sum()
    if not total > 0:  # a band whose light is elsewhere
        raise InputError(f"{name}: there is no light where the galaxy is")
    light /= total
    return light


def whole_picture(pixels: np.ndarray, name: str) -> Prepared:
    """Takes a picture as it is, noise and neighbours included, less the median of its first 50 by 50 pixels; some stay negative.

    So did DeepLense's Model IV (``Model_IV/sim_cdm.py`` of github.com/mwt5345/DeepLenseSim).

    Args:
        pixels: (N, N).
        name: For messages.
    """
    _check_stamp(pixels, name)
    if pixels.shape[0] != pixels.shape[1]:
        raise InputError(f"{name} has {pixels.shape[0]}×{pixels.shape[1]} pixels, and is no square")
    light = pixels.astype(float) - np.median(pixels[:_CORNER, :_CORNER].astype(float))
    total = light.sum()
    if total <= 0:
        raise InputError(f"{name}: the picture is darker than its corner on the whole")
    return Prepared((light / total).astype(np.float32), 1.0)


def _whole_bands(bands: np.ndarray, name: str) -> PreparedBands:
    """Takes each band as :func:`whole_picture` does; half of the side stands for the radius."""
    pictures = [
        whole_picture(own, f"{name}, band {k}" if len(bands) > 1 else name)
        for k, own in enumerate(bands)
    ]
    images = np.stack([one.image for one in pictures])
    return PreparedBands(images, 1.0, images.shape[-1] / 2)


def half_light_radius(image: np.ndarray) -> float:
    """Returns the radius about the middle of a square image within which half of its light lies, in pixels.

    Each pixel counts as four by four points.
    """
    order, radius = _rings(len(image))
    fine = np.repeat(np.repeat(image.astype(float), _POINTS, 0), _POINTS, 1)
    light = np.cumsum(fine.ravel()[order])
    return float(np.interp(0.5 * light[-1], light, radius))


@functools.lru_cache(maxsize=2)
def _rings(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points of a square image's pixels in the order of their radii, and these."""
    axis = (np.arange(side * _POINTS) - (side * _POINTS - 1) / 2) / _POINTS
    radius = np.hypot(axis[:, None], axis).ravel()
    order = np.argsort(radius)
    return order, radius[order]


def _check_stamp(pixels: np.ndarray, name: str) -> None:
    check_size(pixels.shape, name)
    if min(pixels.shape) < _LEAST_SIDE:
        raise InputError(
            f"{name} has {pixels.shape[0]}×{pixels.shape[1]} pixels; at least {_LEAST_SIDE} per side are needed"
        )
    if not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise InputError(f"{name}: {bad} of {pixels.size} pixels are NaN or infinite")
    if pixels.max() == pixels.min():
        raise InputError(f"{name} is constant: there is no galaxy")


def _corners(smooth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the pixels of the four corners, an eighth of the sides and at least four pixels wide, without padding of zeros."""
    rows, columns = (max(4, n // 8) for n in smooth.shape)
    parts = [(r, c) for r in _ends(rows) for c in _ends(columns)]
    pixels, there = (np.concatenate([a[part].ravel() for part in parts]) for a in (smooth, known))
    found: np.ndarray = pixels[there] if there.sum() >= _LEAST_PIXELS else pixels
    return found


def _ends(n: int) -> tuple[slice, slice]:
    return slice(None, n), slice(-n, None)


def _connected(bright: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Returns the connected part that holds the brightest pixel of the stamp's middle half."""
    parts, _ = ndimage.label(bright, np.ones((3, 3)))
    height, width = bright.shape
    middle = (slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4)))
    inner = light[middle]
    row, column = np.unravel_index(inner.argmax(), inner.shape)
    number = parts[middle][row, column]
    found: np.ndarray = (parts == number) & (number > 0)
    return found


def _grid(light: np.ndarray) -> tuple[tuple[float, float], float]:
    """Returns the centre (y, x) of the light in pixels, and the side of the grid's pixels that holds all of it."""
    height, width = light.shape
    y, x = float(light.sum(1) @ np.arange(height)), float(light.sum(0) @ np.arange(width))
    rows, columns = np.nonzero(light > 0)
    reach = max(np.abs(rows - y).max(), np.abs(columns - x).max()) + 1
    step = max(1.0, 2 * float(reach) / SIDE)
    return (y, x), step


def _offset(image: np.ndarray) -> tuple[float, float]:
    """Returns x and y of an image's centre of light from its middle, in pixels."""
    axis = np.arange(len(image)) - (len(image) - 1) / 2
    light = image.astype(float)
    x, y = float(light.sum(0) @ axis), float(light.sum(1) @ axis)
    return x / light.sum(), y / light.sum()


def _on_grid(light: np.ndarray, center: tuple[float, float], step: float) -> Prepared:
    grid = resample(light[None].astype(np.float32), (step, step), (SIDE, SIDE), center=center)[0]
    total = grid.sum(dtype=float)
    return Prepared((grid / total).astype(np.float32), step)


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_stamps(
    path: Path,
    pixel_scale: float | None,
    band: BandChoice,
    galaxy_class: int | None,
    z_max: float | None,
) -> Iterator[Stamp]:
    if not path.exists():
        raise not_there("the folder or file of galaxies", path)
    if path.is_dir() or image_suffix(path.name) in FITS_SUFFIXES:
        stamps = _fits_stamps(path, pixel_scale, band)
    elif path.suffix.lower() in (".h5", ".hdf5"):
        stamps = _hdf5_stamps(path, pixel_scale, band, galaxy_class)
    elif path.suffix.lower() == ".npz":
        stamps = _npz_stamps(path, pixel_scale, band)
    else:
        raise InputError(f"{path} is neither a folder nor a FITS, HDF5 or .npz file of galaxies")
    if galaxy_class is not None and path.suffix.lower() not in (".h5", ".hdf5"):
        raise InputError(
            f"{path} says no classes of its galaxies; galaxy_class is that of an HDF5 file's /ans"
        )
    for stamp in stamps:
        if z_max is None or stamp.redshift < z_max:
            yield stamp


def _chosen(stamps: Iterator[Stamp], which: tuple[int, ...], path: str) -> Iterator[Stamp]:
    wanted, last = set(which), -1
    for last, stamp in enumerate(stamps):
        if last in wanted:
            yield stamp
        if last == max(wanted):
            return
    raise InputError(f"{path} holds {last + 1} galaxies that are wanted; which has {max(wanted)}")


def _stamp(pixels: np.ndarray, name: str, scale: float | None, redshift: float) -> Stamp:
    """Returns a stamp; the hash is that of its shape and its values in float32, the same on all machines."""
    if pixels.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {pixels.dtype}, not real numbers")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(pixels, dtype="<f4")
    hashed = values if values.ndim == 2 else values[0]
    digest = hashlib.blake2b(hashed.tobytes() + str(hashed.shape).encode(), digest_size=8)
    content = int.from_bytes(digest.digest(), "big")
    return Stamp(values, name, np.nan if scale is None else scale, redshift, content)


def _fits_stamps(path: Path, pixel_scale: float | None, band: BandChoice) -> Iterator[Stamp]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if image_suffix(file.name) not in FITS_SUFFIXES or file.name.startswith("."):
            continue
        if path.is_dir() and not all(map(is_sky_name, file.stem.split("_"))):
            continue  # a file of PSFs or weights
        with fits_hdus(file, str(file)) as hdus:
            for number, hdu in enumerate(hdus):
                if not is_fits_image(hdu) or not is_sky_image(hdu):
                    continue
                name = f"{file}[{number}]"
                image = FitsImage(hdus, number, name, Reading(pixel_scale=pixel_scale))
                redshift = hdu.header.get("REDSHIFT")
                if min(image.shape[-2:]) < 2:
                    raise InputError(
                        f"{name} has {image.shape[-2]}×{image.shape[-1]} pixels, which is no galaxy"
                    )
                yield _stamp(
                    _band_of_fits(image, band, name),
                    name,
                    None if image.scales is None else image.scales[0],
                    float(redshift) if isinstance(redshift, int | float) else np.nan,
                )


def _band_of_fits(image: FitsImage, band: BandChoice, name: str) -> np.ndarray:
    """Returns (H, W) of an image, or of a cube of bands; (bands, H, W) of each."""
    everything = (slice(None), slice(None))
    if len(image.shape) == 2:
        return _one_band(image.pixels(everything, None, 1, name)[0], band, name)
    return _one_band(np.moveaxis(image.pixels(everything, None, None, name), 0, 2), band, name)


def _one_band(pixels: np.ndarray, band: BandChoice, name: str) -> np.ndarray:
    """Returns (H, W) of (H, W) or (H, W, bands); (bands, H, W) of each band."""
    if pixels.ndim == 2:
        if band == "each":
            return pixels[None]
        if band:
            raise InputError(f"{name} has no band {band}; there is one, 0")
        return pixels
    if pixels.ndim != 3 or pixels.shape[2] > 16:
        raise InputError(f"{name} has the shape {pixels.shape}; (H, W) or (H, W, bands) is needed")
    if band is None:
        mean: np.ndarray = pixels.mean(axis=2, dtype=float)
        return mean
    if band == "each":
        return np.moveaxis(pixels, 2, 0)
    if not 0 <= band < pixels.shape[2]:
        raise InputError(f"{name} has no band {band}; there are 0 to {pixels.shape[2] - 1}")
    one: np.ndarray = pixels[:, :, band]
    return one


def _hdf5_stamps(
    path: Path, pixel_scale: float | None, band: BandChoice, galaxy_class: int | None
) -> Iterator[Stamp]:
    def look() -> None:
        with open_hdf5(path) as file:
            _ = plain_dataset(path, file, "images")[:1]

    check_chunks(path)
    survives_hdf5(path, look)
    with open_hdf5(path) as file:
        images = plain_dataset(path, file, "images")
        if images.ndim not in (3, 4) or images.dtype.kind not in "biuf":
            raise InputError(
                f"{path}: /images is {images.dtype} {images.shape}; (N, H, W) or (N, H, W, bands) numbers are needed"
            )
        check_size(images.shape[1:], f"{path}: an image")
        redshift = _column(path, file, "redshift", len(images))
        scales = _column(path, file, "pixel_scale", len(images))
        kinds = _column(path, file, "ans", len(images))
        if galaxy_class is not None and np.isnan(kinds).all():
            raise InputError(f"{path}: there is no /ans to choose galaxies by their class")
        for number in range(len(images)):
            if galaxy_class is not None and kinds[number] != galaxy_class:
                continue
            name = f"{path}[{number}]"
            with read_errors(path, f"images[{number}]"):
                pixels = images[number]
            scale = pixel_scale if pixel_scale is not None else float(scales[number])
            yield _stamp(_one_band(pixels, band, name), name, scale, float(redshift[number]))


def _column(path: Path, file: h5py.File, name: str, n: int) -> np.ndarray:
    """Returns a column of numbers (n,), NaN where there is none."""
    if name not in file:
        return np.full(n, np.nan)
    column = plain_dataset(path, file, name)
    if column.shape != (n,) or column.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: /{name} is {column.dtype} {column.shape}; {n} numbers are needed"
        )
    with read_errors(path, name):
        values: np.ndarray = column[...].astype(float)
    return values


def _npz_stamps(path: Path, pixel_scale: float | None, band: BandChoice) -> Iterator[Stamp]:
    shapes = npz_shapes(path, str(path))
    stacks = [key for key, shape in shapes.items() if shape is not None and len(shape) in (3, 4)]
    if "images" in stacks:
        stacks = ["images"]
    if len(stacks) != 1:
        raise InputError(
            f"{path} holds {len(stacks)} arrays that may be galaxies; one, (N, H, W), is to be called images"
        )
    wanted = {stacks[0], "redshift", "redshifts", "pixel_scale", "pixel_sizes"}
    arrays = dict(npz_arrays(path, wanted, str(path)))
    images = arrays.pop(stacks[0])
    columns = {}
    for key, values in arrays.items():
        if values.shape not in ((len(images),), ()) or values.dtype.kind not in "iuf":
            raise InputError(
                f"{path}: {key} is {values.dtype} {values.shape}; {len(images)} numbers are needed"
            )
        columns[key.removesuffix("s")] = np.broadcast_to(values.astype(float), len(images))
    unknown = np.full(len(images), np.nan)
    redshift = columns.get("redshift", unknown)
    scales = columns.get("pixel_scale", columns.get("pixel_size", unknown))
    for number, pixels in enumerate(images):
        name = f"{path}[{number}]"
        scale = pixel_scale if pixel_scale is not None else float(scales[number])
        yield _stamp(_one_band(pixels, band, name), name, scale, float(redshift[number]))
