"""Images that were resampled, of which a network for images without noise says nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from haloformer.outputs.out_of_distribution import OodVerdict
from haloformer.readers.resample import mixes_pixels

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
    return verdict.also([_why(scale, grid.step(scale), grid.shape[1:]) for scale in scales])


def _why(scales: Scales, step: tuple[float, float] | None, size: tuple[int, int]) -> str:
    if scales is None or step is None or not mixes_pixels(step, size):
        return ""
    return f"resampled from pixels of {scales[1]:.4g} to {step[1] * scales[1]:.4g} arcsec, which in images without noise looks like substructure"
