"""Noise that is alike in neighbouring pixels, as drizzling and resampling leave it: how much, and how it is taken out of a fit.

The noise of a pixel is the scatter of blank pixels there, and the correlation of two is that of white noise convolved with the
separable kernel (a, 1, a) of :mod:`haloformer.simulation.correlation`. Each pixel is predicted from those before it in the mask that are near, and
what remains is independent (Vecchia 1988, doi:10.1111/j.2517-6161.1988.tb01729.x): a sparse triangular matrix W with W C Wᵀ = 1 for the
covariance C of the fitted pixels, exact but for the reach, whatever pixels the mask leaves out.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl
import scipy.sparse as sp
from scipy import optimize
from scipy.sparse.linalg import spsolve_triangular

from haloformer.errors import InputError
from haloformer.simulation.correlation import correlation

LARGEST_A = 0.35  # neighbours 0.56 correlated; beyond, whitening reaches farther than it may
_REACH = 5  # pixels
_SMALL = 1e-4  # coefficients below count as 0
_CORNER = 0.15  # of the side
_LARGEST = 24  # pixels per side of a corner
_LEAST = 16  # pixels of a corner
_ROUNDS = 3
_OUTLIER = 4.0  # robust standard deviations
_ALIKE = 1.3  # times the usual scatter; in corners with more there is something, in those with less nothing
_SURE = 4.0  # of −2 ln likelihood, by which a correlation is to be better than none


def neighbours(a: float) -> float:
    """Returns the correlation of neighbouring pixels."""
    return correlation(a, 1)


def in_words(a: float) -> str:
    """Returns how much neighbouring pixels are correlated and what the fit does about it."""
    if a > 0.99 * LARGEST_A:
        return (
            f"at least {neighbours(LARGEST_A):.2f} correlated, of which the fit allows for so much"
        )
    return f"{neighbours(a):.2f} correlated, which the fit allows for"


def kernel_of(neighbour: float) -> float:
    """Returns the ``a`` whose neighbouring pixels are so much correlated.

    Raises:
        InputError: No kernel in reach has it.
    """
    most = neighbours(LARGEST_A)
    if not 0 <= neighbour <= most:
        raise InputError(
            f"neighbouring pixels cannot be {neighbour:g} correlated: 0 (independent noise) to {most:.2f} is possible"
        )
    if neighbour == 0:
        return 0.0
    return float(optimize.brentq(lambda a: neighbours(a) - neighbour, 0.0, LARGEST_A))


def larger_areas(a: float) -> float:
    """Returns by how much the variance of a sum over many pixels exceeds that of independent ones."""
    return float(((1 + 2 * a) ** 2 / (1 + 2 * a**2)) ** 2)


@dataclass(frozen=True)
class Blank:
    """The noise of the corners of an image, where there is nothing but noise.

    Attributes:
        scatter: Its standard deviation.
        a: Of the kernel; 0 if it cannot be told from none.
        pixels: How many there are.
        level: What they have in the middle: the sky, if it was not subtracted.
    """

    scatter: float
    a: float
    pixels: int
    level: float


@dataclass(frozen=True, eq=False)
class _Corner:
    """Blank pixels of a corner: where (n, 2), what they have (n,), and the smooth surfaces (n, 6) that lens light may be there."""

    place: np.ndarray
    values: np.ndarray
    surfaces: np.ndarray
    scatter: float


def of_corners(image: np.ndarray, counted: np.ndarray) -> Blank | None:
    """Measures the noise in the four corners: scatter and kernel of the largest likelihood, a smooth surface in each corner integrated over.

    Args:
        image: (H, W), perhaps in units of a noise map.
        counted: (H, W) bool, pixels that may be used.

    Returns:
        Scatter and correlation; None where no corner has pixels enough.
    """
    height, width = image.shape
    tall, wide = (min(_LARGEST, max(5, round(_CORNER * n))) for n in (height, width))
    found = []
    for rows in (slice(0, tall), slice(height - tall, height)):
        for columns in (slice(0, wide), slice(width - wide, width)):
            corner = np.where(counted[rows, columns], image[rows, columns], np.nan)
            if np.isfinite(corner).sum() >= _LEAST:
                found.append(_blank_part(corner))
    if not found:
        return None
    noisy = sorted(corner.scatter for corner in found if corner.scatter > 0)
    level = float(np.median(np.concatenate([corner.values for corner in found])))
    if not noisy:
        return Blank(0.0, 0.0, sum(len(corner.values) for corner in found), level)
    usual = noisy[(len(noisy) - 1) // 2]
    found = [corner for corner in found if usual / _ALIKE <= corner.scatter <= usual * _ALIKE]
    pixels = sum(len(corner.values) for corner in found)
    best = optimize.minimize_scalar(
        lambda a: _likelihood(found, a)[0],
        bounds=(0.0, LARGEST_A),
        method="bounded",
        options={"xatol": 1e-3},
    )
    worth, scatter = _likelihood(found, 0.0)
    if worth - best.fun < _SURE:
        return Blank(scatter, 0.0, pixels, level)
    return Blank(_likelihood(found, best.x)[1], float(best.x), pixels, level)


def _blank_part(corner: np.ndarray) -> _Corner:
    """What is left of a corner without what stands out of a smooth surface."""
    down, right = (np.linspace(-1, 1, n) for n in corner.shape)
    powers = [np.outer(down**i, right**k) for i in range(3) for k in range(3 - i)]
    surfaces, values = np.stack(powers, axis=-1).reshape(-1, len(powers)), corner.ravel()
    kept = np.isfinite(values)
    for _ in range(_ROUNDS):
        best, *_ = np.linalg.lstsq(surfaces[kept], values[kept], rcond=None)
        rest = values - surfaces @ best
        robust = 1.4826 * float(np.median(np.abs(rest[kept])))
        kept &= np.abs(np.nan_to_num(rest)) <= _OUTLIER * robust
    place = np.stack(np.unravel_index(np.flatnonzero(kept), corner.shape), axis=1)
    scatter = float(np.sqrt(np.mean(rest[kept] ** 2))) if kept.any() else 0.0
    return _Corner(place, values[kept], surfaces[kept], scatter)


def _likelihood(corners: list[_Corner], a: float) -> tuple[float, float]:
    """−2 ln likelihood of a kernel, but for a constant, with the scatter that is the most likely for it, and that scatter."""
    square, free, volume = 0.0, 0, 0.0
    for corner in corners:
        C = _covariance(corner.place[:, None, :] - corner.place[None, :, :], a)
        root = sl.cholesky(C, lower=True)
        white = sl.solve_triangular(
            root, np.column_stack([corner.surfaces, corner.values]), lower=True
        )
        upper: np.ndarray = np.asarray(np.linalg.qr(white, mode="r"))
        square += float(upper[-1, -1] ** 2)
        free += len(white) - len(upper) + 1
        volume += 2 * float(np.log(np.diag(root)).sum())
        volume += 2 * float(np.log(np.abs(np.diag(upper)[:-1])).sum())
    variance = square / free
    return volume + free * np.log(max(variance, 1e-300)), float(np.sqrt(variance))


def whitening(mask: np.ndarray, a: float) -> sp.csr_matrix | None:
    """Returns W (P, P), lower triangular, that makes the noise of fitted pixels, in units of its standard deviation, independent.

    Args:
        mask: (H, W) bool, of the P fitted pixels.
        a: Of the kernel; 0 gives None.
    """
    if a == 0:
        return None
    before = _before()
    wide = np.pad(mask, _REACH)
    number = np.full(wide.shape, -1)
    number[wide] = np.arange(wide.sum())
    row, column = np.nonzero(wide)
    places = number[row[:, None] + before[:, 0], column[:, None] + before[:, 1]]
    patterns, which = np.unique(places >= 0, axis=0, return_inverse=True)
    weights = np.stack([_weights(before[pattern], pattern, a) for pattern in patterns])
    values = weights[which.ravel()]
    columns = np.column_stack([np.where(places >= 0, places, 0), np.arange(len(row))])
    kept = np.abs(values) > _SMALL
    pixel = np.repeat(np.arange(len(row)), kept.sum(axis=1))
    return sp.csr_matrix((values[kept], (pixel, columns[kept])), shape=(len(row),) * 2)


def _before() -> np.ndarray:
    """Rows and columns (N, 2), from a pixel, of those before it that are near."""
    down, right = np.mgrid[-_REACH:1, -_REACH : _REACH + 1]
    earlier = (down < 0) | (right < 0)
    return np.column_stack([down[earlier], right[earlier]])


def _weights(there: np.ndarray, pattern: np.ndarray, a: float) -> np.ndarray:
    """The row (N + 1,) of W of a pixel of whose neighbours (n, 2) are there, as the pattern (N,) says."""
    found = np.zeros(len(pattern) + 1)
    between = _covariance(there[:, None, :] - there[None, :, :], a)
    towards = _covariance(there, a)
    shares = sl.solve(between, towards, assume_a="pos") if len(there) else towards
    found[:-1][pattern] = -shares
    found[-1] = 1.0
    left = 1.0 - float(towards @ shares)
    row: np.ndarray = found / np.sqrt(left)
    return row


def _covariance(lags: np.ndarray, a: float) -> np.ndarray:
    """Correlations (…) of pixels so many rows and columns (…, 2) apart; beyond two there is none."""
    table = np.array([*(correlation(a, lag) for lag in range(3)), 0.0])
    lags = np.minimum(np.abs(lags), 3)
    found: np.ndarray = table[lags[..., 0]] * table[lags[..., 1]]
    return found


def coloured(white: sp.csr_matrix | None, values: np.ndarray) -> np.ndarray:
    """Returns W⁻¹ v: values (P, …) of pixels again, in units of their noise."""
    if white is None:
        return values
    found: np.ndarray = spsolve_triangular(white, values, lower=True)
    return found
