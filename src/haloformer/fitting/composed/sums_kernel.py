"""What the fit of :mod:`.fit_kernel` adds up and solves: moments of the noise, products of columns, small linear systems."""

import math

import numpy as np
from numba import njit

from haloformer.simulation.kernels import FLAGS, exp_row

GAUSSIAN, DOUBLE_POISSON = 0, 1
BLOCK = 512
"""Pixels whose products are summed in float32."""


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def moments(base, seconds, noise, extra, known, mean, weight, growth, by_time, scratch, bits):
    """Mean and inverse variance of pixels, and the derivatives of the mean by the noise-free image and by ln(exposure).

    As :func:`haloformer.fitting.moments.noise_moments`.

    Args:
        base: (N,) float32 noise-free, counts/s per pixel, without the sky.
        seconds: Total exposure.
        noise: (6,) float64: kind, variance of the background in (counts/s)², sky in counts/s, least variance, factor of all variances,
            whether ``extra`` is all of the variance.
        extra: (N,) float32 further variance in (counts/s)²; of Gaussian noise.
        known: (N,) float32: 0 where a pixel does not count, else 1.
        mean: (N,) receives the expected image.
        weight: (N,) receives one over the variance.
        growth: (N,) receives ∂mean/∂base.
        by_time: (N,) receives ∂mean/∂ln(exposure).
        scratch: (N,) float32, for use in between.
        bits: (N,) its memory as int32.
    """
    f = np.float32
    kind, b2, light = int(noise[0]), noise[1], f(noise[2])
    least, factor = f(noise[3]), f(noise[4])
    T = f(seconds)
    if kind == DOUBLE_POISSON:
        sky = f(seconds * seconds * b2)
        for j in range(base.size):
            mu = T * (base[j] + light)
            weight[j] = max(f(-0.5) * mu * mu / (mu + sky), f(-80.0))
        exp_row(weight, bits, scratch)
        for j in range(base.size):
            mu = T * (base[j] + light)
            square = mu + sky
            sigma = math.sqrt(square)
            t = f(1.0) / (f(1.0) + f(0.2316419) * mu / sigma)
            pdf = f(0.3989422804) * weight[j]
            # Abramowitz & Stegun 26.2.17, good to 7.5e-8
            tail = t * (f(0.319381530) + t * (f(-0.356563782) + t * (f(1.781477937) + t * (f(-1.821255978) + t * f(1.330274429)))))  # fmt: skip
            cdf = f(1.0) - pdf * tail
            expected = mu * cdf + sigma * pdf
            variance = expected * (mu - expected + f(1.0)) + square * cdf
            half = f(0.5) * pdf / sigma
            mean[j] = expected
            weight[j] = known[j] / (factor * max(variance, f(1e-3)))
            by_time[j] = mu * cdf + half * (mu + f(2.0) * sky)
            growth[j] = T * (cdf + half)
    else:
        own = f(0.0) if noise[5] else f(1.0)
        floor, per_second = own * f(b2), own / T
        for j in range(base.size):
            expected = base[j] + light
            variance = floor + extra[j] + per_second * max(expected, f(0.0))
            mean[j] = expected
            weight[j] = known[j] / (factor * max(variance, least))
            growth[j] = f(1.0)
            by_time[j] = f(0.0)


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def products(columns, count, hessian):
    """Receives in ``hessian`` (count, count) float64 the products of the first rows of ``columns`` (count or more, pixels) float32."""
    hessian[:] = 0.0
    pixels = columns.shape[1]
    for start in range(0, pixels, BLOCK):
        stop = min(start + BLOCK, pixels)
        for p in range(0, count, 2):
            a, b = columns[p, start:stop], columns[min(p + 1, count - 1), start:stop]
            for q in range(0, p + 1, 2):
                c, d = columns[q, start:stop], columns[min(q + 1, count - 1), start:stop]
                ac, ad, bc, bd = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
                for j in range(a.size):
                    ac += a[j] * c[j]
                    ad += a[j] * d[j]
                    bc += b[j] * c[j]
                    bd += b[j] * d[j]
                hessian[p, q] += ac
                if q + 1 <= p:
                    hessian[p, q + 1] += ad
                if p + 1 < count:
                    hessian[p + 1, q] += bc
                    if q + 1 < count:
                        hessian[p + 1, q + 1] += bd
    for p in range(count):
        for q in range(p):
            hessian[q, p] = hessian[p, q]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def log_variance(weight):
    """Returns the sum of ln(variance) over the pixels that count, of weights (N,) float32."""
    total = 0.0
    for j in range(weight.size):
        if weight[j] > np.float32(0.0):
            total -= math.log(weight[j])
    return total


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def correlate(columns, count, a, scratch):
    """Filters columns (count, N, N) in place by (a, 1, a)/√(1 + 2a²) along both axes: white noise becomes what the camera has."""
    f = np.float32
    N = columns.shape[2]
    side, middle = f(a / math.sqrt(1.0 + 2.0 * a * a)), f(1.0 / math.sqrt(1.0 + 2.0 * a * a))
    for p in range(count):
        column = columns[p]
        for row in range(N):
            line, out = column[row], scratch[row]
            out[0] = middle * line[0] + side * line[1]
            out[N - 1] = middle * line[N - 1] + side * line[N - 2]
            for j in range(1, N - 1):
                out[j] = middle * line[j] + side * (line[j - 1] + line[j + 1])
        for row in range(N):
            above, here, below = (
                scratch[max(row - 1, 0)],
                scratch[row],
                scratch[min(row + 1, N - 1)],
            )
            first, last = (f(0.0) if row == 0 else side), (f(0.0) if row == N - 1 else side)
            out = column[row]
            for j in range(N):
                out[j] = middle * here[j] + first * above[j] + last * below[j]


@njit(nogil=True, cache=True)
def solved(matrix, right, out):
    """Solves a positive definite system by Cholesky's method in place; False where it is none."""
    n = right.size
    for k in range(n):
        for j in range(k + 1):
            total = matrix[k, j]
            for m in range(j):
                total -= matrix[k, m] * matrix[j, m]
            if j == k:
                if not total > 0.0:
                    return False
                matrix[k, k] = math.sqrt(total)
            else:
                matrix[k, j] = total / matrix[j, j]
    for k in range(n):
        total = right[k]
        for m in range(k):
            total -= matrix[k, m] * out[m]
        out[k] = total / matrix[k, k]
    for k in range(n - 1, -1, -1):
        total = out[k]
        for m in range(k + 1, n):
            total -= matrix[m, k] * out[m]
        out[k] = total / matrix[k, k]
    return True


@njit(nogil=True, cache=True)
def damped_step(hessian, gradient, u, free, low, high, damping, matrix, step):
    """Receives in ``step`` (P,) that of (H + λ diag H) step = gradient, 0 for what is at a bound and would leave it; returns step · gradient."""
    P = free.size
    right, held = np.empty(P), np.empty(P, np.bool_)
    for p in range(P):
        k, slope = free[p], gradient[p]
        held[p] = (u[k] <= low[k] and slope < 0) or (u[k] >= high[k] and slope > 0)
        right[p] = 0.0 if held[p] else slope
    for p in range(P):
        for q in range(P):
            matrix[p, q] = 0.0 if held[p] or held[q] else hessian[p, q]
        matrix[p, p] = matrix[p, p] * (1.0 + damping + 1e-9) + (1.0 if held[p] else 1e-20)
    if not solved(matrix, right, step):
        step[:] = 0.0
        return 0.0
    moved = 0.0
    for p in range(P):
        moved += step[p] * right[p]
    return moved
