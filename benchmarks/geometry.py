"""Is an answer wrong, sure and not flagged when the image's geometry is a little other than the survey's?

    python benchmarks/geometry.py model_i model_ii …   prints a table for each

No model was trained on images of this seed. A changed image is simulated anew with the lens elsewhere,
other pixels or another PSF; nothing is resampled.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import haloformer
from haloformer.simulation import Simulator, get_survey
from haloformer.simulation.instruments import Instrument, pixel_axis
from haloformer.simulation.surveys import Survey

SEED = 977_001
BATCH = 50


def changed(survey: Survey, **instrument: float) -> Survey:
    """Returns the survey with another instrument."""
    return dataclasses.replace(
        survey, instrument=dataclasses.replace(survey.instrument, **instrument)
    )


@contextmanager
def lens_moved(x: float, y: float) -> Iterator[None]:
    """Simulates everything moved by pixels meanwhile: the camera looks elsewhere."""

    def axis(instrument: Instrument) -> np.ndarray:
        return pixel_axis(instrument) - x * instrument.pixel_scale

    assert x == y, "the simulator has one axis for both directions"
    with patch("haloformer.simulation.simulator.pixel_axis", axis):
        yield


def images_of(
    survey: Survey, noise: str, seed: int, n: int, shift: float = 0.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (images, labels), of lenses that are ``shift`` pixels from their place along both axes."""
    simulator = Simulator(survey, seed=seed, noise=noise)
    for first in range(0, n, BATCH):
        with lens_moved(shift, shift):
            batch = simulator.batch(np.arange(first, min(first + BATCH, n)))
        yield batch.images, batch.labels


def variants(survey: Survey) -> dict[str, tuple[Survey, float, Callable[[Tensor], Tensor]]]:
    """Name → the survey to simulate, how far its lenses are moved, and what is done to its images."""

    def same(x: Tensor) -> Tensor:
        return x

    scale, width = survey.instrument.pixel_scale, survey.instrument.psf_fwhm
    found: dict[str, tuple[Survey, float, Callable[[Tensor], Tensor]]] = {
        "as the survey": (survey, 0.0, same)
    }
    for d in (0.25, 0.5, 1.0, 2.0, 3.0):
        found[f"moved by {d:g}, {d:g} px"] = survey, d, same
    for factor in (0.97, 0.985, 1.015, 1.03):
        found[f"pixels × {factor}"] = changed(survey, pixel_scale=scale * factor), 0.0, same
    for factor in (0.9, 1.1):
        found[f"PSF × {factor}"] = changed(survey, psf_fwhm=width * factor), 0.0, same
    for k in range(1, 8):
        turns, mirrored = k % 4, k >= 4

        def symmetry(x: Tensor, turns: int = turns, mirrored: bool = mirrored) -> Tensor:
            return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))

        name = f"{'mirrored, ' if mirrored else ''}rotated by {90 * turns}°"
        found[name] = survey, 0.0, symmetry
    for gain in (0.5, 0.8, 1.2, 2.0):
        found[f"gain {gain}"] = survey, 0.0, lambda x, gain=gain: x * gain
    found["sky + 2 % of the peak"] = (
        survey,
        0.0,
        lambda x: x + 0.02 * x.amax((1, 2, 3), keepdim=True),
    )
    return found


def measure(name: str, n: int, only: str = "") -> None:
    """Prints the table of a model."""
    predictor = haloformer.load(name, "cpu")
    survey, noise = get_survey(predictor.artefact["survey"]), predictor.artefact["noise"]
    print(f"\n{name}, {n} images each, seed {SEED}\n")
    print("| images | right | flagged | right and flagged | wrong, p > 0.9, not flagged |")
    print("|---|---|---|---|---|")
    for title, (changed_survey, shift, change) in variants(survey).items():
        if only not in title:
            continue
        counts = np.zeros(4)
        for images, labels in images_of(changed_survey, noise, SEED, n, shift):
            numbers, verdict = predictor.numbers_and_ood(change(images).contiguous())
            logits = predictor.outputs.split(numbers)[0]
            assert logits is not None
            assert verdict is not None
            p, answer = predictor.probabilities_of(logits).max(1)
            right, flag = answer == labels, verdict.flag
            for k, chosen in enumerate((right, flag, right & flag, ~right & ~flag & (p > 0.9))):
                counts[k] += int(chosen.sum())
        print(
            "| " + " | ".join([title, *(f"{100 * c / n:.1f} %" for c in counts)]) + " |", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--only", default="", help="part of the names of the rows to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for model in arguments.models:
        measure(model, arguments.n, arguments.only)
