"""From the source's plane to the pixels that are fitted: rays, point-spread function, splines."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy import ndimage, signal

from haloformer.errors import InputError
from haloformer.fitting.reallens.correlation import coloured
from haloformer.simulation.noise import has_numba


@dataclass(frozen=True, eq=False)
class Camera:
    """Pixels that are fitted, the rays that reach them, and the blur between.

    Attributes:
        mask: (H, W) bool, of the P fitted pixels.
        x: (R,) positions of the rays in arcsec, pixel by pixel, as ``y``: all that the point-spread function brings to fitted pixels.
        y: See ``x``.
        rays: Rays per pixel; 1 where each ray is blurred by itself.
        blur: (P, Q) sparse: from the means over the pixels with rays, or from each ray, to fitted pixels in units of their noise, made white.
        white: (P, P) sparse, that makes noise independent of which neighbouring pixels have alike; None: it is.
    """

    mask: np.ndarray
    x: np.ndarray
    y: np.ndarray
    rays: int
    blur: sp.csr_matrix
    white: sp.csr_matrix | None = None

    @classmethod
    def of(
        cls,
        mask: np.ndarray,
        noise: np.ndarray,
        psf: np.ndarray,
        pixel_scale: float,
        supersampling: int,
    ) -> "Camera":
        """Prepares the camera of an image.

        Args:
            mask: (H, W) bool, True where a pixel is fitted.
            noise: (H, W) standard deviations.
            psf: (2r+1, 2r+1) of sum 1.
            pixel_scale: In arcsec.
            supersampling: Rays per side of a pixel.
        """
        radius = len(psf) // 2
        seen = ndimage.binary_dilation(np.pad(mask, radius), np.ones(psf.shape, bool))
        height, width = seen.shape
        number = np.full(seen.shape, -1)
        number[seen] = np.arange(seen.sum())
        blur = _sums(mask, noise, psf[::-1, ::-1], 0, 1, number)
        row, column = np.nonzero(seen)
        within = (np.arange(supersampling) - (supersampling - 1) / 2) / supersampling
        x = (column[:, None, None] + within[None, None, :] - (width - 1) / 2) * pixel_scale
        y = (row[:, None, None] + within[None, :, None] - (height - 1) / 2) * pixel_scale
        shape = (len(row), supersampling, supersampling)
        x, y = (np.broadcast_to(each, shape).ravel() for each in (x, y))
        return cls(mask, x, y, supersampling**2, blur)

    @classmethod
    def fine(
        cls,
        mask: np.ndarray,
        noise: np.ndarray,
        psf: np.ndarray,
        pixel_scale: float,
        supersampling: int,
    ) -> "Camera":
        """Prepares the camera of an image whose point-spread function is known between the pixels: rays are blurred, then averaged over pixels.

        Args:
            mask: (H, W) bool, True where a pixel is fitted.
            noise: (H, W) standard deviations.
            psf: (2r+1, 2r+1) of sum 1, at the spacing of the rays.
            pixel_scale: In arcsec.
            supersampling: Rays per side of a pixel.
        """
        n = supersampling
        over_pixel = signal.convolve2d(psf[::-1, ::-1], np.full((n, n), 1 / n**2))
        radius = len(psf) // 2
        far = -(-radius // n)
        near = ndimage.binary_dilation(np.pad(mask, far), np.ones((2 * far + 1,) * 2, bool))
        seen = np.repeat(np.repeat(near, n, axis=0), n, axis=1)
        number = np.full(seen.shape, -1)
        number[seen] = np.arange(seen.sum())
        blur = _sums(mask, noise, over_pixel, n * far - radius, n, number)
        row, column = np.nonzero(seen)
        height, width = seen.shape
        x = (column - (width - 1) / 2) * (pixel_scale / n)
        y = (row - (height - 1) / 2) * (pixel_scale / n)
        return cls(mask, x, y, 1, blur)

    @functools.cached_property
    def spread(self) -> sp.csr_matrix:
        """The blur the other way round, (Q, P)."""
        return self.blur.T.tocsr()

    def whitened(self, white: sp.csr_matrix | None) -> "Camera":
        """Returns a camera whose fitted pixels are made white by a matrix (P, P), as :func:`~.correlation.whitening` makes it; None: they are."""
        if white is None:
            return self
        return dataclasses.replace(self, blur=(white @ self.blur).tocsr(), white=white)

    def data(self, image: np.ndarray) -> np.ndarray:
        """Returns (P,) of an image (H, W) in units of its noise, made white."""
        values: np.ndarray = image[self.mask]
        return values if self.white is None else self.white @ values

    def in_pixels(self, values: np.ndarray) -> np.ndarray:
        """Returns what fitted pixels have in units of their noise, of values (P,) that were made white."""
        return coloured(self.white, values)

    def observe(self, brightness: np.ndarray) -> np.ndarray:
        """Returns (P, …) what fitted pixels have, in units of their noise and made white, of brightness (R, …) at the rays."""
        means = brightness.reshape(-1, self.rays, *brightness.shape[1:]).mean(axis=1)
        seen: np.ndarray = self.blur @ means
        return seen


def _sums(
    mask: np.ndarray,
    noise: np.ndarray,
    kernel: np.ndarray,
    first: int,
    step: int,
    number: np.ndarray,
) -> sp.csr_matrix:
    """Returns (P, Q) what each fitted pixel has of the light at each place, in units of its noise.

    Args:
        mask: (H, W) bool, the P fitted pixels.
        noise: (H, W) standard deviations.
        kernel: (K, K) shares of places about a pixel.
        first: Place at which the kernel of the pixel in the corner begins.
        step: Places per pixel along either axis.
        number: Of the Q places, some beyond the borders of the image among them; −1 where there is none.
    """
    down, right = np.nonzero(kernel)
    share = kernel[down, right]
    if (count := int(mask.sum())) * len(share) > _MOST_TAPS:
        raise InputError(
            f"{count:,} pixels with a PSF of {len(kernel)}×{len(kernel)} pixels are too many for the memory: give a smaller --radius, a --mask, or a PSF that is cut out more narrowly"
        )
    i, j = np.nonzero(mask)
    taps = number[step * i[:, None] + down + first, step * j[:, None] + right + first]
    weights = share / noise[mask][:, None]
    start = np.arange(count + 1) * len(share)
    shape = (count, int(number.max()) + 1)
    return sp.csr_matrix((weights.ravel(), taps.ravel(), start), shape)


@dataclass(frozen=True, eq=False)
class Splines:
    """Cubic B-splines of the source's grid at rays.

    The grid is framed by coefficients that are 0, so that the source's brightness and its slope fall to 0 at the border.

    Attributes:
        nodes: (R, 16) framed coefficients that each ray touches; −1 for rays outside.
        values: (R, 16) of their splines, 0 outside.
        slopes_x: (R, 16) their derivatives by the position in 1/arcsec, as ``slopes_y``.
        slopes_y: See ``slopes_x``.
        inner: (n,) framed numbers of the coefficients that are free.
        framed: Coefficients with the frame.
    """

    nodes: np.ndarray
    values: np.ndarray
    slopes_x: np.ndarray
    slopes_y: np.ndarray
    inner: np.ndarray
    framed: int

    def __matmul__(self, coefficients: np.ndarray) -> np.ndarray:
        """The source's brightness (R,) at the rays."""
        found: np.ndarray = (self.values * self._here(coefficients)).sum(axis=1)
        return found

    def gradient(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The slopes of the source's brightness along x and y, each (R,), per arcsec."""
        here = self._here(coefficients)
        return (self.slopes_x * here).sum(axis=1), (self.slopes_y * here).sum(axis=1)

    def _here(self, coefficients: np.ndarray) -> np.ndarray:
        framed = np.zeros(self.framed)
        framed[self.inner] = coefficients
        found: np.ndarray = framed[self.nodes]
        return found

    @functools.cached_property
    def number(self) -> np.ndarray:
        """(framed,) of each coefficient among those that are free; −1 in the frame."""
        found = np.full(self.framed, -1)
        found[self.inner] = np.arange(len(self.inner))
        return found


_MOST_TAPS = 2 * 10**8  # of some 40 bytes each, while they are made
_FRAME = 3


@dataclass(frozen=True)
class SourceGrid:
    """A square of splines in the source's plane, evenly spaced or wider apart outwards.

    Attributes:
        x: Middle in arcsec, as ``y``.
        y: See ``x``.
        side: Coefficients per side.
        step: Their distance in arcsec, in the middle.
        reach: Radius in arcsec within which they are hardly wider apart: at u steps from the middle along either axis they lie at
            reach · sinh(u · step / reach); None: they are evenly spaced.
    """

    x: float
    y: float
    side: int
    step: float
    reach: float | None = None

    @property
    def size(self) -> int:
        """Coefficients in all."""
        return self.side**2

    @property
    def half(self) -> float:
        """From the middle to the border, in arcsec."""
        return float(self._place((self.side + 1) / 2))

    @property
    def border(self) -> float:
        """From the middle to where the splines have fallen to 0, in arcsec."""
        return float(self._place((self.side + 3) / 2))

    def axis(self) -> np.ndarray:
        """Returns where the coefficients (side,) are along either axis, in arcsec from the middle."""
        found: np.ndarray = self._place(np.arange(self.side) - (self.side - 1) / 2)
        return found

    def _place(self, steps: Any) -> Any:
        """Returns what is at so many steps from the middle, in arcsec."""
        if self.reach is None:
            return steps * self.step
        return self.reach * np.sinh(steps * self.step / self.reach)

    def _steps(self, far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many steps (R,) from the middle places (R,) in arcsec are, and how many there are per arcsec, (R, 1)."""
        if self.reach is None:
            return far / self.step, np.full((len(far), 1), 1 / self.step)
        share = far / self.reach
        steps = np.arcsinh(share) * (self.reach / self.step)
        return steps, (1 / (self.step * np.sqrt(1 + share**2)))[:, None]

    def splines(self, beta_x: np.ndarray, beta_y: np.ndarray) -> Splines:
        """Returns the splines at positions (R,) in arcsec."""
        weights, slopes, first = [], [], []
        inside = np.ones(len(beta_x), bool)
        wide = self.side + 2 * _FRAME
        for beta, middle in ((beta_x, self.x), (beta_y, self.y)):
            steps, density = self._steps(beta - middle)
            at = steps + (wide - 1) / 2
            cell = np.floor(at).astype(np.int64)
            inside &= (cell >= 1) & (cell < wide - 2)
            w, s = _cubic(at - cell)
            weights.append(w)
            slopes.append(s * density)
            first.append(cell - 1)
        (wx, wy), (sx, sy), (i, j) = weights, slopes, first
        shifts = (np.arange(4)[:, None] * wide + np.arange(4)[None, :]).ravel()
        nodes = np.where(inside, j * wide + i, 0)[:, None] + shifts
        there = inside[:, None]
        values = np.where(there, (wy[:, :, None] * wx[:, None, :]).reshape(-1, 16), 0.0)
        slopes_x = np.where(there, (wy[:, :, None] * sx[:, None, :]).reshape(-1, 16), 0.0)
        slopes_y = np.where(there, (sy[:, :, None] * wx[:, None, :]).reshape(-1, 16), 0.0)
        nodes[~inside] = -1
        numbers = np.arange(wide**2).reshape(wide, wide)[_FRAME:-_FRAME, _FRAME:-_FRAME]
        return Splines(nodes, values, slopes_x, slopes_y, numbers.ravel(), wide**2)


@dataclass(frozen=True)
class Source:
    """The grids whose sum a source is: a fine one about what is bright, and a broad one for faint light around it.

    Attributes:
        fine: The fine grid.
        broad: The other.
    """

    fine: SourceGrid
    broad: SourceGrid

    @property
    def grids(self) -> tuple[SourceGrid, SourceGrid]:
        """Both, in the order of the coefficients."""
        return self.fine, self.broad

    @property
    def size(self) -> int:
        """Coefficients in all."""
        return self.fine.size + self.broad.size

    def parts(self) -> tuple[slice, slice]:
        """The coefficients of each grid."""
        return slice(0, self.fine.size), slice(self.fine.size, self.size)

    def splines(self, beta_x: np.ndarray, beta_y: np.ndarray) -> tuple[Splines, Splines]:
        """Returns each grid's splines at positions (R,) in arcsec."""
        return self.fine.splines(beta_x, beta_y), self.broad.splines(beta_x, beta_y)

    def brightness(self, x: np.ndarray, y: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Returns the source's brightness (R,) at positions (R,) in arcsec."""
        both = [
            splines @ coefficients[part] for splines, part in zip(self.splines(x, y), self.parts())
        ]
        found: np.ndarray = both[0] + both[1]
        return found

    def picture(self, coefficients: np.ndarray, side: int = 80) -> tuple[np.ndarray, float]:
        """Returns the source's brightness (side, side) about the middle of the fine grid, rows along y, and the pixels' size in arcsec."""
        evenly = (self.fine.side + 1) / 2 * self.fine.step
        scale = 2.6 * float(np.sqrt(evenly * self.fine.half)) / side  # not all that is faint
        axis = (np.arange(side) - (side - 1) / 2) * scale
        x, y = np.meshgrid(self.fine.x + axis, self.fine.y + axis)
        return self.brightness(x.ravel(), y.ravel(), coefficients).reshape(side, side), scale


def _cubic(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the four cubic B-splines (…, 4) at a place 0 ≤ u < 1 of a cell, and their derivatives."""
    v = 1 - u
    values = np.stack(
        [v**3 / 6, (4 - 6 * u**2 + 3 * u**3) / 6, (4 - 6 * v**2 + 3 * v**3) / 6, u**3 / 6], axis=-1
    )
    slopes = np.stack(
        [-(v**2) / 2, (3 * u**2 - 4 * u) / 2, (4 * v - 3 * v**2) / 2, u**2 / 2], axis=-1
    )
    return values, slopes


def response(camera: Camera, splines: Sequence[Splines]) -> np.ndarray:
    """Returns what fitted pixels, in units of their noise, receive from each coefficient of some grids, (P, n)."""
    means = sp.hstack([_means(camera, each) for each in splines], format="csr")
    if not has_numba():
        dense: np.ndarray = (camera.blur @ means).toarray()
        return dense
    from haloformer.fitting.reallens import kernels

    out = np.zeros((camera.blur.shape[0], means.shape[1]))
    kernels.response(*_unsigned(camera.blur), *_unsigned(means), out)
    return out


def _unsigned(matrix: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the rows of a matrix begin, and the columns and values that they have, as the compiled loops take them."""
    return matrix.indptr.astype(np.uint32), matrix.indices.astype(np.uint32), matrix.data


def _means(camera: Camera, splines: Splines) -> sp.csr_matrix:
    """The splines averaged over pixels, (Q, n) sparse."""
    R = len(splines.nodes)
    inside = splines.nodes[:, 0] >= 0
    pixel = np.repeat(np.flatnonzero(inside) // camera.rays, 16)
    node = splines.number[splines.nodes[inside].ravel()]
    free = node >= 0
    values = splines.values[inside].ravel() / camera.rays
    entries = (values[free], (pixel[free], node[free]))
    return sp.csr_matrix(entries, shape=(R // camera.rays, len(splines.inner)))


def determinant_slope(
    camera: Camera, splines: Splines, adjoint: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns Σ ∂(log determinant)/∂A · ∂A/∂β of each ray, (R,) along x and along y, by the light of one grid.

    Args:
        camera: Of the response A.
        splines: Of the grid.
        adjoint: (P, n) derivative of the log determinant by A.
        first: Column of it that is of the grid's first coefficient.
    """
    spread = camera.spread
    columns = np.where(splines.number < 0, -1, splines.number + first)
    if not has_numba():
        moved = np.zeros((spread.shape[0], splines.framed))
        moved[:, splines.inner] = spread @ adjoint[:, first : first + len(splines.inner)]
        moved = np.repeat(moved, camera.rays, axis=0) / camera.rays
        here = np.take_along_axis(moved, np.maximum(splines.nodes, 0), axis=1)
        return (here * splines.slopes_x).sum(axis=1), (here * splines.slopes_y).sum(axis=1)
    from haloformer.fitting.reallens import kernels

    slope_x, slope_y = np.zeros(len(splines.nodes)), np.zeros(len(splines.nodes))
    start, taps, weights = _unsigned(spread)
    kernels.determinant_slope(
        start, taps, (weights / camera.rays).astype(adjoint.dtype), splines.nodes, columns,
        splines.slopes_x, splines.slopes_y, adjoint, slope_x, slope_y,
    )  # fmt: skip
    return slope_x, slope_y


def compile_response() -> None:
    """Calls the compiled loops with the arguments of real fits, on three by three pixels."""
    mask = np.ones((3, 3), bool)
    camera = Camera.of(mask, np.ones((3, 3)), np.ones((1, 1)), 0.1, 1)
    splines = SourceGrid(0.0, 0.0, 4, 0.1).splines(camera.x, camera.y)
    for dtype in (np.float32, np.float64):
        adjoint = response(camera, [splines]).astype(dtype)
        determinant_slope(camera, splines, adjoint, 0)
