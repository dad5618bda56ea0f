"""Surface brightness of sources: pure functions, and the named, recombinable parts of a survey built on them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from haloformer.simulation.distributions import (
    Quantity,
    check_magnitude,
    check_not_negative,
    check_sersic_index,
)
from haloformer.validation import checked

SERSIC_R_MIN = 1e-3
"""Arcsec: the brightness is constant inside, as in lenstronomy before 1.14 (1e-4 since)."""


def sersic_b(n_sersic: Any) -> Any:
    """b_n ≈ 1.9992 n − 0.3271, which makes R_sersic the half-light radius (Capaccioli 1989; good for 0.5 < n < 10)."""
    return 1.9992 * n_sersic - 0.3271


def sersic_ellipse(
    x: Tensor,
    y: Tensor,
    amp: Tensor,
    R_sersic: Tensor,
    n_sersic: Tensor,
    e1: Tensor,
    e2: Tensor,
    x0: Tensor,
    y0: Tensor,
) -> Tensor:
    """Elliptical Sérsic profile I = amp · exp(−b_n ((R/R_sersic)^(1/n) − 1)) (Sérsic 1963), R along the product-average axis.

    Args:
        x: Source-plane positions in arcsec, as ``y``; all arguments broadcast.
        y: See ``x``.
        amp: Surface brightness at R_sersic, counts/s/arcsec².
        R_sersic: Half-light radius in arcsec.
        n_sersic: Sérsic index.
        e1: Ellipticity (1−q)/(1+q) cos 2φ.
        e2: Ellipticity (1−q)/(1+q) sin 2φ.
        x0: Centre in arcsec.
        y0: See ``x0``.

    Returns:
        Surface brightness in counts/s/arcsec².
    """
    dx, dy = x - x0, y - y0
    norm = torch.sqrt(1 - e1**2 - e2**2)
    u, v = ((1 - e1) * dx - e2 * dy) / norm, ((1 + e1) * dy - e2 * dx) / norm
    R = torch.sqrt(torch.clamp(u**2 + v**2, min=SERSIC_R_MIN**2))
    return amp * torch.exp(-sersic_b(n_sersic) * ((R / R_sersic) ** (1 / n_sersic) - 1))


def sersic_flux(R_sersic: np.ndarray | float, n_sersic: np.ndarray | float) -> np.ndarray | float:
    """Total flux of a Sérsic profile of unit amp, 2π n R² e^b b^(−2n) Γ(2n), in arcsec² (Graham & Driver 2005, eq. 4)."""
    b = sersic_b(n_sersic)
    flux: np.ndarray | float = (
        2
        * math.pi
        * n_sersic
        * R_sersic**2
        * np.exp(b)
        * b ** (-2 * n_sersic)
        * special.gamma(2 * n_sersic)
    )
    return flux


@checked
@dataclass(frozen=True)
class SersicSource:
    """A galaxy with an elliptical Sérsic profile. Each number may be a distribution.

    Attributes:
        x: Centre in arcsec.
        y: Centre in arcsec.
        R_sersic: Half-light radius in arcsec.
        n_sersic: Sérsic index.
        e1: Ellipticity.
        e2: Ellipticity.
        amp: Surface brightness at R_sersic in counts/s/arcsec²; give this or ``magnitude``.
        magnitude: Apparent magnitude, turned into counts/s by the instrument's zero point.
    """

    x: Quantity = 0.0
    y: Quantity = 0.0
    R_sersic: Quantity = 0.25
    n_sersic: Quantity = 1.0
    e1: Quantity = 0.0
    e2: Quantity = 0.0
    amp: Quantity | None = None
    magnitude: Quantity | None = None

    def __post_init__(self) -> None:
        check_not_negative("amp", self.amp)
        check_not_negative("R_sersic", self.R_sersic, zero=False)
        check_not_negative("n_sersic", self.n_sersic, zero=False)
        check_sersic_index(self.n_sersic)
        check_magnitude("magnitude", self.magnitude)
