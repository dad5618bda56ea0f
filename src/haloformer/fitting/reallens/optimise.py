"""The most probable mass model: Gauss–Newton steps on the evidence, with the source's smoothness fitted between them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from haloformer.fitting.reallens.evidence import (
    Normal,
    Problem,
    Slope,
    Solution,
    normal_equations,
    slope,
    solve,
)
from haloformer.fitting.reallens.hyperparameters import best_smoothness
from haloformer.fitting.reallens.operators import Source, SourceGrid
from haloformer.fitting.reallens.source_prior import Smoothness

_LONGEST_STEP = 0.1
_MOST_TRIES = 6
_ROUNDS = 5
_BROKEN = 3.0  # times what a step gained, that it may have promised

Report = Callable[[str, float], None]
"""(what is being done, −2 ln evidence)."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A mass model's parameters, with the source and lens light that belong to them.

    Attributes:
        problem: What was fitted.
        source: Its grids.
        vector: (K,) parameters of ``problem.mass``.
        smoothness: Hyper-parameters.
        normal: Normal equations there.
        solution: Source and lens light.
        prior: Of the parameters, Σ ((p − mean)/sd)².
        converged: Whether the last step changed the evidence by less than was asked for.
    """

    problem: Problem
    source: Source
    vector: np.ndarray
    smoothness: Smoothness
    normal: Normal
    solution: Solution
    prior: float
    converged: bool = False

    @property
    def evidence(self) -> float:
        """−2 ln (evidence × prior of the parameters), but for constants."""
        return self.solution.evidence + self.prior

    def value(self, name: str) -> float:
        """A parameter's value by its name."""
        return float(self.vector[self.problem.mass.names.index(name)])

    @property
    def scale(self) -> float:
        """What lengths of the source are in units of those of an isothermal lens."""
        return self.problem.mass.scale(self.vector)

    def middle(self, grid: SourceGrid) -> tuple[float, float]:
        """Returns where the middle of one of the source's grids is in arcsec."""
        return self.problem.mass.source_place(grid.x, grid.y, self.vector)

    def slope(self) -> Slope:
        """Derivatives by the parameters; the prior's are not among them."""
        return slope(self.problem, self.source, self.vector, self.normal, self.solution)


def fit_at(problem: Problem, source: Source, vector: np.ndarray, smoothness: Smoothness) -> Fit:
    """Solves for source and lens light at some parameters."""
    normal = normal_equations(problem, source, vector)
    solution = solve(normal, source, smoothness)
    mean, sd = problem.mass.expected()
    prior = float((((vector - mean) / sd) ** 2).sum())
    return Fit(problem, source, vector, smoothness, normal, solution, prior)


def with_smoothness(fit: Fit, smoothness: Smoothness) -> Fit:
    """Returns a fit with other hyper-parameters."""
    solution = solve(fit.normal, fit.source, smoothness)
    return dataclasses.replace(fit, smoothness=smoothness, solution=solution)


def smoothed(fit: Fit, lengths: tuple[float, float], tolerance: float = 0.5) -> Fit:
    """Returns a fit with the smoothness of largest evidence for its parameters."""
    smoothness = best_smoothness(
        fit.normal, fit.source, fit.smoothness, fit.solution.evidence, lengths, tolerance
    )
    better = with_smoothness(fit, smoothness)
    return better if better.evidence < fit.evidence else fit


def settled(
    fit: Fit, lengths: tuple[float, float], tolerance: float, report: Report | None = None
) -> Fit:
    """Improves mass and smoothness in turn until the evidence changes no more.

    Args:
        fit: Where to begin.
        lengths: The shortest and the longest correlation, in arcsec.
        tolerance: In −2 ln evidence.
        report: Called after each step.
    """
    for _ in range(_ROUNDS):
        before = fit.evidence
        fit = improve(smoothed(fit, lengths), 8, tolerance, report)
        if fit.converged and before - fit.evidence < 2 * tolerance:
            break
    return fit


def improve(fit: Fit, steps: int, tolerance: float = 0.2, report: Report | None = None) -> Fit:
    """Takes Gauss–Newton steps, damped as Levenberg and Marquardt do, until the evidence changes no more.

    Args:
        fit: Where to begin.
        steps: At most.
        tolerance: In −2 ln evidence.
        report: Called after each step.
    """
    mean, sd = fit.problem.mass.expected()
    low, high = fit.problem.mass.bounds()
    damping = 1e-2
    for _ in range(steps):
        local = fit.slope()
        gradient = local.gradient + 2 * (fit.vector - mean) / sd**2
        curvature = local.curvature + np.diag(2 / sd**2)
        # A parameter that its bound holds back stays there.
        held = ((fit.vector <= low) & (gradient > 0)) | ((fit.vector >= high) & (gradient < 0))
        free = ~held
        better = None
        for _ in range(_MOST_TRIES):
            damped = curvature + damping * np.diag(np.diag(curvature))
            step = np.zeros(len(fit.vector))
            step[free] = -np.linalg.solve(damped[np.ix_(free, free)], gradient[free])
            step = np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
            tried = fit_at(
                fit.problem, fit.source, np.clip(fit.vector + step, low, high), fit.smoothness
            )
            if tried.evidence < fit.evidence:
                better = tried
                break
            damping *= 8
        if better is None:
            return dataclasses.replace(fit, converged=True)
        gain, fit = fit.evidence - better.evidence, better
        damping = max(damping / 5, 1e-4)
        if report is not None:
            report("lens", fit.evidence)
        # Where a step gained much less than it should, the best may still be far.
        promised = -float(gradient @ step + step @ curvature @ step / 2)
        if max(gain, promised / _BROKEN) < tolerance:
            return dataclasses.replace(fit, converged=True)
    return fit


def curvature_at(fit: Fit) -> np.ndarray:
    """Returns the second derivatives (K, K) of −2 ln evidence by the parameters, as Gauss and Newton have them, their prior among them.

    What the image says is nowhere less than nothing, as rounding would have it where a source explains what no lens does.
    """
    _, sd = fit.problem.mass.expected()
    local = fit.slope().curvature * np.outer(sd, sd)
    values, vectors = np.linalg.eigh((local + local.T) / 2)
    found: np.ndarray = (vectors * np.clip(values, 0.0, None)) @ vectors.T + 2 * np.eye(len(sd))
    return found / np.outer(sd, sd)


def covariance(fit: Fit) -> np.ndarray:
    """Returns Laplace's covariance (K, K) of the parameters, source and lens light integrated over."""
    _, sd = fit.problem.mass.expected()
    inverse = np.linalg.inv(curvature_at(fit) * np.outer(sd, sd) / 2)
    found: np.ndarray = (inverse + inverse.T) / 2 * np.outer(sd, sd)
    return found
