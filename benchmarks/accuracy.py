"""How exact the images are: against lenstronomy, and float32 against float64. Differences in units of the peak, and in flux.

python benchmarks/accuracy.py
"""

import torch
from torch import Tensor

from haloformer.simulation import Simulator


def worst(images: Tensor, exact: Tensor) -> tuple[float, float]:
    """The largest difference of a pixel in units of its image's peak, and the largest relative difference in flux."""
    images, exact = images.double(), exact.double()
    pixel = (images - exact).abs().amax((1, 2, 3)) / exact.amax((1, 2, 3))
    return pixel.max().item(), (images.sum((1, 2, 3)) / exact.sum((1, 2, 3)) - 1).abs().max().item()


def against_lenstronomy(survey: str, backend: str, count: int = 12) -> tuple[float, float]:
    """Noise-free float64 images of all classes, seed 5."""
    options = {"seed": 5, "noise": "none", "dtype": torch.float64}
    ours, theirs = (
        Simulator(survey, backend=b, **options).batch(range(count)).images
        for b in (backend, "lenstronomy")
    )
    return worst(ours, theirs)


def float32_against_float64(
    survey: str, name: str, count: int, block: int = 300
) -> tuple[float, float]:
    """Noise-free images of one class by the CPU kernel, seed 7."""
    single, double = (
        Simulator(survey, classes=[name], seed=7, noise="none", dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    blocks = [range(first, first + block) for first in range(0, count, block)]
    pixel, flux = zip(
        *(worst(single.batch(numbers).images, double.batch(numbers).images) for numbers in blocks)
    )
    return max(pixel), max(flux)


if __name__ == "__main__":
    for survey in ("model_i", "model_ii", "model_iii"):
        for backend in ("numba", "torch"):
            pixel, flux = against_lenstronomy(survey, backend)
            print(
                f"{survey:10} {backend:6} float64 against lenstronomy, 12 images: {pixel:.1e} of the peak, flux {flux:.1e}"
            )
    for survey, count in (("model_i", 1500), ("model_ii", 6000), ("model_iii", 6000)):
        for name in ("axion", "cdm"):
            pixel, flux = float32_against_float64(survey, name, count)
            print(
                f"{survey:10} {name:6} float32 against float64, {count} images: {pixel:.1e} of the peak, flux {flux:.1e}",
                flush=True,
            )
