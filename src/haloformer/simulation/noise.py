"""Noise: what the detector does to a noise-free image, in PyTorch on any device.

Each pixel's draws are a pure function of its image's noise word (see :func:`haloformer.simulation.rng.noise_words`) and its
position, so that an image is the same in every batch. The CPU kernel (:mod:`haloformer.simulation.noise_kernels`) and a GPU's
(:mod:`haloformer.simulation.fused_noise`) draw from the same distributions with other generators.
"""

import functools
import importlib.util
import math

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.fused_noise import fused, noisy_pixels, philox_words
from haloformer.simulation.instruments import central_part

NOISE_MODES = ("original", "instrument", "none")
"""``original``: as the survey was released; ``instrument``: the camera's own noise in counts/s; ``none``: the noise-free image."""

_MASK = 0xFFFFFFFF


def add_noise(
    images: Tensor,
    words: np.ndarray,
    exposure_time: Tensor,
    background_rms: float,
    twice: bool,
    *,
    num_pix: int | None = None,
) -> Tensor:
    """Noisy images.

    Args:
        images: (B, H, W) noise-free, in counts/s per pixel.
        words: (B,) uint64, each image's own noise word.
        exposure_time: (B,) total exposure in seconds.
        background_rms: Standard deviation of the background in counts/s per pixel.
        twice: As Model I was released: S = Poisson(I T) + T n_B, then Poisson(max(S, 0)), in counts. Otherwise Poisson(I T)/T + n_B, in counts/s.
        num_pix: Side of the square images of which these are the central part, and then get the noise that the whole ones would have there;
            None: they are whole.

    Returns:
        (B, H, W), same type as ``images``.
    """
    shape, device = images.shape, images.device
    low = torch.as_tensor((words & np.uint64(_MASK)).astype(np.int64), device=device)[:, None]
    high = torch.as_tensor((words >> np.uint64(32)).astype(np.int64), device=device)[:, None]
    if num_pix is None:
        pixel = torch.arange(shape[1] * shape[2], device=device)
    else:
        whole = torch.arange(num_pix**2, device=device).reshape(num_pix, num_pix)
        pixel = central_part(whole, shape[1]).reshape(-1)
    pixel = pixel[None, :]
    flat = images.detach().reshape(shape[0], -1)
    seconds = exposure_time.to(device=device, dtype=torch.float64)[:, None]
    if device.type != "cpu":
        rms = torch.tensor(background_rms, dtype=torch.float64, device=device)
        noisy = fused(noisy_pixels)(flat, pixel, low, high, seconds, rms, twice)
        return noisy.reshape(shape)
    draws = PixelDraws(pixel, low, high)
    flat = flat.double()
    u1, u2 = draws.uniforms(0)
    normal = torch.sqrt(-2 * torch.log(u1)) * torch.cos(2 * math.pi * u2)
    counts = _poisson(flat * seconds, draws, first=1)
    if twice:
        noisy = _poisson(counts + seconds * background_rms * normal, draws, first=1001)
    else:
        noisy = counts / seconds + background_rms * normal
    return noisy.reshape(shape).to(images.dtype)


class PixelDraws:
    """Uniform draws numbered 0, 1, 2, … for every pixel of every image, by Philox4x32-10."""

    def __init__(self, pixel: Tensor, low: Tensor, high: Tensor) -> None:
        self.shape = torch.broadcast_shapes(pixel.shape, low.shape)
        self.pixel, self.low, self.high = (
            t.expand(self.shape).reshape(-1) for t in (pixel, low, high)
        )

    def uniforms(self, number: int, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Two uniforms in (0, 1) for every pixel, (B, P) float64; or for the flat positions ``where`` only."""
        pixel, low, high = (
            t if where is None else t[where] for t in (self.pixel, self.low, self.high)
        )
        if pixel.device.type == "cpu" and has_numba():
            first, second = _compiled_uniforms(pixel, low, high, number)
        else:
            first, second = _tensor_uniforms(pixel, low, high, number)
        if where is None:
            return first.reshape(self.shape), second.reshape(self.shape)
        return first, second


@functools.cache
def has_numba() -> bool:
    """Returns whether compiled kernels can be used."""
    return importlib.util.find_spec("numba") is not None


def _compiled_uniforms(
    pixel: Tensor, low: Tensor, high: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    from haloformer.simulation.noise_kernels import counter_uniforms

    first, second = np.empty(len(pixel)), np.empty(len(pixel))
    one, two, three = (np.ascontiguousarray(each.numpy()) for each in (pixel, low, high))
    counter_uniforms(one, two, three, number, first, second)
    return torch.from_numpy(first), torch.from_numpy(second)


def _tensor_uniforms(
    pixel: Tensor, low: Tensor, high: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """Philox4x32-10 in int64 tensors, on any device."""
    c0, c1, c2, c3 = philox_words(pixel, low, high, number)
    first = ((c0 << 20) | (c1 >> 12)).double().add_(0.5).mul_(2.0**-52)
    second = ((c2 << 20) | (c3 >> 12)).double().add_(0.5).mul_(2.0**-52)
    return first, second


def _poisson(mean: Tensor, draws: PixelDraws, first: int) -> Tensor:
    """Poisson draws: inversion below 10, transformed rejection (PTRS, Hörmann 1993) above; 0 where the mean is not positive."""
    flat = mean.reshape(-1)
    result = torch.zeros_like(flat)
    small = torch.nonzero((flat > 0) & (flat < 10)).flatten()
    if len(small):
        m, (u, _) = flat[small], draws.uniforms(first, small)
        total = p = torch.exp(-m)
        number = 0
        while len(
            small
        ):  # over the counts up to the largest drawn, on the pixels that are not there yet
            beyond = u > total
            result[small[~beyond]] = number
            small, m, u, p, total = small[beyond], m[beyond], u[beyond], p[beyond], total[beyond]
            number += 1
            p = p * m / number
            total = (
                total + p if number < 200 else torch.ones_like(total)
            )  # rounding may keep the sum below u for ever
    todo = torch.nonzero(flat >= 10).flatten()
    attempt = first
    while len(todo):  # about 1.1 attempts a pixel; the loop runs over attempts, not over pixels
        m = flat[todo]
        u, v = draws.uniforms(attempt, todo)
        u = u - 0.5
        b = 0.931 + 2.53 * torch.sqrt(m)
        a = -0.059 + 0.02483 * b
        us = 0.5 - u.abs()
        k = torch.floor((2 * a / us + b) * u + m + 0.43)
        quick = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
        log_ratio = torch.log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / us**2 + b))
        slow = (
            (k >= 0)
            & ~((us < 0.013) & (v > us))
            & (log_ratio <= k * torch.log(m) - m - torch.lgamma(k.clamp(min=0) + 1))
        )
        accepted = quick | slow
        result[todo[accepted]] = k[accepted]
        todo = todo[~accepted]
        attempt += 1
    return result.reshape(mean.shape)
