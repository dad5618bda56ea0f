"""Point masses: subhalos as the DeepLense surveys have them."""

import functools
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
    OnGrid,
    Parameters,
    Profile,
    Tensors,
)
from haloformer.simulation.components.populations import (
    CENTER_UNITS,
    centers,
    in_use,
    profiles_of,
    sum_over_members,
)
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.distributions import PowerLaw, Quantity, Uniform, check_not_negative
from haloformer.simulation.noise import has_numba
from haloformer.validation import WholeNumber, checked

_ASIDE = 1e-12  # arcsec; as far from a mass a position exactly on top of it is seen


@checked
@dataclass(frozen=True)
class PointMasses(MassComponent):
    """A fixed number of point masses around the lens.

    Attributes:
        kind: Its name in YAML.
        number: How many; the same in every image.
        mass: Mass of each in M_sun, dN/dM ∝ M^−0.9 as in the original surveys.
        radius: Distance of each from the lens's centre in arcsec; the angle is uniform.
    """

    kind: Literal["point_masses"] = field(default="point_masses", kw_only=True)
    number: Annotated[WholeNumber, Field(ge=0)] = 25
    mass: Quantity = PowerLaw(1e6, 1e10, -0.9)
    radius: Quantity = Uniform(0.25, 2.0)

    ARE_SUBHALOS: ClassVar[bool] = True
    UNITS: ClassVar[Mapping[str, str]] = {
        "mass": "M_sun",
        "theta_E": "arcsec",
        "x": "arcsec",
        "y": "arcsec",
        **CENTER_UNITS,
    }

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass)
        check_not_negative("radius", self.radius)

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws masses and places."""
        center = centers(draws, lens)
        mass = draws.draw(self.mass, "mass", self.number)
        x, y = placed(draws, self.radius, self.number, center)
        return {"mass": mass, "theta_E": setting.theta_E(mass), "x": x, "y": y, **center}

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """Σ θ_E² Δ/|Δ|²; in float32 accurate beside a mass, too, if positions come in float64."""
        members = in_use(parameters, "theta_E", {"theta_E": 0.0, "x": 0.0, "y": 0.0})
        alpha_x, alpha_y = sum_over_members(x + _ASIDE, y, members, _one)
        return alpha_x, alpha_y

    def at_points(self, x: Tensor, y: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """The compiled sum, where numba is, on a CPU."""
        if not has_numba() or x.device.type != "cpu":
            return super().at_points(x, y, parameters)
        theta_E, x0, y0 = (parameters[name] for name in ("theta_E", "x", "y"))
        there = ~np.isnan(theta_E)
        masses = (np.where(there, v, 0.0) for v in (theta_E**2, x0, y0))
        return masses_at_points(x, y, *masses)

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> OnGrid:
        """The compiled kernel."""
        from haloformer.simulation.components import grid_kernels

        theta_E, x, y = (parameters[name] for name in ("theta_E", "x", "y"))
        there = ~np.isnan(theta_E)
        number = np.where(there.any(axis=1), theta_E.shape[1] + theta_E.shape[1] % 2, 0)
        odd = ((0, 0), (0, theta_E.shape[1] % 2))  # the kernel takes them two at a time
        weight, x, y = (np.pad(np.where(there, v, 0.0), odd) for v in (theta_E**2, x, y))
        return functools.partial(grid_kernels.add_points, axis, number, weight, x, y)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``POINT_MASS``, one for each."""
        names = {"theta_E": "theta_E", "center_x": "x", "center_y": "y"}
        return profiles_of("POINT_MASS", names, parameters, "theta_E")

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """The sum of the masses inside."""
        distance = np.hypot(
            parameters["x"] - parameters["center_x"][:, None],
            parameters["y"] - parameters["center_y"][:, None],
        )
        inside: np.ndarray = np.where(distance < radius[:, None], parameters["mass"], 0.0).sum(1)
        return inside


def masses_at_points(
    x: Tensor, y: Tensor, weight: np.ndarray, x0: np.ndarray, y0: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Returns the deflections (B, …) float32 of masses of squared Einstein radii ``weight`` (B, n) at positions (B, …), compiled."""
    from haloformer.simulation.components import grid_kernels

    shape = (len(weight), *x.shape[1:])
    at_x, at_y = (
        np.ascontiguousarray(v.expand(shape).double().flatten(1).numpy()) for v in (x + _ASIDE, y)
    )
    alpha_x, alpha_y = np.empty_like(at_x), np.empty_like(at_y)
    grid_kernels.points_at_points(at_x, at_y, weight, x0, y0, alpha_x, alpha_y)
    found_x, found_y = (torch.from_numpy(v).float().reshape(shape) for v in (alpha_x, alpha_y))
    return found_x, found_y


def placed(
    draws: Draws, radius: Quantity, number: int, center: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws positions (B, number) in arcsec at these distances from the centre, in any direction."""
    distance = draws.draw(radius, "radius", number)
    angle = 2 * np.pi * draws.uniform("angle", number)
    x = center["center_x"][:, None] + distance * np.sin(angle)
    y = center["center_y"][:, None] + distance * np.cos(angle)
    return x, y


def _one(dx: Tensor, dy: Tensor, values: Tensors) -> tuple[Tensor, Tensor]:
    weight = values["theta_E"] ** 2 / (dx**2 + dy**2)
    return weight * dx, weight * dy
