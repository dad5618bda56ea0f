"""Checks of pixel arrays that came from outside: their size, where the channels are, NaN."""

import numpy as np

from haloformer.errors import InputError
from haloformer.readers.hdf5_checks import MAX_IMAGE_VALUES

_MAX_CHANNELS = 16  # an axis at least this long is taken for height or width, never for bands


def check_size(shape: tuple[int, ...], name: str) -> None:
    """Raises InputError where an image has more values than one image may have."""
    if np.prod(shape, dtype=float) > MAX_IMAGE_VALUES:
        raise InputError(
            f"{name} has the shape {shape}, more than the {MAX_IMAGE_VALUES} values that one image may have"
        )


def bands_are_last(shape: tuple[int, ...]) -> bool:
    """Tells whether a cube of any number of planes is stored as (H, W, bands)."""
    return len(shape) == 3 and shape[2] <= _MAX_CHANNELS < min(shape[:2])


def stack_length(shape: tuple[int, ...]) -> int | None:
    """Returns how many images an array is that cannot be one; None if it can.

    Args:
        shape: (N, H, W) with N > 16, (N, C, H, W) or (N, H, W, C); else it is that of one image.
    """
    if len(shape) == 4 or (len(shape) == 3 and min(shape[0], shape[2]) > _MAX_CHANNELS):
        return shape[0]
    return None


def channels_first(array: np.ndarray, channels: int | None, name: str) -> np.ndarray:
    """Brings an image to (C, H, W) float32.

    Args:
        array: (H, W), (C, H, W) or (H, W, C), of real numbers; an axis longer than 16 is never taken
            for channels.
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
        has = "1 channel" if array.shape[0] == 1 else f"{array.shape[0]} channels"
        needed = "1 is" if channels == 1 else f"{channels} are"
        right = ""
        if channels == 1 and array.shape == shape:  # channels last are colours
            count, height, width = shape
            right = f"; if it is {count} images, their shape is ({count}, 1, {height}, {width})"
        raise InputError(f"{name} has {has}; {needed} needed (its shape is {shape}{right})")
    if channels is None and array.shape[0] > _MAX_CHANNELS:
        raise InputError(f"{name} has the shape {shape}; (H, W), (C, H, W) or (H, W, C) is needed")
    if min(array.shape[1:]) < 2:
        raise InputError(f"{name} has the shape {shape}, which is not an image")
    return np.ascontiguousarray(in_single_precision(array, name))


def in_single_precision(array: np.ndarray, name: str) -> np.ndarray:
    """Returns real numbers as float32, in which all computing is done.

    Raises:
        InputError: Some are too large for it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        single = array.astype(np.float32, copy=False)
    if single is array or _finite(single):
        return single
    if too_large := int((np.isinf(single) & np.isfinite(array)).sum()):
        largest = np.abs(array[np.isfinite(array)]).max()
        raise InputError(
            f"{name}: {too_large} of {array.size} values are too large for 32-bit numbers, up to "
            f"{largest:.3g} (3.4e38 is the limit): give them in another unit, or NaN where they are a mask"
        )
    return single


AS_A_MASK = "--nan zero or --nan mask reads it (in Python nan='mask')"
"""What commands that classify or fit images do with a mask of NaN."""
AS_ZERO = "--nan zero of haloformer convert reads it (in Python nan='zero')"
"""The same of those that read labelled images."""
IN_MEMORY = "haloformer.predict reads it, by nan='mask'"
"""The same of a predictor that is given images."""
IN_TRAINING = "leave these images out, or put numbers there (numpy.nan_to_num)"
"""The same of those that learn from images in memory."""


def known_pixels(image: np.ndarray, nan: str, name: str, remedy: str = AS_A_MASK) -> np.ndarray:
    """Treats NaN and infinite pixels of an image.

    Args:
        image: Any shape, float32.
        nan: ``"error"`` raises InputError, ``"zero"`` puts 0 there, ``"mask"`` makes all of them NaN.
        name: Where the image came from, for the error message.
        remedy: What reads a mask, for the error message.

    Returns:
        The image, itself where all pixels are finite.
    """
    if _finite(image):
        return image
    bad = ~np.isfinite(image)
    if nan == "error":
        raise InputError(
            f"{name}: {int(bad.sum())} of {image.size} pixels are NaN or infinite; if they are a mask, {remedy}"
        )
    return np.where(bad, np.float32(np.nan if nan == "mask" else 0), image)


def _finite(image: np.ndarray) -> bool:
    # A sum is finite only if every term is, and costs a third of asking each; the slow way settles an overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(image.sum(dtype=np.float64))) or bool(np.isfinite(image).all())
