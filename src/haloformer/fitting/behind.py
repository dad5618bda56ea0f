"""What lies behind the pixels of a lens that is somewhere else on them than where its survey has it, by the compiled kernel."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from haloformer.fitting.problem import MOST, FitProblem
from haloformer.simulation.deflectors import AXIS_RATIO_MAX, SIE_CORE
from haloformer.simulation.noise import has_numba
from haloformer.simulation.renderer import LENS_PARAMETERS, smooth_source_positions


@dataclass(frozen=True)
class DeflectionTable:
    """The deflection by a survey's smooth lens, as the kernel takes it.

    Attributes:
        alpha_x: Deflections in arcsec on the survey's pixels and some more on all sides, (N + 2 m, N + 2 m) float32, as ``alpha_y``.
        alpha_y: See ``alpha_x``.
        lens: (10,) what :func:`haloformer.fitting.kernel.fit_positions` calls so.
        pixel: arcsec per pixel.
    """

    alpha_x: np.ndarray
    alpha_y: np.ndarray
    lens: np.ndarray
    pixel: float

    @classmethod
    def of(cls, problem: FitProblem) -> "DeflectionTable":
        """Computes the table of a problem whose lens is always the same."""
        size, pixel = problem.size, problem.survey.instrument.pixel_scale
        # As far as a lens can be from its place, and pixels larger than they are, and half of the interpolation's points
        farthest = size / 2 * MOST["place_scale"] + MOST["place_x"] * (1 + MOST["place_scale"])
        margin = math.ceil(farthest) + 4
        number = torch.arange(-margin, size + margin, dtype=torch.float64) - (size - 1) / 2
        axis = (number * pixel).float()
        parameters = [float(problem.draws[name][0]) for name in LENS_PARAMETERS]
        beta_x, beta_y = smooth_source_positions(
            problem.survey, [torch.tensor([value]) for value in parameters], axis
        )
        return cls(
            (axis[None, :] - beta_x[0]).numpy(),
            (axis[:, None] - beta_y[0]).numpy(),
            np.array([*parameters, problem.survey.scale(), SIE_CORE, AXIS_RATIO_MAX]),
            pixel,
        )

    def positions(self, places: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns source-plane positions behind the pixels of lenses at places (B, 3).

        Returns:
            β_x and β_y, (B, N, N) in arcsec, and (B, 4, N, N) ∂β_x and ∂β_y by the pixel's column, then by its row.
        """
        from haloformer.fitting import kernel

        n = len(places)
        found = [
            np.empty((n, *shape), np.float32) for shape in ((size, size),) * 2 + ((4, size, size),)
        ]
        kernel.positions(places.double().contiguous().numpy(), *self.arguments, *found)
        beta_x, beta_y, slopes = map(torch.from_numpy, found)
        return beta_x, beta_y, slopes

    @property
    def arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """The table in the order of the kernel's arguments."""
        return self.alpha_x, self.alpha_y, self.lens, self.pixel


def kernel_serves(device: torch.device) -> bool:
    """Tells whether the compiled kernel can be used there: on a CPU with numba, and in no graph that is traced."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and has_numba()
