"""Where lens and source are: redshifts, distances, and what follows from them for masses and lengths."""

from dataclasses import dataclass

import numpy as np
from scipy import constants

from haloformer.simulation.cosmology import ARCSEC_PER_RADIAN, Cosmology, einstein_radii


@dataclass(frozen=True)
class Setting:
    """Redshifts of B lenses and their sources.

    Attributes:
        cosmology: Gives the distances.
        z_lens: (B,)
        z_source: (B,)
        sigma_crit: (B,) critical surface density in M_sun/arcsec²: κ = Σ / Σ_crit.
        kpc_per_arcsec: (B,) proper kpc per arcsec in the lens plane.
    """

    cosmology: Cosmology
    z_lens: np.ndarray
    z_source: np.ndarray
    sigma_crit: np.ndarray
    kpc_per_arcsec: np.ndarray

    @classmethod
    def of(
        cls,
        cosmology: Cosmology,
        z_lens: np.ndarray,
        z_source: np.ndarray,
        distances: str = "angular_diameter",
    ) -> "Setting":
        """Returns the setting of lenses at these redshifts (B,).

        Args:
            cosmology: Gives the distances.
            z_lens: Redshifts of the lenses.
            z_source: Redshifts of the sources, each beyond its lens.
            distances: See :func:`~haloformer.simulation.cosmology.einstein_radii`.
        """
        # A point mass of 1 M_sun: θ_E² = M / (π Σ_crit).
        one = einstein_radii(1.0, cosmology, z_lens, z_source, distances)
        d_lens = cosmology.angular_diameter_distances(z_lens)
        return cls(
            cosmology=cosmology,
            z_lens=np.asarray(z_lens, float),
            z_source=np.asarray(z_source, float),
            sigma_crit=1 / (np.pi * one**2),
            kpc_per_arcsec=d_lens * 1e3 * np.deg2rad(1 / 3600),
        )

    def __len__(self) -> int:
        return len(self.z_lens)

    def isothermal_theta_E(self, sigma_v: np.ndarray) -> np.ndarray:
        """Returns the Einstein radius in arcsec of isothermal spheres, 4π (σ_v/c)² D_ls/D_s, of velocity dispersions (B,) in km/s."""
        chi_lens, chi_source = map(self.cosmology.comoving_distances, (self.z_lens, self.z_source))
        ratio = np.asarray(sigma_v, float) * 1e3 / constants.c
        radius: np.ndarray = 4 * np.pi * ratio**2 * (1 - chi_lens / chi_source) * ARCSEC_PER_RADIAN
        return radius

    def theta_E(self, mass: np.ndarray) -> np.ndarray:
        """Returns the Einstein radius in arcsec of point masses (B,) or (B, n) in M_sun."""
        mass = np.asarray(mass, float)
        sigma = self.sigma_crit if mass.ndim == 1 else self.sigma_crit[:, None]
        radius: np.ndarray = np.sqrt(mass / (np.pi * sigma))
        return radius
