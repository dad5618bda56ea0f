"""Halos before and behind the lens: how many there are, and their effect to first order.

Every halo deflects a ray once. Foreground halos do so where the ray is seen; the lens, where they have moved it to; background halos,
where both have. Reduced deflections all refer to the source, so that of a ray that halo i deflected by α_i the position at redshift j is
θ − β_ij α_i, with β_ij = D_ij D_s / (D_j D_is); in a flat universe of comoving distances χ, β_ij = (1 − χ_i/χ_j) / (1 − χ_i/χ_s).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components.component import Draws, Tensors, column
from haloformer.simulation.components.halos import (
    PIVOT,
    deflection_at_scale,
    halo_deflection,
    median_concentration,
    scale_radius,
)
from haloformer.simulation.components.populations import (
    in_use,
    poisson_counts,
    sum_over_members,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.cosmology import einstein_radii
from haloformer.simulation.distributions import PowerLaw

# Sheth–Tormen mass function, Planck 2018: dn/dlnM = A(z) (M/10⁸)^−0.90 in comoving Mpc⁻³.
_REDSHIFTS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
_ABUNDANCES = (6.3, 6.6, 7.2, 8.1, 8.8, 9.4, 10.0)

FIELD_TRUNCATION = 1.6
"""Truncation radius of halos in the field, r_50, in parts of r_200."""

_STEPS = 257  # of the integral over redshift
_HARMLESS = {"alpha_Rs": 0.0, "Rs": 1.0, "r_trunc": 1.0, "x": 0.0, "y": 0.0}


@dataclass(frozen=True)
class _Cone:
    """The double cone through a disc in the lens plane of B lenses, at steps of redshift from here to the source.

    Attributes:
        z: (B, steps)
        chi: Comoving distances in Mpc, (B, steps).
        chi_lens: (B, 1)
        share: Angular radius in the direction of the ray there, in parts of the disc's: 1 before the lens, falling to 0 at the source.
        density: Halos per comoving Mpc along the line of sight and per kpc² in the lens plane, for a mass function normalised like Σ_sub.
    """

    z: np.ndarray
    chi: np.ndarray
    chi_lens: np.ndarray
    share: np.ndarray
    density: np.ndarray

    @classmethod
    def of(cls, setting: Setting) -> "_Cone":
        cosmology = setting.cosmology
        z = setting.z_source[:, None] * np.linspace(0, 1, _STEPS)
        chi = cosmology.comoving_distances(z)
        chi_lens = cosmology.comoving_distances(setting.z_lens)[:, None]
        share = 1 - (1 - chi_lens / np.maximum(chi, chi_lens)) / (1 - chi_lens / chi[:, -1:])
        stretch = 1e-3 * chi * share * (1 + setting.z_lens[:, None]) / chi_lens  # Mpc/kpc
        density = np.interp(z, _REDSHIFTS, _ABUNDANCES) * stretch**2
        return cls(z, chi, chi_lens, share, density)

    def cumulated(self, here: np.ndarray | float) -> np.ndarray:
        """The density up to each step, summed over those steps (B, steps) that count."""
        density = self.density * here
        pieces = (density[:, 1:] + density[:, :-1]) / 2 * np.diff(self.chi, axis=1)
        start = np.zeros((len(pieces), 1))
        total: np.ndarray = np.cumsum(np.concatenate([start, pieces], axis=1), axis=1)
        return total


def line_of_sight_Sigma(setting: Setting) -> np.ndarray:
    """Returns the halos outside the lens plane as a density in it, (B,) in kpc⁻² like the Σ_sub of a mass function of slope −1.9.

    Those in the cone from here through a disc in the lens plane, and in its mirror image that ends in the source.
    """
    sigma: np.ndarray = _Cone.of(setting).cumulated(1.0)[:, -1]
    return sigma


def draw_halos(
    draws: Draws, setting: Setting, masses: PowerLaw, disc_radius: float, scatter: float = 0.16
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draws the halos before and behind lenses, as :func:`source_positions` takes them.

    Args:
        draws: Of the B images.
        setting: Their redshifts.
        masses: Of the halos, dN/dM of slope −1.9.
        disc_radius: Radius in arcsec of the double cone in the lens plane, about the origin.
        scatter: Of the concentrations, in dex.

    Returns:
        Foreground and background, each with (B, n) ``x``, ``y``, ``Rs``, ``alpha_Rs`` and ``r_trunc`` in arcsec, ``chi`` in Mpc, ``z``, ``mass``
        in M_sun; NaN for one that is not there.

    Raises:
        InputError: The slope is another.
    """
    if masses.slope != -1.9:
        raise InputError(f"halos outside the lens plane have a slope of -1.9, not {masses.slope:g}")
    cone = _Cone.of(setting)
    return (
        _draw_side(draws, setting, cone, True, masses, disc_radius, scatter),
        _draw_side(draws, setting, cone, False, masses, disc_radius, scatter),
    )


def _draw_side(
    draws: Draws,
    setting: Setting,
    cone: _Cone,
    before: bool,
    masses: PowerLaw,
    disc_radius: float,
    scatter: float,
) -> dict[str, np.ndarray]:
    side = "foreground" if before else "background"
    cumulated = cone.cumulated((cone.chi < cone.chi_lens) == before)
    p = masses.slope + 1
    number_per_Sigma = ((masses.high / PIVOT) ** p - (masses.low / PIVOT) ** p) / p
    area = np.pi * (disc_radius * setting.kpc_per_arcsec) ** 2
    counts = poisson_counts(
        draws.uniform(f"{side}_number"), cumulated[:, -1] * number_per_Sigma * area
    )
    n = max(1, int(counts.max()))
    chi = _inverted(draws.uniform(f"{side}_place", n) * cumulated[:, -1:], cumulated, cone.chi)
    # A step of the integral may reach across the lens.
    chi = np.where(before, np.minimum(chi, cone.chi_lens), np.maximum(chi, cone.chi_lens))
    z, share = (_inverted(chi, cone.chi, values) for values in (cone.z, cone.share))
    mass = draws.draw(masses, f"{side}_mass", n)
    median = median_concentration(mass, z)
    c = np.maximum(median * 10 ** (scatter * draws.normal(f"{side}_concentration", n)), 1.0)
    cosmology, z_source = setting.cosmology, np.broadcast_to(setting.z_source[:, None], z.shape)
    kpc = cosmology.angular_diameter_distances(z) * 1e3 * np.deg2rad(1 / 3600)
    Rs = scale_radius(mass, c, z, cosmology) / kpc
    sigma_crit = 1 / (np.pi * einstein_radii(1.0, cosmology, z, z_source) ** 2)
    distance = disc_radius * share * np.sqrt(draws.uniform(f"{side}_radius", n))
    angle = 2 * np.pi * draws.uniform(f"{side}_angle", n)
    drawn = {
        "mass": mass,
        "z": z,
        "chi": chi,
        "Rs": Rs,
        "alpha_Rs": deflection_at_scale(mass, c, Rs, sigma_crit),
        "r_trunc": FIELD_TRUNCATION * c * Rs,
        "x": distance * np.cos(angle),
        "y": distance * np.sin(angle),
    }
    there = np.arange(n) < counts[:, None]
    return {name: np.where(there, values, np.nan) for name, values in drawn.items()}


def _inverted(at: np.ndarray, rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns values (B, n) at places ``at`` (B, n) of curves (B, steps), linear between their steps."""
    cell = (rising[:, None, 1:-1] < at[..., None]).sum(-1)
    low, high, first, last = (
        np.take_along_axis(curve, cell + step, axis=1)
        for curve in (rising, values)
        for step in (0, 1)
    )
    share = (at - low) / np.maximum(high - low, 1e-30)
    result: np.ndarray = first + np.clip(share, 0, 1) * (last - first)
    return result


def source_positions(
    x: Tensor,
    y: Tensor,
    lens: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    foreground: Tensors,
    background: Tensors,
    chi_lens: Tensor,
    chi_source: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns where the light that is seen at (x, y) comes from, to first order in the halos outside the lens plane.

    Args:
        x: (B or 1, H, W) positions in arcsec, as ``y``.
        y: See ``x``.
        lens: Reduced deflection (B, H, W) by all that lies in the lens plane.
        foreground: Halos (B, n) before the lens: ``x``, ``y``, ``Rs``, ``alpha_Rs``, ``r_trunc`` in arcsec, and the comoving distance ``chi``,
            in units of those below; NaN for one that is not there. ``alpha_Rs`` is reduced, to the source. They lie where they are seen.
        background: The same of those behind the lens. They lie in the direction that the ray has there, not where they are seen.
        chi_lens: (B,) comoving distance of the lens.
        chi_source: (B,) of the source.

    Returns:
        (β_x, β_y), each (B, H, W).
    """
    dtype = foreground["Rs"].dtype
    chi_l, chi_s = column(chi_lens), column(chi_source)

    def three_sums(dx: Tensor, dy: Tensor, values: Tensors) -> tuple[Tensor, ...]:
        alpha = halo_deflection(dx, dy, values)
        share = 1 / (1 - values["chi"] / chi_s[:, None])
        return (
            *alpha,
            *(share * one for one in alpha),
            *(share * values["chi"] * one for one in alpha),
        )

    before = in_use(foreground, "Rs", {**_HARMLESS, "chi": 0.0})
    all_x, all_y, u_x, u_y, v_x, v_y = sum_over_members(x, y, before, three_sums, 6)
    # Σ β_ij α_i of the foreground is u − v/χ_j in any plane j.
    bend_x, bend_y = lens(x - (u_x - v_x / chi_l), y - (u_y - v_y / chi_l))

    def behind(dx: Tensor, dy: Tensor, values: Tensors) -> tuple[Tensor, Tensor]:
        near = 1 / values["chi"]
        beta = (1 - chi_l[:, None] * near) / (1 - chi_l / chi_s)[:, None]
        return halo_deflection(
            dx - (beta * bend_x[:, None] + u_x[:, None] - v_x[:, None] * near),
            dy - (beta * bend_y[:, None] + u_y[:, None] - v_y[:, None] * near),
            values,
        )

    after = in_use(background, "Rs", {**_HARMLESS, "chi": 1.0})
    back_x, back_y = sum_over_members(x, y, after, behind)
    return x.to(dtype) - all_x - bend_x - back_x, y.to(dtype) - all_y - bend_y - back_y
