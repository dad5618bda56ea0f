"""Images that were resampled, of which a network for images without noise says nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from haloformer.data.reader import ReadImage
from haloformer.readers.resample import mixes_pixels

if TYPE_CHECKING:
    from haloformer.prediction.predictor import Predictor


def why_resampled(predictor: "Predictor", images: Sequence[ReadImage]) -> list[str]:
    """Returns texts: that an image was resampled, where the model sees what a fit leaves of images without noise; empty otherwise.

    Single pixels of such an image are off by up to a tenth of its peak, which nothing hides: the model takes it for substructure.
    """
    grid, residual = predictor.grid, predictor.residual
    if residual is None or not residual.is_noise_free:
        return [""] * len(images)
    found = []
    for image in images:
        step = grid.step(image.scales)
        mixed = step is not None and mixes_pixels(step, grid.shape[1:])
        found.append(
            f"resampled from pixels of {image.scales[1]:.4g} to {grid.pixel_scale:.4g} arcsec, which in images without noise looks like substructure"
            if mixed and image.scales is not None
            else ""
        )
    return found
