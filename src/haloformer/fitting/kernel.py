"""The fit of :mod:`haloformer.fitting.parametric` on a CPU, for surveys whose lens and source are always the same but for the source's place.

The same steps as there, image by image: all that an image needs stays in a core's cache, and an image that has settled takes no further
step. Compiled by numba at first use.
"""

import math

import numpy as np
from numba import njit

from haloformer.fitting.convergence import SETTLED
from haloformer.simulation.kernels import FLAGS, exp_row

GAUSSIAN, DOUBLE_POISSON = 0, 1


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _evaluate(
    data, known, beta_x, beta_y, source, r_min, pixel_area, psf, kind, unit, seconds, rms, free_time, weights_before,
    mean, weights, hessian, gradient, maps, rows, bits, bits_as_float,
):  # fmt: skip
    """Expected image, weights and normal equations at one source position; returns χ² with its own weights and with those before."""
    T = np.float32
    N = data.shape[0]
    radius = psf.size // 2
    amp, R_sersic, n_sersic, e1, e2, sx, sy = (
        source[0],
        source[1],
        source[2],
        source[3],
        source[4],
        source[5],
        source[6],
    )
    norm = T(1.0) / math.sqrt(T(1.0) - e1 * e1 - e2 * e2)
    a, b, c = (T(1.0) - e1) * norm, -e2 * norm, (T(1.0) + e1) * norm
    slope = T(1.9992) * n_sersic - T(0.3271)
    steepness, power = slope / n_sersic, T(1.0) / n_sersic
    least = T(r_min * r_min)
    light, us, vs, squares, powers = rows[0, :N], rows[1, :N], rows[2, :N], rows[3, :N], rows[4, :N]
    padded = rows[5:8]
    for row in range(N):
        bx, by = beta_x[row], beta_y[row]
        for j in range(N):
            dx, dy = bx[j] - sx, by[j] - sy
            u, v = a * dx + b * dy, b * dx + c * dy
            us[j], vs[j] = a * u + b * v, b * u + c * v
            squares[j] = max(u * u + v * v, least)
            powers[j] = math.sqrt(squares[j]) / R_sersic
        if n_sersic != T(1.0):
            for j in range(N):
                powers[j] = powers[j] ** power
        for j in range(N):
            light[j] = slope - slope * powers[j]
        exp_row(light, bits, bits_as_float)
        for j in range(N):
            value = light[j] * amp * pixel_area
            steep = value * powers[j] / squares[j] * steepness
            if squares[j] <= least:
                steep = T(0.0)
            padded[0, radius + j] = value
            padded[1, radius + j] = steep * us[j]
            padded[2, radius + j] = steep * vs[j]
        for m in range(3):
            line, out = padded[m], maps[m, row]
            for j in range(radius):
                line[j] = line[radius]
                line[radius + N + j] = line[radius + N - 1]
            for j in range(N):
                out[j] = psf[radius] * line[radius + j]
            for k in range(radius):
                tap = psf[k]
                left, right = line[k : k + N], line[2 * radius - k : 2 * radius - k + N]
                for j in range(N):
                    out[j] += tap * (left[j] + right[j])
    h00, h01, h02, h11, h12, h22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    g0, g1, g2, own, before = 0.0, 0.0, 0.0, 0.0, 0.0
    base, by_x, by_y, gauss, by_time = (
        rows[0, :N],
        rows[1, :N],
        rows[2, :N],
        rows[3, :N],
        rows[4, :N],
    )
    sky = T((seconds * rms) ** 2)
    seconds32, variance_floor = T(seconds), T(rms * rms)
    for row in range(N):
        for m in range(3):
            out = rows[m, :N]
            for j in range(N):
                out[j] = psf[radius] * maps[m, row, j]
            for k in range(radius):
                tap = psf[k]
                above, below = (
                    maps[m, max(row - radius + k, 0)],
                    maps[m, min(row + radius - k, N - 1)],
                )
                for j in range(N):
                    out[j] += tap * (above[j] + below[j])
        expected, weight, there, values = mean[row], weights[row], known[row], data[row]
        if kind == DOUBLE_POISSON:
            for j in range(N):
                mu = seconds32 * base[j]
                gauss[j] = max(T(-0.5) * mu * mu / (mu + sky), T(-80.0))
            exp_row(gauss, bits, bits_as_float)
            for j in range(N):
                mu = seconds32 * base[j]
                square = mu + sky
                sigma = math.sqrt(square)
                t = T(1.0) / (T(1.0) + T(0.2316419) * mu / sigma)
                pdf = T(0.3989422804) * gauss[j]
                # Abramowitz & Stegun 26.2.17, good to 7.5e-8
                tail = t * (
                    T(0.319381530)
                    + t
                    * (
                        T(-0.356563782)
                        + t * (T(1.781477937) + t * (T(-1.821255978) + t * T(1.330274429)))
                    )
                )
                cdf = T(1.0) - pdf * tail
                expected[j] = mu * cdf + sigma * pdf
                variance = expected[j] * (mu - expected[j] + T(1.0)) + square * cdf
                weight[j] = there[j] / max(variance, T(1e-3))
                half = T(0.5) * pdf / sigma
                by_time[j] = mu * cdf + half * (mu + T(2.0) * sky)
                grow = seconds32 * (cdf + half)
                by_x[j] *= grow
                by_y[j] *= grow
        else:
            for j in range(N):
                expected[j] = unit * base[j]
                weight[j] = there[j] / max(
                    (base[j] / seconds32 + variance_floor) * unit * unit, T(1e-12)
                )
                by_time[j] = T(0.0)
                by_x[j] *= unit
                by_y[j] *= unit
        old = weights_before[row]
        for j in range(N):
            w, r = weight[j], values[j] - expected[j]
            wx, wy, wt, wr = w * by_x[j], w * by_y[j], w * by_time[j], w * r
            h00 += wx * by_x[j]
            h01 += wx * by_y[j]
            h02 += wx * by_time[j]
            h11 += wy * by_y[j]
            h12 += wy * by_time[j]
            h22 += wt * by_time[j]
            g0 += wx * r
            g1 += wy * r
            g2 += wt * r
            own += wr * r
            before += old[j] * r * r
    hessian[0, 0], hessian[0, 1], hessian[1, 0], hessian[1, 1] = h00, h01, h01, h11
    gradient[0], gradient[1] = g0, g1
    if free_time:
        hessian[0, 2], hessian[2, 0], hessian[1, 2], hessian[2, 1], hessian[2, 2] = (
            h02,
            h02,
            h12,
            h12,
            h22,
        )
        gradient[2] = g2
    return own, before


@njit(nogil=True, cache=True, error_model="numpy")
def fit_positions(
    data, known, beta_x, beta_y, source, r_min, pixel_area, psf, kind, unit, seconds, num_exposures, rms, low, high, limits, steps,
    u, mean, weights, hessian, gradient, chi2,
):  # fmt: skip
    """Fits source positions (and ln of the exposure time, if ``u`` has a third column) of a batch.

    Args:
        data: (B, N, N) float32 images, finite.
        known: (B, N, N) float32, 0 where a pixel is to be left out, else 1.
        beta_x: (N, N) float32 source-plane positions behind the smooth lens, as ``beta_y``.
        beta_y: See ``beta_x``.
        source: (7,) float32 amp, R_sersic, n_sersic, e1, e2, x, y; the position is not used.
        r_min: Radius inside which the source's brightness is constant.
        pixel_area: arcsec² per pixel.
        psf: (2r+1,) float32 point-spread function along one axis.
        kind: ``DOUBLE_POISSON`` or ``GAUSSIAN``.
        unit: Factor of the noise-free image, of Gaussian noise.
        seconds: (B,) exposure time of one exposure; not used if it is fitted.
        num_exposures: Exposures that are added.
        rms: Background in counts/s per pixel.
        low: (P,) bounds of ``u``.
        high: (P,) bounds of ``u``.
        limits: (P,) largest step.
        steps: Largest number of steps.
        u: (B, P) float64 where to begin; receives the result.
        mean: (B, N, N) float32 receives the expected images.
        weights: (B, N, N) float32 receives one over the variance.
        hessian: (B, P, P) float64 receives the Fisher information.
        gradient: (B, P) float64 receives the score.
        chi2: (B,) float64 receives χ².
    """
    B, N, P = data.shape[0], data.shape[1], u.shape[1]
    radius = psf.size // 2
    maps = np.empty((3, N, N), dtype=np.float32)
    rows = np.zeros((8, N + 2 * radius), dtype=np.float32)
    bits = np.empty(N, dtype=np.int32)
    bits_as_float = bits.view(np.float32)
    new_mean, new_weights = np.empty((N, N), dtype=np.float32), np.empty((N, N), dtype=np.float32)
    new_hessian, new_gradient = np.zeros((P, P)), np.zeros(P)
    here = source.copy()
    trial, matrix = np.empty(P), np.empty((P, P))
    for i in range(B):
        here[5], here[6] = np.float32(u[i, 0]), np.float32(u[i, 1])
        time = (math.exp(u[i, 2]) if P > 2 else seconds[i]) * num_exposures
        chi2[i], _ = _evaluate(
            data[i], known[i], beta_x, beta_y, here, r_min, pixel_area, psf, kind, unit, time, rms, P > 2, weights[i],
            mean[i], weights[i], hessian[i], gradient[i], maps, rows, bits, bits_as_float,
        )  # fmt: skip
        damping = 1e-3
        for _ in range(steps):
            for p in range(P):
                for q in range(P):
                    matrix[p, q] = hessian[i, p, q]
                matrix[p, p] *= 1.0 + damping + 1e-7
                matrix[p, p] += 1e-20
            step = np.linalg.solve(matrix, gradient[i])
            moved, shrink = 0.0, 1.0
            for p in range(P):
                moved += step[p] * gradient[i, p]
                shrink = max(shrink, abs(step[p]) / limits[p])
            if not moved > SETTLED**2:
                break
            for p in range(P):
                trial[p] = min(max(u[i, p] + step[p] / shrink, low[p]), high[p])
            here[5], here[6] = np.float32(trial[0]), np.float32(trial[1])
            time = (math.exp(trial[2]) if P > 2 else seconds[i]) * num_exposures
            own, before = _evaluate(
                data[i], known[i], beta_x, beta_y, here, r_min, pixel_area, psf, kind, unit, time, rms, P > 2, weights[i],
                new_mean, new_weights, new_hessian, new_gradient, maps, rows, bits, bits_as_float,
            )  # fmt: skip
            if before <= chi2[i]:
                for p in range(P):
                    u[i, p], gradient[i, p] = trial[p], new_gradient[p]
                    for q in range(P):
                        hessian[i, p, q] = new_hessian[p, q]
                mean[i], weights[i] = new_mean, new_weights
                chi2[i] = own
                damping = max(damping / 10, 1e-6)
            else:
                damping = min(damping * 10, 1e6)
