"""The light of the lens galaxy, in front of the arcs: none, what its subtraction leaves, or all of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from haloformer.simulation.components.component import (
    AtRays,
    Draws,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.sersic import unit_amp
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import (
    LogNormal,
    Normal,
    Quantity,
    Uniform,
    check_not_negative,
)
from haloformer.simulation.fields import WORDS, draw_words, gaussian_field, wave_numbers
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_ellipse, sersic_flux
from haloformer.validation import Number, checked

_SIZE = LogNormal(1.5, 0.3, 0.5, 4.0)
_FLATTEST = 0.3  # axis ratio of a lens galaxy
_INDICES = (1.0, 8.0)  # Sérsic indices
_WIDE = (
    2.0  # PSF widths: the correlation length of residuals, and how far those of the centre reach
)


@checked
@dataclass(frozen=True)
class LensLight:
    """A Sérsic profile, sometimes with a disc, that is about as round and turned as the lens's mass. Each number may be a distribution.

    Its brightness is in units of the arcs' peak. Where ``mode`` is ``"subtracted"`` a survey adds :meth:`left` instead of the light, and the
    photons of :meth:`brightness` to the noise all the same; the innermost part is masked (:meth:`outside`).

    Attributes:
        mode: ``"none"``, ``"subtracted"`` or ``"present"``.
        R: Half-light radius in Einstein radii.
        n_sersic: Sérsic index, cut to between 1 and 8.
        contrast: Brightness at the Einstein radius, in that of the arcs' peak.
        q_offset: Axis ratio of the light less that of the mass.
        angle_offset: Angle of the light less that of the mass, in radian.
        x: Centre in arcsec, relative to that of the mass.
        y: See ``x``.
        disc: Probability of a disc.
        disc_share: Share of the light that is in a disc.
        disc_R: Half-light radius of a disc in those of the galaxy.
        residual: Standard deviation of what is left, in parts of the light.
        residual_moments: Standard deviation of each part of a dipole and a quadrupole that is left, in parts of the light.
        residual_centre: As ``residual``, within two widths of the point-spread function about the centre.
        mask_radius: Arcsec about the centre that are masked where the light is subtracted.
    """

    mode: Literal["none", "subtracted", "present"] = "subtracted"
    R: Quantity = _SIZE
    n_sersic: Quantity = Normal(4.0, 0.7)
    contrast: Quantity = Uniform(0.3, 1.5)
    q_offset: Quantity = Normal(0.0, 0.08)
    angle_offset: Quantity = Normal(0.0, math.radians(10))
    x: Quantity = Normal(0.0, 0.02)
    y: Quantity = Normal(0.0, 0.02)
    disc: Annotated[Number, Field(ge=0, le=1)] = 0.5
    disc_share: Quantity = Uniform(0.1, 0.4)
    disc_R: Quantity = Uniform(1.0, 2.0)
    residual: Annotated[Number, Field(ge=0, le=1)] = 0.01
    residual_moments: Annotated[Number, Field(ge=0, le=1)] = 0.005
    residual_centre: Annotated[Number, Field(ge=0, le=1)] = 0.05
    mask_radius: Annotated[Number, Field(ge=0)] = 0.3

    UNITS: ClassVar[Mapping[str, str]] = {
        "R_sersic": "arcsec",
        "n_sersic": "",
        "e1": "",
        "e2": "",
        "x": "arcsec",
        "y": "arcsec",
        "theta_E": "arcsec",
        "contrast": "",
        "disc_share": "",
        "disc_R": "arcsec",
        **dict.fromkeys(("dipole_x", "dipole_y", "quadrupole_1", "quadrupole_2"), ""),
        **dict.fromkeys(WORDS, ""),
    }

    def __post_init__(self) -> None:
        for name in ("R", "disc_R"):
            check_not_negative(name, getattr(self, name), zero=False)
        check_not_negative("n_sersic", self.n_sersic, zero=False, clipped=True)
        check_not_negative("contrast", self.contrast)
        check_not_negative("disc_share", self.disc_share, clipped=True)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the parameters of :attr:`UNITS`; none if there is no light.

        Args:
            draws: Of the B images.
            setting: Of the lenses; not used.
            lens: ``theta_E``, ``e1``, ``e2``, ``x`` and ``y`` (B,) of the mass.
        """
        if self.mode == "none":
            return {}
        c = np.hypot(lens["e1"], lens["e2"])
        q = (1 - c) / (1 + c) + draws.draw(self.q_offset, "q_offset")
        q = np.clip(q, _FLATTEST, 1.0)
        angle = np.arctan2(lens["e2"], lens["e1"]) / 2
        angle = angle + draws.draw(self.angle_offset, "angle_offset")
        size = draws.draw(self.R, "R") * lens["theta_E"]
        has_disc = draws.uniform("disc") < self.disc
        share = np.clip(draws.draw(self.disc_share, "disc_share"), 0.0, 1.0)
        moments = {
            name: self.residual_moments * draws.normal(name)
            for name in ("dipole_x", "dipole_y", "quadrupole_1", "quadrupole_2")
        }
        return {
            "R_sersic": size,
            "n_sersic": np.clip(draws.draw(self.n_sersic, "n_sersic"), *_INDICES),
            "e1": (1 - q) / (1 + q) * np.cos(2 * angle),
            "e2": (1 - q) / (1 + q) * np.sin(2 * angle),
            "x": lens["x"] + draws.draw(self.x, "x"),
            "y": lens["y"] + draws.draw(self.y, "y"),
            "theta_E": np.asarray(lens["theta_E"], float),
            "contrast": draws.draw(self.contrast, "contrast"),
            "disc_share": np.where(has_disc, share, 0.0),
            "disc_R": size * draws.draw(self.disc_R, "disc_R"),
            **moments,
            **draw_words(draws),
        }

    @staticmethod
    def brightness(x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
        """Returns the surface brightness (B, H, W) in units of the arcs' peak.

        Args:
            x: (B or 1, H, W) positions in arcsec, as ``y``.
            y: See ``x``.
            parameters: Those of :attr:`UNITS`, each (B,).
        """
        dtype = parameters["R_sersic"].dtype
        dx = (x - column(parameters["x"])).to(dtype)
        dy = (y - column(parameters["y"])).to(dtype)
        e1, e2 = column(parameters["e1"]), column(parameters["e2"])
        light = _profile(dx, dy, e1, e2, parameters)
        ring, nowhere = column(parameters["theta_E"]), torch.zeros_like(e1)
        on_ring = _profile(ring, nowhere, nowhere, nowhere, parameters)
        return column(parameters["contrast"]) * light / on_ring

    @staticmethod
    def at_rays(parameters: Parameters) -> AtRays:
        """Returns what adds :meth:`brightness` at rays, at positions relative to the light's centre, by compiled kernels."""
        from haloformer.simulation.components import ray_kernels

        own = {name: torch.as_tensor(np.asarray(v, float)) for name, v in parameters.items()}
        ring, nowhere = column(own["theta_E"]), torch.zeros(len(own["theta_E"]), 1, 1).double()
        unit = own["contrast"] / _profile(ring, nowhere, nowhere, nowhere, own)[:, 0, 0]
        share, disc = own["disc_share"], torch.ones_like(own["n_sersic"])
        kinds = ((1 - share, own["R_sersic"], own["n_sersic"]), (share, own["disc_R"], disc))
        ellipse = [own["e1"], own["e2"], torch.zeros_like(unit), torch.zeros_like(unit)]
        shapes = [
            torch.stack([part * unit_amp(R, n) * unit, R, n, *ellipse], 1).float().numpy()
            for part, R, n in kinds
        ]

        def add(
            which: np.ndarray, into: np.ndarray, x: np.ndarray, y: np.ndarray, total: np.ndarray
        ) -> None:
            for shape in shapes:
                there = shape[which, 0] > 0
                ray_kernels.add_sersic(shape, SERSIC_R_MIN, which[there], into[there], x, y, total)

        return add

    def left(
        self,
        light: Tensor,
        x: Tensor,
        y: Tensor,
        parameters: Tensors,
        psf_fwhm: float,
    ) -> Tensor:
        """Returns what a subtraction leaves of the light, ε · light, in its unit.

        ε is a Gaussian random field with the correlation exp(−r²/ℓ²), ℓ two widths of the point-spread function, larger within as much of the
        centre, with a dipole and a quadrupole.

        Args:
            light: (B, N, N) the light as the camera shows it, in any unit.
            x: (1, N, N) positions of its pixels in arcsec, as ``y``; evenly spaced.
            y: See ``x``.
            parameters: Those of :attr:`UNITS`, each (B,).
            psf_fwhm: Width of the point-spread function in arcsec.
        """
        side, scale = light.shape[-1], float(x[0, 0, 1] - x[0, 0, 0])
        dx = (x - column(parameters["x"])).to(light.dtype)
        dy = (y - column(parameters["y"])).to(light.dtype)
        r = torch.hypot(dx, dy).clamp(min=1e-6)
        cos, sin = dx / r, dy / r
        length = max(_WIDE * psf_fwhm, scale)
        grain = correlated_field(parameters, side, scale, length).to(light.dtype)
        square = (r / length) ** 2
        centre = torch.exp(-square * square)
        epsilon = (self.residual + (self.residual_centre - self.residual) * centre) * grain
        epsilon = (
            epsilon
            + column(parameters["dipole_x"]) * cos
            + column(parameters["dipole_y"]) * sin
            + column(parameters["quadrupole_1"]) * (cos**2 - sin**2)
            + column(parameters["quadrupole_2"]) * (2 * sin * cos)
        )
        left: Tensor = epsilon * light
        return left

    def outside(self, x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
        """Returns where images are kept (B, H, W): 0 within the masked radius about the centre, else 1; all 1 unless subtracted."""
        r = torch.hypot(x - column(parameters["x"]), y - column(parameters["y"]))
        radius = self.mask_radius if self.mode == "subtracted" else 0.0
        return (r >= radius).to(parameters["x"].dtype)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``SERSIC_ELLIPSE``, twice where there is a disc, with ``amp`` in units of the arcs' peak."""
        one = {
            name: torch.as_tensor(np.array([value], float)) for name, value in parameters.items()
        }
        zero = torch.zeros(1, 1, 1, dtype=torch.float64)
        ring = column(one["theta_E"])
        flux = float(parameters["contrast"] / _profile(ring, zero, zero, zero, one))
        shape = {
            "e1": parameters["e1"],
            "e2": parameters["e2"],
            "center_x": parameters["x"],
            "center_y": parameters["y"],
        }
        parts = [(1 - parameters["disc_share"], parameters["R_sersic"], parameters["n_sersic"])]
        if parameters["disc_share"] > 0:
            parts.append((parameters["disc_share"], parameters["disc_R"], 1.0))
        return [
            (
                "SERSIC_ELLIPSE",
                {"amp": flux * share / sersic_flux(R, n), "R_sersic": R, "n_sersic": n, **shape},
            )
            for share, R, n in parts
        ]


def correlated_field(parameters: Tensors, side: int, scale: float, length: float) -> Tensor:
    """Returns Gaussian random fields (B, side, side) float64 of variance 1 and correlation exp(−r²/length²).

    Args:
        parameters: With the words that they are drawn from.
        side: Pixels per side.
        scale: Arcsec per pixel.
        length: Arcsec.
    """
    # A field is periodic: a margin keeps opposite edges apart.
    wide = side + math.ceil(2.5 * length / scale)
    device = parameters[WORDS[0]].device
    k = wave_numbers(wide, torch.tensor([scale], dtype=torch.float64, device=device))
    spectrum = torch.exp(-((k * length) ** 2) / 4)
    return gaussian_field(parameters, spectrum, wide)[:, :side, :side]


def _profile(dx: Tensor, dy: Tensor, e1: Tensor, e2: Tensor, parameters: Tensors) -> Tensor:
    """Returns the brightness of galaxy and disc together for a total flux of 1."""
    nowhere = torch.zeros_like(e1)
    R, n, share = (parameters[name] for name in ("R_sersic", "n_sersic", "disc_share"))
    disc_R, one = parameters["disc_R"], torch.ones_like(n)
    total: Tensor | float = 0.0
    for part, size, index in ((1 - share, R, n), (share, disc_R, one)):
        amp, size_, index_ = (column(v) for v in (part * unit_amp(size, index), size, index))
        total = total + sersic_ellipse(dx, dy, amp, size_, index_, e1, e2, nowhere, nowhere)
    assert isinstance(total, Tensor)
    return total
