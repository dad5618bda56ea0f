"""Scenes whose substructure does not betray itself by its mass: all lenses get the same mass within the same ring.

In the DeepLense surveys substructure is added to a main lens of fixed mass, so its ring is larger, and the size of the ring alone tells
most of the class. Here the main lens gives up what the substructure brings.
"""

import dataclasses

import numpy as np
from scipy.special import ellipk

from haloformer.errors import InputError
from haloformer.simulation.scenes import Scenes
from haloformer.simulation.surveys import Survey


def match_mass(scenes: Scenes, survey: Survey) -> Scenes:
    """Returns the scenes with a lighter main lens, so that the mass within the Einstein radius is that of the main lens alone before.

    The mean convergence within the circle of radius R about the lens is s (f θ_E R + Σ θ_i²) / R², with s the survey's deflection scale,
    f the share of :func:`sie_mass_factor`, and the sum over the point masses inside. R = s θ_E is the Einstein radius of the lens alone,
    and the new θ_E' = θ_E − Σ θ_i² / (f R) gives the same mean there. Outside of the circle, substructure still adds mass.

    Args:
        scenes: Of that survey; scenes without substructure stay what they are.
        survey: Gives the deflection scale.
    """
    ring = survey.scale() * scenes.lens_theta_E
    inside = enclosed_substructure(scenes, ring)
    theta_E = scenes.lens_theta_E - inside / (
        sie_mass_factor(scenes.lens_e1, scenes.lens_e2) * ring
    )
    if (theta_E <= 0).any():
        raise InputError(
            f"survey {survey.name}: the substructure weighs more than the lens; its mass cannot be matched"
        )
    return dataclasses.replace(scenes, lens_theta_E=theta_E)


def add_mass(scenes: Scenes, survey: Survey) -> Scenes:
    """Returns the scenes with a heavier main lens where there is no substructure, by the mean of what it brings where there is.

    The counterpart of :func:`match_mass`: smooth lenses with the ring of the others.
    """
    ring = survey.scale() * scenes.lens_theta_E
    inside = enclosed_substructure(scenes, ring)
    smooth = (scenes.vortex_n_masses == 0) & ~(scenes.subhalo_theta_E > 0).any(axis=1)
    mean = inside[~smooth].mean() if not smooth.all() else 0.0
    more = np.where(smooth, mean, 0.0) / (sie_mass_factor(scenes.lens_e1, scenes.lens_e2) * ring)
    return dataclasses.replace(scenes, lens_theta_E=scenes.lens_theta_E + more)


def enclosed_substructure(scenes: Scenes, radius: np.ndarray) -> np.ndarray:
    """Returns Σ θ_i² in arcsec² of the point masses within ``radius`` (B,) in arcsec of the lens centre, (B,)."""
    subhalo_r = np.hypot(
        scenes.subhalo_x - scenes.lens_x[:, None], scenes.subhalo_y - scenes.lens_y[:, None]
    )
    total: np.ndarray = np.where(subhalo_r < radius[:, None], scenes.subhalo_theta_E**2, 0.0).sum(
        axis=1
    )  # NaN: none there
    for n in np.unique(scenes.vortex_n_masses[scenes.vortex_n_masses > 0]):
        rows = np.flatnonzero(scenes.vortex_n_masses == n)
        vortex = scenes[rows]
        along = np.linspace(-1, 1, n) * vortex.vortex_half_length[:, None]
        x = (vortex.vortex_x - vortex.lens_x)[:, None] + along * np.cos(vortex.vortex_angle)[
            :, None
        ]
        y = (vortex.vortex_y - vortex.lens_y)[:, None] + along * np.sin(vortex.vortex_angle)[
            :, None
        ]
        total[rows] += vortex.vortex_theta_E**2 * (np.hypot(x, y) < radius[rows, None]).sum(axis=1)
    return total


def sie_mass_factor(e1: np.ndarray, e2: np.ndarray) -> np.ndarray:
    """Returns the mass of a singular isothermal ellipsoid within a circle, divided by that of the sphere of the same θ_E: 2/π √q K(1 − q²).

    It is the mean over the angle of κ = θ_E √q / (2 √(q² x² + y²)), times 2 r / θ_E.
    """
    c = np.hypot(e1, e2)
    q = (1 - c) / (1 + c)
    result: np.ndarray = 2 / np.pi * np.sqrt(q) * ellipk(1 - q**2)
    return result
