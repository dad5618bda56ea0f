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

import numpy as np
from numba import njit

_FLAGS = {"contract", "reassoc", "arcp", "nsz", "afn"}


@njit(nogil=True, cache=True, fastmath=_FLAGS, error_model="numpy")
def _exp_row(values, bits, bits_as_float):
    """Exp of float32 values ≤ 80 in place: 2^k · 2^f with a polynomial for 2^f on [−½, ½], relative error 2e-7."""
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
        bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)
        values[j] = p
    for j in range(values.size):
        values[j] *= bits_as_float[j]


@njit(nogil=True, cache=True, fastmath=_FLAGS, error_model="numpy")
def _add_point_masses(alpha_x, alpha_y, axis, y, weight, x0, y0, n):
    """Adds Σ w Δ/|Δ|² over n point masses (n even) to one row of pixels at height y."""
    T = axis.dtype.type
    soft = T(1e-14)  # arcsec²: a pixel on top of a mass is deflected by 0, not by infinity
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


@njit(nogil=True, cache=True, fastmath=_FLAGS, error_model="numpy")
def _add_vortex(alpha_x, alpha_y, axis, y, weight, x0, y0, cos, sin, half_length, n, c2, moments, tolerance, scratch):
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
        first = min(max(int(math.ceil((x0 - reach - axis[0]) / step)), 0), N)
        last = min(max(int(math.floor((x0 + reach - axis[0]) / step)) + 1, first), N)
    closest2 = max(dy * dy, T(1.96) * half_length * half_length)
    q_max = half_length * half_length / closest2
    terms = min(moments.size, int(math.ceil(math.log(tolerance) / math.log(q_max))) + 1)
    l2 = half_length * half_length
    p_real, p_imag, q_real, q_imag = scratch[0], scratch[1], scratch[2], scratch[3]
    # Laurent series: Σ 1/(z − z_k) = (n/z) Σ_j M_2j q^j with q = (λ/z)² in the line's frame.
    for j in range(N):
        dx = axis[j] - x0
        a, b = cos * dx + sin * dy, cos * dy - sin * dx
        r2 = a * a + b * b
        inverse = l2 / max(r2 * r2, T(1e-30))
        q_real[j] = (a * a - b * b) * inverse
        q_imag[j] = T(-2.0) * a * b * inverse
        p_real[j] = moments[terms - 1]
        p_imag[j] = T(0.0)
    for m in range(terms - 2, -1, -1):
        moment = moments[m]
        for j in range(N):
            real = p_real[j] * q_real[j] - p_imag[j] * q_imag[j] + moment
            p_imag[j] = p_real[j] * q_imag[j] + p_imag[j] * q_real[j]
            p_real[j] = real
    total = weight * T(n)
    for j in range(N):
        if j < first or j >= last:
            dx = axis[j] - x0
            inverse = total / (dx * dx + dy * dy)
            # conj of (p_real + i p_imag) / z in the lens's frame: the line's frame rotates z and q alike, 1/z needs no rotation of p
            alpha_x[j] += (p_real[j] * dx + p_imag[j] * dy) * inverse
            alpha_y[j] += (p_real[j] * dy - p_imag[j] * dx) * inverse
    if first < last:
        for j in range(first, last):
            p_real[j] = T(0.0)
            p_imag[j] = T(0.0)
            dx = axis[j] - x0
            a, b = cos * dx + sin * dy, cos * dy - sin * dx
            q_real[j] = a * a - b * b
            q_imag[j] = T(2.0) * a * b
        soft = T(1e-18)
        for k in range(0, c2.size, 2):
            ca, cb = c2[k], c2[k + 1]
            for j in range(first, last):
                i2 = q_imag[j] * q_imag[j] + soft
                wa, wb = q_real[j] - ca, q_real[j] - cb
                ra, rb = wa * wa + i2, wb * wb + i2
                inverse = T(1.0) / (ra * rb)
                fa, fb = rb * inverse, ra * inverse
                p_real[j] += fa * wa + fb * wb
                p_imag[j] += fa + fb
        for j in range(first, last):
            dx = axis[j] - x0
            a, b = cos * dx + sin * dy, cos * dy - sin * dx
            s_real, s_imag = p_real[j], -q_imag[j] * p_imag[j]
            # Σ 1/(z − z_k) = 2z Σ_pairs 1/(z² − c²); the deflection is its conjugate, turned back into the lens's frame
            f_real, f_imag = T(2.0) * (a * s_real - b * s_imag), T(-2.0) * (a * s_imag + b * s_real)
            alpha_x[j] += weight * (cos * f_real - sin * f_imag)
            alpha_y[j] += weight * (sin * f_real + cos * f_imag)


@njit(nogil=True, cache=True, fastmath=_FLAGS, error_model="numpy")
def render_images(
    out, axis, beta_x, beta_y, scale, source, r_min, pixel_area, psf,
    point_count, point_weight, point_x, point_y, vortex_n, vortex, pair_fractions, moments, tolerance,
):  # fmt: skip
    """Renders noise-free images.

    Args:
        out: (B, N, N) receives counts/s per pixel.
        axis: (N,) pixel positions.
        beta_x: (1 or B, N, N) source-plane positions behind the smooth lens; as ``beta_y``.
        beta_y: See ``beta_x``.
        scale: Factor of the substructure's deflections.
        source: (B, 7) amp, R_sersic, n_sersic, e1, e2, x, y.
        r_min: Radius inside which the source's brightness is constant.
        pixel_area: arcsec² per pixel.
        psf: (2r+1,) point-spread function along one axis.
        point_count: (B,) number of point masses of each image, rounded up to even.
        point_weight: (B, n) θ_E², zero beyond the image's own; as ``point_x``, ``point_y``.
        point_x: See ``point_weight``.
        point_y: See ``point_weight``.
        vortex_n: (B,) number of masses of the vortex, 0 for none; even.
        vortex: (B, 5) θ_E² of each mass, x, y, angle, half-length.
        pair_fractions: (n/2,) squared distances of the pairs from the centre in units of λ², padded to even length by a huge number.
        moments: Mean of (c/λ)^2j over the masses, j = 0, 1, ….
        tolerance: Relative error of the Laurent series.
    """
    T = axis.dtype.type
    N = axis.size
    radius = psf.size // 2
    brightness = np.empty((N, N), dtype=axis.dtype)
    alpha_x, alpha_y = np.empty(N, dtype=axis.dtype), np.empty(N, dtype=axis.dtype)
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
        lens = i if beta_x.shape[0] > 1 else 0
        has_vortex = vortex_n[i] > 0
        if has_vortex:
            weight, vx, vy, angle, half_length = vortex[i, 0], vortex[i, 1], vortex[i, 2], vortex[i, 3], vortex[i, 4]
            cos, sin = T(math.cos(angle)), T(math.sin(angle))
            for k in range(c2.size):
                c2[k] = pair_fractions[k] * half_length * half_length
        for row in range(N):
            y = axis[row]
            for j in range(N):
                alpha_x[j] = T(0.0)
                alpha_y[j] = T(0.0)
            if point_count[i] > 0:
                _add_point_masses(alpha_x, alpha_y, axis, y, point_weight[i], point_x[i], point_y[i], point_count[i])
            if has_vortex:
                _add_vortex(
                    alpha_x, alpha_y, axis, y, weight, vx, vy, cos, sin, half_length, vortex_n[i], c2, moments, tolerance, scratch
                )  # fmt: skip
            light = brightness[row]
            for j in range(N):
                dx = beta_x[lens, row, j] - scale * alpha_x[j] - sx
                dy = beta_y[lens, row, j] - scale * alpha_y[j] - sy
                u, v = uu * dx + uv * dy, uv * dx + vv * dy
                light[j] = max(math.sqrt(u * u + v * v), r_min)
            if n_sersic == T(1.0):
                for j in range(N):
                    light[j] = b - b / R_sersic * light[j]
            else:
                power = T(1.0) / n_sersic
                for j in range(N):
                    light[j] = b - b * (light[j] / R_sersic) ** power
            if axis.itemsize == 4:
                _exp_row(light, bits, bits_as_float)
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
                light[j] = centre * padded[radius + j]
            for m in range(radius):
                tap = psf[m] * amp * pixel_area
                for j in range(N):
                    light[j] += tap * (padded[m + j] + padded[2 * radius - m + j])
        # across the rows
        for row in range(N):
            line = out[i, row]
            for j in range(N):
                line[j] = psf[radius] * brightness[row, j]
            for m in range(radius):
                tap = psf[m]
                above, below = brightness[max(row - radius + m, 0)], brightness[min(row + radius - m, N - 1)]
                for j in range(N):
                    line[j] += tap * (above[j] + below[j])


@njit(nogil=True, cache=True)
def _next(state):
    """SplitMix64 (Steele, Lea & Flood 2014): the next 64 random bits; ``state`` is (1,) uint64 and moves on."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def _uniform(state):
    """Uniform in (0, 1), 52 bits."""
    return (np.float64(_next(state) >> np.uint64(12)) + 0.5) * 2.0**-52


@njit(nogil=True, cache=True)
def _poisson(state, mean):
    """A Poisson draw: inversion below 10, transformed rejection (PTRS, Hörmann 1993) above."""
    if mean <= 0.0:
        return 0.0
    if mean < 10.0:
        u, k = _uniform(state), 0.0
        p = math.exp(-mean)
        total = p
        while u > total and k < 200.0:
            k += 1.0
            p *= mean / k
            total += p
        return k
    root = math.sqrt(mean)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u, v = _uniform(state) - 0.5, _uniform(state)
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0.0 or (us < 0.013 and v > us):
            continue
        if math.log(v * inverse_alpha / (a / (us * us) + b)) <= k * math.log(mean) - mean - math.lgamma(k + 1.0):
            return k


@njit(nogil=True, cache=True)
def add_noise(images, words, exposure_time, background_rms, twice):
    """Replaces noise-free images (B, N, N) in counts/s by noisy ones, each from its own word.

    With ``twice``, as Model I was released: S = Poisson(I T) + T n_B, then Poisson(max(S, 0)), in counts. Without: the instrument's
    own noise, Poisson(I T)/T + n_B, in counts/s. n_B is Gaussian of standard deviation ``background_rms``.
    """
    state = np.empty(1, dtype=np.uint64)
    for i in range(images.shape[0]):
        state[0] = words[i]
        T = exposure_time[i]
        flat = images[i].reshape(-1)
        spare, has_spare = 0.0, False
        for j in range(flat.size):
            if has_spare:
                normal, has_spare = spare, False
            else:  # polar method (Marsaglia & Bray 1964)
                while True:
                    a, b = 2.0 * _uniform(state) - 1.0, 2.0 * _uniform(state) - 1.0
                    s = a * a + b * b
                    if s < 1.0:
                        break
                factor = math.sqrt(-2.0 * math.log(s) / s)
                normal, spare, has_spare = a * factor, b * factor, True
            counts = _poisson(state, flat[j] * T)
            if twice:
                flat[j] = _poisson(state, counts + T * background_rms * normal)
            else:
                flat[j] = counts / T + background_rms * normal
