"""Errors of the mass that hold the source's hyper-parameters, too: another lens makes a source of another place, size and shape."""

import dataclasses

import numpy as np
import scipy.linalg as sl

from haloformer.fitting.reallens.evidence import inverse_of, slope, solve
from haloformer.fitting.reallens.optimise import Fit, curvature_at
from haloformer.fitting.reallens.source_prior import LOGARITHMIC, Smoothness, evidence_slope

_BROAD = 2.0  # standard deviation of the hyper-parameters' priors: logarithms, extents, stretches
_STEP = 0.02  # of the same
_MOST = 0.98  # of the curvature along any direction, that the hyper-parameters may take


def joint_covariance(fit: Fit) -> np.ndarray:
    """Returns the covariance (K, K) of the mass's parameters with the source's hyper-parameters integrated over, by Laplace's approximation.

    The evidence's second derivatives by the hyper-parameters, and by one of each, are differences of its exact first ones. Without them the
    lens that fits a compact source seems many times surer than it is: its place and size go with the lens's.

    Args:
        fit: At its best.
    """
    curvature = curvature_at(fit)
    names = fit.smoothness.free
    by_both = np.empty((len(curvature), len(names)))
    by_hyper = np.empty((len(names), len(names)))
    for k, name in enumerate(names):
        ends = [_slopes(fit, moved) for moved in _moved(fit.smoothness, name)]
        by_both[:, k], by_hyper[:, k] = (
            (ends[1][part] - ends[0][part]) / (2 * _STEP) for part in (0, 1)
        )
    values, vectors = np.linalg.eigh((by_hyper + by_hyper.T) / 2 + 2 / _BROAD**2 * np.eye(len(names)))  # fmt: skip
    root = by_both @ vectors / np.sqrt(np.clip(values, 2 / _BROAD**2, None))
    # In units of the curvature without them: 1 − Q, of which no direction may be left without any.
    factor = sl.cholesky(curvature, lower=True)
    white = sl.solve_triangular(factor, root, lower=True)
    taken, along = np.linalg.eigh(white @ white.T)
    back = sl.solve_triangular(factor, along, lower=True, trans=1)
    found: np.ndarray = 2 * (back / (1 - np.clip(taken, 0.0, _MOST))) @ back.T
    return found


def _moved(smoothness: Smoothness, name: str) -> list[Smoothness]:
    """Returns hyper-parameters with one of them smaller and larger by a step."""
    value = getattr(smoothness, name)
    step = _STEP * (smoothness.extent if name in ("x", "y") else 1.0)
    ends = [value - step, value + step]
    if name in LOGARITHMIC:
        ends = [value * np.exp(-step), value * np.exp(step)]
    return [dataclasses.replace(smoothness, **{name: float(end)}) for end in ends]


def _slopes(fit: Fit, smoothness: Smoothness) -> tuple[np.ndarray, np.ndarray]:
    """Returns the derivatives of −2 ln evidence by the mass's parameters (K,), and by the hyper-parameters, in the units of :func:`_moved`."""
    solution = solve(fit.normal, fit.source, smoothness)
    by_mass = slope(fit.problem, fit.source, fit.vector, fit.normal, solution).gradient
    by_hyper = evidence_slope(fit.source, smoothness, solution.whitened, inverse_of(solution))
    if not smoothness.even:
        by_hyper[4:6] *= fit.smoothness.extent
    return by_mass, by_hyper
