"""Granules: the interference pattern of ultralight dark matter in the lens's own halo."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from haloformer.errors import InputError
from haloformer.simulation.components import halos
from haloformer.simulation.components.component import (
    Draws,
    MassComponent,
    OnGrid,
    Parameters,
    Profile,
    Tensors,
    as_tensors,
    column,
)
from haloformer.simulation.components.populations import (
    CENTER_UNITS,
    centers,
    limits,
    mass_by_gauss,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import (
    Quantity,
    Uniform,
    check_log10_m_axion,
    check_not_negative,
)
from haloformer.simulation.fields import WORDS, draw_words, white_noise
from haloformer.validation import Number, WholeNumber, checked

_DRAWN = (
    "fraction",
    "granule_amplitude",
    "velocity_dispersion",
    "host_mass",
    "host_concentration",
)
_PER_KPC = 0.0959  # kpc: ħ/(m σ) at m = 10⁻²² eV and σ = 200 km/s

_kept: tuple[bytes, Tensor] | None = None
"""The last batch's parameters and field: a survey needs it for what the lens gives up, and then for the image."""


@checked
@dataclass(frozen=True)
class Granules(MassComponent):
    """Density fluctuations of a wave, projected along the line of sight: a Gaussian random field of convergence.

    With an isotropic velocity dispersion σ the field's correlation is exp(−θ²/θ_λ²), θ_λ = ħ/(m σ D_l), and its variance
    σ_κ² = √π λ ∫ρ² dℓ / Σ_crit² at the Einstein radius of the lens. Further in it is larger, as the host's density is. Below a mass of
    some 10⁻²³·⁵ eV there are few granules along a line of sight, and the field is not Gaussian any more.

    Attributes:
        kind: Its name in YAML.
        log10_m_axion: log10 of the particle's mass in eV.
        fraction: Share of the dark matter that it makes up.
        granule_amplitude: Multiplies the fluctuations: 1 as derived, 2.5 as some authors have them.
        velocity_dispersion: One-dimensional, in km/s.
        host_mass: M_200 of the host's NFW halo in M_sun.
        host_concentration: Of the host's halo.
        slope: The fluctuations go as R^slope about the lens; 0 is the same everywhere.
        width: Side of the field in arcsec, which repeats itself beyond.
        pixels: Along the side of the field. Where they are larger than θ_λ/2 the convergence is not resolved, but the deflection nearly is,
            since fine structure deflects little: with the defaults it is weaker by 4 % at 10⁻²³ eV and by 8 % at 10⁻²² eV.
    """

    kind: Literal["granules"] = field(default="granules", kw_only=True)
    log10_m_axion: Quantity = Uniform(-24.0, -21.5)
    fraction: Quantity = 1.0
    granule_amplitude: Quantity = 1.0
    velocity_dispersion: Quantity = 250.0
    host_mass: Quantity = 1e13
    host_concentration: Quantity = 5.5
    slope: Number = -0.5
    width: Annotated[Number, Field(gt=0)] = 10.0
    pixels: Annotated[WholeNumber, Field(ge=16, le=2048)] = 256

    UNITS: ClassVar[Mapping[str, str]] = {
        "log10_m_axion": "log10(eV)",
        "fraction": "",
        "sigma_kappa": "",
        "correlation": "arcsec",
        "slope": "",
        "theta_E": "arcsec",
        "width": "arcsec",
        "pixels": "",
        **dict.fromkeys(WORDS, ""),
        **CENTER_UNITS,
    }

    def __post_init__(self) -> None:
        for name in ("velocity_dispersion", "host_mass", "host_concentration"):
            check_not_negative(name, getattr(self, name), zero=False)
        check_log10_m_axion(self.log10_m_axion)
        check_not_negative("granule_amplitude", self.granule_amplitude)
        check_not_negative("fraction", self.fraction)
        if limits(self.fraction)[1] > 1:
            raise InputError(f"fraction must be at most 1, not {limits(self.fraction)[1]:g}")

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the parameters, and the words that stand for the field."""
        drawn = {name: draws.draw(getattr(self, name), name) for name in _DRAWN}
        drawn["log10_m_axion"] = draws.shared(self.log10_m_axion, "log10_m_axion")
        count = len(draws)
        theta_E = lens.get("theta_E", np.ones(count))
        wavelength = reduced_wavelength(drawn["log10_m_axion"], drawn["velocity_dispersion"])
        squared = host_density_squared(
            theta_E * setting.kpc_per_arcsec,
            drawn["host_mass"],
            drawn["host_concentration"],
            setting,
        )
        critical = setting.sigma_crit / setting.kpc_per_arcsec**2  # M_sun/kpc²
        sigma_kappa = np.sqrt(math.sqrt(math.pi) * wavelength * squared) / critical
        return {
            "log10_m_axion": drawn["log10_m_axion"],
            "fraction": drawn["fraction"],
            "sigma_kappa": drawn["fraction"] * drawn["granule_amplitude"] * sigma_kappa,
            "correlation": wavelength / setting.kpc_per_arcsec,
            "slope": np.full(count, self.slope),
            "theta_E": theta_E,
            "width": np.full(count, self.width),
            "pixels": np.full(count, float(self.pixels)),
            **draw_words(draws),
            **centers(draws, lens),
        }

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """The gradient of the potential of :func:`convergence`, interpolated between the field's pixels."""
        shape = (len(parameters["pixels"]), *x.shape[1:])
        x, y = x.expand(shape), y.expand(shape)
        alpha = torch.zeros((2, *shape), dtype=parameters["sigma_kappa"].dtype, device=x.device)
        for pixels in torch.unique(parameters["pixels"]).tolist():
            rows = torch.nonzero(parameters["pixels"] == pixels).flatten()
            some = {name: values[rows] for name, values in parameters.items()}
            found = _interpolated(x[rows], y[rows], deflection_field(some, int(pixels)), some)
            alpha = alpha.index_copy(1, rows, found)
        return alpha[0], alpha[1]

    def at_points(self, x: Tensor, y: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """The same, with a field that is made once for what is drawn and what is rendered."""
        pixels = int(parameters["pixels"][0])
        if (parameters["pixels"] != pixels).any():
            return super().at_points(x, y, parameters)
        field = _kept_field(parameters, pixels, x.device)
        found = _interpolated(x, y, field, as_tensors(parameters, device=x.device))
        return found[0], found[1]

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> OnGrid:
        """The compiled interpolation of fields of one size."""
        pixels = int(parameters["pixels"][0])
        if (parameters["pixels"] != pixels).any():
            return super().on_grid(axis, parameters)
        from haloformer.simulation.components import grid_kernels

        fields = _kept_field(parameters, pixels, torch.device("cpu")).numpy()
        center = [parameters[name] for name in ("center_x", "center_y")]
        place = np.stack([*center, pixels / parameters["width"]], axis=1)
        return functools.partial(grid_kernels.add_fields, axis, fields, place)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``INTERPOL``, without its potential and its second derivatives."""
        tensors = {
            name: torch.tensor([value], dtype=torch.float64) for name, value in parameters.items()
        }
        pixels = int(parameters["pixels"])
        alpha = deflection_field(tensors, pixels)[0].numpy()
        axis = (np.arange(pixels) - pixels // 2) * parameters["width"] / pixels
        keywords = {
            "grid_interp_x": parameters["center_x"] + axis,
            "grid_interp_y": parameters["center_y"] + axis,
            "f_x": alpha[0],
            "f_y": alpha[1],
        }
        return [("INTERPOL", keywords)]

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """By Gauss's theorem."""
        return mass_by_gauss(Granules.deflection, radius, parameters, setting)


def reduced_wavelength(log10_m_axion: np.ndarray, velocity_dispersion: np.ndarray) -> np.ndarray:
    """Returns ħ/(m σ) in kpc, of a mass in log10(eV) and a velocity dispersion in km/s."""
    wavelength: np.ndarray = _PER_KPC * 10.0 ** (-22 - log10_m_axion) * 200 / velocity_dispersion
    return wavelength


def host_density_squared(
    radius: np.ndarray, mass: np.ndarray, concentration: np.ndarray, setting: Setting
) -> np.ndarray:
    """Returns ∫ρ² dℓ in M_sun²/kpc⁵ through NFW halos (B,) at projected distances (B,) in kpc."""
    r_s = halos.scale_radius(mass, concentration, setting.z_lens, setting.cosmology)
    density = mass / (
        4 * np.pi * r_s**3 * (np.log1p(concentration) - concentration / (1 + concentration))
    )
    x = radius / r_s
    # ℓ = R tan t, up to all distances: ρ² falls as ℓ⁻⁶
    node, weight = np.polynomial.legendre.leggauss(64)
    t = np.pi / 4 * (node + 1)
    r = x[:, None] / np.cos(t)
    integral = (1 / (r * (1 + r) ** 2) ** 2 / np.cos(t) ** 2) @ (np.pi / 4 * weight)
    squared: np.ndarray = 2 * density**2 * r_s * x * integral
    return squared


def convergence(parameters: Tensors, pixels: int) -> Tensor:
    """Returns the field κ (B, pixels, pixels): rows along y, and the centre of the lens at [pixels//2, pixels//2]."""
    field: Tensor = torch.fft.irfft2(_spectrum(parameters, pixels), s=(pixels, pixels))
    return field


def deflection_field(parameters: Tensors, pixels: int) -> Tensor:
    """Returns α_x and α_y (B, 2, pixels, pixels) in arcsec on the grid of :func:`convergence`."""
    k_x, k_y, square = _wave_numbers(parameters["width"], pixels)
    potential = -2 * _spectrum(parameters, pixels) / square
    gradient = torch.stack([1j * k_x * potential, 1j * k_y * potential], dim=1)
    alpha: Tensor = torch.fft.irfft2(gradient, s=(pixels, pixels))
    return alpha


def _kept_field(parameters: Parameters, pixels: int, device: torch.device) -> Tensor:
    """Returns :func:`deflection_field` in float32, which is kept until another batch's is wanted."""
    global _kept
    key = str(device).encode() + b"".join(
        np.ascontiguousarray(values).tobytes() for values in parameters.values()
    )
    kept = _kept
    if kept is None or kept[0] != key:
        with torch.no_grad():
            kept = key, deflection_field(as_tensors(parameters, device=device), pixels)
        _kept = kept
    return kept[1]


def _spectrum(parameters: Tensors, pixels: int) -> Tensor:
    """The Fourier transform of κ, (B, pixels, pixels//2 + 1); its mean is 0."""
    correlation, width = column(parameters["correlation"]), parameters["width"]
    noise = white_noise(parameters, pixels).to(correlation.dtype)
    _, _, square = _wave_numbers(width, pixels)
    # P(k) = σ² π θ_λ² exp(−k² θ_λ²/4), and a pixel's area is (width/pixels)²
    root = torch.exp(-square * correlation**2 / 8) * correlation * math.sqrt(math.pi)
    spectrum = torch.fft.rfft2(noise) * root * column(parameters["sigma_kappa"] * pixels / width)
    field = torch.fft.irfft2(spectrum, s=(pixels, pixels)) * _host(parameters, pixels)
    keep = torch.ones_like(square)
    keep[:, 0, 0] = 0
    transformed: Tensor = torch.fft.rfft2(field)
    return transformed * keep


def _host(parameters: Tensors, pixels: int) -> Tensor:
    """The fluctuations at each pixel in parts of those at θ_E; they follow the host's density on scales above the correlation length."""
    width, theta_E = column(parameters["width"]), column(parameters["theta_E"])
    axis = torch.arange(pixels, device=width.device) - pixels // 2
    x = axis * width / pixels
    core = column(parameters["correlation"]) ** 2
    square = (x**2 + x.transpose(1, 2) ** 2 + core) / (theta_E**2 + core)
    return square ** (column(parameters["slope"]) / 2)


def _wave_numbers(width: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """k_x, k_y and k² in 1/arcsec, (B, …) of the half plane that ``rfft2`` returns; k² is 1 at the origin."""
    step = column(2 * math.pi / width)
    k_x = step * torch.fft.rfftfreq(pixels, 1 / pixels, device=width.device)
    k_y = step * torch.fft.fftfreq(pixels, 1 / pixels, device=width.device)[:, None]
    square = (k_x**2 + k_y**2).clone()
    square[:, 0, 0] = 1
    return k_x, k_y, square


def _interpolated(x: Tensor, y: Tensor, alpha: Tensor, parameters: Tensors) -> Tensor:
    """Bilinear interpolation of α (B, 2, P, P) at positions (B, H, W), as (2, B, H, W); the field repeats itself."""
    pixels = alpha.shape[-1]
    step = column(pixels / parameters["width"])
    at = [
        torch.remainder((z - column(parameters[name])) * step + pixels // 2, pixels)
        for z, name in ((x, "center_x"), (y, "center_y"))
    ]
    # The pixel after the last is the first; −1 and 1 are the middles of the first and the last of them.
    around = pad(alpha, (0, 1, 0, 1), mode="circular")
    where = (torch.stack(at, dim=-1) * (2 / pixels) - 1).to(alpha.dtype)
    return grid_sample(around, where, align_corners=True).transpose(0, 1)
