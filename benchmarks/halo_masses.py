"""What halos of which masses do to images of `model_iv`, and what they cost: where its mass function may begin.

python benchmarks/halo_masses.py
"""

import time

import numpy as np
import torch

from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.composed import ComposedSurvey
from haloformer.simulation.instruments import background_rms

RANGES = ((1e6, 1e7, 16_000), (1e7, 1e8, 2_000), (1e8, 1e10, 600))
"""Masses in M_sun, and columns for halos."""

LOWEST = ((1e6, 10_000), (1e7, 1_400), (1e8, 300))


def survey(low: float, high: float, n_max: int) -> ComposedSurvey:
    """Returns `model_iv` with one lens for all, and halos of these masses in `cdm`."""
    halos = {"kind": "tnfw", "Sigma_sub": 0.0365, "mass_low": low, "mass_high": high, "n_max": n_max}  # fmt: skip
    halos |= {"disc_radius": 5, "line_of_sight": 1, "mean_sheet": True}
    changes = {"lens_of_class": {}, "substructure": {"cdm": [halos], "no_sub": []}}
    found = get_any_survey({"base": "model_iv", "name": "model_iv", **changes})
    assert isinstance(found, ComposedSurvey)
    return found


def chi(low: float, high: float, n_max: int, pairs: int = 40) -> float:
    """Returns the median over pairs of the change by halos in all bands, against the camera's noise."""
    recipe = survey(low, high, n_max)
    simulator = Simulator(recipe, seed=9, noise="none", paired=True)
    images = simulator.batch(range(2 * pairs)).images.double()
    camera = recipe.instrument
    seconds = 565.0 * camera.num_exposures
    variance = background_rms(camera) ** 2 + images[1::2].clamp(min=0) / seconds
    change = (images[0::2] - images[1::2]) ** 2 / variance
    return float(change.sum((1, 2, 3)).sqrt().median())


def speed(low: float, n_max: int, n: int = 192) -> tuple[float, float]:
    """Returns images/s of both classes on one core, and the mean number of halos."""
    torch.set_num_threads(1)
    simulator = Simulator(survey(low, 1e10, n_max), seed=1)
    simulator.batch(range(4))
    began = time.perf_counter()
    halos = simulator.batch(range(n)).parameters["tnfw_mass"]
    return n / (time.perf_counter() - began), float(np.isfinite(halos[0::2]).sum(1).mean())


def main() -> None:
    """Prints both tables."""
    for low, high, n_max in RANGES:
        print(f"halos of {low:.0e} to {high:.0e} M_sun: chi {chi(low, high, n_max):.0f}")
    for low, n_max in LOWEST:
        images, halos = speed(low, n_max)
        print(f"from {low:.0e} M_sun: {halos:.0f} halos, {images:.0f} images/s")


if __name__ == "__main__":
    main()
