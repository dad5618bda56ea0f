"""What a file says of its images that a fit would else take from the survey, and where it says otherwise than what is fitted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from haloformer.data.dataset import LensDataset
from haloformer.data.reader import PixelGrid, Reading, printable, scale_of_dataset
from haloformer.fitting.channels import OwnCamera, camera_number, other_camera
from haloformer.fitting.composed.fitter import ComposedFitter
from haloformer.fitting.parametric import SmoothFitter, composed_fitter
from haloformer.fitting.problem import are_exposures
from haloformer.fitting.result import SmoothFit
from haloformer.simulation.noise import NOISE_MODES
from haloformer.simulation.surveys import describe_survey

_SAME_SECONDS = 0.01


@dataclass(frozen=True)
class OwnFacts:
    """What a dataset says of its images that the fit would else take from the survey.

    Attributes:
        camera: Its point-spread function and noise map, where they are others.
        seconds: (n,) exposure times, of as many exposures as the survey has; None where they are fitted, or the survey's.
        warnings: Where it says otherwise than what is fitted.
        error: Why its images cannot be fitted with them; None: they can.
    """

    camera: OwnCamera = field(default_factory=OwnCamera)
    seconds: Tensor | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def of(
        cls,
        fitter: SmoothFitter | ComposedFitter,
        path: Path,
        grid: PixelGrid,
        reading: Reading,
        noise: str,
    ) -> "OwnFacts":
        """Reads them from a dataset.

        Args:
            fitter: Of the survey and the noise.
            path: The dataset.
            grid: On which its images are fitted.
            reading: How they are read.
            noise: The noise that they are fitted with.

        Raises:
            InputError: The file cannot be read.
        """
        with LensDataset(path) as dataset:
            # Of images that are resampled, neither noise nor blur is what their camera's was.
            as_they_are = grid.is_that_of(dataset.image_shape, scale_of_dataset(dataset, reading))
            warnings = _otherwise(dataset.attributes, fitter, noise, as_they_are)
            if not isinstance(fitter, ComposedFitter):
                return cls(warnings=warnings)
            definition = dataset.attributes.get("survey_definition")
            camera = OwnCamera()
            if as_they_are:
                camera = other_camera(fitter.survey.instrument, dataset.calibration, definition)
            seconds = None
            if "exposure_time" in dataset.parameter_names and "exposure_time" not in fitter.names:
                seconds = torch.from_numpy(dataset.parameters("exposure_time").astype(float))
            number = camera_number(definition, "num_exposures")
        if seconds is None or not are_exposures(seconds):
            return cls(camera, None, warnings)
        problem = fitter.problem
        seconds *= (number or problem.exposures) / problem.exposures
        same = bool((seconds * problem.exposures - problem.seconds).abs().max() < _SAME_SECONDS)
        return cls(camera, None if same else seconds, warnings)

    @property
    def said(self) -> str:
        """What is another, in words; empty if nothing is."""
        words = [("psf", "point-spread function"), ("noise_map", "noise map")]
        found = [word for name, word in words if name in self.camera]
        found += ["exposure times"] if self.seconds is not None else []
        return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)

    def check(self, fitter: SmoothFitter | ComposedFitter) -> None:
        """Raises InputError if images cannot be fitted with them, which an empty one tells."""
        if self.said:
            self.fit(fitter, torch.zeros(1, 1, fitter.size, fitter.size), [0], False)

    def fit(
        self, fitter: SmoothFitter | ComposedFitter, images: Tensor, rows: list[int], detail: bool
    ) -> SmoothFit:
        """Fits images (B, 1, H, W), those of the dataset's ``rows``."""
        seconds = None if self.seconds is None else self.seconds[rows]
        return composed_fitter(fitter)(images, seconds, detail=detail, **self.camera)


_TAKEN = (
    "psf_fwhm",
    "psf_truncation",
    "psf_beta",
    "psf_file",
    "psf_hdu",
    "psf_pixel_scale",
    "noise_map",
)
"""Of a camera, what a file's own calibration says, with the two that follow."""
_NO_MATTER = ("num_pix", "pixel_scale", "supersampling", "magnitude_zero_point")
"""Told as resampling, or of no consequence for a fit."""


def _otherwise(
    own: Mapping[str, Any], fitter: SmoothFitter | ComposedFitter, noise: str, as_they_are: bool
) -> tuple[str, ...]:
    """Returns where a file's attributes say otherwise than what its images are fitted with.

    Args:
        own: The attributes.
        fitter: Of the survey and the noise.
        noise: The noise that they are fitted with.
        as_they_are: Whether the images are fitted on their own pixels.
    """
    survey = fitter.survey
    name = own.get("survey")
    if isinstance(name, str) and name not in ("", survey.name):
        return (f"says that its images are of survey {name}, and is fitted as {survey.name}",)
    found = []
    kinds = {mode: survey.original_noise if mode == "original" else mode for mode in NOISE_MODES}
    if (stated := own.get("noise")) in NOISE_MODES and kinds[stated] != kinds[noise]:
        found.append(f"says that its images have noise {stated}, and is fitted with noise {noise}")
    try:
        camera = json.loads(own.get("survey_definition") or "{}")["instrument"]
        camera = dict(camera)
    except (ValueError, KeyError, TypeError, RecursionError):
        return tuple(found)
    theirs = describe_survey(survey)["instrument"]
    assert isinstance(theirs, Mapping)
    composed = isinstance(fitter, ComposedFitter)
    passed = (*_NO_MATTER, *((*_TAKEN, "exposure_time", "num_exposures") if composed else ()))
    others = [
        f"{key} {_value(camera.get(key))} instead of {_value(theirs.get(key))}"
        for key in dict.fromkeys([*theirs, *camera])
        if key not in passed and as_they_are and camera.get(key) != theirs.get(key)
    ]
    if others:
        found.append(
            f"says that its camera has {', '.join(others)}: fitted as {survey.name} has it"
        )
    return tuple(found)


def _value(value: object) -> str:
    return "none" if value is None else printable(json.dumps(value))
