"""The fit of a composed survey's smooth lenses by the columns of :mod:`.kernel`: damped Gauss–Newton steps, compiled by numba.

Weighted least squares with Gaussian priors: each pixel is weighted with the variance that the model itself predicts, and a step is
accepted by χ² with the weights before it. Of Gaussian noise the source's flux is linear: it is solved for at every place that is tried
(variable projection).
"""

import math

import numpy as np
from numba import njit

from haloformer.fitting.composed.kernel import SCRATCH, TERMS, sharp_columns
from haloformer.fitting.composed.names import (
    A1C,
    E1,
    E2,
    FLUX,
    MOST_LENS,
    MOST_SOURCE,
    SECONDS,
    SOURCE_E1,
    SOURCE_E2,
    SOURCE_N,
    SOURCE_R,
    THETA_E,
)
from haloformer.fitting.composed.sums_kernel import (
    BLOCK,
    correlate,
    damped_step,
    log_variance,
    moments,
    products,
    solved,
)
from haloformer.fitting.convergence import SETTLED
from haloformer.simulation.components.ray_kernels import observe, trace_back
from haloformer.simulation.kernels import FLAGS

_HOPELESS = 0.05  # standard deviations: a step that is as short and leads nowhere ends a fit


@njit(nogil=True, cache=True)
def physical(u, p):
    """Receives in ``p`` (22,) the values of what is fitted, ``u``: exponentials of logarithms."""
    for k in range(u.size):
        p[k] = u[k]
    for k in (THETA_E, SOURCE_R, SOURCE_N, FLUX, SECONDS):
        p[k] = math.exp(u[k])


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _weighted(columns, growth, weight, time_row, by_time, data, mean, count):
    """Multiplies columns by the slope of the mean and the root of the weight; writes that of the exposure and of the residual (last)."""
    rest = columns[count]
    for j in range(weight.size):
        rest[j] = math.sqrt(weight[j])
    for p in range(count):
        column = columns[p]
        if p == time_row:
            for j in range(weight.size):
                column[j] = by_time[j] * rest[j]
        else:
            for j in range(weight.size):
                column[j] *= growth[j] * rest[j]
    for j in range(weight.size):
        rest[j] *= data[j] - mean[j]


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _chi2(data, mean, weight):
    total = 0.0
    for start in range(0, data.size, BLOCK):
        some = np.float32(0.0)
        for j in range(start, min(start + BLOCK, data.size)):
            r = data[j] - mean[j]
            some += weight[j] * r * r
        total += float(some)
    return total


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _rescaled(image, data, weight, sky, low, high):
    """Multiplies an image by the factor that fits the data best, within bounds, and returns its logarithm."""
    f = np.float32
    there, seen = 0.0, 0.0
    light = f(sky)
    for start in range(0, data.size, BLOCK):
        one, two = f(0.0), f(0.0)
        for j in range(start, min(start + BLOCK, data.size)):
            w = weight[j] * image[j]
            one += w * image[j]
            two += w * (data[j] - light)
        there += float(one)
        seen += float(two)
    factor = seen / max(there, 1e-30)
    factor = min(max(factor, math.exp(max(low, -60.0))), math.exp(min(high, 60.0)))
    for j in range(data.size):
        image[j] *= f(factor)
    return math.log(factor)


@njit(nogil=True, cache=True)
def bounded(u, free, low, high):
    """Brings parameters within their bounds, and ellipticities within those of an ellipse."""
    for k in free:
        u[k] = min(max(u[k], low[k]), high[k])
    for pair in range(2):
        first, second, most = (E1, E2, MOST_LENS) if pair == 0 else (SOURCE_E1, SOURCE_E2, MOST_SOURCE)  # fmt: skip
        size = math.sqrt(u[first] ** 2 + u[second] ** 2)
        if size > most:
            u[first] *= most / size
            u[second] *= most / size


@njit(nogil=True, cache=True)
def axis_of(u):
    """Returns the angle of the lens's major axis, which points to the right."""
    return 0.5 * math.atan2(u[E2], u[E1])


@njit(nogil=True, cache=True)
def turn(u, angle):
    """Gives the multipoles in a frame that is turned by ``angle``."""
    for number in range(3):
        k, m = A1C + 2 * number, (1, 3, 4)[number]
        cos, sin = math.cos(m * angle), math.sin(m * angle)
        u[k], u[k + 1] = cos * u[k] + sin * u[k + 1], cos * u[k + 1] - sin * u[k]


@njit(nogil=True, cache=True)
def render(u, wanted, camera, work, pixels):
    """Receives in ``pixels`` (1 + len(wanted), N, N) the image in counts/s per pixel and its derivatives.

    Args:
        u: (22,) what is fitted.
        wanted: Numbers of the parameters whose derivatives are wanted, the multipoles' axis staying where it is.
        camera: See :func:`fit_images`.
        work: Of :func:`_space`.
        pixels: See above.
    """
    _, across, down, radius, rays, fast_across, fast_down, fast_radius, _, _, _, area = camera
    sharp = work[4]
    _sharp(u, wanted, camera, work)
    count = 1 + wanted.size
    observe(sharp[:1], across, down, radius, rays, area, pixels[:1])
    observe(sharp[1:count], fast_across, fast_down, fast_radius, rays, area, pixels[1:count])


@njit(nogil=True, cache=True)
def _sharp(u, wanted, camera, work):
    """Computes the light at the rays and its derivatives, the fifth of ``work``."""
    p, coefficients, s, bits, sharp = work[:5]
    physical(u, p)
    frame = axis_of(u)
    turned = math.cos(frame), math.sin(frame)
    sharp_columns(p, turned, wanted, camera[0], coefficients, s, bits, sharp[: 1 + wanted.size])


@njit(nogil=True, cache=True)
def _space(numbers, count, side, rays):
    """Returns space for use in between: values, coefficients, scratch and its memory as int32, the light at the rays, and twice that of pixels."""
    s = np.zeros(SCRATCH, np.float32)
    M = side * rays
    sharp, small = np.empty((count, M, M), np.float32), np.empty((count, side, side), np.float32)
    return np.empty(numbers), np.empty((3, TERMS)), s, s.view(np.int32), sharp, small, np.empty((M, M), np.float32)  # fmt: skip


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _binned(sharp, rays, out):
    """Receives in ``out`` (C, N, N) the mean light (C, M, M) of each pixel's rays."""
    f = np.float32
    share, N = f(1.0 / rays**2), out.shape[1]
    line = np.empty(N * rays, f)
    for i in range(out.shape[0]):
        for row in range(N):
            line[:] = sharp[i, row * rays]
            for k in range(1, rays):
                other = sharp[i, row * rays + k]
                for j in range(line.size):
                    line[j] += other[j]
            target = out[i, row]
            for j in range(N):
                some = f(0.0)
                for p in range(rays):
                    some += line[j * rays + p]
                target[j] = share * some


@njit(nogil=True, cache=True, fastmath=FLAGS, error_model="numpy")
def _dot(a, b):
    """Returns the sum of products of two images (M, M) float32."""
    total = 0.0
    for row in range(a.shape[0]):
        one, two, some = a[row], b[row], np.float32(0.0)
        for j in range(one.size):
            some += one[j] * two[j]
        total += float(some)
    return total


@njit(nogil=True, cache=True)
def _normal(
    scale, wanted, camera, work, pixels, flat, growth, weight, by_time, data, mean, free, scratch, hessian
):  # fmt: skip
    """Receives in ``hessian`` (P + 1, P + 1) the matrix of a step, of derivatives that are nearly right, and last the slope, of right ones.

    The derivatives at the rays, which are in ``work`` but for a factor ``scale``, are not blurred for the slope: the pixels' residuals, of
    which there is one image, are traced back to the rays.
    """
    _, _, _, _, rays, across, down, radius, quick_across, quick_down, quick_radius, area = camera
    sharp, small, back = work[4:]
    P, count, N = free.size, 1 + wanted.size, pixels.shape[1]
    area *= np.float32(scale)
    one = sharp[1:count]
    if rays > 1:
        one = small[1:count]
        _binned(sharp[1:count], rays, one)
    observe(one, quick_across, quick_down, quick_radius, 1, area, pixels[1:count])
    columns = flat[1:]
    _weighted(columns, growth, weight, P - 1 if free[P - 1] == SECONDS else -1, by_time, data, mean, P)  # fmt: skip
    products(columns, P + 1, hessian)
    for j in range(scratch.size):
        scratch[j] = growth[j] * weight[j] * (data[j] - mean[j])
    trace_back(scratch.reshape(N, N), across, down, radius, rays, area, back)
    for p in range(wanted.size):
        hessian[P, p] = _dot(sharp[1 + p], back)


@njit(nogil=True, cache=True)
def fit_images(
    data, known, extra, starts, free, wanted, seconds, camera, noise, prior, linear, steps, u, cost, first_steps,
):  # fmt: skip
    """Fits images from several starts each, and keeps the best end of each.

    Args:
        data: (B, N, N) float32 images, finite.
        known: (B, N, N) float32: 0 where a pixel does not count, else 1.
        extra: (B or 1, N, N) float32 further variance; see :func:`moments`.
        starts: (B, K, 22) float64 where to begin, of all of ``NAMES``, logarithms of positive ones.
        free: (P,) numbers of what is fitted, rising.
        wanted: Those of them that are no exposure.
        seconds: (B,) total exposure where it is not fitted, else the number of exposures.
        camera: Positions of the rays (M,), the point-spread function across and down, its radius, and rays per side of a pixel; across,
            down and radius of that for derivatives, and of the quick one; and the area of a pixel in arcsec²: see
            :func:`~haloformer.simulation.components.ray_kernels.observe`.
        noise: See :func:`moments`.
        prior: (5, 22) mean, inverse variance, lower and upper bounds, and largest steps.
        linear: Whether the flux is solved for.
        steps: Largest number of steps.
        u: (B, 22) receives the best end.
        cost: (B, K) receives −2 ln of the posterior of each end but for a constant: χ², the logarithms of the variances, and the priors.
        first_steps: Of the total, those that each start may take before only the best goes on.
    """
    B, N, K, P = data.shape[0], data.shape[1], starts.shape[1], free.size
    pixels = np.empty((P + 2, N, N), np.float32)
    flat = pixels.reshape(P + 2, N * N)
    work = _space(u.shape[1], P + 1, N, camera[4])
    rows = np.empty((6, N * N), np.float32)
    bits = rows[5].view(np.int32)
    hessian, gradient = np.empty((P + 1, P + 1)), np.empty(P)
    matrix, step = np.empty((P, P)), np.empty(P)
    ends, weights = np.empty((K, u.shape[1])), np.empty((K, N * N), np.float32)
    sums, means = np.empty((K, P + 1, P + 1)), np.empty((K, N * N), np.float32)
    damping, chi2 = np.empty(K), np.empty(K)
    going = np.empty(K, np.bool_)
    trial, here = np.empty(u.shape[1]), np.empty(u.shape[1])
    has_multipoles = False
    for k in free:
        has_multipoles = has_multipoles or (A1C <= k < A1C + 6)
    for i in range(B):
        image, there = data[i].reshape(N * N), known[i].reshape(N * N)
        more = extra[i if extra.shape[0] > 1 else 0].reshape(N * N)
        best = 0
        for k in range(K):
            ends[k] = starts[i, k]
            bounded(ends[k], free, prior[2], prior[3])
            damping[k] = -1.0  # has not been rendered yet
            going[k] = True
        # All take their first steps; then the best alone goes on.
        for stage in range(2):
            for k in range(K):
                todo = steps - first_steps if k == best else 0
                if stage == 0:
                    todo = first_steps + 1
                hopeful = True
                for _ in range(todo):
                    if not going[k]:
                        break
                    moved, before, begins = 0.0, np.inf, damping[k] < 0.0
                    trial[:] = ends[k]
                    if not begins:
                        for p in range(P):
                            number = free[p]
                            off = ends[k, number] - prior[0, number]
                            gradient[p] = sums[k, P, p] - prior[1, number] * off
                            for q in range(P):
                                hessian[p, q] = sums[k, p, q]
                            hessian[p, p] += prior[1, number]
                        moved = damped_step(
                            hessian, gradient, ends[k], free, prior[2], prior[3], damping[k], matrix, step
                        )  # fmt: skip
                        if not moved > SETTLED**2:
                            going[k] = False
                            break
                        shrink = 1.0
                        for p in range(P):
                            shrink = max(shrink, abs(step[p]) / prior[4, free[p]])
                        for p in range(P):
                            trial[free[p]] += step[p] / shrink
                        bounded(trial, free, prior[2], prior[3])
                        # The multipoles' prior is that of the lens's own axis, which may have turned.
                        here[:] = ends[k]
                        if has_multipoles:
                            turned = axis_of(trial) - axis_of(ends[k])
                            turn(trial, turned)
                            turn(here, turned)
                        before = chi2[k] + _penalty(here, prior, free)
                    after = _arrive(
                        trial, image, there, more, weights[k], not begins, hopeful, free, wanted, seconds[i], camera, noise, prior, linear,
                        work, pixels, flat, rows, bits, means[k], hessian, before,
                    )  # fmt: skip
                    hopeful = after < before or begins
                    if hopeful:
                        ends[k] = trial
                        sums[k] = hessian
                        chi2[k] = _chi2(image, means[k], weights[k])
                        cost[i, k] = chi2[k] + _penalty(trial, prior, free)
                        damping[k] = 1e-3 if begins else max(damping[k] * 0.1, 1e-7)
                    else:
                        damping[k] = min(damping[k] * 10.0, 1e7)
                        if damping[k] >= 1e7 or moved < _HOPELESS**2:
                            going[k] = False
            if stage == 0:
                for k in range(K):
                    # Else a model could be the best by claiming more noise.
                    cost[i, k] += log_variance(weights[k])
                    if cost[i, k] < cost[i, best]:
                        best = k
        u[i] = ends[best]
        if steps > first_steps:
            cost[i, best] = chi2[best] + _penalty(ends[best], prior, free) + log_variance(weights[best])  # fmt: skip


@njit(nogil=True, cache=True)
def _penalty(u, prior, free):
    total = 0.0
    for k in free:
        total += prior[1, k] * (u[k] - prior[0, k]) ** 2
    return total


@njit(nogil=True, cache=True)
def _arrive(
    u, image, there, more, weight, has_weight, hopeful, free, wanted, seconds, camera, noise, prior, linear, work, pixels, flat, rows, bits, mean,
    hessian, before,
):  # fmt: skip
    """Renders at ``u`` and returns the cost with the weights before; if that is better, writes mean, new weights and products.

    Without weights from before they are those of the image itself where the flux is solved for. If it is not ``hopeful``, the derivatives
    are computed only when they are wanted.
    """
    P = free.size
    new_mean, new_weight, growth, by_time, scratch = rows[0], rows[1], rows[2], rows[3], rows[5]
    _, across, down, radius, rays, _, _, _, _, _, _, area = camera
    _sharp(u, wanted if hopeful else wanted[:0], camera, work)
    observe(work[4][:1], across, down, radius, rays, area, pixels[:1])
    time = math.exp(u[SECONDS]) * seconds if free[P - 1] == SECONDS else seconds
    flux = u[FLUX]
    if linear:
        if not has_weight:  # of a flux that makes the light of the model that of the image
            u[FLUX] += _rescaled(flat[0], image, there, noise[2], prior[2, FLUX] - u[FLUX], prior[3, FLUX] - u[FLUX])  # fmt: skip
            moments(flat[0], time, noise, more, there, new_mean, weight, growth, by_time, scratch, bits)  # fmt: skip
        u[FLUX] += _rescaled(flat[0], image, weight, noise[2], prior[2, FLUX] - u[FLUX], prior[3, FLUX] - u[FLUX])  # fmt: skip
    moments(flat[0], time, noise, more, there, new_mean, new_weight, growth, by_time, scratch, bits)
    cost = _chi2(image, new_mean, weight if has_weight else new_weight)
    cost += _penalty(u, prior, free)
    if not cost < before:
        return cost
    mean[:] = new_mean
    weight[:] = new_weight
    if not hopeful:
        _sharp(u, wanted, camera, work)
        flux = u[FLUX]
    _normal(
        math.exp(u[FLUX] - flux), wanted, camera, work, pixels, flat, growth, new_weight, by_time, image, new_mean, free, scratch,
        hessian,
    )  # fmt: skip
    return cost


@njit(nogil=True, cache=True)
def finish_images(
    data, known, extra, u, free, wanted, seconds, camera, noise, prior, nuisance, correlation,
    mean, variance, residual, detail, hessian, middle, score,
):  # fmt: skip
    """Returns what a fit has found: expected images, residuals, and what its errors follow from.

    Args:
        data: See :func:`fit_images`, as for those up to ``prior``.
        known: See there.
        extra: See there.
        u: (B, 22) where the fits ended.
        free: See there; of all columns that are computed, those of the nuisances included.
        wanted: See there.
        seconds: See there.
        camera: See there.
        noise: See there.
        prior: See there; of the nuisances the mean is where they are.
        nuisance: (Q,) bool which of ``free`` are fitted to the residual alone, for the detail.
        correlation: The ``a`` of :mod:`haloformer.simulation.correlation`.
        mean: (B, N, N) float32 receives the expected images.
        variance: (B, N, N) float32 receives the variance of the noise.
        residual: (B, N, N) float32 receives the residuals in standard deviations, 0 where a pixel does not count.
        detail: (B, N, N) float32 receives what is left of them; of no pixels if it is not wanted.
        hessian: (B, P, P) float64 receives the Fisher information with the priors, of what is fitted.
        middle: (B, P, P) float64 receives the variance of the score, of which the noise's correlation is part.
        score: (B, P) float64 receives the score.
    """
    B, N, Q = data.shape[0], data.shape[1], free.size
    P = score.shape[1]
    pixels = np.empty((Q + 2, N, N), np.float32)
    flat = pixels.reshape(Q + 2, N * N)
    work = _space(u.shape[1], Q + 1, N, camera[4])
    rows = np.empty((6, N * N), np.float32)
    bits, scratch = rows[5].view(np.int32), rows[3].reshape(N, N)
    sums, matrix, right, amounts = (
        np.empty((Q + 1, Q + 1)),
        np.empty((Q, Q)),
        np.empty(Q),
        np.empty(Q),
    )
    root = np.float32(math.sqrt(noise[4]))
    for i in range(B):
        image, there = data[i].reshape(N * N), known[i].reshape(N * N)
        more = extra[i if extra.shape[0] > 1 else 0].reshape(N * N)
        render(u[i], wanted, camera, work, pixels)
        timed = free[Q - 1] == SECONDS
        time = math.exp(u[i, SECONDS]) * seconds[i] if timed else seconds[i]
        weight, expected = rows[1], mean[i].reshape(N * N)
        ones = rows[0]
        ones[:] = np.float32(1.0)
        moments(flat[0], time, noise, more, ones, expected, weight, rows[2], rows[4], rows[5], bits)
        spread = variance[i].reshape(N * N)
        for j in range(N * N):
            spread[j] = np.float32(1.0) / (weight[j] * root * root)
            weight[j] *= there[j]
        columns = flat[1:]
        _weighted(columns, rows[2], weight, Q - 1 if timed else -1, rows[4], image, expected, Q)
        products(columns, Q + 1, sums)
        left = columns[Q]
        out = residual[i].reshape(N * N)
        for j in range(N * N):
            out[j] = left[j] * root
        p = 0
        for a in range(Q):
            if nuisance[a]:
                continue
            q = 0
            for b in range(Q):
                if not nuisance[b]:
                    hessian[i, p, q] = sums[a, b]
                    q += 1
            hessian[i, p, p] += prior[1, free[a]]
            score[i, p] = sums[Q, a] - prior[1, free[a]] * (u[i, free[a]] - prior[0, free[a]])
            p += 1
        if detail.shape[1]:
            for a in range(Q):
                right[a] = sums[Q, a]
                for b in range(Q):
                    matrix[a, b] = sums[a, b]
                matrix[a, a] = matrix[a, a] * (1.0 + 1e-6) + prior[1, free[a]] + 1e-20
                if not nuisance[a]:
                    right[a] -= prior[1, free[a]] * (u[i, free[a]] - prior[0, free[a]])
            if not solved(matrix, right, amounts):
                amounts[:] = 0.0
            fine = detail[i].reshape(N * N)
            for j in range(N * N):
                fine[j] = out[j]
            for a in range(Q):
                amount, column = np.float32(amounts[a]) * root, columns[a]
                for j in range(N * N):
                    fine[j] -= amount * column[j]
        if correlation > 0.0:
            p = 0
            for a in range(Q):  # those that are fitted, side by side
                if not nuisance[a]:
                    if p != a:
                        columns[p] = columns[a]
                    p += 1
            correlate(pixels[1:], P, correlation, scratch)
            products(columns, P, sums[:P, :P])
        p = 0
        for a in range(Q):
            if nuisance[a]:
                continue
            for q in range(P):
                if correlation > 0.0:
                    middle[i, p, q] = sums[p, q] / noise[4]
                else:
                    middle[i, p, q] = hessian[i, p, q]
            if correlation > 0.0:
                middle[i, p, p] += prior[1, free[a]]
            p += 1
