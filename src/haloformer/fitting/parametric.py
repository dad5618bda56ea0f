"""The best smooth lens: what a survey's deflector and source, without substructure, can explain of an image, and what remains.

A batched Gauss–Newton (Levenberg–Marquardt) fit through the differentiable renderer. Free is what the survey draws anew for every
image (in the faithful surveys the source's position, and the exposure time where images are counts); all else is as the survey
says. The number of steps is fixed and no step depends on how another image fares, so that the fit can stand inside a network.

Surveys that are composed of components have a fit of their own, :mod:`haloformer.fitting.composed`, which :func:`fit_smooth` uses for them.

In parts: `problem` (what is free), `model` (expected images and derivatives), `start` (where to begin), `steps` (by tensors) or `compiled`
(by a kernel), `detail`.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haloformer.errors import InputError
from haloformer.fitting.compiled import can_be_compiled, fit_by_kernel
from haloformer.fitting.composed.fitter import STEPS as COMPOSED_STEPS
from haloformer.fitting.composed.fitter import ComposedFitter
from haloformer.fitting.detail import residual_detail
from haloformer.fitting.given import (
    Values,
    given_array,
    given_images,
    given_noise_map,
    given_seconds,
)
from haloformer.fitting.linear import damped_step, inverse
from haloformer.fitting.model import SmoothModel
from haloformer.fitting.problem import PLACE, FitProblem, check_exposures
from haloformer.fitting.result import SmoothFit
from haloformer.fitting.start import StartingPoints
from haloformer.fitting.steps import FitState, fit_by_tensors
from haloformer.simulation.batch import LensBatch
from haloformer.simulation.composed import ComposedSurvey, parameter_units
from haloformer.simulation.scenes import UNITS
from haloformer.simulation.surveys import AnySurvey, Survey, get_any_survey

STEPS = 8
"""Gauss–Newton steps; most images of the faithful surveys are there after four."""

_CONVERGED = (
    0.1  # standard deviations that a further step would go, of a fit that counts as converged
)

_USUAL_PLACE = 0.75  # pixels by which substructure moves a ring at most
_USUAL_CHI2 = 1.5  # per pixel; worse may be half a ring that is taken for the other half

_SIGNIFICANT = 5.0  # standard deviations that the fitted light must have


def fit_smooth(
    images: Tensor | np.ndarray | LensBatch,
    survey: str | AnySurvey,
    *,
    noise: str = "original",
    exposure_time: Values | None = None,
    steps: int | None = None,
    detail: bool = False,
    place: tuple[float, float, float] | None = None,
    free_place: tuple[str, ...] = (),
    batch_size: int | None = None,
    psf: np.ndarray | None = None,
    noise_map: Values | None = None,
) -> SmoothFit:
    """Fits the smooth lens of a survey to images by maximum (quasi-)likelihood: weighted least squares, each pixel's weight its expected noise.

    Args:
        images: (B, 1, H, W), as the survey has them; or their central part, smaller by an even number of pixels. Pixels that are masked or
            not finite are left out. Or what `simulate` returns.
        survey: The survey that they are of, or its name.
        noise: The images' noise, ``"original"``, ``"instrument"`` or ``"none"``; with it goes their unit. Of noise-free images the
            residual is in units of the noise that the instrument would have.
        exposure_time: (B,) seconds of one exposure where it is known, or one number for all; else it is the survey's. Where that draws it anew it is fitted to
            images in counts, and of images in counts/s, which hardly tell it, the middle of the draws is taken.
        steps: Gauss–Newton steps at most; 8 where the lens never varies, 12 of composed surveys.
        detail: Also compute :attr:`SmoothFit.detail`.
        place: Where the lenses lie if not where the survey has them, in the order of :data:`~haloformer.fitting.problem.PLACE`:
            ``(0.5, 0.5, 0)`` for the middle 150 pixels of 151, with the lens on the middle one of those.
        free_place: What is fitted of where each lens lies on the pixels: ``("place_x", "place_y")``, or all of
            :data:`~haloformer.fitting.problem.PLACE`, for surveys whose lens always lies on the same point.
        batch_size: Images fitted at once; changes nothing else.
        psf: (odd, odd) the images' own point-spread function on pixels as large as theirs, of composed surveys; the survey's if None.
        noise_map: (H, W) or (B, H, W) standard deviation of the images' own noise in their unit, or one number for all, of composed surveys.
            Pixels where it is masked or infinite, or more than 1000 times that of the quietest twentieth of them, are left out.

    Returns:
        The fit. Images without a lens are no error: see :attr:`SmoothFit.converged`.

    Raises:
        InputError: Images of another shape than the survey's, exposure times that cannot be, or an unknown survey or noise.

    Examples:
        >>> from haloformer.fitting import fit_smooth
        >>> from haloformer.simulation import simulate
        >>> lenses = simulate("model_i", 6, seed=1)
        >>> fit = fit_smooth(lenses.images, "model_i")
        >>> fit.names
        ('source_x', 'source_y', 'exposure_time')
    """
    images = given_images(images)
    if images.ndim != 4 or images.shape[1] != 1:
        raise InputError(f"fit_smooth takes images (B, 1, H, W), not {tuple(images.shape)}")
    batch_size = 64 if batch_size is None else batch_size
    for what, number in (("batch_size", batch_size), ("steps", steps)):
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if number is not None and not (whole and number >= 1):
            raise InputError(f"{what} must be a whole number of at least 1, not {number!r}")
    exposures = given_seconds(exposure_time, len(images))
    if exposures is not None:
        check_exposures(exposures, len(images))
    fitter = smooth_fitter(
        survey,
        noise=noise,
        size=tuple(images.shape[-2:]),
        exposure_known=exposures is not None,
        free_place=free_place,
    )
    maps = _maps_of(fitter, images, psf, noise_map)
    parts = []
    for first in range(0, max(len(images), 1), batch_size):
        rows = slice(first, first + batch_size)
        seconds = None if exposures is None else exposures[rows]
        if isinstance(fitter, ComposedFitter):
            part = fitter(
                images[rows], seconds, steps=steps or COMPOSED_STEPS, detail=detail, place=place, psf=psf,
                noise_map=None if maps is None else maps[rows],
            )  # fmt: skip
        else:
            part = fitter(images[rows], seconds, steps=steps or STEPS, detail=detail, place=place)
        parts.append(part)
    return dataclasses.replace(joined(parts), facts=fit_facts(get_any_survey(survey), noise))


def fit_facts(survey: AnySurvey, noise: str) -> dict[str, Any]:
    """Returns what a fit's table says of its images."""
    return {
        "survey": survey.name,
        "noise": noise,
        "pixel_scale": survey.instrument.pixel_scale,
        "units": UNITS | ({} if isinstance(survey, Survey) else parameter_units(survey)),
    }


def joined(parts: list[SmoothFit]) -> SmoothFit:
    """Returns the fits of several batches of one survey as one."""
    if len(parts) == 1:
        return parts[0]
    together: dict[str, Any] = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(SmoothFit)
        if isinstance(getattr(parts[0], field.name), Tensor)
    }
    return dataclasses.replace(parts[0], **together)


def _maps_of(
    fitter: "SmoothFitter | ComposedFitter",
    images: Tensor,
    psf: np.ndarray | None,
    noise_map: Values | None,
) -> np.ndarray | None:
    """Returns a noise map for each image, if there is any."""
    if psf is not None or noise_map is not None:
        composed_fitter(fitter)
    given = given_noise_map(noise_map, (fitter.size, fitter.size))
    if given is None:
        return None
    if given.ndim == 3 and len(given) != len(images):
        raise InputError(f"noise_map holds {len(given)} maps for {len(images)} images")
    shape = (len(images), *given.shape[-2:])
    return np.broadcast_to(given, shape) if given.ndim in (2, 3) else given


def composed_fitter(fitter: "SmoothFitter | ComposedFitter") -> ComposedFitter:
    """Returns a fit that takes images with a camera of their own; raises InputError if it is none."""
    if not isinstance(fitter, ComposedFitter):
        raise InputError(
            f"survey {fitter.survey.name}: its camera is always the same; psf and noise_map are for images of composed surveys, such as hst"
        )
    return fitter


def smooth_fitter(
    survey: str | AnySurvey,
    *,
    noise: str = "original",
    size: tuple[int, ...] | int | None = None,
    exposure_known: bool = False,
    free_place: tuple[str, ...] = (),
) -> "SmoothFitter | ComposedFitter":
    """Returns the fit of a survey of any kind; the arguments are those of :class:`SmoothFitter`."""
    found = get_any_survey(survey)
    if isinstance(found, ComposedSurvey):
        return ComposedFitter(
            found, noise=noise, size=size, exposure_known=exposure_known, free_place=free_place
        )
    return SmoothFitter(
        found, noise=noise, size=size, exposure_known=exposure_known, free_place=free_place
    )


class SmoothFitter:
    """The fit of one survey, ready for any number of batches."""

    def __init__(
        self,
        survey: str | Survey,
        *,
        noise: str = "original",
        size: tuple[int, ...] | int | None = None,
        exposure_known: bool = False,
        free_place: tuple[str, ...] = (),
    ) -> None:
        """Defines the fit.

        Args:
            survey: The survey or its name.
            noise: ``"original"``, ``"instrument"`` or ``"none"``.
            size: Side of the images in pixels; the survey's if None.
            exposure_known: The exposure time will be given with the images.
            free_place: See :func:`fit_smooth`.
        """
        problem = FitProblem.of_survey(
            survey, noise=noise, size=size, exposure_known=exposure_known, free_place=free_place
        )
        self._model = SmoothModel(problem)
        self._starting_points: StartingPoints | None = None

    @property
    def problem(self) -> FitProblem:
        """What is free, within which bounds, on which pixels."""
        return self._model.problem

    @property
    def survey(self) -> Survey:
        """The survey that is fitted."""
        return self.problem.survey

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.problem.size

    @property
    def names(self) -> tuple[str, ...]:
        """The P free parameters."""
        return self.problem.names

    def __call__(
        self,
        images: Tensor | np.ndarray,
        exposure_time: Values | None = None,
        *,
        steps: int = STEPS,
        detail: bool = False,
        place: tuple[float, float, float] | Tensor | None = None,
    ) -> SmoothFit:
        """Fits images (B, 1, H, W) with exposure times (B,) where known.

        The other arguments are those of :func:`fit_smooth`; ``place`` may be (B, 3), one for each image.
        """
        images = given_images(images)
        if images.shape[1:] != (1, self.size, self.size):
            raise InputError(
                f"images have shape {tuple(images.shape)}, but {(1, self.size, self.size)} each are fitted"
            )
        with torch.no_grad():
            seconds = given_seconds(exposure_time, len(images))
            return self._fit(images, seconds, steps, detail, place)

    def prepare(self, device: torch.device | str = "cpu") -> "SmoothFitter":
        """Computes all that does not depend on the images, which a graph then holds as constants; see :meth:`residual`."""
        problem = self.problem.to(torch.device(device))
        if problem.axis.device != self.problem.axis.device:
            self._model, self._starting_points = SmoothModel(problem), None
        if self._starting_points is None:
            self._starting_points = StartingPoints.of(self._model)
        return self

    def start(self, images: Tensor) -> Tensor:
        """Returns (B, P) where the fit of images (B, 1, H, W) begins: logarithms of positive parameters. :meth:`prepare` comes first."""
        return self._start(*_finite(images))

    def residual(
        self, images: Tensor, *, steps: int = STEPS, detail: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The residual alone (B, 1, H, W) of images (B, 1, H, W), by tensor operations that ``torch.export`` can follow, and the places (B, 3).

        Nothing here depends on values but by masks. :meth:`prepare` comes first. With ``detail`` that is a second channel. A lens is looked
        for from within a pixel of where the survey has it alone.
        """
        data, known = _finite(images)
        # Not len(), which would make the batch size of the trace that of every batch.
        seconds = self.problem.seconds(data.shape[0], None, data.device)
        start = self._start(data, known)
        u, state = fit_by_tensors(self._model, start, data, known, seconds, steps)
        known = self._model.seen(self.problem.physical(u)[0], known)
        maps = [_in_noise(state, data, known)]
        if detail:
            maps.append(residual_detail(self._model, u, _bounded(maps[0]), known, seconds))
        places = self._model.places(self.problem.physical(u)[0])
        return _bounded(torch.stack(maps, 1)), places.expand(data.shape[0], -1)

    def places(self, fit: SmoothFit, known: Tensor) -> Tensor:
        """Returns (B, 3) where the lenses of a fit lie, in the order of ``PLACE``; what was not fitted as it is ``known`` (B, 3)."""
        columns = [
            fit.values[:, self.names.index(name)] if name in self.names else known[:, k]
            for k, name in enumerate(PLACE)
        ]
        return torch.stack(columns, 1)

    def _start(self, data: Tensor, known: Tensor, far: bool = False) -> Tensor:
        assert self._starting_points is not None  # by prepare
        return self._starting_points.nearest(data, known, far)

    def _fit(
        self,
        images: Tensor,
        exposure_time: Tensor | None,
        steps: int,
        detail: bool,
        place: tuple[float, float, float] | Tensor | None,
    ) -> SmoothFit:
        data, known = _finite(images)
        self.prepare(data.device)
        seconds = self.problem.seconds(len(data), exposure_time, data.device)
        fit = fit_by_kernel if self._compiled(data.device) else fit_by_tensors
        model, places = self._model, None
        if place is not None:
            places = _given_places(place, len(data)).to(data.device)
            model = model.at(places)
        start = self._start(data, known)
        u, state = fit(model, start, data, known, seconds, steps)
        # Where the lens seems to be elsewhere, from another start: the first may have been half a ring's other half.
        rows = self._elsewhere(start, u, state).nonzero()[:, 0]
        if len(rows):
            part = data[rows], known[rows]
            there = model if places is None else model.at(places[rows])
            far = self._start(*part, far=True)
            other_u, other = fit(there, far, *part, seconds[rows], steps)
            better = other.chi2 < state.chi2[rows]
            u[rows[better]] = other_u[better]
            state.replace(rows[better], other, better)
        known = model.seen(self.problem.physical(u)[0], known)
        found = _result(self.problem, u, state, data, known)
        if not detail:
            return found
        # A few images at a time, whose patterns stay in a CPU's cache
        fine = []
        for rows in torch.arange(len(data), device=data.device).split(
            8 if data.device.type == "cpu" else 64
        ):
            there = model if places is None else model.at(places[rows])
            left = found.residual[rows, 0]
            fine.append(residual_detail(there, u[rows], left, known[rows], seconds[rows]))
        return dataclasses.replace(found, detail=_bounded(torch.cat(fine))[:, None])

    def _elsewhere(self, start: Tensor, u: Tensor, state: FitState) -> Tensor:
        """Returns (B,) bool: a lens whose place is fitted began or ended elsewhere, or is not fitted well."""
        if not self.problem.free_place:
            return torch.zeros(len(u), dtype=torch.bool, device=u.device)
        columns = [self.names.index(name) for name in self.problem.free_place if name in PLACE[:2]]
        moved = start[:, columns].any(1) | (u[:, columns].abs() > _USUAL_PLACE).any(1)
        return moved | (state.chi2 > _USUAL_CHI2 * self.size**2)

    def _compiled(self, device: torch.device) -> bool:
        return can_be_compiled(self.problem, device)


def _given_places(place: tuple[float, float, float] | Tensor, n: int) -> Tensor:
    """Returns where the lenses of n images lie (n, 3); raises InputError for what are no places."""
    given = (
        place.detach()
        if isinstance(place, Tensor)
        else torch.from_numpy(given_array(place, "place"))
    )
    # A GPU is not waited for.
    known = given.device.type != "cpu" or bool(torch.isfinite(given).all())
    if given.shape not in ((3,), (n, 3)) or not known:
        raise InputError(
            f"place must be three numbers, {', '.join(PLACE)}, or as many for each image; not {place!r}"
        )
    return given.double().expand(n, -1)


def _result(
    problem: FitProblem, u: Tensor, state: FitState, data: Tensor, known: Tensor
) -> SmoothFit:
    """Returns where a fit ended in physical units, its errors, and whether it has converged."""
    left = damped_step(state.hessian, state.gradient, torch.zeros(len(u), device=u.device))
    covariance = inverse(state.hessian)
    # How far a further step would go, in standard deviations
    moved = (left * state.gradient).sum(1).clamp(min=0).sqrt()
    free = ((u > problem.low + 1e-6) & (u < problem.high - 1e-6)).all(1)
    # How many standard deviations the model's pattern is above a flat image
    weight = state.inverse_variance
    share = weight / weight.sum((1, 2), keepdim=True).clamp(min=1e-30)
    pattern = state.mean - (state.mean * share).sum((1, 2), keepdim=True)
    light = (pattern * weight * (data - (data * share).sum((1, 2), keepdim=True))).sum((1, 2))
    noise = (pattern.square() * weight).sum((1, 2)).clamp(min=1e-30).sqrt()
    pixels = known.sum((1, 2)) - len(problem.names)
    converged = (moved < _CONVERGED) & free & (light / noise > _SIGNIFICANT) & (pixels > 0)
    residual = _in_noise(state, data, known)
    chi2 = residual.square().sum((1, 2)) / pixels.clamp(min=1)
    values, slope = problem.physical(u)
    covariance = slope[:, :, None] * covariance * slope[:, None, :]
    fine = torch.isfinite(chi2) & torch.isfinite(covariance).flatten(1).all(1)
    return SmoothFit(
        names=problem.names,
        values=values,
        covariance=torch.nan_to_num(covariance),
        model=state.mean[:, None],
        sigma=state.sigma[:, None],
        residual=_bounded(residual)[:, None],
        chi2=torch.nan_to_num(chi2, nan=1e12, posinf=1e12).clamp(max=1e12),
        converged=converged & fine,
    )


def _finite(images: Tensor) -> tuple[Tensor, Tensor]:
    """Data (B, H, W) float32, 0 where they are not finite, and where they are."""
    data = images[:, 0].to(torch.float32)
    known = torch.isfinite(data)
    return torch.where(known, data, 0.0).clamp(-1e30, 1e30), known


def _in_noise(state: FitState, data: Tensor, known: Tensor) -> Tensor:
    """What the model leaves, in standard deviations (B, H, W)."""
    return torch.where(known, (data - state.mean) / state.sigma, 0.0)


def _bounded(residual: Tensor) -> Tensor:
    return torch.nan_to_num(residual, posinf=1e6, neginf=-1e6).clamp(-1e6, 1e6)
