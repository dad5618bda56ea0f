"""The CPU hot path, compiled by numba: the same images as :mod:`haloformer.simulation.renderer`, many times faster.

Laid out so that LLVM vectorises every inner loop over the pixels of a row. What makes it fast:

* the smooth lens is computed once for all images that share it (in the original surveys, all of them);
* point masses are taken two at a time, so that one division serves both;
* a vortex's masses are taken in pairs ±c about its centre, 1/(z−c) + 1/(z+c) = 2z/(z²−c²), in the line's own frame where c² is
  real; and beyond 1.4 half-lengths from the centre a Laurent series in (λ/z)² replaces the sum, with as many terms as the row needs.

The functions are compiled for float32 and float64 and release the GIL; threads are the caller's business (numba's own thread
pools do not survive a fork, which data loaders do).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from haloformer.simulation.stale import drop_stale

drop_stale(Path(__file__).parents[1])  # before the first of them is called

FLAGS = {"contract", "reassoc", "arcp", "nsz", "afn"}
_BESIDE = 0.01  # arcsec; closer than this to a point mass, single precision (and the pairing of masses) is not enough
_ASIDE = 1e-12  # arcsec; a pixel exactly on top of a point mass is seen from this far, as in deflectors.py


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def exp_row(values, bits, bits_as_float):
    """Exp of float32 values ≤ 80 in place: 2^k · 2^f with a polynomial for 2^f on [−½, ½]; relative error 3e-7, and 4e-6 at −80."""
    f = np.float32
    for j in range(values.size):
        t = max(values[j], f(-86.0)) * f(1.4426950408889634)
        k = np.floor(t + f(0.5))
        r = t - k
        p = f(1.5403530e-4)
        p = p * r + f(1.3333558e-3)
        p = p * r + f(9.6181291e-3)
        p = p * r + f(5.5504109e-2)
        p = p * r + f(2.4022651e-1)
        p = p * r + f(6.9314718e-1)
        p = p * r + f(1.0)
        bits[j] = np.int32((k + f(127.0)) * f(8388608.0))  # the exponent field, exact in float32
        values[j] = p
    for j in range(values.size):
        values[j] *= bits_as_float[j]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_point_masses(alpha_x, alpha_y, axis, y, weight, x0, y0, n):
    """Adds Σ w Δ/|Δ|² over n point masses (n even) to one row of pixels at height y."""
    T = axis.dtype.type
    soft = T(
        1e-14
    )  # arcsec²: keeps the product below from underflowing; such pixels are done again in float64
    for k in range(0, n, 2):
        xa, xb, wa, wb = x0[k], x0[k + 1], weight[k], weight[k + 1]
        ya, yb = y - y0[k], y - y0[k + 1]
        ya2, yb2 = ya * ya + soft, yb * yb + soft
        for j in range(axis.size):
            da, db = axis[j] - xa, axis[j] - xb
            ra, rb = da * da + ya2, db * db + yb2
            inverse = T(1.0) / (ra * rb)
            fa, fb = wa * rb * inverse, wb * ra * inverse
            alpha_x[j] += fa * da + fb * db
            alpha_y[j] += fa * ya + fb * yb


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_vortex(
    alpha_x,
    alpha_y,
    axis,
    y,
    weight,
    x0,
    y0,
    cos,
    sin,
    half_length,
    n,
    c2,
    moments,
    tolerance,
    scratch,
):
    """Adds the deflection of a vortex line to one row of pixels.

    c2 holds the squared distances of the mass pairs from the centre, moments the mean of (c/λ)^2j over the masses.
    """
    T = axis.dtype.type
    N = axis.size
    dy = y - y0
    # Pixels within 1.4 λ of the centre are contiguous in a row; all others take the series.
    reach2 = T(1.96) * half_length * half_length - dy * dy
    first, last = N, N
    if reach2 > T(0.0):
        reach = math.sqrt(reach2)
        step = axis[1] - axis[0]
        first = min(max(math.ceil((x0 - reach - axis[0]) / step), 0), N)
        last = min(max(math.floor((x0 + reach - axis[0]) / step) + 1, first), N)
    closest2 = max(dy * dy, T(1.96) * half_length * half_length)
    q_max = half_length * half_length / closest2
    terms = max(min(moments.size, math.ceil(math.log(tolerance) / math.log(q_max)) + 1), 1)
    l2 = half_length * half_length
    p_real, p_imag, q_real, q_imag = scratch[0], scratch[1], scratch[2], scratch[3]
    total = weight * T(n)
    # Views that start at 0: an index that might be negative would keep the loops from being vectorised.
    for part in range(2):
        start, stop = (0, first) if part == 0 else (last, N)
        far, out_x, out_y = axis[start:stop], alpha_x[start:stop], alpha_y[start:stop]
        a_real, a_imag, b_real, b_imag = (
            p_real[start:stop],
            p_imag[start:stop],
            q_real[start:stop],
            q_imag[start:stop],
        )
        # Laurent series: Σ 1/(z − z_k) = (n/z) Σ_j M_2j q^j with q = (λ/z)² in the line's frame.
        for j in range(far.size):
            dx = far[j] - x0
            a, b = cos * dx + sin * dy, cos * dy - sin * dx
            r2 = a * a + b * b
            inverse = l2 / (r2 * r2)
            b_real[j] = (a * a - b * b) * inverse
            b_imag[j] = T(-2.0) * a * b * inverse
            a_real[j] = moments[terms - 1]
            a_imag[j] = T(0.0)
        for m in range(terms - 2, -1, -1):
            moment = moments[m]
            for j in range(far.size):
                real = a_real[j] * b_real[j] - a_imag[j] * b_imag[j] + moment
                a_imag[j] = a_real[j] * b_imag[j] + a_imag[j] * b_real[j]
                a_real[j] = real
        for j in range(far.size):
            dx = far[j] - x0
            inverse = total / (dx * dx + dy * dy)
            # the conjugate of a/z; q, and so a, do not depend on the frame
            out_x[j] += (a_real[j] * dx + a_imag[j] * dy) * inverse
            out_y[j] += (a_real[j] * dy - a_imag[j] * dx) * inverse
    if first < last:
        near, out_x, out_y = axis[first:last], alpha_x[first:last], alpha_y[first:last]
        s_real, s_imag, z_real, z_imag = (
            p_real[: near.size],
            p_imag[: near.size],
            q_real[: near.size],
            q_imag[: near.size],
        )
        soft = T(1e-18)
        for j in range(near.size):
            s_real[j] = T(0.0)
            s_imag[j] = T(0.0)
            dx = near[j] - x0
            a, b = cos * dx + sin * dy, cos * dy - sin * dx
            z_real[j] = a * a - b * b
            z_imag[j] = T(2.0) * a * b
        for k in range(0, c2.size, 2):
            ca, cb = c2[k], c2[k + 1]
            for j in range(near.size):
                i2 = z_imag[j] * z_imag[j] + soft
                wa, wb = z_real[j] - ca, z_real[j] - cb
                ra, rb = wa * wa + i2, wb * wb + i2
                inverse = T(1.0) / (ra * rb)
                s_real[j] += (rb * wa + ra * wb) * inverse
                s_imag[j] += (rb + ra) * inverse
        for j in range(near.size):
            dx = near[j] - x0
            a, b = cos * dx + sin * dy, cos * dy - sin * dx
            imag = -z_imag[j] * s_imag[j]
            # Σ 1/(z − z_k) = 2z Σ_pairs 1/(z² − c²); the deflection is its conjugate, rotated back into the lens's frame
            f_real, f_imag = (
                T(2.0) * (a * s_real[j] - b * imag),
                T(-2.0) * (a * imag + b * s_real[j]),
            )
            out_x[j] += weight * (cos * f_real - sin * f_imag)
            out_y[j] += weight * (sin * f_real + cos * f_imag)
            if n % 2:  # the mass in the middle has no partner
                inverse = weight / (dx * dx + dy * dy + soft)
                out_x[j] += dx * inverse
                out_y[j] += dy * inverse


@njit(nogil=True, cache=True, error_model="numpy")
def redo_beside_points(alpha_x, alpha_y, axis, y, weight, x0, y0, n):
    """Sums the point masses again, in float64, for the pixels of a row that lie within 0.01″ of one."""
    first, step = axis[0], axis[1] - axis[0]
    for k in range(n):
        if weight[k] > 0.0 and abs(y - y0[k]) < _BESIDE:
            j = np.int64(round((x0[k] - first) / step))
            if 0 <= j < axis.size and abs(axis[j] - x0[k]) < _BESIDE:
                sum_x, sum_y = 0.0, 0.0
                for i in range(n):
                    dx, dy = axis[j] - x0[i] + _ASIDE, y - y0[i]
                    f = weight[i] / (dx * dx + dy * dy)
                    sum_x += f * dx
                    sum_y += f * dy
                alpha_x[j] = sum_x
                alpha_y[j] = sum_y


@njit(nogil=True, cache=True, error_model="numpy")
def redo_beside_vortex(
    alpha_x, alpha_y, saved_x, saved_y, axis, y, weight, x0, y0, cos, sin, half_length, n
):
    """Sums a vortex's masses again, in float64, for the pixels of a row that lie within 0.01″ of its line.

    saved_x and saved_y are the row's deflections without the vortex.
    """
    dy = y - y0
    reach = half_length + _BESIDE
    left, right = x0 - reach, x0 + reach
    if abs(sin) > 1e-9:  # where |cos dy − sin dx| < 0.01″
        a, b = (cos * dy - _BESIDE) / sin, (cos * dy + _BESIDE) / sin
        left, right = max(left, x0 + min(a, b)), min(right, x0 + max(a, b))
    elif abs(dy) >= _BESIDE:
        return
    first, step = axis[0], axis[1] - axis[0]
    for j in range(
        max(math.ceil((left - first) / step), 0),
        min(math.floor((right - first) / step) + 1, axis.size),
    ):
        dx = axis[j] - x0
        along, across = cos * dx + sin * dy + _ASIDE, cos * dy - sin * dx
        if abs(along) > reach:
            continue
        real, imag = 0.0, 0.0
        for k in range(n):
            t = along - half_length * (2.0 * k / (n - 1) - 1.0)
            f = 1.0 / (t * t + across * across)
            real += f * t
            imag += f * across
        alpha_x[j] = saved_x[j] + weight * (cos * real - sin * imag)
        alpha_y[j] = saved_y[j] + weight * (sin * real + cos * imag)


def vortex_series(n_masses: int, T: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Squared distances of a vortex's mass pairs (in λ²), even moments of its masses, and the series' tolerance."""
    positions = np.linspace(-1.0, 1.0, max(n_masses, 2))
    pairs = positions[positions > 1e-12] ** 2
    if len(pairs) % 2:
        pairs = np.append(pairs, 1e6)  # a pair so far away that it deflects nothing
    moments = np.array([np.mean(positions ** (2 * j)) for j in range(96)])
    return pairs, moments.astype(T), T(1e-7 if T is np.float32 else 1e-13)


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def render_images(
    out, axis, axis64, beta_x, beta_y, scale, source, r_min, pixel_area, psf,
    point_count, point_weight, point_x, point_y, vortex_n, vortex, pair_fractions, moments, tolerance,
):  # fmt: skip
    """Renders noise-free images.

    Args:
        out: (B, N, N) receives counts/s per pixel.
        axis: (N,) pixel positions, in the type of ``out``.
        axis64: The same in float64.
        beta_x: (1 or B, N, N) source-plane positions behind the smooth lens; as ``beta_y``.
        beta_y: See ``beta_x``.
        scale: Factor of the substructure's deflections.
        source: (B, 7) amp, R_sersic, n_sersic, e1, e2, x, y.
        r_min: Radius inside which the source's brightness is constant.
        pixel_area: arcsec² per pixel.
        psf: (2r+1,) point-spread function along one axis.
        point_count: (B,) number of point masses of each image, rounded up to even.
        point_weight: (B, n) float64 θ_E², zero beyond the image's own; as ``point_x``, ``point_y``.
        point_x: See ``point_weight``.
        point_y: See ``point_weight``.
        vortex_n: (B,) number of masses of the vortex, 0 for none.
        vortex: (B, 5) float64 θ_E² of each mass, x, y, angle, half-length.
        pair_fractions: (n/2,) squared distances of the pairs from the centre in units of λ², padded to even length by a huge number.
        moments: Mean of (c/λ)^2j over the masses, j = 0, 1, ….
        tolerance: Relative error of the Laurent series.
    """
    T = axis.dtype.type
    N = axis.size
    radius = psf.size // 2
    brightness = np.empty((N, N), dtype=axis.dtype)
    alpha_x, alpha_y = np.empty(N, dtype=axis.dtype), np.empty(N, dtype=axis.dtype)
    saved_x, saved_y = np.empty(N, dtype=axis.dtype), np.empty(N, dtype=axis.dtype)
    n_max = point_x.shape[1]
    weights, xs, ys = (
        np.empty(n_max, dtype=axis.dtype),
        np.empty(n_max, dtype=axis.dtype),
        np.empty(n_max, dtype=axis.dtype),
    )
    padded = np.empty(N + 2 * radius, dtype=axis.dtype)
    scratch = np.empty((4, N), dtype=axis.dtype)
    c2 = np.empty(pair_fractions.size, dtype=axis.dtype)
    bits = np.empty(N, dtype=np.int32)
    bits_as_float = bits.view(np.float32)
    for i in range(out.shape[0]):
        amp, R_sersic, n_sersic = source[i, 0], source[i, 1], source[i, 2]
        e1, e2, sx, sy = source[i, 3], source[i, 4], source[i, 5], source[i, 6]
        norm = T(1.0) / math.sqrt(T(1.0) - e1 * e1 - e2 * e2)
        uu, uv, vv = (T(1.0) - e1) * norm, -e2 * norm, (T(1.0) + e1) * norm
        b = T(1.9992) * n_sersic - T(0.3271)
        r_min2 = r_min * r_min
        lens = i if beta_x.shape[0] > 1 else 0
        has_vortex = vortex_n[i] > 0
        points = point_count[i]
        for k in range(points):
            weights[k], xs[k], ys[k] = T(point_weight[i, k]), T(point_x[i, k]), T(point_y[i, k])
        weight, vx, vy, angle, half_length = (
            vortex[i, 0],
            vortex[i, 1],
            vortex[i, 2],
            vortex[i, 3],
            vortex[i, 4],
        )
        cos, sin = math.cos(angle), math.sin(angle)
        if has_vortex:
            for k in range(c2.size):
                c2[k] = T(pair_fractions[k] * half_length * half_length)
        for row in range(N):
            y = axis[row]
            for j in range(N):
                alpha_x[j] = T(0.0)
                alpha_y[j] = T(0.0)
            if points > 0:
                add_point_masses(alpha_x, alpha_y, axis, y, weights, xs, ys, points)
                redo_beside_points(
                    alpha_x,
                    alpha_y,
                    axis64,
                    axis64[row],
                    point_weight[i],
                    point_x[i],
                    point_y[i],
                    points,
                )
            if has_vortex:
                for j in range(N):
                    saved_x[j] = alpha_x[j]
                    saved_y[j] = alpha_y[j]
                add_vortex(
                    alpha_x, alpha_y, axis, y, T(weight), T(vx), T(vy), T(cos), T(sin), T(half_length), vortex_n[i], c2,
                    moments, tolerance, scratch,
                )  # fmt: skip
                redo_beside_vortex(
                    alpha_x, alpha_y, saved_x, saved_y, axis64, axis64[row], weight, vx, vy, cos, sin, half_length, vortex_n[i]
                )  # fmt: skip
            light, smooth_x, smooth_y = brightness[row], beta_x[lens, row], beta_y[lens, row]
            for j in range(N):
                dx = smooth_x[j] - scale * alpha_x[j] - sx
                dy = smooth_y[j] - scale * alpha_y[j] - sy
                u, v = uu * dx + uv * dy, uv * dx + vv * dy
                light[j] = math.sqrt(max(u * u + v * v, r_min2))
            if n_sersic == T(1.0):
                for j in range(N):
                    light[j] = b - b / R_sersic * light[j]
            else:
                power = T(1.0) / n_sersic
                for j in range(N):
                    light[j] = b - b * (light[j] / R_sersic) ** power
            if axis.itemsize == 4:
                exp_row(light, bits, bits_as_float)
            else:
                for j in range(N):
                    light[j] = math.exp(light[j])
            # along the row, edges repeated
            for j in range(N):
                padded[radius + j] = light[j]
            for j in range(radius):
                padded[j] = light[0]
                padded[radius + N + j] = light[N - 1]
            centre = psf[radius] * amp * pixel_area
            for j in range(N):
                light[j] *= centre
            for m in range(radius):
                tap = psf[m] * amp * pixel_area
                left, right = padded[m : m + N], padded[2 * radius - m : 2 * radius - m + N]
                for j in range(N):
                    light[j] += tap * (left[j] + right[j])
        # across the rows
        for row in range(N):
            line = out[i, row]
            for j in range(N):
                line[j] = psf[radius] * brightness[row, j]
            for m in range(radius):
                tap = psf[m]
                above, below = (
                    brightness[max(row - radius + m, 0)],
                    brightness[min(row + radius - m, N - 1)],
                )
                for j in range(N):
                    line[j] += tap * (above[j] + below[j])
