"""Noise of images that were drizzled or resampled: that of neighbouring pixels is alike.

White noise of unit variance is convolved with the separable kernel (a, 1, a)/√(1 + 2a²). The variance stays 1, neighbours are
correlated by 2a/(1 + 2a²), next but one by a²/(1 + 2a²), along a diagonal by the product of both axes, farther ones not at all.
Summed over many pixels the variance is ((1 + 2a)²/(1 + 2a²))² times that of independent ones. Images of HST, Euclid and JWST in
use have neighbours 0.24 to 0.34 correlated, that is a = 0.13 to 0.19.
"""

from pathlib import Path

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from haloformer.errors import InputError
from haloformer.readers import noise_maps
from haloformer.simulation.fields import standard_normal
from haloformer.simulation.instruments import Instrument, central_part

_NUMBER = 2001  # of the draws of a pixel, apart from those of white noise

_MASK = np.uint64(0xFFFFFFFF)


def correlation(a: float, lag: int) -> float:
    """Returns the correlation of pixels ``lag`` apart along a row or column."""
    return {0: 1.0, 1: 2 * a / (1 + 2 * a**2), 2: a**2 / (1 + 2 * a**2)}.get(abs(lag), 0.0)


def correlated_noise(
    words: np.ndarray, a: Tensor, num_pix: int, *, side: int | None = None
) -> Tensor:
    """Returns noise of mean 0 and variance 1.

    Args:
        words: (B,) uint64, each image's own noise word; the noise is a function of it and the pixel alone.
        a: (B,) of the kernel; 0 gives white noise.
        num_pix: Pixels per side of the whole images.
        side: Of their central part that is returned; all of them if None.

    Returns:
        (B, side, side) float64.
    """
    device = a.device
    low = torch.as_tensor((words & _MASK).astype(np.int64), device=device)[:, None]
    high = torch.as_tensor((words >> np.uint64(32)).astype(np.int64), device=device)[:, None]
    wide = num_pix + 2
    pixel = torch.arange(wide**2, device=device)
    if side is not None and side != num_pix:
        inner = pixel.reshape(wide, wide)[1:-1, 1:-1]
        first = int(central_part(inner, side)[0, 0])
        row, column = first // wide - 1, first % wide - 1
        pixel = pixel.reshape(wide, wide)[row : row + side + 2, column : column + side + 2]
        wide = side + 2
    white = standard_normal(pixel.reshape(1, -1), low, high, _NUMBER).reshape(-1, wide, wide)
    a = a.double()[:, None, None]
    rows = white[:, 1:-1] + a * (white[:, :-2] + white[:, 2:])
    noise: Tensor = rows[:, :, 1:-1] + a * (rows[:, :, :-2] + rows[:, :, 2:])
    return noise / (1 + 2 * a**2)


class Whitening:
    """Makes the noise of :func:`correlated_noise` independent, of those pixels alone that are seen: what noise the others have, nobody knows."""

    def __init__(self, seen: np.ndarray, a: float) -> None:
        """Factorises the covariance of the pixels, whose rows are banded.

        Args:
            seen: (H, W) bool.
            a: Of the kernel, below 1/2.
        """
        self.seen = seen
        number = np.full((seen.shape[0] + 2, seen.shape[1] + 4), -1)
        number[:-2, 2:-2][seen] = np.arange(seen.sum())
        rows, columns = np.nonzero(seen)
        band = np.zeros(
            (2 * seen.shape[1] + 3, len(rows))
        )  # two rows down, two pixels to the right
        for down in range(3):
            for right in range(-2, 3):
                later = number[rows + down, columns + 2 + right]
                here = np.arange(len(rows))
                there = later >= here
                offset = (later - here)[there]
                band[offset, here[there]] = correlation(a, down) * correlation(a, right)
        self._factor = linalg.cholesky_banded(band, lower=True)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns images (B, H, W) in standard deviations of the noise with independent noise; 0 where nothing is seen."""
        (solve,) = linalg.get_lapack_funcs(("tbtrs",), (self._factor,))
        found, _ = solve(self._factor, images[:, self.seen].T, uplo="L")
        white = np.zeros(images.shape)
        white[:, self.seen] = found.T
        return white


def noise_sigma(images: Tensor, exposure_time: Tensor, background_rms: float) -> Tensor:
    """Returns the standard deviation of pixels' noise, σ² = b² + counts/T, in counts/s.

    Args:
        images: (B, H, W) noise-free, the lens galaxy's light included, in counts/s per pixel.
        exposure_time: (B,) total exposure T in seconds.
        background_rms: Noise b of the background in counts/s per pixel.
    """
    return torch.sqrt(
        background_rms**2 + images.double().clamp(min=0) / exposure_time.double()[:, None, None]
    )


def add_correlated_noise(
    images: Tensor, sigma: Tensor, words: np.ndarray, a: Tensor, num_pix: int | None = None
) -> Tensor:
    """Returns noisy images: Gaussian noise, of which a bright pixel's photon noise is part.

    Args:
        images: (B, H, W) noise-free, in counts/s per pixel.
        sigma: (B or 1, H, W), from :func:`noise_sigma` or a map (:func:`read_noise_map`).
        words: (B,) uint64, each image's own noise word.
        a: (B,) of the kernel.
        num_pix: Side of the images of which these are the central part; None: they are whole.
    """
    side = images.shape[-1]
    noise = correlated_noise(words, a.to(images.device), num_pix or side, side=side)
    return (images.double() + sigma.double() * noise).to(images.dtype)


def read_noise_map(instrument: Instrument) -> np.ndarray:
    """Returns the camera's noise map (num_pix, num_pix) float32 in counts/s, its central part where it is larger.

    Raises:
        InputError: There is none, it is smaller than the images, in another unit, a variance or a weight by its name, or it holds what is no
            positive number.
    """
    if instrument.noise_map is None:
        raise InputError("this camera has no noise_map")
    path = Path(instrument.noise_map)
    sigma = noise_maps.read_noise_map(path, instrument.pixel_scale)
    if min(sigma.shape) < instrument.num_pix:
        raise InputError(
            f"{path} has {sigma.shape[0]}×{sigma.shape[1]} pixels, fewer than the {instrument.num_pix} per side of the camera"
        )
    found: np.ndarray = central_part(torch.as_tensor(sigma), instrument.num_pix).numpy()
    if bad := int(np.isnan(found).sum()):
        raise InputError(
            f"{path}: {bad} of {found.size} pixels are NaN or infinite; give a noise there, a large one where nothing is known"
        )
    if found.min() <= 0:
        raise InputError(f"{path} holds a noise of {found.min():g}; each pixel's must be positive")
    return found
