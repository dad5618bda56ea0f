"""The camera as the fit takes it: rays, point-spread function as a sum of separable ones, and the same on coarser pixels."""

from dataclasses import dataclass

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.given import given_array
from haloformer.simulation.instruments import Instrument
from haloformer.simulation.psf import checked_kernel, psf_kernel, rays_per_pixel, resampled

_LEFT_OUT, _FAST_LEFT_OUT, _QUICK_LEFT_OUT = 3e-4, 0.03, 0.3
"""Of the light, what the terms may leave out: far below the noise of any pixel; what derivatives may be a little less good for; and what
steps may be a little shorter for."""

_MOST_TERMS = 16

COARSE = 2
"""Pixels per side of a coarse one, on which fits begin."""


@dataclass(frozen=True)
class Blur:
    """How light at rays becomes pixels.

    Attributes:
        axis: (rays · side,) positions of the rays in arcsec.
        across: (terms, K) float32 weights along the rows, K a multiple of 4; see
            :class:`~haloformer.simulation.psf.SeparablePsf`.
        down: (terms, K) float32 down the columns.
        radius: Of the kernel, in rays.
        rays: Per side of a pixel.
    """

    axis: np.ndarray
    across: np.ndarray
    down: np.ndarray
    radius: int
    rays: int

    @property
    def side(self) -> int:
        """Pixels per side."""
        return len(self.axis) // self.rays


@dataclass(frozen=True)
class FitCamera:
    """What blurs and adds up light.

    Attributes:
        image: Of the image itself.
        columns: Of its derivatives: as of the image, with fewer terms or less far out.
        quick: Of derivatives that only say how long a step is, with one ray a pixel, and much less far out.
        pixel_scale: Arcsec per pixel.
    """

    image: Blur
    columns: Blur
    quick: Blur
    pixel_scale: float

    @classmethod
    def of(
        cls, camera: Instrument, side: int, psf: np.ndarray | None = None, oversampling: int = 1
    ) -> "FitCamera":
        """Returns the camera of a survey, for the central ``side`` pixels.

        Args:
            camera: The camera.
            side: Pixels per side.
            psf: (odd, odd) another point-spread function.
            oversampling: Its pixels per side of one of the camera's.

        Raises:
            InputError: ``psf`` is none, or larger than the image.
        """
        rays = rays_per_pixel(camera)
        kernel = psf_kernel(camera) if psf is None else _checked(psf, side, rays, oversampling)
        return cls._of(kernel, camera.pixel_scale, side, rays)

    @classmethod
    def coarse(
        cls, camera: Instrument, side: int, psf: np.ndarray | None = None, oversampling: int = 1
    ) -> "FitCamera":
        """Returns nearly the same on pixels :data:`COARSE` times as large, one ray each; the last pixels of odd sides are left out."""
        rays = rays_per_pixel(camera)
        kernel = psf_kernel(camera) if psf is None else _checked(psf, side, rays, oversampling)
        middle = 0.5 * (side - side // COARSE * COARSE) * camera.pixel_scale
        return cls._of(
            _binned(kernel, COARSE * rays), COARSE * camera.pixel_scale, side // COARSE, 1, -middle
        )

    @classmethod
    def _of(
        cls, kernel: np.ndarray, pixel_scale: float, side: int, rays: int, middle: float = 0.0
    ) -> "FitCamera":
        axis, one = (
            (np.arange(side * n) - (side * n - 1) / 2) * (pixel_scale / n) + middle
            for n in (rays, 1)
        )
        across, down = _separated(kernel, rays, _LEFT_OUT)
        columns = Blur(axis, *_cheapest(kernel, rays, _FAST_LEFT_OUT), rays)
        small = kernel if rays == 1 else _binned(kernel, rays)
        quick = Blur(one, *_cheapest(small, 1, _QUICK_LEFT_OUT), 1)
        return cls(Blur(axis, across, down, len(kernel) // 2, rays), columns, quick, pixel_scale)

    @property
    def side(self) -> int:
        """Pixels per side."""
        return self.image.side

    @property
    def arguments(self) -> tuple[np.ndarray | int | np.float32, ...]:
        """The camera as the kernels take it."""
        area = np.float32(self.pixel_scale**2)
        columns, quick = (
            (blur.across, blur.down, blur.radius) for blur in (self.columns, self.quick)
        )
        return (*vars(self.image).values(), *columns, *quick, area)


def _checked(psf: np.ndarray, side: int, rays: int, oversampling: int) -> np.ndarray:
    psf = given_array(psf, "psf")
    if psf.ndim != 2:
        raise InputError(f"psf has shape {psf.shape}: one image (K, K) is needed")
    kernel = checked_kernel(psf, "psf")
    if len(kernel) > side * oversampling:
        raise InputError(
            f"psf has {len(kernel)}×{len(kernel)} pixels, more than the image's {side}×{side}: cut its rim"
        )
    return resampled(kernel, rays / oversampling, 1.0)


def _separated(kernel: np.ndarray, rays: int, left_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights (terms, K) float32 along rows and down columns, averaging over the rays of a pixel included."""
    kernel = kernel[::-1, ::-1]
    columns, values, rows = np.linalg.svd(kernel)
    left, terms = kernel.copy(), 0
    while terms < min(len(values), _MOST_TERMS):
        left = left - values[terms] * np.outer(columns[:, terms], rows[terms])
        terms += 1
        if np.abs(left).sum() < left_out:
            break
    pixel, root = np.full(rays, 1 / rays), np.sqrt(values)
    across, down = (
        np.stack([np.convolve(root[k] * each[k], pixel) for k in range(terms)])
        for each in (rows, columns.T)
    )
    # What is left out is lost light.
    down *= kernel.sum() / float(across.sum(1) @ down.sum(1))
    more = ((0, 0), (0, -across.shape[1] % 4))
    return np.pad(across, more).astype(np.float32), np.pad(down, more).astype(np.float32)


def _cheapest(kernel: np.ndarray, rays: int, left_out: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns weights as :func:`_separated`, of the kernel or its middle, whichever takes the fewest, and their radius in rays."""
    middle, light = len(kernel) // 2, kernel.sum()
    best = (*_separated(kernel, rays, left_out), middle)
    for radius in range(middle - 1, 0, -1):
        part = kernel[middle - radius : middle + radius + 1, middle - radius : middle + radius + 1]
        outside = light - part.sum()
        if not outside < left_out:
            break
        across, down = _separated(part, rays, left_out - outside)
        if across.size < best[0].size:
            best = across, down * np.float32(light / part.sum()), radius
    return best


def _binned(kernel: np.ndarray, factor: int) -> np.ndarray:
    """Returns a kernel (2r+1, 2r+1) on pixels ``factor`` times as large, whose middle is that of the middle one."""
    radius = len(kernel) // 2
    far = int(np.ceil(max(radius - factor / 2, 0) / factor))
    share = np.zeros((2 * far + 1, 2 * radius + 1))
    for k, offset in enumerate(range(-radius, radius + 1)):
        for part in (-0.25, 0.25):  # half of what lies on an edge goes to either side
            where = int(np.floor((offset + part) / factor + 0.5)) + far
            share[min(max(where, 0), 2 * far), k] += 0.5
    found = share @ kernel @ share.T
    binned: np.ndarray = found / found.sum()
    return binned
