"""Galaxies at rays, and what a camera makes of them, compiled by numba for the CPU in float32.

As in :mod:`.grid_kernels`, an image's result depends on nothing but its own parameters, and the functions release the GIL.
"""

import math

import numpy as np
from numba import njit

from haloformer.simulation.components.grid_kernels import log_row
from haloformer.simulation.kernels import FLAGS, exp_row

_ROWS = 8
"""Rows of pixels that are blurred at a time."""


@njit(nogil=True, cache=True, error_model="numpy")
def at_source(axis, place, which, some, alpha_x, alpha_y, x, y):
    """Follows rays to the source's plane: where they meet it, from the source's place.

    Args:
        axis: (N,) float64 positions of the rays in arcsec.
        place: (2, B) float64 the sources' x and y.
        which: (K,) sources.
        some: (K,) images.
        alpha_x: (B', N, N) float32 deflections, as ``alpha_y``.
        alpha_y: See ``alpha_x``.
        x: (K, N, N) float32 receives positions, as ``y``.
        y: See ``x``.
    """
    f = np.float32
    from_x = np.empty(axis.size, f)
    for k in range(which.size):
        for j in range(axis.size):
            from_x[j] = f(axis[j] - place[0, which[k]])
        for row in range(axis.size):
            from_y = f(axis[row] - place[1, which[k]])
            line_x, line_y = alpha_x[some[k], row], alpha_y[some[k], row]
            out_x, out_y = x[k, row], y[k, row]
            for j in range(axis.size):
                out_x[j] = from_x[j] - line_x[j]
                out_y[j] = from_y - line_y[j]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_sersic(shape, r_min, which, into, x, y, total):
    """Adds elliptical Sérsic profiles; see :func:`~haloformer.simulation.sources.sersic_ellipse`.

    Args:
        shape: (B, 7) float32 amp, R_sersic, n_sersic, e1, e2, and the centre x, y.
        r_min: Radius inside which the brightness is constant.
        which: (K,) rows of the parameters.
        into: (K,) images.
        x: (B', N, N) positions in arcsec, as ``y``.
        y: See ``x``.
        total: (B', N, N), added to.
    """
    f = np.float32
    N = x.shape[2]
    light, octave = np.empty(N, f), np.empty(N, f)
    bits, octave_bits = light.view(np.int32), octave.view(np.int32)
    least = f(r_min * r_min)
    for k in range(which.size):
        amp, R, n, e1, e2, x0, y0 = shape[which[k]]
        norm = f(1.0) / math.sqrt(f(1.0) - e1 * e1 - e2 * e2)
        uu, uv, vv = (f(1.0) - e1) * norm / R, -e2 * norm / R, (f(1.0) + e1) * norm / R
        b = f(1.9992) * n - f(0.3271)
        half_power = f(0.5) / n
        for row in range(x.shape[1]):
            line_x, line_y, out = x[into[k], row], y[into[k], row], total[into[k], row]
            for j in range(N):
                dx, dy = line_x[j] - x0, line_y[j] - y0
                u, v = uu * dx + uv * dy, uv * dx + vv * dy
                light[j] = max(u * u + v * v, least / (R * R))
            if n == f(1.0):
                for j in range(N):
                    light[j] = b - b * math.sqrt(light[j])
            else:
                log_row(light, bits, octave)
                for j in range(N):
                    light[j] *= half_power
                exp_row(light, octave_bits, octave)
                for j in range(N):
                    light[j] = b - b * light[j]
            exp_row(light, octave_bits, octave)
            for j in range(N):
                out[j] += amp * light[j]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_bilinear(images, scale, share, which, into, x, y, total):
    """Adds images, bilinear between the centres of their pixels and dark outside.

    Args:
        images: (B, P, Q) float32.
        scale: (B,) arcsec per pixel.
        share: (B,) what they are multiplied by.
        which: (K,) rows of the parameters.
        into: (K,) images.
        x: (B', N, N) positions in arcsec from the images' middle, as ``y``.
        y: See ``x``.
        total: (B', N, N), added to.
    """
    f = np.float32
    P, Q = images.shape[1], images.shape[2]
    framed = np.zeros((P + 3, Q + 3), f)
    top, right = f(P + 1), f(Q + 1)
    last_row, last_column = np.uint32(P + 1), np.uint32(Q + 1)
    for k in range(which.size):
        i = which[k]
        framed[1 : P + 1, 1 : Q + 1] = images[i]
        per_arcsec, factor = f(1.0 / scale[i]), f(share[i])
        middle_x, middle_y = f(0.5 * (Q - 1) + 1.0), f(0.5 * (P - 1) + 1.0)
        for row in range(x.shape[1]):
            line_x, line_y, out = x[into[k], row], y[into[k], row], total[into[k], row]
            for j in range(line_x.size):
                u = min(max(line_x[j] * per_arcsec + middle_x, f(0.0)), right)
                v = min(max(line_y[j] * per_arcsec + middle_y, f(0.0)), top)
                # No number would be a place anywhere in memory.
                left, low = min(np.uint32(u), last_column), min(np.uint32(v), last_row)
                across, up = u - f(left), v - f(low)
                below = framed[low, left] + across * (framed[low, left + 1] - framed[low, left])
                above = framed[low + 1, left] + across * (
                    framed[low + 1, left + 1] - framed[low + 1, left]
                )
                out[j] += factor * (below + up * (above - below))


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def observe(brightness, across, down, radius, rays, area, out):
    """Blurs by a sum of separable kernels, and averages over pixels; the edges repeat the outermost rays.

    Args:
        brightness: (B, s·N, s·N) at the rays, s = ``rays`` per side of a pixel.
        across: (R, K) float32 weights along the rows, already added up over a pixel's rays: of pixel j the ray s·j − radius + k. K is a
            multiple of 4.
        down: (R, K) down the columns.
        radius: Of the kernel, in rays.
        rays: s.
        area: What the result is multiplied by.
        out: (B, N, N) written.
    """
    f = np.float32
    N, K, terms = out.shape[1], across.shape[1], across.shape[0]
    M = brightness.shape[2]
    side = N + K // rays + 1
    apart = np.empty((M, M), f)  # rows: pixels' first rays, second rays, …
    blurred = np.empty((terms, _ROWS, M), f)  # down the columns
    phases = np.zeros((rays, _ROWS * side + K), f)  # as rows of apart, padded
    line = np.empty(_ROWS * side, f)  # several rows at once, so that the loop over them is long
    for i in range(out.shape[0]):
        for row in range(M):
            together = brightness[i, row]
            for p in range(rays):
                target = apart[row, p * N : (p + 1) * N]
                for j in range(N):
                    target[j] = together[j * rays + p]
        for first in range(0, N, _ROWS):
            rows = min(_ROWS, N - first)
            for term in range(0, terms - 2, 3):
                three = down[term : term + 3]
                for row in range(rows):
                    start = (first + row) * rays - radius
                    _blur_down_thrice(
                        apart, three, start, blurred[term, row], blurred[term + 1, row], blurred[term + 2, row]
                    )  # fmt: skip
            for term in range(terms - terms % 3, terms):
                for row in range(rows):
                    _blur_down(apart, down[term], (first + row) * rays - radius, blurred[term, row])
            n = rows * side
            for j in range(n):
                line[j] = f(0.0)
            for term in range(terms):
                for row in range(rows):
                    for p in range(rays):
                        _padded(blurred[term, row], N, rays, p - radius, phases[p, row * side : (row + 1) * side])  # fmt: skip
                for k in range(0, K, 4):
                    w0, w1 = across[term, k] * area, across[term, k + 1] * area
                    w2, w3 = across[term, k + 2] * area, across[term, k + 3] * area
                    a, b, c, d = k // rays, (k + 1) // rays, (k + 2) // rays, (k + 3) // rays
                    v0, v1 = phases[k % rays, a : a + n], phases[(k + 1) % rays, b : b + n]
                    v2, v3 = phases[(k + 2) % rays, c : c + n], phases[(k + 3) % rays, d : d + n]
                    for j in range(n):
                        line[j] += w0 * v0[j] + w1 * v1[j] + w2 * v2[j] + w3 * v3[j]
            for row in range(rows):
                out[i, first + row] = line[row * side : row * side + N]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def trace_back(pixels, across, down, radius, rays, area, out):
    """The transpose of :func:`observe`: how much the brightness at each ray counts in a sum of pixels.

    Args:
        pixels: (N, N) what each pixel is multiplied by in that sum.
        across: See :func:`observe`, as for those up to ``area``.
        down: See there.
        radius: See there.
        rays: See there.
        area: See there.
        out: (s·N, s·N) written.
    """
    f = np.float32
    N, K, terms = pixels.shape[0], across.shape[1], across.shape[0]
    M, reach = out.shape[0], rays * (N - 1) + K  # with the rays outside
    side = N + K // rays + 1
    spread = np.empty((N, rays, side), f)  # along the rows; first rays of pixels, second rays, …
    lines = spread.reshape(N, rays * side)
    total = np.zeros((M, rays * side), f)
    for term in range(terms):
        spread[:] = f(0.0)
        for row in range(N):
            line = pixels[row]
            for p in range(rays):
                target = spread[row, p]
                for k in range(p, K, rays):
                    weight, some = across[term, k] * area, target[k // rays : k // rays + N]
                    for j in range(N):
                        some[j] += weight * line[j]
        for k in range(reach):
            target = total[min(max(k - radius, 0), M - 1)]
            row, last = max((k - K + rays) // rays, 0), min(k // rays, N - 1)
            while row + 3 <= last:
                w0, w1 = down[term, k - rays * row], down[term, k - rays * (row + 1)]
                w2, w3 = down[term, k - rays * (row + 2)], down[term, k - rays * (row + 3)]
                v0, v1, v2, v3 = lines[row], lines[row + 1], lines[row + 2], lines[row + 3]
                for j in range(target.size):
                    target[j] += w0 * v0[j] + w1 * v1[j] + w2 * v2[j] + w3 * v3[j]
                row += 4
            while row <= last:
                weight, line = down[term, k - rays * row], lines[row]
                for j in range(target.size):
                    target[j] += weight * line[j]
                row += 1
    for row in range(M):
        target = out[row]
        target[:] = f(0.0)
        for p in range(rays):
            line = total[row, p * side : (p + 1) * side]
            for j in range(side):
                where = j * rays + p
                if where < reach:
                    target[min(max(where - radius, 0), M - 1)] += line[j]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _padded(row, N, rays, offset, out):
    """Writes the rays j · ``rays`` + ``offset`` of a row whose rays lie apart into ``out``; those outside are the outermost ones."""
    which = offset % rays
    shift = (offset - which) // rays
    low, high = min(max(-shift, 0), out.size), min(max(N - shift, 0), out.size)
    out[:low] = row[0]
    out[high:] = row[row.size - 1]
    inside, to = row[which * N + low + shift : which * N + high + shift], out[low:high]
    for j in range(to.size):
        to[j] = inside[j]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _blur_down_thrice(brightness, weights, first, out0, out1, out2):
    """As :func:`_blur_down` by three kernels (3, K) into as many (M,): rows are read once."""
    f = np.float32
    last = brightness.shape[0] - 1
    for j in range(out0.size):
        out0[j] = f(0.0)
        out1[j] = f(0.0)
        out2[j] = f(0.0)
    for k in range(0, weights.shape[1], 4):
        v0 = brightness[min(max(first + k, 0), last)]
        v1 = brightness[min(max(first + k + 1, 0), last)]
        v2 = brightness[min(max(first + k + 2, 0), last)]
        v3 = brightness[min(max(first + k + 3, 0), last)]
        a0, a1, a2, a3 = weights[0, k], weights[0, k + 1], weights[0, k + 2], weights[0, k + 3]
        b0, b1, b2, b3 = weights[1, k], weights[1, k + 1], weights[1, k + 2], weights[1, k + 3]
        c0, c1, c2, c3 = weights[2, k], weights[2, k + 1], weights[2, k + 2], weights[2, k + 3]
        for j in range(out0.size):
            u0, u1, u2, u3 = v0[j], v1[j], v2[j], v3[j]
            out0[j] += a0 * u0 + a1 * u1 + a2 * u2 + a3 * u3
            out1[j] += b0 * u0 + b1 * u1 + b2 * u2 + b3 * u3
            out2[j] += c0 * u0 + c1 * u1 + c2 * u2 + c3 * u3


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _blur_down(brightness, weights, first, out):
    """Writes the weighted sum of the rows from ``first`` on, of which those outside are the outermost ones, into ``out`` (M,)."""
    f = np.float32
    last = brightness.shape[0] - 1
    for j in range(out.size):
        out[j] = f(0.0)
    for k in range(0, weights.size, 4):
        v0 = brightness[min(max(first + k, 0), last)]
        v1 = brightness[min(max(first + k + 1, 0), last)]
        v2 = brightness[min(max(first + k + 2, 0), last)]
        v3 = brightness[min(max(first + k + 3, 0), last)]
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        for j in range(out.size):
            out[j] += w0 * v0[j] + w1 * v1[j] + w2 * v2[j] + w3 * v3[j]
