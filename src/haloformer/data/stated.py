"""Images that others made, and that are said to be of a survey: what then stands in their file, so that their lenses can be fitted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from haloformer.errors import InputError
from haloformer.simulation import Simulator
from haloformer.simulation.composed import ComposedSurvey
from haloformer.vocabulary import unknown_name

_SCALE_TOLERANCE = 0.01  # of images that are 0 at the minimum and 1 at the maximum
_OF_IMAGES = ("survey", "survey_definition", "noise", "image_unit", "pixel_scale", "bands")


class StatedSurvey:
    """A survey that images are said to be of.

    Attributes:
        name: The survey's name.
    """

    def __init__(self, survey: str, noise: str) -> None:
        """Looks the survey up.

        Args:
            survey: A survey's name, or its YAML file.
            noise: The images' noise, one of :data:`~haloformer.simulation.noise.NOISE_MODES`.

        Raises:
            InputError: There is no such survey, or no such noise.
        """
        simulator = Simulator(survey, noise=noise)
        self.name = simulator.survey.name
        self._attributes = simulator.attributes
        side = simulator.survey.instrument.num_pix
        given = simulator.survey
        self._scaling = given.scaling(noise) if isinstance(given, ComposedSurvey) else "none"
        self._shape = (max(1, len(simulator.bands)), side, side)
        self._class_names = simulator.class_names

    @property
    def units(self) -> Mapping[str, str]:
        """Units of its parameters by name."""
        units: Mapping[str, str] = self._attributes.get("units", {})
        return units

    def check(self, image_shape: Sequence[int], class_names: Sequence[str]) -> None:
        """Raises InputError for images (C, H, W) or classes that are not the survey's."""
        if tuple(image_shape) != self._shape:
            theirs, own = ("×".join(map(str, shape)) for shape in (image_shape, self._shape))
            gray = image_shape[0] in (3, 4) and self._shape[0] == 1
            raise InputError(
                f"images of {theirs} are not of survey {self.name}, whose are {own}"
                + ("; of images in colours that are all alike, keep one channel" if gray else "")
            )
        for name in class_names:
            if name not in self._class_names:
                raise unknown_name(f"class of survey {self.name}", name, self._class_names)

    def check_scale(self, image: np.ndarray, name: str) -> None:
        """Raises InputError for an image that is not scaled as the survey's are.

        Args:
            image: (C, H, W).
            name: Where it came from, for the message.
        """
        low, high = float(image.min()), float(image.max())
        wrong = abs(high - 1) if self._scaling != "none" else 0.0
        if self._scaling == "min_max":
            wrong = max(wrong, abs(low))
        if wrong > _SCALE_TOLERANCE:
            how = "(x - min) / (max - min)" if self._scaling == "min_max" else "x / max"
            raise InputError(
                f"{name}: pixels go from {low:g} to {high:g}; images of survey {self.name} have "
                f"{self._attributes['image_unit']}: scale each first, {how}"
            )

    def attributes(self, source: str, own: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what a file says of its images.

        Args:
            source: Name of the images, for errors.
            own: What they say themselves.

        Raises:
            InputError: They say that they are of another survey.
        """
        if own.get("survey") not in (None, "", self.name):
            raise InputError(f"{source} says that its images are of survey {own['survey']}, not {self.name}")  # fmt: skip
        if own.get("survey_definition") is not None:
            raise InputError(f"{source} says already what survey its images are of: leave out survey and noise")  # fmt: skip
        found = {name: self._attributes[name] for name in _OF_IMAGES if name in self._attributes}
        return {**own, **found, "survey_stated": True}
