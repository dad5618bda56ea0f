"""One lens of a survey with many realisations of its dark matter, and what its images show of them above the noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from haloformer.errors import InputError
from haloformer.fitting.moments import Moments, noise_moments
from haloformer.simulation.composed import ComposedRenderer, ComposedSurvey, draw_scenes
from haloformer.simulation.correlation import Whitening
from haloformer.simulation.noise import has_numba

Parameters = dict[str, np.ndarray]

_AT_ONCE = 24  # images


@dataclass(frozen=True)
class Lens:
    """A lens without substructure, as the survey's camera sees it.

    Attributes:
        survey: The survey.
        seed: Of all draws.
        number: Of the lens.
        parameters: Of the scene, arrays (1,) or (1, n) by name; ``source_flux`` is known.
        image: (N, N) without noise, in counts/s; (bands, N, N) of a survey with bands, as the two that follow.
        unseen: (N, N) light whose photons are in the noise alone: the sky, and what was subtracted.
        kept: (N, N) 0 where pixels are masked, else 1.
        background: Noise without light, in counts/s: a number, or the camera's map (N, N).
    """

    survey: ComposedSurvey
    seed: int
    number: int
    parameters: Parameters
    image: np.ndarray
    unseen: np.ndarray
    kept: np.ndarray
    background: float | np.ndarray

    @classmethod
    def of(cls, survey: ComposedSurvey, seed: int, number: int) -> "Lens":
        """Draws and renders a lens of a survey.

        Args:
            survey: The survey; its first smooth class tells what a lens without substructure is.
            seed: Of all draws.
            number: Of the lens.
        """
        smooth = smooth_class(survey)
        label = np.array([survey.class_names.index(smooth)])
        parameters = _drawn(survey, label, np.array([number]), seed, number)
        renderer = ComposedRenderer(survey, torch.float64)
        parameters["source_flux"] = renderer.flux(parameters)
        seen = renderer.images(parameters)
        image = seen.images[0].numpy()
        unseen = np.full_like(image, survey.instrument.sky or 0.0)
        if seen.hidden is not None:
            unseen = unseen + seen.hidden[0].numpy()
        kept = np.ones_like(image) if seen.kept is None else seen.kept[0].numpy().astype(float)
        given = renderer.noise_map
        background = renderer.rms if given is None else np.asarray(given, float)
        return cls(survey, seed, number, parameters, image, unseen, kept, background)

    def white(self, images: np.ndarray) -> np.ndarray:
        """Returns how far images are from this lens's, in noise that is made white and of variance 1.

        To first order in the difference: the noise is that of this lens's image.

        Args:
            images: (B, N, N) or (B, bands, N, N) without noise, in counts/s.

        Returns:
            (B, D) float32, D being the number of pixels of all bands.
        """
        here, there = self._moments(self.image[None]), self._moments(images)
        found = (there.mean - here.mean).numpy() / self._sigma(here) * self.kept
        return self._decorrelated(found).reshape(len(images), -1).astype(np.float32)

    def by_exposure(self) -> np.ndarray | None:
        """Returns (1, D) the same of an exposure that is longer by a factor e, to first order; None where it is known.

        Only counts depend on it, not counts/s.
        """
        if self.survey.noise_kind("original") != "double_poisson":
            return None
        found = self._moments(self.image[None])
        assert found.by_log_time is not None  # of counts
        white: np.ndarray = found.by_log_time.numpy() / self._sigma(found) * self.kept
        return white.reshape(1, -1).astype(np.float32)

    def signals(self, class_name: str, realisations: int) -> Iterator[np.ndarray]:
        """Yields what realisations of a class's dark matter change of the image, (B, D) as :meth:`white`, B at a time.

        Args:
            class_name: The class.
            realisations: How many.
        """
        renderer = ComposedRenderer(self.survey, torch.float32, compiled=has_numba())
        label = self.survey.class_names.index(class_name)
        first = self.number * realisations
        for start in range(first, first + realisations, _AT_ONCE):
            index = np.arange(start, min(start + _AT_ONCE, first + realisations))
            labels = np.full(len(index), label)
            parameters = _drawn(self.survey, labels, index, self.seed, self.number)
            flux = self.parameters["source_flux"]
            parameters["source_flux"] = np.repeat(flux, len(index), axis=0)
            yield self.white(renderer.images(parameters).images.double().numpy())

    def _moments(self, images: np.ndarray) -> Moments:
        """Returns mean and variance of noisy images, of (B, …, N, N) without noise."""
        seconds = self.parameters["exposure_time"][0] * self.survey.instrument.num_exposures
        base = torch.from_numpy(images + self.unseen)
        return noise_moments(
            self.survey.noise_kind("original"),
            base,
            torch.tensor(float(seconds), dtype=torch.float64),
            torch.as_tensor(self.background, dtype=torch.float64),
        )

    def _sigma(self, moments: Moments) -> np.ndarray:
        """Returns the noise's standard deviation, (N, N) or (B, …, N, N)."""
        if isinstance(self.background, np.ndarray):  # a map is of all of the noise
            return self.background
        return moments.variance.sqrt().numpy()

    def _decorrelated(self, images: np.ndarray) -> np.ndarray:
        """Takes the camera's correlation out of images (B, …, N, N) that are in standard deviations of the noise."""
        if self._whitening is None:
            return images
        if images.ndim == 3:
            return self._whitening[0](images)
        bands = [one(images[:, k]) for k, one in enumerate(self._whitening)]
        return np.stack(bands, axis=1)

    @cached_property
    def _whitening(self) -> list[Whitening] | None:
        """For each band; None where noise is not correlated."""
        a = float(self.parameters.get("noise_correlation", np.zeros(1))[0])
        if not a:
            return None
        return [Whitening(kept > 0, a) for kept in self.kept.reshape(-1, *self.kept.shape[-2:])]


def smooth_class(survey: ComposedSurvey) -> str:
    """Returns the first class without substructure.

    Raises:
        InputError: Each has some.
    """
    for name in survey.class_names:
        if not survey.substructure[name]:
            return name
    raise InputError(
        f"survey {survey.name}: each of its classes has substructure ({', '.join(survey.class_names)}): the limits "
        "are those of telling it from smooth lenses; a class needs an empty list"
    )


def _drawn(
    survey: ComposedSurvey, labels: np.ndarray, index: np.ndarray, seed: int, number: int
) -> Parameters:
    """Draws scenes of one lens, whose dark matter is that of images ``index`` (B,)."""
    lens = np.full(len(index), number)
    scenes = draw_scenes(
        survey, labels, index, seed, survey.class_names, paired=True, lens_index=lens
    )
    return dict(scenes.parameters)
