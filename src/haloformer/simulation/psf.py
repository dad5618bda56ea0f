"""Point-spread functions of cameras as kernels, and what a camera makes of brightness: it blurs, and adds up in pixels.

The grid is that of the rays: ``supersampling`` per side of a pixel. A kernel from a file is what the camera shows of a star in
the middle of a pixel of the file, so that the file's pixels are already averaged over; on finer rays they are taken out again.
"""

import functools
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft, ndimage
from torch import Tensor

from haloformer.errors import InputError, InputWarning
from haloformer.files import not_there
from haloformer.readers.extensions import named_extension
from haloformer.readers.fits import FitsImage, choose_hdus, first_image, fits_hdus
from haloformer.readers.reading import Reading
from haloformer.readers.sky import (
    celestial,
    header_scales,
    oversampling_of,
    scale_beside_wcs,
)
from haloformer.simulation.instruments import (
    Instrument,
    convolve_psf,
    gaussian_weights,
    psf_radius,
)

_MOST_PIXELS = 1025  # per side of a kernel
_LEAST_PEAK = 1e-100
_NEGATIVE = 1e-3  # of the peak: what resampling leaves
_NORMALISED = 1e-3  # off 1
_FINER = 9  # points per side of a pixel, for widths


def rays_per_pixel(instrument: Instrument) -> int:
    """Returns the rays per side of a pixel."""
    return instrument.supersampling or 1


def ray_axis(instrument: Instrument) -> np.ndarray:
    """Positions of the rays along either axis, (num_pix · supersampling,) in arcsec, symmetric about 0."""
    rays = rays_per_pixel(instrument)
    n = instrument.num_pix * rays
    return (np.arange(n) - (n - 1) / 2) * (instrument.pixel_scale / rays)


def observe(brightness: Tensor, instrument: Instrument) -> Tensor:
    """Returns what a camera without noise makes of surface brightness.

    Args:
        brightness: (B, s·H, s·W) at the rays, s per side of a pixel, in counts/s/arcsec².
        instrument: The camera; its own number of pixels does not matter.

    Returns:
        (B, H, W) in counts/s per pixel.
    """
    blurred = convolve(brightness, instrument)
    return bin_pixels(blurred, rays_per_pixel(instrument)) * instrument.pixel_scale**2


def bin_pixels(images: Tensor, rays: int) -> Tensor:
    """Returns the means of the rays of each pixel, (B, H, W) of (B, rays·H, rays·W)."""
    if rays == 1:
        return images
    rows = sum(images[:, k::rays] for k in range(rays))
    assert isinstance(rows, Tensor)
    total = sum(rows[:, :, k::rays] for k in range(rays))
    assert isinstance(total, Tensor)
    return total / rays**2


def convolve(images: Tensor, instrument: Instrument) -> Tensor:
    """Blurs images (B, N, M) at the rays by the camera's point-spread function; edges repeat the outermost value."""
    if instrument.psf_beta is None and instrument.psf_file is None:
        scale = instrument.pixel_scale / rays_per_pixel(instrument)
        weights = gaussian_weights(instrument.psf_fwhm, instrument.psf_truncation, scale)
        return convolve_psf(
            images, torch.as_tensor(weights, dtype=images.dtype, device=images.device)
        )
    return convolve_kernel(images, psf_kernel(instrument))


def convolve_kernel(images: Tensor, kernel: np.ndarray) -> Tensor:
    """Convolves images with any kernel by Fourier transforms in float64, so that rounding depends on no batch.

    Args:
        images: (B, N, M).
        kernel: (2r+1, 2r+1), its centre in the middle.

    Returns:
        (B, N, M); edges repeat the outermost value.
    """
    radius = len(kernel) // 2
    height, width = images.shape[-2:]
    padded = F.pad(images[:, None].double(), (radius,) * 4, mode="replicate")[:, 0]
    size = [int(fft.next_fast_len(n + 2 * radius, real=True)) for n in (height, width)]
    rows, columns = (max(n, len(kernel)) for n in size)
    weights = torch.tensor(kernel, dtype=torch.float64, device=images.device)
    product = torch.fft.rfft2(padded, s=(rows, columns)) * torch.fft.rfft2(
        weights, s=(rows, columns)
    )
    # The kernel begins at its corner, so that pixel i of the images comes out 2r later than that of what was padded.
    found = torch.fft.irfft2(product, s=(rows, columns))
    part: Tensor = found[:, 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width]
    return part.to(images.dtype)


def psf_kernel(instrument: Instrument) -> np.ndarray:
    """Returns the point-spread function at the rays' spacing, (2r+1, 2r+1) of sum 1; not to be written into.

    Raises:
        InputError: The camera's file holds none that can be used.
    """
    return _psf_kernel(instrument, _version(instrument))


def _version(instrument: Instrument) -> tuple[int, int] | None:
    """Returns what changes when the file of a point-spread function does; None if there is none."""
    if instrument.psf_file is None or not Path(instrument.psf_file).is_file():
        return None
    found = Path(instrument.psf_file).stat()
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=32)
def _psf_kernel(instrument: Instrument, version: tuple[int, int] | None) -> np.ndarray:
    scale = instrument.pixel_scale / rays_per_pixel(instrument)
    if instrument.psf_file is not None:
        kernel, own_scale = read_kernel(
            instrument.psf_file,
            instrument.psf_hdu,
            instrument.psf_pixel_scale,
            image_scale=instrument.pixel_scale,
            instead="psf_pixel_scale says otherwise",
        )
        own_scale = own_scale or instrument.pixel_scale
        wide, side = kernel_fwhm(kernel) * own_scale, instrument.num_pix * instrument.pixel_scale
        if wide > side:
            raise InputError(
                f"{instrument.psf_file} is {wide:.3g} arcsec wide (FWHM), wider than the image of {side:.3g}: is psf_pixel_scale right?"
            )
        kernel = resampled(kernel, own_scale, scale)
    elif instrument.psf_beta is not None:
        radius = psf_radius(instrument.psf_fwhm, instrument.psf_truncation, scale)
        kernel = moffat(instrument.psf_fwhm / scale, instrument.psf_beta, radius)
    else:
        weights = gaussian_weights(instrument.psf_fwhm, instrument.psf_truncation, scale)
        kernel = np.outer(weights, weights)
    kernel.setflags(write=False)
    return kernel


def moffat(fwhm: float, beta: float, radius: int) -> np.ndarray:
    """A Moffat profile (1 + r²/α²)^−β (Moffat 1969), FWHM = 2α √(2^(1/β) − 1).

    Args:
        fwhm: Full width at half maximum in pixels.
        beta: The exponent.
        radius: Pixels at which it is cut.

    Returns:
        (2r+1, 2r+1) of sum 1.
    """
    if radius == 0:
        return np.ones((1, 1))
    alpha = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    square = np.arange(-radius, radius + 1) ** 2
    profile = (1 + (square[:, None] + square[None, :]) / alpha**2) ** -beta
    kernel: np.ndarray = profile / profile.sum()
    return kernel


_SEPARABLE = 1e-6
"""Of the light: what the terms of :func:`separable_psf` may leave out."""

_MOST_TERMS = 12  # beyond, Fourier transforms are faster


@dataclass(frozen=True)
class SeparablePsf:
    """A point-spread function and the averaging over pixels as a sum of products of two weights, one for each axis.

    A pixel's value is the sum over k and l of ``across[:, k] down[:, l]`` times the rays k − r after its first ray in a row, and l − r rows
    after it.

    Attributes:
        across: (terms, K) float32; K is a multiple of 4, and the last weights may be 0.
        down: As ``across``.
        radius: r, of the kernel, in rays.
    """

    across: np.ndarray
    down: np.ndarray
    radius: int


def separable_psf(instrument: Instrument) -> SeparablePsf | None:
    """Returns the point-spread function as a sum of separable ones; None if it needs too many terms.

    Singular values tell how many terms a kernel needs: one for a Gaussian, some six for a Moffat profile.
    """
    return _separable_psf(instrument, _version(instrument))


@functools.lru_cache(maxsize=32)
def _separable_psf(instrument: Instrument, version: tuple[int, int] | None) -> SeparablePsf | None:
    kernel, rays = psf_kernel(instrument)[::-1, ::-1], rays_per_pixel(instrument)
    columns, values, rows = np.linalg.svd(kernel)
    left = kernel.copy()
    for terms in range(min(len(values), _MOST_TERMS)):
        left = left - values[terms] * np.outer(columns[:, terms], rows[terms])
        if np.abs(left).sum() < _SEPARABLE:
            break
    else:
        return None
    pixel = np.full(rays, 1 / rays)
    root = np.sqrt(values)
    across, down = (
        np.stack([np.convolve(root[k] * each[k], pixel) for k in range(terms + 1)])
        for each in (rows, columns.T)
    )
    more = ((0, 0), (0, -across.shape[1] % 4))
    across, down = (np.pad(each, more).astype(np.float32) for each in (across, down))
    return SeparablePsf(across, down, len(kernel) // 2)


def psf_fwhm(instrument: Instrument) -> float:
    """Returns the full width at half maximum of the point-spread function in arcsec: as stated, or as the file's kernel has it."""
    if instrument.psf_file is None:
        return instrument.psf_fwhm
    scale = instrument.pixel_scale / rays_per_pixel(instrument)
    return _fwhm_of_file(instrument, _version(instrument)) * scale


@functools.lru_cache(maxsize=32)
def _fwhm_of_file(instrument: Instrument, version: tuple[int, int] | None) -> float:
    return kernel_fwhm(psf_kernel(instrument))


def kernel_fwhm(kernel: np.ndarray) -> float:
    """Returns the diameter in pixels of a circle as large as the part of a kernel that is above half of its maximum."""
    bright = np.argwhere(kernel > 0.2 * kernel.max())
    low, high = bright.min(0), bright.max(0) + 1  # enlarging the rest takes long for nothing
    wide = np.pad(kernel, 2)[low[0] : high[0] + 4, low[1] : high[1] + 4]
    fine = ndimage.zoom(wide, _FINER, order=3, grid_mode=True, mode="grid-constant")
    return 2 * math.sqrt(float((fine > fine.max() / 2).sum()) / math.pi) / _FINER


# --- kernels from files -----------------------------------------------------------------------------------------------


def read_kernel(
    path: str | Path,
    hdu: int | str | None = None,
    pixel_scale: float | None = None,
    *,
    image_scale: float | None = None,
    instead: str = "PIXSCALE in its header says otherwise",
) -> tuple[np.ndarray, float | None]:
    """Reads a point-spread function from a FITS file.

    Args:
        path: The file.
        hdu: Extension; if None that whose name says that it is a point-spread function, else the first
            that holds an image.
        pixel_scale: Arcsec per pixel; what the header says if None.
        image_scale: That of the image's pixels, of which an oversampled kernel's are a part where the
            header says no more.
        instead: What says the scale otherwise.

    Returns:
        The kernel, square and of sum 1, and its pixel scale, None if nobody says.

    Raises:
        InputError: It cannot be read, or is no point-spread function (see :func:`checked_kernel`).
    """
    name, path = str(path), Path(path)
    if not path.exists():
        raise not_there("psf_file", name)
    wanted = named_extension("psf", path, None) if hdu is None else hdu
    wanted = first_image(path) if wanted is None else wanted
    with fits_hdus(path, name) as hdus:
        number = choose_hdus(hdus, name, wanted)[0]
        image = FitsImage(hdus, number, name, Reading(pixel_scale=pixel_scale))
        scales = image.scales
        if len(image.shape) != 2:
            raise InputError(f"{name} holds a cube of shape {image.shape}; one kernel is needed")
        if max(image.shape) > _MOST_PIXELS:
            raise InputError(
                f"{name} has {image.shape[0]}×{image.shape[1]} pixels, too many for a point-spread function"
            )
        pixels = image.pixels((slice(None), slice(None)), None, 1, name)[0]
        finer = oversampling_of(hdus[number].header)
    if scales is not None and abs(scales[0] / scales[1] - 1) > 1e-3:
        raise InputError(
            f"{name} has pixels of {scales[1]:g}″ × {scales[0]:g}″, which are no squares"
        )
    found = checked_kernel(pixels, name)
    if scales is not None:
        return found, scales[1]
    return found, scale_by_oversampling(finer, image_scale, name, instead)


def scale_by_oversampling(
    finer: float, image_scale: float | None, name: str, instead: str
) -> float | None:
    """Returns the pixel scale of a kernel whose header says by how much it is oversampled, and no scale.

    Args:
        finer: By how much; 1: it is not.
        image_scale: Arcsec per pixel of the image; None: not known.
        name: Where it came from, for messages.
        instead: What says the scale otherwise.

    Returns:
        The image's scale divided by that, which is told; None where it is not oversampled.

    Raises:
        InputError: The image's scale is not known.
    """
    if finer == 1:
        return None
    if image_scale is None:
        raise InputError(
            f"{name} is oversampled {finer:g} times by its header, which does not say its pixel scale: {instead}"
        )
    warnings.warn(
        f"{name} is oversampled by its header: its pixels are taken to be {image_scale / finer:.4g}″, "
        f"the image's divided by {finer:g}; {instead}",
        InputWarning,
        stacklevel=2,
    )
    return image_scale / finer


def scales_of_header(
    header: Any, image_scale: float | None, name: str, instead: str
) -> tuple[float, float] | None:
    """Returns the sides of a kernel's pixels along y and x in arcsec, as its header says them, or how it is oversampled.

    Args:
        header: Of FITS.
        image_scale: Arcsec per pixel of the image; None: what the header says of oversampling does not count.
        name: Where it came from, for messages.
        instead: What says the scale otherwise.
    """
    sides = header_scales(header, celestial(header), name)
    if sides is None and image_scale is not None:
        scale = scale_by_oversampling(oversampling_of(header), image_scale, name, instead)
        sides = None if scale is None else (scale, scale)
    return sides


def doubt_of_header(header: Any) -> str:
    """Returns what is told where a header has another scale than its WCS, which counts; else nothing."""
    return scale_beside_wcs(header, celestial(header))


def checked_kernel(kernel: np.ndarray, name: str) -> np.ndarray:
    """Returns a kernel as a square of sum 1.

    Args:
        kernel: (odd, odd).
        name: Where it came from, for messages.

    Raises:
        InputError: It has an even side, NaN, negative values, no light, values that cannot be added up, or is more than half a pixel off its centre.
    """
    kernel = np.asarray(kernel, dtype=float)
    height, width = kernel.shape
    if height % 2 == 0 or width % 2 == 0:
        raise InputError(
            f"{name} has {height}×{width} pixels; a point-spread function needs an odd number along each side, to have a middle"
        )
    bad = int((~np.isfinite(kernel)).sum())
    if bad:
        raise InputError(f"{name}: {bad} of {kernel.size} values are NaN or infinite")
    peak = kernel.max()
    if peak <= 0:
        raise InputError(f"{name} has no light")
    if not _LEAST_PEAK < peak < 1 / _LEAST_PEAK:
        raise InputError(
            f"{name} has a peak of {peak:.2g}: values of that size cannot be added up; scale them to add up to 1"
        )
    if kernel.min() < -_NEGATIVE * peak:
        raise InputError(
            f"{name} has negative values, down to {kernel.min() / peak:.2g} of the peak, which no point-spread function has"
        )
    kernel = kernel.clip(min=0)
    off = _centre_of(kernel)
    if max(map(abs, off)) > 0.5:
        raise InputError(
            f"{name} is centred {off[1]:+.2f}, {off[0]:+.2f} pixels off its middle (x, y); half a pixel is allowed"
        )
    total = kernel.sum()
    if abs(total - 1) > _NORMALISED:
        warnings.warn(
            f"{name} adds up to {total:.4g}: it is used as if that were 1",
            InputWarning,
            stacklevel=2,
        )
    side = max(height, width)
    margins = [((side - n) // 2,) * 2 for n in (height, width)]
    return np.pad(kernel / total, margins)


def _centre_of(kernel: np.ndarray) -> tuple[float, float]:
    """Returns how far (y, x) in pixels the bright part, above a fifth of the peak, lies off the middle."""
    bright = np.where(kernel > 0.2 * kernel.max(), kernel, 0.0)
    y, x = (np.arange(n) - (n - 1) / 2 for n in kernel.shape)
    total = bright.sum()
    return float(bright.sum(1) @ y / total), float(bright.sum(0) @ x / total)


def resampled(kernel: np.ndarray, own_scale: float, scale: float) -> np.ndarray:
    """Returns a kernel on pixels of another size, averaged over these instead of over its own.

    A box's Fourier transform is a sinc, which has no zero up to the Nyquist frequency of its pixels: the own ones are taken out by
    division, the new ones put in by multiplication. Between pixels the kernel is a quintic spline.

    Args:
        kernel: (2r+1, 2r+1).
        own_scale: Arcsec per pixel of the kernel.
        scale: Arcsec per pixel of the result.
    """
    ratio = scale / own_scale
    if abs(ratio - 1) < 1e-6:
        return kernel.copy()
    margin = 4 + math.ceil(ratio)
    wide = np.pad(kernel, margin)
    frequency = np.fft.fftfreq(len(wide))
    box = np.sinc(frequency * ratio) / np.sinc(frequency)
    sharp = np.fft.ifft2(np.fft.fft2(wide) * box[:, None] * box[None, :]).real
    radius = max(1, math.floor((len(kernel) - 1) / 2 / ratio + 1e-6))
    places = np.arange(-radius, radius + 1) * ratio + (len(wide) - 1) / 2
    fine: np.ndarray = ndimage.map_coordinates(
        sharp, np.meshgrid(places, places, indexing="ij"), order=5, mode="constant"
    ).clip(min=0)
    found: np.ndarray = fine / fine.sum()
    return found
