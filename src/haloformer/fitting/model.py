"""The model that is fitted: expected images of smooth lenses, and their derivatives by what is free."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from haloformer.fitting.behind import DeflectionTable, kernel_serves
from haloformer.fitting.convergence import UNSEEN
from haloformer.fitting.moments import Moments, noise_moments
from haloformer.fitting.problem import PLACE, SOURCE_POSITION, FitProblem
from haloformer.simulation.renderer import (
    LENS_PARAMETERS,
    SOURCE_PARAMETERS,
    smooth_source_positions,
)
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_b, sersic_ellipse

_PIXEL_STEP = 0.002  # of a pixel, to the derivative of what lies behind it: float32 knows less

_DERIVATIVE_STEP = 1e-3  # of a forward difference: small beside every scale of the lens, large beside float32's rounding


@dataclass(frozen=True)
class Derivatives:
    """Expected images and their first derivatives.

    Attributes:
        moments: Mean and variance of the images, (B, H, W).
        by_parameter: P derivatives (B, H, W) of the mean by what is fitted.
        by_position: The two by the source's x and y in arcsec; empty if they were not asked for.
    """

    moments: Moments
    by_parameter: list[Tensor]
    by_position: list[Tensor]


class SmoothModel:
    """Renders the smooth lenses of a fit problem; keeps what is the same for all images."""

    def __init__(self, problem: FitProblem) -> None:
        """Takes the problem, with its tensors on the device of the images."""
        self.problem = problem
        self._places: Tensor | None = None
        self._fixed_positions: tuple[Tensor, Tensor] | None = None
        self._shifts: Tensor | None = None
        self._psf_matrix: Tensor | None = None

    def at(self, places: Tensor) -> "SmoothModel":
        """Returns the model of lenses that lie elsewhere on the pixel grid, or on pixels of another size.

        Args:
            places: (B, 3) in the order of :data:`~haloformer.fitting.problem.PLACE`, one per image, or (1, 3). What of them the problem
                has free does not count.
        """
        found = copy.copy(self)
        found._places = places.to(self.problem.axis.device, torch.float32)
        found._fixed_positions = None
        return found

    @property
    def is_elsewhere(self) -> bool:
        """Whether lenses may lie elsewhere than where the survey has them."""
        return self._places is not None or bool(self.problem.free_place)

    def places(self, values: Tensor) -> Tensor:
        """Returns where the lenses of parameters (B, P) lie, (B or 1, 3) in the order of :data:`~haloformer.fitting.problem.PLACE`."""
        fixed = self.problem.axis.new_zeros(1, len(PLACE)) if self._places is None else self._places
        names = self.problem.names
        columns = [
            values[:, names.index(name)] if name in names else fixed[:, k]
            for k, name in enumerate(PLACE)
        ]
        return torch.stack(torch.broadcast_tensors(*columns), 1)

    def axes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pixels' coordinates along x and along y, (B or 1, N) each in arcsec, of a frame in which the lens is where the survey has it."""
        axis = self.problem.axis[None]
        if not self.is_elsewhere:
            return axis, axis
        places = self.places(values)
        moved = places[:, :2] * self.problem.survey.instrument.pixel_scale
        larger = 1 + places[:, 2:]
        return (axis - moved[:, :1]) * larger, (axis - moved[:, 1:]) * larger

    @cached_property
    def deflection_table(self) -> DeflectionTable:
        """The deflection by the lens, if that is always the same, for the compiled kernel."""
        return DeflectionTable.of(self.problem)

    def derivatives(self, u: Tensor, seconds: Tensor, by_position: bool = False) -> Derivatives:
        """Returns expected images and their derivatives at u (B, P), with exposures (B,) in seconds.

        Args:
            u: (B, P) what is fitted: logarithms of positive parameters.
            seconds: (B,) of one exposure, where it is not fitted.
            by_position: Also return the derivatives by the source's position.
        """
        problem = self.problem
        values, _ = problem.physical(u)
        base, derivatives = self._render_with_derivatives(u, values, by_position)
        total = problem.total_seconds(values, seconds)
        moments = noise_moments(problem.noise, base, total, self._background(values))
        columns = []
        for name in problem.names:
            if name == "exposure_time":
                assert moments.by_log_time is not None
                columns.append(moments.by_log_time)
            else:
                columns.append(moments.by_base * derivatives[name])
        return Derivatives(
            moments,
            columns,
            [moments.by_base * derivatives[name] for name in SOURCE_POSITION]
            if by_position
            else [],
        )

    def seen(self, values: Tensor, known: Tensor) -> Tensor:
        """Returns which of the known pixels (B, H, W) count.

        Where the lens's place is fitted, all but those on its centre: there the light changes within a pixel, so that no derivative tells how.
        """
        if not self.problem.free_place:
            return known
        pixel = self._pixels(values)
        x, y = (axis / pixel for axis in self.axes(values))
        centre = [self.problem.value(values, name)[:, 0] / pixel for name in ("lens_x", "lens_y")]
        x, y = x - centre[0], y - centre[1]
        return known & (x[:, None, :] ** 2 + y[:, :, None] ** 2 >= UNSEEN**2)

    def _background(self, values: Tensor) -> Tensor | float:
        """Standard deviation of the background in counts/s per pixel, (B or 1, 1, 1) if pixels may be of another size."""
        if not self.is_elsewhere:
            return self.problem.rms
        readout, sky = self.problem.background_variances
        return (readout + sky * (1 + self.places(values)[:, 2]) ** 2).sqrt()[:, None, None]

    def render(self, values: Tensor) -> Tensor:
        """Returns noise-free smooth images (B, H, W) in counts/s per pixel, of parameters (B, P)."""
        return self._blurred(self._source(values)[0], values)

    def source_positions(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where the pixels lie in the source plane, (B or 1, H, W) each in arcsec."""
        return self._behind(values)[0]

    def _behind(self, values: Tensor) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """Returns the source positions, and where the lens's place is fitted how they change: β_x and β_y by a pixel's column, then by its row."""
        problem = self.problem
        if self._fixed_positions is not None:
            return self._fixed_positions, []
        if self.is_elsewhere and not problem.lens_is_free and kernel_serves(problem.axis.device):
            x, y, slopes = self.deflection_table.positions(self.places(values), problem.size)
            return (x, y), list(slopes.unbind(1))
        x, y = self.axes(values)
        here = self._positions_at(values, x, y)
        if problem.free_place:
            step = _PIXEL_STEP * self._pixels(values)
            there = self._positions_at(values, x + step, y), self._positions_at(values, x, y + step)
            return here, [
                (moved - beta) / _PIXEL_STEP for each in there for moved, beta in zip(each, here)
            ]
        if not problem.lens_is_free:
            self._fixed_positions = here
        return here, []

    def _pixels(self, values: Tensor) -> Tensor:
        """Returns (B or 1, 1) the side of a pixel in arcsec."""
        return self.problem.survey.instrument.pixel_scale * (1 + self.places(values)[:, 2:])

    def _positions_at(self, values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        lens = [self.problem.value(values, name)[:, 0, 0] for name in LENS_PARAMETERS]
        lens = [p.expand(max(len(q) for q in lens)) for p in lens]
        return smooth_source_positions(self.problem.survey, lens, (x, y))

    def _render_with_derivatives(
        self, u: Tensor, values: Tensor, by_position: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise-free smooth images (B, H, W) in counts/s per pixel, and their derivatives by what is fitted, but for the exposure."""
        fitted, free_place = self.problem.names, bool(self.problem.free_place)
        position = tuple(
            name for name in SOURCE_POSITION if by_position or free_place or name in fitted
        )
        positions, slopes = self._behind(values)
        brightness, gradient = self._source(values, position, positions)
        if free_place:
            gradient |= self._by_place(values, brightness, gradient, slopes)
        sharp = [brightness, *gradient.values()]
        names = [name for name in fitted if name not in (*gradient, "exposure_time", "source_amp")]
        for name in names:
            shifted = u.clone()
            shifted[:, fitted.index(name)] += _DERIVATIVE_STEP
            moved = self._source(self.problem.physical(shifted)[0])[0]
            sharp.append((moved - brightness) / _DERIVATIVE_STEP)
        base, *blurred = self._blurred(torch.stack(sharp), values)
        return base, dict(zip([*gradient, *names], blurred)) | {"source_amp": base}

    def _by_place(
        self,
        values: Tensor,
        brightness: Tensor,
        gradient: dict[str, Tensor],
        slopes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Derivatives of the brightness (B, H, W) by where the lens lies on the pixels.

        A pixel farther along a lens that is moved by δ pixels sees what was −δ pixels away: the point of the source behind it moves by
        −δ ∂β/∂k, k being the pixel's number.
        """
        by_x, by_y = (gradient[name] for name in SOURCE_POSITION)
        along_x = by_x * slopes[0] + by_y * slopes[1]
        along_y = by_x * slopes[2] + by_y * slopes[3]
        pixel = self._pixels(values)
        x, y = (axis / pixel for axis in self.axes(values))
        larger = 2 * brightness - x[:, None, :] * along_x - y[:, :, None] * along_y
        return dict(zip(PLACE, (along_x, along_y, larger), strict=True))

    def _blurred(self, sharp: Tensor, values: Tensor) -> Tensor:
        """Through the point-spread function: (…, H, W). Two products by a band matrix, for which processors are made."""
        camera, problem = self.problem.survey.instrument, self.problem
        if self._shifts is None or self._shifts.device != sharp.device:
            self._shifts = _shifts(problem.size, len(problem.psf), sharp.device)
            self._psf_matrix = torch.einsum("t,tij->ij", problem.psf.to(sharp.device), self._shifts)
        if not self.is_elsewhere:
            assert self._psf_matrix is not None  # with the shifts
            return self._psf_matrix @ sharp @ self._psf_matrix.T * camera.pixel_scale**2
        larger = 1 + self.places(values)[:, 2]
        psf = gaussian_psf(problem.psf_sigma / larger, len(problem.psf) // 2)
        matrix = torch.einsum("kt,tij->kij", psf, self._shifts)
        area = (camera.pixel_scale * larger) ** 2
        return matrix @ sharp @ matrix.mT * area[:, None, None]

    def _source(
        self,
        values: Tensor,
        by: Sequence[str] = (),
        positions: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Surface brightness (B, H, W) where the pixels lie, and its derivatives by the source's coordinates that are asked for."""
        positions = self.source_positions(values) if positions is None else positions
        parameters = (self.problem.value(values, name) for name in SOURCE_PARAMETERS)
        return sersic_with_gradient(*positions, *parameters, by=tuple(by))


def gaussian_psf(sigma: Tensor, radius: int) -> Tensor:
    """Returns point-spread functions (K, 2r+1) along one axis, which sum to 1, of widths (K,) in pixels; 1 for a radius of 0."""
    if radius == 0:
        return torch.ones(len(sigma), 1, device=sigma.device)
    distance = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (distance / sigma[:, None]) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _shifts(size: int, taps: int, device: torch.device) -> Tensor:
    """Returns what each tap of a kernel along a row does alone, (taps, N, N): a kernel's band matrix is a sum of these."""
    rows = torch.eye(size, device=device)[:, None, :]
    radius = taps // 2
    padded = F.pad(rows, (radius, radius), mode="replicate")[:, 0]
    return torch.stack([padded[:, k : k + size].T for k in range(taps)])


def sersic_with_gradient(
    x: Tensor, y: Tensor, amp: Tensor, R_sersic: Tensor, n_sersic: Tensor, e1: Tensor, e2: Tensor, x0: Tensor, y0: Tensor, *, by: tuple[str, ...]
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The profile of :func:`~haloformer.simulation.sources.sersic_ellipse` and its derivatives by the centre, from one exponential.

    Args:
        x: Source-plane positions in arcsec, as ``y``; all arguments broadcast, and mean what they mean there.
        y: See ``x``.
        amp: Surface brightness at R_sersic.
        R_sersic: Half-light radius.
        n_sersic: Sérsic index.
        e1: Ellipticity.
        e2: Ellipticity.
        x0: Centre.
        y0: Centre.
        by: Derivatives that are wanted: ``source_x``, ``source_y``.

    Returns:
        Brightness, and its derivatives by name.
    """
    if not by:
        return sersic_ellipse(x, y, amp, R_sersic, n_sersic, e1, e2, x0, y0), {}
    norm = (1 - e1**2 - e2**2).sqrt()
    a, b, c = (1 - e1) / norm, -e2 / norm, (1 + e1) / norm
    dx, dy = x - x0, y - y0
    u, v = a * dx + b * dy, b * dx + c * dy
    square = (u * u + v * v).clamp(min=SERSIC_R_MIN**2)
    R = square.sqrt()
    slope = sersic_b(n_sersic)
    # A traced graph cannot ask for values.
    exponential = not torch.compiler.is_compiling() and bool((n_sersic == 1).all())
    power = R / R_sersic if exponential else (R / R_sersic) ** (1 / n_sersic)
    brightness = amp * torch.exp(-slope * (power - 1))
    # dI/dR / R; constant inside the smallest radius
    steep = torch.where(square > SERSIC_R_MIN**2, brightness * power / square, 0.0) * (
        slope / n_sersic
    )
    found = {
        "source_x": lambda: steep * (a * u + b * v),
        "source_y": lambda: steep * (b * u + c * v),
    }
    return brightness, {name: found[name]() for name in by}
