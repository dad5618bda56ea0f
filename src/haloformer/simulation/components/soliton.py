"""Soliton cores: the ground state of an ultralight axion field in the middle of each halo."""

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
    MassComponent,
    Parameters,
    Profile,
    Tensors,
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
from haloformer.simulation.distributions import (
    PowerLaw,
    Quantity,
    Uniform,
    check_log10_m_axion,
    check_not_negative,
)
from haloformer.validation import WholeNumber, checked

_HARMLESS = {"kappa_0": 0.0, "theta_c": 1.0, "x": 0.0, "y": 0.0}
_STEEP = 2 ** (1 / 8) - 1  # the density is half of the centre's at the core radius
_DENSITY = 1.9e9  # M_sun/kpc³ of a core of 1 kpc, for an axion of 10⁻²³ eV


@checked
@dataclass(frozen=True)
class Soliton(MassComponent):
    """The cores of a fixed number of halos around the lens, in its plane; the halos around them are not part of it.

    Attributes:
        kind: Its name in YAML.
        number: How many; the same in every image.
        mass: Mass in M_sun of each halo, which decides its core.
        log10_m_axion: log10 of the particle's mass in eV.
        radius: Distance of each from the lens's centre in arcsec; the angle is uniform.
    """

    kind: Literal["soliton"] = field(default="soliton", kw_only=True)
    number: Annotated[WholeNumber, Field(ge=0)] = 10
    mass: Quantity = PowerLaw(1e8, 1e10, -1.9)
    log10_m_axion: Quantity = Uniform(-24.0, -21.5)
    radius: Quantity = Uniform(0.25, 2.0)

    UNITS: ClassVar[Mapping[str, str]] = {
        "log10_m_axion": "log10(eV)",
        "mass": "M_sun",
        "kappa_0": "",
        "theta_c": "arcsec",
        "x": "arcsec",
        "y": "arcsec",
        **CENTER_UNITS,
    }

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass, zero=False)
        check_not_negative("radius", self.radius)
        check_log10_m_axion(self.log10_m_axion)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws halos and places; ``kappa_0`` is the convergence in the middle of a core, ``theta_c`` its core radius."""
        center = centers(draws, lens)
        mass = draws.draw(self.mass, "mass", self.number)
        log10_m = draws.shared(self.log10_m_axion, "log10_m_axion")
        kpc = core_radius(mass, log10_m[:, None], setting)
        # ∫ρ dℓ through the middle of ρ₀ (1 + a (r/r_c)²)⁻⁸
        along = math.sqrt(math.pi / _STEEP) * math.gamma(7.5) / math.gamma(8)
        surface = along * core_density(kpc, log10_m[:, None]) * kpc
        per_arcsec = setting.kpc_per_arcsec[:, None]
        x, y = placed(draws, self.radius, self.number, center)
        return {
            "log10_m_axion": log10_m,
            "mass": mass,
            "kappa_0": surface * per_arcsec**2 / setting.sigma_crit[:, None],
            "theta_c": kpc / per_arcsec,
            "x": x,
            "y": y,
            **center,
        }

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """Of the projected profile κ₀ (1 + a (R/θ_c)²)^(−15/2), whose mass within R is elementary."""
        alpha_x, alpha_y = sum_over_members(
            x, y, in_use(parameters, "theta_c", _HARMLESS), _deflection
        )
        return alpha_x, alpha_y

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``ULDM``, one for each."""
        names = {"kappa_0": "kappa_0", "theta_c": "theta_c", "center_x": "x", "center_y": "y"}
        return profiles_of("ULDM", names, parameters, "theta_c")

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """By Gauss's theorem."""
        return mass_by_gauss(Soliton.deflection, radius, parameters, setting)


def _deflection(dx: Tensor, dy: Tensor, values: Tensors) -> tuple[Tensor, Tensor]:
    """α = 2κ₀/13 · (1 − (1 + s)^(−13/2))/s · (x, y), with s = a (R/θ_c)²."""
    s = _STEEP * (dx**2 + dy**2) / values["theta_c"] ** 2
    power = torch.expm1(-6.5 * torch.log1p(s))
    small = s < 1e-6
    share = torch.where(small, 6.5 - 24.375 * s, -power / torch.where(small, 1.0, s))
    alpha = values["kappa_0"] * 2 / 13 * share
    return alpha * dx, alpha * dy


def core_radius(mass: np.ndarray, log10_m_axion: np.ndarray, setting: Setting) -> np.ndarray:
    """Returns the proper core radii r_c (B, n) in kpc of halos at the lens (Schive et al. 2014, arXiv:1407.7762, eq. 7).

    Args:
        mass: (B, n) of the halos in M_sun.
        log10_m_axion: (B, 1) log10 of the particle's mass in eV.
        setting: Gives the redshifts.
    """
    z = setting.z_lens[:, None]
    grown = (_overdensity(z, setting) / _overdensity(np.zeros(1), setting)) ** (-1 / 6)
    radius: np.ndarray = (
        1.6 * 10 ** (-22 - log10_m_axion) * (1 + z) ** -0.5 * grown * (mass / 1e9) ** (-1 / 3)
    )
    return radius


def core_density(radius: np.ndarray, log10_m_axion: np.ndarray) -> np.ndarray:
    """Returns the proper density in M_sun/kpc³ in the middle of cores of these radii in kpc (Schive et al. 2014, arXiv:1406.6586, eq. 3).

    The equation is for comoving lengths and densities; in proper ones no scale factor is left.
    """
    density: np.ndarray = _DENSITY * 10 ** (-46 - 2 * log10_m_axion) * radius**-4.0
    return density


def _overdensity(z: np.ndarray, setting: Setting) -> np.ndarray:
    """Returns ζ, the mean density of a virialised halo in units of that of matter (Bryan & Norman 1998, arXiv:astro-ph/9710107)."""
    matter = setting.cosmology.Om0 * (1 + z) ** 3
    omega = matter / (matter + 1 - setting.cosmology.Om0)
    virial: np.ndarray = (18 * math.pi**2 + 82 * (omega - 1) - 39 * (omega - 1) ** 2) / omega
    return virial
