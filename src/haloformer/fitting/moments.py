"""Mean and standard deviation of pixels under each kind of noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """What is expected of an image: its mean, its variance, and the mean's derivatives by the noise-free image and by ln(exposure)."""

    mean: Tensor
    variance: Tensor
    by_base: Tensor | float
    by_log_time: Tensor | None


def noise_moments(kind: str, base: Tensor, seconds: Tensor, rms: float | Tensor) -> Moments:
    """Moments of noisy images.

    Of Model I's noise S = T (I + n_P + n_B), image = Poisson(max(S, 0)): S is taken as Gaussian with mean μ = T I and variance σ² = μ + (T b)²,
    whose rectified moments are E = μ Φ(z) + σ φ(z) and E₂ = (μ² + σ²) Φ(z) + μ σ φ(z), z = μ/σ; the second Poisson adds its mean to the
    variance. Without the rectification the sky of these images, half of it zeros, would be fitted as light.

    Args:
        kind: One of ``ORIGINAL_NOISE``, or ``none``.
        base: (B, H, W) noise-free, counts/s per pixel.
        seconds: Total exposure, broadcasting to it.
        rms: Background in counts/s per pixel, broadcasting, too.
    """
    if kind == "double_poisson":
        mu = seconds * base
        sky = (seconds * rms) ** 2
        sigma = (mu + sky).sqrt()
        z = mu / sigma
        cdf, pdf = (
            0.5 + 0.5 * torch.erf(z * math.sqrt(0.5)),
            torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi)),
        )
        mean = mu * cdf + sigma * pdf
        # E₂ − E² + E, with E₂ = μ E + σ² Φ
        variance = mean * (mu - mean + 1) + (mu + sky) * cdf
        slope = pdf * (0.5 / sigma)  # ∂E/∂σ · ∂σ/∂σ²
        return Moments(
            mean,
            variance.clamp(min=1e-3),
            seconds * (cdf + slope),
            mu * cdf + slope * (mu + 2 * sky),
        )
    unit = 2.0 if kind == "doubled" else 1.0
    variance = (base / seconds + rms**2) * unit**2
    return Moments(unit * base, variance.clamp(min=1e-12), unit, None)
