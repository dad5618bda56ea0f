"""External shear: the pull of what lies beside a lens."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
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
from haloformer.simulation.distributions import Quantity, check_shear, check_shear_size
from haloformer.validation import checked


@checked
@dataclass(frozen=True)
class Shear(MassComponent):
    """External shear about the origin of coordinates, not about the lens. Each number may be a distribution.

    Attributes:
        kind: Its name in YAML.
        gamma1: Stretches along the axes.
        gamma2: Stretches along the diagonals.
        gamma: Size of the shear, with ``angle`` in place of the components: γ1 = γ cos 2φ, γ2 = γ sin 2φ.
        angle: Direction φ that images are stretched along, in radian from the x axis to the y axis: a ring that an isothermal sphere
            makes of a source behind its centre is longest there, by (1 + γ)/(1 − γ).
    """

    kind: Literal["shear"] = field(default="shear", kw_only=True)
    gamma1: Quantity | None = None
    gamma2: Quantity | None = None
    gamma: Quantity | None = None
    angle: Quantity | None = None

    PREFIX: ClassVar[str | None] = ""
    UNITS: ClassVar[Mapping[str, str]] = {"gamma1": "", "gamma2": ""}

    def __post_init__(self) -> None:
        if (self.gamma is None) != (self.angle is None):
            raise InputError("shear takes gamma and angle together")
        if self.gamma is not None and (self.gamma1 is not None or self.gamma2 is not None):
            raise InputError("shear takes gamma and angle, or gamma1 and gamma2, not both")
        check_shear(self.gamma1, self.gamma2)
        check_shear_size(self.gamma)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws both components, or size and angle, from which they follow."""
        if self.gamma is not None and self.angle is not None:
            gamma, twice = draws.draw(self.gamma, "gamma"), 2 * draws.draw(self.angle, "angle")
            return {"gamma1": gamma * np.cos(twice), "gamma2": gamma * np.sin(twice)}
        given = {"gamma1": self.gamma1, "gamma2": self.gamma2}
        return {
            name: draws.draw(0.0 if value is None else value, name) for name, value in given.items()
        }

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """(γ1 x + γ2 y, γ2 x − γ1 y)."""
        gamma1, gamma2 = column(parameters["gamma1"]), column(parameters["gamma2"])
        x, y = x.to(gamma1.dtype), y.to(gamma1.dtype)
        return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> OnGrid:
        """The compiled kernel."""
        gamma1, gamma2 = parameters["gamma1"], parameters["gamma2"]
        matrix = np.stack([gamma1, gamma2, -gamma1], axis=1)
        return linear_on_grid(axis, np.zeros((len(matrix), 2)), matrix)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``SHEAR``."""
        named = {name: parameters[name] for name in ("gamma1", "gamma2")}
        return [("SHEAR", {**named, "ra_0": 0, "dec_0": 0})]

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """None: its convergence is 0."""
        return np.zeros(len(radius))


def linear_on_grid(axis: np.ndarray, constant: np.ndarray, matrix: np.ndarray) -> OnGrid:
    """Returns what adds α = c + M x on a grid, by a compiled kernel.

    Args:
        axis: (N,) positions in arcsec.
        constant: (B, 2) c in arcsec.
        matrix: (B, 3) M_xx, M_xy = M_yx, and M_yy.
    """
    from haloformer.simulation.components import grid_kernels

    return functools.partial(grid_kernels.add_linear, axis, constant, matrix)
