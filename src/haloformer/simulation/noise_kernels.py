"""Noise on a CPU, compiled by numba: the distributions of :mod:`haloformer.simulation.noise`, with generators of its own.

The functions release the GIL; threads are the caller's business, as in :mod:`haloformer.simulation.kernels`.
"""

import functools
import math
from typing import Any

import numpy as np
from numba import njit
from scipy import stats

from haloformer.simulation.fused_noise import expansion

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGE = 10.0  # mean from which the expansion serves
_BLOCK = 600  # pixels that are sorted together


@njit(nogil=True, cache=True)
def _mix(z):
    """Output function of SplitMix64 (Steele, Lea & Flood 2014), whose state moves on by ``_GOLDEN`` at each step."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def _unit(word):
    """64 random bits to a number in (0, 1), of which 52 bits are used."""
    return (np.float64(np.int64(word >> np.uint64(12))) + 0.5) * 2.0**-52


@njit(nogil=True, cache=True, error_model="numpy")
def _normal_row(state, out, zig_x, zig_ratio):
    """Fills ``out`` with standard normal draws by the ziggurat of 128 layers (Marsaglia & Tsang 2000, in Doornik's form of 2005)."""
    s = state[0]
    for j in range(out.size):
        while True:
            s += _GOLDEN
            word = _mix(s)
            layer = np.uint64(word & np.uint64(127))
            u = 2.0 * _unit(word) - 1.0
            if abs(u) < zig_ratio[layer]:
                out[j] = u * zig_x[layer]
                break
            if layer == np.uint64(0):  # the tail beyond the last edge
                while True:
                    s += _GOLDEN
                    x = -math.log(_unit(_mix(s))) / zig_x[1]
                    s += _GOLDEN
                    if -2.0 * math.log(_unit(_mix(s))) > x * x:
                        break
                out[j] = math.copysign(zig_x[1] + x, u)
                break
            x = u * zig_x[layer]
            above = zig_x[layer + np.uint64(1)]
            f0 = math.exp(-0.5 * (zig_x[layer] * zig_x[layer] - x * x))
            f1 = math.exp(-0.5 * (above * above - x * x))
            s += _GOLDEN
            if f1 + _unit(_mix(s)) * (f0 - f1) < 1.0:
                out[j] = x
                break
    state[0] = s


@njit(nogil=True, cache=True, error_model="numpy")
def _poisson_row(state, values, offsets, cdf, guide):
    """Replaces means by Poisson draws: Poisson(⌊mean⌋) from a table, plus Poisson(mean − ⌊mean⌋); PTRS beyond the table."""
    s = state[0]
    for i in range(values.size):
        mean = values[i]
        k = 0.0
        if mean > 0.0:
            whole = np.int64(mean)
            if whole + 1 >= offsets.size:
                state[0] = s
                k = _poisson_large(state, mean)
                s = state[0]
            else:
                if whole > 0:
                    s += _GOLDEN
                    k = _tabulated(_unit(_mix(s)), whole, offsets, cdf, guide)
                s += _GOLDEN
                k += _summed(_unit(_mix(s)), mean - np.float64(whole))
        values[i] = k
    state[0] = s


@njit(nogil=True, cache=True, error_model="numpy")
def _tabulated(u, whole, offsets, cdf, guide):
    """Returns the Poisson number of a whole mean that a uniform number gives, by the tables."""
    j = guide[np.uint64(whole), np.uint64(u * np.float64(guide.shape[1]))]
    base = offsets[np.uint64(whole)]
    while u > cdf[np.uint64(base + j)]:
        j += 1
    return np.float64(j)


@njit(nogil=True, cache=True, error_model="numpy")
def _summed(u, mean):
    """Returns the Poisson number of a mean below 1 that a uniform number gives."""
    number = 0.0
    if u > 1.0 - mean:  # else certainly 0, as e^-x ≥ 1 − x
        p = math.exp(-mean)
        total = p
        while u > total and number < 100.0:
            number += 1.0
            p *= mean / number
            total += p
    return number


@njit(nogil=True, cache=True, error_model="numpy")
def _poisson_large(state, mean):
    """A Poisson draw by transformed rejection (PTRS, Hörmann 1993), for a mean of at least 10."""
    root = math.sqrt(mean)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u = _unit(_mix(state[0] + _GOLDEN)) - 0.5
        state[0] += _GOLDEN + _GOLDEN
        v = _unit(_mix(state[0]))
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0.0 or (us < 0.013 and v > us):
            continue
        if math.log(v * inverse_alpha / (a / (us * us) + b)) <= k * math.log(
            mean
        ) - mean - math.lgamma(k + 1.0):
            return k


@njit(nogil=True, cache=True, error_model="numpy")
def add_noise(
    images, words, exposure_time, background_rms, twice, zig_x, zig_ratio, offsets, cdf, guide
):
    """Replaces noise-free images (B, N, N) in counts/s by noisy ones, each from its own word.

    With ``twice``, as Model I was released: S = Poisson(I T) + T n_B, then Poisson(max(S, 0)), in counts. Without: the instrument's
    own noise, Poisson(I T)/T + n_B, in counts/s. n_B is Gaussian of standard deviation ``background_rms``. The last five arguments
    are those of :func:`noise_tables`.
    """
    state = np.empty(1, dtype=np.uint64)
    N = images.shape[2]
    normals, counts = np.empty(N), np.empty(N)
    for i in range(images.shape[0]):
        state[0] = words[i]
        T = exposure_time[i]
        background = T * background_rms
        for row in range(images.shape[1]):
            pixels = images[i, row]
            _normal_row(state, normals, zig_x, zig_ratio)
            for j in range(N):
                counts[j] = pixels[j] * T
            _poisson_row(state, counts, offsets, cdf, guide)
            for j in range(N):
                counts[j] += background * normals[j]
            if twice:
                _poisson_row(state, counts, offsets, cdf, guide)
                for j in range(N):
                    pixels[j] = counts[j]
            else:
                for j in range(N):
                    pixels[j] = counts[j] / T


@njit(nogil=True, cache=True, error_model="numpy")
def add_sorted_noise(
    images, words, exposure_time, background_rms, twice, zig_x, zig_ratio, offsets, cdf, guide
):
    """As :func:`add_noise`, in half the time, by other draws: pixels are sorted by what their Poisson numbers need.

    Most pixels of a lens are dark, and their number is 0, as one comparison tells. Bright ones have the expansion of
    :mod:`haloformer.simulation.fused_noise` in a normal number. Only what is left is searched for in a table.
    """
    state = np.empty(1, dtype=np.uint64)
    size = images.shape[1] * images.shape[2]
    normals, counts, room = np.empty(_BLOCK), np.empty(_BLOCK), np.empty((3, _BLOCK))
    where = np.empty((2, _BLOCK + 1), dtype=np.int64)
    for i in range(images.shape[0]):
        state[0] = words[i]
        T = exposure_time[i]
        background = T * background_rms
        flat = images[i].reshape(size)
        for start in range(0, size, _BLOCK):
            pixels = flat[start : start + _BLOCK]
            n = pixels.size
            normal, mean = normals[:n], counts[:n]
            _normal_row(state, normal, zig_x, zig_ratio)
            for j in range(n):
                mean[j] = pixels[j] * T
            _sorted_poisson(state, mean, room, where, zig_x, zig_ratio, offsets, cdf, guide)
            for j in range(n):
                mean[j] += background * normal[j]
            if twice:
                _sorted_poisson(state, mean, room, where, zig_x, zig_ratio, offsets, cdf, guide)
                for j in range(n):
                    pixels[j] = mean[j]
            else:
                for j in range(n):
                    pixels[j] = mean[j] / T


@njit(nogil=True, cache=True, error_model="numpy")
def _sorted_poisson(state, mean, room, where, zig_x, zig_ratio, offsets, cdf, guide):
    """Replaces means by Poisson draws; ``room`` (3, ≥ n) and ``where`` (2, > n) are to work in."""
    n = mean.size
    u, some, bright = room[0, :n], room[1], room[2]
    s = state[0]
    for j in range(n):
        u[j] = _unit(_mix(s + np.uint64(j + 1) * _GOLDEN))
    state[0] = s + np.uint64(n) * _GOLDEN
    n_some, n_bright = np.int64(0), np.int64(0)
    for j in range(n):  # without a branch: each place is written down, and kept or written over
        where[0, n_some] = j
        n_some += np.int64((mean[j] < _LARGE) & (u[j] > 1.0 - mean[j]))  # e^-x ≥ 1 − x
        where[1, n_bright] = j
        n_bright += np.int64(mean[j] >= _LARGE)
    for i in range(n_some):
        some[i], u[i] = mean[where[0, i]], u[where[0, i]]
    for i in range(n_bright):
        bright[i] = mean[where[1, i]]
    mean[:] = 0.0
    _searched_poisson(state, some[:n_some], u, offsets, cdf, guide)
    for i in range(n_some):
        mean[where[0, i]] = some[i]
    normal = u[:n_bright]
    _normal_row(state, normal, zig_x, zig_ratio)
    _expanded_poisson(bright[:n_bright], normal)
    for i in range(n_bright):
        mean[where[1, i]] = bright[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _searched_poisson(state, values, uniforms, offsets, cdf, guide):
    """Replaces means below 10 by the Poisson draws that these uniform numbers give."""
    s = state[0]
    for i in range(values.size):
        rest, u, k = values[i], uniforms[i], 0.0
        whole = np.int64(rest)
        if whole > 0:
            k = _tabulated(u, whole, offsets, cdf, guide)
            s += _GOLDEN
            u = _unit(_mix(s))
        values[i] = k + _summed(u, rest - np.float64(whole))
    state[0] = s


_expansion: Any = njit(nogil=True, fastmath={"contract", "arcp"}, error_model="numpy")(expansion)


@njit(nogil=True, cache=True, fastmath={"contract", "arcp"}, error_model="numpy")
def _expanded_poisson(values, normal):
    """Replaces means of at least 10 by Poisson draws, from normal ones."""
    for i in range(values.size):
        root = math.sqrt(values[i])
        values[i] = max(math.floor(_expansion(values[i], root, 1.0 / root, normal[i])), 0.0)


@functools.cache
def noise_tables() -> tuple[np.ndarray, ...]:
    """Tables for :func:`add_noise` and :func:`add_sorted_noise`: the ziggurat's layers, and the Poisson distributions of whole means below 256.

    Returns:
        zig_x (129,) and zig_ratio (128,): edges of the layers and their ratios; offsets (256,), cdf (flat) and guide (256, 64): of the
        distribution of mean m, cumulative probabilities from ``cdf[offsets[m]]`` on, and where to start the search for each 64th of u.
    """
    area, edge = 9.91256303526217e-3, 3.442619855899
    zig_x = np.zeros(129)
    f = math.exp(-0.5 * edge**2)
    zig_x[0], zig_x[1] = area / f, edge
    for i in range(2, 128):
        zig_x[i] = math.sqrt(-2 * math.log(area / zig_x[i - 1] + f))
        f = math.exp(-0.5 * zig_x[i] ** 2)
    offsets = np.zeros(256, dtype=np.int64)
    pieces: list[np.ndarray] = []
    guide = np.zeros((256, 64), dtype=np.int64)
    for mean in range(256):
        # up to a tail of 1e-17, where float64 cumulative probabilities end; the last entry exceeds every u
        cumulative = stats.poisson.cdf(np.arange(int(mean + 10 * math.sqrt(mean) + 20)), mean)
        cumulative[-1] = 2.0
        guide[mean] = np.searchsorted(cumulative, np.arange(64) / 64)
        offsets[mean] = sum(len(piece) for piece in pieces)
        pieces.append(cumulative)
    return zig_x, zig_x[1:] / zig_x[:-1], offsets, np.concatenate(pieces), guide


@njit(nogil=True, cache=True)
def counter_uniforms(pixel, low, high, number, first, second):
    """The draws of :class:`haloformer.simulation.noise.PixelDraws`, to the last bit: two uniforms for every counter.

    Args:
        pixel: (N,) int64, the counter's first word.
        low: (N,) int64, the key's words, as ``high``.
        high: See ``low``.
        number: The counter's second word.
        first: (N,) float64, written.
        second: See ``first``.
    """
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(pixel.size):
        c0, c1 = np.uint64(pixel[i]), np.uint64(number)
        c2, c3 = np.uint64(0), np.uint64(0)
        k0, k1 = np.uint64(low[i]), np.uint64(high[i])
        for _ in range(10):
            p0 = np.uint64(0xD2511F53) * c0
            p1 = np.uint64(0xCD9E8D57) * c2
            c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
            k0 = (k0 + np.uint64(0x9E3779B9)) & mask
            k1 = (k1 + np.uint64(0xBB67AE85)) & mask
        first[i] = (np.float64((c0 << np.uint64(20)) | (c1 >> np.uint64(12))) + 0.5) * 2.0**-52
        second[i] = (np.float64((c2 << np.uint64(20)) | (c3 >> np.uint64(12))) + 0.5) * 2.0**-52
