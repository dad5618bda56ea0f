"""Loops of the semilinear fit, compiled by numba: the response of pixels to the source's coefficients, and the slope of its determinant.

Both are sums over the pixels of a point-spread function and the splines that a pixel's rays touch; written with sparse matrices, as
:mod:`.operators` does where numba is not, they take some ten times longer.
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def response(taps_start, taps, weights, touched_start, touched, values, out):
    """Adds up what each fitted pixel receives from each coefficient of the source.

    Args:
        taps_start: (P + 1,) where the taps of each fitted pixel begin.
        taps: Pixels from which the point-spread function brings light there.
        weights: How much, already divided by the noise.
        touched_start: (Q + 1,) where the coefficients of each pixel begin.
        touched: Coefficients that brighten a pixel.
        values: How much.
        out: (P, n) zeros, to be added to.
    """
    for p in range(out.shape[0]):
        row = out[p]
        for k in range(taps_start[p], taps_start[p + 1]):
            q, w = taps[k], weights[k]
            for i in range(touched_start[q], touched_start[q + 1]):
                row[touched[i]] += w * values[i]


@njit(nogil=True, cache=True, error_model="numpy")
def determinant_slope(
    taps_start, taps, weights, nodes, slopes_x, slopes_y, adjoint, slope_x, slope_y
):
    """Adds up how the log determinant changes with the source-plane position of each ray.

    Args:
        taps_start: (Q + 1,) where the fitted pixels to which each pixel's light is brought begin.
        taps: These.
        weights: How much, already divided by the noise and the rays of a pixel.
        nodes: (R, 16) coefficients that each ray touches, of the rays in the order of their pixels; the first is −1 for a ray outside.
        slopes_x: (R, 16) derivatives of their splines by the position.
        slopes_y: See ``slopes_x``.
        adjoint: (P, n) derivative of the log determinant by the response.
        slope_x: (R,) written.
        slope_y: See ``slope_x``.
    """
    Q = taps_start.size - 1
    rays = nodes.shape[0] // Q
    sums = np.zeros(adjoint.shape[1])
    for q in range(Q):
        inside = False
        for r in range(q * rays, (q + 1) * rays):
            if nodes[r, 0] >= 0:
                inside = True
                for i in range(16):
                    sums[nodes[r, i]] = 0.0
        if not inside:
            continue
        for r in range(q * rays, (q + 1) * rays):
            if nodes[r, 0] < 0:
                continue
            for i in range(0, 16, 4):
                first = nodes[r, i]
                done = sums[first] != 0.0 and sums[first + 1] != 0.0
                if done and sums[first + 2] != 0.0 and sums[first + 3] != 0.0:
                    continue  # for an earlier ray
                a, b, c, d = 0.0, 0.0, 0.0, 0.0
                for k in range(taps_start[q], taps_start[q + 1]):
                    row, w = adjoint[taps[k]], weights[k]
                    a += w * row[first]
                    b += w * row[first + 1]
                    c += w * row[first + 2]
                    d += w * row[first + 3]
                sums[first], sums[first + 1], sums[first + 2], sums[first + 3] = a, b, c, d
        for r in range(q * rays, (q + 1) * rays):
            if nodes[r, 0] < 0:
                continue
            u, v = 0.0, 0.0
            for i in range(16):
                s = sums[nodes[r, i]]
                u += s * slopes_x[r, i]
                v += s * slopes_y[r, i]
            slope_x[r], slope_y[r] = u, v
