"""Images that were scaled before they were stored, so that their brightness and noise are lost."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from haloformer.simulation import get_any_survey, list_surveys
from haloformer.simulation.composed import ComposedSurvey

_NEAR = 1e-6
_REASON = "its values reach from 0 to 1: it looks scaled (min–max), as images of the survey are not"


def why_scaled(artefact: Mapping[str, Any], raw: Tensor) -> list[str]:
    """Returns B texts: that an image looks scaled, where those of the model's survey are not; empty otherwise.

    Args:
        artefact: Of the model.
        raw: (B, C, H, W) images, checked.
    """
    if not _is_of_unscaled(str(artefact.get("survey")), str(artefact.get("noise"))):
        return [""] * len(raw)
    pixels = raw.flatten(1)
    low, high = pixels.nan_to_num(nan=0.5).amin(1), pixels.nan_to_num(nan=0.5).amax(1)
    scaled = (low.abs() < _NEAR) & ((high - 1).abs() < _NEAR)
    return [_REASON if one else "" for one in scaled.tolist()]


@functools.cache
def _is_of_unscaled(survey: str, noise: str) -> bool:
    """Tells whether a survey comes with the package and leaves its images as the detector has them."""
    if survey not in list_surveys():
        return False
    given = get_any_survey(survey)
    return not isinstance(given, ComposedSurvey) or given.scaling(noise) == "none"
