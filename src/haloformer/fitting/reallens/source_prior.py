"""What is expected of a source before the image is seen: a Gaussian process whose standard deviation falls outwards as the light of galaxies does.

The covariance of the coefficients is S K S. K falls exponentially with distance, and S = A exp(−ρ/R) with an elliptical radius ρ about a centre
of its own, or steeper in the middle and flatter outwards, as Sérsic profiles are: with one of the same variance everywhere, about another centre,
round where the source is elongated, or an exponential where it is none, lenses that make another source of this one are too probable, and places,
slopes and shears are biased.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import scipy.linalg as sl

from haloformer.fitting.reallens.operators import Source, SourceGrid

_JITTER = 1e-6
_BROAD_LENGTH = 3.0  # of correlation of the faint light, in steps of its grid
_SOFT = 0.5  # steps, within which the envelope is flat
_PIVOT = 1.7  # extents, the half-light radius of an exponential disc: there all powers are as high and as steep


LOGARITHMIC = ("amplitude", "length", "faint", "extent", "power")
"""Hyper-parameters that are varied by their logarithms."""


@dataclass(frozen=True)
class Smoothness:
    """Hyper-parameters of the source.

    All lengths are in arcsec for an isothermal lens: see :meth:`~.masses.Mass.scale`.

    Attributes:
        amplitude: Standard deviation of its brightness at its centre, in the image's unit.
        length: Of correlation.
        faint: Standard deviation of the faint light around it.
        extent: Radius ρ in which the amplitude falls by a factor e; infinite: it does not, and what follows is not used.
        x: Centre of the envelope from the middle of the fine grid, as ``y``.
        y: See ``x``.
        stretch_1: Its ellipticity, −ln q · cos 2φ of axis ratio q and angle φ from the x axis.
        stretch_2: −ln q · sin 2φ.
        power: p of the envelope A exp(−(k/p) ((ρ/kR)^p − 1) − k), k = 1.7: an exponential for 1; Sérsic profiles have 1/n.
    """

    amplitude: float
    length: float
    faint: float
    extent: float = np.inf
    x: float = 0.0
    y: float = 0.0
    stretch_1: float = 0.0
    stretch_2: float = 0.0
    power: float = 1.0

    @property
    def free(self) -> tuple[str, ...]:
        """Names of those that are fitted, in the order of the fields: of an even source the first three."""
        names = tuple(field.name for field in fields(self))
        return names[:3] if self.even else names

    @property
    def even(self) -> bool:
        """Whether the variance is the same everywhere."""
        return not np.isfinite(self.extent)

    def on(self, grid: SourceGrid, other: SourceGrid) -> "Smoothness":
        """Returns it with its centre in the same place on another grid."""
        x, y = self.x + grid.x - other.x, self.y + grid.y - other.y
        return self if self.even else replace(self, x=x, y=y)

    def stored(self) -> dict[str, float | None]:
        """Returns its values by their names for a file; None stands for an infinite extent."""
        return {name: v if np.isfinite(v) else None for name, v in asdict(self).items()}

    @classmethod
    def restored(cls, values: Mapping[str, float | None]) -> "Smoothness":
        """Returns it from :meth:`stored` values."""
        return cls(**{name: np.inf if v is None else float(v) for name, v in values.items()})


@functools.lru_cache(maxsize=4)
def _distances(side: int, step: float, reach: float | None) -> np.ndarray:
    axis = SourceGrid(0.0, 0.0, side, step, reach).axis()
    square = (axis[:, None] - axis[None, :]) ** 2
    # of both axes: (rows, columns) × (rows, columns)
    found: np.ndarray = np.sqrt(square[:, None, :, None] + square[None, :, None, :])
    return found.reshape(side**2, side**2)


def correlations(grid: SourceGrid, length: float) -> np.ndarray:
    """Returns the correlations K (n, n) = exp(−r/l) of the coefficients, which galaxies with cores and clumps have."""
    found: np.ndarray = np.exp(-_distances(grid.side, grid.step, grid.reach) / length)
    return found


@functools.lru_cache(maxsize=4)
def _root(side: int, step: float, reach: float | None, length: float) -> np.ndarray:
    """The lower triangular root R of K = R Rᵀ."""
    K = correlations(SourceGrid(0.0, 0.0, side, step, reach), length)
    K[np.diag_indices_from(K)] += _JITTER
    found: np.ndarray = sl.cholesky(K, lower=True, overwrite_a=True, check_finite=False)
    return found


def _root_of(grid: SourceGrid, length: float) -> np.ndarray:
    return _root(grid.side, grid.step, grid.reach, length)


def falling(grid: SourceGrid, smoothness: Smoothness) -> np.ndarray:
    """Returns the amplitude (n,) of coefficients in parts of that at the centre, exp(−ρ/R)."""
    if smoothness.even:
        return np.ones(grid.size)
    p = smoothness.power
    fallen = _fallen(_radius(grid, smoothness)[0], smoothness)
    found: np.ndarray = np.exp(_PIVOT / p - _PIVOT - fallen)
    return found


def _fallen(rho: np.ndarray, smoothness: Smoothness) -> np.ndarray:
    """Returns (k/p) (ρ/kR)^p of radii."""
    p = smoothness.power
    found: np.ndarray = _PIVOT / p * (rho / (_PIVOT * smoothness.extent)) ** p
    return found


def _radius(
    grid: SourceGrid, smoothness: Smoothness
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Returns ρ (n,), and its derivatives by x, y, stretch_1 and stretch_2."""
    axis = grid.axis()
    dx, dy = (each.ravel() for each in np.meshgrid(axis - smoothness.x, axis - smoothness.y))
    g1, g2 = smoothness.stretch_1, smoothness.stretch_2
    # ρ² = dᵀ exp(−G) d with G = ((g1, g2), (g2, −g1)): cosh g − G sinh g / g
    g = float(np.hypot(g1, g2))
    share = np.sinh(g) / g if g > 1e-6 else 1.0
    along = g1 * (dx**2 - dy**2) + 2 * g2 * dx * dy
    square = np.cosh(g) * (dx**2 + dy**2) - share * along + (_SOFT * grid.step) ** 2
    rho = np.sqrt(square)
    by_x = -(np.cosh(g) * dx - share * (g1 * dx + g2 * dy)) / rho
    by_y = -(np.cosh(g) * dy - share * (g2 * dx - g1 * dy)) / rho
    # d cosh g / d g1 = share g1, and of share: (cosh g − share) g1 / g²
    curve = (np.cosh(g) - share) / g**2 if g > 1e-3 else 1 / 3
    common = share * (dx**2 + dy**2) - curve * along
    by_1 = (g1 * common - share * (dx**2 - dy**2)) / (2 * rho)
    by_2 = (g2 * common - share * 2 * dx * dy) / (2 * rho)
    return rho, (by_x, by_y, by_1, by_2)


def root_of_covariance(source: Source, smoothness: Smoothness) -> np.ndarray:
    """Returns the lower triangular root (n, n) of the prior covariance of the coefficients."""
    found = np.zeros((source.size, source.size), order="F")
    fine, broad = source.parts()
    envelope = smoothness.amplitude * falling(source.fine, smoothness)
    found[fine, fine] = envelope[:, None] * _root_of(source.fine, smoothness.length)
    far = _root_of(source.broad, _BROAD_LENGTH * source.broad.step)
    found[broad, broad] = smoothness.faint * far
    return found


def evidence_slope(
    source: Source, smoothness: Smoothness, whitened: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    """Returns the derivatives of −2 ln evidence by the hyper-parameters, (3,) for an even source, else (9,).

    By the logarithms of amplitude, length, faint and extent, by x, y, stretch_1 and stretch_2, and by the logarithm of the power. With W = C⁻¹ − C⁻¹ Σ C⁻¹ of the prior's
    covariance C and that of the posterior, Σ, and a = C⁻¹ c, the derivative by any of them is the sum of (W − a aᵀ) dC.

    Args:
        source: The source's grids.
        smoothness: Where.
        whitened: (n,) the most probable coefficients c, as root⁻¹ c.
        inverse: (n, n) of the whitened normal matrix, the lens's light integrated over.
    """
    fine, broad = source.parts()
    faint = source.broad.size - np.trace(inverse[broad, broad])
    faint = 2 * (faint - whitened[broad] @ whitened[broad])
    K, root = correlations(source.fine, smoothness.length), _root_of(source.fine, smoothness.length)
    N = -inverse[fine, fine]
    N[np.diag_indices_from(N)] += 1.0
    back = sl.lapack.dtrtri(root, lower=1)[0]  # and products are faster than solving twice
    half = sl.blas.dtrmm(1.0, back, N, side=1, lower=1)
    G = sl.blas.dtrmm(1.0, back, half, side=0, lower=1, trans_a=1)
    b = sl.blas.dtrmv(back, whitened[fine], lower=1, trans=1)
    G = sl.blas.dger(-1.0, b, b, a=G, overwrite_a=True)
    G *= K.T  # itself, in the order of G
    each = 2 * G.sum(axis=1)  # by the logarithm of each coefficient's standard deviation
    distances = _distances(source.fine.side, source.fine.step, source.fine.reach)
    length = float(np.vdot(G.T, distances)) / smoothness.length
    slopes = [each.sum(), length, faint]
    if not smoothness.even:
        rho, moves = _radius(source.fine, smoothness)
        p, fallen = smoothness.power, _fallen(rho, smoothness)
        slopes.append(p * (each @ fallen))
        slopes += [-p * (each @ (fallen / rho * move)) for move in moves]
        less = fallen * (1 - p * np.log(rho / (_PIVOT * smoothness.extent))) - _PIVOT / p
        slopes.append(each @ less)
    return np.array(slopes)
