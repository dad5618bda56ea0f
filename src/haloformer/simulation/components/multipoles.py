"""Multipoles: what a lens galaxy's mass has beyond an ellipse, lopsided, triangular, boxy or disky."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.components.component import (
    Draws,
    MassComponent,
    OnGrid,
    Parameters,
    Profile,
    Tensors,
    column,
)
from haloformer.simulation.components.epl import axes_of
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import Normal, Quantity, check_not_negative
from haloformer.validation import checked

ORDERS = (1, 3, 4)

_LEAST_RADIUS = 1e-6  # arcsec, as in lenstronomy
_OF_LENS = {"theta_E": 1.0, "e1": 0.0, "e2": 0.0, "x": 0.0, "y": 0.0}


@checked
@dataclass(frozen=True)
class Multipoles(MassComponent):
    """Circular multipoles of orders 1, 3 and 4 about the lens, κ = a_m cos(m (φ − φ_m)) / (2 r). Each number may be a distribution.

    Each order has two components in the lens's own frame, c = a cos(m δ) and s = a sin(m δ), where δ is the angle from the lens's major
    axis, and a its strength in parts of θ_E/√q. ``a4_cos`` > 0 is disky, < 0 boxy. The defaults are what isophotes and lenses show: some
    0.7 % in orders 1 and 3 and 1 % in order 4, this one along the axes (Hao et al. 2006, arXiv:astro-ph/0605319; Stacey et al. 2024,
    arXiv:2403.04850).

    Attributes:
        kind: Its name in YAML.
        a1_cos: Order 1, lopsided, along the major axis.
        a1_sin: Across it.
        a3_cos: Order 3, triangular.
        a3_sin: The same, a twelfth of a turn further.
        a4_cos: Order 4, along the axes.
        a4_sin: Along the diagonals.
        amplitude: All of them are multiplied by this; 0 is an ellipse.
    """

    kind: Literal["multipoles"] = field(default="multipoles", kw_only=True)
    a1_cos: Quantity = Normal(0.0, 0.005)
    a1_sin: Quantity = Normal(0.0, 0.005)
    a3_cos: Quantity = Normal(0.0, 0.005)
    a3_sin: Quantity = Normal(0.0, 0.005)
    a4_cos: Quantity = Normal(0.0, 0.01)
    a4_sin: Quantity = Normal(0.0, 0.003)
    amplitude: Quantity = 1.0

    UNITS: ClassVar[Mapping[str, str]] = {
        "a1_cos": "",
        "a1_sin": "",
        "a3_cos": "",
        "a3_sin": "",
        "a4_cos": "",
        "a4_sin": "",
        "theta_E": "arcsec",
        "e1": "",
        "e2": "",
        "x": "arcsec",
        "y": "arcsec",
    }

    def __post_init__(self) -> None:
        check_not_negative("amplitude", self.amplitude)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the components; θ_E, ellipticity and centre are the lens's."""
        amplitude = draws.draw(self.amplitude, "amplitude")
        names = [f"a{m}_{part}" for m in ORDERS for part in ("cos", "sin")]
        drawn = {name: amplitude * draws.draw(getattr(self, name), name) for name in names}
        copied = {
            name: lens.get(name, np.full(len(draws), value)) for name, value in _OF_LENS.items()
        }
        return {**drawn, **copied}

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """Xu et al. (2013, arXiv:1307.4220), eq. B12; order 1 as in Paugnat & Gilman (2025, arXiv:2502.03530) for a round lens."""
        theta_E, e1, e2 = (column(parameters[k]) for k in ("theta_E", "e1", "e2"))
        dtype = theta_E.dtype
        dx = (x - column(parameters["x"])).to(dtype)
        dy = (y - column(parameters["y"])).to(dtype)
        c, cos, sin = axes_of(e1, e2)
        # Which way an axis points matters to odd orders only: to the right, as lenstronomy's angle says.
        way = torch.where(cos < 0, -1.0, 1.0).to(dtype)
        cos, sin = way * cos, way * sin
        u, v = cos * dx + sin * dy, -sin * dx + cos * dy
        r = torch.sqrt(torch.clamp(u**2 + v**2, min=_LEAST_RADIUS**2))
        cu, su = u / r, v / r
        unit = theta_E * torch.sqrt((1 + c) / (1 - c))
        alpha_u, alpha_v = torch.zeros_like(r), torch.zeros_like(r)
        cm, sm, reached = torch.ones_like(r), torch.zeros_like(r), 0
        for m in ORDERS:
            for _ in range(m - reached):
                cm, sm = cm * cu - sm * su, sm * cu + cm * su
            reached = m
            ac, as_ = (unit * column(parameters[f"a{m}_{part}"]) for part in ("cos", "sin"))
            along, across = ac * cm + as_ * sm, ac * sm - as_ * cm
            if m == 1:
                log = torch.log(r / theta_E)
                alpha_u = alpha_u + (ac * log + along * cu) / 2
                alpha_v = alpha_v + (as_ * log + along * su) / 2
            else:
                alpha_u = alpha_u + (cu * along + m * su * across) / (1 - m**2)
                alpha_v = alpha_v + (su * along - m * cu * across) / (1 - m**2)
        return cos * alpha_u - sin * alpha_v, sin * alpha_u + cos * alpha_v

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> OnGrid:
        """The compiled kernel."""
        from haloformer.simulation.components import grid_kernels

        e1, e2 = (torch.tensor(parameters[name]) for name in ("e1", "e2"))
        c, cos, sin = (each.numpy() for each in axes_of(e1, e2))
        way = np.where(cos < 0, -1.0, 1.0)  # as in deflection
        theta_E = parameters["theta_E"]
        frame = np.stack([parameters["x"], parameters["y"], way * cos, way * sin, theta_E], axis=1)
        names = [f"a{m}_{part}" for m in ORDERS for part in ("cos", "sin")]
        unit = theta_E * np.sqrt((1 + c) / (1 - c))
        strength = np.stack([unit * parameters[name] for name in names], axis=1)

        return functools.partial(grid_kernels.add_multipoles, axis, frame, strength)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``MULTIPOLE``, one for each order; with an ``EPL``, this is its ``EPL_MULTIPOLE_M1M3M4``."""
        size = np.hypot(parameters["e1"], parameters["e2"])
        unit = parameters["theta_E"] * np.sqrt((1 + size) / (1 - size))
        angle = np.arctan2(parameters["e2"], parameters["e1"]) / 2
        profiles = []
        for m in ORDERS:
            c, s = parameters[f"a{m}_cos"], parameters[f"a{m}_sin"]
            keywords = {
                "m": m,
                "a_m": unit * np.hypot(c, s),
                "phi_m": angle + np.arctan2(s, c) / m,
                "center_x": parameters["x"],
                "center_y": parameters["y"],
                "r_E": parameters["theta_E"],
            }
            profiles.append(("MULTIPOLE", keywords))
        return profiles

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """None: on each circle about the lens the convergence averages to 0."""
        return np.zeros(len(radius))
