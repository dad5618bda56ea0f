"""Draws simulated lenses beside real ones at one stretch, without saying which is which; the key is printed.

python examples/realistic_gallery.py docs/images/realistic.png LENSES

LENSES is a folder with real cutouts: hst_slacs_j0946+1006/data.fits, euclid_q1/cutout.fits and jwst_cosmos_web_ring/F277W/data.fits.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from physics_pictures import save

from haloformer.readers.images import read_image
from haloformer.simulation import Simulator, get_any_survey

COLUMNS = 7
REAL = {  # survey: the real cutout, the number of its panel, and the seed of the others
    "hst": ("hst_slacs_j0946+1006/data.fits", 4, 3),
    "euclid": ("euclid_q1/cutout.fits", 2, 5),
    "jwst": ("jwst_cosmos_web_ring/F277W/data.fits", 5, 8),
}
TITLES = {"hst": "HST ACS F814W", "euclid": "Euclid VIS", "jwst": "JWST NIRCam F277W"}


def stretched(image: np.ndarray) -> np.ndarray:
    """The image in units of its noise, of which the corners tell, by the inverse hyperbolic sine."""
    corner = max(6, len(image) // 8)
    empty = np.concatenate([image[:corner, :corner].ravel(), image[-corner:, -corner:].ravel()])
    middle = np.median(empty)
    sigma = 1.4826 * np.median(np.abs(empty - middle))
    return np.arcsinh((image - middle) / sigma / 2)


def central(image: np.ndarray, side: int) -> np.ndarray:
    """The central part of an image, or all of it where it is smaller."""
    top, left = (max(0, (n - side) // 2) for n in image.shape)
    return image[top : top + side, left : left + side]


def draw(lenses: Path) -> tuple[Figure, list[str]]:
    """Returns the picture, and which panels are real."""
    figure = Figure(figsize=(1.55 * COLUMNS, 1.75 * len(REAL)), layout="constrained")
    axes, key = figure.subplots(len(REAL), COLUMNS, squeeze=False), []
    for row, (name, (path, place, seed)) in enumerate(REAL.items()):
        survey = get_any_survey(
            {"base": name, "name": f"{name}_with_light", "lens_light": {"mode": "present"}}
        )
        images = list(Simulator(survey, seed=seed).batch(range(COLUMNS - 1)).images[:, 0].numpy())
        side = survey.instrument.num_pix
        images.insert(place, central(read_image(lenses / path, channels=1)[0], side))
        key.append(f"row {row + 1}: panel {place + 1}")
        for axis, image in zip(axes[row], images):
            shown = stretched(image)
            axis.imshow(
                shown, origin="lower", cmap="inferno", vmin=-1, vmax=np.quantile(shown, 0.998)
            )
            axis.set(xticks=(), yticks=())
        axes[row, 0].set_ylabel(TITLES[name], fontsize=9)
    return figure, key


if __name__ == "__main__":
    picture, which = draw(Path(sys.argv[2]))
    save(picture, Path(sys.argv[1]))
    print(f"drew {sys.argv[1]}; real are {'; '.join(which)}")
