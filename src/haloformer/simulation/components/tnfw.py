"""Truncated NFW halos: the subhalos of cold, warm or fuzzy dark matter, drawn from a mass function."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import stats
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components import halos
from haloformer.simulation.components.component import (
    Draws,
    MassComponent,
    OnGrid,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.line_of_sight import (
    LARGEST_SCALE,
    LARGEST_SIGMA,
    line_of_sight_Sigma,
)
from haloformer.simulation.components.populations import (
    CENTER_UNITS,
    centers,
    check_smaller,
    in_use,
    largest_count,
    limits,
    mass_by_gauss,
    poisson_counts,
    profiles_of,
    sum_over_members,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import (
    LogNormal,
    LogUniform,
    Normal,
    PowerLaw,
    Quantity,
    check_log10,
    check_log10_m_axion,
    check_members,
    check_not_negative,
    draw,
)
from haloformer.simulation.noise import has_numba
from haloformer.validation import Number, WholeNumber, checked

LEAST_TAU = 0.1
"""Truncation radius in scale radii, at least: what a wide distribution gives below is set to it."""

_PER_HALO = ("mass", "concentration", "Rs", "alpha_Rs", "r_trunc", "x", "y")
_HARMLESS = {"alpha_Rs": 0.0, "Rs": 1.0, "r_trunc": 1.0, "x": 0.0, "y": 0.0}


@checked
@dataclass(frozen=True)
class TNFW(MassComponent):
    """Subhalos of d²N/(dM dA) = Σ_sub/10⁸ (M/10⁸)^slope, uniform in a disc about the lens, their number from a Poisson distribution.

    The mass function is that of Gilman et al. (2020, arXiv:1908.06983) with its pivot at 10⁸ M_sun; Σ_sub = 0.025 kpc⁻² is what
    simulations of cold dark matter have. Below 10⁷ M_sun nothing is seen in images, and halos below 10⁸ add 1 % to what is.

    Attributes:
        kind: Its name in YAML.
        Sigma_sub: Normalisation in 1/kpc².
        slope: Of the mass function, dN/dM; from -5 to below 0.
        mass_low: Least M_200 in M_sun.
        mass_high: Largest M_200 in M_sun.
        disc_radius: In arcsec; at least 2 θ_E + 1 covers what is seen.
        concentration_factor: Multiplies the median concentration of Diemer & Joyce (2019); one value for all halos of an image.
        concentration_scatter: Scatter of each halo's concentration in dex.
        tau: Each halo's truncation radius in scale radii.
        line_of_sight: Halos outside the lens plane, as if they were in it: 1 adds half of those that are expected, since they deflect less.
        log10_m_hm: log10 of the half-mode mass in M_sun of warm dark matter, which has fewer halos of lower concentration.
        log10_m_axion: log10 of the axion mass in eV of fuzzy dark matter, the same.
        mean_sheet: Whether to subtract the mean convergence of such halos, so that they do not make rings larger.
        n_max: Columns of the arrays of halos; by default as many as no image exceeds.
    """

    kind: Literal["tnfw"] = field(default="tnfw", kw_only=True)
    Sigma_sub: Quantity = 0.025
    slope: Number = -1.9
    mass_low: Annotated[Number, Field(gt=0)] = 1e8
    mass_high: Annotated[Number, Field(gt=0)] = 1e10
    disc_radius: Annotated[Number, Field(gt=0)] = 3.0
    concentration_factor: Quantity = 1.0
    concentration_scatter: Annotated[Number, Field(ge=0)] = 0.16
    tau: Quantity = LogNormal(6.0, 0.576, 1.0, 30.0)
    line_of_sight: Annotated[Number, Field(ge=0)] = 0.0
    log10_m_hm: Quantity | None = None
    log10_m_axion: Quantity | None = None
    mean_sheet: bool = False
    n_max: Annotated[WholeNumber, Field(ge=1)] | None = None

    IN_LENS: ClassVar[bool] = False
    ARE_SUBHALOS: ClassVar[bool] = True
    UNITS: ClassVar[Mapping[str, str]] = {
        "Sigma_sub": "1/kpc^2",
        "log10_m_hm": "log10(M_sun)",
        "log10_m_axion": "log10(eV)",
        "mass": "M_sun",
        "concentration": "",
        "Rs": "arcsec",
        "alpha_Rs": "arcsec",
        "r_trunc": "arcsec",
        "x": "arcsec",
        "y": "arcsec",
        "sheet": "",
        **CENTER_UNITS,
    }

    def __post_init__(self) -> None:
        check_not_negative("Sigma_sub", self.Sigma_sub, clipped=True)
        check_not_negative("concentration_factor", self.concentration_factor, zero=False)
        check_not_negative("tau", self.tau, zero=False, clipped=True)
        check_smaller("mass_low", self.mass_low, "mass_high", self.mass_high)
        if not -5 <= self.slope < 0:
            raise InputError(
                f"slope must be below 0, and -5 or more, not {self.slope:g}: dN/dM falls with M"
            )
        check_log10("log10_m_hm", self.log10_m_hm, 0, 20)
        check_log10_m_axion(self.log10_m_axion)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the halos; ``sheet`` is the convergence that is subtracted."""
        named = {
            "Sigma_sub": np.maximum(draws.draw(self.Sigma_sub, "Sigma_sub"), 0.0),
            "log10_m_hm": self._or_nan(draws, "log10_m_hm"),
            "log10_m_axion": self._or_nan(draws, "log10_m_axion"),
            **centers(draws, lens),
        }
        factor = draws.draw(self.concentration_factor, "concentration_factor")
        density = self._number_density(named["Sigma_sub"], setting)
        drawn = self._halos(draws, setting, named, density, factor)
        sheet = np.zeros(len(draws))
        if self.mean_sheet:
            bound = self._mean_bound_mass(setting, named, factor)
            sheet = density * bound * setting.kpc_per_arcsec**2 / setting.sigma_crit
        return {**named, **drawn, "sheet": sheet}

    def most(self) -> int:
        """Returns the number of columns of the arrays of halos: a number that an image exceeds with a probability below 10⁻⁹."""
        if self.n_max is not None:
            return self.n_max
        Sigma = limits(self.Sigma_sub)[1] + 0.5 * self.line_of_sight * LARGEST_SIGMA
        area = np.pi * (self.disc_radius * LARGEST_SCALE) ** 2
        return largest_count(Sigma * self._number_per_Sigma() * area)

    def _masses(self) -> PowerLaw | LogUniform:
        if self.slope == -1:
            return LogUniform(self.mass_low, self.mass_high)
        return PowerLaw(self.mass_low, self.mass_high, self.slope)

    def _number_per_Sigma(self) -> float:
        low, high = self.mass_low / halos.PIVOT, self.mass_high / halos.PIVOT
        p = self.slope + 1
        return float(np.log(high / low) if p == 0 else (high**p - low**p) / p)

    def _number_density(self, Sigma_sub: np.ndarray, setting: Setting) -> np.ndarray:
        """Halos per kpc² before suppression, (B,)."""
        Sigma = Sigma_sub
        if self.line_of_sight:
            Sigma = Sigma + 0.5 * self.line_of_sight * line_of_sight_Sigma(setting)
        return Sigma * self._number_per_Sigma()

    def _or_nan(self, draws: Draws, name: str) -> np.ndarray:
        quantity = getattr(self, name)
        return np.full(len(draws), np.nan) if quantity is None else draws.shared(quantity, name)

    def _halos(
        self,
        draws: Draws,
        setting: Setting,
        named: Mapping[str, np.ndarray],
        density: np.ndarray,
        factor: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Draws halos, those that are there in the first columns, NaN in the others."""
        most = self.most()
        mean = density * np.pi * (self.disc_radius * setting.kpc_per_arcsec) ** 2
        if (stats.poisson.sf(most, mean) > 1e-6).any():
            raise InputError(
                f"tnfw: some {mean.max():.0f} halos are expected; n_max must be at least {largest_count(mean.max())}, not {most}"
            )
        check_members(len(draws), most, "tnfw")
        counts = np.minimum(poisson_counts(draws.uniform("number"), mean), most)
        n = max(1, int(counts.max()))
        mass = draws.draw(self._masses(), "mass", n)
        survival, slimness = self._suppression(mass, named)
        there = (np.arange(n) < counts[:, None]) & (draws.uniform("survival", n) < survival)
        scatter = 10 ** (self.concentration_scatter * draws.normal("concentration", n))
        median = halos.median_concentration(mass, setting.z_lens[:, None])
        concentration = np.maximum(median * slimness * factor[:, None] * scatter, 1.0)
        Rs, alpha_Rs = halos.lensing_scales(mass, concentration, setting)
        tau = np.maximum(draws.draw(self.tau, "tau", n), LEAST_TAU)
        distance = self.disc_radius * np.sqrt(draws.uniform("radius", n))
        angle = 2 * np.pi * draws.uniform("angle", n)
        x = named["center_x"][:, None] + distance * np.cos(angle)
        y = named["center_y"][:, None] + distance * np.sin(angle)
        first = np.argsort(~there, axis=1, kind="stable")
        padded = {}
        for name, values in zip(_PER_HALO, (mass, concentration, Rs, alpha_Rs, tau * Rs, x, y)):
            kept = np.take_along_axis(np.where(there, values, np.nan), first, axis=1)[:, :most]
            padded[name] = np.full((len(draws), most), np.nan)
            padded[name][:, : kept.shape[1]] = kept
        return padded

    def _suppression(
        self, mass: np.ndarray, named: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The shares of halos of these masses (B, …) that survive, and of their concentrations."""
        axes = (slice(None), *(None for _ in range(mass.ndim - 1)))
        survival, slimness = np.ones_like(mass), np.ones_like(mass)
        if self.log10_m_hm is not None:
            cut = named["log10_m_hm"][axes]
            survival = survival * halos.warm_survival(mass, cut)
            slimness = slimness * halos.warm_concentration(mass, cut)
        if self.log10_m_axion is not None:
            cut = named["log10_m_axion"][axes]
            survival = survival * halos.fuzzy_survival(mass, cut)
            slimness = slimness * halos.fuzzy_concentration(mass, cut)
        return survival, slimness

    def _mean_bound_mass(
        self, setting: Setting, named: Mapping[str, np.ndarray], factor: np.ndarray
    ) -> np.ndarray:
        """The mean mass in M_sun of a halo that is drawn, (B,); one that does not survive counts as 0."""
        some, few = (np.arange(64) + 0.5) / 64, (np.arange(8) + 0.5) / 8
        mass = np.geomspace(self.mass_low, self.mass_high, 65)
        mass = np.sqrt(mass[1:] * mass[:-1])[None, :, None, None]
        weight = mass ** (self.slope + 1)
        weight = weight / weight.sum()
        mass = np.broadcast_to(mass, (len(setting), len(some), 1, 1))
        survival, slimness = self._suppression(mass, named)
        scatter = 10 ** Normal(0.0, self.concentration_scatter).quantile(few)[:, None]
        median = halos.median_concentration(mass, setting.z_lens[:, None, None, None])
        factor = factor[:, None, None, None]
        concentration = np.maximum(median * slimness * factor * scatter, 1.0)
        tau = np.maximum(draw(self.tau, lambda: few, few.shape), LEAST_TAU)
        bound = halos.bound_share(concentration, tau).mean((2, 3), keepdims=True)
        mean: np.ndarray = (weight * survival * mass * bound).sum((1, 2, 3))
        return mean

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """Baltz, Marshall & Oguri (2009, arXiv:0705.0682), less the sheet."""
        members = in_use(parameters, "Rs", _HARMLESS)
        alpha_x, alpha_y = sum_over_members(x, y, members, halos.halo_deflection)
        sheet = column(parameters["sheet"])
        dx = (x - column(parameters["center_x"])).to(sheet.dtype)
        dy = (y - column(parameters["center_y"])).to(sheet.dtype)
        return alpha_x - sheet * dx, alpha_y - sheet * dy

    def at_points(self, x: Tensor, y: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """The compiled sum, where numba is, on a CPU."""
        if not has_numba() or x.device.type != "cpu":
            return super().at_points(x, y, parameters)
        from haloformer.simulation.components.kernels import halos_at_points

        shape = (len(parameters["sheet"]), *x.shape[1:])
        flat_x, flat_y = (each.expand(shape).flatten(1).numpy() for each in (x, y))
        alpha_x, alpha_y = halos_at_points(flat_x, flat_y, parameters)
        return torch.from_numpy(alpha_x).reshape(shape), torch.from_numpy(alpha_y).reshape(shape)

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> OnGrid:
        """The compiled sum."""
        from haloformer.simulation.components.kernels import halos_on_grid

        return halos_on_grid(axis, axis, parameters)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``TNFW``, one for each, and ``CONVERGENCE`` for the sheet."""
        names = {name: name for name in ("Rs", "alpha_Rs", "r_trunc")}
        names |= {"center_x": "x", "center_y": "y"}
        each = profiles_of("TNFW", names, parameters, "Rs")
        sheet = {
            "kappa": -parameters["sheet"],
            "ra_0": parameters["center_x"],
            "dec_0": parameters["center_y"],
        }
        return [*each, ("CONVERGENCE", sheet)]

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """By Gauss's theorem."""
        return mass_by_gauss(TNFW.deflection, radius, parameters, setting)
