"""Generated spiral galaxies: a disc with logarithmic arms, and a bulge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from haloformer.simulation.components.component import (
    Draws,
    LightComponent,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.sersic import unit_amp
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import LogNormal, Quantity, Uniform, check_not_negative
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_b
from haloformer.validation import WholeNumber, checked

_SIZE = LogNormal(0.1, 0.2, 0.05, 0.15)
_INNER = 0.4  # half-light radii within which the arms fade
_STEEPEST = (0.05, 1.2)  # pitch angles in radian
PICTURE_SIDE, _REACH = (
    601,
    8.0,
)  # of lenstronomy's picture: pixels per side, and half its side in half-light radii


@checked
@dataclass(frozen=True)
class Spiral(LightComponent):
    """An exponential disc whose light gathers in logarithmic arms, with a Sérsic bulge. Each number may be a distribution.

    On each circle in the plane of the disc the light is that of the disc alone: the arms are a von Mises distribution of the angle, so that
    no flux has to be computed. There is no dust and there are no clumps: it stands in for pictures of spirals, and is none.

    Attributes:
        kind: Its name in YAML.
        R: Half-light radius of the disc in arcsec, along the product-average axis. Within 3 R lie 96 % of its light.
        q: Axis ratio.
        angle: Of the major axis, in radian.
        arms: How many arms.
        pitch: Angle between arms and circles, in radian; half of the galaxies turn the other way.
        contrast: How narrow the arms are, from 0, no arms.
        bulge_share: Share of the light that is in the bulge.
        bulge_R: Half-light radius of the bulge in those of the disc.
        bulge_n: Sérsic index of the bulge.
    """

    kind: Literal["spiral"] = field(default="spiral", kw_only=True)
    R: Quantity = _SIZE
    q: Quantity = Uniform(0.5, 1.0)
    angle: Quantity = Uniform(0.0, math.pi)
    arms: Annotated[WholeNumber, Field(ge=1, le=6)] = 2
    pitch: Quantity = Uniform(0.2, 0.5)
    contrast: Quantity = Uniform(0.8, 2.5)
    bulge_share: Quantity = Uniform(0.05, 0.3)
    bulge_R: Quantity = Uniform(0.15, 0.35)
    bulge_n: Quantity = 2.0

    UNITS: ClassVar[Mapping[str, str]] = {
        "R": "arcsec",
        "q": "",
        "angle": "radian",
        "arms": "",
        "pitch": "radian",
        "phase": "radian",
        "contrast": "",
        "bulge_share": "",
        "bulge_R": "arcsec",
        "bulge_n": "",
    }

    def __post_init__(self) -> None:
        for name in ("R", "bulge_R", "bulge_n"):
            check_not_negative(name, getattr(self, name), zero=False)
        for name in ("q", "pitch"):
            check_not_negative(name, getattr(self, name), zero=False, clipped=True)
        for name in ("contrast", "bulge_share"):
            check_not_negative(name, getattr(self, name))

    def draw(self, draws: Draws, setting: Setting) -> dict[str, np.ndarray]:
        """Draws the parameters; ``pitch`` is negative where the arms turn the other way."""
        R = draws.draw(self.R, "R")
        other = np.where(draws.uniform("turn") < 0.5, -1.0, 1.0)
        return {
            "R": R,
            "q": np.clip(draws.draw(self.q, "q"), 0.1, 1.0),
            "angle": draws.draw(self.angle, "angle"),
            "arms": np.full(len(draws), float(self.arms)),
            "pitch": other * np.clip(draws.draw(self.pitch, "pitch"), *_STEEPEST),
            "phase": 2 * np.pi * draws.uniform("phase"),
            "contrast": np.clip(draws.draw(self.contrast, "contrast"), 0.0, 20.0),
            "bulge_share": np.clip(draws.draw(self.bulge_share, "bulge_share"), 0.0, 1.0),
            "bulge_R": R * draws.draw(self.bulge_R, "bulge_R"),
            "bulge_n": np.clip(draws.draw(self.bulge_n, "bulge_n"), 0.5, 6.0),
        }

    def brightness(self, x: Tensor, y: Tensor, parameters: Tensors) -> Tensor:
        """Disc and bulge, the disc times exp(κ cos(m(φ − ln(r/R)/tan p) − φ_0)) / I_0(κ), with κ falling to 0 in the centre."""
        R, angle = parameters["R"], parameters["angle"].double()
        cos, sin = (column(f(angle).to(R.dtype)) for f in (torch.cos, torch.sin))
        root = torch.sqrt(column(parameters["q"]))
        along, across = (cos * x + sin * y) * root, (cos * y - sin * x) / root
        r = torch.hypot(along, across)
        one, share = torch.ones_like(R), parameters["bulge_share"]
        disc = column(1 - share) * _sersic(r, R, one)
        bulge = column(share) * _sersic(r, parameters["bulge_R"], parameters["bulge_n"])
        scaled = (r / column(R)).clamp(min=1e-3)
        contrast = column(parameters["contrast"]) * -torch.expm1(-((scaled / _INNER) ** 2))
        turn = torch.atan2(across, along) - torch.log(scaled) / torch.tan(
            column(parameters["pitch"])
        )
        wave = torch.cos(column(parameters["arms"]) * turn - column(parameters["phase"]))
        arms = torch.exp(contrast * (wave - 1)) / torch.special.i0e(contrast)
        total: Tensor = disc * arms + bulge
        return total

    def lenstronomy(self, parameters: Mapping[str, Any]) -> list[Profile]:
        """``INTERPOL`` of a fine picture, which is bilinear; lenstronomy has no such profile."""
        half = _REACH * float(parameters["R"])
        axis = torch.linspace(-half, half, PICTURE_SIDE, dtype=torch.float64)
        one = {name: torch.tensor([float(value)]).double() for name, value in parameters.items()}
        image = self.brightness(axis[None, None, :], axis[None, :, None], one)[0].numpy()
        centre = {"center_x": 0, "center_y": 0, "phi_G": 0}
        scale = 2 * half / (PICTURE_SIDE - 1)
        return [("INTERPOL", {"image": image, "amp": 1, "scale": scale, **centre})]


def _sersic(r: Tensor, R: Tensor, n: Tensor) -> Tensor:
    """Returns a round Sérsic profile of flux 1 at radii (B, H, W)."""
    b = sersic_b(n)
    power = (r.clamp(min=SERSIC_R_MIN) / column(R)) ** column(1 / n)
    return column(unit_amp(R, n)) * torch.exp(-column(b) * (power - 1))
