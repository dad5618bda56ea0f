"""NFW halos: a fixed number of subhalos without truncation, or a single perturber."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from haloformer.simulation.components.component import (
    Draws,
    MassComponent,
    Parameters,
    Profile,
    Tensors,
)
from haloformer.simulation.components.halos import (
    halo_deflection,
    lensing_scales,
    median_concentration,
)
from haloformer.simulation.components.point_masses import placed
from haloformer.simulation.components.populations import (
    CENTER_UNITS,
    centers,
    in_use,
    mass_by_gauss,
    profiles_of,
    sum_over_members,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import PowerLaw, Quantity, Uniform, check_not_negative
from haloformer.validation import Number, WholeNumber, checked

_HARMLESS = {"alpha_Rs": 0.0, "Rs": 1.0, "x": 0.0, "y": 0.0}


@checked
@dataclass(frozen=True)
class NFW(MassComponent):
    """A fixed number of NFW halos around the lens, in its plane.

    Attributes:
        kind: Its name in YAML.
        number: How many; the same in every image.
        mass: M_200 of each in M_sun.
        radius: Distance of each from the lens's centre in arcsec; the angle is uniform.
        concentration_factor: Multiplies the median concentration of Diemer & Joyce (2019); one value for all halos of an image.
        concentration_scatter: Scatter of each halo's concentration in dex.
    """

    kind: Literal["nfw"] = field(default="nfw", kw_only=True)
    number: Annotated[WholeNumber, Field(ge=0)] = 25
    mass: Quantity = PowerLaw(1e8, 1e10, -1.9)
    radius: Quantity = Uniform(0.25, 2.0)
    concentration_factor: Quantity = 1.0
    concentration_scatter: Annotated[Number, Field(ge=0)] = 0.16

    ARE_SUBHALOS: ClassVar[bool] = True
    UNITS: ClassVar[Mapping[str, str]] = {
        "mass": "M_sun",
        "concentration": "",
        "Rs": "arcsec",
        "alpha_Rs": "arcsec",
        "x": "arcsec",
        "y": "arcsec",
        **CENTER_UNITS,
    }

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass, zero=False)
        check_not_negative("radius", self.radius)
        check_not_negative("concentration_factor", self.concentration_factor, zero=False)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws masses, concentrations and places."""
        center = centers(draws, lens)
        mass = draws.draw(self.mass, "mass", self.number)
        factor = draws.draw(self.concentration_factor, "concentration_factor")[:, None]
        scatter = 10 ** (self.concentration_scatter * draws.normal("concentration", self.number))
        median = median_concentration(mass, setting.z_lens[:, None])
        concentration = np.maximum(median * factor * scatter, 1.0)
        Rs, alpha_Rs = lensing_scales(mass, concentration, setting)
        x, y = placed(draws, self.radius, self.number, center)
        named = {"mass": mass, "concentration": concentration, "Rs": Rs, "alpha_Rs": alpha_Rs}
        return {**named, "x": x, "y": y, **center}

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """Bartelmann (1996, arXiv:astro-ph/9602053)."""
        alpha_x, alpha_y = sum_over_members(
            x, y, in_use(parameters, "Rs", _HARMLESS), halo_deflection
        )
        return alpha_x, alpha_y

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``NFW``, one for each."""
        names = {"Rs": "Rs", "alpha_Rs": "alpha_Rs", "center_x": "x", "center_y": "y"}
        return profiles_of("NFW", names, parameters, "Rs")

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """By Gauss's theorem."""
        return mass_by_gauss(NFW.deflection, radius, parameters, setting)
