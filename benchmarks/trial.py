"""Makes the images that `haloformer try` shows, which come with the package: all of them are simulated.

    python benchmarks/trial.py            # writes src/haloformer/trial/images; some seconds

A lens as HST sees it (survey `hst`, the lens galaxy's light in the image) with a subhalo of 3e9 M_sun beside its arcs, with its noise map and
point-spread function: one of those of `real_lenses.py simulated`. And an image of Model I of each class, the first of a seed that no shipped
model was trained or tested with.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from real_lenses import MASS, NOISE_MAP, SEED, How, simulated, smooth_survey

from haloformer._version import code_version
from haloformer.io.writing import whole_file
from haloformer.simulation import Simulator

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "src" / "haloformer" / "trial" / "images"
NUMBER = 11  # of the lens: bright arcs, and fitted fast
CLASSES_SEED = 2_046

Cards = dict[str, tuple[Any, str]]
"""Keyword of a FITS header → value and comment."""


def hst_like() -> dict[str, tuple[np.ndarray, Cards]]:
    """Returns the lens, its noise map and its point-spread function, by the names of their files, with what their headers say."""
    lens = simulated(NUMBER, True, How())
    survey = smooth_survey()
    drawn = Simulator(survey, seed=SEED, noise="none").parameters([NUMBER])
    # Drizzling made the noise smaller: of photons that were detected, there are fewer than its scatter says.
    seconds = float(drawn["exposure_time"][0]) * survey.instrument.num_exposures / NOISE_MAP**2
    truth: Cards = {
        "Z_LENS": (lens.z[0], "redshift of the lens"),
        "Z_SOURCE": (lens.z[1], "redshift of the source"),
        "THETA_E": (lens.theta_E, "arcsec, truth: Einstein radius"),
        "SLOPE": (float(drawn["lens_gamma"][0]), "truth: slope of the mass"),
        "SUB_MASS": (MASS, "M_sun, truth: subhalo, a pseudo-Jaffe profile"),
        "SUB_RT": (lens.r_trunc, "arcsec, truth: its truncation radius"),
        "SUB_X": (lens.place[0], "arcsec from the middle, along columns"),
        "SUB_Y": (lens.place[1], "arcsec from the middle, along rows"),
    }
    made = _made("hst", SEED, NUMBER, lens.seen.pixel_scale)
    unit: Cards = {"BUNIT": ("electron/s", "")}
    exposed: Cards = {"EXPTIME": (round(seconds, 1), "s, total")}
    return {
        "simulated_lens.fits": (lens.seen.image, {**made, **unit, **exposed, **truth}),
        "noise.fits": (lens.noise_map, {**made, **unit}),
        "psf.fits": (lens.seen.psf, made),
    }


def model_i() -> dict[str, tuple[np.ndarray, Cards]]:
    """Returns the first image of each class of Model I, by the names of their files."""
    simulator = Simulator("model_i", seed=CLASSES_SEED)
    batch = simulator.batch(range(3))
    scale = simulator.survey.instrument.pixel_scale
    found = {}
    for image, label in zip(batch.images, batch.labels):
        name = batch.class_names[int(label)]
        cards = _made("model_i", CLASSES_SEED, int(label), scale)
        cards["CLASS"] = (name, "truth")
        found[f"model_i_{name}.fits"] = (image[0].numpy(), cards)
    return found


def _made(survey: str, seed: int, number: int, pixel_scale: float) -> Cards:
    return {
        "OBJECT": ("SIMULATED", "no observation: made by haloformer"),
        "SURVEY": (survey, "recipe of the simulation"),
        "SEED": (seed, ""),
        "NUMBER": (number, "of the scene, of this seed"),
        "CODEVER": (code_version(), "haloformer that made it"),
        "PIXSCALE": (pixel_scale, "arcsec per pixel"),
    }


def write(path: Path, image: np.ndarray, cards: Cards) -> None:
    """Writes an image as FITS."""
    from astropy.io import fits

    header = fits.Header([(key, *value) for key, value in cards.items()])
    header["COMMENT"] = "SIMULATED by haloformer: python benchmarks/trial.py"
    with whole_file(path) as part:
        fits.PrimaryHDU(image.astype(np.float32), header).writeto(part, overwrite=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()  # fmt: skip
    IMAGES.mkdir(exist_ok=True)
    for name, (image, cards) in {**hst_like(), **model_i()}.items():
        write(IMAGES / name, image, cards)
        print(f"{name}: {image.shape[1]}×{image.shape[0]} pixels, {(IMAGES / name).stat().st_size} bytes")  # fmt: skip


if __name__ == "__main__":
    main()
