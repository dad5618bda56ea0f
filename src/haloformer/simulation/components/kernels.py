"""Truncated NFW halos on a regular grid of rays, compiled by numba for the CPU: the deflection of :class:`~.tnfw.TNFW`, many times faster.

What makes it fast:

* the deflection of a halo is split by a smooth window about it into a near part, which is summed on the rays within the window, and a
  far part without structure finer than the window, which is summed on every fourth ray and then interpolated by polynomials of degree 7
  for all halos at once;
* each halo's profile is a table in x² whose cells are found from the bits of the number, without a root or a logarithm.

The functions release the GIL; threads are the caller's business.
"""

import functools
import math

import numpy as np
import torch
from numba import njit

from haloformer.simulation.components.component import OnGrid, Parameters
from haloformer.simulation.components.halos import LOG10_TAU, UNTRUNCATED, tnfw_profile
from haloformer.simulation.kernels import FLAGS

COARSE = 4
"""Rays per node of the coarse grid, along each axis."""

REACH = 9.0
"""Radius of the window in steps of the coarse grid."""

_OCTAVES = (-20, 26)  # of x²: 0.001 < x < 8000
_CELLS_LOG2 = 5  # 32 cells to the octave
_SHIFT = 23 - _CELLS_LOG2  # bits of a float32 below those that number the cell
_FIRST_CELL = (127 + _OCTAVES[0]) << _CELLS_LOG2
_LEAST, _MOST = np.float32(2.0 ** _OCTAVES[0]), np.float32(0.999 * 2.0 ** _OCTAVES[1])
_REST_MASK = (1 << _SHIFT) - 1
_REST_SCALE = np.float32(2.0**-_SHIFT)
_SIDE = 7  # coarse nodes beyond those that the rays lie between: three before, four after


def halos_on_grid(axis_x: np.ndarray, axis_y: np.ndarray, parameters: Parameters) -> OnGrid:
    """Returns what adds the halos' deflection on a grid, good to 10⁻³ of it.

    Args:
        axis_x: (W,) evenly spaced positions of the rays in arcsec.
        axis_y: (H,), with the same spacing.
        parameters: Of :class:`~.tnfw.TNFW`.
    """
    number, (x, y, Rs, weight, log10_tau) = _packed(parameters)
    step = np.float32(axis_x[1] - axis_x[0])
    sheet, center_x, center_y = (
        parameters[name].astype(np.float32) for name in ("sheet", "center_x", "center_y")
    )
    return functools.partial(
        _add_halos, axis_x.astype(np.float32), axis_y.astype(np.float32), step, x, y, Rs, weight, log10_tau, number,
        sheet, center_x, center_y, profile_cells(), _lagrange(),
    )  # fmt: skip


def halos_at_points(
    x: np.ndarray, y: np.ndarray, parameters: Parameters
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the halos' deflections (α_x, α_y), each (B, P) float32 in arcsec, at positions (B, P); good to 10⁻³.

    Args:
        x: (B, P) positions in arcsec, as ``y``.
        y: See ``x``.
        parameters: Of :class:`~.tnfw.TNFW`.
    """
    number, (x0, y0, Rs, weight, log10_tau) = _packed(parameters)
    x, y = x.astype(np.float32), y.astype(np.float32)
    alpha_x, alpha_y = np.zeros_like(x), np.zeros_like(y)
    _add_at_points(x, y, x0, y0, Rs, weight, log10_tau, number, profile_cells(), alpha_x, alpha_y)
    sheet, center_x, center_y = (
        parameters[name].astype(np.float32)[:, None] for name in ("sheet", "center_x", "center_y")
    )
    return alpha_x - sheet * (x - center_x), alpha_y - sheet * (y - center_y)


def _packed(parameters: Parameters) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Returns the numbers (B,) of halos, and positions x, y, scale radii, weights and log10 τ (B, n) float32, those that are there first."""
    there = ~np.isnan(parameters["Rs"])
    number = there.sum(axis=1)
    first = np.argsort(~there, axis=1, kind="stable")[:, : int(number.max(initial=0))]
    x, y, Rs, alpha_Rs, r_trunc = (
        np.take_along_axis(parameters[name], first, axis=1).astype(np.float32)
        for name in ("x", "y", "Rs", "alpha_Rs", "r_trunc")
    )
    weight, log10_tau = alpha_Rs / (np.float32(UNTRUNCATED) * Rs), np.log10(r_trunc / Rs)
    return number, (x, y, Rs, weight, log10_tau)


@functools.cache
def profile_cells() -> np.ndarray:
    """Returns m(x)/x² at the nodes of τ and at the edges of the cells of x², (161, 1473) float32."""
    cells = 1 << _CELLS_LOG2
    octave = np.arange(*_OCTAVES)[:, None]
    edges = np.append(2.0**octave * (1 + np.arange(cells) / cells), 2.0 ** _OCTAVES[1])
    x = torch.tensor(np.sqrt(edges))
    tau = torch.logspace(*LOG10_TAU, dtype=torch.float64)
    profile: np.ndarray = tnfw_profile(x[None, :], tau[:, None]).numpy().astype(np.float32)
    return profile


@functools.cache
def _lagrange() -> np.ndarray:
    """Weights (COARSE, 8) of the coarse nodes −3 … 4 for each ray between nodes 0 and 1."""
    nodes = np.arange(-3, 5)
    weights = np.ones((COARSE, 8))
    for phase in range(COARSE):
        for i, node in enumerate(nodes):
            others = np.delete(nodes, i)
            weights[phase, i] = np.prod((phase / COARSE - others) / (node - others))
    return weights.astype(np.float32)


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _add_halos(
    axis_x, axis_y, step, x0, y0, Rs, weight, log10_tau, number, sheet, center_x, center_y, table, lagrange,
    which, into, alpha_x, alpha_y,
):  # fmt: skip
    """Adds all halos of some images.

    Args:
        axis_x: (W,), with axis_y (H,) and their spacing ``step``.
        axis_y: See ``axis_x``.
        step: See ``axis_x``.
        x0: (B, n) positions; so y0, scale radii Rs, weights in α = Σ weight h(x², τ) Δ, and log10 of τ.
        y0: See ``x0``.
        Rs: See ``x0``.
        weight: See ``x0``.
        log10_tau: See ``x0``.
        number: (B,) of halos in each image.
        sheet: (B,) convergence of the sheet that is taken away.
        center_x: (B,) its centre.
        center_y: See ``center_x``.
        table: Of :func:`profile_cells`.
        lagrange: Of :func:`_lagrange`.
        which: (K,) rows of the parameters.
        into: (K,) images.
        alpha_x: (B', H, W), to be added to.
        alpha_y: See ``alpha_x``.
    """
    f = np.float32
    H, W = axis_y.size, axis_x.size
    coarse_y, coarse_x = (H - 1) // COARSE + 1 + _SIDE, (W - 1) // COARSE + 1 + _SIDE
    node_x, node_y = np.empty(coarse_x, f), np.empty(coarse_y, f)
    for k in range(coarse_x):
        node_x[k] = axis_x[0] + f((k - 3) * COARSE) * step
    for k in range(coarse_y):
        node_y[k] = axis_y[0] + f((k - 3) * COARSE) * step
    far_x, far_y = np.empty((coarse_y, coarse_x), f), np.empty((coarse_y, coarse_x), f)
    low, slope = np.empty(table.shape[1] - 1, f), np.empty(table.shape[1] - 1, f)
    squares = np.empty(max(W, coarse_x), f)
    bits = squares.view(np.int32)
    reach = f(REACH * COARSE) * step
    inverse_reach2 = f(1.0) / (reach * reach)
    for image in range(which.size):
        i = which[image]
        out_x, out_y = alpha_x[into[image]], alpha_y[into[image]]
        far_x[:] = f(0.0)
        far_y[:] = f(0.0)
        for k in range(number[i]):
            _profile(table, log10_tau[i, k], weight[i, k], low, slope)
            inverse2 = f(1.0) / (Rs[i, k] * Rs[i, k])
            x, y = x0[i, k], y0[i, k]
            for row in range(coarse_y):
                _add_row(
                    node_x, x, node_y[row] - y, inverse2, inverse_reach2, False, low, slope, squares, bits, far_x[row], far_y[row]
                )  # fmt: skip
            first = max(0, math.ceil((y - reach - axis_y[0]) / step))
            last = min(H, math.floor((y + reach - axis_y[0]) / step) + 1)
            for row in range(first, last):
                dy = axis_y[row] - y
                half = math.sqrt(max(reach * reach - dy * dy, f(0.0)))
                start = min(max(0, math.ceil((x - half - axis_x[0]) / step)), W)
                stop = max(min(W, math.floor((x + half - axis_x[0]) / step) + 1), start)
                if stop > start:
                    _add_row(
                        axis_x[start:stop], x, dy, inverse2, inverse_reach2, True, low, slope, squares, bits,
                        out_x[row, start:stop], out_y[row, start:stop],
                    )  # fmt: skip
        _refine(far_x, lagrange, out_x)
        _refine(far_y, lagrange, out_y)
        if sheet[i] != f(0.0):
            for row in range(H):
                down = sheet[i] * (axis_y[row] - center_y[i])
                for j in range(W):
                    out_x[row, j] -= sheet[i] * (axis_x[j] - center_x[i])
                    out_y[row, j] -= down


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _profile(table, log10_tau, weight, low, slope):
    """Fills in a halo's profile: the value at the beginning of each cell, and its change over the cell."""
    f = np.float32
    nodes = LOG10_TAU[2] - 1
    at = (log10_tau - f(LOG10_TAU[0])) * f(nodes / (LOG10_TAU[1] - LOG10_TAU[0]))
    j = min(max(math.floor(at), 0), nodes - 1)
    share = min(max(at - f(j), f(0.0)), f(1.0))
    a, b = weight * (f(1.0) - share), weight * share
    below, above = table[j], table[j + 1]
    for c in range(low.size):
        low[c] = a * below[c] + b * above[c]
    for c in range(low.size - 1):
        slope[c] = (low[c + 1] - low[c]) * _REST_SCALE
    end = low.size
    slope[end - 1] = (a * below[end] + b * above[end] - low[end - 1]) * _REST_SCALE


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _add_row(
    axis, x, dy, inverse2, inverse_reach2, near, low, slope, squares, bits, alpha_x, alpha_y
):
    """Adds one halo's near or far part to a row of rays that lies ``dy`` above it.

    The window is (1 − t)⁴ (1 + 4t), t = r²/reach²: flat at the centre, where the halo is sharp, and smooth where it ends.
    """
    f = np.float32
    last = np.uint32(low.size - 1)  # of the cells, for what is no number
    dy2 = dy * dy
    for j in range(axis.size):
        dx = axis[j] - x
        squares[j] = min(max((dx * dx + dy2) * inverse2, _LEAST), _MOST)
    for j in range(axis.size):
        dx = axis[j] - x
        b = bits[j]
        cell = min(np.uint32((b >> _SHIFT) - _FIRST_CELL), last)
        profile = low[cell] + slope[cell] * f(b & _REST_MASK)
        t = min((dx * dx + dy2) * inverse_reach2, f(1.0))
        rest = f(1.0) - t
        rest *= rest
        window = rest * rest * (f(1.0) + f(4.0) * t)
        if not near:
            window = f(1.0) - window
        profile *= window
        alpha_x[j] += profile * dx
        alpha_y[j] += profile * dy


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _refine(coarse, lagrange, fine):
    """Adds what lies on the coarse grid to the rays (H, W), interpolated along both axes."""
    H, W = fine.shape
    f = np.float32
    line = np.empty(coarse.shape[1], f)
    for row in range(H):
        k, w = row // COARSE, lagrange[row % COARSE]
        for c in range(line.size):
            line[c] = (
                w[0] * coarse[k, c] + w[1] * coarse[k + 1, c] + w[2] * coarse[k + 2, c]
                + w[3] * coarse[k + 3, c] + w[4] * coarse[k + 4, c] + w[5] * coarse[k + 5, c]
                + w[6] * coarse[k + 6, c] + w[7] * coarse[k + 7, c]
            )  # fmt: skip
        for phase in range(COARSE):
            w = lagrange[phase]
            for c in range((W - phase + COARSE - 1) // COARSE):
                fine[row, COARSE * c + phase] += (
                    w[0] * line[c] + w[1] * line[c + 1] + w[2] * line[c + 2]
                    + w[3] * line[c + 3] + w[4] * line[c + 4] + w[5] * line[c + 5]
                    + w[6] * line[c + 6] + w[7] * line[c + 7]
                )  # fmt: skip


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _add_at_points(x, y, x0, y0, Rs, weight, log10_tau, number, table, alpha_x, alpha_y):
    """Adds all halos of all images at points (B, P); see :func:`_add_halos`."""
    f = np.float32
    low, slope = np.empty(table.shape[1] - 1, f), np.empty(table.shape[1] - 1, f)
    squares = np.empty(x.shape[1], f)
    bits = squares.view(np.int32)
    last = np.uint32(low.size - 1)
    for i in range(number.size):
        at_x, at_y, out_x, out_y = x[i], y[i], alpha_x[i], alpha_y[i]
        for k in range(number[i]):
            _profile(table, log10_tau[i, k], weight[i, k], low, slope)
            inverse2 = f(1.0) / (Rs[i, k] * Rs[i, k])
            for j in range(squares.size):
                dx, dy = at_x[j] - x0[i, k], at_y[j] - y0[i, k]
                squares[j] = min(max((dx * dx + dy * dy) * inverse2, _LEAST), _MOST)
            for j in range(squares.size):
                b = bits[j]
                cell = min(np.uint32((b >> _SHIFT) - _FIRST_CELL), last)
                profile = low[cell] + slope[cell] * f(b & _REST_MASK)
                out_x[j] += profile * (at_x[j] - x0[i, k])
                out_y[j] += profile * (at_y[j] - y0[i, k])
