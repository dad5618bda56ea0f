"""Smooth lenses, shear and few masses on a regular grid of rays, compiled by numba for the CPU in float32.

Each function adds the deflections of some images: row ``which[k]`` of its parameters to image ``into[k]`` of the arrays. All inner loops
run over the rays of a row, so that LLVM vectorises them, and an image's result depends on nothing but its own parameters. What makes
them fast:

* the angular series of the power law is summed by Clenshaw's recurrence, two operations a term, with as many terms as its ellipticity
  needs;
* powers and logarithms are polynomials in the bits of the number;
* what is linear in the position (shear, sheet, mean pull) is one pass.

The functions release the GIL; threads are the caller's business.
"""

import math

import numpy as np
from numba import njit

from haloformer.simulation.kernels import (
    FLAGS,
    add_point_masses,
    add_vortex,
    exp_row,
    redo_beside_points,
    redo_beside_vortex,
)

LEAST_SQUARE = np.float32(1e-12)  # arcsec², below which the centre of a lens is not resolved


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def log_row(values, bits, octave):
    """Natural logarithm of positive float32 numbers in place, to 1e-7 of 1 or of the logarithm.

    ln(2^k m) = k ln 2 + 2 artanh((m − 1)/(m + 1)), with m between √½ and √2.

    Args:
        values: (N,) float32, replaced by its logarithm.
        bits: The same memory as int32.
        octave: (N,) float32, for use in between.
    """
    f = np.float32
    for j in range(values.size):
        b = bits[j]
        k = (b - np.int32(0x3F3504F3)) >> np.int32(23)  # these are the bits of √½
        octave[j] = f(k)
        bits[j] = b - (k << np.int32(23))
    for j in range(values.size):
        m = values[j]
        s = (m - f(1.0)) / (m + f(1.0))
        square = s * s
        series = f(2.0 / 9.0)
        series = series * square + f(2.0 / 7.0)
        series = series * square + f(2.0 / 5.0)
        series = series * square + f(2.0 / 3.0)
        series = series * square + f(2.0)
        values[j] = octave[j] * f(0.6931471805599453) + s * series


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_linear(axis, constant, matrix, which, into, alpha_x, alpha_y):
    """Adds α = c + M (x − x₀): shear, sheet and mean pull.

    Args:
        axis: (N,) positions of the rays in arcsec.
        constant: (B, 2) float64, c − M x₀.
        matrix: (B, 3) float64, M_xx, M_xy and M_yy of the symmetric M.
        which: (K,) rows of the parameters.
        into: (K,) images.
        alpha_x: (B', N, N), added to.
        alpha_y: See ``alpha_x``.
    """
    f = np.float32
    x = axis.astype(np.float32)
    for k in range(which.size):
        i = which[k]
        xx, xy = f(matrix[i, 0]), f(matrix[i, 1])
        for row in range(axis.size):
            start_x = f(constant[i, 0] + matrix[i, 1] * axis[row])
            start_y = f(constant[i, 1] + matrix[i, 2] * axis[row])
            line_x, line_y = alpha_x[into[k], row], alpha_y[into[k], row]
            for j in range(axis.size):
                line_x[j] += start_x + xx * x[j]
                line_y[j] += start_y + xy * x[j]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_power_laws(axis, shape, series, terms, which, into, alpha_x, alpha_y):
    """Adds elliptical power laws (Tessore & Metcalf 2015, arXiv:1507.01819, eqs. 13 and 29).

    With R and φ the elliptical radius and angle of a ray, the deflection is b (b/R)^(t − 1) Σ_n a_n e^(i (2n + 1) φ). By Clenshaw's
    recurrence b_n = a_n + 2 cos 2φ b_(n+1) − b_(n+2), the sum is (b_0 − b_1) cos φ + i (b_0 + b_1) sin φ.

    Args:
        axis: (N,) positions of the rays in arcsec.
        shape: (B, 7) float64 centre x and y, cos and sin of the major axis, axis ratio q, b, and t − 1 = γ − 2.
        series: (B, M) float32 coefficients a_n, times b; M a multiple of 4.
        terms: (B,) int64 how many of them are needed, a multiple of 4.
        which: (K,) rows of the parameters.
        into: (K,) images.
        alpha_x: (B', N, N), added to.
        alpha_y: See ``alpha_x``.
    """
    f = np.float32
    N = axis.size
    dx, square = np.empty(N, f), np.empty(N, f)
    cos_phi, sin_phi, twice = np.empty(N, f), np.empty(N, f), np.empty(N, f)
    first, second, octave = np.empty(N, f), np.empty(N, f), np.empty(N, f)
    square_bits, first_bits = square.view(np.int32), octave.view(np.int32)
    for k in range(which.size):
        i = which[k]
        cos, sin, q = f(shape[i, 2]), f(shape[i, 3]), f(shape[i, 4])
        inverse_b2, half_power = f(1.0 / shape[i, 5] ** 2), f(-0.5 * shape[i, 6])
        a = series[i]
        for j in range(N):
            dx[j] = f(axis[j] - shape[i, 0])
        for row in range(N):
            dy = f(axis[row] - shape[i, 1])
            for j in range(N):
                u, v = q * (cos * dx[j] + sin * dy), cos * dy - sin * dx[j]
                r2 = max(u * u + v * v, LEAST_SQUARE)
                inverse = f(1.0) / math.sqrt(r2)
                cu, su = u * inverse, v * inverse
                square[j] = r2 * inverse_b2
                cos_phi[j] = cu
                sin_phi[j] = su
                twice[j] = f(2.0) * (cu * cu - su * su)
                first[j] = f(0.0)
                second[j] = f(0.0)
            for n in range(terms[i] - 4, -1, -4):
                a0, a1, a2, a3 = a[n], a[n + 1], a[n + 2], a[n + 3]
                for j in range(N):
                    w = twice[j]
                    b3 = a3 + w * first[j] - second[j]
                    b2 = a2 + w * b3 - first[j]
                    b1 = a1 + w * b2 - b3
                    first[j] = a0 + w * b1 - b2
                    second[j] = b1
            if half_power != f(0.0):
                log_row(square, square_bits, octave)
                for j in range(N):
                    square[j] *= half_power
                exp_row(square, first_bits, octave)
            else:
                for j in range(N):
                    square[j] = f(1.0)
            line_x, line_y = alpha_x[into[k], row], alpha_y[into[k], row]
            for j in range(N):
                u = square[j] * (first[j] - second[j]) * cos_phi[j]
                v = square[j] * (first[j] + second[j]) * sin_phi[j]
                line_x[j] += cos * u - sin * v
                line_y[j] += sin * u + cos * v


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_multipoles(axis, frame, strength, which, into, alpha_x, alpha_y):
    """Adds circular multipoles of orders 1, 3 and 4; see :class:`~.multipoles.Multipoles`.

    Args:
        axis: (N,) positions of the rays in arcsec.
        frame: (B, 5) float64 centre x and y, cos and sin of the major axis, which points to the right, and θ_E.
        strength: (B, 6) float64 of orders 1, 3 and 4 along and across, in arcsec.
        which: (K,) rows of the parameters.
        into: (K,) images.
        alpha_x: (B', N, N), added to.
        alpha_y: See ``alpha_x``.
    """
    f = np.float32
    N = axis.size
    dx, square, octave = np.empty(N, f), np.empty(N, f), np.empty(N, f)
    bits = square.view(np.int32)
    for k in range(which.size):
        i = which[k]
        cos, sin = f(frame[i, 2]), f(frame[i, 3])
        inverse2 = f(1.0 / frame[i, 4] ** 2)
        c1, s1, c3, s3, c4, s4 = strength[i].astype(np.float32)
        for j in range(N):
            dx[j] = f(axis[j] - frame[i, 0])
        for row in range(N):
            dy = f(axis[row] - frame[i, 1])
            for j in range(N):
                square[j] = max(dx[j] * dx[j] + dy * dy, LEAST_SQUARE) * inverse2
            log_row(square, bits, octave)
            line_x, line_y = alpha_x[into[k], row], alpha_y[into[k], row]
            for j in range(N):
                u, v = cos * dx[j] + sin * dy, cos * dy - sin * dx[j]
                inverse = f(1.0) / math.sqrt(max(u * u + v * v, LEAST_SQUARE))
                cu, su = u * inverse, v * inverse
                cos2, sin2 = cu * cu - su * su, f(2.0) * cu * su
                cos3, sin3 = cos2 * cu - sin2 * su, sin2 * cu + cos2 * su
                cos4, sin4 = cos2 * cos2 - sin2 * sin2, f(2.0) * cos2 * sin2
                half_log = f(0.5) * square[j]  # ln(r/θ_E)
                along = c1 * cu + s1 * su
                alpha_u = f(0.5) * (c1 * half_log + along * cu)
                alpha_v = f(0.5) * (s1 * half_log + along * su)
                along, across = c3 * cos3 + s3 * sin3, f(3.0) * (c3 * sin3 - s3 * cos3)
                alpha_u -= f(0.125) * (cu * along + su * across)
                alpha_v -= f(0.125) * (su * along - cu * across)
                along, across = c4 * cos4 + s4 * sin4, f(4.0) * (c4 * sin4 - s4 * cos4)
                alpha_u -= f(1.0 / 15.0) * (cu * along + su * across)
                alpha_v -= f(1.0 / 15.0) * (su * along - cu * across)
                line_x[j] += cos * alpha_u - sin * alpha_v
                line_y[j] += sin * alpha_u + cos * alpha_v


@njit(nogil=True, cache=True, error_model="numpy")
def add_points(axis, number, weight, x0, y0, which, into, alpha_x, alpha_y):
    """Adds point masses; beside one of them a ray's deflection is summed in float64.

    Args:
        axis: (N,) float64 positions of the rays in arcsec.
        number: (B,) of masses, even.
        weight: (B, n) float64 θ_E², 0 of those that are missing.
        x0: (B, n) float64 positions, as ``y0``.
        y0: See ``x0``.
        which: (K,) rows of the parameters.
        into: (K,) images.
        alpha_x: (B', N, N), added to.
        alpha_y: See ``alpha_x``.
    """
    f = np.float32
    axis32 = axis.astype(np.float32)
    line_x, line_y = np.empty(axis.size, f), np.empty(axis.size, f)
    for k in range(which.size):
        i = which[k]
        if number[i] == 0:
            continue
        w, x, y = weight[i].astype(f), x0[i].astype(f), y0[i].astype(f)
        for row in range(axis.size):
            line_x[:] = f(0.0)
            line_y[:] = f(0.0)
            add_point_masses(line_x, line_y, axis32, axis32[row], w, x, y, number[i])
            redo_beside_points(line_x, line_y, axis, axis[row], weight[i], x0[i], y0[i], number[i])
            alpha_x[into[k], row] += line_x
            alpha_y[into[k], row] += line_y


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def points_at_points(x, y, weight, x0, y0, alpha_x, alpha_y):
    """Sums the deflections of point masses at a few positions, in float64.

    Args:
        x: (B, P) positions in arcsec, none of them exactly on a mass, as ``y``.
        y: See ``x``.
        weight: (B, n) θ_E², 0 of those that are missing.
        x0: (B, n) positions of the masses, as ``y0``.
        y0: See ``x0``.
        alpha_x: (B, P) receives the deflections, as ``alpha_y``.
        alpha_y: See ``alpha_x``.
    """
    for i in range(x.shape[0]):
        along, up, out_x, out_y = x[i], y[i], alpha_x[i], alpha_y[i]
        out_x[:] = 0.0
        out_y[:] = 0.0
        for m in range(weight.shape[1]):
            w, at_x, at_y = weight[i, m], x0[i, m], y0[i, m]
            if w == 0.0:
                continue
            for j in range(along.size):
                dx, dy = along[j] - at_x, up[j] - at_y
                over = w / (dx * dx + dy * dy)
                out_x[j] += over * dx
                out_y[j] += over * dy


@njit(nogil=True, cache=True, error_model="numpy")
def add_vortices(axis, number, line, pairs, moments, which, into, alpha_x, alpha_y):
    """Adds vortex lines; beside one of them a ray's deflection is summed in float64.

    Args:
        axis: (N,) float64 positions of the rays in arcsec.
        number: Masses of each line.
        line: (B, 5) float64 θ_E² of each mass, x, y, angle, half-length.
        pairs: Squared distances of the pairs of masses from the centre in squared half-lengths; an even number.
        moments: Means of the even powers of the masses' distances, float32.
        which: (K,) rows of the parameters.
        into: (K,) images.
        alpha_x: (B', N, N), added to.
        alpha_y: See ``alpha_x``.
    """
    f = np.float32
    N = axis.size
    axis32 = axis.astype(np.float32)
    line_x, line_y, nothing = np.empty(N, f), np.empty(N, f), np.zeros(N, f)
    scratch = np.empty((4, N), f)
    c2 = np.empty(pairs.size, f)
    for k in range(which.size):
        weight, x0, y0, angle, half = line[which[k]]
        cos, sin = math.cos(angle), math.sin(angle)
        for p in range(pairs.size):
            c2[p] = f(pairs[p] * half * half)
        for row in range(N):
            line_x[:] = f(0.0)
            line_y[:] = f(0.0)
            add_vortex(
                line_x, line_y, axis32, axis32[row], f(weight), f(x0), f(y0), f(cos), f(sin), f(half), number, c2, moments, f(1e-7), scratch
            )  # fmt: skip
            redo_beside_vortex(
                line_x, line_y, nothing, nothing, axis, axis[row], weight, x0, y0, cos, sin, half, number
            )  # fmt: skip
            alpha_x[into[k], row] += line_x
            alpha_y[into[k], row] += line_y


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def add_fields(axis, fields, place, which, into, alpha_x, alpha_y):
    """Adds deflections known on periodic grids, bilinear between their pixels.

    Args:
        axis: (N,) float64 positions of the rays in arcsec.
        fields: (B, 2, P, P) float32 α_x and α_y, rows along y.
        place: (B, 3) float64 position x and y in arcsec of pixel [P//2, P//2], and pixels per arcsec.
        which: (K,) rows of the parameters.
        into: (K,) images.
        alpha_x: (B', N, N), added to.
        alpha_y: See ``alpha_x``.
    """
    f = np.float32
    P = fields.shape[2]
    N = axis.size
    left, right, share = np.empty(N, np.int64), np.empty(N, np.int64), np.empty(N, f)
    for k in range(which.size):
        i = which[k]
        for j in range(N):
            at = (axis[j] - place[i, 0]) * place[i, 2] + P // 2
            whole = math.floor(at)
            share[j] = f(at - whole)
            left[j] = np.int64(whole) % P
            right[j] = (np.int64(whole) + 1) % P
        for row in range(N):
            at = (axis[row] - place[i, 1]) * place[i, 2] + P // 2
            whole = math.floor(at)
            down = f(at - whole)
            up = f(1.0) - down
            low, high = np.int64(whole) % P, (np.int64(whole) + 1) % P
            for axis_number in range(2):
                below, above = fields[i, axis_number, low], fields[i, axis_number, high]
                line = alpha_x[into[k], row] if axis_number == 0 else alpha_y[into[k], row]
                for j in range(N):
                    at_left = up * below[left[j]] + down * above[left[j]]
                    at_right = up * below[right[j]] + down * above[right[j]]
                    line[j] += at_left + share[j] * (at_right - at_left)
