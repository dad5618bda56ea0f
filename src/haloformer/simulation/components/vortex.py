"""A vortex line of an axion condensate, as the DeepLense surveys have it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
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
from haloformer.simulation.components.point_masses import masses_at_points
from haloformer.simulation.components.populations import CENTER_UNITS, centers
from haloformer.simulation.components.setting import Setting
from haloformer.simulation.deflectors import vortex_deflection
from haloformer.simulation.distributions import (
    Quantity,
    Uniform,
    check_log10_m_axion,
    check_not_negative,
)
from haloformer.simulation.noise import has_numba
from haloformer.simulation.substructure import vortex_half_length
from haloformer.validation import WholeNumber, checked

_LOG10_M_AXION = Uniform(-24.0, -22.0)  # of lines of which nothing is said
_ARGUMENTS = {"x": "x0", "y": "y0"}
_MOST_SUMMED = 200  # masses; of more the closed form is quicker


@checked
@dataclass(frozen=True)
class VortexLine(MassComponent):
    """A line of equal point masses.

    Attributes:
        kind: Its name in YAML.
        mass: Total mass in M_sun.
        n_masses: Number of point masses that stand for the line.
        log10_m_axion: log10 of the axion mass in eV; sets the length, see :func:`~haloformer.simulation.substructure.vortex_half_length`;
            U(−24, −22) if neither it nor ``length`` is given.
        length: Length of the line in arcsec, from its first mass to its last, in place of an axion mass, of which then nothing is known.
        angle: Angle of the line to the x axis in radian.
        x: Centre of the line in arcsec, relative to the lens.
        y: Centre of the line in arcsec, relative to the lens.
    """

    kind: Literal["vortex"] = field(default="vortex", kw_only=True)
    mass: Quantity = 3e10
    n_masses: Annotated[WholeNumber, Field(ge=2)] = 100
    log10_m_axion: Quantity | None = None
    angle: Quantity = Uniform(0.0, 2 * np.pi)
    x: Quantity = 0.0
    y: Quantity = 0.0
    length: Quantity | None = None

    UNITS: ClassVar[Mapping[str, str]] = {
        "log10_m_axion": "log10(eV)",
        "mass": "M_sun",
        "n_masses": "",
        "theta_E": "arcsec",
        "half_length": "arcsec",
        "angle": "rad",
        "x": "arcsec",
        "y": "arcsec",
        **CENTER_UNITS,
    }

    def __post_init__(self) -> None:
        check_not_negative("mass", self.mass)
        check_not_negative("length", self.length, zero=False)
        check_log10_m_axion(self.log10_m_axion)
        if self.length is not None and self.log10_m_axion is not None:
            raise InputError("vortex takes length or log10_m_axion, not both")

    def draw(
        self, draws: Draws, setting: Setting, lens: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Draws the parameters; ``theta_E`` is that of each of the point masses."""
        center = centers(draws, lens)
        log10_m_axion, half_length = self._lengths(draws)
        mass = draws.draw(self.mass, "mass")
        return {
            "log10_m_axion": log10_m_axion,
            "mass": mass,
            "n_masses": np.full(len(draws), float(self.n_masses)),
            "theta_E": setting.theta_E(mass / self.n_masses),
            "half_length": half_length,
            "angle": draws.draw(self.angle, "angle"),
            "x": center["center_x"] + draws.draw(self.x, "x"),
            "y": center["center_y"] + draws.draw(self.y, "y"),
            **center,
        }

    def _lengths(self, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Returns log10 of the axion masses, NaN where lengths are given, and the half-lengths in arcsec."""
        if self.length is not None:
            return np.full(len(draws), np.nan), draws.draw(self.length, "length") / 2
        given = _LOG10_M_AXION if self.log10_m_axion is None else self.log10_m_axion
        log10_m_axion = draws.shared(given, "log10_m_axion")
        return log10_m_axion, vortex_half_length(log10_m_axion)

    @staticmethod
    def deflection(x: Tensor, y: Tensor, parameters: Tensors) -> tuple[Tensor, Tensor]:
        """See :func:`~haloformer.simulation.deflectors.vortex_deflection`."""
        names = ("theta_E", "x", "y", "angle", "half_length")
        numbers = parameters["n_masses"]
        shape = (len(numbers), *x.shape[1:])
        x, y = x.expand(shape), y.expand(shape)
        alpha_x = torch.zeros(shape, dtype=parameters["theta_E"].dtype, device=x.device)
        alpha_y = torch.zeros_like(alpha_x)
        for number in torch.unique(numbers[~torch.isnan(numbers)]).tolist():
            rows = torch.nonzero(numbers == number).flatten()
            values = {_ARGUMENTS.get(k, k): column(parameters[k][rows]) for k in names}
            part_x, part_y = vortex_deflection(x[rows], y[rows], n_masses=int(number), **values)
            alpha_x, alpha_y = (
                alpha_x.index_copy(0, rows, part_x),
                alpha_y.index_copy(0, rows, part_y),
            )
        return alpha_x, alpha_y

    def at_points(self, x: Tensor, y: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """The compiled sum over the masses, where numba is, on a CPU, for lines of one number of masses that is no large one."""
        number = parameters["n_masses"]
        alike = (number == number[0]).all() and number[0] <= _MOST_SUMMED
        if not has_numba() or x.device.type != "cpu" or not alike:
            return super().at_points(x, y, parameters)
        along = np.linspace(-1, 1, int(number[0])) * parameters["half_length"][:, None]
        x0 = parameters["x"][:, None] + along * np.cos(parameters["angle"])[:, None]
        y0 = parameters["y"][:, None] + along * np.sin(parameters["angle"])[:, None]
        weight = np.broadcast_to(parameters["theta_E"][:, None] ** 2, x0.shape)
        return masses_at_points(x, y, np.ascontiguousarray(weight), x0, y0)

    def on_grid(self, axis: np.ndarray, parameters: Parameters) -> OnGrid:
        """The compiled kernel, for lines of one number of masses."""
        number = int(parameters["n_masses"][0])
        if (parameters["n_masses"] != number).any():
            return super().on_grid(axis, parameters)
        from haloformer.simulation.components import grid_kernels
        from haloformer.simulation.kernels import vortex_series

        line = np.stack([parameters[k] for k in ("theta_E", "x", "y", "angle", "half_length")], 1)
        line[:, 0] **= 2
        pairs, moments, _ = vortex_series(number, np.float32)
        return functools.partial(grid_kernels.add_vortices, axis, number, line, pairs, moments)

    @staticmethod
    def lenstronomy(parameters: Mapping[str, Any]) -> list[Profile]:
        """``POINT_MASS``, one for each mass of the line."""
        along = np.linspace(-1, 1, int(parameters["n_masses"])) * parameters["half_length"]
        xs = parameters["x"] + along * np.cos(parameters["angle"])
        ys = parameters["y"] + along * np.sin(parameters["angle"])
        theta_E = parameters["theta_E"]
        return [
            ("POINT_MASS", {"theta_E": theta_E, "center_x": x, "center_y": y})
            for x, y in zip(xs, ys)
        ]

    @staticmethod
    def mass_within(radius: np.ndarray, parameters: Parameters, setting: Setting) -> np.ndarray:
        """The sum of the masses inside."""
        mass = np.zeros(len(radius))
        numbers = parameters["n_masses"]
        for number in np.unique(numbers[~np.isnan(numbers)]):
            rows = np.flatnonzero(numbers == number)
            line = {name: values[rows] for name, values in parameters.items()}
            along = np.linspace(-1, 1, int(number)) * line["half_length"][:, None]
            x = (line["x"] - line["center_x"])[:, None] + along * np.cos(line["angle"])[:, None]
            y = (line["y"] - line["center_y"])[:, None] + along * np.sin(line["angle"])[:, None]
            inside = (np.hypot(x, y) < radius[rows, None]).mean(axis=1)
            mass[rows] = line["mass"] * inside
        return mass
