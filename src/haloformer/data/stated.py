"""Images that others made, and that are said to be of a survey: what then stands in their file, so that their lenses can be fitted."""

from collections.abc import Mapping, Sequence
from typing import Any

from haloformer.errors import InputError
from haloformer.simulation import Simulator
from haloformer.vocabulary import unknown_name

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
        self._shape = (max(1, len(simulator.bands)), side, side)
        self._class_names = simulator.class_names

    def check(self, image_shape: Sequence[int], class_names: Sequence[str]) -> None:
        """Raises InputError for images (C, H, W) or classes that are not the survey's."""
        if tuple(image_shape) != self._shape:
            theirs, own = ("×".join(map(str, shape)) for shape in (image_shape, self._shape))
            raise InputError(f"images of {theirs} are not of survey {self.name}, whose are {own}")
        for name in class_names:
            if name not in self._class_names:
                raise unknown_name(f"class of survey {self.name}", name, self._class_names)

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
