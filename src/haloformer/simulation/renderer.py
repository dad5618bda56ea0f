"""From physical parameters to noise-free images, in batched PyTorch: on any device, in any float type, differentiable."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation import deflectors
from haloformer.simulation.instruments import convolve_psf, pixel_axis, psf_weights
from haloformer.simulation.sources import sersic_ellipse
from haloformer.simulation.substructure import Vortex
from haloformer.simulation.surveys import Survey

LENS_PARAMETERS = ("lens_theta_E", "lens_e1", "lens_e2", "lens_x", "lens_y", "gamma1", "gamma2")
SOURCE_PARAMETERS = (
    "source_amp",
    "source_R_sersic",
    "source_n_sersic",
    "source_e1",
    "source_e2",
    "source_x",
    "source_y",
)


def render(
    survey: Survey,
    parameters: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Renders noise-free images of any scenes; differentiable in every parameter.

    Args:
        survey: Gives the instrument, the Einstein radius of a mass, and the deflection scale.
        parameters: Arrays or tensors by the names that travel with an image (see ``scenes.UNITS``): all ``source_*``, ``lens_*`` and
            ``gamma*``, each (B,); where there is substructure, ``subhalo_mass``, ``subhalo_x``, ``subhalo_y`` as (B, n) in M_sun and arcsec, and
            ``vortex_mass``, ``vortex_angle``, ``vortex_half_length``, ``vortex_x``, ``vortex_y`` as (B,). NaN where there is none.
        dtype: ``torch.float32`` or ``torch.float64``.
        device: Where to compute.

    Returns:
        (B, H, W) flux in counts/s per pixel.
    """
    missing = [name for name in (*LENS_PARAMETERS, *SOURCE_PARAMETERS) if name not in parameters]
    if missing:
        raise InputError(f"render: the parameters lack {', '.join(missing)}")

    def get(name: str, dtype: torch.dtype = dtype) -> Tensor:
        return torch.as_tensor(parameters[name]).to(device=device, dtype=dtype)

    instrument = survey.instrument
    # Positions stay in float64 until their differences are taken: beside a point mass, float32 would be off by percents.
    axis = torch.as_tensor(pixel_axis(instrument), device=device)
    beta_x, beta_y = smooth_source_positions(
        survey, [get(name) for name in LENS_PARAMETERS], axis.to(dtype)
    )
    count = len(parameters["source_x"])
    if len(beta_x) < count:
        beta_x, beta_y = beta_x.expand(count, -1, -1), beta_y.expand(count, -1, -1)
    scale = survey.scale()
    for add in (_subhalo_deflection, _vortex_deflection):
        found = add(survey, parameters, get, axis)
        if found is not None:
            rows, alpha_x, alpha_y = found
            beta_x = beta_x.index_add(0, rows, alpha_x, alpha=-scale)
            beta_y = beta_y.index_add(0, rows, alpha_y, alpha=-scale)
    amp, R_sersic, n_sersic, e1, e2, x0, y0 = (
        get(name)[:, None, None] for name in SOURCE_PARAMETERS
    )
    brightness = sersic_ellipse(beta_x, beta_y, amp, R_sersic, n_sersic, e1, e2, x0, y0)
    weights = torch.as_tensor(psf_weights(instrument), dtype=dtype, device=device)
    return convolve_psf(brightness, weights) * instrument.pixel_scale**2


def smooth_source_positions(
    survey: Survey, lens: list[Tensor], axis: Tensor | tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Where the pixels lie in the source plane behind the smooth lens alone.

    Args:
        survey: Gives the deflection scale.
        lens: The parameters of :data:`LENS_PARAMETERS`, each (B,).
        axis: (N,) pixel positions in arcsec; or those along x and along y, (B or 1, N) each, where images differ.

    Returns:
        (β_x, β_y), each (B, N, N) in arcsec, or (1, N, N) if the lens is the same in every image.
    """
    # A traced graph cannot ask for values.
    if not torch.compiler.is_compiling() and all(
        not p.requires_grad and bool((p == p[:1]).all()) for p in lens
    ):
        lens = [p[:1] for p in lens]
    theta_E, e1, e2, x0, y0, gamma1, gamma2 = (p[:, None, None] for p in lens)
    along_x, along_y = axis if isinstance(axis, tuple) else (axis[None], axis[None])
    x, y = along_x[:, None, :], along_y[:, :, None]
    sie_x, sie_y = deflectors.sie_deflection(x, y, theta_E, e1, e2, x0, y0)
    shear_x, shear_y = deflectors.shear_deflection(x, y, gamma1, gamma2)
    scale = survey.scale()
    return x - scale * (sie_x + shear_x), y - scale * (sie_y + shear_y)


def vortex_masses(survey: Survey) -> int:
    """The number of point masses that stand for a vortex in this survey; 0 if no class has one."""
    numbers = {
        part.n_masses
        for parts in survey.substructure.values()
        for part in parts
        if isinstance(part, Vortex)
    }
    if len(numbers) > 1:
        raise InputError(
            f"survey {survey.name}: all vortices must have the same n_masses, not {sorted(numbers)}"
        )
    return max(numbers, default=0)


def _rows(parameters: Mapping[str, Any], name: str) -> np.ndarray | None:
    """The images that have a finite value of this parameter, or None if there are none."""
    if name not in parameters:
        return None
    value = parameters[name]
    finite = np.isfinite(
        value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    )
    rows = (
        np.flatnonzero(finite.reshape(len(finite), -1).any(axis=1)) if finite.size else np.empty(0)
    )
    return rows if len(rows) else None


def _subhalo_deflection(
    survey: Survey, parameters: Mapping[str, Any], get: Any, axis: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    where = _rows(parameters, "subhalo_mass")
    if where is None:
        return None
    rows = torch.as_tensor(where, device=axis.device)
    mass = get("subhalo_mass")[rows]
    x0, y0 = (get(name, torch.float64)[rows] for name in ("subhalo_x", "subhalo_y"))
    there = torch.isfinite(mass)
    # sqrt has no slope at 0: an absent subhalo gets θ_E = 0 without passing through it
    theta_E = torch.where(
        there, float(survey.theta_E(1.0)) * torch.sqrt(torch.where(there, mass, 1.0)), 0.0
    )
    x0, y0 = torch.where(there, x0, 0.0), torch.where(there, y0, 0.0)
    return rows, *deflectors.point_mass_deflection(axis, axis, theta_E, x0, y0)


def _vortex_deflection(
    survey: Survey, parameters: Mapping[str, Any], get: Any, axis: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    where = _rows(parameters, "vortex_mass")
    if where is None:
        return None
    n_masses = vortex_masses(survey)
    if n_masses < 2:
        raise InputError(
            f"survey {survey.name} has no vortex (or one of fewer than 2 masses), but the parameters do"
        )
    rows = torch.as_tensor(where, device=axis.device)
    mass = get("vortex_mass")[rows][:, None, None]
    angle, half_length, x0, y0 = (
        get(name, torch.float64)[rows][:, None, None]
        for name in ("vortex_angle", "vortex_half_length", "vortex_x", "vortex_y")
    )
    theta_E = float(survey.theta_E(1.0)) * torch.sqrt(mass / n_masses)
    x, y = axis[None, None, :], axis[None, :, None]
    return rows, *deflectors.vortex_deflection(x, y, theta_E, x0, y0, angle, half_length, n_masses)
