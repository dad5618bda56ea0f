"""Generated star-forming galaxies: a disc with random structure, bright clumps, and sometimes a bulge."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from haloformer.simulation.components.component import (
    AtRays,
    Draws,
    LightComponent,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import LogNormal, Quantity, Uniform, check_not_negative
from haloformer.simulation.fields import WORDS, draw_words, gaussian_field, wave_numbers
from haloformer.simulation.sampling import sample_bilinear, sample_cubic, spline_coefficients
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_b
from haloformer.validation import Number, checked

SIDE = 128
"""Pixels per side of the grid that a galaxy is made on."""

EDGE = 4.0
"""Half-light radii at which a disc ends; its light fades from three quarters of that on."""

MOST_CLUMPS = 8

_SIZE = LogNormal(0.18, 0.4, 0.06, 0.6)
_BULGE_INDEX, _BULGE_SIZE = 4.0, 0.2  # Sérsic index, and half-light radius in those of the disc
_FARTHEST = 3.0  # half-light radii within which clumps lie


@checked
@dataclass(frozen=True)
class Clumpy(LightComponent):
    """A Sérsic disc times exp(Gaussian random field), with Gaussian clumps and a bulge. Each number may be a distribution.

    The field has the power spectrum P(k) ∝ (k² + k_0²)^(−β/2), k_0 = 2π/R.

    Attributes:
        kind: Its name in YAML.
        R: Half-light radius of the disc in arcsec, along the product-average axis.
        n_sersic: Sérsic index of the disc.
        q: Axis ratio.
        angle: Of the major axis, in radian.
        sigma: Standard deviation of the field; 0 for a smooth disc.
        beta: Slope β of the field's spectrum; the smaller, the more small structure.
        clumps: How many clumps; fractions are cut, up to :data:`MOST_CLUMPS`.
        clump_sigma: Size of each clump in arcsec.
        clump_share: Share of the light that is in clumps.
        bulge: Probability of a bulge.
        bulge_share: Share of the light that is in a bulge.
        interpolation: Between the pixels of the grid: ``"bilinear"``, or ``"cubic"``, which has slopes.
    """

    kind: Literal["clumpy"] = field(default="clumpy", kw_only=True)
    R: Quantity = _SIZE
    n_sersic: Quantity = Uniform(0.5, 2.0)
    q: Quantity = Uniform(0.3, 1.0)
    angle: Quantity = Uniform(0.0, math.pi)
    sigma: Quantity = Uniform(0.3, 1.2)
    beta: Quantity = Uniform(2.5, 4.0)
    clumps: Quantity = Uniform(0.0, MOST_CLUMPS + 1.0)
    clump_sigma: Quantity = Uniform(0.01, 0.05)
    clump_share: Quantity = Uniform(0.05, 0.4)
    bulge: Annotated[Number, Field(ge=0, le=1)] = 0.3
    bulge_share: Quantity = Uniform(0.05, 0.4)
    interpolation: Literal["bilinear", "cubic"] = "bilinear"

    UNITS: ClassVar[Mapping[str, str]] = {
        "R": "arcsec",
        "n_sersic": "",
        "q": "",
        "angle": "radian",
        "sigma": "",
        "beta": "",
        "clump_x": "arcsec",
        "clump_y": "arcsec",
        "clump_sigma": "arcsec",
        "clump_flux": "",
        "bulge_flux": "",
        **dict.fromkeys(WORDS, ""),
    }

    def __post_init__(self) -> None:
        for name in ("R", "n_sersic", "clump_sigma"):
            check_not_negative(name, getattr(self, name), zero=False)
        check_not_negative("q", self.q, zero=False, clipped=True)
        check_not_negative("sigma", self.sigma)
        for name in ("clumps", "clump_share", "bulge_share"):
            check_not_negative(name, getattr(self, name), clipped=True)

    def draw(self, draws: Draws, setting: Setting) -> dict[str, np.ndarray]:
        """Draws the parameters; clumps lie as the light of an exponential disc does, and their fluxes are exponentially distributed."""
        names = ("R", "n_sersic", "angle", "sigma", "beta")
        drawn = {name: draws.draw(getattr(self, name), name) for name in names}
        drawn["q"] = np.clip(draws.draw(self.q, "q"), 0.1, 1.0)
        has_bulge = draws.uniform("bulge") < self.bulge
        bulge = np.where(has_bulge, draws.draw(self.bulge_share, "bulge_share"), 0.0)
        drawn["bulge_flux"] = np.clip(bulge, 0.0, 0.5)
        return {**drawn, **self._draw_clumps(draws, drawn), **draw_words(draws)}

    def _draw_clumps(self, draws: Draws, disc: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Draws the clumps (B, 8) in the plane of the disc; those that are missing are NaN."""
        R, root, angle = (disc[name][:, None] for name in ("R", "q", "angle"))
        root = np.sqrt(root)
        share = np.clip(draws.draw(self.clump_share, "clump_share"), 0.0, 0.5)
        there = np.arange(MOST_CLUMPS) < np.floor(draws.draw(self.clumps, "clumps"))[:, None]
        # Γ(2)-distributed radii are those of the light of an exponential disc, whose half-light radius is 1.678 scale lengths.
        radius = sum(-np.log(draws.uniform(f"clump_radius_{k}", MOST_CLUMPS)) for k in (1, 2))
        radius = R * np.minimum(radius / 1.678, _FARTHEST)
        turn = 2 * np.pi * draws.uniform("clump_angle", MOST_CLUMPS)
        along, across = radius * np.cos(turn) / root, radius * np.sin(turn) * root
        weight = np.where(there, -np.log(draws.uniform("clump_flux", MOST_CLUMPS)), 0.0)
        total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
        clumps = {
            "clump_x": np.cos(angle) * along - np.sin(angle) * across,
            "clump_y": np.sin(angle) * along + np.cos(angle) * across,
            "clump_sigma": draws.draw(self.clump_sigma, "clump_sigma", MOST_CLUMPS),
            "clump_flux": share[:, None] * weight / total,
        }
        return {name: np.where(there, values, np.nan) for name, values in clumps.items()}

    def brightness(self, x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
        """The grid of :func:`galaxies`, between its pixels."""
        images, scale = galaxies(parameters), grid_scale(parameters)
        if self.interpolation == "bilinear":
            return sample_bilinear(images, x, y, scale)
        # A spline swings a little below 0 beside what is bright.
        return sample_cubic(spline_coefficients(images), x, y, scale).clamp(min=0)

    def at_rays(self, parameters: Parameters, share: np.ndarray) -> AtRays:
        """The compiled interpolation, if it is bilinear."""
        if self.interpolation != "bilinear":
            return super().at_rays(parameters, share)
        from haloformer.simulation.components import ray_kernels

        tensors = {
            name: torch.as_tensor(values, dtype=torch.float32)
            for name, values in parameters.items()
        }
        with torch.no_grad():
            images, scale = galaxies(tensors).numpy(), grid_scale(tensors).numpy()
        return functools.partial(ray_kernels.add_bilinear, images, scale, share)

    def lenstronomy(self, parameters: Mapping[str, Any]) -> list[Profile]:
        """``INTERPOL``, which is bilinear."""
        one = {
            name: torch.as_tensor(np.asarray(value, float))[None]
            for name, value in parameters.items()
        }
        image, scale = galaxies(one)[0].numpy(), float(grid_scale(one)[0])
        centre = {"center_x": 0, "center_y": 0, "phi_G": 0}
        return [("INTERPOL", {"image": image, "amp": 1, "scale": scale, **centre})]


def grid_scale(parameters: Tensors) -> Tensor:
    """Returns arcsec per pixel (B,) of galaxies' grids, which reach :data:`EDGE` half-light radii along the major axis."""
    return 2 * EDGE * parameters["R"] / torch.sqrt(parameters["q"]) / SIDE


def galaxies(parameters: Tensors) -> Tensor:
    """Returns the surface brightness of galaxies on their grids, (B, 128, 128) in 1/arcsec², for a total flux of 1."""
    scale = grid_scale(parameters)
    half = torch.arange(SIDE, dtype=scale.dtype, device=scale.device) - (SIDE - 1) / 2
    axis = half * scale[:, None]
    bulge = parameters["bulge_flux"]
    flux = torch.nan_to_num(parameters["clump_flux"])
    square = _square_radius(axis, parameters)
    fade = _fade(square)
    disc = _sersic(square, 1.0, parameters["n_sersic"]) * fade * _structure(parameters, scale)
    image = column(1 - bulge - flux.sum(1)) * _unit_flux(disc, scale)
    # A galaxy without a bulge needs none, and there are many.
    some = bulge != 0
    with_bulge = _unit_flux(_sersic(square[some], _BULGE_SIZE, _BULGE_INDEX) * fade[some], scale[some])  # fmt: skip
    image[some] += column(bulge[some]) * with_bulge
    return _unit_flux(image + _clumps(axis, parameters, flux, scale), scale)


def _structure(parameters: Tensors, scale: Tensor) -> Tensor:
    """Returns what the disc's light is multiplied by (B, 128, 128): exp(Gaussian random field)."""
    k = wave_numbers(SIDE, scale)
    k_0, beta, sigma = (
        column(values.double())
        for values in (2 * math.pi / parameters["R"], parameters["beta"], parameters["sigma"])
    )
    field = gaussian_field(parameters, (k**2 + k_0**2) ** (-beta / 2), SIDE)
    return torch.exp(sigma * field).to(scale.dtype)


def _square_radius(axis: Tensor, parameters: Tensors) -> Tensor:
    """Returns the square of the elliptical radius (B, 128, 128), along the product-average axis, in half-light radii of the disc."""
    q, angle, R = parameters["q"], parameters["angle"], parameters["R"]
    cos, sin = (f(angle.double()).to(angle.dtype)[:, None] for f in (torch.cos, torch.sin))
    root = torch.sqrt(q)[:, None]
    x, y = axis / R[:, None], axis / R[:, None]
    along = (cos * x * root)[:, None, :] + (sin * y * root)[:, :, None]
    across = (cos * y / root)[:, :, None] - (sin * x / root)[:, None, :]
    least = column(SERSIC_R_MIN / R) ** 2
    return torch.maximum(along**2 + across**2, least)


def _sersic(square: Tensor, size: float, n_sersic: Tensor | float) -> Tensor:
    """Returns a Sérsic profile of any flux.

    Args:
        square: Of :func:`_square_radius`.
        size: Half-light radius in those of the disc.
        n_sersic: Sérsic index, (B,) or one.
    """
    n = column(n_sersic) if isinstance(n_sersic, Tensor) else n_sersic
    b = sersic_b(n)
    return torch.exp(b - b * torch.exp(torch.log(square / size**2) * (0.5 / n)))


def _fade(square: Tensor) -> Tensor:
    """Returns what profiles are multiplied by: 1, and less between three and four half-light radii of the disc, beyond which nothing is."""
    fade = ((torch.sqrt(square) / EDGE - 0.75) / 0.25).clamp(0, 1)
    return torch.cos(math.pi / 2 * fade) ** 2


def _clumps(axis: Tensor, parameters: Tensors, flux: Tensor, scale: Tensor) -> Tensor:
    """Returns Gaussian clumps (B, 128, 128) in 1/arcsec², averaged over the pixels of the grid to second order."""
    x, y = (torch.nan_to_num(parameters[name])[..., None] for name in ("clump_x", "clump_y"))
    sigma = torch.nan_to_num(parameters["clump_sigma"], nan=1.0)
    variance = (sigma**2 + scale[:, None] ** 2 / 12)[..., None]
    across = torch.exp(-((axis[:, None, :] - x) ** 2) / (2 * variance))
    down = torch.exp(-((axis[:, None, :] - y) ** 2) / (2 * variance))
    height = flux / (2 * math.pi * variance[..., 0])
    return torch.bmm((height[..., None] * down).transpose(1, 2), across)


def _unit_flux(images: Tensor, scale: Tensor) -> Tensor:
    return images / column((images.double().sum((1, 2)) * scale.double() ** 2).to(images.dtype))
