"""How far float32 images are from float64 ones, at worst: difference in units of the peak, and in flux.

python benchmarks/float32.py
"""

import torch

from haloformer.simulation import Simulator


def worst(survey: str, name: str, count: int, block: int = 300) -> tuple[float, float]:
    """The largest difference of a pixel in units of its image's peak, and the largest relative difference in flux."""
    double, single = (
        Simulator(survey, classes=[name], seed=7, noise="none", dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    pixel, flux = 0.0, 0.0
    for first in range(0, count, block):
        exact, rounded = (
            double.batch(range(first, first + block)).images,
            single.batch(range(first, first + block)).images.double(),
        )
        pixel = max(pixel, ((exact - rounded).abs().amax((1, 2, 3)) / exact.amax((1, 2, 3))).max().item())
        flux = max(flux, (rounded.sum((1, 2, 3)) / exact.sum((1, 2, 3)) - 1).abs().max().item())
    return pixel, flux


if __name__ == "__main__":
    for survey, count in (("model_i", 1500), ("model_ii", 6000), ("model_iii", 6000)):
        for name in ("axion", "cdm"):
            pixel, flux = worst(survey, name, count)
            print(
                f"{survey:10} {name:6} {count} images: worst pixel {pixel:.1e} of the peak, flux {flux:.1e}", flush=True
            )
