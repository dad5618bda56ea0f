"""Gaussian random fields that belong to an image: drawn from two words that travel with it, on any device.

A word is a whole number below 2²⁴, so that float32 holds it exactly.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from haloformer.simulation.fused_noise import fused, normal_pixels
from haloformer.simulation.noise import PixelDraws

if TYPE_CHECKING:
    from haloformer.simulation.components.component import Draws, Tensors

WORDS = ("word_1", "word_2")
"""The parameters that a field is drawn from."""


def draw_words(draws: "Draws") -> dict[str, np.ndarray]:
    """Draws :data:`WORDS`, each (B,)."""
    return {name: np.floor(draws.uniform(name) * 2**24) for name in WORDS}


def white_noise(parameters: "Tensors", side: int, number: int = 0) -> Tensor:
    """Returns independent standard normal numbers (B, side, side) float64.

    Args:
        parameters: With :data:`WORDS`.
        side: Pixels per side. The numbers of another side are others.
        number: Of the field, where an image needs several; 0 to 1000.
    """
    low, high = (parameters[name].round().long()[:, None] for name in WORDS)
    pair = torch.arange((side**2 + 1) // 2, device=low.device)[None]
    u1, u2 = PixelDraws(pair, low, high).uniforms(number)
    radius, angle = torch.sqrt(-2 * torch.log(u1)), 2 * math.pi * u2
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, : side**2].reshape(-1, side, side)


def standard_normal(pixel: Tensor, low: Tensor, high: Tensor, number: int) -> Tensor:
    """Returns standard normal numbers (B, P) float64, each a function of its word and pixel (Box and Muller 1958; on a GPU others).

    Args:
        pixel: (1, P) numbers of the pixels.
        low: (B, 1) lower 32 bits of the images' words.
        high: (B, 1) higher 32 bits.
        number: Of the draw.
    """
    if pixel.device.type != "cpu":
        return fused(normal_pixels)(pixel, low, high, number)
    u1, u2 = PixelDraws(pixel, low, high).uniforms(number)
    return torch.sqrt(-2 * torch.log(u1)) * torch.cos(2 * math.pi * u2)


def wave_numbers(side: int, scale: Tensor) -> Tensor:
    """Returns |k| (B, side, side // 2 + 1) in radian/arcsec of the modes of a grid: those of real fields, of which the others follow.

    Args:
        side: Pixels per side.
        scale: (B,) arcsec per pixel.
    """
    down = 2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64, device=scale.device)
    across = down[: side // 2 + 1].abs()
    return torch.hypot(down[:, None], across[None, :]) / scale.double()[:, None, None]


def gaussian_field(parameters: "Tensors", spectrum: Tensor, side: int, number: int = 0) -> Tensor:
    """Returns periodic Gaussian random fields (B, side, side) float64 of mean 0 and expected variance 1.

    Args:
        parameters: With :data:`WORDS`.
        spectrum: (B or 1, side, side // 2 + 1) power of the modes, of any height, as :func:`wave_numbers` has them.
        side: Pixels per side.
        number: See :func:`white_noise`.
    """
    times = torch.full_like(spectrum[0, 0], 2.0)  # that a mode is there
    times[0] = 1.0
    if side % 2 == 0:
        times[-1] = 1.0
    mean = (spectrum * times).sum((1, 2), keepdim=True) / side**2
    modes = torch.fft.rfft2(white_noise(parameters, side, number))
    modes = modes * torch.sqrt(spectrum / mean)
    field: Tensor = torch.fft.irfft2(modes, s=(side, side))
    return field
