"""Images brought to the pixel grid of a model: its shape and, where both are known, its pixel scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haloformer.errors import InputError
from haloformer.readers.pixels import known_pixels
from haloformer.readers.reading import Reading
from haloformer.readers.resample import mixes_pixels, resample


@dataclass(frozen=True)
class PixelGrid:
    """The grid of the images that a model takes.

    Attributes:
        shape: (C, H, W).
        pixel_scale: arcsec per pixel; None if it is not known.
    """

    shape: tuple[int, int, int]
    pixel_scale: float | None = None

    def is_that_of(self, shape: tuple[int, ...], pixel_scale: float | None) -> bool:
        """Tells whether images of a shape and pixel scale are on this grid as they are; a scale that is not known is taken to be right."""
        if pixel_scale is None or self.pixel_scale is None:
            return shape == self.shape
        return shape == self.shape and math.isclose(pixel_scale, self.pixel_scale, rel_tol=1e-3)

    def step(self, scales: tuple[float, float] | None) -> tuple[float, float] | None:
        """Returns the sides of a grid pixel along y and x in pixels of an image; None if unknown.

        Args:
            scales: Sides of the image's pixels along y and x in arcsec; None if they are not known.
        """
        if scales is None or self.pixel_scale is None:
            return None
        return self.pixel_scale / scales[0], self.pixel_scale / scales[1]

    def mixes_pixels(self, scales: tuple[float, float] | None) -> bool:
        """Tells whether an image is brought to this grid by making new pixels of parts of old ones (see `step`)."""
        step = self.step(scales)
        return step is not None and mixes_pixels(step, self.shape[1:])

    def field(self, scales: tuple[float, float] | None) -> tuple[float, float]:
        """Returns the height and width of the grid in pixels of an image (see `step`)."""
        step = self.step(scales) or (1.0, 1.0)
        return self.shape[1] * step[0], self.shape[2] * step[1]


def to_grid(
    image: np.ndarray,
    grid: PixelGrid | None,
    reading: Reading,
    name: str,
    *,
    scales: tuple[float, float] | None = None,
    per_area: bool = False,
    center: tuple[float, float] | None = None,
) -> np.ndarray:
    """Brings an image to a grid: resampled where both pixel scales are known, else it must have the shape.

    Args:
        image: (C, H, W) float32.
        grid: The grid; None leaves the image on its own.
        reading: What its NaN are.
        name: The image's name, for error messages.
        scales: Sides of its pixels along y and x in arcsec; None if they are not known.
        per_area: Its values are surface brightness, not light per pixel.
        center: (y, x) of the new middle in pixels of the image; its own middle by default.

    Returns:
        (C, H', W') float32.
    """
    if grid is None:
        return known_pixels(image, reading.nan, name)
    step = grid.step(scales)
    if step is None or image.shape[0] != grid.shape[0]:
        if wrong := shape_error(name, image.shape, grid):
            raise InputError(wrong)
        return known_pixels(image, reading.nan, name)
    image = resample(
        image,
        step,
        grid.shape[1:],
        center=center,
        per_area=per_area,
        nan=reading.nan,
        name=name,
    )
    if reading.nan != "mask" and not np.isfinite(image).all():
        raise InputError(f"{name}: has values too large to be added up")
    return image


def shape_error(
    name: str, found: Sequence[int], grid: PixelGrid, *, can_resample: bool = True
) -> str | None:
    """Says why images of a shape are not on a grid; None if they are.

    Args:
        name: The images' name.
        found: Their shape (C, H, W).
        grid: The grid.
        can_resample: They could be resampled, had they a pixel scale.
    """
    if tuple(found) == tuple(grid.shape):
        return None
    have, want = (" × ".join(map(str, shape)) for shape in (found, grid.shape))
    wrong = f"{name}: image is {have} (channels, height, width), but the model takes {want}"
    if not can_resample or len(found) != 3 or found[0] != grid.shape[0]:
        return wrong
    if grid.pixel_scale is None:
        return f"{wrong}, and does not know its pixel scale"
    return f"{wrong}; --pixel_scale, in arcsec, lets it be resampled to the model's {grid.pixel_scale:g}"
