"""Halos before and behind the lens: how many there are, and their effect to first order.

Every halo deflects a ray once. Foreground halos do so where the ray is seen; the lens, where they have moved it to; background halos,
where both have. Reduced deflections all refer to the source, so that of a ray that halo i deflected by α_i the position at redshift j is
θ − β_ij α_i, with β_ij = D_ij D_s / (D_j D_is); in a flat universe of comoving distances χ, β_ij = (1 − χ_i/χ_j) / (1 − χ_i/χ_s).
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from haloformer.simulation.components.component import Tensors, column
from haloformer.simulation.components.halos import halo_deflection
from haloformer.simulation.components.populations import in_use, sum_over_members
from haloformer.simulation.components.setting import Setting

# Sheth–Tormen mass function, Planck 2018: dn/dlnM = A(z) (M/10⁸)^−0.90 in comoving Mpc⁻³.
_REDSHIFTS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
_ABUNDANCES = (6.3, 6.6, 7.2, 8.1, 8.8, 9.4, 10.0)

_STEPS = 129  # of the integral over redshift
_HARMLESS = {"alpha_Rs": 0.0, "Rs": 1.0, "r_trunc": 1.0, "x": 0.0, "y": 0.0}


def line_of_sight_Sigma(setting: Setting) -> np.ndarray:
    """Returns the halos outside the lens plane as a density in it, (B,) in kpc⁻² like the Σ_sub of a mass function of slope −1.9.

    Those in the cone from here through a disc in the lens plane, and in its mirror image that ends in the source.
    """
    cosmology = setting.cosmology
    z = setting.z_source[:, None] * np.linspace(0, 1, _STEPS)
    chi = cosmology.comoving_distances(z)
    chi_l = cosmology.comoving_distances(setting.z_lens)[:, None]
    chi_s = chi[:, -1:]
    behind = (1 - chi_l / np.maximum(chi, chi_l)) / (1 - chi_l / chi_s)
    width = chi * (1 - behind)  # Mpc per radian of the disc
    abundance = np.interp(z, _REDSHIFTS, _ABUNDANCES)
    number = np.trapezoid(abundance * width**2, chi, axis=1)
    sigma: np.ndarray = 1e-6 * number * (1 + setting.z_lens) ** 2 / chi_l[:, 0] ** 2
    return sigma


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
