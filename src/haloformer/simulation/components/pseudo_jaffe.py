"""A single perturber with a pseudo-Jaffe profile, as detections of subhalos are usually reported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.components.component import (
    Draws,
    MassComponent,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.populations import (
    CENTER_UNITS,
    centers,
    check_smaller,
    limits,
    mass_by_gauss,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import Quantity, check_not_negative
from haloformer.validation import checked


@checked
@dataclass(frozen=True)
class PseudoJaffe(MassComponent):
    """A density ρ ∝ 1/((1 + r²/r_core²) (1 + r²/r_trunc²)): isothermal between the two radii. Each number may be a distribution.

    Attributes:
        kind: Its name in YAML.
        mass: Total mass in M_sun.
        r_core: Core radius in arcsec.
        r_trunc: Truncation radius in arcsec, above ``r_core``.
        x: Centre in arcsec, relative to the lens.
        y: Centre in arcsec, relative to the lens.
    """

    kind: Literal["pseudo_jaffe"] = field(default="pseudo_jaffe", kw_only=True)
    mass: Quantity = 1e9
    r_core: Quantity = 1e-3
    r_trunc: Quantity = 0.1
    x: Quantity = 0.0
    y: Quantity = 0.0

    ARE_SUBHALOS: ClassVar[bool] = True
    UNITS: ClassVar[Mapping[str, str]] = {
        "mass": "M_sun",
        "theta_E": "arcsec",
        "r_core": "arcsec",
        "r_trunc": "arcsec",
        "x": "arcsec",
        "y": "arcsec",
        **CENTER_UNITS,
    }

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass)
        check_not_negative("r_core", self.r_core, zero=False)
        check_not_negative("r_trunc", self.r_trunc, zero=False)
        check_smaller("r_core", limits(self.r_core)[1], "r_trunc", limits(self.r_trunc)[0])

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the parameters; ``theta_E`` is the Einstein radius of a point of the same mass."""
        center = centers(draws, lens)
        mass = draws.draw(self.mass, "mass")
        return {
            "mass": mass,
            "theta_E": setting.theta_E(mass),
            "r_core": draws.draw(self.r_core, "r_core"),
            "r_trunc": draws.draw(self.r_trunc, "r_trunc"),
            "x": center["center_x"] + draws.draw(self.x, "x"),
            "y": center["center_y"] + draws.draw(self.y, "y"),
            **center,
        }

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """Elíasdóttir et al. (2007, arXiv:0710.5636), eqs. A19 and A20, normalised by the total mass."""
        theta_E, core, trunc = (column(parameters[k]) for k in ("theta_E", "r_core", "r_trunc"))
        dx = (x - column(parameters["x"])).to(theta_E.dtype)
        dy = (y - column(parameters["y"])).to(theta_E.dtype)
        square = dx**2 + dy**2
        inner = 1 / (core + torch.sqrt(core**2 + square))
        outer = 1 / (trunc + torch.sqrt(trunc**2 + square))
        share = theta_E**2 / (trunc - core) * (inner - outer)
        return share * dx, share * dy

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``PJAFFE``."""
        core, trunc = parameters["r_core"], parameters["r_trunc"]
        keywords = {
            "sigma0": parameters["theta_E"] ** 2 / (2 * core * trunc),
            "Ra": core,
            "Rs": trunc,
            "center_x": parameters["x"],
            "center_y": parameters["y"],
        }
        return [("PJAFFE", keywords)]

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """By Gauss's theorem."""
        return mass_by_gauss(PseudoJaffe.deflection, radius, parameters, setting)
