"""Simulates images of a survey with the channels that their fit adds."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haloformer.fitting.channels import N_WRONG, Residual
from haloformer.simulation import LensBatch, Simulator, describe_survey
from haloformer.simulation.named_files import file_digests
from haloformer.simulation.rng import name_word, uniform


@dataclass(frozen=True)
class FittedSimulator:
    """Simulates images with their residual channels; the fit runs where the simulation does.

    Attributes:
        simulator: Makes the images.
        residual: Adds the channels; None: the images as they are.
        wrong_fits: Share of the images whose fit is told a wrong lens.
        crop: Without a residual, which has its own: side of the central part that is cut out, in
            pixels; None: all of the image.
    """

    simulator: Simulator
    residual: Residual | None = None
    wrong_fits: float = 0.0
    crop: int | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in canonical order."""
        return self.simulator.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), residual channels included."""
        shape = self.simulator.image_shape
        if self.residual is not None:
            return self.residual.output_shape(shape)
        return shape if self.crop is None else (shape[0], self.crop, self.crop)

    @property
    def attributes(self) -> dict[str, Any]:
        """Provenance that travels with the images, JSON-able."""
        channels = ["image", "residual", "detail"][: self.image_shape[0]]
        return {**self.simulator.attributes, "channels": channels}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the images depend on but their numbers and the code, JSON-able."""
        simulator = self.simulator
        survey = describe_survey(simulator.survey)
        files = file_digests(survey)
        return {
            "survey": survey,
            **({"files": files} if files else {}),
            "classes": list(simulator.class_names),
            "seed": simulator.seed,
            "noise": simulator.noise,
            "paired": simulator.paired,
            "backend": simulator.backend,
            "fit": None if self.residual is None else self.residual.to_dict(),
            "wrong_fits": self.wrong_fits,
            "crop": self.crop,
        }

    @property
    def has_noise(self) -> bool:
        """Whether the images have noise."""
        return self.simulator.survey.has_noise(self.simulator.noise)

    def with_more_channels(self) -> list["FittedSimulator"]:
        """Returns those whose first channels are this one's images."""
        if self.wrong_fits:
            return []
        if self.residual is not None:
            more = [] if self.residual.detail else [dataclasses.replace(self.residual, detail=True)]
        elif self.crop is not None:
            definition = self.simulator.attributes["survey_definition"]
            fit = Residual(definition, self.simulator.noise, self.crop)
            more = [dataclasses.replace(fit, detail=True), fit]
        else:
            more = []
        return [FittedSimulator(self.simulator, residual) for residual in more]

    def parameters(self, numbers: Sequence[int] | np.ndarray | range) -> dict[str, np.ndarray]:
        """Returns the physical parameters of these images, as `batch` does, without rendering them."""
        return self.simulator.parameters(numbers)

    def batch(self, numbers: Sequence[int] | np.ndarray | range) -> LensBatch:
        """Simulates the images of these numbers, in this order."""
        if self.residual is None:
            return self.simulator.batch(numbers, side=self.crop)
        # What is not shown is not fitted, and need not get its noise.
        batch = self.simulator.batch(numbers, side=self.image_shape[-1])
        if not self.wrong_fits:
            look = self.residual.look_at_part(batch.images)
            return dataclasses.replace(batch, images=look.channels)
        # A function of the image's number, like everything that is drawn.
        index = np.asarray(numbers, dtype=np.uint64)
        stream = np.full(len(index), name_word("wrong_fits"), dtype=np.uint64)
        chance, which = uniform(self.simulator.seed, stream, index, "lens", 2).T
        wrong = np.where(chance < self.wrong_fits, (which * N_WRONG).astype(np.int64), -1)
        return dataclasses.replace(batch, images=self.residual.with_wrong_fits(batch.images, wrong))
