"""Loops of the semilinear fit, compiled by numba: the response of pixels to the source's coefficients, and the slope of its determinant.

Both are sums over the pixels of a point-spread function and the splines that a pixel's rays touch; written with sparse matrices, as
:mod:`.operators` does where numba is not, they take some ten times longer. Numbers of rows and columns are unsigned, as numba asks of each
signed one whether it counts from the end, which takes half of the time.
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def response(taps_start, taps, weights, touched_start, touched, values, out):
    """Adds up what each fitted pixel receives from each coefficient of the source.

    Args:
        taps_start: (P + 1,) where the taps of each fitted pixel begin; uint32, as all but weights and values.
        taps: Pixels from which the point-spread function brings light there.
        weights: How much, already divided by the noise.
        touched_start: (Q + 1,) where the coefficients of each pixel begin.
        touched: Coefficients that brighten a pixel.
        values: How much.
        out: (P, n) zeros, to be added to.
    """
    one = np.uint32(1)
    for p in range(out.shape[0]):
        row = out[p]
        for k in range(taps_start[p], taps_start[p + 1]):
            q, w = taps[k], weights[k]
            for i in range(touched_start[q], touched_start[q + one]):
                row[touched[i]] += w * values[i]


@njit(nogil=True, cache=True, error_model="numpy")
def determinant_slope(
    taps_start, taps, weights, nodes, columns, slopes_x, slopes_y, adjoint, slope_x, slope_y
):
    """Adds up how the log determinant changes with the source-plane position of each ray.

    Args:
        taps_start: (Q + 1,) uint32, where the fitted pixels to which each pixel's light is brought begin.
        taps: These, uint32.
        weights: How much, already divided by the noise and the rays of a pixel; of the adjoint's type.
        nodes: (R, 16) coefficients that each ray touches, four neighbours after the other, of the rays in the order of their pixels; the first is
            −1 for a ray outside.
        columns: Which of the adjoint's belongs to each coefficient; −1 for those that are 0.
        slopes_x: (R, 16) derivatives of their splines by the position.
        slopes_y: See ``slopes_x``.
        adjoint: (P, n) derivative of the log determinant by the response.
        slope_x: (R,) written.
        slope_y: See ``slope_x``.
    """
    one, two, three = np.uint32(1), np.uint32(2), np.uint32(3)
    Q = taps_start.size - 1
    rays = nodes.shape[0] // Q
    sums = np.zeros(columns.size, adjoint.dtype)
    zero = sums[0]
    last = np.full(columns.size, -1)  # pixel for which four neighbours were summed
    for q in range(Q):
        first_tap, end = taps_start[q], taps_start[q + 1]
        for r in range(q * rays, (q + 1) * rays):
            if nodes[r, 0] < 0:
                continue
            for i in range(0, 16, 4):
                node = nodes[r, i]
                if last[node] == q:
                    continue  # for an earlier ray
                last[node] = q
                if columns[node] < 0 or columns[node + 3] < 0:  # at the border
                    for j in range(node, node + 4):
                        if columns[j] >= 0:
                            sums[j] = zero
                            for k in range(first_tap, end):
                                sums[j] += weights[k] * adjoint[taps[k], columns[j]]
                    continue
                column = np.uint32(columns[node])
                a, b, c, d = zero, zero, zero, zero
                for k in range(first_tap, end):
                    p, w = taps[k], weights[k]
                    a += w * adjoint[p, column]
                    b += w * adjoint[p, column + one]
                    c += w * adjoint[p, column + two]
                    d += w * adjoint[p, column + three]
                sums[node], sums[node + 1], sums[node + 2], sums[node + 3] = a, b, c, d
        for r in range(q * rays, (q + 1) * rays):
            if nodes[r, 0] < 0:
                continue
            u, v = 0.0, 0.0
            for i in range(16):
                s = sums[nodes[r, i]]
                u += s * slopes_x[r, i]
                v += s * slopes_y[r, i]
            slope_x[r], slope_y[r] = u, v
