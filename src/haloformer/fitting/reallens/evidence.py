"""The evidence of a lens: source and lens light are linear, so that for a given mass they are solved exactly and integrated over.

Data d in units of the noise, made white where that of neighbouring pixels is alike, are A c + L a + noise. The source's coefficients c are
a Gaussian process (:mod:`.source_prior`). The amplitudes a of the lens's light are N(0, 1) after scaling, and none of them negative in the most
probable solution. Warren & Dye (2003, arXiv:astro-ph/0302587), Suyu et al. (2006, arXiv:astro-ph/0601493).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg as sl
from scipy import optimize

from haloformer.errors import InputError
from haloformer.fitting.reallens.masses import Mass
from haloformer.fitting.reallens.operators import (
    Camera,
    Source,
    Splines,
    determinant_slope,
    response,
)
from haloformer.fitting.reallens.source_prior import Smoothness, root_of_covariance

_BLOCK = 256  # rows of a matrix that fit into a processor's cache
_NOTHING = 1e-20
"""Of the largest covariance: products of what is smaller are below the normal numbers of single precision, with which processors are slow."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is fitted.

    Attributes:
        camera: Of the P fitted pixels.
        data: (P,) in units of the noise, made white.
        light: (P, L) the lens's light for unit amplitudes, as the data.
        mass: The lens's mass model.
    """

    camera: Camera
    data: np.ndarray
    light: np.ndarray
    mass: Mass

    def with_mass(self, mass: Mass) -> "Problem":
        """Returns the same with another mass model."""
        return replace(self, mass=mass)


@dataclass(frozen=True, eq=False)
class Normal:
    """The normal equations of a mass and a grid, before any prior.

    Attributes:
        A: (P, n) response to the source's coefficients.
        splines: Of both grids at the rays.
        gram: (n, n) AᵀA, its lower triangle and the rest.
        cross: (n, L) AᵀL.
        light: (L, L) LᵀL.
        right: (n + L,) of the data.
        square: dᵀd.
    """

    A: np.ndarray
    splines: tuple[Splines, Splines]
    gram: np.ndarray
    cross: np.ndarray
    light: np.ndarray
    right: np.ndarray
    square: float


def normal_equations(problem: Problem, source: Source, vector: np.ndarray) -> Normal:
    """Returns the normal equations of a mass model's parameters (K,)."""
    camera = problem.camera
    splines = source.splines(*problem.mass.source_positions(camera.x, camera.y, vector))
    A = response(camera, splines)
    gram = (A.T @ A).T  # symmetric, in Fortran's order; other threads go on meanwhile
    L = problem.light
    return Normal(
        A=A,
        splines=splines,
        gram=gram,
        cross=A.T @ L,
        light=L.T @ L,
        right=np.concatenate([A.T @ problem.data, L.T @ problem.data]),
        square=float(problem.data @ problem.data),
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """The most probable source and lens light of a mass.

    Attributes:
        evidence: −2 ln evidence, but for a constant of the data.
        source: (n,) coefficients.
        light: (L,) amplitudes.
        factor: Lower Cholesky factor of the whitened normal matrix.
        root: Of the prior covariance of the coefficients.
        whitened: (n,) root⁻¹ of the coefficients.
    """

    evidence: float
    source: np.ndarray
    light: np.ndarray
    factor: np.ndarray
    root: np.ndarray
    whitened: np.ndarray


def solve(normal: Normal, source: Source, smoothness: Smoothness) -> Solution:
    """Solves for the source and the lens's light, and integrates over them."""
    root = root_of_covariance(source, smoothness)
    n = source.size
    right = np.concatenate([root.T @ normal.right[:n], normal.right[n:]])
    factor = _factor(normal, root, source.parts())
    half_solved = sl.solve_triangular(factor, right, lower=True, check_finite=False)
    amplitudes, lost = _not_negative(factor[n:, n:], half_solved[n:])
    left = half_solved[:n] - factor[n:, :n].T @ amplitudes
    z = sl.solve_triangular(factor[:n, :n], left, lower=True, trans=1, check_finite=False)
    evidence = normal.square - half_solved @ half_solved + lost
    evidence += 2 * np.log(np.diag(factor)).sum()
    return Solution(float(evidence), root @ z, amplitudes, factor, root, z)


def _not_negative(factor: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the amplitudes (L,) of the lens's light, none of them negative but for the background's, and what χ² is worse by for that.

    Gaussians of either sign could make a ring, and be taken for one.

    Args:
        factor: (L, L) lower Cholesky factor of their normal matrix, the source integrated over.
        right: (L,) such that without the condition factorᵀ a = right.
    """
    free = sl.solve_triangular(factor, right, lower=True, trans=1, check_finite=False)
    if (free[:-1] >= 0).all():
        return free, 0.0
    both = np.column_stack([factor.T, -factor[-1]])
    found, lost = optimize.nnls(both, right, maxiter=30 * both.shape[1])
    amplitudes = found[:-1].copy()
    amplitudes[-1] -= found[-1]
    return amplitudes, float(lost) ** 2


def _factor(normal: Normal, root: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    """The lower Cholesky factor of the whitened normal matrix Rᵀ G R + 1, with the lens's light below."""
    n, size = len(root), len(root) + len(normal.light)
    for ridge in (
        0.0,
        1e-12,
        1e-9,
    ):  # an image far too bright for its noise leaves no digits to the 1
        M = np.empty((size, size), order="F")
        _between_roots(root, normal.gram, parts, True, M)
        M[n:, :n] = (root.T @ normal.cross).T
        M[n:, n:] = normal.light
        M[np.diag_indices(size)] += 1.0 + ridge * float(np.diag(M).max())
        try:
            found: np.ndarray = sl.cholesky(M, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return found
    raise InputError(
        "the image is too bright for its noise, so that nothing can be solved; check the noise map, and mask what is saturated"
    )


def _between_roots(
    root: np.ndarray, matrix: np.ndarray, parts: Sequence[slice], transposed: bool, out: np.ndarray
) -> None:
    """Writes the lower triangle of Rᵀ M R, or of R M Rᵀ, of a symmetric matrix, part by part, between which the root R has nothing.

    Args:
        root: (n, n) lower triangular.
        matrix: (n, n).
        parts: Of the n.
        transposed: Whether it is Rᵀ M R.
        out: (n, n), at least, written.
    """
    for k, row in enumerate(parts):
        for column in parts[: k + 1]:
            R = root[column, column]
            half = sl.blas.dtrmm(
                1.0, R, matrix[row, column], side=1, lower=1, trans_a=not transposed
            )
            out[row, column] = sl.blas.dtrmm(
                1.0, root[row, row], half, side=0, lower=1, trans_a=transposed
            )


def inverse_of(solution: Solution) -> np.ndarray:
    """Returns the inverse (n + L, n + L) of the whitened normal matrix."""
    inverse, _ = sl.lapack.dpotri(solution.factor, lower=1)
    return symmetric(inverse)


def symmetric(matrix: np.ndarray) -> np.ndarray:
    """Returns a matrix (n, n) with its lower triangle mirrored into the rest, in place."""
    for k in range(0, len(matrix), _BLOCK):
        block = matrix[k : k + _BLOCK, k : k + _BLOCK]
        block[...] = np.tril(block) + np.tril(block, -1).T
        matrix[k : k + _BLOCK, k + _BLOCK :] = matrix[k + _BLOCK :, k : k + _BLOCK].T
    return matrix


def residual(problem: Problem, normal: Normal, solution: Solution) -> np.ndarray:
    """Returns (P,) data minus model, in units of the noise, made white."""
    found: np.ndarray = problem.data - normal.A @ solution.source - problem.light @ solution.light
    return found


@dataclass(frozen=True, eq=False)
class Slope:
    """First and second derivatives of the evidence by the mass model's K parameters.

    Attributes:
        gradient: (K,) of −2 ln evidence, exact.
        curvature: (K, K) that of Gauss and Newton: Jᵀ (1 + ÃÃᵀ)⁻¹ J, twice.
        jacobian: (P, K) of the model in units of the noise, for the best source.
        marginal: (P, K) (1 + ÃÃᵀ)⁻¹ J.
    """

    gradient: np.ndarray
    curvature: np.ndarray
    jacobian: np.ndarray
    marginal: np.ndarray


def slope(
    problem: Problem,
    source: Source,
    vector: np.ndarray,
    normal: Normal,
    solution: Solution,
) -> Slope:
    """Differentiates the evidence."""
    camera = problem.camera
    inside = np.any([each.nodes[:, 0] >= 0 for each in normal.splines], axis=0)
    by_x, by_y = problem.mass.source_slopes(camera.x[inside], camera.y[inside], vector)
    steep_x, steep_y = _steepness(source, normal, solution)
    steep_x, steep_y = steep_x[inside], steep_y[inside]
    brighter = np.zeros((len(inside), len(vector)))
    brighter[inside] = steep_x[:, None] * by_x + steep_y[:, None] * by_y
    jacobian = camera.observe(brighter)
    rest = residual(problem, normal, solution)
    marginal = jacobian - project(problem, normal, solution, jacobian)
    adjoint = _adjoint(problem, normal, solution, source.parts())
    determinant = np.zeros(len(vector))
    for splines, part in zip(normal.splines, source.parts()):
        move_x, move_y = determinant_slope(camera, splines, adjoint, part.start)
        determinant += 2 * (by_x.T @ move_x[inside] + by_y.T @ move_y[inside])
    return Slope(
        gradient=-2 * jacobian.T @ rest + determinant,
        curvature=2 * jacobian.T @ marginal,
        jacobian=jacobian,
        marginal=marginal,
    )


def project(
    problem: Problem, normal: Normal, solution: Solution, vectors: np.ndarray
) -> np.ndarray:
    """Returns Ã M⁻¹ Ãᵀ v: what source and lens light, within their priors, explain of (P, …)."""
    along = np.concatenate(
        [solution.root.T @ (normal.A.T @ vectors), problem.light.T @ vectors], axis=0
    )
    z = sl.cho_solve((solution.factor, True), along, check_finite=False)
    n = solution.root.shape[0]
    found: np.ndarray = normal.A @ (solution.root @ z[:n]) + problem.light @ z[n:]
    return found


def _steepness(source: Source, normal: Normal, solution: Solution) -> tuple[np.ndarray, np.ndarray]:
    """The slopes (R,) of the source's brightness at the rays."""
    slopes = [
        splines.gradient(solution.source[part])
        for splines, part in zip(normal.splines, source.parts())
    ]
    return slopes[0][0] + slopes[1][0], slopes[0][1] + slopes[1][1]


def _adjoint(
    problem: Problem, normal: Normal, solution: Solution, parts: Sequence[slice]
) -> np.ndarray:
    """(P, n) half of the derivative of ln det M by A: A times the covariance of the coefficients, and the light's share."""
    n = solution.root.shape[0]
    inverse = inverse_of(solution)
    single = np.empty((n, n), np.float32, order="F")
    _between_roots(solution.root, inverse, parts, False, single)
    symmetric(single)
    single[np.abs(single) < _NOTHING * np.abs(single).max()] = 0.0
    found: np.ndarray = normal.A.astype(np.float32) @ single
    light = inverse[n:, :n] @ solution.root.T
    found += problem.light.astype(np.float32) @ light.astype(np.float32)
    return found  # single precision is enough for a slope, and twice as fast
