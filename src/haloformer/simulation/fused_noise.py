"""Noise on a GPU: the distributions of :mod:`haloformer.simulation.noise`, by arithmetic alone, so that one kernel does it all.

Each pixel's draws are a function of its image's noise word and its position, as there, but others. One call of Philox4x32-10 gives a pixel
its four words; a Poisson number is the inverse of its cumulative distribution at one of them, without any loop that depends on data:

* of a mean below 10 the sum over the counts 0, 1, 2, …, 35;
* of others the expansion of the inverse in 1/√mean (Cornish and Fisher 1938; the first terms are in Giles 2016, "Algorithm 955", ACM TOMS 42),
  whose cumulative probabilities are right to 2e-5 at a mean of 10 and to 2e-6 at 20.

``torch.compile`` makes it one kernel on a GPU; without, the same operations run one by one.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from haloformer.errors import InputWarning, kind_and_reason

_MASK = 0xFFFFFFFF
Values = TypeVar("Values", float, Tensor)
_LARGE = 10.0  # mean from which the expansion serves
_COUNTS = 36  # more do not occur below it: the words end at 1 − 2⁻³³


def philox_words(
    pixel: Tensor, low: Tensor, high: Tensor, number: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns four independent words of 32 bits for each counter, by Philox4x32-10 (Salmon et al. 2011), as int64.

    Args:
        pixel: First word of the counter, int64; broadcasts with the following two.
        low: First word of the key.
        high: Second word of the key.
        number: Second word of the counter.
    """
    shape = torch.broadcast_shapes(pixel.shape, low.shape)
    c0 = pixel.expand(shape)
    c1, c2, c3 = torch.full_like(c0, number), torch.zeros_like(c0), torch.zeros_like(c0)
    k0, k1 = low, high
    for _ in range(10):
        # int64 products wrap around; their bits are those of the unsigned product
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def uniform_of(word: Tensor) -> Tensor:
    """Returns numbers in the open interval (0, 1), float64, from words of 32 bits."""
    return (word.double() + 0.5) * 2.0**-32


def normal_of(uniform: Tensor) -> Tensor:
    """Returns standard normal numbers, float64: the inverse of their cumulative distribution."""
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def poisson_of(mean: Tensor, uniform: Tensor) -> Tensor:
    """Returns Poisson numbers, float64: the inverse of their cumulative distribution; 0 where the mean is not positive.

    Args:
        mean: Of any shape, float64.
        uniform: In (0, 1), of the same shape.
    """
    large = mean >= _LARGE
    return torch.where(large, _expanded(mean.clamp(min=_LARGE), uniform), _summed(mean, uniform))


def _summed(mean: Tensor, uniform: Tensor) -> Tensor:
    mean = mean.clamp(0, _LARGE)
    p = torch.exp(-mean)
    total, count = p, (uniform > p).double()
    for number in range(1, _COUNTS):
        p = p * mean * (1 / number)
        total = total + p
        count = count + (uniform > total)
    return count


def _expanded(mean: Tensor, uniform: Tensor) -> Tensor:
    root = torch.sqrt(mean)
    return torch.floor(expansion(mean, root, 1 / root, normal_of(uniform))).clamp(min=0)


def expansion(mean: Values, root: Values, step: Values, w: Values) -> Values:
    """Returns what a Poisson number is rounded down from; of tensors, or of numbers in a compiled kernel.

    Args:
        mean: At least 10.
        root: Its square root.
        step: One by that.
        w: Standard normal number.
    """
    w2 = w * w
    third = (671 / 38880 - w2 * (137 / 38880 + w2 * (23 / 17280))) * w
    second = -8 / 405 + w2 * (7 / 810 + w2 / 270)
    first = -w * (1 / 36 + w2 / 72)
    return mean + root * w + (1 / 3 + w2 / 6 + step * (first + step * (second + step * third)))


def noisy_pixels(
    images: Tensor,
    pixel: Tensor,
    low: Tensor,
    high: Tensor,
    seconds: Tensor,
    background_rms: Tensor,
    twice: bool,
) -> Tensor:
    """Returns images (B, P) with noise, of the same type; the arguments are those of :func:`haloformer.simulation.noise.add_noise`.

    Args:
        images: (B, P) noise-free, in counts/s per pixel.
        pixel: (1, P) numbers of the pixels, int64.
        low: (B, 1) lower 32 bits of the images' words, int64.
        high: (B, 1) higher 32 bits.
        seconds: (B, 1) exposure times, float64.
        background_rms: () standard deviation of the background in counts/s per pixel, float64.
        twice: As Model I was released, in counts.
    """
    word, one, two, _ = philox_words(pixel, low, high, 0)
    background = background_rms * normal_of(uniform_of(word))
    counts = poisson_of(images.double() * seconds, uniform_of(one))
    if twice:
        noisy = poisson_of(counts + seconds * background, uniform_of(two))
    else:
        noisy = counts / seconds + background
    return noisy.to(images.dtype)


def normal_pixels(pixel: Tensor, low: Tensor, high: Tensor, number: int) -> Tensor:
    """Returns standard normal numbers (B, P) float64, each a function of its image's word and its pixel."""
    return normal_of(uniform_of(philox_words(pixel, low, high, number)[0]))


@functools.cache
def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a function of this module as one kernel, compiled when it is first called; as it is where that cannot be done."""
    compiled: list[Callable[..., Tensor]] = [torch.compile(function, dynamic=True, fullgraph=True)]

    @torch.no_grad()
    def call(*arguments: Tensor | float) -> Tensor:
        try:
            return compiled[0](*arguments)
        except Exception as error:  # of whatever kind: compilers fail in many ways
            if compiled[0] is function:
                raise
            reason = kind_and_reason(error, 200)
            message = f"noise is drawn without a compiled kernel, more slowly: {reason}"
            warnings.warn(message, InputWarning, stacklevel=2)
            compiled[0] = function
            return function(*arguments)

    return call
