"""A power-law ellipsoid: the usual model of a lens galaxy's mass."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.simulation.components.component import (
    Draws,
    MassComponent,
    OnGrid,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import (
    Quantity,
    check_between,
    check_ellipticity,
    check_not_negative,
)
from haloformer.validation import checked

TERMS = {torch.float32: 16, torch.float64: 33}
"""Terms of the angular series. The error is about θ_E ((1 − q)/(1 + q))^terms: for q ≥ 0.4 below 1e-6″ and 1e-12″."""

LEAST_AXIS_RATIO = 0.4
"""Rounder than this a lens is drawn; flatter ones would need more terms, and are no elliptical galaxies."""

_MOST_ELLIPTICITY = (1 - LEAST_AXIS_RATIO) / (1 + LEAST_AXIS_RATIO)

LEAST_SIGMA_V = 10.0
"""km/s; what a wide distribution gives below is set to it."""

_THETA_E = 1.2  # arcsec, of a lens of which nothing is said
_LEAST_RADIUS = {torch.float32: 1e-6, torch.float64: 1e-9}  # arcsec, in the ellipse's own measure


@checked
@dataclass(frozen=True)
class EPL(MassComponent):
    """An elliptical power law, κ = (3 − γ)/2 (θ_E / √(q x² + y²/q))^(γ − 1) in its own axes. Each number may be a distribution.

    Attributes:
        kind: Its name in YAML.
        theta_E: Einstein radius in arcsec; 1.2 if neither it nor ``mass`` is given.
        mass: Point mass in M_sun whose Einstein radius it has, in place of ``theta_E``.
        gamma: Slope γ of the density ρ ∝ r^−γ, 1 < γ < 3; 2 is isothermal.
        e1: Ellipticity (1−q)/(1+q) cos 2φ.
        e2: Ellipticity (1−q)/(1+q) sin 2φ.
        x: Centre in arcsec.
        y: Centre in arcsec.
        sigma_v: Velocity dispersion in km/s, from which θ_E follows as that of an isothermal sphere, in place of ``theta_E``.
    """

    kind: Literal["epl"] = field(default="epl", kw_only=True)
    theta_E: Quantity | None = None
    gamma: Quantity = 2.0
    e1: Quantity = 0.0
    e2: Quantity = 0.0
    x: Quantity = 0.0
    y: Quantity = 0.0
    sigma_v: Quantity | None = None
    mass: Quantity | None = None

    PREFIX: ClassVar[str | None] = "lens_"
    UNITS: ClassVar[Mapping[str, str]] = {
        "theta_E": "arcsec",
        "gamma": "",
        "e1": "",
        "e2": "",
        "x": "arcsec",
        "y": "arcsec",
    }

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.theta_E, self.mass, self.sigma_v)) > 1:
            raise InputError("epl takes one of theta_E, mass and sigma_v")
        check_not_negative("theta_E", self.theta_E, zero=False)
        check_not_negative("sigma_v", self.sigma_v, zero=False, clipped=True)
        check_not_negative("mass", self.mass, zero=False)
        check_between("gamma", self.gamma, 1, 3)
        check_ellipticity(self.e1, self.e2, LEAST_AXIS_RATIO)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the parameters; ellipticities beyond :data:`LEAST_AXIS_RATIO` are shortened to it."""
        if self.mass is not None:
            theta_E = setting.theta_E(draws.draw(self.mass, "mass"))
        elif self.sigma_v is not None:
            sigma_v = draws.draw(self.sigma_v, "sigma_v")
            theta_E = setting.isothermal_theta_E(np.maximum(sigma_v, LEAST_SIGMA_V))
        else:
            theta_E = draws.draw(_THETA_E if self.theta_E is None else self.theta_E, "theta_E")
        others = [name for name in self.UNITS if name != "theta_E"]
        drawn = {"theta_E": theta_E}
        drawn |= {name: draws.draw(getattr(self, name), name) for name in others}
        size = np.hypot(drawn["e1"], drawn["e2"])
        shorter = np.minimum(1.0, _MOST_ELLIPTICITY / np.maximum(size, 1e-12))
        return {**drawn, "e1": drawn["e1"] * shorter, "e2": drawn["e2"] * shorter}

    @staticmethod
    def deflection(
        x: Tensor, y: Tensor, parameters: Tensors, terms: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tessore & Metcalf (2015, arXiv:1507.01819), eqs. 13 and 29, the series in real numbers; ``terms`` of it, if not :data:`TERMS`."""
        theta_E, gamma, e1, e2 = (column(parameters[k]) for k in ("theta_E", "gamma", "e1", "e2"))
        dtype = theta_E.dtype
        dx = (x - column(parameters["x"])).to(dtype)
        dy = (y - column(parameters["y"])).to(dtype)
        c, cos, sin = axes_of(e1, e2)
        q = (1 - c) / (1 + c)
        u, v = cos * dx + sin * dy, -sin * dx + cos * dy
        R = torch.sqrt(torch.clamp((q * u) ** 2 + v**2, min=_LEAST_RADIUS[dtype] ** 2))
        cu, su = q * u / R, v / R
        c2, s2 = cu * cu - su * su, 2 * cu * su
        t = gamma - 1
        term_u, term_v = cu, su
        sum_u, sum_v = cu, su
        for n in range(1, terms or TERMS[dtype]):
            k = -c * (2 * n - (2 - t)) / (2 * n + (2 - t))
            term_u, term_v = k * (term_u * c2 - term_v * s2), k * (term_u * s2 + term_v * c2)
            sum_u, sum_v = sum_u + term_u, sum_v + term_v
        b = theta_E * torch.sqrt(q)
        size = 2 * b / (1 + q) * (b / R) ** (t - 1)
        alpha_u, alpha_v = size * sum_u, size * sum_v
        return cos * alpha_u - sin * alpha_v, sin * alpha_u + cos * alpha_v

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> OnGrid:
        """The compiled kernel."""
        from haloformer.simulation.components import grid_kernels

        e1, e2, gamma = (parameters[name] for name in ("e1", "e2", "gamma"))
        c, cos, sin = (each.numpy() for each in axes_of(torch.tensor(e1), torch.tensor(e2)))
        q = (1 - c) / (1 + c)
        b = parameters["theta_E"] * np.sqrt(q)
        shape = np.stack([parameters["x"], parameters["y"], cos, sin, q, b, gamma - 2], axis=1)
        series, terms = _series(c, gamma)
        series = (series * (2 * b / (1 + q))[:, None]).astype(np.float32)

        return functools.partial(grid_kernels.add_power_laws, axis, shape, series, terms)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``EPL``."""
        named = {name: parameters[name] for name in ("theta_E", "gamma", "e1", "e2")}
        return [("EPL", {**named, "center_x": parameters["x"], "center_y": parameters["y"]})]

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """π Σ_crit θ_E^(γ−1) r^(3−γ), times the share of :func:`mass_factor`."""
        theta_E, gamma = parameters["theta_E"], parameters["gamma"]
        share = mass_factor(parameters["e1"], parameters["e2"], gamma)
        mass: np.ndarray = (
            np.pi * setting.sigma_crit * theta_E ** (gamma - 1) * radius ** (3 - gamma) * share
        )
        return mass


def _series(c: np.ndarray, gamma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coefficients (B, M) of the angular series, and how many (B,) are above 10⁻⁹; M and these are multiples of 4."""
    most = -(-TERMS[torch.float64] // 4) * 4
    coefficients = np.ones((len(c), most))
    for n in range(1, most):
        step = -c * (2 * n - (3 - gamma)) / (2 * n + (3 - gamma))
        coefficients[:, n] = coefficients[:, n - 1] * step
    needed = most - (np.abs(coefficients[:, ::-1]) > 1e-9).argmax(axis=1)
    return coefficients, -(-needed // 4) * 4


def terms_of(e1: Tensor, e2: Tensor) -> int:
    """Returns how many terms of the angular series the flattest of some lenses needs, beyond which no digit changes: the rounder, the fewer."""
    c = float(torch.hypot(e1, e2).max().clamp(1e-9, 0.99))
    enough = math.ceil(math.log(torch.finfo(e1.dtype).eps) / math.log(c))
    return min(1 + enough, TERMS[e1.dtype])


def axes_of(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the size c of an ellipticity, and cos φ and sin φ of its major axis; without an angle, which has no slope for a round lens.

    Half the angle of (e1, e2), from the larger of cos and sin, so that no digits are lost. Of a round lens: 0, 1, 0.
    """
    square = e1**2 + e2**2
    round_ = square < 1e-20
    c = torch.sqrt(torch.where(round_, 1.0, square))
    h1, h2 = torch.where(round_, 1.0, e1 / c), torch.where(round_, 0.0, e2 / c)
    c = torch.where(round_, 0.0, c)
    larger = torch.sqrt((1 + h1.abs()) / 2)
    smaller = h2 / (2 * larger)
    along = h1 >= 0
    return c, torch.where(along, larger, smaller), torch.where(along, smaller, larger)


def mass_factor(e1: np.ndarray, e2: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Returns the mass of a power-law ellipsoid within a circle, divided by that of the sphere of the same θ_E.

    The mean over the angle of (q cos² + sin²/q)^(−(γ − 1)/2), which is the same at all radii. Periodic, so that the trapezoidal rule with
    64 points is exact to 1e-12 for q ≥ 0.3.
    """
    c = np.hypot(e1, e2)
    q = ((1 - c) / (1 + c))[..., None]
    angle = np.linspace(0, np.pi, 64, endpoint=False)
    ellipse = q * np.cos(angle) ** 2 + np.sin(angle) ** 2 / q
    factor: np.ndarray = (ellipse ** (-(np.asarray(gamma)[..., None] - 1) / 2)).mean(axis=-1)
    return factor
