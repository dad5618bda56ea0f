"""Images that were resampled, of which a network for images without noise says nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from haloformer.data.grids import PixelGrid
from haloformer.outputs.out_of_distribution import OodVerdict

if TYPE_CHECKING:
    from haloformer.prediction.predictor import Predictor

Scales = tuple[float, float] | None
"""Sides of an image's pixels along y and x in arcsec, before it was brought to a model's grid; None if they are not known."""


@overload
def also_resampled(
    verdict: OodVerdict, predictor: "Predictor", scales: Sequence[Scales]
) -> OodVerdict: ...


@overload
def also_resampled(
    verdict: OodVerdict | None, predictor: "Predictor", scales: Sequence[Scales]
) -> OodVerdict | None: ...


def also_resampled(
    verdict: OodVerdict | None, predictor: "Predictor", scales: Sequence[Scales]
) -> OodVerdict | None:
    """Returns what is said of images, and that they were resampled, where the model sees what a fit leaves of images without noise.

    Single pixels of such an image are a little wrong, which nothing hides: the model takes it for substructure.
    """
    grid, residual = predictor.grid, predictor.residual
    if verdict is None or residual is None or not residual.is_noise_free:
        return verdict
    return verdict.also([_why(grid, scale) for scale in scales])


def _why(grid: PixelGrid, scales: Scales) -> str:
    if scales is None or not grid.mixes_pixels(scales):
        return ""
    return f"resampled from pixels of {scales[1]:.4g} to {grid.pixel_scale:.4g} arcsec, which in images without noise looks like substructure"
