"""One perturber beside the smooth lens: a linear scan for where it may be, then full fits from the best places.

A scan alone is not enough: it keeps source and lens to first order, and prefers other places, even negative masses (seen in
J0946+1006), where full fits of everything do not.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from haloformer.fitting.reallens.evidence import Problem, project, residual
from haloformer.fitting.reallens.masses import LARGEST_M, Mass, Prior
from haloformer.fitting.reallens.observation import Observation
from haloformer.fitting.reallens.optimise import (
    Fit,
    Report,
    covariance,
    fit_at,
    improve,
    settled,
)
from haloformer.fitting.reallens.searches import Place, Search, on_grid_of
from haloformer.fitting.reallens.side_by_side import side_by_side
from haloformer.fitting.reallens.stages import Stages
from haloformer.fitting.reallens.start import lengths_of

_SCAN_M = 5e-3  # arcsec², of the mass that is scanned with
SPACING, COARSE_SPACING = 0.08, 0.12
"""Of the places of a scan, in Einstein radii: as is shown, and as is enough where fits begin."""
_NEAR_LIGHT = 0.35  # of the Einstein radius: as far from the arcs a perturber may be
_HOPEFUL = 20.0  # of −2 ln evidence: what is so much worse than the finished best is left
_APART = 0.15  # of the Einstein radius
_RING = 0.12  # of the Einstein radius: how far around the best perturber others are tried
_NEIGHBOURS = 8
_HOPS = 3  # at most
_GAIN = 1.0  # of −2 ln evidence, of a hop at least


@dataclass(frozen=True, eq=False)
class Scan:
    """What a perturber at each place would explain, source and smooth lens refitted to first order.

    Attributes:
        x: (N,) places in arcsec, as ``y``.
        y: See ``x``.
        m: (N,) best M / (π Σ_crit) in arcsec²; may be negative.
        gain: (N,) by how much χ² falls.
        shape: Rows and columns of the grid, centred on the image, of which the places are a part.
        where: (N,) where they are in it.
        step: Of the grid in arcsec.
    """

    x: np.ndarray
    y: np.ndarray
    m: np.ndarray
    gain: np.ndarray
    shape: tuple[int, int]
    where: np.ndarray
    step: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a place is one of those that were scanned, or between them."""
        return float(np.hypot(self.x - x, self.y - y).min()) <= self.step

    @property
    def area(self) -> float:
        """Of the places together, in arcsec²."""
        return len(self.x) * self.step**2

    def picture(self) -> np.ndarray:
        """Δχ² on the grid (rows along y), with the sign of the mass; NaN where nothing was tried."""
        found = np.full(self.shape, np.nan)
        found.flat[self.where] = np.sign(self.m) * self.gain
        return found


@dataclass(frozen=True, eq=False)
class Detection:
    """The most probable perturber.

    Attributes:
        smooth: The best fit without one.
        fit: The fit with it.
        delta_evidence: By how much −2 ln evidence falls, source and lens light integrated over, at the best parameters of each model.
        delta_marginal: The same with all parameters integrated over, those of the perturber over all places that were scanned.
        others: Where starts ended: x, y, m and what each gains at its best parameters; first those that were finished, then those that were
            not, both beside the smooth lens; at last those that went no further than the lens and source of their own search, which they gain beside.
        covariance: (K, K) of all parameters.
    """

    smooth: Fit
    fit: Fit
    delta_evidence: float
    delta_marginal: float
    others: Sequence[tuple[float, float, float, float]]
    covariance: np.ndarray

    @property
    def significance(self) -> float:
        """√ΔE, all parameters integrated over: the σ of a Gaussian detection of this evidence; 0 where the evidence is against it."""
        return float(np.sqrt(max(self.delta_marginal, 0.0)))


def with_perturber(mass: Mass, profile: str, reach: float = np.inf) -> Mass:
    """Returns a mass model with a perturber, no farther from the middle than ``reach`` along x and y."""
    where = {f"perturber_{k}": Prior(0.0, 1e3, -reach, reach) for k in ("x", "y")}
    return dataclasses.replace(mass, perturber=profile, priors={**mass.priors, **where})


def scan(smooth: Fit, seen: Observation, profile: str, spacing: float = SPACING) -> Scan:
    """Scans for a perturber of positive or negative mass.

    Args:
        smooth: Best fit without one.
        seen: Its image.
        profile: Of the perturber.
        spacing: Of the places, in Einstein radii.
    """
    problem, camera = smooth.problem, smooth.problem.camera
    theta_E = smooth.value("theta_E")
    step = spacing * theta_E
    x, y, where, shape = _places(smooth, seen, theta_E, step)
    mass = with_perturber(problem.mass, profile)
    steep_x, steep_y = (each / smooth.scale for each in _steepness(smooth))
    lit = np.flatnonzero((steep_x != 0) | (steep_y != 0))
    brighter = np.zeros((len(camera.x), len(x)), np.float32)
    for k, place in enumerate(zip(x, y)):
        by_x, by_y = mass.perturbation(camera.x[lit], camera.y[lit], _SCAN_M, place, theta_E)
        brighter[lit, k] = -(steep_x[lit] * by_x + steep_y[lit] * by_y) / _SCAN_M
    change = camera.observe(brighter)
    jacobian, marginal, sd = _freedoms(smooth)
    left = change - project(problem, smooth.normal, smooth.solution, change)
    metric = jacobian.T @ marginal + np.diag(1 / sd**2)
    left = left - marginal @ np.linalg.solve(metric, jacobian.T @ left)
    weight = (change * left).sum(axis=0)
    score = change.T @ residual(problem, smooth.normal, smooth.solution)
    safe = np.maximum(weight, 1e-12)
    return Scan(x, y, score / safe, score**2 / safe, shape, where, step)


def _places(
    smooth: Fit, seen: Observation, theta_E: float, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Places near the arcs of the model, on a grid."""
    bright = np.zeros(seen.mask.shape)
    bright[seen.mask] = smooth.problem.camera.in_pixels(smooth.normal.A @ smooth.solution.source)
    arcs = (bright > 1.0) & seen.mask
    far = ndimage.distance_transform_edt(~arcs) * seen.pixel_scale
    x_axis, y_axis = seen.axes()
    reach = float(seen.radius()[seen.mask].max())
    n = int(reach / step)
    axis = np.arange(-n, n + 1) * step
    X, Y = np.meshgrid(axis, axis)
    column = np.clip(np.searchsorted(x_axis, X), 0, len(x_axis) - 1)
    row = np.clip(np.searchsorted(y_axis, Y), 0, len(y_axis) - 1)
    near = (far[row, column] < _NEAR_LIGHT * theta_E) & (np.hypot(X, Y) < reach)
    near &= np.hypot(X - smooth.value("x"), Y - smooth.value("y")) > 0.25 * theta_E
    return X[near], Y[near], np.flatnonzero(near), X.shape


def _steepness(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    slopes = [
        splines.gradient(fit.solution.source[part])
        for splines, part in zip(fit.normal.splines, fit.source.parts())
    ]
    return slopes[0][0] + slopes[1][0], slopes[0][1] + slopes[1][1]


def _freedoms(smooth: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jacobian (P, K), the same with source and light refitted, and prior widths (K,) of the lens, multipoles always among them."""
    mass = dataclasses.replace(smooth.problem.mass, multipoles=True)
    vector = np.zeros(len(mass.names))
    for k, name in enumerate(mass.names):
        if name in smooth.problem.mass.names:
            vector[k] = smooth.value(name)
    wide = dataclasses.replace(smooth, problem=smooth.problem.with_mass(mass), vector=vector)
    local = wide.slope()
    return local.jacobian, local.marginal, mass.expected()[1]


def best_places(found: Scan, theta_E: float, most: int) -> list[Place]:
    """Returns x, y and m of the best places with a positive mass, apart from each other; the best first."""
    places: list[Place] = []
    for k in np.argsort(np.where(found.m > 0, -found.gain, np.inf)):
        if found.m[k] <= 0 or len(places) == most:
            break
        x, y = float(found.x[k]), float(found.y[k])
        if all(np.hypot(x - u, y - v) > _APART * theta_E for u, v, _ in places):
            places.append((x, y, float(found.m[k])))
    return places


def detect(
    smooth: Fit,
    searches: Sequence[Search],
    scanned: Scan,
    profile: str,
    stages: Stages,
    report: Report | None = None,
    threads: int = 1,
) -> Detection | None:
    """Fits everything from some places; None if no place of a scan had a positive mass, or all fits left the places that were scanned.

    What leaves them for the middle of the lens takes its mass over, and is no perturber.

    Args:
        smooth: Best fit without a perturber.
        searches: With the places from which fits begin.
        scanned: Of :func:`scan` of the smooth fit: a perturber is somewhere there.
        profile: Of the perturber.
        stages: Keep what has been done.
        report: Called after each step.
        threads: In which fits run side by side.
    """
    theta_E = smooth.value("theta_E")
    reach = float(np.abs([scanned.x, scanned.y]).max()) + 2 * scanned.step
    problem = smooth.problem.with_mass(with_perturber(smooth.problem.mass, profile, reach))

    def begin(given: tuple[Search, Place], report: Report) -> Fit:
        search, (x, y, m) = given
        twin = search.twin
        vector = np.concatenate([twin.vector, [np.clip(m, 0.2 * _SCAN_M, 4 * _SCAN_M), x, y]])
        return improve(
            fit_at(of_search(search), twin.source, vector, twin.smoothness), 6, 3.0, report
        )

    def goes_on(given: tuple[Search, Fit], report: Report) -> Fit:
        search, fit = given
        return improve(search.in_full(fit, problem), 8, 1.0, report)

    def moves(vector: np.ndarray, report: Report) -> Fit:
        begun = fit_at(problem, better[0].source, vector, better[0].smoothness)
        return improve(begun, 3, 1.0, report)

    def ends(fit: Fit, report: Report) -> Fit:
        return settled(fit, lengths_of(fit.source), 0.5, report)

    def of_search(search: Search) -> Problem:
        mass = with_perturber(search.twin.problem.mass, profile, reach)
        return smooth.problem.with_mass(mass)

    def stage(
        name: str, work: Callable[..., Fit], given: Sequence[Any], problems: Sequence[Problem] = ()
    ) -> list[Fit]:
        def one(k: int, each: Any, report: Report) -> Fit:
            its = problems[k] if problems else problem
            return stages.fit(f"{name}_{k + 1}", its, lambda: work(each, report))

        jobs = [functools.partial(one, k, each) for k, each in enumerate(given)]
        return side_by_side(jobs, report, threads=threads)

    def best_first(fits: list[Fit]) -> list[Fit]:
        """Those that stayed where it was scanned."""
        stay = [fit for fit in fits if scanned.holds(*_perturber(fit)[:2])]
        return sorted(stay, key=lambda fit: fit.evidence)

    begins = [(search, place) for search in searches for place in search.places]
    if not begins:
        return None
    begun = stage("perturber", begin, begins, [of_search(search) for search, _ in begins])
    hopeful: list[tuple[Search, Fit]] = []
    left: list[tuple[Search, Fit]] = []
    for search in searches:
        own = best_first([fit for (its, _), fit in zip(begins, begun) if its is search])
        apart = _apart(own, theta_E)
        hopeful += [(search, fit) for fit in apart[: search.most]]
        left += [(search, fit) for fit in apart[search.most :]]
    better = best_first(stage("perturber_better", goes_on, hopeful))
    if not better:
        return None
    for hop in range(_HOPS):
        beside = best_first(
            stage(f"perturber_beside_{hop + 1}", moves, _beside(better[0], theta_E)[:2])
        )
        if not beside or beside[0].evidence > better[0].evidence - _GAIN:
            break
        better[0] = beside[0]
    finished = stage("perturber_best", ends, better[:1])
    near = [
        fit for fit in _apart(better, theta_E)[1:] if fit.evidence < finished[0].evidence + _HOPEFUL
    ]
    finished = best_first(finished + stage("perturber_next", ends, near))
    if not finished:
        return None
    best = finished[0]
    spread = covariance(best)
    gain = marginal_of_smooth(smooth) - marginal_evidence(best, spread, scanned.area)
    if best.source != smooth.source and gain > 0:
        again = stages.fit("without", smooth.problem, lambda: _without(smooth, best, report))
        if again.evidence < smooth.evidence:
            gain += marginal_of_smooth(again) - marginal_of_smooth(smooth)
            smooth = again
    others = [fit for fit in better[1:] if not any(fit is each for each in near)]
    ended = [(*_perturber(fit), smooth.evidence - fit.evidence) for fit in [*finished, *others]]
    ended += [(*_perturber(fit), search.twin.evidence - fit.evidence) for search, fit in left]
    return Detection(smooth, best, smooth.evidence - best.evidence, gain, ended, spread)


def _apart(fits: Sequence[Fit], theta_E: float) -> list[Fit]:
    """Returns fits but for those whose perturber is where that of one before is."""
    kept: list[Fit] = []
    for fit in fits:
        if not any(_same_place(fit, other, theta_E) for other in kept):
            kept.append(fit)
    return kept


def _without(smooth: Fit, found: Fit, report: Report | None) -> Fit:
    """Returns the smooth fit from where one with a perturber ended, without it.

    That one may have come to a better lens, or a better grid of the source, which the smooth one did not find and the perturber has no part in.
    """
    vector = found.vector[: len(smooth.vector)]
    begun = fit_at(smooth.problem, found.source, vector, found.smoothness)
    return settled(improve(begun, 8, 1.0, report), lengths_of(found.source), 0.5, report)


def _beside(fit: Fit, theta_E: float) -> list[np.ndarray]:
    """Returns parameters (K,) with the perturber at places around it, all else as it was; the most probable first.

    Where the source has clumps, a place may be better than all near it and yet not the best.
    """
    names, found = fit.problem.mass.names, []
    own = [names.index("perturber_x"), names.index("perturber_y")]
    for angle in np.arange(_NEIGHBOURS) * 2 * np.pi / _NEIGHBOURS:
        vector = fit.vector.copy()
        vector[own] += _RING * theta_E * np.array([np.cos(angle), np.sin(angle)])
        vector = np.clip(vector, *fit.problem.mass.bounds())
        there = fit_at(fit.problem, fit.source, vector, fit.smoothness)
        found.append((there.evidence, vector))  # a fit itself takes 0.1 GB
    return [vector for _, vector in sorted(found, key=lambda each: each[0])]


def _perturber(fit: Fit) -> tuple[float, float, float]:
    x, y, m = (fit.value(f"perturber_{name}") for name in ("x", "y", "m"))
    return x, y, m


def _same_place(fit: Fit, other: Fit, theta_E: float) -> bool:
    dx, dy = (fit.value(f"perturber_{k}") - other.value(f"perturber_{k}") for k in ("x", "y"))
    return float(np.hypot(dx, dy)) < 0.05 * theta_E


def marginal_evidence(fit: Fit, spread: np.ndarray, places: float | None = None) -> float:
    """Returns −2 ln evidence with the mass's parameters integrated over, too, by Laplace's approximation.

    Args:
        fit: The best fit.
        spread: (K, K) covariance of its parameters.
        places: Area in arcsec² over which a perturber's place is uniform before; its m is, from 0 to :data:`~.masses.LARGEST_M`.
    """
    names = fit.problem.mass.names
    own = [k for k, name in enumerate(names) if name.startswith("perturber_")]
    _, sd = fit.problem.mass.expected()
    lens = np.setdiff1d(np.arange(len(names)), own)
    found = fit.evidence + 2 * float(np.log(sd[lens]).sum()) - float(np.linalg.slogdet(spread)[1])
    if own and places is not None:
        found += 2 * np.log(places * LARGEST_M) - len(own) * np.log(2 * np.pi)
    return found


def marginal_of_smooth(fit: Fit) -> float:
    """Returns :func:`marginal_evidence` of a fit without a perturber."""
    return marginal_evidence(fit, covariance(fit))


def prior_volume(fit: Fit, places: float | None) -> float:
    """Returns ln of what the priors of a fit's parameters, as :meth:`~.optimise.Fit.evidence` has them, integrate to.

    Args:
        fit: The fit.
        places: See :func:`marginal_evidence`.
    """
    names = fit.problem.mass.names
    _, sd = fit.problem.mass.expected()
    lens = [k for k, name in enumerate(names) if not name.startswith("perturber_")]
    found = float(np.log(sd[lens] * np.sqrt(2 * np.pi)).sum())
    return found if places is None else found + float(np.log(places * LARGEST_M))


def with_multipoles(smooth: Fit, twin: Fit, report: Report | None = None, threads: int = 1) -> Fit:
    """Fits multipoles of orders 1, 3 and 4 to what the smooth lens leaves: the usual impostors of perturbers.

    Args:
        smooth: The best fit without them.
        twin: Its :func:`~.searches.even_twin`. Fits come farther from there, and sometimes end at a worse place than one from the smooth lens.
        report: Called after each step.
        threads: In which both fits run side by side.
    """
    mass = dataclasses.replace(smooth.problem.mass, multipoles=True)
    problem = smooth.problem.with_mass(mass)

    def begun(fit: Fit) -> Fit:
        vector = np.concatenate([fit.vector, np.zeros(len(mass.names) - len(fit.vector))])
        return fit_at(problem, fit.source, vector, fit.smoothness)

    def from_smooth(report: Report) -> Fit:
        return improve(begun(smooth), 4, 2.0, report)

    def from_even(report: Report) -> Fit:
        coarse = improve(begun(twin), 8, 2.0, report)
        return improve(on_grid_of(smooth, twin, coarse, problem), 4, 2.0, report)

    both = side_by_side([from_smooth, from_even], report, threads=threads)
    best = min(both, key=lambda fit: fit.evidence)
    return settled(best, lengths_of(smooth.source), 0.5, report)
