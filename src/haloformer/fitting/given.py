"""What is given to a fit from Python, as the tensors that it takes: numbers, lists and arrays, of which none is changed or kept."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.batch import LensBatch

Values = Tensor | np.ndarray | Sequence[float] | float
"""A number, or numbers in a list, an array or a tensor."""

_NO_WEIGHT = 1000.0
"""Times the noise of a map's quietest pixels, beyond which a pixel says nothing: a millionth of their weight."""
_QUIETEST = 0.05  # of a map's pixels; a mask may cover nearly all others
_LARGEST = 1e15  # whose square is a number in single precision, too


def given_array(values: object, name: str) -> np.ndarray:
    """Returns real numbers as a new float64 array, NaN where they are masked; raises InputError for anything else.

    Args:
        values: A number, list, array or tensor.
        name: What they are called in the message.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.numpy() if values.dtype != torch.bfloat16 else values.float().numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):  # lists of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be real numbers, not {type(values).__name__}")
    found = np.array(array, dtype=np.float64)
    if isinstance(values, np.ma.MaskedArray):
        found[np.ma.getmaskarray(values)] = np.nan
    return found


def given_images(images: Tensor | np.ndarray | LensBatch) -> Tensor:
    """Returns images as a tensor, NaN where they are masked; those that are one stay as they are."""
    if isinstance(images, LensBatch):
        images = images.images
    if isinstance(images, Tensor):
        if images.is_complex():
            raise InputError(f"images must be real numbers, not {images.dtype}")
        return images
    with np.errstate(over="ignore"):
        return torch.from_numpy(given_array(images, "images").astype(np.float32))


def given_seconds(exposure_time: Values | None, n: int) -> Tensor | None:
    """Returns the exposure times (n,) of n images, of which one number is that of all."""
    if exposure_time is None or (isinstance(exposure_time, Tensor) and exposure_time.ndim):
        return exposure_time
    seconds = torch.from_numpy(given_array(exposure_time, "exposure_time"))
    return seconds.expand(n) if seconds.ndim == 0 else seconds


def given_noise_map(noise_map: Values | None, shape: tuple[int, int]) -> np.ndarray | None:
    """Returns a noise map as a new array, of which one number is that of all pixels (H, W); infinite where it is masked."""
    if noise_map is None:
        return None
    sigma = given_array(noise_map, "noise_map")
    if isinstance(noise_map, np.ma.MaskedArray):
        sigma[np.ma.getmaskarray(noise_map)] = np.inf
    return np.full(shape, sigma) if sigma.ndim == 0 else sigma


def weighty(sigma: np.ndarray) -> np.ndarray:
    """Returns (B, H, W) bool: pixels of noise maps (B, H, W) that count.

    Not those of infinite noise, or of so much more than the quietest twentieth of their map that they were left out by it.
    """
    quiet = np.quantile(sigma.reshape(len(sigma), -1), _QUIETEST, axis=1, method="lower")
    most = np.minimum(_NO_WEIGHT * quiet, _LARGEST)
    counts: np.ndarray = sigma <= most[:, None, None]
    return counts
