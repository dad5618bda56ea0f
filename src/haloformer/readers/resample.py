"""Images brought to another pixel scale and size, their light conserved.

Of an image whose values are *light per pixel* (counts, counts/s, nJy), a pixel of twice the side holds four times as much; of one in
*surface brightness* (MJy/sr) it holds the same. Both are the mean brightness under the new pixel, times an area that is one of the two.
"""

import numpy as np

from haloformer.errors import InputError
from haloformer.readers.pixels import known_pixels

_SAME = 0.1  # pixels by which two grids may drift apart, centre to edge, and count as the same
_LEAST = 8  # pixels of an image that must lie across the new one: fewer are no picture of anything


def resample(
    image: np.ndarray,
    step: tuple[float, float],
    size: tuple[int, int],
    *,
    center: tuple[float, float] | None = None,
    per_area: bool = False,
    nan: str = "error",
    name: str = "image",
) -> np.ndarray:
    """Returns the image on a grid of another pixel scale, about the same centre: cut where it is larger, framed where it is smaller.

    The old image is seen as squares of constant brightness where the new pixels are larger (their overlaps are added up), and as
    brightness that is linear between pixel centres where they are smaller, so that no squares show; either holds exactly
    the light of the old. Where the scales agree no pixel is mixed with another.

    Args:
        image: (C, H, W) float32.
        step: Side of a new pixel, along y and x, in old pixels.
        size: (H', W') of the new image.
        center: (y, x) of its middle in old pixels, counted from 0 at the first one's middle; by default the old one's middle.
        per_area: The values are surface brightness, not light per pixel.
        nan: What pixels do that are not finite, as in `haloformer.data.read_image`. With ``"mask"`` a new pixel of which less than half is
            known is NaN, and so is a frame; of another the known part tells the brightness. Else a frame is 0.
        name: The image's name, for error messages.

    Returns:
        (C, H', W') float32.
    """
    if (
        image.shape[1:] == size
        and center is None
        and all(_side(*pair) == 1 for pair in zip(step, size))
    ):
        return known_pixels(image, nan, name)
    places = []
    for n, count, side, middle in zip(image.shape[1:], size, step, center or (None, None)):
        if not side * count >= _LEAST:
            raise InputError(
                f"{name}: {count} pixels of the model's scale are {side * count:.2g} of its own, which are too coarse"
            )
        places.append(
            _axis(n, count, _side(side, count), (n - 1) / 2 if middle is None else middle)
        )
    (rows, wy, by), (columns, wx, bx) = places
    part = known_pixels(image[:, rows, columns], nan, name).astype(np.float64)
    whole = _side(step[0], size[0]) * _side(step[1], size[1])
    if nan == "mask":
        known = np.isfinite(part).astype(float)
        light = wy @ np.where(known > 0, part, 0.0) @ wx.T
        gathered, covered = wy @ known @ wx.T, by @ known @ bx.T
    else:
        light = wy @ part @ wx.T
        gathered, covered = np.outer(wy.sum(1), wx.sum(1)), np.outer(by.sum(1), bx.sum(1))
    blank = np.nan if nan == "mask" else 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        brightness = light / gathered
        new = np.where(
            covered >= 0.5 * whole, brightness if per_area else brightness * whole, blank
        )
        return new.astype(np.float32)


def mixes_pixels(step: tuple[float, float], size: tuple[int, int]) -> bool:
    """Returns whether :func:`resample`, whose arguments these are, makes new pixels of parts of old ones, and not of one or whole ones."""
    return any(
        abs(side - max(1, round(side))) * count / 2 >= _SAME
        for side, count in zip(step, size, strict=True)
    )


def _side(step: float, count: int) -> float:
    """A new pixel's side in old pixels, 1 where the grids are the same but for less than matters."""
    return 1.0 if abs(step - 1) * count / 2 < _SAME else step


def _axis(n: int, count: int, side: float, middle: float) -> tuple[slice, np.ndarray, np.ndarray]:
    """Returns the part of an axis that is needed, and the weights (count, part) of its pixels: the kernel's, and plain overlaps."""
    first = middle - side * (count - 1) / 2
    if side == 1.0:
        first = np.floor(first + 0.5)  # whole pixels: none is mixed with another
    edges = first + side * (np.arange(count + 1) - 0.5)
    low, high = (
        int(np.clip(edge, 0, n)) for edge in (np.floor(edges[0]) - 1, np.ceil(edges[-1]) + 2)
    )
    distance = edges[:, None] - np.arange(low, max(high, low))[None]
    overlap = np.diff(np.clip(distance + 0.5, 0, 1), axis=0)
    if side >= 1:
        return slice(low, high), overlap, overlap
    # The integral of a tent of width 2 from −∞
    left, right = np.clip(distance, -1, 0), np.clip(distance, 0, 1)
    tent = 0.5 * (1 + left) ** 2 + right - 0.5 * right**2
    return slice(low, high), np.diff(tent, axis=0), overlap
