"""The fit of :mod:`haloformer.fitting.parametric` on a CPU, for surveys whose lens and source are always the same but for the source's place.

And but for where the lens lies on the pixels, where that is fitted. The same steps as there, image by image: all that an image needs stays
in a core's cache, and an image that has settled takes no further step. Compiled by numba at first use.
"""

import math

import numpy as np
from numba import njit

from haloformer.fitting.convergence import SETTLED, UNSEEN
from haloformer.simulation.kernels import FLAGS, exp_row

GAUSSIAN, DOUBLE_POISSON = 0, 1

NEAR = 8
"""Pixels about the lens's centre whose deflection is computed and not interpolated."""

BESIDE = 1e-3  # of a pixel: step of its derivatives

TAPS = 6
"""Points of the deflection's table that each of its values is interpolated from, along either axis (Lagrange): in place of 4 so many
that it is good to 1e-5 of itself 10 pixels from the lens's centre, and exact on the survey's own pixels."""


@njit(nogil=True, cache=True, error_model="numpy")
def _weigh(N, margin, moved, size, first, weights):
    """Finds which points of a table, and with which weights, give a function at the pixels of a moved and scaled axis.

    The table's point ``margin + k`` is the survey's pixel k. Receives ``first`` (N,) and ``weights`` (N, TAPS).
    """
    middle = 0.5 * (N - 1)
    for j in range(N):
        place = (j - middle - moved) * size + middle + margin
        place = min(max(place, TAPS // 2 - 1.0), N + 2.0 * margin - TAPS // 2 - 1.0)
        base = math.floor(place)
        fraction = place - base
        first[j] = base - (TAPS // 2 - 1)
        for p in range(TAPS):
            product = 1.0
            for q in range(TAPS):
                if q != p:
                    product *= (fraction - (q - TAPS // 2 + 1)) / (p - q)
            weights[j, p] = product


@njit(nogil=True, cache=True, error_model="numpy")
def _deflection(x, y, lens):
    """Deflection in arcsec by an isothermal ellipsoid and a shear: :func:`haloformer.simulation.deflectors.sie_deflection`, in float64."""
    theta_E, e1, e2, x0, y0, gamma1, gamma2, scale, core, largest = lens
    c = min(math.sqrt(max(e1**2 + e2**2, 1e-20)), 0.9999)
    q = min((1.0 - c) / (1.0 + c), largest)
    phi = 0.5 * math.atan2(e2, e1)
    cos, sin = math.cos(phi), math.sin(phi)
    dx, dy = x - x0, y - y0
    u, v = cos * dx + sin * dy, -sin * dx + cos * dy
    s, f = core / math.sqrt(q), math.sqrt(1.0 - q**2)
    psi = math.sqrt(q**2 * (s**2 + u**2) + v**2)
    amplitude = theta_E * math.sqrt(q) / f
    along = amplitude * math.atan(f * u / (psi + s))
    across = amplitude * math.atanh(f * v / (psi + q**2 * s))
    return (
        scale * (cos * along - sin * across + gamma1 * x + gamma2 * y),
        scale * (sin * along + cos * across + gamma2 * x - gamma1 * y),
    )


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _positions(
    alpha_x, alpha_y, lens, margin, pixel, moved_x, moved_y, size,
    beta_x, beta_y, slopes, columns, row_first, row_weights, column_first, column_weights,
):  # fmt: skip
    """Source-plane positions (N, N) behind the pixels of a lens that lies elsewhere on them, from its deflection's table.

    Receives in ``slopes`` (4, N, N), unless it has no pixels, ∂β_x and ∂β_y by the pixel's column, then by its row.
    """
    T = np.float32
    N = beta_x.shape[0]
    _weigh(N, margin, moved_x, size, column_first, column_weights)
    _weigh(N, margin, moved_y, size, row_first, row_weights)
    middle = 0.5 * (N - 1)
    for m in range(2):
        table, out = (alpha_x, beta_x) if m == 0 else (alpha_y, beta_y)
        for row in range(N):
            line = columns[0]
            for k in range(table.shape[1]):
                line[k] = T(0.0)
            for p in range(TAPS):
                tap, source = row_weights[row, p], table[row_first[row] + p]
                for k in range(table.shape[1]):
                    line[k] += tap * source[k]
            here = T((row - middle - moved_y) * size * pixel)
            for j in range(N):
                start, value = column_first[j], T(0.0)
                for p in range(TAPS):
                    value += column_weights[j, p] * line[start + p]
                there = T((j - middle - moved_x) * size * pixel) if m == 0 else here
                out[row, j] = there - value
    if slopes.shape[1]:
        # Differences of the next pixels, and of those after them: good to the fourth order; at the rim they are taken aside.
        near, far = T(2.0 / 3.0), T(1.0 / 12.0)
        for row in range(N):
            r = min(max(row, 2), N - 3)
            for j in range(N):
                c = min(max(j, 2), N - 3)
                for m in range(2):
                    beta = beta_x if m == 0 else beta_y
                    slopes[m, row, j] = near * (beta[row, c + 1] - beta[row, c - 1]) - far * (
                        beta[row, c + 2] - beta[row, c - 2]
                    )
                    slopes[2 + m, row, j] = near * (beta[r + 1, j] - beta[r - 1, j]) - far * (
                        beta[r + 2, j] - beta[r - 2, j]
                    )
    # Where the lens's centre is, the deflection turns round within a pixel, and no table knows it.
    step = size * pixel
    centre_x, centre_y = lens[3] / step + middle + moved_x, lens[4] / step + middle + moved_y
    for row in range(max(0, int(centre_y) - NEAR), min(N, int(centre_y) + NEAR + 2)):
        for j in range(max(0, int(centre_x) - NEAR), min(N, int(centre_x) + NEAR + 2)):
            x, y = (j - middle - moved_x) * step, (row - middle - moved_y) * step
            by_x, by_y = _deflection(x, y, lens)
            beta_x[row, j], beta_y[row, j] = T(x - by_x), T(y - by_y)
            if slopes.shape[1]:
                right_x, right_y = _deflection(x + BESIDE * step, y, lens)
                below_x, below_y = _deflection(x, y + BESIDE * step, lens)
                slopes[0, row, j] = T(step - (right_x - by_x) / BESIDE)
                slopes[1, row, j] = T(-(right_y - by_y) / BESIDE)
                slopes[2, row, j] = T(-(below_x - by_x) / BESIDE)
                slopes[3, row, j] = T(step - (below_y - by_y) / BESIDE)


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _gaussian(sigma, out):
    """Receives in ``out`` (2r+1,) a Gaussian along one axis that sums to 1; a single tap is 1."""
    radius, total = out.size // 2, 0.0
    for k in range(out.size):
        out[k] = math.exp(-0.5 * ((k - radius) / sigma) ** 2) if radius else 1.0
        total += out[k]
    for k in range(out.size):
        out[k] /= total


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _add_place_patterns(row, slopes, moved_x, moved_y, kinds, padded, radius):
    """Fills one row of the brightness's derivatives by the lens's place, from those by the source's."""
    T = np.float32
    N = slopes.shape[1]
    x0, y = T(0.5 * (N - 1) + moved_x), T(row - 0.5 * (N - 1) - moved_y)
    value, by_x, by_y = padded[0, radius:], padded[1, radius:], padded[2, radius:]
    for q in range(kinds.size):
        out = padded[3 + q, radius:]
        if kinds[q] < 2:
            first, second = slopes[2 * kinds[q], row], slopes[2 * kinds[q] + 1, row]
            for j in range(N):
                out[j] = by_x[j] * first[j] + by_y[j] * second[j]
        else:
            for j in range(N):
                along_x = by_x[j] * slopes[0, row, j] + by_y[j] * slopes[1, row, j]
                along_y = by_x[j] * slopes[2, row, j] + by_y[j] * slopes[3, row, j]
                out[j] = T(2.0) * value[j] - (T(j) - x0) * along_x - y * along_y


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _evaluate(
    data, known, beta_x, beta_y, slopes, source, r_min, pixel_area, psf, kind, unit, seconds, rms, free_time, kinds, moved_x, moved_y, lens_x, lens_y,
    weights_before, mean, weights, hessian, gradient, maps, rows, columns, bits, bits_as_float,
):  # fmt: skip
    """Expected image, weights and normal equations at one source position; returns χ² with its own weights and with those before."""
    T = np.float32
    N, P, M = data.shape[0], gradient.size, 3 + kinds.size
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
    padded = rows[5 : 5 + M]
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
        if kinds.size:
            _add_place_patterns(row, slopes, moved_x, moved_y, kinds, padded, radius)
        for m in range(M):
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
    hessian[:] = 0.0
    gradient[:] = 0.0
    own, before = 0.0, 0.0
    base, gauss, weighted, growth = rows[0, :N], rows[1, :N], rows[2, :N], rows[3, :N]
    # Derivatives by what is fitted: by the source's position, by the exposure, by the place
    first_place = P - kinds.size
    sky = T((seconds * rms) ** 2)
    seconds32, variance_floor = T(seconds), T(rms * rms)
    for row in range(N):
        for m in range(M):
            out = base if m == 0 else columns[m - 1 if m < 3 else first_place + m - 3, :N]
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
            by_time = columns[2, :N] if free_time else weighted
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
                growth[j] = seconds32 * (cdf + half)
        else:
            for j in range(N):
                expected[j] = unit * base[j]
                weight[j] = there[j] / max(
                    (base[j] / seconds32 + variance_floor) * unit * unit, T(1e-12)
                )
                growth[j] = unit
        for p in range(P):
            if p < 2 or p >= first_place:
                column = columns[p, :N]
                for j in range(N):
                    column[j] *= growth[j]
        if kinds.size:
            height = row - 0.5 * (N - 1) - moved_y - lens_y
            for j in range(N):
                if (j - 0.5 * (N - 1) - moved_x - lens_x) ** 2 + height**2 < UNSEEN**2:
                    weight[j] = T(0.0)
        old = weights_before[row]
        for j in range(N):
            r = values[j] - expected[j]
            own += weight[j] * r * r
            before += old[j] * r * r
        for p in range(P):
            column, total = columns[p, :N], 0.0
            for j in range(N):
                weighted[j] = weight[j] * column[j]
            for j in range(N):
                total += weighted[j] * (values[j] - expected[j])
            gradient[p] += total
            for q in range(p + 1):
                other, total = columns[q, :N], 0.0
                for j in range(N):
                    total += weighted[j] * other[j]
                hessian[p, q] += total
    for p in range(P):
        for q in range(p):
            hessian[q, p] = hessian[p, q]
    return own, before


@njit(nogil=True, cache=True, error_model="numpy")
def positions(places, alpha_x, alpha_y, lens, pixel, beta_x, beta_y, slopes):
    """Source-plane positions behind the pixels of lenses at some places, and how fast these change from pixel to pixel.

    Args:
        places: See :func:`fit_positions`, as for the next four.
        alpha_x: See there.
        alpha_y: See there.
        lens: See there.
        pixel: See there.
        beta_x: (B, N, N) float32 receives the positions, as ``beta_y``.
        beta_y: See ``beta_x``.
        slopes: (B, 4, N, N) float32 receives ∂β_x and ∂β_y by the pixel's column, then by its row.
    """
    B, N = beta_x.shape[0], beta_x.shape[1]
    margin = (alpha_x.shape[0] - N) // 2
    columns = np.zeros((1, N + 2 * margin), dtype=np.float32)
    first = np.empty((2, N), dtype=np.int64)
    taps = np.empty((2, N, TAPS), dtype=np.float32)
    for i in range(B):
        _positions(
            alpha_x, alpha_y, lens, margin, pixel, places[i, 0], places[i, 1], 1.0 + places[i, 2],
            beta_x[i], beta_y[i], slopes[i], columns, first[0], taps[0], first[1], taps[1],
        )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def fit_positions(
    data, known, places, kinds, alpha_x, alpha_y, lens, pixel, sigma, readout, sky, source, r_min, radius, kind, unit, seconds,
    free_time, num_exposures, low, high, limits, steps, u, mean, weights, hessian, gradient, chi2,
):  # fmt: skip
    """Fits source positions, and perhaps ln of the exposure time and the lens's place on the pixels, of a batch.

    Args:
        data: (B, N, N) float32 images, finite.
        known: (B, N, N) float32, 0 where a pixel is to be left out, else 1.
        places: (B, 3) float64 where the lenses lie: pixels, pixels and the relative excess of the pixel scale.
        kinds: (K,) which of the three are fitted instead; they are the last columns of ``u``, in this order.
        alpha_x: (N + 2 m, N + 2 m) float32 deflection in arcsec at the survey's pixels and m more on all sides, as ``alpha_y``.
        alpha_y: See ``alpha_x``.
        lens: (10,) float64 the parameters of :data:`~haloformer.simulation.renderer.LENS_PARAMETERS`, the factor of all deflections, and
            the core and the largest axis ratio of :mod:`~haloformer.simulation.deflectors`.
        pixel: arcsec per pixel, in the survey.
        sigma: Of the Gaussian point-spread function, in the survey's pixels.
        readout: Variance of the background per pixel that its size does not change, in (counts/s)².
        sky: That which grows with its area, in a pixel of the survey.
        source: (7,) float32 amp, R_sersic, n_sersic, e1, e2, x, y; the position is not used.
        r_min: Radius inside which the source's brightness is constant.
        radius: Pixels to which the point-spread function reaches.
        kind: ``DOUBLE_POISSON`` or ``GAUSSIAN``.
        unit: Factor of the noise-free image, of Gaussian noise.
        seconds: (B,) exposure time of one exposure; not used if it is fitted.
        free_time: Whether ln of the exposure time is fitted: the third column of ``u``.
        num_exposures: Exposures that are added.
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
    margin = (alpha_x.shape[0] - N) // 2
    maps = np.empty((3 + kinds.size, N, N), dtype=np.float32)
    rows = np.zeros((8 + kinds.size, N + 2 * radius), dtype=np.float32)
    columns = np.zeros((P + 1, N + 2 * margin), dtype=np.float32)
    bits = np.empty(N, dtype=np.int32)
    bits_as_float = bits.view(np.float32)
    new_mean, new_weights = np.empty((N, N), dtype=np.float32), np.empty((N, N), dtype=np.float32)
    new_hessian, new_gradient = np.zeros((P, P)), np.zeros(P)
    here = source.copy()
    trial, matrix, place, last = np.empty(P), np.empty((P, P)), np.empty(3), np.full(3, np.nan)
    beta_x, beta_y = np.empty((N, N), dtype=np.float32), np.empty((N, N), dtype=np.float32)
    sloping = N if kinds.size else 0
    slopes = np.empty((4, sloping, sloping), dtype=np.float32)
    first = np.empty((2, N), dtype=np.int64)
    taps = np.empty((2, N, TAPS), dtype=np.float32)
    psf, gaussian = np.empty(2 * radius + 1, dtype=np.float32), np.empty(2 * radius + 1)
    for i in range(B):
        damping = 1e-3
        for p in range(P):
            trial[p] = u[i, p]
        for step_number in range(steps + 1):
            if step_number:
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
            for k in range(3):
                place[k] = places[i, k]
            for k in range(kinds.size):
                place[kinds[k]] = trial[P - kinds.size + k]
            size = 1.0 + place[2]
            if place[0] != last[0] or place[1] != last[1] or place[2] != last[2]:
                _positions(
                    alpha_x, alpha_y, lens, margin, pixel, place[0], place[1], size,
                    beta_x, beta_y, slopes, columns, first[0], taps[0], first[1], taps[1],
                )  # fmt: skip
                _gaussian(sigma / size, gaussian)
                for k in range(2 * radius + 1):
                    psf[k] = gaussian[k]
                for k in range(3):
                    last[k] = place[k]
            here[5], here[6] = np.float32(trial[0]), np.float32(trial[1])
            time = (math.exp(trial[2]) if free_time else seconds[i]) * num_exposures
            rms = math.sqrt(readout + sky * size * size)
            area = np.float32((pixel * size) ** 2)
            if not step_number:
                chi2[i], _ = _evaluate(
                    data[i], known[i], beta_x, beta_y, slopes, here, r_min, area, psf, kind, unit, time, rms, free_time, kinds,
                    place[0], place[1], lens[3] / (size * pixel), lens[4] / (size * pixel), weights[i], mean[i], weights[i], hessian[i], gradient[i],
                    maps, rows, columns, bits, bits_as_float,
                )  # fmt: skip
                continue
            own, before = _evaluate(
                data[i], known[i], beta_x, beta_y, slopes, here, r_min, area, psf, kind, unit, time, rms, free_time, kinds,
                place[0], place[1], lens[3] / (size * pixel), lens[4] / (size * pixel), weights[i], new_mean, new_weights, new_hessian, new_gradient,
                maps, rows, columns, bits, bits_as_float,
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
