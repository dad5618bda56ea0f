"""The model that is fitted: expected images of smooth lenses, and their derivatives by what is free."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haloformer.fitting.moments import Moments, noise_moments
from haloformer.fitting.problem import SOURCE_POSITION, FitProblem
from haloformer.simulation.instruments import convolve_psf
from haloformer.simulation.renderer import (
    LENS_PARAMETERS,
    SOURCE_PARAMETERS,
    smooth_source_positions,
)
from haloformer.simulation.sources import SERSIC_R_MIN, sersic_b, sersic_ellipse

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
        self._fixed_positions: tuple[Tensor, Tensor] | None = None
        self._psf_matrix: Tensor | None = None

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
        moments = noise_moments(problem.noise, base, total, problem.rms)
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

    def render(self, values: Tensor) -> Tensor:
        """Returns noise-free smooth images (B, H, W) in counts/s per pixel, of parameters (B, P)."""
        return self._blurred(self._source(values)[0])

    def source_positions(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where the pixels lie in the source plane, (B or 1, H, W) each in arcsec."""
        if self._fixed_positions is not None and not self.problem.lens_is_free:
            return self._fixed_positions
        lens = [self.problem.value(values, name)[:, 0, 0] for name in LENS_PARAMETERS]
        lens = [p.expand(max(len(q) for q in lens)) for p in lens]
        positions = smooth_source_positions(self.problem.survey, lens, self.problem.axis)
        if not self.problem.lens_is_free:
            self._fixed_positions = positions
        return positions

    def _render_with_derivatives(
        self, u: Tensor, values: Tensor, by_position: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noise-free smooth images (B, H, W) in counts/s per pixel, and their derivatives by what is fitted, but for the exposure."""
        fitted = self.problem.names
        position = tuple(name for name in SOURCE_POSITION if by_position or name in fitted)
        brightness, gradient = self._source(values, position)
        sharp = [brightness, *gradient.values()]
        names = [name for name in fitted if name not in (*gradient, "exposure_time", "source_amp")]
        for name in names:
            shifted = u.clone()
            shifted[:, fitted.index(name)] += _DERIVATIVE_STEP
            moved = self._source(self.problem.physical(shifted)[0])[0]
            sharp.append((moved - brightness) / _DERIVATIVE_STEP)
        base, *blurred = self._blurred(torch.stack(sharp))
        return base, dict(zip([*gradient, *names], blurred)) | {"source_amp": base}

    def _blurred(self, sharp: Tensor) -> Tensor:
        """Through the point-spread function: (…, H, W). Two products by a band matrix, for which processors are made."""
        if self._psf_matrix is None or self._psf_matrix.device != sharp.device:
            size = self.problem.size
            eye = torch.eye(size, device=sharp.device)
            self._psf_matrix = convolve_psf(eye[:, None, :].expand(-1, size, -1), self.problem.psf)[
                :, 0
            ].T.contiguous()
        scale = self.problem.survey.instrument.pixel_scale
        return self._psf_matrix @ sharp @ self._psf_matrix.T * scale**2

    def _source(self, values: Tensor, by: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Surface brightness (B, H, W) where the pixels lie, and its derivatives by the source's coordinates that are asked for."""
        positions = self.source_positions(values)
        parameters = (self.problem.value(values, name) for name in SOURCE_PARAMETERS)
        return sersic_with_gradient(*positions, *parameters, by=tuple(by))


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
