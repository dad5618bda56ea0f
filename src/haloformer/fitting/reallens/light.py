"""The lens galaxy's light as a sum of Gaussians, whose amplitudes are linear parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from haloformer.fitting.reallens.operators import Camera

SIZES = 12  # of the Gaussians of one shape
_PRIOR = 300.0
"""Standard deviation of an amplitude: this many σ in all pixels together."""


@dataclass(frozen=True)
class Gaussian:
    """An elliptical Gaussian of brightness, exp(−(q u² + v²/q) / 2 σ²) along (u) and across (v) its major axis.

    Attributes:
        x: Centre in arcsec, as ``y``.
        y: See ``x``.
        sigma: In arcsec.
        q: Axis ratio.
        angle: Of the major axis from x towards y, in radians.
    """

    x: float
    y: float
    sigma: float
    q: float
    angle: float

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Its brightness at positions in arcsec, 1 in the middle."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        dx, dy = x - self.x, y - self.y
        u, v = cos * dx + sin * dy, -sin * dx + cos * dy
        found: np.ndarray = np.exp(-(self.q * u**2 + v**2 / self.q) / (2 * self.sigma**2))
        return found


def gaussians(
    x: float, y: float, q: float, angle: float, pixel_scale: float, largest: float
) -> list[Gaussian]:
    """Returns Gaussians about a lens of which sums make galaxies: of its own shape, and of others, so that shape may change with radius.

    Args:
        x: Centre in arcsec, as ``y``.
        y: See ``x``.
        q: Axis ratio.
        angle: Of the major axis from x towards y, in radians.
        pixel_scale: In arcsec.
        largest: Standard deviation of the largest, in arcsec.
    """
    sizes = np.geomspace(0.6 * pixel_scale, largest, SIZES)
    shapes = [(q, angle), *((0.75, angle + k * np.pi / 4) for k in range(4))]
    return [Gaussian(x, y, float(size), *shape) for shape in shapes for size in sizes]


@dataclass(frozen=True, eq=False)
class LightBasis:
    """What the lens's light may be.

    Attributes:
        gaussians: The components that are free, after which comes a constant background.
        columns: (P, L) what fitted pixels have of each, in units of their noise, scaled so that amplitudes are N(0, 1).
        scale: (L,) counts/s per pixel of brightness 1, for an amplitude of 1.
    """

    gaussians: Sequence[Gaussian]
    columns: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, camera: Camera, components: Sequence[Gaussian]) -> "LightBasis":
        """Observes the components."""
        each = [one(camera.x, camera.y) for one in components]
        bright = np.stack([*each, np.ones_like(camera.x)], axis=1)
        columns = camera.observe(bright)
        scale = _PRIOR / np.sqrt((columns**2).sum(axis=0))
        return cls(components, columns * scale, scale)


def not_negative(columns: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Returns (L,) amplitudes ≥ 0, the last one (the background) of either sign, that fit data (P,) best."""
    both = np.column_stack([columns, -columns[:, -1]])
    gram, right = both.T @ both, both.T @ data
    gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(gram)
    root = np.linalg.cholesky(gram)
    found, _ = optimize.nnls(root.T, np.linalg.solve(root, right), maxiter=30 * len(gram))
    amplitudes: np.ndarray = found[:-1].copy()
    amplitudes[-1] -= found[-1]
    return amplitudes
