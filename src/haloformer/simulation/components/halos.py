"""Halos of dark matter as pure functions: concentrations, scale radii, suppression below a cut-off, and NFW profiles.

Masses are M_200c in M_sun; of a subhalo, the one that it had before it fell in.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.components.component import Tensors
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.cosmology import Cosmology

PIVOT = 1e8
"""Mass in M_sun at which mass functions and concentrations are normalised."""

LEAST_X = 1e-3
"""Radius in scale radii below which the mean convergence is taken as constant, as in lenstronomy."""

UNTRUNCATED = 1 - math.log(2)
"""α(r_s) of an NFW halo, in units of 4 ρ_s r_s² / Σ_crit."""

# Diemer & Joyce (2019, arXiv:1809.07326) for 10⁷–10¹⁰ M_sun, Planck 2018 cosmology: c at the pivot, which falls as M^−0.073.
_REDSHIFTS = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
_CONCENTRATIONS = (18.5, 16.8, 14.3, 11.1, 8.9, 7.3, 5.4)
_CONCENTRATION_SLOPE = -0.073


def median_concentration(mass: np.ndarray, z: np.ndarray | float) -> np.ndarray:
    """Returns the median concentration c_200 of halos of these masses at these redshifts, between 0 and 3."""
    at_pivot = np.exp(np.interp(z, _REDSHIFTS, np.log(_CONCENTRATIONS)))
    concentration: np.ndarray = at_pivot * (mass / PIVOT) ** _CONCENTRATION_SLOPE
    return concentration


def scale_radius(
    mass: np.ndarray, concentration: np.ndarray, z: np.ndarray | float, cosmology: Cosmology
) -> np.ndarray:
    """Returns r_s = r_200/c in proper kpc."""
    density = 200 * cosmology.critical_density(z)
    radius: np.ndarray = np.cbrt(3 * mass / (4 * np.pi * density)) / concentration
    return radius


def lensing_scales(
    mass: np.ndarray, concentration: np.ndarray, setting: Setting
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scale radii and deflections at them, both in arcsec, of halos (B, n) in the lens planes.

    The deflection is that of the halo without truncation, as lenstronomy has it: 4 ρ_s r_s² (1 + ln ½) / Σ_crit.
    """
    Rs = scale_radius(mass, concentration, setting.z_lens[:, None], setting.cosmology)
    Rs = Rs / setting.kpc_per_arcsec[:, None]
    return Rs, deflection_at_scale(mass, concentration, Rs, setting.sigma_crit[:, None])


def deflection_at_scale(
    mass: np.ndarray, concentration: np.ndarray, Rs: np.ndarray, sigma_crit: np.ndarray
) -> np.ndarray:
    """Returns M (1 − ln 2) / (π Σ_crit r_s (ln(1 + c) − c/(1 + c))) in arcsec, from r_s in arcsec and Σ_crit in M_sun/arcsec²."""
    alpha: np.ndarray = mass * UNTRUNCATED / (np.pi * sigma_crit * Rs * _nfw_mass(concentration))
    return alpha


def bound_share(concentration: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Returns the total mass of a truncated halo in parts of its M_200 before truncation.

    Args:
        concentration: r_200 / r_s.
        tau: Truncation radius in scale radii.
    """
    square = tau**2
    total = square / (square + 1) ** 2
    total = total * ((square - 1) * np.log(tau) + tau * np.pi - (square + 1))
    share: np.ndarray = total / _nfw_mass(concentration)
    return share


def _nfw_mass(x: np.ndarray) -> np.ndarray:
    mass: np.ndarray = np.log1p(x) - x / (1 + x)
    return mass


def warm_survival(mass: np.ndarray, log10_m_hm: np.ndarray) -> np.ndarray:
    """Returns the share of cold subhalos that warm dark matter has, too (Lovell 2020, arXiv:2003.01125).

    Args:
        mass: In M_sun.
        log10_m_hm: log10 of the half-mode mass in M_sun.
    """
    share: np.ndarray = (1 + (4.2 * 10.0**log10_m_hm / mass) ** 2.5) ** -0.2
    return share


def warm_concentration(mass: np.ndarray, log10_m_hm: np.ndarray) -> np.ndarray:
    """Returns the concentration in parts of that in cold dark matter (Bose et al. 2016, arXiv:1507.01998, without its redshift term)."""
    share: np.ndarray = (1 + 60 * 10.0**log10_m_hm / mass) ** -0.17
    return share


def fuzzy_survival(mass: np.ndarray, log10_m_axion: np.ndarray) -> np.ndarray:
    """Returns the share of cold halos that fuzzy dark matter has, too (Schive et al. 2016, arXiv:1508.04621, eq. 7).

    Args:
        mass: In M_sun.
        log10_m_axion: log10 of the axion mass in eV.
    """
    share: np.ndarray = (1 + (mass / fuzzy_mass(log10_m_axion)) ** -1.1) ** -2.2
    return share


def fuzzy_concentration(mass: np.ndarray, log10_m_axion: np.ndarray) -> np.ndarray:
    """Returns the concentration in parts of that in cold dark matter, as Laroche et al. (2022, arXiv:2206.11269) fitted it."""
    ratio = fuzzy_mass(log10_m_axion) / mass
    share: np.ndarray = (1 + 21.42 * ratio**1.62) ** -0.42
    return share


def fuzzy_mass(log10_m_axion: np.ndarray) -> np.ndarray:
    """Returns the mass in M_sun below which fuzzy dark matter has few halos, 1.6 · 10¹⁰ (m / 10⁻²² eV)^−4/3."""
    mass: np.ndarray = 1.6e10 * 10.0 ** (-4 / 3 * (log10_m_axion + 22))
    return mass


def nfw_profile(x: Tensor) -> Tensor:
    """Returns m(x)/x² of an NFW halo, m(x) = ln(x/2) + F(x) (Bartelmann 1996, arXiv:astro-ph/9602053), x = R/r_s ≥ 10⁻³."""
    return (torch.log(x / 2) + _arc(x)) / x**2


def tnfw_profile(x: Tensor, tau: Tensor) -> Tensor:
    """Returns m(x)/x² of a truncated NFW halo, ρ ∝ 1/(x (1 + x)²) · τ²/(x² + τ²): the mean convergence within R in units of 4 ρ_s r_s/Σ_crit.

    Baltz, Marshall & Oguri (2009, arXiv:0705.0682), eq. A.12 and following; rearranged so that what cancels near the centre, does so
    in few terms.

    Args:
        x: Projected radius in scale radii, at least 10⁻³.
        tau: Truncation radius in scale radii.
    """
    square = tau**2
    more = x**2 / (torch.sqrt(square + x**2) + tau)  # √(τ² + x²) − τ
    half = torch.log1p(more / (2 * tau))
    log = torch.log(x / (2 * tau)) - half
    F = _arc(x)
    inner = (square - 1) * (F + torch.log(x / 2) - half + more / tau * log)
    mass = inner + 2 * x**2 * F - math.pi * more
    return square / (square + 1) ** 2 * mass / x**2


def _arc(x: Tensor) -> Tensor:
    """Returns arccosh(1/x)/√(1 − x²), or arccos(1/x)/√(x² − 1) for x > 1; a power series about 1, so that slopes are right there, too."""
    w = (1 - x) * (1 + x)
    near = w.abs() < 0.01
    s = torch.sqrt(torch.where(near, 1.0, w.abs()))
    inside = torch.asinh(s / x) / s
    outside = torch.atan(s) / s
    series = torch.zeros_like(x)
    for k in range(8, -1, -1):
        series = series * torch.where(near, w, 0.0) + 1 / (2 * k + 1)
    return torch.where(near, series, torch.where(w > 0, inside, outside))


# The table of m(x)/x² for float32, in which the formula loses all digits near the centre: bilinear in the logarithms.
LOG10_X = (-3.0, 3.0, 601)
"""log10 of x: first, last, number."""

LOG10_TAU = (-1.0, 3.0, 161)
"""log10 of τ: first, last, number; a halo with τ of the last is not truncated where there is light."""


@functools.cache
def profile_table(device: torch.device = torch.device("cpu")) -> Tensor:  # noqa: B008 - immutable
    """Returns ln(m(x)/x²) at the nodes of :data:`LOG10_TAU` and :data:`LOG10_X`, (161, 601) float32."""
    with torch.inference_mode(False):  # kept for callers that take slopes
        x = torch.logspace(*LOG10_X, dtype=torch.float64)
        tau = torch.logspace(*LOG10_TAU, dtype=torch.float64)
        return torch.log(tnfw_profile(x[None, :], tau[:, None])).float().to(device)


def _cell(values: Tensor, axis: tuple[float, float, int]) -> tuple[Tensor, Tensor]:
    """Returns the nodes below values, and how far beyond them values are in parts of a step; beyond the ends, the last cell goes on."""
    first, last, number = axis
    at = (values - first) * ((number - 1) / (last - first))
    below = at.detach().floor().clamp(0, number - 2).long()
    return below, at - below


def halo_deflection(dx: Tensor, dy: Tensor, values: Tensors) -> tuple[Tensor, Tensor]:
    """Returns the deflection (B, k, H, W) by each of some halos.

    Args:
        dx: (B, k, H, W) positions relative to the halos in arcsec, as ``dy``.
        dy: See ``dx``.
        values: ``Rs``, ``alpha_Rs`` and, of truncated halos, ``r_trunc`` in arcsec, each (B, k, 1, 1). In float32 the profile is taken
            from a table that is good to 10⁻³.
    """
    Rs, truncation = values["Rs"], values.get("r_trunc")
    square = torch.clamp((dx**2 + dy**2) / Rs**2, min=LEAST_X**2)
    if dx.dtype == torch.float32:
        profile = _tabulated(square, None if truncation is None else truncation / Rs)
    elif truncation is None:
        profile = nfw_profile(torch.sqrt(square))
    else:
        profile = tnfw_profile(torch.sqrt(square), truncation / Rs)
    share = values["alpha_Rs"] / (UNTRUNCATED * Rs) * profile
    return share * dx, share * dy


def _tabulated(square: Tensor, tau: Tensor | None) -> Tensor:
    """Returns m(x)/x² from x² (B, k, H, W) and τ (B, k, 1, 1); None: without truncation."""
    B, k, H, W = square.shape
    below, rest = _cell(0.5 * torch.log10(square).reshape(B, k, H * W), LOG10_X)
    if tau is None:
        rows = _nfw_table(square.device).expand(B, k, -1)
    else:
        table = profile_table(square.device)
        j, share = _cell(torch.log10(tau.reshape(B, k)), LOG10_TAU)
        share = share[..., None]
        rows = (1 - share) * table[j] + share * table[j + 1]
    low, high = rows.gather(-1, below), rows.gather(-1, below + 1)
    return torch.exp(low + rest * (high - low)).reshape(B, k, H, W)


@functools.cache
def _nfw_table(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        x = torch.logspace(*LOG10_X, dtype=torch.float64)
        return torch.log(nfw_profile(x)).float().to(device)
