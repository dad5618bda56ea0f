"""Distances and Einstein radii in a flat ΛCDM cosmology without radiation.

Written with scipy, as the core runs where astropy is not installed; the tests compare it with astropy.
"""

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy import constants, integrate

from haloformer.errors import InputError
from haloformer.validation import Number, checked

Distances = Literal["angular_diameter", "luminosity"]

ARCSEC_PER_RADIAN = 206265.0
"""As the original code rounds it (exact: 206264.806…)."""

_FARTHEST = 20.0  # redshift, beyond that of all galaxies that are known

_MPC = 1e6 * constants.parsec  # m
_GM_SUN = 1.3271244e20  # m³ s⁻², nominal solar mass parameter, IAU 2015 Resolution B3


def check_redshift(name: str, z: float) -> None:
    """Raises InputError for a redshift that no galaxy has."""
    if not z <= _FARTHEST:
        raise InputError(f"{name} must be at most {_FARTHEST:g}, not {z:g}: it is a redshift")


@checked
@dataclass(frozen=True)
class Cosmology:
    """Flat ΛCDM: Hubble constant ``H0`` in km/s/Mpc and matter density ``Om0``."""

    H0: Annotated[Number, Field(ge=10, le=1000)] = 70.0  # beyond, another unit is meant
    Om0: Annotated[Number, Field(gt=0, le=1)] = 0.3

    @functools.lru_cache(maxsize=64)  # noqa: B019 - frozen and tiny
    def comoving_distance(self, z: float) -> float:
        """Comoving distance to redshift ``z`` in Mpc."""
        integral, _ = integrate.quad(
            lambda x: 1.0 / math.sqrt(self.Om0 * (1 + x) ** 3 + 1 - self.Om0),
            0.0,
            z,
            epsabs=0,
            epsrel=1e-13,
        )
        result: float = constants.c / 1e3 / self.H0 * integral
        return result

    def angular_diameter_distance(self, z1: float, z2: float) -> float:
        """Angular-diameter distance from ``z1`` to ``z2`` in Mpc (from here if ``z1`` is 0)."""
        return (self.comoving_distance(z2) - self.comoving_distance(z1)) / (1 + z2)

    def luminosity_distance(self, z: float) -> float:
        """Luminosity distance to ``z`` in Mpc."""
        return self.comoving_distance(z) * (1 + z)

    def comoving_distances(self, z: np.ndarray | float) -> np.ndarray:
        """Comoving distances in Mpc to many redshifts, any shape: :meth:`comoving_distance` by Gauss–Legendre, good to 1e-12 below z = 10."""
        z = np.asarray(z, float)
        node, weight = np.polynomial.legendre.leggauss(48)
        x = z[..., None] / 2 * (node + 1)
        inverse = 1 / np.sqrt(self.Om0 * (1 + x) ** 3 + 1 - self.Om0)
        distances: np.ndarray = constants.c / 1e3 / self.H0 * z / 2 * (inverse @ weight)
        return distances

    def angular_diameter_distances(self, z: np.ndarray | float) -> np.ndarray:
        """Angular-diameter distances in Mpc to many redshifts, any shape."""
        distances: np.ndarray = self.comoving_distances(z) / (1 + np.asarray(z, float))
        return distances

    def critical_density(self, z: np.ndarray | float) -> np.ndarray:
        """Critical density in M_sun/kpc³ at many redshifts, any shape: 3 H² / (8 π G)."""
        hubble = self.H0 * 1e3 / _MPC  # 1/s
        square = hubble**2 * (self.Om0 * (1 + np.asarray(z, float)) ** 3 + 1 - self.Om0)
        density: np.ndarray = 3 * square / (8 * np.pi * _GM_SUN) * (_MPC / 1e3) ** 3
        return density

    def lensing_efficiency(self, z_lens: float, z_source: float) -> float:
        """D_ls / D_s of angular-diameter distances: what turns a deflection into a reduced one."""
        return self.angular_diameter_distance(z_lens, z_source) / self.angular_diameter_distance(
            0.0, z_source
        )


def einstein_radius(
    mass: np.ndarray | float,
    cosmology: Cosmology,
    z_lens: float,
    z_source: float,
    distances: str = "angular_diameter",
) -> np.ndarray:
    """Einstein radius of a point mass: θ_E = √(4GM/c² · D_ls / (D_l D_s)) (Schneider, Ehlers & Falco 1992, eq. 2.6a).

    Args:
        mass: Mass in M_sun, any shape.
        cosmology: Gives the distances.
        z_lens: Redshift of the lens.
        z_source: Redshift of the source.
        distances: ``"angular_diameter"``, the correct ones, or ``"luminosity"``: the original DeepLense data put luminosity
            distances into the formula, with D_ls their difference, which makes θ_E of 10¹² M_sun 1.28″ instead of 1.66″.

    Returns:
        Arcsec, same shape as ``mass``.
    """
    if distances == "luminosity":
        d_l, d_s = cosmology.luminosity_distance(z_lens), cosmology.luminosity_distance(z_source)
        d_ls = d_s - d_l
    elif distances == "angular_diameter":
        d_l, d_s = (
            cosmology.angular_diameter_distance(0.0, z_lens),
            cosmology.angular_diameter_distance(0.0, z_source),
        )
        d_ls = cosmology.angular_diameter_distance(z_lens, z_source)
    else:
        raise InputError(
            f"cosmology: distances must be 'angular_diameter' or 'luminosity', not '{distances}'"
        )
    per_solar_mass = 4 * _GM_SUN / constants.c**2 * d_ls / (d_l * d_s * _MPC)
    result: np.ndarray = ARCSEC_PER_RADIAN * np.sqrt(
        per_solar_mass * np.asarray(mass, dtype=np.float64)
    )
    return result


def einstein_radii(
    mass: np.ndarray | float,
    cosmology: Cosmology,
    z_lens: np.ndarray,
    z_source: np.ndarray,
    distances: str = "angular_diameter",
) -> np.ndarray:
    """Einstein radii in arcsec of a point mass in M_sun behind lenses of many redshifts; see :func:`einstein_radius`."""
    d_l, d_s = cosmology.comoving_distances(z_lens), cosmology.comoving_distances(z_source)
    if distances == "luminosity":
        d_l, d_s = d_l * (1 + np.asarray(z_lens)), d_s * (1 + np.asarray(z_source))
        ratio = (d_s - d_l) / (d_l * d_s)
    elif distances == "angular_diameter":
        ratio = (d_s - d_l) / (d_l * d_s) * (1 + np.asarray(z_lens))
    else:
        raise InputError(
            f"cosmology: distances must be 'angular_diameter' or 'luminosity', not '{distances}'"
        )
    per_solar_mass = 4 * _GM_SUN / constants.c**2 * ratio / _MPC
    radii: np.ndarray = ARCSEC_PER_RADIAN * np.sqrt(per_solar_mass * np.asarray(mass, float))
    return radii
