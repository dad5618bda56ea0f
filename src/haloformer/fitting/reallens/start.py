"""Where the fit begins, found from the image alone: the lens's light, the arcs that it leaves, and the ring that they make."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, optimize

from haloformer.fitting.reallens.correlation import larger_areas
from haloformer.fitting.reallens.evidence import Problem
from haloformer.fitting.reallens.light import SIZES, Gaussian, LightBasis, gaussians, not_negative
from haloformer.fitting.reallens.masses import Mass
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.operators import Camera, Source, SourceGrid
from haloformer.fitting.reallens.optimise import Fit, Report, fit_at, improve, smoothed
from haloformer.fitting.reallens.side_by_side import side_by_side
from haloformer.fitting.reallens.source_prior import Smoothness

_SIGNIFICANT = 4.0  # σ, of the smoothed arcs
_FAINT = 0.2  # of the brightest arc: what is below may be left by the lens's light
_ROUNDS = 4
_RINGS = 6
_POINTS = 250  # of the arcs' light
_SMALL = 1e-5  # of a parameter, for slopes
_WEIGHT = 100.0  # as if there were so many independent points
_SOURCES = (0.1, 0.4)  # arcsec: the larger a source may be, the more counts what lenses are
_MARGIN = 2.5  # of the fine grid about the bright part of the source: what it leaves to the broad one bends the lens
_MARGIN_EVEN = 1.4  # of a source of even variance, which evidence prefers on a small grid
_MOST_SIDE = 36
_LEAST_SIDE = 12
_COEFFICIENTS = 0.5  # of the fine grid per fitted pixel, at most
_BROAD_SIDE = 15
_TRIED = 2
_SLOPES = (1.8, 2.08, 2.35)
_COARSE_SIDE = 18
_BEST = 2  # fits that go on in any case
_APART = 0.05  # by which a parameter of others differs at least, if they go on


@dataclass(frozen=True, eq=False)
class Light:
    """The lens's light as a first fit without the source finds it.

    Attributes:
        x: Centre in arcsec, as ``y``.
        y: See ``x``.
        components: The Gaussians that it may be made of; none without lens light.
        arcs: (H, W) image less the lens's light.
        significance: (H, W) the arcs, smoothed, in units of the noise; 0 where no pixel counts.
    """

    x: float
    y: float
    components: Sequence[Gaussian]
    arcs: np.ndarray
    significance: np.ndarray


_AROUND, _LEAST_NEAR = (1.0, 2.0, 4.0), 0.1
"""Widths in pixels of Gaussians, and the share of one that pixels which count must make, with which others are taken for those around."""

_REACH, _REACH_OF_START = 0.6, 0.2  # arcsec, within which the lens's light is brightest


def first_light(seen: Observation, present: bool, near: tuple[float, float] | None = None) -> Light:
    """Fits the lens's light alone, with pixels left out that stand above it.

    Args:
        seen: The image.
        present: Whether there is lens light; else it has been subtracted.
        near: x, y in arcsec about which its middle is; None: that of the image.
    """
    x_axis, y_axis = seen.axes()
    X, Y = np.meshgrid(x_axis, y_axis)
    if not present:
        arcs = np.where(seen.mask, seen.image, 0.0)
        return Light(*(near or (0.0, 0.0)), [], arcs, _significance(seen, arcs))
    x0, y0 = near or (0.0, 0.0)
    reach = _REACH if near is None else _REACH_OF_START
    x, y, q, angle = _shape(seen, X - x0, Y - y0, reach)
    shape = x + x0, y + y0, q, angle
    camera = Camera.of(seen.mask, seen.noise, seen.psf, seen.pixel_scale, 1)
    data = (seen.image / seen.noise)[seen.mask]
    kept = np.ones(len(data), bool)
    for k in range(_ROUNDS):
        if k == 1:  # what the arcs are is known roughly
            shape = _refined(seen, camera, data, kept, shape)
        if k <= 1:
            x, y, _, _ = shape
            components = _components(seen, shape)
            columns = LightBasis.of(camera, components).columns
        amplitudes = not_negative(columns[kept], data[kept])
        arcs = np.zeros(seen.image.shape)
        arcs[seen.mask] = (data - columns @ amplitudes) * seen.noise[seen.mask]
        significance = _significance(seen, arcs)
        kept = ~ndimage.binary_dilation(significance > 3, iterations=2)[seen.mask]
        kept |= np.hypot(X - x, Y - y)[seen.mask] < 4 * seen.pixel_scale
    return Light(x, y, components, arcs, significance)


def _shape(
    seen: Observation, X: np.ndarray, Y: np.ndarray, reach: float
) -> tuple[float, float, float, float]:
    """Centre, axis ratio and angle of the light that is brightest within reach of the middle, by moments.

    Where the lens's centre is masked, its light is what lies around: else the middle of a ring's half would be its centre.
    """
    image = _filled(seen)
    blurred = ndimage.gaussian_filter(image, 1.0)
    near = (np.hypot(X, Y) < reach) & seen.mask
    if not near.any():
        return 0.0, 0.0, 1.0, 0.0
    peak = np.argmax(np.where(near, blurred, -np.inf))
    x, y = float(X.flat[peak]), float(Y.flat[peak])
    hidden = ~seen.mask & (np.hypot(X, Y) < reach)
    if hidden.any() and np.hypot(X - x, Y - y)[hidden].min() < 4 * seen.pixel_scale:
        x, y = 0.0, 0.0  # the peak is beside what is masked: the lens's centre is
    for width in (0.3, 0.3, 0.3):
        weight = np.clip(image, 0, None) * (np.hypot(X - x, Y - y) < width)
        total = weight.sum()
        if total <= 0:
            return 0.0, 0.0, 1.0, 0.0
        x, y = float((weight * X).sum() / total), float((weight * Y).sum() / total)
    dx, dy = X - x, Y - y
    window = np.exp(-(dx**2 + dy**2) / (2 * 0.4**2))
    weight = np.clip(image, 0, None) * window
    xx, yy, xy = ((weight * m).sum() / weight.sum() for m in (dx * dx, dy * dy, dx * dy))
    # The window makes the light rounder; twice its ellipticity is near enough to begin with.
    size = min(0.6, 2 * float(np.hypot(xx - yy, 2 * xy) / (xx + yy)))
    q = float(np.sqrt((1 - size) / (1 + size)))
    return x, y, min(q, 0.97), float(np.arctan2(2 * xy, xx - yy) / 2)


def _filled(seen: Observation) -> np.ndarray:
    """Returns the image (H, W) with pixels that do not count as those around them; 0 where there are none."""
    image, known = np.where(seen.mask, seen.image, 0.0), seen.mask.astype(float)
    for width in _AROUND:
        if known.all():
            break
        near = ndimage.gaussian_filter(known, width)
        found = ndimage.gaussian_filter(image * known, width) / np.maximum(near, _LEAST_NEAR)
        new = (known == 0) & (near > _LEAST_NEAR)
        image[new], known[new] = found[new], 1.0
    return image


def _components(seen: Observation, shape: tuple[float, float, float, float]) -> Sequence[Gaussian]:
    largest = min(4.0, 0.7 * float(seen.radius()[seen.mask].max()))
    return gaussians(*shape, seen.pixel_scale, largest)


def _refined(
    seen: Observation,
    camera: Camera,
    data: np.ndarray,
    kept: np.ndarray,
    shape: tuple[float, float, float, float],
) -> tuple[float, float, float, float]:
    """Returns centre, axis ratio and angle with which Gaussians of one shape describe the pixels (P,) that are kept best."""
    x, y, q, angle = shape
    size = (1 - q) / (1 + q)
    begin = np.array([x, y, size * np.cos(2 * angle), size * np.sin(2 * angle)])

    def left(at: np.ndarray) -> np.ndarray:
        components = _components(seen, _shape_of(at))[:SIZES]
        columns = LightBasis.of(camera, components).columns[kept]
        found: np.ndarray = data[kept] - columns @ not_negative(columns, data[kept])
        return found

    reach = np.array([2 * seen.pixel_scale, 2 * seen.pixel_scale, 0.3, 0.3])
    best = optimize.least_squares(
        left, begin, bounds=(begin - reach, begin + reach), x_scale=reach / 20, diff_step=1e-3,
        loss="soft_l1", max_nfev=8,
    )  # fmt: skip
    return _shape_of(best.x)


def _shape_of(at: np.ndarray) -> tuple[float, float, float, float]:
    size = min(float(np.hypot(at[2], at[3])), 0.6)
    return float(at[0]), float(at[1]), (1 - size) / (1 + size), float(np.arctan2(at[3], at[2]) / 2)


def _significance(seen: Observation, arcs: np.ndarray) -> np.ndarray:
    """Light smoothed by a Gaussian of one pixel, divided by its noise."""
    inside = seen.mask.astype(float)
    total = ndimage.gaussian_filter(arcs * inside, 1.0)
    width = 2 * np.sqrt(np.pi)  # the root of 1/Σ w² of a Gaussian of σ = 1
    width /= np.sqrt(larger_areas(seen.correlation))
    noise = np.where(seen.mask, seen.noise, np.inf)
    found: np.ndarray = np.where(seen.mask, total * width / noise, 0.0)
    return found


def arc_light(seen: Observation, light: Light) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns positions x, y and light (N,) of the significant pixels of the arcs."""
    X, Y = np.meshgrid(*seen.axes())
    away = np.hypot(X - light.x, Y - light.y) > 4 * seen.pixel_scale
    clear = max(_SIGNIFICANT, _FAINT * float(np.where(away, light.significance, 0.0).max()))
    bright = (light.significance > clear) & away & (light.arcs > 0)
    return X[bright], Y[bright], light.arcs[bright]


def traced_source(
    mass: Mass,
    vector: np.ndarray,
    arcs: tuple[np.ndarray, np.ndarray, np.ndarray],
    seen: Observation,
    step: float,
    side: int | None = None,
    middle: tuple[float, float] | None = None,
    falling: bool = True,
) -> Source:
    """Returns grids of the source: a fine one about where the arcs' light comes from, a broad one where other light may.

    Args:
        mass: The mass model.
        vector: Its parameters.
        arcs: Of :func:`arc_light`.
        seen: The image.
        step: Distance of the coefficients in the middle of the fine grid in arcsec.
        side: Coefficients per side; None: as many as reach the light, or the most, which are then wider apart outwards.
        middle: Of the source; None: of the arcs' light.
        falling: Whether the source's standard deviation falls outwards; if not, the fine grid is smaller, and its coefficients evenly spaced.
    """
    x, y, light = arcs
    beta_x, beta_y = mass.source_positions(x, y, vector)
    middle = middle or (_weighted_median(beta_x, light), _weighted_median(beta_y, light))
    far = np.maximum(np.abs(beta_x - middle[0]), np.abs(beta_y - middle[1]))
    order = np.argsort(far)
    share = np.cumsum(light[order]) / light.sum()
    radius = float(far[order][np.searchsorted(share, 0.97)])
    n, step, reach = _spacing(radius, step, side, falling, int(seen.mask.sum()))
    fine = SourceGrid(*middle, n, step, reach)
    theta_E = float(vector[mass.names.index("theta_E")])
    rim = float(seen.radius()[seen.mask].max()) - theta_E
    broad = max(rim + float(np.hypot(*middle)), 0.6 * theta_E, 1.3 * fine.half)
    broad_step = 2 * broad / (_BROAD_SIDE + 1)
    return Source(fine, SourceGrid(*middle, _BROAD_SIDE, broad_step))


def _spacing(
    radius: float, step: float, side: int | None, falling: bool, pixels: int
) -> tuple[int, float, float | None]:
    """Returns coefficients per side, their distance in the middle, and the reach, of a grid about light within a radius in arcsec.

    Where they would be too many, evenly spaced, they are wider apart outwards.
    """
    half = (_MARGIN if falling else _MARGIN_EVEN) * radius + 2 * step
    most = np.clip(int(np.sqrt(_COEFFICIENTS * pixels)), _LEAST_SIDE, _MOST_SIDE)
    n = side or int(np.clip(2 * np.ceil(half / step) + 1, _LEAST_SIDE, most))
    if not falling:
        return n, max(2 * half / n, step) if side else step, None
    evenly = (n + 1) / 2 * step
    if evenly >= half:
        return n, step, None

    def beyond(reach: float) -> float:
        return reach * float(np.sinh(evenly / reach)) - half

    return n, step, float(optimize.brentq(beyond, evenly / 20, 100 * evenly))


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(share, share[-1] / 2)])


_FARTHEST = 0.8  # arcsec that a lens without light is off the middle at most where fits begin


def compact_lenses(
    mass: Mass,
    light: Light,
    arcs: tuple[np.ndarray, np.ndarray, np.ndarray],
    gamma: float,
    size: float,
) -> list[np.ndarray]:
    """Returns parameters (K,) of lenses that bring the arcs' light together in the source's plane; the best first.

    Neither source nor point-spread function is needed for this, so that it is a matter of milliseconds. Slope and multipoles stay.

    Args:
        mass: The mass model.
        light: The lens's light.
        arcs: Of :func:`arc_light`.
        gamma: Slope.
        size: Of the source in arcsec.
    """
    x, y, weight = arcs
    some = np.argsort(weight)[::-1][:_POINTS]
    x, y, weight = x[some], y[some], weight[some]
    root = np.sqrt(_WEIGHT * weight / weight.sum())
    names, (mean, sd) = mass.names, mass.expected()
    place = () if light.components else ("x", "y")  # which is that of the light, if there is any
    free = [names.index(name) for name in ("theta_E", "e1", "e2", "gamma1", "gamma2", *place)]
    base = mean.copy()
    base[[names.index(name) for name in ("gamma", "x", "y")]] = gamma, light.x, light.y

    def spreads(values: np.ndarray) -> np.ndarray:
        """(V, M) how far apart the light comes from, and how unusual the lenses (V, 5 or 7) are."""
        vectors = np.tile(base, (len(values), 1))
        vectors[:, free] = values
        alpha_x, alpha_y = mass.deflection(x, y, vectors)
        far = []
        for beta in (x - alpha_x, y - alpha_y):
            middle = np.average(beta, axis=1, weights=weight)
            far.append(root * (beta - middle[:, None]) / size)
        away = (values - mean[free])[:, 1:] / sd[free][1:]
        return np.concatenate([*far, away], axis=1)

    def spread(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = spreads(values[None])[0]
        return found

    def slopes(values: np.ndarray) -> np.ndarray:
        ends = spreads(values + _SMALL * np.concatenate([np.eye(len(free)), -np.eye(len(free))]))
        found: np.ndarray = (ends[: len(free)] - ends[len(free) :]).T / (2 * _SMALL)
        return found

    distance = np.hypot(x - light.x, y - light.y)
    low, high = float(distance.min()), float(distance.max())
    found = []
    least, most = [0.3 * low], [1.2 * high]
    for limit in (0.35, 0.35, 0.3, 0.3, *[_FARTHEST] * len(place)):
        least.append(-limit)
        most.append(limit)
    for theta_E in np.linspace(max(0.6 * low, 0.35 * high), high, _RINGS):
        begin = np.array([theta_E, 0.01, 0.01, *[0.0] * (len(free) - 3)])
        best = optimize.least_squares(
            spread, begin, slopes, bounds=(least, most), loss="soft_l1", max_nfev=25
        )
        vector = base.copy()
        vector[free] = best.x
        found.append((best.cost, vector))
    found.sort(key=lambda each: float(each[0]))
    return _different([vector for _, vector in found])


def _different(vectors: list[np.ndarray]) -> list[np.ndarray]:
    """Leaves out what is nearly the same as one before."""
    kept: list[np.ndarray] = []
    for vector in vectors:
        if all(np.abs(vector - other).max() > 0.02 for other in kept):
            kept.append(vector)
    return kept


def coarse_fits(
    problem: Problem,
    light: Light,
    arcs: tuple[np.ndarray, np.ndarray, np.ndarray],
    seen: Observation,
    report: Report | None = None,
    vectors: Sequence[np.ndarray] | None = None,
    falling: bool = True,
    threads: int = 1,
) -> list[Fit]:
    """Returns the best fits on a coarse source; the best first.

    Args:
        problem: With one ray per pixel, perhaps of a part of the pixels.
        light: The lens's light.
        arcs: Of :func:`arc_light`.
        seen: The image.
        report: Called after each.
        vectors: Parameters (K,) with which fits begin; None: found from the image alone.
        falling: Whether the source's standard deviation falls outwards.
        threads: In which fits run side by side.
    """
    mass = problem.mass
    bright = float(np.percentile(arcs[2], 90)) / 2
    if vectors is None:
        vectors = [
            vector
            for gamma in _SLOPES
            for size in _SOURCES
            for vector in compact_lenses(mass, light, arcs, gamma, size)[:_TRIED]
        ]

    def begin(vector: np.ndarray, _: Report) -> Fit:
        step = 0.6 * seen.pixel_scale
        source = traced_source(mass, vector, arcs, seen, step, _COARSE_SIDE, falling=falling)
        size = source.fine.half / (2 if falling else 1)
        extent = size if falling else np.inf
        smoothness = Smoothness(bright, 0.3 * size, 0.1 * bright, extent)
        return fit_at(problem, source, vector, smoothness)

    def goes_on(fit: Fit, report: Report) -> Fit:
        return smoothed(improve(fit, 3, 5.0, report), lengths_of(fit.source), 2.0)

    def ends(fit: Fit, report: Report) -> Fit:
        return improve(fit, 6, 2.0, report=report)

    def all_of(work: Callable[[Any, Report], Fit], given: Sequence[Any]) -> list[Fit]:
        jobs = [functools.partial(work, each) for each in given]
        return sorted(side_by_side(jobs, report, threads=threads), key=lambda fit: fit.evidence)

    tried = all_of(begin, vectors)
    better = all_of(goes_on, _spread_over_slopes(tried))
    return all_of(ends, _worth_going_on(better))


def _worth_going_on(fits: list[Fit]) -> list[Fit]:
    """The best fits, and those of other lenses: the slope alone makes none, which all of them go on to look for."""
    kept = fits[:_BEST]
    of_lens = np.array([name != "gamma" for name in fits[0].problem.mass.names])
    for fit in fits[_BEST:]:
        if all(np.abs(fit.vector - one.vector)[of_lens].max() > _APART for one in kept):
            kept.append(fit)
    return kept


def _spread_over_slopes(fits: list[Fit]) -> list[Fit]:
    """The best fit of each slope, and the best of the others."""
    slopes = [fit.value("gamma") for fit in fits]
    first = [slopes.index(slope) for slope in dict.fromkeys(slopes)]
    rest = [k for k in range(len(fits)) if k not in first]
    return [fits[k] for k in sorted([*first, *rest[:1]])]


def lengths_of(source: Source) -> tuple[float, float]:
    """Returns the shortest and the longest correlation that a source's fine grid can show, in arcsec."""
    return 0.5 * source.fine.step, 4 * source.fine.half
