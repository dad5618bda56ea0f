"""The best smooth lens of an image, with a pixelised source: from the image alone to the most probable mass model."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from haloformer.errors import InputError
from haloformer.fitting.reallens.correlation import whitening
from haloformer.fitting.reallens.evidence import Problem
from haloformer.fitting.reallens.light import LightBasis
from haloformer.fitting.reallens.masses import Mass
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.operators import Camera
from haloformer.fitting.reallens.optimise import (
    Fit,
    Report,
    covariance,
    fit_at,
    improve,
    settled,
    smoothed,
)
from haloformer.fitting.reallens.side_by_side import side_by_side
from haloformer.fitting.reallens.start import (
    Light,
    arc_light,
    coarse_fits,
    first_light,
    lengths_of,
    traced_source,
)
from haloformer.simulation.psf import resampled

_CORE = 2.5  # pixels about the lens's centre, which are left out where its light is present
_LEAST_ARC_PIXELS = 12
_COARSEST = 1.5  # pixels between the source's coefficients
_STEPS = 0.2, 0.5  # pixels, least and largest distance of the source's coefficients
_STEPS_IN_EXTENT = 4.0, 8.0
_CENTRE_SD = 0.05  # arcsec, of the mass about the light
_ANOTHER = 3.0  # standard deviations by which a parameter of another lens differs at least
NEARLY = 10.0
"""Differences of −2 ln evidence up to which another lens is worth telling: the image prefers the one to the other by less than 150 to 1."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image ready for fits.

    Attributes:
        seen: The image; pixels in the core of the lens's light do not count.
        light: The lens's light.
        basis: What it may be.
        camera: Of the fits.
        arcs: x, y, light (N,) of the significant pixels of the arcs.
        supersampling: Rays per side of a pixel.
        source_step: Distance of the source's coefficients in arcsec; None: by how large the source is.
        falling: Whether the source's standard deviation falls outwards.
    """

    seen: Observation
    light: Light
    basis: LightBasis
    camera: Camera
    arcs: tuple[np.ndarray, np.ndarray, np.ndarray]
    supersampling: int
    source_step: float | None
    falling: bool = True

    def problem(self, mass: Mass) -> Problem:
        """Returns what is fitted with a mass model."""
        data = self.camera.data(self.seen.image / self.seen.noise)
        return Problem(self.camera, data, self.basis.columns, mass)


def prepare(
    seen: Observation,
    lens_light: bool,
    supersampling: int = 2,
    source_step: float | None = None,
    falling: bool = True,
    near: tuple[float, float] | None = None,
) -> Prepared:
    """Finds the lens's light and the arcs.

    Args:
        seen: The image.
        lens_light: Whether there is light of the lens in the image; False if it has been subtracted.
        supersampling: Rays per side of a pixel.
        source_step: Distance of the source's coefficients in arcsec; None: half a pixel, and less where the source is smaller.
        falling: Whether the source's standard deviation falls outwards.
        near: x, y in arcsec about which the lens lies; None: the image's middle.

    Raises:
        InputError: There are no arcs, or the source's grid is coarser than the image.
    """
    if source_step is not None and not 0 < source_step <= _COARSEST * seen.pixel_scale:
        raise InputError(
            f"source_step is {source_step:g}″: it must be above 0 and at most {_COARSEST} pixels, {_COARSEST * seen.pixel_scale:g}″; a coarser source bends the lens"
        )
    light = first_light(seen, lens_light, near)
    if lens_light:
        X, Y = np.meshgrid(*seen.axes())
        core = np.hypot(X - light.x, Y - light.y) < _CORE * seen.pixel_scale
        seen = dataclasses.replace(seen, mask=seen.mask & ~core)
    arcs = arc_light(seen, light)
    if len(arcs[0]) < _LEAST_ARC_PIXELS:
        raise InputError(
            f"{seen.name}: no arcs are seen: beside the lens's light {len(arcs[0])} pixels stand out of the noise, fewer than {_LEAST_ARC_PIXELS}; nothing was fitted"
        )
    camera = _camera(seen, supersampling)
    basis = LightBasis.of(camera, light.components)
    return Prepared(seen, light, basis, camera, arcs, supersampling, source_step, falling)


def _camera(seen: Observation, supersampling: int) -> Camera:
    """Returns the camera of the fits: as fine as the point-spread function is known."""
    white = whitening(seen.mask, seen.correlation)
    if seen.sharp_psf is None or supersampling == 1:
        plain = Camera.of(seen.mask, seen.noise, seen.psf, seen.pixel_scale, supersampling)
        return plain.whitened(white)
    kernel = resampled(seen.sharp_psf, seen.sharp_scale, seen.pixel_scale / supersampling)
    fine = Camera.fine(seen.mask, seen.noise, kernel, seen.pixel_scale, supersampling)
    return fine.whitened(white)


_CUT_OUT = 0.2  # arcsec by which a lens without light usually lies off an image's middle


def centred(mass: Mass, light: Light) -> Mass:
    """Returns a mass model whose centre is expected at that of the light; where that was subtracted, somewhere about the image's middle."""
    priors = dict(mass.priors)
    sd = {} if light.components else {"sd": _CUT_OUT}
    priors["x"] = dataclasses.replace(priors["x"], mean=priors["x"].mean + light.x, **sd)
    priors["y"] = dataclasses.replace(priors["y"], mean=priors["y"].mean + light.y, **sd)
    return dataclasses.replace(mass, priors=priors)


def fit_smooth_lens(
    ready: Prepared,
    mass: Mass,
    report: Report | None = None,
    start: Mapping[str, float] | None = None,
    threads: int = 1,
) -> list[Fit]:
    """Fits power-law ellipsoid, shear and what else the mass model has.

    Args:
        ready: Of :func:`prepare`.
        mass: The mass model, without a perturber.
        report: Called after each step.
        start: Names and values with which to begin; None: without any start value.
        threads: In which fits run side by side.

    Returns:
        The best fit, and another one where there is another lens that is nearly as probable, which the errors of the first do not hold.
    """
    seen = ready.seen
    single = _camera(seen, 1)
    basis = LightBasis.of(single, ready.light.components)
    first = dataclasses.replace(ready, camera=single, basis=basis).problem(mass)
    vectors = None if start is None else [_vector(mass, start)]
    light, arcs, falling = ready.light, ready.arcs, ready.falling
    starts = coarse_fits(first, light, arcs, seen, report, vectors, falling, threads)
    probable = [fit for fit in starts[1:] if fit.evidence <= starts[0].evidence + NEARLY]
    error = _errors(starts[0]) if probable else np.inf
    others = [fit for fit in probable if _another(fit, starts[0], error)]
    jobs = [functools.partial(refine, ready, fit) for fit in (starts[0], *others[:1])]
    best, *rest = sorted(side_by_side(jobs, report, threads=threads), key=lambda fit: fit.evidence)
    if not rest:
        return [best]
    other, error = rest[0], _errors(best)
    told = other.evidence <= best.evidence + NEARLY and _another(other, best, error)
    return [best, other] if told else [best]


def _errors(fit: Fit) -> np.ndarray:
    """Returns the standard deviations (K,) of a fit's parameters."""
    return np.sqrt(np.diag(covariance(fit)))


def _another(fit: Fit, best: Fit, error: np.ndarray | float) -> bool:
    """Returns whether a fit is of another lens, by the errors (K,) of the parameters."""
    return bool((np.abs(fit.vector - best.vector) > _ANOTHER * error).any())


def _vector(mass: Mass, start: Mapping[str, float]) -> np.ndarray:
    """Returns parameters (K,) with the values of a start, within their bounds."""
    expected, (low, high) = mass.expected()[0], mass.bounds()
    values = [start.get(name, mean) for name, mean in zip(mass.names, expected)]
    found: np.ndarray = np.clip(values, low, high)
    return found


def refine(ready: Prepared, coarse: Fit, report: Report | None) -> Fit:
    """Goes on from a coarse fit at full resolution: mass and smoothness in turn, and once the source's grid."""
    fit = _about_its_source(ready, coarse)
    fit = smoothed(fit, lengths_of(fit.source), 3.0)
    fit = _about_its_source(ready, improve(fit, 6, 3.0, report))
    return settled(fit, lengths_of(fit.source), 0.5, report)


def _about_its_source(ready: Prepared, fit: Fit) -> Fit:
    """Returns a fit at full resolution on the most probable of some grids: about where the source is brightest or about its light, fine or finer.

    The two middles are apart where a galaxy has clumps, or a companion. A bright core needs a finer grid than how far the light falls tells.
    """
    before, fine, mass = fit.smoothness, fit.source.fine, fit.problem.mass
    problem, scale = ready.problem(mass), ready.seen.pixel_scale

    def on_grid(middle: tuple[float, float] | None, step: float) -> Fit:
        source = traced_source(
            mass, fit.vector, ready.arcs, ready.seen, step, None, middle, ready.falling
        )
        return fit_at(problem, source, fit.vector, before.on(fine, source.fine))

    finest, coarsest = (share * scale for share in _STEPS)
    steps = [float(np.clip(before.extent / n, finest, coarsest)) for n in _STEPS_IN_EXTENT]
    if ready.source_step is not None:
        steps = [ready.source_step]
    brightest = (fine.x + before.x, fine.y + before.y)
    middles = [None] if before.even else [brightest, None]
    tried = [(middle, on_grid(middle, steps[0])) for middle in middles]
    middle, best = min(tried, key=lambda each: each[1].evidence)
    if steps[-1] == steps[0]:
        return best
    return min(best, on_grid(middle, steps[-1]), key=lambda each: each.evidence)
